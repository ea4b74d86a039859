"""The streaming bound: what a mask costs at least. Everything else is divided by it.

The best of a few loops, with ordinary stores and with stores that go past the cache, that read
every element once and write one mask byte per element, with the threshold known (for blocks: and
sum |x|; for 2:4: with the best mask). Small tensors may take one thread where that is quicker.
"""

import ctypes
from dataclasses import dataclass, field

import numpy as np

from bench.build import yardstick
from bench.cases import Case
from bench.inputs import Input

TYPES = {"float16": 0, "bfloat16": 1, "float32": 2, "float64": 3}
RULES = {"(1,1)": 0, "(1,4)": 1, "(4,4)": 2, "2:4": 3}
LOOPS = ("ordinary stores", "streaming stores", "prefetched, streaming stores", "four places")
ONE_THREAD_UP_TO = 1 << 20


class _Job(ctypes.Structure):
    """As native/yardstick.cpp declares it."""

    _fields_ = (
        ("mask", ctypes.c_void_p),
        ("data", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("row_stride", ctypes.c_int64),
        ("column_stride", ctypes.c_int64),
        ("key", ctypes.c_int64),
        ("sum", ctypes.c_double),
        ("type", ctypes.c_int32),
        ("rule", ctypes.c_int32),
        ("loop", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("repeats", ctypes.c_int32),
    )


def aligned(size: int) -> np.ndarray:
    """Bytes of value 1, touched, that begin at a multiple of 64."""
    memory = np.ones(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size]


@dataclass
class Loop:
    """One way to write the mask."""

    index: int  # in LOOPS
    threads: int

    @property
    def name(self) -> str:
        return f"{LOOPS[self.index]}, {self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclass
class Bound:
    """Masks an input by a threshold that was found before."""

    input: Input
    case: Case
    threads: int
    key: int  # what lies above stays: the bits of |x|,
    sum: float  # or the sum of |x| over a block
    mask: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.mask = aligned(self.input.array.size)

    @property
    def loops(self) -> list[Loop]:
        counts = {self.threads}
        if self.input.array.size <= ONE_THREAD_UP_TO:
            counts.add(1)
        return [Loop(index, n) for n in sorted(counts) for index in range(len(LOOPS))]

    def run(self, loop: Loop, repeats: int = 1) -> None:
        array = self.input.array
        width = array.itemsize
        rows, columns = array.shape
        job = _Job(
            self.mask.ctypes.data, array.ctypes.data, rows, columns,
            array.strides[0] // width, array.strides[1] // width, self.key, self.sum,
            TYPES[self.input.dtype], RULES[self.case.rule], loop.index, loop.threads, repeats,
        )  # fmt: skip
        if not yardstick().yardstick_mask(ctypes.byref(job)):
            raise ValueError(f"no bound for {self.case.rule} of {self.input.name} {array.shape}")

    @property
    def bytes_moved(self) -> int:
        return self.input.array.nbytes + self.mask.nbytes


@dataclass
class Copy:
    """A plain copy of the same data, beside which a slow bound shows."""

    source: np.ndarray
    threads: int
    target: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.target = aligned(self.source.nbytes)

    @property
    def loops(self) -> list[Loop]:
        return [Loop(index, self.threads) for index in (0, 1)]

    def run(self, loop: Loop, repeats: int = 1) -> None:
        yardstick().plain_copy(
            ctypes.c_void_p(self.target.ctypes.data),
            ctypes.c_void_p(self.source.ctypes.data),
            ctypes.c_int64(self.source.nbytes), loop.index, loop.threads, repeats,
        )  # fmt: skip

    def read(self, repeats: int = 1) -> None:
        """Reads the source alone, the least of all."""
        yardstick().plain_read(
            ctypes.c_void_p(self.source.ctypes.data),
            ctypes.c_int64(self.source.nbytes), self.threads, repeats,
        )  # fmt: skip

    @property
    def bytes_moved(self) -> int:
        return 2 * self.source.nbytes
