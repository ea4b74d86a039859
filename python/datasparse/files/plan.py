"""What a pruning will do, from headers alone: which tensors, how many zeros, how much memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._core import _count_zeros, get_num_threads
from .._table import aligned, between, by_reason
from ..report import bytes_text
from .folder import Checkpoint
from .header import FLOATS, Tensor
from .options import Options, Rules, rules_of
from .pools import Pool, alone, level_of, pools_of
from .scores import Magnitudes, scores_of

AHEAD = 512 << 20  # bytes that are read ahead, and wait to be written, beside the greatest tensor
RUN = 16 << 20  # bytes of what is only copied that are moved at a time
SAMPLED = 4 << 20  # bytes of tensors in pools that are looked at before all are read
PLACES = 192 << 10  # bytes of what each of these is asked while it is read
ALIGNMENT = 64  # of what lies in the buffers


@dataclass(frozen=True)
class Task:
    """A tensor that is pruned, the file that it lies in, and by what rule.

    bounds: the fewest and the most zeros of one in a pool, until it is known how many those are.
    pruned, blocks: of one in a pool, how many of so many are pruned; None until that is known.
    """

    tensor: Tensor
    file: str
    config: Mapping[str, Any]
    layout: tuple[int, ...] | None
    bounds: tuple[int, int] | None = None
    pruned: int | None = None
    blocks: int = 0

    @property
    def rule(self) -> Mapping[str, Any]:
        """The config by which the tensor is pruned by itself."""
        if self.pruned is None:
            return self.config
        return alone(self.config, level_of(self.pruned, self.blocks))

    @property
    def item_size(self) -> int:
        return FLOATS[self.tensor.dtype].itemsize

    @property
    def seen(self) -> tuple[int, ...]:
        """The shape in the order of the layout."""
        shape = self.tensor.shape
        return shape if self.layout is None else tuple(shape[axis] for axis in self.layout)

    def zeros(self) -> tuple[int, int]:
        """The fewest and the most elements that the rule zeroes, whatever the data are."""
        if self.bounds is not None:
            return self.bounds
        return _count_zeros(self.seen, **self.rule)

    @property
    def partial(self) -> str | None:
        """What N:M does where rows are no multiple of M; None where all are."""
        zeros, (_, width) = self.config["zeros_per_block"], self.config["sparse_block_shape"]
        columns = prod(self.seen[1:] if len(self.seen) > 1 else self.seen)
        rest = columns % width if width > 0 else 0
        if zeros is None or rest == 0:
            return None
        return f"rows of {columns} end in a block of {rest}, which loses {min(zeros, rest)}"


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
    AHEAD bytes for the others. mask: a byte for each element of the greatest, and its bits where
    masks are written. scores: those that are made of input norms. scratch: what a step takes by
    itself, for natural data. candidates: what cuts of pools are found in, before there is a mask:
    1% of the tensors in pools, a sample, and the places that are asked about.
    """

    process: int
    buffers: int
    mask: int
    scores: int
    scratch: int
    candidates: int

    @property
    def total(self) -> int:
        most = max(self.mask, self.candidates)
        return self.process + self.buffers + most + self.scores + self.scratch


