"""Masks from cuts, in two launches: all ties pruned, and then those kept that come too late."""

import triton
import triton.language as tl

from datasparse.torch.device.kernels import fields as f
from datasparse.torch.device.kernels.scoring import (
    byte_at,
    corner_of,
    free_at,
    key_at,
    keys_of_blocks,
    offset_of,
    place_of,
    strides_of,
)


@triton.jit(do_not_specialize_on_alignment=["members"])
def write(
    members, geometry, tiles, tied,
    DTYPE: tl.constexpr, NORM: tl.constexpr, BITS: tl.constexpr, SINGLE: tl.constexpr,
    FLAT: tl.constexpr, MERGED: tl.constexpr, INDEX: tl.constexpr, PAST: tl.constexpr,
    CUTS: tl.constexpr, WITHIN: tl.constexpr, TILE: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """All elements of some blocks; and how many ties a tile has, where some of them are pruned.

    Without CUTS, all blocks are kept where the ties are negative, else pruned. WITHIN: they lose
    only some of their elements.
    """
    index = tl.load(tiles + 2 * tl.program_id(0))
    first = tl.load(tiles + 2 * tl.program_id(0) + 1).to(INDEX) * (TILE * STEPS)
    member = members + index * f.MEMBER
    matrix = geometry + index * f.GEOMETRY
    blocks = tl.load(matrix + f.BLOCKS).to(INDEX)
    cut = tl.load(member + f.CUT)
    ties = tl.load(member + f.TIES)
    chosen = tl.load(member + f.FREE).to(tl.int32)
    n_tied = tl.full([], 0, tl.int32)
    for step in range(STEPS):
        block = first + step * TILE + tl.arange(0, TILE)
        there = block < blocks
        kept = there & (ties < 0)
        if CUTS:
            keys, free = keys_of_blocks(
                member, matrix, block, there, DTYPE, NORM, BITS, SINGLE, FLAT, MERGED, INDEX, PAST
            )
            tie = (free == chosen) & (keys == cut)
            kept = (free > chosen) | ((free == chosen) & (keys > cut)) | (tie & (ties == 0))
            n_tied += tl.sum((there & tie).to(tl.int32))
        store_blocks(
            member, matrix, block, there, kept,
            DTYPE, NORM, BITS, SINGLE, FLAT, MERGED, INDEX, PAST, WITHIN,
        )  # fmt: skip
    if CUTS:
        tl.store(tied + tl.program_id(0), tl.where(ties > 0, n_tied, 0))


@triton.jit(do_not_specialize_on_alignment=["members"])
def keep_late_ties(
    members, geometry, tiles, tied,
    DTYPE: tl.constexpr, NORM: tl.constexpr, BITS: tl.constexpr, SINGLE: tl.constexpr,
    FLAT: tl.constexpr, MERGED: tl.constexpr, INDEX: tl.constexpr, PAST: tl.constexpr,
    TILE: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Keeps the blocks that equal the cut, but for the first ones: as many as are pruned."""
    here = tl.load(tied + tl.program_id(0))
    if here > 0:
        index = tl.load(tiles + 2 * tl.program_id(0))
        number = tl.load(tiles + 2 * tl.program_id(0) + 1)
        member = members + index * f.MEMBER
        left = tl.load(member + f.TIES)
        for done in range(0, number, TILE):  # the tiles of a member follow each other
            tile = done + tl.arange(0, TILE)
            before = tl.load(tied + tl.program_id(0) - number + tile, mask=tile < number, other=0)
            left -= tl.sum(before.to(tl.int64))
        if left < here:
            matrix = geometry + index * f.GEOMETRY
            first = tl.load(tiles + 2 * tl.program_id(0) + 1).to(INDEX) * (TILE * STEPS)
            blocks = tl.load(matrix + f.BLOCKS).to(INDEX)
            cut = tl.load(member + f.CUT)
            chosen = tl.load(member + f.FREE).to(tl.int32)
            for step in range(STEPS):
                block = first + step * TILE + tl.arange(0, TILE)
                there = block < blocks
                keys, free = keys_of_blocks(
                    member,
                    matrix,
                    block,
                    there,
                    DTYPE,
                    NORM,
                    BITS,
                    SINGLE,
                    FLAT,
                    MERGED,
                    INDEX,
                    PAST,
                )
                tie = (there & (free == chosen) & (keys == cut)).to(tl.int32)
                late = (tie != 0) & (tl.cumsum(tie, 0) > left)
                store_blocks(
                    member, matrix, block, late, late,
                    DTYPE, NORM, BITS, SINGLE, FLAT, MERGED, INDEX, PAST, False,
                )  # fmt: skip
                left -= tl.sum(tie).to(tl.int64)


@triton.jit
def store_blocks(
    member, matrix, block, there, kept,
    DTYPE: tl.constexpr, NORM: tl.constexpr, BITS: tl.constexpr, SINGLE: tl.constexpr,
    FLAT: tl.constexpr, MERGED: tl.constexpr, INDEX: tl.constexpr, PAST: tl.constexpr,
    WITHIN: tl.constexpr,
):  # fmt: skip
    """Writes the elements of blocks that are kept, or lose all, or WITHIN, some."""
    out = tl.load(member + f.OUT)
    zeros = tl.load(member + f.KEPT)
    of_mask = strides_of(matrix, 1, INDEX)
    if SINGLE:
        row, column = place_of(matrix, block, FLAT, INDEX)
        store_byte(out, zeros, offset_of(of_mask, row, column, FLAT, MERGED), there, kept)
    else:
        rows = tl.load(matrix + f.ROWS).to(INDEX)
        columns = tl.load(matrix + f.COLUMNS).to(INDEX)
        width = tl.load(matrix + f.WIDTH).to(INDEX)
        size = tl.load(matrix + f.HEIGHT).to(INDEX) * width
        top, left = corner_of(matrix, block, INDEX)
        for place in range(0, size):
            row = top + place // width
            column = left + place % width
            exists = there & (row < rows) & (column < columns)
            stays = kept
            if WITHIN:
                rank = rank_in_block(member, matrix, place, top, left, there,
                                     DTYPE, NORM, BITS, FLAT, MERGED, INDEX, PAST)  # fmt: skip
                stays = kept | (rank >= tl.load(matrix + f.ZEROS).to(INDEX))
            store_byte(out, zeros, offset_of(of_mask, row, column, FLAT, MERGED), exists, stays)


@triton.jit
def store_byte(out, zeros, offset, there, kept):
    stays = kept & (byte_at(zeros, offset, there, 0) == 0)
    tl.store(out.to(tl.pointer_type(tl.int8)) + offset, stays.to(tl.int8), mask=there)


@triton.jit
def rank_in_block(
    member, matrix, place, top, left, there,
    DTYPE: tl.constexpr, NORM: tl.constexpr, BITS: tl.constexpr,
    FLAT: tl.constexpr, MERGED: tl.constexpr, INDEX: tl.constexpr, PAST: tl.constexpr,
):  # fmt: skip
    """How many elements of each block come before its place-th one."""
    scores = tl.load(member + f.SCORES)
    past = tl.load(member + f.PAST)
    zeros = tl.load(member + f.KEPT)
    rows = tl.load(matrix + f.ROWS).to(INDEX)
    columns = tl.load(matrix + f.COLUMNS).to(INDEX)
    width = tl.load(matrix + f.WIDTH).to(INDEX)
    size = tl.load(matrix + f.HEIGHT).to(INDEX) * width
    strides = strides_of(matrix, 0, INDEX)
    of_mask = strides_of(matrix, 1, INDEX)
    row = top + place // width
    column = left + place % width
    exists = there & (row < rows) & (column < columns)
    own = key_at(scores, offset_of(strides, row, column, FLAT, MERGED), exists, DTYPE, NORM, BITS)
    own_free = tl.full(top.shape, 1, tl.int32)
    if PAST:
        own_free = free_at(past, zeros, offset_of(of_mask, row, column, FLAT, MERGED), exists)
    rank = tl.zeros(top.shape, tl.int32)
    for other in range(0, size):
        row = top + other // width
        column = left + other % width
        exists = there & (row < rows) & (column < columns)
        offset = offset_of(strides, row, column, FLAT, MERGED)
        key = key_at(scores, offset, exists, DTYPE, NORM, BITS)
        before = (key < own) | ((key == own) & (other < place))
        if PAST:
            free = free_at(past, zeros, offset_of(of_mask, row, column, FLAT, MERGED), exists)
            before = (free < own_free) | ((free == own_free) & before)
        rank += (exists & before).to(tl.int32)
    return rank
