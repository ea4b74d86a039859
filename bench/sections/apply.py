"""apply_mask() and squash_mask(), beside one plain loop that does no more."""

import ctypes
from collections.abc import Iterator
from typing import Any

import datasparse
import numpy as np

from bench.build import yardstick
from bench.inputs import Input, natural
from bench.measure import Candidate
from bench.options import Options
from bench.report import Row, progress
from bench.step import calls_for, mask_of, rows_of

TITLE = "Applying masks"
SIZES = (1 << 26, 1 << 24, 1 << 20)


class Apply:
    """Zeroes what is masked, in data that are put back before."""

    def __init__(self, input_: Input) -> None:
        self.original = input_.array
        self.data = self.original.copy()
        self.attach()

    def attach(self) -> None:
        self.sparsifier: Any = None  # before the next one, which takes the same memory
        self.sparsifier = datasparse.DataNormSparsifier([("w", self.data)], 0.5, (1, 1))
        self.sparsifier.step()

    def prepare(self, call: int) -> None:
        self.data[...] = self.original

    def run(self, call: int) -> None:
        self.sparsifier.apply_mask()

    def check(self, call: int) -> str | None:
        right = np.array_equal(self.data, np.where(mask_of(self.sparsifier), self.original, 0))
        return None if right else "the data are not those that the mask leaves"


class Squash(Apply):
    """The same, and the tensor is released, so that it is attached anew for every call."""

    def prepare(self, call: int) -> None:
        super().prepare(call)
        self.attach()

    def run(self, call: int) -> None:
        self.sparsifier.squash_mask()


class ApplyBound(Apply):
    """The same by one plain loop."""

    def __init__(self, input_: Input, threads: int) -> None:
        super().__init__(input_)
        self.threads = threads

    def run(self, call: int) -> None:
        yardstick().plain_apply(
            ctypes.c_void_p(self.data.ctypes.data),
            ctypes.c_void_p(mask_of(self.sparsifier).ctypes.data),
            ctypes.c_int64(self.data.size), self.data.itemsize, self.threads, 1,
        )  # fmt: skip


def run(options: Options) -> Iterator[Row]:
    for size in options.sizes(*SIZES):
        input_ = natural(size)
        name = input_.name_and_shape
        progress(f"[apply] {name}")
        ways = {
            "bound": ApplyBound(input_, options.threads),
            "apply_mask()": Apply(input_),
            "squash_mask()": Squash(input_),
        }
        candidates = [Candidate(what, w.run, w.prepare, w.check) for what, w in ways.items()]
        # What is read and written: the mask, and the data twice.
        moved = size + 2 * input_.array.nbytes
        yield from rows_of("apply", name, candidates, options, calls_for(size), size, moved)
