"""Blocks that are large: their keys are kept, and their masks written element by element."""

import triton
import triton.language as tl

from datasparse.torch.device.kernels import fields as f
from datasparse.torch.device.kernels.scoring import (
    free_at,
    key_at,
    keys_of_blocks,
    offset_of,
    place_of,
    strides_of,
)
from datasparse.torch.device.kernels.writing import store_byte

# Of a member of the table that these kernels read: its first four numbers are those of others.
KEYS = tl.constexpr(4)  # addresses, by block: its key, 4 or 8 bytes
FREE = tl.constexpr(5)  # whether the mask before leaves all of it
KEEP = tl.constexpr(6)  # whether it is kept; or 0, where all are pruned
CUT = tl.constexpr(7)  # the key at which pruning stops within it, 4 or 8 bytes
LIMIT = tl.constexpr(8)  # ties are pruned before this place in it, 8 bytes
CHOSEN = tl.constexpr(9)  # 1: what the mask before prunes is pruned, the cut is among the others
LARGE = tl.constexpr(10)


@triton.jit(do_not_specialize_on_alignment=["members"])
def score(
    members, geometry, tiles,
    DTYPE: tl.constexpr, NORM: tl.constexpr, BITS: tl.constexpr,
    FLAT: tl.constexpr, MERGED: tl.constexpr, INDEX: tl.constexpr, PAST: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """The keys of some blocks."""
    index = tl.load(tiles + 2 * tl.program_id(0))
    member = members + index * LARGE
    matrix = geometry + index * f.GEOMETRY
    block = tl.load(tiles + 2 * tl.program_id(0) + 1).to(INDEX) * TILE + tl.arange(0, TILE)
    there = block < tl.load(matrix + f.BLOCKS).to(INDEX)
    keys, free = keys_of_blocks(member, matrix, block, there,
                                DTYPE, NORM, BITS, False, FLAT, MERGED, INDEX, PAST)  # fmt: skip
    address = tl.load(member + KEYS)
    if BITS == 64:
        tl.store(address.to(tl.pointer_type(tl.int64)) + block, keys, mask=there)
    else:
        tl.store(address.to(tl.pointer_type(tl.int32)) + block, keys, mask=there)
    if PAST:
        tl.store(tl.load(member + FREE).to(tl.pointer_type(tl.int8)) + block, free.to(tl.int8),
                 mask=there)  # fmt: skip


@triton.jit
def elements_at(
    member, matrix, block, place, there,
    DTYPE: tl.constexpr, NORM: tl.constexpr, BITS: tl.constexpr,
    FLAT: tl.constexpr, MERGED: tl.constexpr, INDEX: tl.constexpr, PAST: tl.constexpr,
):  # fmt: skip
    """Some elements of a block: whether they exist, their keys, and whether they are free."""
    width = tl.load(matrix + f.WIDTH).to(INDEX)
    per_band = tl.load(matrix + f.PER_BAND).to(INDEX)
    row = block // per_band * tl.load(matrix + f.HEIGHT).to(INDEX) + place // width
    column = block % per_band * width + place % width
    exists = there & (row < tl.load(matrix + f.ROWS).to(INDEX))
    exists &= column < tl.load(matrix + f.COLUMNS).to(INDEX)
    offset = offset_of(strides_of(matrix, 0, INDEX), row, column, FLAT, MERGED)
    keys = key_at(tl.load(member + f.SCORES), offset, exists, DTYPE, NORM, BITS)
    free = tl.full(place.shape, 1, tl.int32)
    if PAST:
        offset = offset_of(strides_of(matrix, 1, INDEX), row, column, FLAT, MERGED)
        free = free_at(tl.load(member + f.PAST), tl.load(member + f.KEPT), offset, exists)
    return exists, keys, free


@triton.jit(do_not_specialize_on_alignment=["members"])
def select_within(
    members, geometry, tiles,
    DTYPE: tl.constexpr, NORM: tl.constexpr, BITS: tl.constexpr,
    FLAT: tl.constexpr, MERGED: tl.constexpr, INDEX: tl.constexpr, PAST: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Where pruning stops in one block that loses some of its elements: by digits of 8 bits."""
    index = tl.load(tiles + 2 * tl.program_id(0))
    member = members + index * LARGE
    matrix = geometry + index * f.GEOMETRY
    block = tl.load(tiles + 2 * tl.program_id(0) + 1).to(INDEX)
    keep = tl.load(member + KEEP)
    is_kept = tl.load(keep.to(tl.pointer_type(tl.int8)) + block, mask=keep != 0, other=0)
    if is_kept == 0:
        size = tl.load(matrix + f.HEIGHT).to(INDEX) * tl.load(matrix + f.WIDTH).to(INDEX)
        budget = tl.load(matrix + f.ZEROS)
        chosen = tl.full([], 1, tl.int32)
        if PAST:
            n_past = tl.full([], 0, tl.int64)
            for done in range(0, size, TILE):
                place = done + tl.arange(0, TILE)
                exists, keys, free = elements_at(
                    member, matrix, block, place, place < size,
                    DTYPE, NORM, BITS, FLAT, MERGED, INDEX, PAST,
                )  # fmt: skip
                n_past += tl.sum((exists & (free == 0)).to(tl.int64))
            chosen = (n_past <= budget).to(tl.int32)
            budget -= tl.where(chosen == 1, n_past, 0)
        bins = tl.arange(0, 256)
        cut = tl.full([], -(1 << (BITS - 1)), tl.int64)
        for digits in range(BITS // 8):
            shift = BITS - 8 - 8 * digits
            found = tl.zeros([256], tl.int32)
            for done in range(0, size, TILE):
                place = done + tl.arange(0, TILE)
                exists, keys, free = elements_at(
                    member, matrix, block, place, place < size,
                    DTYPE, NORM, BITS, FLAT, MERGED, INDEX, PAST,
                )  # fmt: skip
                digit = (keys >> shift) - (cut >> shift).to(keys.dtype)
                counted = exists & (free == chosen) & (digit >= 0) & (digit < 256)
                found += tl.histogram(digit.to(tl.int32), 256, mask=counted)
            below = tl.cumsum(found, 0) - found
            digit = tl.max(tl.where(below <= budget, bins, 0), 0)
            budget -= tl.sum(tl.where(bins == digit, below, 0), 0)
            cut += digit.to(tl.int64) << shift
        limit = tl.full([], 0, tl.int64)
        for done in range(0, size, TILE):
            place = done + tl.arange(0, TILE)
            exists, keys, free = elements_at(
                member, matrix, block, place, place < size,
                DTYPE, NORM, BITS, FLAT, MERGED, INDEX, PAST,
            )  # fmt: skip
            tie = (exists & (free == chosen) & (keys == cut)).to(tl.int32)
            pruned = (tie != 0) & (tl.cumsum(tie, 0) <= budget)
            limit = tl.maximum(limit, tl.max(tl.where(pruned, place + 1, 0), 0).to(tl.int64))
            budget -= tl.sum(tie)
        if BITS == 64:
            tl.store(tl.load(member + CUT).to(tl.pointer_type(tl.int64)) + block, cut)
        else:
            tl.store(tl.load(member + CUT).to(tl.pointer_type(tl.int32)) + block, cut.to(tl.int32))
        tl.store(tl.load(member + LIMIT).to(tl.pointer_type(tl.int64)) + block, limit)
        tl.store(tl.load(member + CHOSEN).to(tl.pointer_type(tl.int8)) + block, chosen.to(tl.int8))


@triton.jit(do_not_specialize_on_alignment=["members"])
def expand(
    members, geometry, tiles,
    DTYPE: tl.constexpr, NORM: tl.constexpr, BITS: tl.constexpr,
    FLAT: tl.constexpr, MERGED: tl.constexpr, INDEX: tl.constexpr, PAST: tl.constexpr,
    WITHIN: tl.constexpr, TILE: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Writes elements, where it is known which blocks are kept, and what the others lose."""
    index = tl.load(tiles + 2 * tl.program_id(0))
    first = tl.load(tiles + 2 * tl.program_id(0) + 1).to(INDEX) * (TILE * STEPS)
    member = members + index * LARGE
    matrix = geometry + index * f.GEOMETRY
    keep = tl.load(member + KEEP)
    rows = tl.load(matrix + f.ROWS).to(INDEX)
    columns = tl.load(matrix + f.COLUMNS).to(INDEX)
    height = tl.load(matrix + f.HEIGHT).to(INDEX)
    width = tl.load(matrix + f.WIDTH).to(INDEX)
    per_band = tl.load(matrix + f.PER_BAND).to(INDEX)
    of_mask = strides_of(matrix, 1, INDEX)
    for step in range(STEPS):
        element = first + step * TILE + tl.arange(0, TILE)
        there = element < rows * columns
        row, column = place_of(matrix, element, FLAT, INDEX)
        block = row // height * per_band + column // width
        kept = tl.load(keep.to(tl.pointer_type(tl.int8)) + block, mask=there & (keep != 0),
                       other=0) != 0  # fmt: skip
        if WITHIN:
            loses = there & (kept == 0)
            place = row % height * width + column % width
            _, keys, free = elements_at(
                member, matrix, block, place, loses,
                DTYPE, NORM, BITS, FLAT, MERGED, INDEX, PAST,
            )  # fmt: skip
            address = tl.load(member + CUT)
            if BITS == 64:
                cut = tl.load(address.to(tl.pointer_type(tl.int64)) + block, mask=loses, other=0)
            else:
                cut = tl.load(address.to(tl.pointer_type(tl.int32)) + block, mask=loses, other=0)
            limit = tl.load(tl.load(member + LIMIT).to(tl.pointer_type(tl.int64)) + block,
                            mask=loses, other=0)  # fmt: skip
            chosen = tl.load(tl.load(member + CHOSEN).to(tl.pointer_type(tl.int8)) + block,
                             mask=loses, other=1).to(tl.int32)  # fmt: skip
            pruned = (keys < cut) | ((keys == cut) & (place < limit))
            kept = kept | (free > chosen) | ((free == chosen) & (pruned == 0))
        store_byte(tl.load(member + f.OUT), tl.load(member + f.KEPT),
                   offset_of(of_mask, row, column, FLAT, MERGED), there, kept)  # fmt: skip