@dataclass(frozen=True)
class Plan:
    """A pruning of one checkpoint by one rule for each tensor: `make_plan()` makes it.

    tasks: by the names of the tensors, sorted.
    pools: the thresholds that some of them share.
    """

    checkpoint: Checkpoint
    options: Options
    rules: Rules
    tasks: Mapping[str, Task]
    scores: Magnitudes
    pools: tuple[Pool, ...] = ()
    with_masks: bool = False

    @property
    def partial(self) -> dict[str, str]:
        """What N:M does at the ends of rows, by the names of the tensors where it matters."""
        found = {name: task.partial for name, task in self.tasks.items()}
        return {name: text for name, text in found.items() if text is not None}

    @property
    def left(self) -> Mapping[str, str]:
        """Why the tensors that are not pruned are not."""
        return self.rules.choice.left

    def with_cuts(self, pruned: Mapping[str, int]) -> Plan:
        """The same, where it is known how many blocks each tensor in a pool loses."""
        tasks = {
            name: task if task.bounds is None else replace(task, bounds=None, pruned=pruned[name])
            for name, task in self.tasks.items()
        }
        return replace(self, tasks=tasks)

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
        return rounded(piece.size) if piece.task is None else self.task_bytes(piece.task)

    def task_bytes(self, task: Task) -> int:
        """The part of the buffers that a tensor takes, with what ranks it behind it."""
        return rounded(task.tensor.size) + rounded(self.scores.file_bytes(task.tensor.name))

    def ranked_by(self, task: Task, memory: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What ranks a tensor, in its part of the buffers."""
        begin = rounded(task.tensor.size)
        return memory[begin : begin + self.scores.file_bytes(task.tensor.name)]

    def read_into(self, task: Task, memory: NDArray[np.uint8]) -> None:
        """Read a tensor, and what ranks it, into its part of the buffers."""
        file, tensor = self.checkpoint.files[task.file], task.tensor
        file.read_into(file.header.data_begin + tensor.begin, memory[: tensor.size])
        self.scores.read_into(tensor.name, self.ranked_by(task, memory))

    def require_unchanged(self) -> None:
        """ValueError where a file was written to since it was opened."""
        for checkpoint in (self.checkpoint, *self.scores.files):
            for file in checkpoint.files.values():
                file.require_unchanged()

    @property
    def bytes_read(self) -> int:
        return self.bytes_written + sum(map(self.scores.file_bytes, self.tasks))

    @property
    def bytes_counted(self) -> int:
        """What one look at all tensors in pools reads."""
        tasks = [self.tasks[name] for pool in self.pools for name in pool.names]
        return sum(task.tensor.size + self.scores.file_bytes(task.tensor.name) for task in tasks)

    def _candidates(self) -> int:
        """The memory in which cuts of pools are found."""
        tensors = [self.tasks[name].tensor for pool in self.pools for name in pool.names]
        if not tensors:
            return 0
        ranked = sum(each.elements * FLOATS[self.scores.dtype(each)].itemsize for each in tensors)
        return ranked // 100 + (1 << 20) + 4 * SAMPLED + len(tensors) * PLACES

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
            # One thread counts what pools prune, another one prunes: both keep theirs.
            scratch=(max(tensor.size for tensor in tensors) // 50 + (threads << 20))
            * (2 if self.pools else 1),
            candidates=self._candidates(),
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
                    between(least, most),
                    f"{(least + most) / 2 / task.tensor.elements:.2%}",
                ]
            )
        yield from aligned(rows, {0, 1, 2, 3, 4})
        for what, reasons in (("partial", self.partial), ("left", self.left)):
            for line in by_reason(reasons):
                yield f"{what}, {line}"

    def _figures(self) -> Iterator[str]:
        elements = sum(task.tensor.elements for task in self.tasks.values())
        least, most = self._zeros()
        files, memory = len(self.checkpoint.files), self.memory
        beside = self.checkpoint.beside
        yield f"{len(self.tasks)} tensors of {len(self.tasks) + len(self.left)}, in {files} files"
        yield f"zeros: {between(least, most)} of {elements:,} ({(least + most) / 2 / elements:.2%})"
        for pool in self.pools:
            zeros = between(*pool.zeros)
            yield f"pool {pool.name}: {len(pool.names)} tensors with one threshold, {zeros} zeros"
        yield f"read: {bytes_text(self.bytes_read)} in one pass"
        if self.pools:
            yield (
                f"read before, to find what pools prune: {bytes_text(self.bytes_counted)}, twice "
                "as a rule"
            )
        yield f"written: {bytes_text(self.bytes_written)}"
        if beside.copied:
            yield f"copied beside: {', '.join(beside.copied)}"
        if beside.left:
            yield f"not copied, dense weights or hidden: {', '.join(beside.left)}"
        yield (
            f"memory: {bytes_text(memory.total)} ({bytes_text(memory.process)} process, "
            f"{bytes_text(memory.buffers)} buffers, {bytes_text(memory.mask)} mask, "
            f"{bytes_text(memory.scores)} scores, {bytes_text(memory.scratch)} scratch"
            + (f"; or {bytes_text(memory.candidates)} candidates, no mask)" if self.pools else ")")
        )

    def _zeros(self) -> tuple[int, int]:
        """The fewest and the most zeros of all together."""
        tasks = self.tasks.values()
        counts = [task.zeros() for task in tasks if task.bounds is None]
        if len(counts) < len(tasks):
            counts += [pool.zeros for pool in self.pools]
        return sum(least for least, _ in counts), sum(most for _, most in counts)


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
        rules = rules_of(options, tensors)
        taken = {name: tensors[name] for name in rules.choice.taken}
        tasks = {
            name: Task(tensor, checkpoint.tensors[name][0], rules.configs[name],
                       rules.layouts[name])
            for name, tensor in taken.items()
        }  # fmt: skip
        for name, task in tasks.items():
            require_rule(name, task)
        groups = {name: (task.tensor, task.layout, task.config) for name, task in tasks.items()}
        pools, zeros = pools_of(groups)
    except ValueError as error:
        raise ValueError(f"{checkpoint.path}: {error}") from None
    for pool in pools:
        for name, (blocks, *_) in zip(pool.names, pool.members, strict=True):
            tasks[name] = replace(tasks[name], bounds=zeros[name], blocks=blocks)
    ranked = scores_of(taken, rules.layouts, scores, norms)
    return Plan(checkpoint, options, rules, tasks, ranked, tuple(pools), with_masks)


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
