"""A look at few numbers of many: where to look, and how what is found there orders."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def spread(number: NDArray[np.int64], axis: int) -> NDArray[np.float64]:
    """Evenly in [0, 1), in no order: an additive recurrence in two dimensions, by the powers of the
    root of x**3 = x + 1 (Roberts 2018). `numpy.random` would take some MB to import."""
    share: NDArray[np.float64] = (number + 1) / 1.324717957244746 ** (axis + 1) % 1.0
    return share


def nan_of(is_wide: bool) -> int:
    """The key of NaN, which is the highest one."""
    return 0xFFF0_0000_0000_0001 if is_wide else 0xFF80_0001


def keys_of(scores: NDArray[Any], is_wide: bool) -> NDArray[Any]:
    """Integers in the order of scores: the bits of a float64 or float32, negative ones mirrored."""
    with np.errstate(over="ignore"):
        values = scores.astype(np.float64 if is_wide else np.float32, copy=False)
    bits: NDArray[Any] = values.view(np.uint64 if is_wide else np.uint32)
    zero: Any = bits.dtype.type(1 << (63 if is_wide else 31))
    magnitude = bits & (zero - bits.dtype.type(1))
    keys: NDArray[Any] = np.where(bits >= zero, zero - magnitude, zero + magnitude)
    keys[np.isnan(values)] = nan_of(is_wide)
    return keys
