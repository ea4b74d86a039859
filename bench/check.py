"""Whether a mask is right, told from the rule alone, without a second way to compute one.

With the scores from NumPy, a mask is the right one exactly if it is the same over each block, its
count is right, no pruned score lies above a kept one, and among those equal to the cut the pruned
ones come first. That takes two passes, where a stable sort of 64 Mi scores would take a minute.
"""

from collections.abc import Iterator

import numpy as np

from bench.cases import Case
from bench.inputs import Input

CHUNK = 1 << 20  # elements that are looked at together

INFINITY = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000, "float64": 0x7FF << 52}


def _magnitudes(array: np.ndarray, dtype: str) -> np.ndarray:
    """|x| in the type that a block is summed in."""
    if dtype == "bfloat16":
        bits: np.ndarray = (array & np.uint16(0x7FFF)).astype(np.uint32) << 16
        return bits.view(np.float32)
    return np.abs(array).astype(np.float64 if dtype == "float64" else np.float32)


def _bits(values: np.ndarray, dtype: str) -> np.ndarray:
    """Keys that order as |x| does: the bits without the sign, one and the same for every NaN."""
    integer = np.dtype(f"i{values.itemsize}").type
    keys = np.ascontiguousarray(values).view(integer) & np.iinfo(integer).max
    clipped: np.ndarray = np.minimum(keys, integer(INFINITY[dtype] + 1))
    return clipped


def keys_of(array: np.ndarray, dtype: str, block: tuple[int, int]) -> np.ndarray:
    """The scores of all blocks, as integers in the same order."""
    height, width = block
    if block == (1, 1):
        return _bits(array, dtype)
    with np.errstate(all="ignore"):
        values = _magnitudes(array, dtype)
        total = np.zeros((array.shape[0] // height, array.shape[1] // width), values.dtype)
        for row in range(height):
            for column in range(width):
                total += values[row::height, column::width]
        total /= total.dtype.type(height * width)
    return _bits(total, "float64" if dtype == "float64" else "float32")


def all_keys(input_: Input, case: Case) -> np.ndarray:
    return np.concatenate([keys.reshape(-1) for _, keys in _chunks(input_, case.block)])


def _chunks(input_: Input, block: tuple[int, int]) -> Iterator[tuple[slice, np.ndarray]]:
    rows, columns = input_.array.shape
    step = max(1, CHUNK // columns // block[0]) * block[0]
    for begin in range(0, rows, step):
        piece = slice(begin, min(rows, begin + step))
        yield piece, keys_of(input_.array[piece], input_.dtype, block)


def cut(input_: Input, case: Case) -> int:
    """The key of the last block that is pruned at the case's level."""
    keys = all_keys(input_, case)
    k = case.pruned(keys.size, case.level)
    return -1 if k == 0 else int(np.partition(keys, k - 1)[k - 1])


def fault(mask: np.ndarray, input_: Input, case: Case, level: float) -> str | None:
    """What is wrong with a mask of the input's shape; None if nothing is."""
    if case.is_n_of_m:
        return _fault_within_blocks(mask, input_, case)
    height, width = case.block
    blocks, pruned = 0, 0
    highest_pruned, lowest_kept = -1, np.iinfo(np.int64).max
    for piece, keys in _chunks(input_, case.block):
        keep = mask[piece][::height, ::width]
        whole = np.repeat(np.repeat(keep, height, axis=0), width, axis=1)
        if case.block != (1, 1) and not np.array_equal(whole, mask[piece]):
            return "a block is pruned in part"
        blocks += keys.size
        pruned += keys.size - int(np.count_nonzero(keep))
        highest_pruned = max(highest_pruned, int(np.where(keep, -1, keys).max()))
        kept = np.where(keep, keys, np.iinfo(keys.dtype).max)
        lowest_kept = min(lowest_kept, int(kept.min()) if keep.any() else lowest_kept)
    if pruned != case.pruned(blocks, level):
        return f"{pruned} of {blocks} are pruned, not {case.pruned(blocks, level)}"
    if highest_pruned > lowest_kept:
        return "a pruned score lies above a kept one"
    if highest_pruned < lowest_kept:
        return None
    kept_tie = False  # seen already
    for piece, keys in _chunks(input_, case.block):
        keep = mask[piece][::height, ::width][keys == highest_pruned]
        if (kept_tie and not keep.all()) or (np.diff(keep.view(np.int8)) < 0).any():
            return "among equal scores, a later one is pruned before an earlier one"
        kept_tie |= bool(keep.any())
    return None


def _fault_within_blocks(mask: np.ndarray, input_: Input, case: Case) -> str | None:
    width, zeros = case.block[1], case.zeros_per_block
    for piece, keys in _chunks(input_, (1, 1)):
        keep = mask[piece].reshape(-1, width)
        keys = keys.reshape(-1, width)
        if (keep.sum(axis=1, dtype=np.int8) != width - (zeros or 0)).any():
            return f"a block has not {zeros} zeros"
        for i in range(width):
            for j in range(i + 1, width):
                earlier, later = keys[:, i], keys[:, j]
                if (keep[:, i] & ~keep[:, j] & (later >= earlier)).any():
                    return f"element {j} of a block is pruned before {i}"
                if (~keep[:, i] & keep[:, j] & (later < earlier)).any():
                    return f"element {i} of a block is pruned before {j}"
    return None


def fault_of_threshold(mask: np.ndarray, input_: Input, case: Case, key: int) -> str | None:
    """What is wrong with a bound's mask, which keeps exactly what lies above the key."""
    if case.is_n_of_m:
        return _fault_within_blocks(mask, input_, case)
    for piece, keys in _chunks(input_, case.block):
        expected = np.repeat(np.repeat(keys > key, case.block[0], axis=0), case.block[1], axis=1)
        if not np.array_equal(expected, mask[piece]):
            return "the mask is not that of the threshold"
    return None
