"""What is zero in files: `inspect()` counts it, tensor by tensor, in any safetensors file."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._table import aligned
from ..report import bytes_text
from .dtypes import is_zero, item_size, unsigned
from .folder import safetensors_in
from .groups import Patterns, strongest, zero_blocks
from .header import Tensor
from .packed import PackedFile
from .packing import STEP, Kept

Block = tuple[int, int]


@dataclass(frozen=True)
class View:
    """What holds of a tensor when it is seen as a matrix of outputs x all else.

    patterns: N by M, for each M from 2 to 16 that divides the axis along which groups run: each
        group of M has at least N zeros, and one has no more. An M with N = 0 is left out.
    blocks, zero_blocks: how many blocks of the shape asked for there are, partial ones at the edges
        among them, and how many are wholly zero. None where no shape was asked for.
    """

    patterns: dict[int, int]
    blocks: int | None
    zero_blocks: int | None

    @property
    def strongest(self) -> tuple[int, int] | None:
        """The (N, M) with the greatest share of zeros, and the shortest of equals."""
        return strongest(self.patterns)


@dataclass(frozen=True)
class TensorFound:
    """The figures of one tensor. +0, -0 and False are zero; a complex number is if both parts are.

    file: the path it is in. dtype: by the name that the format has for it.
    zeros: None for elements of fewer than eight bits, which are not looked at; then the fields
        below are None too.
    along_last: with groups along the last axis, as the tensor lies in memory. Blocks are of the
        matrix of the first axis x all others, and of one row for a tensor of one axis.
    along_inputs: with groups along the inputs, as hardware wants them. The shape alone tells the
        axis: it is the last of two, and of more the second, which has the inputs of a convolution.
        Blocks are of the matrix of outputs x (places of the kernel x inputs), inputs innermost.
        None for fewer than two axes.
    rows, zero_rows: the entries of the first axis, and those that are wholly zero.
    columns, zero_columns: those of the second axis. None for fewer than two axes.
    bytes_dense, bytes_packed: without the header; packed as `pack()` would.
    """

    file: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    elements: int
    zeros: int | None
    along_last: View | None
    along_inputs: View | None
    rows: int | None
    zero_rows: int | None
    columns: int | None
    zero_columns: int | None
    bytes_dense: int
    bytes_packed: int

    @property
    def level(self) -> float | None:
        """The share of zeros; 0 for an empty tensor, None where they were not counted."""
        if self.zeros is None:
            return None
        return self.zeros / self.elements if self.elements else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, with the level; keys of patterns are texts, such as "4"."""
        made = asdict(self) | {"shape": list(self.shape), "level": self.level}
        for view in (made["along_last"], made["along_inputs"]):
            if view is not None:
                view["patterns"] = {str(m): n for m, n in view["patterns"].items()}
        return made


@dataclass(frozen=True)
class TotalFound:
    """The sums over tensors.

    counted: elements of the tensors whose zeros were counted; the level is their share.
    patterns_last, patterns_inputs: in how many tensors an "N:M" holds with that N as the greatest.
    blocks, zero_blocks: along the inputs where a tensor has some, along its last axis otherwise.
    """

    tensors: int
    elements: int
    counted: int
    zeros: int
    level: float
    patterns_last: dict[str, int]
    patterns_inputs: dict[str, int]
    blocks: int
    zero_blocks: int
    rows: int
    zero_rows: int
    columns: int
    zero_columns: int
    bytes_dense: int
    bytes_packed: int


