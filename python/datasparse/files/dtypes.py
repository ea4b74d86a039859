"""What the elements of a safetensors file are: in NumPy, in torch, and when one of them is zero."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._bfloat16 import BFLOAT16
from .header import BITS, FLOATS

TORCH = {
    **{"BOOL": "bool", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64"},
    **{"I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64", "C64": "complex64"},
    **{"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"},
    **{"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu"},
    **{"F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz"},
}
"""The name of a dtype in torch. Elements of fewer than eight bits have none."""

NUMPY: dict[str, np.dtype[Any]] = {
    # Records of one field, as NumPy has no such numbers: its name is the one of ml_dtypes.
    **{dtype: np.dtype([(TORCH[dtype], "u1")]) for dtype in BITS if dtype.startswith("F8_")},
    **{
        dtype: np.dtype(TORCH[dtype]).newbyteorder("<")
        for dtype in TORCH
        if dtype[0] in "UIBC" and dtype != "BF16"
    },
    **FLOATS,
}
"""The dtype in NumPy: bits of bfloat16 and float8 are records, `array.view(ml_dtypes.bfloat16)`
makes them numbers."""

MAGNITUDE = {
    **{"F16": 0x7FFF, "BF16": 0x7FFF, "F32": 0x7FFF_FFFF, "F64": 0x7FFF_FFFF_FFFF_FFFF},
    **{"C64": 0x7FFF_FFFF_7FFF_FFFF, "F8_E4M3": 0x7F, "F8_E5M2": 0x7F},
}
"""The bits but those of signs, of dtypes that have a -0."""


def item_size(dtype: str) -> int | None:
    """The bytes of an element; None for one of fewer than eight bits."""
    return BITS[dtype] // 8 if dtype in TORCH else None


def unsigned(dtype: str) -> np.dtype[Any]:
    """The unsigned integers that have the bits of such elements."""
    return np.dtype(f"<u{BITS[dtype] // 8}")


def is_zero(dtype: str, bits: NDArray[Any]) -> NDArray[np.bool_]:
    """Which elements are zero, +0 or -0, by their bits as `unsigned(dtype)`.

    F8_E8M0 are powers of two, and none is zero.
    """
    if dtype == "F8_E8M0":
        return np.zeros(bits.shape, np.bool_)
    if dtype in MAGNITUDE:
        bits = bits & bits.dtype.type(MAGNITUDE[dtype])
    zero: NDArray[np.bool_] = bits == 0
    return zero


def as_doubles(values: NDArray[Any]) -> NDArray[np.float64]:
    """The numbers of an array of any of the four dtypes."""
    if values.dtype == BFLOAT16:
        values = (values.view("<u2").astype("<u4") << 16).view("<f4")
    return values.astype(np.float64)
