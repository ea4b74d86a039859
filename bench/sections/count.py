"""Counting the zeros of a mask, which is how sparse a tensor actually is."""

import ctypes
from collections.abc import Callable, Iterator

import datasparse
import numpy as np

from bench.build import core, yardstick
from bench.inputs import natural
from bench.measure import Candidate
from bench.options import Options
from bench.report import Row, progress
from bench.step import calls_for, mask_of, rows_of

TITLE = "Counting zeros"
SIZES = (1 << 26, 1 << 24, 1 << 20)


def counters(
    mask: np.ndarray, threads: int, inside: int
) -> dict[str, tuple[Callable[[], int], int]]:
    """Ways to count the zeros, and how often each does so in a call."""
    address, size = ctypes.c_void_p(mask.ctypes.data), ctypes.c_int64(mask.size)
    ways: dict[str, tuple[Callable[[], int], int]] = {
        "bound": (
            lambda: mask.size - yardstick().plain_count(address, size, threads, inside),
            inside,
        ),
        "numpy.count_nonzero": (lambda: mask.size - int(np.count_nonzero(mask)), 1),
    }
    library = core()
    if library is not None:
        ways["count_zeros() from C++"] = (
            lambda: library.bench_count_zeros(address, size, inside),
            inside,
        )
    return ways


class Count:
    """One of them, and what it found."""

    def __init__(self, name: str, count: Callable[[], int], inside: int, zeros: int) -> None:
        self.name, self.count, self.inside, self.zeros = name, count, inside, zeros

    def run(self, call: int) -> None:
        self.found = self.count()

    def check(self, call: int) -> str | None:
        return None if self.found == self.zeros else f"{self.found} zeros, not {self.zeros}"

    def candidate(self) -> Candidate:
        return Candidate(self.name, self.run, check=self.check, inside=self.inside)


def run(options: Options) -> Iterator[Row]:
    for size in options.sizes(*SIZES):
        input_ = natural(size)
        sparsifier = datasparse.DataNormSparsifier([("w", input_.data)], 0.5, (1, 1))
        sparsifier.step()
        mask = mask_of(sparsifier)
        name = f"mask {mask.shape[0]}x{mask.shape[1]}"
        progress(f"[count] {name}")
        calls = calls_for(size)
        zeros = round(0.5 * size)  # as many as the step had to prune
        candidates = [
            Count(what, count, inside, zeros).candidate()
            for what, (count, inside) in counters(mask, options.threads, calls).items()
        ]
        yield from rows_of("count", name, candidates, options, calls, size, size)
