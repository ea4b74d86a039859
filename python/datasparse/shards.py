"""Masks of tensors of which nobody has more than a part: by sums, however these are made.

`ShardParts` has what lies in one place: on a rank, on a device, in a file. `ShardSelection` asks
how many blocks come before some places, and is told the sums over all parts; in the end it knows
where pruning stops. Neither sends anything: `write_masks()` is given what adds up arrays over all
who have parts, such as an all-reduce. Masks are those of whole tensors on one machine, bit for bit.

Models of PyTorch need none of this: `datasparse.torch.attach()` takes those that are sharded.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ._core import ShardParts, ShardSelection

__all__ = ["Reduce", "ShardParts", "ShardSelection", "write_masks"]

Reduce: TypeAlias = Callable[[NDArray[np.int64]], NDArray[np.int64]]
"""From an array of int64, here, to the sum of those of all who have parts, of the same length."""


def write_masks(parts: ShardParts, reduce: Reduce) -> ShardSelection:
    """Write the masks of all parts that are here.

    All who have parts call it at the same time, with the same searches. It calls `reduce` once for
    each round, and sends 64 KiB a round at most for a single search; a hint of the last selection
    saves rounds. No mask changes before the last sum is known.

    Returns:
        The selection, whose `hint()` is for the next one.

    Raises:
        ValueError: the parts do not add up to the tensors.

    >>> data = np.array([[1, -4, 3], [-2, 6, 5]], np.float32)
    >>> mask = np.ones((2, 3), bool)
    >>> job = {
    ...     "data": data, "mask": mask, "shard": (2, 3, 0, 0), "counts": True, "order": (),
    ...     "block": (1, 1), "zeros": 1, "norm": "L1", "monotone": False, "normalize": None,
    ...     "kept": None,
    ... }
    >>> search = {
    ...     "groups": (0,), "members": [(6, 1, 0, 6)], "budget": 3,
    ...     "wide": False, "has_sign": False, "key_step": 0, "hint": None,
    ... }
    >>> selection = write_masks(ShardParts([job], [search]), reduce=lambda sums: sums)
    >>> mask
    array([[False,  True, False],
           [False,  True,  True]])
    """
    while (prelude := parts.prelude()).size:
        parts.begin(reduce(prelude))
    selection = parts.selection()
    while not selection.done:
        selection.tell(reduce(parts.count(selection)))
    parts.find(selection)
    parts.write(range(len(parts.pruned())))
    return selection
