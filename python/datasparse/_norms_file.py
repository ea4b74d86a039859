"""Norms of inputs in a safetensors file, without the library of that name."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def write_norms(
    path: str | os.PathLike[str],
    norms: Mapping[str, NDArray[np.float32]],
    transposed: Iterable[str] = (),
) -> None:
    """Write float32 vectors by name, sorted; the file appears when it is whole.

    transposed: the names of weights that are stored as inputs x outputs. They are listed, as JSON,
    under "transposed" in the file's metadata: from its shape, a square weight does not tell.
    """
    header: dict[str, object] = {
        "__metadata__": {"kind": "input norms", "transposed": json.dumps(sorted(transposed))}
    }
    end = 0
    for name in sorted(norms):
        begin, end = end, end + norms[name].nbytes
        header[name] = {"dtype": "F32", "shape": [norms[name].size], "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    target = Path(path)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in sorted(norms):
                file.write(norms[name].astype("<f4").tobytes())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
