"""Packing: a safetensors file without its zeros, and back, in the memory of a few MiB."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..report import bytes_text
from .dtypes import item_size, unsigned
from .folder import safetensors_in
from .groups import Patterns
from .header import ABOUT, PREFIX, Header, Tensor, is_packed
from .layouts import Layout, smallest
from .packed import (
    HEADER,
    PLACES,
    VALUES,
    VERSION,
    PackedFile,
    reserved,
)
from .place import flush_folder, refuse_arrived, rename
from .safetensors import Reader, Writer, flush

STEP = 1 << 18  # elements that are looked at at once
Advance = Callable[[int, int, str], None]  # bytes that are done, of how many, and the last tensor
Step = Callable[[Tensor, int], None]  # a tensor that is done, and its bytes


@dataclass(frozen=True)
class Packing:
    """What packing a file or a folder came to, or unpacking it.

    files: how many safetensors files. tensors: how many in them. packed: how many of these lie
    there, or lay there, without zeros. bytes_dense, bytes_packed: the sizes of the files.
    """

    files: int
    tensors: int
    packed: int
    bytes_dense: int
    bytes_packed: int

    def __str__(self) -> str:
        return (
            f"{self.files} file{'s' * (self.files > 1)}, {self.packed} of {self.tensors} tensors "
            f"packed: {bytes_text(self.bytes_packed)} for {bytes_text(self.bytes_dense)} dense, "
            f"{self.ratio:.3f}"
        )

    @property
    def ratio(self) -> float:
        """Bytes packed over bytes dense."""
        return self.bytes_packed / self.bytes_dense if self.bytes_dense else 1.0

    def __add__(self, other: Packing) -> Packing:
        return Packing(
            self.files + other.files,
            self.tensors + other.tensors,
            self.packed + other.packed,
            self.bytes_dense + other.bytes_dense,
            self.bytes_packed + other.bytes_packed,
        )


def least_saved(name: str) -> int:
    """The bytes that packing must save: about those of two more entries in the header."""
    return 256 + 2 * len(name.encode())


class Kept:
    """Counts what packing needs: elements whose bits are not all zero, and N:M of the others."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.nonzero = 0
        self.patterns = Patterns(tensor.shape[-1] if tensor.shape else 1)

    def add(self, is_empty: NDArray[np.bool_]) -> None:
        """Take the next elements in C order, whole rows of the last axis: whether bits are zero."""
        self.nonzero += is_empty.size - int(np.count_nonzero(is_empty))
        self.patterns.add(is_empty)

    def layout(self) -> tuple[Layout | None, int]:
        """The layout that the tensor is packed by, None for the dense one, and its bytes."""
        size = item_size(self.tensor.dtype)
        if not self.tensor.elements or size is None:
            return None, self.tensor.size
        holding = self.patterns.holding()
        least = least_saved(self.tensor.name)
        return smallest(self.tensor.elements, size, self.nonzero, holding, least)


def pack_file(source: Path, target: Path, step: Step) -> Packing:
    """Pack one file, which is read twice: what is there tells the sizes in the header."""
    with Reader(source) as file:
        refuse_packed(source, file.header)
        layouts: dict[str, tuple[Layout, int]] = {}
        for tensor in file.header.tensors.values():
            kept = Kept(tensor)
            if item_size(tensor.dtype) is not None:
                for part in parts(file, tensor, rows_at_once(tensor)):
                    kept.add(part == 0)
            layout, _ = kept.layout()
            if layout is not None:
                layouts[tensor.name] = layout, kept.nonzero
        tensors = entries(file.header, layouts)
        with Writer(target, tensors, metadata(file.header, layouts)) as packed:
            for tensor in file.header.tensors.values():
                if tensor.name in layouts:
                    write_packed(file, tensor, layouts[tensor.name][0], packed)
                else:
                    for part in parts(file, tensor, STEP):
                        packed.write(tensor.name, part)
                step(tensor, tensor.size)
            file.require_unchanged()
        sizes = file.header.file_size, packed.header.file_size
    return Packing(1, len(file.header.tensors), len(layouts), *sizes)


def unpack_file(source: Path, target: Path, step: Step) -> Packing:
    """Unpack one file: the same bytes as before it was packed."""
    with PackedFile(source) as file:
        with Writer(target, file.header) as dense:
            for name, tensor in file.header.tensors.items():
                for part in file.parts(name):
                    dense.write(name, part)
                step(tensor, file.size(name))
        sizes = file.header.file_size, source.stat().st_size
    return Packing(1, len(file.header.tensors), len(file.layouts), *sizes)


