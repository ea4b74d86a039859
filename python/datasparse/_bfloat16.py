"""bfloat16 in NumPy, which has no dtype of that name."""

from __future__ import annotations

import numpy as np

BFLOAT16 = np.dtype([("bfloat16", "<u2")])
"""The bits of bfloat16 numbers: an array of it is data wherever NumPy arrays are, and needs no
ml_dtypes. `bits.view(BFLOAT16)` of an array of uint16 copies nothing."""
