"""The lowest elements of one tensor, set to zero in its memory."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import DataNormSparsifier


class Ranked(DataNormSparsifier):
    """A sparsifier of one tensor, ranked by scores that are there."""

    def __init__(self, scores: NDArray[Any]) -> None:
        super().__init__()
        self._scores = scores

    def get_scores(self, name: str, data: Any, **config: Any) -> NDArray[Any]:
        return self._scores


def zero_lowest(
    name: str,
    data: NDArray[Any],
    config: Mapping[str, Any],
    layout: tuple[int, ...] | None = None,
    scores: NDArray[Any] | None = None,
) -> NDArray[np.bool_]:
    """Set what the config prunes to +0 in `data`, and return the mask: True is what is kept.

    The mask is that of `DataNormSparsifier` with the same config and layout, bit for bit, which
    ranks `scores` where they are given. Cost: O(elements), one byte of memory for each, and what a
    step takes; without the GIL, by the threads of `set_num_threads()`.
    """
    sparsifier = DataNormSparsifier() if scores is None else Ranked(scores)
    sparsifier.add_data(name, data, layout=layout, **config)
    with warnings.catch_warnings():
        # The report says it of each tensor.
        warnings.filterwarnings("ignore", "step\\(\\) pruned all weights", UserWarning)
        sparsifier.step()
    sparsifier.apply_mask()
    mask: NDArray[np.bool_] = sparsifier.get_mask(name)
    return mask


def count_zeros(data: NDArray[np.uint8], item_size: int) -> int:
    """How many floats of that many bytes are zero, of either sign. Takes as much memory again."""
    bits = data.view(f"<u{item_size}")
    magnitude = bits.dtype.type((1 << (8 * item_size - 1)) - 1)
    return len(bits) - int(np.count_nonzero(bits & magnitude))
