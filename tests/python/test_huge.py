"""Tensors whose indices do not fit into 32 bits. Needs about 13 GB; skipped where there is less."""

from pathlib import Path

import datasparse
import numpy as np
import pytest
import torch

NEEDED = 20 << 30
CHUNK = 1 << 24
CHECKED_AT_ONCE = 1 << 18  # fits into a cache


def available():
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) << 10
    return 0


@pytest.fixture
def _much_memory(measurable_memory):
    if not Path("/proc/meminfo").exists():
        pytest.skip("does not know how much memory is free")
    free = available()
    if free < NEEDED:
        pytest.skip(f"needs {NEEDED >> 30} GiB of free memory, {free >> 30} are")


def keys_of(piece):
    """|x| in order, as the bits without the sign; there is no NaN among the data."""
    kind = {2: np.uint16, 4: np.uint32}[piece.itemsize]
    return piece.view(kind) & kind((1 << (8 * piece.itemsize - 1)) - 1)


def assert_right(data, mask, pruned, width=1):
    """By the rule, in chunks: the count, no pruned score above a kept one, and of the ties at the
    cut the first ones pruned. A block of several elements must hold equal ones."""
    count = 0
    top = np.iinfo(keys_of(data[:1]).dtype).max
    highest_pruned, lowest_kept = -1, 1 << 32
    for begin in range(0, data.size, CHECKED_AT_ONCE):
        keep = mask[begin : begin + CHECKED_AT_ONCE]
        if width > 1:
            assert (keep.reshape(-1, width) == keep[::width, None]).all()
        keep = keep[::width]
        keys = keys_of(data[begin : begin + CHECKED_AT_ONCE])[::width]
        count += keep.size - np.count_nonzero(keep)
        if not keep.all():
            highest_pruned = max(highest_pruned, int((keys * ~keep).max()))
        if keep.any():
            below_top = ((top - keys) * keep).max()
            lowest_kept = min(lowest_kept, int(top - below_top))
    assert count == pruned
    assert highest_pruned <= lowest_kept
    if highest_pruned < lowest_kept:
        return
    kept_tie = False
    for begin in range(0, data.size, CHECKED_AT_ONCE):
        keys = keys_of(data[begin : begin + CHECKED_AT_ONCE])[::width]
        keep = mask[begin : begin + CHECKED_AT_ONCE : width][keys == highest_pruned]
        assert not (kept_tie and not keep.all()), "a later tie is pruned before an earlier one"
        assert (np.diff(keep.view(np.int8)) >= 0).all()
        kept_tie = kept_tie or bool(keep.any())
    assert kept_tie


def filled(n, dtype):
    """One piece of noise, over and over, each time of another scale; the tail is the least of all,
    so that an index that wraps around does damage."""
    data = np.empty(n, dtype)
    noise = np.random.default_rng(0).standard_normal(CHUNK, dtype=np.float32)
    scaled = [(noise * np.float32(1 + scale / 8)).astype(dtype) for scale in range(7)]
    for turn, begin in enumerate(range(0, n, CHUNK)):
        piece = data[begin : begin + CHUNK]
        piece[:] = scaled[turn % 7][: piece.size]
    data[-1000:] = 0
    return data


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.usefixtures("_much_memory")
def test_more_float16_elements_than_32_bits_count():
    n = (1 << 32) + 140000
    data = filled(n, np.float16)
    mask = np.ones(n, bool)
    datasparse.block_mask(data, sparsity_level=0.5, sparse_block_shape=(1, 1), out=mask)
    assert_right(data, mask, round(0.5 * n))
    assert not mask[-1000:].any()
    # A torch tensor with rows that end where no tile does.
    rows = columns = 65537
    matrix = torch.from_numpy(data[: rows * columns].reshape(rows, columns))
    sparsifier = datasparse.DataNormSparsifier([("w", matrix)], 0.9, sparse_block_shape=(1, 1))
    del mask
    sparsifier.step()
    seen = sparsifier.get_mask("w").numpy().reshape(-1)
    assert_right(data[: rows * columns], seen, round(0.9 * rows * columns))


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.usefixtures("_much_memory")
def test_more_float32_elements_than_31_bits_count():
    n = (1 << 31) + 4100
    data = filled(n, np.float32)
    mask = np.ones(n, bool)
    datasparse.block_mask(data, sparsity_level=0.9, sparse_block_shape=(1, 1), out=mask)
    assert_right(data, mask, round(0.9 * n))
    # Blocks of equal elements, whose score is theirs, and ties in thousands.
    for begin in range(0, n, CHUNK):
        piece = data[begin : begin + CHUNK]
        piece.view(np.uint32)[...] &= np.uint32(0xFFFFFFFC)  # so that their sums are exact
        piece[:] = np.repeat(piece[::4], 4)
    datasparse.block_mask(data, sparsity_level=0.3, sparse_block_shape=(1, 4), out=mask)
    assert_right(data, mask, round(0.3 * (n // 4)), 4)
