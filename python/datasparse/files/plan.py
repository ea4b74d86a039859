"""What a pruning will do, from headers alone: which tensors, how many zeros, how much memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._core import _count_zeros, get_num_threads
from .._table import aligned
from ..report import bytes_text
from .choose import choose
from .folder import Checkpoint
from .header import FLOATS, Tensor
from .options import Options, configs_of, layout_of, require_transposed
from .scores import Magnitudes, scores_of

AHEAD = 256 << 20  # bytes that are read ahead, and wait to be written, beside the greatest tensor
RUN = 16 << 20  # bytes of what is only copied that are moved at a time
ALIGNMENT = 64  # of what lies in the buffers


@dataclass(frozen=True)
class Task:
    """A tensor that is pruned, the file that it lies in, and by what rule."""

    tensor: Tensor
    file: str
    config: Mapping[str, Any]
    layout: tuple[int, ...] | None

    @property
    def item_size(self) -> int:
        return FLOATS[self.tensor.dtype].itemsize

    def zeros(self) -> tuple[int, int]:
        """The fewest and the most elements that the rule zeroes, whatever the data are."""
        shape = self.tensor.shape
        seen = shape if self.layout is None else tuple(shape[axis] for axis in self.layout)
        return _count_zeros(seen, **self.config)


@dataclass(frozen=True)
class Piece:
    """Bytes of a file, from `begin` on, that are read, pruned or left, and written as one.

    task: what is done to them; None for what is only copied: headers and other tensors.
    """

    file: str
    begin: int
    size: int
    task: Task | None

    @property
    def end(self) -> int:
        return self.begin + self.size


@dataclass(frozen=True)
class Memory:
    """The bytes that a pruning takes at its most.

    process: what the interpreter takes before. buffers: the greatest tensor with what ranks it, and
    AHEAD bytes for the others. mask: a byte for each element of the greatest. scores: those that
    are made of input norms. scratch: what a step takes by itself, for natural data.
    """

    process: int
    buffers: int
    mask: int
    scores: int
    scratch: int

    @property
    def total(self) -> int:
        return self.process + self.buffers + self.mask + self.scores + self.scratch


@dataclass(frozen=True)
class Plan:
    """A pruning of one checkpoint by one rule for each tensor: `make_plan()` makes it.

    tasks: by the names of the tensors, sorted. left: why the others are not pruned.
    """

    checkpoint: Checkpoint
    options: Options
    tasks: Mapping[str, Task]
    left: Mapping[str, str]
    scores: Magnitudes
    with_masks: bool = False

    def pieces(self, file: str) -> Iterator[Piece]:
        """All bytes of a file, in their order."""
        header = self.checkpoint.files[file].header
        begin = 0  # of what is only copied
        for tensor in header.tensors.values():
            task = self.tasks.get(tensor.name)
            if task is not None:
                yield from runs(file, begin, header.data_begin + tensor.begin)
                yield Piece(file, header.data_begin + tensor.begin, tensor.size, task)
                begin = header.data_begin + tensor.end
        yield from runs(file, begin, header.file_size)

    def buffer_bytes(self, piece: Piece) -> int:
        """The part of the buffers that a piece takes, with what ranks it."""
        if piece.task is None:
            return rounded(piece.size)
        return rounded(piece.size) + rounded(self.scores.file_bytes(piece.task.tensor.name))

    @property
    def bytes_read(self) -> int:
        return self.bytes_written + sum(map(self.scores.file_bytes, self.tasks))

    @property
    def bytes_written(self) -> int:
        return sum(file.header.file_size for file in self.checkpoint.files.values())

    @property
    def buffers(self) -> int:
        """The bytes of the buffers: enough for the greatest piece, and no more than are needed."""
        pieces = [self.buffer_bytes(piece) for file in self.checkpoint.files
                  for piece in self.pieces(file)]  # fmt: skip
        return min(sum(pieces), max(pieces, default=0) + AHEAD)

    @property
    def memory(self) -> Memory:
        tensors = [task.tensor for task in self.tasks.values()]
        elements = max(tensor.elements for tensor in tensors)
        packed = (elements + self.buffers // 2) // 8 if self.with_masks else 0
        threads = get_num_threads()
        return Memory(
            process=resident_bytes(),
            buffers=self.buffers,
            mask=elements + packed,
            scores=max(map(self.scores.made_bytes, tensors)),
            scratch=max(tensor.size for tensor in tensors) // 50 + (threads << 20),
        )

    def __str__(self) -> str:
        return "\n".join([*self._table(), "", *self._figures()])

    def _table(self) -> Iterator[str]:
        rows = [["tensor", "file", "dtype", "shape", "block", "zeros", "share"]]
        for name, task in self.tasks.items():
            least, most = task.zeros()
            rows.append(
                [
                    name,
                    task.file,
                    task.tensor.dtype,
                    shape_text(task),
                    block_text(task.config),
                    f"{least:,}" if least == most else f"{least:,} to {most:,}",
                    f"{(least + most) / 2 / task.tensor.elements:.2%}",
                ]
            )
        yield from aligned(rows, {0, 1, 2, 3, 4})
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.left.items():
            by_reason.setdefault(reason, []).append(name)
        for reason, names in by_reason.items():
            some = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if names[4:] else "")
            yield f"left, {reason}: {some}"

    def _figures(self) -> Iterator[str]:
        elements = sum(task.tensor.elements for task in self.tasks.values())
        least, most = (sum(count) for count in zip(*(t.zeros() for t in self.tasks.values())))  # noqa: B905
        zeros = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        files, memory = len(self.checkpoint.files), self.memory
        beside = self.checkpoint.beside
        yield f"{len(self.tasks)} tensors of {len(self.tasks) + len(self.left)}, in {files} files"
        yield f"zeros: {zeros} of {elements:,} ({(least + most) / 2 / elements:.2%})"
        yield f"read: {bytes_text(self.bytes_read)} in one pass"
        yield f"written: {bytes_text(self.bytes_written)}"
        if beside.copied:
            yield f"copied beside: {', '.join(beside.copied)}"
        if beside.left:
            yield f"not copied, dense weights or hidden: {', '.join(beside.left)}"
        yield (
            f"memory: {bytes_text(memory.total)} ({bytes_text(memory.process)} process, "
            f"{bytes_text(memory.buffers)} buffers, {bytes_text(memory.mask)} mask, "
            f"{bytes_text(memory.scores)} scores, {bytes_text(memory.scratch)} scratch)"
        )


def make_plan(
    checkpoint: Checkpoint,
    options: Options,
    scores: Checkpoint | None = None,
    norms: Checkpoint | None = None,
    with_masks: bool = False,
) -> Plan:
    """Plan a pruning. ValueError where an option fits none of the tensors, or a rule not one."""
    tensors = {name: tensor for name, (_, tensor) in checkpoint.tensors.items()}
    try:
        choice = choose(tensors, options.include, options.exclude, options.strict)
        taken = {name: tensors[name] for name in choice.taken}
        require_transposed(options, taken)
        configs = configs_of(options, taken)
        tasks = {
            name: Task(tensor, checkpoint.tensors[name][0], configs[name],
                       layout_of(options, tensor))
            for name, tensor in taken.items()
        }  # fmt: skip
        for name, task in tasks.items():
            require_rule(name, task)
    except ValueError as error:
        raise ValueError(f"{checkpoint.path}: {error}") from None
    ranked = scores_of(options, taken, scores, norms)
    return Plan(checkpoint, options, tasks, choice.left, ranked, with_masks)


def require_rule(name: str, task: Task) -> None:
    try:
        task.zeros()
    except ValueError as error:
        raise ValueError(f"{name!r}: {error}") from None


def runs(file: str, begin: int, end: int) -> Iterator[Piece]:
    """What is only copied, from one byte to another, in pieces of at most RUN bytes."""
    for first in range(begin, end, RUN):
        yield Piece(file, first, min(RUN, end - first), None)


def rounded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def shape_text(task: Task) -> str:
    shape = "x".join(map(str, task.tensor.shape))
    return shape if task.layout is None else f"{shape} as {''.join(map(str, task.layout))}"


def block_text(config: Mapping[str, Any]) -> str:
    height, width = ("all" if axis == -1 else str(axis) for axis in config["sparse_block_shape"])
    zeros = config["zeros_per_block"]
    return f"{height}x{width}" if zeros is None else f"{zeros} of {height}x{width}"


def resident_bytes() -> int:
    """The memory of this process now; 0 where the system does not tell."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return 0
    import resource

    return int(pages) * resource.getpagesize()