def write_packed(file: Reader, tensor: Tensor, layout: Layout, packed: Writer) -> None:
    """Write the values of a tensor, then their places."""
    places = np.zeros(layout.places_size(tensor.elements), np.uint8)
    first = 0
    for part in parts(file, tensor, STEP // layout.step * layout.step):
        try:
            kept = layout.put(places, first, part != 0)
        except ValueError as error:
            raise ValueError(f"{file.path}: {tensor.name!r} {error}: it was changed") from None
        packed.write(VALUES + tensor.name, part[np.flatnonzero(kept)])
        first += part.size
    packed.write(PLACES + tensor.name, places)


def entries(
    header: Header, layouts: Mapping[str, tuple[Layout, int]]
) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """The tensors of the packed file, as a Writer takes them."""
    for name, tensor in header.tensors.items():
        if name in layouts:
            layout, nonzero = layouts[name]
            yield VALUES + name, tensor.dtype, (layout.values(tensor.elements, nonzero),)
            yield PLACES + name, "U8", (layout.places_size(tensor.elements),)
        else:
            yield name, tensor.dtype, tensor.shape


def metadata(header: Header, layouts: Mapping[str, tuple[Layout, int]]) -> dict[str, str]:
    """The metadata of the packed file: those of the dense one, and what brings it back."""
    about = {
        "version": VERSION,
        "size": header.file_size,
        "layouts": {name: layout.name for name, (layout, _) in layouts.items()},
    }
    return {
        **(header.metadata or {}),
        ABOUT: json.dumps(about, ensure_ascii=False),
        HEADER: header.text[PREFIX:].decode(),
    }


def refuse_packed(path: Path, header: Header) -> None:
    """ValueError for a file that is packed, or whose names are those of packed ones."""
    if is_packed(header):
        raise ValueError(f"{path} is packed: it must be unpacked before it is packed again")
    for name in reserved(header):
        raise ValueError(f"{path}: {name!r} must not be a name, as packed files use it")


def parts(file: Reader, tensor: Tensor, step: int) -> Iterator[NDArray[Any]]:
    """The elements of a tensor, so many at once, as unsigned integers; bytes of broken dtypes."""
    whole = item_size(tensor.dtype) is not None
    kind = unsigned(tensor.dtype) if whole else np.dtype(np.uint8)
    count = tensor.size // kind.itemsize
    begin = file.header.data_begin + tensor.begin
    for first in range(0, count, step):
        part = np.empty(min(step, count - first), kind)
        file.read_into(begin + first * kind.itemsize, part)
        yield part


def rows_at_once(tensor: Tensor) -> int:
    """The elements of as many whole rows of the last axis as make a part."""
    row = max(1, tensor.shape[-1] if tensor.shape else 1)
    return max(1, STEP // row) * row


def pack(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    progress: Advance | None = None,
) -> Packing:
    """Write a safetensors file, or a folder of them, without zeros. `load_packed()` reads it.

    source: a file; or a folder, of which each *.safetensors is packed to a file of the same name,
        and all else is copied.
    target: a path where nothing is yet. It appears when it is complete, and is on the disk then;
        until then the work is in `target.partial`.
    progress: called after each tensor with the bytes of the source that are done, their number in
        all, and the tensor's name.

    Elements are left out whose bits are all zero, so that `unpack()` brings back the same file,
    byte for byte. Each tensor lies as it takes the fewest bytes: dense, by one bit per element, or
    by one code per group where an N:M holds. Elements of fewer than eight bits stay dense.

    Returns the sizes. Memory: an eighth of a byte per element of the greatest tensor, one row of a
    last axis, and a few MiB. Each file is read twice. ValueError, naming file and tensor, for a
    target that is there, and for a source that is damaged, packed, or written to meanwhile.
    """
    return convert(Path(source), Path(target), pack_file, progress)


def unpack(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    progress: Advance | None = None,
) -> Packing:
    """Write what was packed as it was before, byte for byte. Arguments, errors as `pack()`.

    A *.safetensors of a folder that is not packed is copied. ValueError for damage, and for another
    version of the format.
    """
    return convert(Path(source), Path(target), unpack_file, progress)


def convert(
    source: Path, target: Path, one: Callable[[Path, Path, Step], Packing], progress: Advance | None
) -> Packing:
    """Convert a file or a folder, all or nothing."""
    files = safetensors_in(source)
    partial = target.with_name(target.name + ".partial")
    for path in (target, partial):
        if os.path.lexists(path):
            raise ValueError(f"{path} must not be there: move it away, or name another target")
    total, done = sum(file.stat().st_size for file in files), 0

    def step(tensor: Tensor, size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress(done, total, tensor.name)

    if not source.is_dir():
        packing = one(source, partial, step)
    else:
        if target.resolve().is_relative_to(source.resolve()):
            raise ValueError(f"{target} must not be within the source, {source}")
        partial.mkdir()
        try:
            packings = [one(file, partial / file.name, step) for file in files]
            copy_others(source, partial, {file.name for file in files})
        except BaseException:
            discard(partial)
            raise
        packing = sum(packings[1:], packings[0])
    try:
        refuse_arrived(target)
    except ValueError:
        discard(partial)
        raise
    rename(partial, target)
    return packing


def discard(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def copy_others(source: Path, target: Path, but: set[str]) -> None:
    """Copy what else is in a folder, and wait until it is on the disk."""
    for path in sorted(source.iterdir()):
        if path.is_dir():
            (target / path.name).mkdir()
            copy_others(path, target / path.name, set())
        elif path.name not in but:
            shutil.copy2(path, target / path.name)
            with (target / path.name).open("rb") as file:
                flush(file.fileno(), target / path.name)
    flush_folder(target)
