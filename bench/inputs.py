"""The data that masks are computed from: natural, hard, and hard by their strides."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

Shape = tuple[int, int]
Make = Callable[[np.random.Generator, Shape], np.ndarray]

DRIFT = 1 << 16  # elements of the noise that drift() adds, over and over
PIECE = 1 << 22  # elements that are generated at a time, so that memory stays near the result's


@dataclass
class Input:
    """A matrix; bfloat16, which NumPy lacks, is held as its bits in uint16."""

    name: str
    array: np.ndarray
    dtype: str
    data: object = field(init=False)  # what a sparsifier is given: the same memory

    def __post_init__(self) -> None:
        self.data = self.array
        if self.dtype == "bfloat16":
            import torch

            self.data = torch.from_numpy(self.array).view(torch.bfloat16)

    @property
    def name_and_shape(self) -> str:
        return f"{self.name} {self.array.shape[0]}x{self.array.shape[1]} {self.dtype}"

    def drift(self, call: int) -> None:
        """Changes the data as a step of training might: by a thousandth, there and back again."""
        there = call % 2 == 0
        if self.array.itemsize == 2:
            self.array.view(np.uint16)[:, ::11] ^= 1  # the least change there is, to some
            return
        if not self.array.flags.c_contiguous:
            self.array[::11] *= 1.001 if there else 1 / 1.001
            return
        noise = np.random.default_rng(call // 2).standard_normal(DRIFT, dtype=self.array.dtype.type)
        noise *= 1e-3 if there else -1e-3
        flat = self.array.reshape(-1)
        for begin in range(0, flat.size, DRIFT):
            piece = flat[begin : begin + DRIFT]
            piece += noise[: piece.size]


def shape_of(elements: int) -> Shape:
    """About as many elements, as a matrix that every rule and every bound divides evenly."""
    columns = 64
    while columns * columns < elements:
        columns *= 2
    rows = max(4, elements // columns // 4 * 4)
    return rows, columns


def gaussian(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def natural(elements: int, dtype: str = "float32", seed: int = 0) -> Input:
    """Gaussian data, as fresh weights are."""
    rng = np.random.default_rng(seed)
    shape = shape_of(elements)
    if dtype in ("float32", "float64"):
        array = rng.standard_normal(shape, dtype=np.dtype(dtype).type)
    else:
        array = np.empty(shape, np.float16 if dtype == "float16" else np.uint16)
        flat = array.reshape(-1)
        for begin in range(0, flat.size, PIECE):
            piece = flat[begin : begin + PIECE]
            values = rng.standard_normal(piece.size, dtype=np.float32)
            piece[:] = values if dtype == "float16" else (values.view(np.uint32) >> 16)
    return Input("Gaussian", array, dtype)


def _constant(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return np.full(shape, 0.25, np.float32)


def _two_valued(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return rng.integers(1, 3, shape, dtype=np.int8).astype(np.float32)


def _distinct_256(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return rng.integers(-128, 128, shape, dtype=np.int16).astype(np.float32)


def _sorted(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return np.sort(np.abs(gaussian(rng, shape)), axis=None).reshape(shape)


def _reversed(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return np.ascontiguousarray(_sorted(rng, shape)[::-1, ::-1])


def _mostly_zeros(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    data = gaussian(rng, shape)
    data[rng.random(shape, dtype=np.float32) < 0.9] = 0
    return data


def _outlier(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    data = gaussian(rng, shape)
    data[shape[0] // 2, shape[1] // 3] = 1e30
    return data


def _zipf_rows(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return gaussian(rng, shape) / np.arange(1, shape[0] + 1, dtype=np.float32)[:, None]


def _zipf_columns(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return gaussian(rng, shape) / np.arange(1, shape[1] + 1, dtype=np.float32)


def _denormals(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return rng.integers(0, 1 << 20, shape, dtype=np.uint32).view(np.float32)


def _all_nan(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return np.full(shape, np.nan, np.float32)


def _half_nan(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    data = gaussian(rng, shape)
    data[rng.random(shape, dtype=np.float32) < 0.5] = np.nan
    return data


def _lines_alike(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Every cache line holds one value: a sample of lines knows less than it seems to."""
    lines = gaussian(rng, (shape[0], shape[1] // 16))
    return np.repeat(lines, 16, axis=1)


def _transposed(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return gaussian(rng, (shape[1], shape[0])).T


def _every_other_column(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return gaussian(rng, (shape[0], 2 * shape[1]))[:, ::2]


def _padded_rows(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return gaussian(rng, (shape[0], shape[1] + 48))[:, 16:-32]


HARD: dict[str, Make] = {
    "constant": _constant,
    "two-valued": _two_valued,
    "256 distinct values": _distinct_256,
    "sorted": _sorted,
    "reversed": _reversed,
    "90% zeros": _mostly_zeros,
    "one outlier": _outlier,
    "Zipf rows": _zipf_rows,
    "Zipf columns": _zipf_columns,
    "denormals": _denormals,
    "all NaN": _all_nan,
    "half NaN": _half_nan,
    "lines alike": _lines_alike,
}
STRIDED: dict[str, Make] = {
    "transposed": _transposed,
    "every other column": _every_other_column,
    "padded rows": _padded_rows,
}


def make(name: str, elements: int, seed: int = 0) -> Input:
    """The hard, strided or planted input of that name, in float32."""
    from bench.adversary import PLANTED

    makers = HARD | STRIDED | PLANTED | {"Gaussian": gaussian}
    return Input(name, makers[name](np.random.default_rng(seed), shape_of(elements)), "float32")
