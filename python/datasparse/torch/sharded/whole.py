"""Facts about whole tensors, of what each rank has."""

from __future__ import annotations

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from .layout import layout_of


def count_nonzero(tensor: DTensor) -> int:
    """How many elements are not zero. All ranks of the tensor ask at the same time."""
    layout = layout_of(tensor)
    ranks = layout.together
    own = int(torch.count_nonzero(tensor.to_local())) if layout.counts(ranks) else 0
    call = ranks.call("counting zeros")
    call.agree([("the shape", str(tuple(tensor.shape)))])
    return int(call.sum(np.array([own], np.int64), 1)[0])