class Inspection:
    """What `inspect()` found. It prints as a table, and iterates over its tensors.

    tensors: a TensorFound for each, file by file, in the order of their bytes.
    total: the sums over them.
    block: the shape of the blocks that were asked for, or None.
    """

    def __init__(self, tensors: Iterable[TensorFound], block: Block | None) -> None:
        self.tensors = list(tensors)
        self.total = total_of(self.tensors)
        self.block = block

    def __iter__(self) -> Iterator[TensorFound]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON: `{"block": [H, W], "tensors": [{...}], "total": {...}}`."""
        return {
            "block": self.block and list(self.block),
            "tensors": [tensor.as_dict() for tensor in self],
            "total": asdict(self.total),
        }

    def __str__(self) -> str:
        columns = self._columns()
        rows = [[str(cell) for cell in row] for row in zip(*columns.values(), strict=True)]
        texts = [at for at, heading in enumerate(columns) if heading in TEXTS]
        lines = list(aligned([list(columns), *rows], texts))
        rule = "-" * max(map(len, lines))
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])

    __repr__ = __str__

    def _columns(self) -> dict[str, list[str]]:
        """The cells below each heading, the total's last."""
        total = self.total
        last = [pattern_text(tensor, tensor.along_last) for tensor in self]
        inputs = [pattern_text(tensor, tensor.along_inputs or tensor.along_last) for tensor in self]
        columns = {
            "file": [*(Path(tensor.file).name for tensor in self), ""],
            "tensor": [*(tensor.name for tensor in self), "total"],
            "shape": [*("x".join(map(str, tensor.shape)) for tensor in self), ""],
            "dtype": [*(tensor.dtype for tensor in self), ""],
            "level": [*(share(tensor.zeros, tensor.elements) for tensor in self)],
            "zeros": [*("" if t.zeros is None else f"{t.zeros:,}" for t in self)],
            "N:M": [*last, ""],
            "N:M of inputs": [*inputs, ""],
            "zero rows": [*(some(tensor.zero_rows) for tensor in self), some(total.zero_rows)],
            "zero columns": [*(some(t.zero_columns) for t in self), some(total.zero_columns)],
            "dense": [bytes_text(each.bytes_dense) for each in (*self, total)],
            "packed": [bytes_text(each.bytes_packed) for each in (*self, total)],
        }
        columns["level"].append(share(total.zeros, total.counted))
        columns["zeros"].append(f"{total.zeros:,}")
        if self.block:
            views = [tensor.along_inputs or tensor.along_last for tensor in self]
            cells = ["" if v is None else share(v.zero_blocks, v.blocks) for v in views]
            lengths = ("all" if length == -1 else str(length) for length in self.block)
            heading = "x".join(lengths) + " blocks"
            columns[heading] = [*cells, share(total.zero_blocks, total.blocks)]
        # Said only where there is something to say.
        for heading in ("zero rows", "zero columns", "N:M"):
            if not any(columns[heading]):
                del columns[heading]
        if inputs == last:
            del columns["N:M of inputs"]
        if len({tensor.file for tensor in self}) < 2:
            del columns["file"]
        return columns


TEXTS = {"file", "tensor", "shape", "dtype", "N:M", "N:M of inputs"}  # the others are numbers


def inspect(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], block: Block | None = None
) -> Inspection:
    """Count what is zero in safetensors files.

    paths: a file, or a folder, of which all *.safetensors are meant; or several. Packed files are
        seen as they were before.
    block: (height, width) of the blocks that are counted if they are wholly zero: each at least 1,
        or -1 for the whole axis.

    Memory: the greatest tensor at most, mostly a few MiB. Cost: O(n), about 3 ns per element
    in one thread. ValueError, naming file and tensor, for damage; FileNotFoundError for a
    folder without such files.

    >>> import numpy as np
    >>> from datasparse.files import inspect
    >>> from safetensors.numpy import save_file
    >>> save_file({"w": np.tile(np.float32([[1, 0, 2, 0]]), (8, 16))}, "two_of_four.safetensors")
    >>> found = inspect("two_of_four.safetensors", block=(8, 1))
    >>> print(found)
    tensor  shape  dtype   level  zeros  N:M  zero columns   dense  packed  8x1 blocks
    ----------------------------------------------------------------------------------
    w       8x64   F32    50.00%    256  1:2            32  2.0 kB  1.1 kB      50.00%
    ----------------------------------------------------------------------------------
    total                 50.00%    256                 32  2.0 kB  1.1 kB      50.00%
    >>> found.tensors[0].along_last.patterns[4]
    2
    """
    if block is not None and (len(block) != 2 or any(map(is_no_length, block))):
        raise ValueError(
            f"block must be (height, width), each at least 1, or -1 for the axis, got {block!r}"
        )
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    found = []
    for path in (each for folder in paths for each in safetensors_in(Path(folder))):
        with PackedFile(path) as file:
            tensors = file.header.tensors.values()
            found += [found_in(str(path), file, tensor, block) for tensor in tensors]
    return Inspection(found, block)


def found_in(path: str, file: PackedFile, tensor: Tensor, block: Block | None) -> TensorFound:
    """Look at one tensor, some rows of its first axis after others."""
    shape = tensor.shape if len(tensor.shape) > 1 else (1, tensor.elements)
    is_matrix = len(tensor.shape) > 1
    common: dict[str, Any] = {
        **{"file": path, "name": tensor.name, "dtype": tensor.dtype, "shape": tensor.shape},
        **{"elements": tensor.elements, "bytes_dense": tensor.size},
    }
    if item_size(tensor.dtype) is None:
        uncounted = ("zeros", "along_last", "along_inputs", "rows", "zero_rows", "columns")
        nothing: dict[str, Any] = dict.fromkeys((*uncounted, "zero_columns"))
        return TensorFound(**common, **nothing, bytes_packed=tensor.size)
    kept, zeros, zero_rows = Kept(tensor), 0, 0
    if block is not None:  # whole axes filled in
        height, width = block
        width = math.prod(shape[1:]) if width == -1 else width
        block = shape[0] if height == -1 else height, max(width, 1)
    last = Seeing(shape[-1], block)
    inputs = Seeing(shape[1], block) if len(shape) > 2 else last
    zero_columns = np.ones(shape[1], np.bool_)
    for bits in row_parts(file, tensor, shape, block[0] if block else 1):
        kept.add(bits == 0)
        zero = is_zero(tensor.dtype, bits)
        zeros += int(np.count_nonzero(zero))
        last.add(zero)
        entries = zero.reshape(len(zero), shape[1], -1)
        if inputs is not last:
            inputs.add(np.ascontiguousarray(entries.swapaxes(1, 2)))
        zero_rows += int(np.count_nonzero(entries.all(axis=(1, 2))))
        zero_columns &= entries.all(axis=(0, 2))
    if not tensor.elements:  # nothing is zero where nothing is
        zero_columns[:] = False
    return TensorFound(
        **common,
        zeros=zeros,
        along_last=last.view(),
        along_inputs=inputs.view() if is_matrix else None,
        rows=shape[0] if is_matrix else None,
        zero_rows=zero_rows if is_matrix else None,
        columns=shape[1] if is_matrix else None,
        zero_columns=int(np.count_nonzero(zero_columns)) if is_matrix else None,
        bytes_packed=kept.layout()[1],
    )


