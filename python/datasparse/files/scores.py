"""By what the elements of a tensor are ranked, where it is not their magnitude."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._core import _score_terms
from .dtypes import as_doubles
from .folder import Checkpoint
from .header import FLOATS, Tensor
from .safetensors import as_array


class Magnitudes:
    """Those of the tensors themselves: nothing is read, and nothing made."""

    files: tuple[Checkpoint, ...] = ()
    """What is read besides."""

    def file_bytes(self, name: str) -> int:
        """What is read for a tensor."""
        return 0

    def made_bytes(self, tensor: Tensor) -> int:
        """The memory that its scores take besides what was read."""
        return 0

    def dtype(self, tensor: Tensor) -> str:
        """Of its scores, as the format of files names it."""
        return tensor.dtype

    def read_into(self, name: str, buffer: NDArray[np.uint8]) -> None:
        """Read what a tensor is ranked by into `file_bytes(name)` bytes."""

    def of(self, name: str, data: NDArray[Any], buffer: NDArray[np.uint8]) -> NDArray[Any] | None:
        """The scores of a tensor, by what was read; None for its own magnitudes."""
        return None

    def some(
        self, checkpoint: Checkpoint, tensor: Tensor, first: NDArray[np.int64], count: int
    ) -> NDArray[np.float64]:
        """What ranks so many elements from each of these on, as read from the files: a row each."""
        return elements_of(checkpoint, tensor, first, count)


class Given(Magnitudes):
    """Scores from a checkpoint, ranked by value."""

    def __init__(self, scores: Checkpoint, taken: Mapping[str, Tensor]) -> None:
        self.files = (scores,)
        self._scores = scores
        for name, tensor in taken.items():
            given = found(scores, name, "scores")
            if given.dtype not in FLOATS or given.shape != tensor.shape:
                raise ValueError(
                    f"{scores.path}: scores of {name!r} must be of {', '.join(FLOATS)} and of its "
                    f"shape, {tensor.shape}, got {given.dtype} of {given.shape}"
                )

    def file_bytes(self, name: str) -> int:
        return self._scores.tensors[name][1].size

    def dtype(self, tensor: Tensor) -> str:
        return self._scores.tensors[tensor.name][1].dtype

    def read_into(self, name: str, buffer: NDArray[np.uint8]) -> None:
        file = self._scores.reader(name)
        file.read_into(file.header.data_begin + self._scores.tensors[name][1].begin, buffer)

    def of(self, name: str, data: NDArray[Any], buffer: NDArray[np.uint8]) -> NDArray[Any]:
        return as_array(self._scores.tensors[name][1], buffer)

    def some(
        self, checkpoint: Checkpoint, tensor: Tensor, first: NDArray[np.int64], count: int
    ) -> NDArray[np.float64]:
        return elements_of(self._scores, self._scores.tensors[tensor.name][1], first, count)


class InputNorms(Magnitudes):
    """Wanda (Sun et al. 2023): |W_ij|·‖X_j‖₂, in float32, and in float64 for float64 tensors.

    The norms of all tensors are read at once: they are small beside one tensor.
    """

    def __init__(
        self,
        norms: Checkpoint,
        taken: Mapping[str, Tensor],
        layouts: Mapping[str, tuple[int, ...] | None],
    ) -> None:
        self.files = (norms,)
        self._norms = {
            name: norms_of(norms, tensor, layouts[name]) for name, tensor in taken.items()
        }

    def made_bytes(self, tensor: Tensor) -> int:
        return tensor.elements * (8 if tensor.dtype == "F64" else 4)

    def dtype(self, tensor: Tensor) -> str:
        return "F64" if tensor.dtype == "F64" else "F32"

    def of(self, name: str, data: NDArray[Any], buffer: NDArray[np.uint8]) -> NDArray[Any]:
        norms = np.broadcast_to(self._norms[name], data.shape)
        scores: NDArray[Any] = _score_terms("abs_product", data, norms)
        return scores

    def some(
        self, checkpoint: Checkpoint, tensor: Tensor, first: NDArray[np.int64], count: int
    ) -> NDArray[np.float64]:
        norms = self._norms[tensor.name]
        axis = max(range(norms.ndim), key=norms.shape.__getitem__)
        apart = math.prod(tensor.shape[axis + 1 :])
        places = (first[:, None] + np.arange(count)) // apart % norms.shape[axis]
        values = elements_of(checkpoint, tensor, first, count)
        made: NDArray[np.float64] = np.abs(values) * norms.reshape(-1)[places]
        return made


def norms_of(
    norms: Checkpoint, tensor: Tensor, layout: tuple[int, ...] | None
) -> NDArray[np.float32]:
    """The norms of a tensor's inputs, in a shape that broadcasts to the tensor's."""
    if len(tensor.shape) < 2:
        raise ValueError(f"{tensor.name!r} has no inputs that input_norms could be of: exclude it")
    axis = 0 if layout and layout[-1] == 0 else 1  # outputs x inputs, or inputs x outputs
    given = found(norms, tensor.name, "input_norms")
    if axis == 1 and is_stored_by_inputs(norms, tensor.name):
        raise ValueError(
            f"{norms.path}: input_norms of {tensor.name!r} are of a weight that is stored as "
            "inputs x outputs: name it in transposed, or end its layout with axis 0"
        )
    if given.dtype not in FLOATS or given.shape != (tensor.shape[axis],):
        raise ValueError(
            f"{norms.path}: input_norms of {tensor.name!r} must be of {', '.join(FLOATS)}, one for "
            f"each of its {tensor.shape[axis]} inputs, got {given.dtype} of {given.shape}"
        )
    values = norms.reader(tensor.name).read(tensor.name)
    with np.errstate(over="ignore"):  # refused below
        as_float32 = as_doubles(values).astype(np.float32)
    if not (np.isfinite(as_float32).all() and (as_float32 >= 0).all()):
        raise ValueError(
            f"{norms.path}: input_norms of {tensor.name!r} must be finite in float32, and not "
            "below 0"
        )
    shape = [1] * len(tensor.shape)
    shape[axis] = tensor.shape[axis]
    return as_float32.reshape(shape)


def is_stored_by_inputs(norms: Checkpoint, name: str) -> bool:
    """Whether `calibrate()`, which has seen the layer, says that a weight is inputs x outputs."""
    said = (norms.reader(name).header.metadata or {}).get("transposed", "")
    try:
        names = json.loads(said)
    except (ValueError, RecursionError):  # somebody else's metadata
        return False
    return isinstance(names, list) and name in names


def elements_of(
    checkpoint: Checkpoint, tensor: Tensor, first: NDArray[np.int64], count: int
) -> NDArray[np.float64]:
    """So many elements of a tensor from each of these on, by a read for each."""
    file, dtype = checkpoint.reader(tensor.name), FLOATS[tensor.dtype]
    begin = file.header.data_begin + tensor.begin
    values = np.empty((len(first), count), dtype)
    for row, place in zip(values, first.tolist(), strict=True):
        file.read_into(begin + place * dtype.itemsize, row)
    return as_doubles(values)


def found(checkpoint: Checkpoint, name: str, option: str) -> Tensor:
    if name not in checkpoint.tensors:
        raise ValueError(
            f"{checkpoint.path}: {option} must have each tensor that is pruned, and {name!r} is "
            "missing: exclude it, or add it"
        )
    return checkpoint.tensors[name][1]


def opened(path: str | None) -> AbstractContextManager[Checkpoint | None]:
    """A checkpoint to rank by, if there is one."""
    return nullcontext() if path is None else Checkpoint(path)


def scores_of(
    taken: Mapping[str, Tensor],
    layouts: Mapping[str, tuple[int, ...] | None],
    scores: Checkpoint | None,
    norms: Checkpoint | None,
) -> Magnitudes:
    """What ranks the taken tensors. ValueError, naming file and tensor, for what does not fit."""
    if scores is not None:
        return Given(scores, taken)
    return Magnitudes() if norms is None else InputNorms(norms, taken, layouts)
