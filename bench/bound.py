"""The streaming bound and a plain copy: streaming_bound.cpp, compiled on first use."""

import ctypes
import functools
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).with_name("streaming_bound.cpp")


@functools.cache
def _library() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "streaming_bound.so"
        compiler = os.environ.get("CXX", "g++")
        flags = ["-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"]
        subprocess.run([compiler, *flags, str(SOURCE), "-o", str(built)], check=True)
        return ctypes.CDLL(str(built))


def _aligned(size: int) -> np.ndarray:
    """Uninitialised bytes that begin at a multiple of 64."""
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size]


class Bound:
    """Masks `data` (float32, C order, a multiple of 64 elements) at a known threshold."""

    def __init__(self, data: np.ndarray, threads: int) -> None:
        if data.size % 64 or data.dtype != np.float32 or not data.flags.c_contiguous:
            raise ValueError("data must be float32 in C order with a multiple of 64 elements")
        self._data, self._threads = data, threads
        self._mask = _aligned(data.size)
        self._target = _aligned(data.nbytes)

    def _mask_by(self, loop: str, threshold: float) -> None:
        getattr(_library(), loop)(
            self._mask.ctypes.data_as(ctypes.c_void_p),
            self._data.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_int64(self._data.size),
            ctypes.c_float(threshold),
            ctypes.c_int(self._threads),
        )

    def ordinary(self, threshold: float) -> None:
        self._mask_by("bound_ordinary", threshold)

    def streaming(self, threshold: float) -> None:
        self._mask_by("bound_streaming", threshold)

    @property
    def mask(self) -> np.ndarray:
        return self._mask.view(np.bool_).reshape(self._data.shape)

    def copy(self) -> None:
        _library().copy(
            self._target.ctypes.data_as(ctypes.c_void_p),
            self._data.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_int64(self._data.nbytes),
            ctypes.c_int(self._threads),
        )