class Seeing:
    """Makes a View of rows that come one after another."""

    def __init__(self, length: int, block: Block | None) -> None:
        self.patterns = Patterns(length)
        self.block = block
        self.blocks = self.zero_blocks = self.elements = 0

    def add(self, zero: NDArray[np.bool_]) -> None:
        self.elements += zero.size
        self.patterns.add(zero)
        if self.block:
            matrix = zero.reshape(len(zero), -1)
            height, width = self.block
            self.blocks += -(-matrix.shape[0] // height) * -(-matrix.shape[1] // width)
            self.zero_blocks += zero_blocks(matrix, self.block)

    def view(self) -> View:
        patterns = self.patterns.holding() if self.elements else {}
        counts = (self.blocks, self.zero_blocks) if self.block else (None, None)
        return View(patterns, *counts)


def row_parts(
    file: PackedFile, tensor: Tensor, shape: tuple[int, ...], multiple: int
) -> Iterator[NDArray[Any]]:
    """The tensor as unsigned integers, some entries of its first axis at once: a multiple."""
    if not tensor.elements:
        return
    row = tensor.elements // shape[0]
    step = max(1, STEP // (row * multiple)) * multiple
    kind = unsigned(tensor.dtype)
    whole = file.read(tensor.name).view(kind) if tensor.name in file.layouts else None
    for first in range(0, shape[0], step):
        count = min(step, shape[0] - first)
        if whole is not None:
            part = whole.reshape(shape)[first : first + count]
        else:
            part = np.empty((count, *shape[1:]), kind)
            file.read_into(tensor.name, first * row * kind.itemsize, part)
        yield part


def total_of(tensors: list[TensorFound]) -> TotalFound:
    """The sums over tensors."""
    counted = sum(tensor.elements for tensor in tensors if tensor.zeros is not None)
    zeros = sum(tensor.zeros or 0 for tensor in tensors)
    views = [tensor.along_inputs or tensor.along_last for tensor in tensors]
    sums = {
        key: sum(getattr(tensor, key) or 0 for tensor in tensors)
        for key in ("elements", "rows", "zero_rows", "columns", "zero_columns")
    }
    return TotalFound(
        tensors=len(tensors),
        counted=counted,
        zeros=zeros,
        level=zeros / counted if counted else 0.0,
        patterns_last=patterns_of(tensor.along_last for tensor in tensors),
        patterns_inputs=patterns_of(tensor.along_inputs for tensor in tensors),
        blocks=sum((view and view.blocks) or 0 for view in views),
        zero_blocks=sum((view and view.zero_blocks) or 0 for view in views),
        bytes_dense=sum(tensor.bytes_dense for tensor in tensors),
        bytes_packed=sum(tensor.bytes_packed for tensor in tensors),
        **sums,
    )


def patterns_of(views: Iterable[View | None]) -> dict[str, int]:
    """How many have an N:M, by its text, short groups first."""
    counts = Counter((m, n) for view in views if view for m, n in view.patterns.items())
    return {f"{n}:{m}": count for (m, n), count in sorted(counts.items())}


def pattern_text(tensor: TensorFound, view: View | None) -> str:
    """The strongest N:M, and 2:4, which hardware has; "all" where there is nothing but zeros."""
    found = view and view.strongest
    if view is None or not found:
        return ""
    if tensor.zeros == tensor.elements:
        return "all"
    is_2_of_4 = view.patterns.get(4, 0) >= 2 and found[1] not in (2, 4)
    return "2:4, " * is_2_of_4 + "{}:{}".format(*found)


def is_no_length(value: object) -> bool:
    return type(value) is not int or (value < 1 and value != -1)


def share(count: int | None, of: int | None) -> str:
    return "" if count is None or of is None else f"{count / of if of else 0.0:.2%}"


def some(count: int | None) -> str:
    return f"{count:,}" if count else ""
