"""The stream through a pruning: read, compute, write and flush at the same time.

Four threads hand on pieces of files, each in the order of the files' bytes. What is between them
lies in a ring of memory, so that whoever is ahead waits. The journal is told what is on the disk.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .journal import Journal
from .maskfile import checksum_of, mask_header, packed
from .plan import ALIGNMENT, Piece, Plan
from .ring import Ring, StoppedError
from .safetensors import as_array, flush, write_at
from .zeros import count_zeros, zero_lowest

FLUSHED = 256 << 20  # bytes that are written between two entries of the journal
AT_ONCE = 1 << 20  # bytes that are counted and written while they are in the cache

Progress = Callable[[int, int, str], None]
"""Called with the bytes that are written, those that will be, and a tensor's name, or ""."""


@dataclass
class Moving:
    """A piece on its way."""

    piece: Piece
    memory: NDArray[np.uint8]
    mask: NDArray[np.uint8] | None = None  # its bits
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> NDArray[np.uint8]:
        return self.memory[: self.piece.size]


class Stream:
    """One run of a plan, into files in a folder.

    journal: what was written before is left out, and what is written now is noted.
    masks: the file that gets the masks; None for none.
    """

    def __init__(
        self, plan: Plan, folder: Path, journal: Journal, masks: Path | None, progress: Progress
    ) -> None:
        self.plan, self.journal, self.progress = plan, journal, progress
        self.paths = {name: folder / name for name in plan.checkpoint.files}
        self.masks = masks
        self._mask_begin = mask_begins(plan) if masks is not None else {}
        self._ring = Ring(plan.buffers, ALIGNMENT)
        self._read: SimpleQueue[Moving | None] = SimpleQueue()
        self._computed: SimpleQueue[Moving | None] = SimpleQueue()
        self._written: SimpleQueue[Moving | None] = SimpleQueue()
        self._errors: list[BaseException] = []
        self._files: dict[str, int] = {}
        counted = plan.bytes_counted  # before this
        self._done = counted + sum(journal.written.values())
        self._total = counted + plan.bytes_written

    def run(self) -> None:
        """Write what is not there yet; then all of it is on the disk, and in the journal.

        The error of whichever part failed first; what has arrived is noted then too.
        """
        threads = [
            threading.Thread(target=self._guarded, args=work, name=f"datasparse {work[0].__name__}")
            for work in (
                (self._read_all, self._read),
                (self._write_all, self._written),
                (self._flush_all, None),
            )
        ]
        for thread in threads:
            thread.start()
        self._guarded(self._compute_all, self._computed)
        for thread in threads:
            thread.join()
        for file in self._files.values():
            os.close(file)
        if self._errors:
            raise self._errors[0]

    def _guarded(self, work: Callable[[], None], behind: SimpleQueue[Moving | None] | None) -> None:
        """Do a part of the work, and let the others end if it fails."""
        try:
            work()
        except StoppedError:
            pass
        except BaseException as error:  # raised again by run()
            self._errors.append(error)
            self._ring.stop()
        finally:
            if behind is not None:
                behind.put(None)

    def _read_all(self) -> None:
        plan = self.plan
        for name, file in plan.checkpoint.files.items():
            for piece in plan.pieces(name):
                if piece.end <= self.journal.written.get(name, 0):
                    continue
                moving = Moving(piece, self._ring.take(plan.buffer_bytes(piece)))
                if piece.task is None:
                    file.read_into(piece.begin, moving.data)
                else:
                    plan.read_into(piece.task, moving.memory)
                self._read.put(moving)
            file.require_unchanged()
        plan.require_unchanged()

    def _compute_all(self) -> None:
        for moving in iter(self._read.get, None):
            if moving.piece.task is not None:
                self._prune(moving)
            self._computed.put(moving)

    def _prune(self, moving: Moving) -> None:
        task = moving.piece.task
        assert task is not None
        name, data = task.tensor.name, as_array(task.tensor, moving.data)
        scores = self.plan.scores.of(name, data, self.plan.ranked_by(task, moving.memory))
        mask = zero_lowest(name, data, task.rule, task.layout, scores)
        if self.masks is not None:
            moving.mask = packed(mask)
            moving.record["xxh64"] = checksum_of(moving.mask)

    def _write_all(self) -> None:
        for moving in iter(self._computed.get, None):
            piece = moving.piece
            self._write(moving)
            if moving.mask is not None:
                assert piece.task is not None
                assert self.masks is not None
                begin = self._mask_begin[piece.task.tensor.name]
                write_at(self._file("", self.masks), self.masks, begin, moving.mask)
            moving.memory, moving.mask = moving.memory[:0], None
            self._ring.give_back()
            self._done += piece.size
            name = piece.task.tensor.name if piece.task else ""
            self.progress(self._done, self._total, name)
            self._written.put(moving)

    def _write(self, moving: Moving) -> None:
        """Write a piece, and count the zeros in what is written, if it was pruned."""
        piece, data, zeros = moving.piece, moving.data, 0
        path = self.paths[piece.file]
        file = self._file(piece.file, path)
        for first in range(0, piece.size, AT_ONCE):
            part = data[first : first + AT_ONCE]
            if piece.task is not None:
                zeros += count_zeros(part, piece.task.item_size)
            write_at(file, path, piece.begin + first, part)
        if piece.task is not None:
            moving.record["zeros"] = zeros

    def _file(self, name: str, path: Path) -> int:
        """The open file of that name, "" being that of the masks."""
        if name not in self._files:
            self._files[name] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        return self._files[name]

    def _flush_all(self) -> None:
        waiting: list[Moving] = []
        size = 0
        for moving in iter(self._written.get, None):
            if waiting and (size >= FLUSHED or waiting[0].piece.file != moving.piece.file):
                self._flush(waiting)
                waiting, size = [], 0
            waiting.append(moving)
            size += moving.piece.size
        if waiting:
            self._flush(waiting)

    def _flush(self, written: list[Moving]) -> None:
        """Wait until pieces of one file are on the disk, with their masks, and note it."""
        name = written[0].piece.file
        if self.masks is not None and "" in self._files:
            flush(self._files[""], self.masks)
        flush(self._files[name], self.paths[name])
        if hasattr(os, "posix_fadvise"):
            # The system's memory is better kept for what somebody reads again.
            begin, end = written[0].piece.begin, written[-1].piece.end
            os.posix_fadvise(self._files[name], begin, end - begin, os.POSIX_FADV_DONTNEED)
        records = {one.piece.task.tensor.name: one.record for one in written if one.piece.task}
        self.journal.mark(name, written[-1].piece.end, records)


def mask_begins(plan: Plan) -> dict[str, int]:
    """Where the bits of each mask begin in the file of masks."""
    header = mask_header(plan)
    tensors = header.tensors.values()
    return {
        name: header.data_begin + tensor.begin
        for name, tensor in zip(plan.tasks, tensors, strict=True)
    }
