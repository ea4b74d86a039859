"""The cut of many masks at once: digits of the keys, highest first, in two launches each.

`count` counts the keys of every member by their next digit. `decide` finds the digit of every
selection, the greatest below which no more lies than the budget pays for: what PoolSearch does
(datasparse/pool.hpp). A mask by itself is a pool of one. Nothing is read back.

COUNT is the type of counts: tl.int32, or tl.int64 where they take more.
"""

import triton
import triton.language as tl

from datasparse.torch.device.kernels import fields as f
from datasparse.torch.device.kernels.scoring import keys_of_blocks


@triton.jit
def counts_of(member, COUNT: tl.constexpr):
    return tl.load(member + f.COUNTS).to(tl.pointer_type(COUNT))


@triton.jit(do_not_specialize_on_alignment=["members"])
def clear(members, BINS: tl.constexpr, COUNT: tl.constexpr):
    """All counts of the members 0."""
    counts = counts_of(members + tl.program_id(0) * f.MEMBER, COUNT)
    tl.store(counts + tl.arange(0, BINS), tl.zeros([BINS], COUNT))


@triton.jit(do_not_specialize=["shift"], do_not_specialize_on_alignment=["members"])
def count(
    members, geometry, tiles, shift,
    DTYPE: tl.constexpr, NORM: tl.constexpr, BITS: tl.constexpr, SINGLE: tl.constexpr,
    FLAT: tl.constexpr, MERGED: tl.constexpr, INDEX: tl.constexpr, PAST: tl.constexpr,
    OF_PAST: tl.constexpr, BINS: tl.constexpr, TILE: tl.constexpr, STEPS: tl.constexpr,
    COUNT: tl.constexpr,
):  # fmt: skip
    """Adds to the counts of the members: of keys; or OF_PAST, of blocks pruned before, or free.

    A histogram costs a tile as many operations as it has bins, so that of few keys is done one by
    one: behind the first digit most are out of the question.
    """
    index = tl.load(tiles + 2 * tl.program_id(0))
    begin = tl.load(tiles + 2 * tl.program_id(0) + 1).to(INDEX) * (TILE * STEPS)
    member = members + index * f.MEMBER
    matrix = geometry + index * f.GEOMETRY
    blocks = tl.load(matrix + f.BLOCKS).to(INDEX)
    counts = counts_of(member, COUNT)
    from_digit = tl.load(member + f.CUT) >> shift
    chosen = tl.load(member + f.FREE).to(tl.int32)
    found = tl.zeros([BINS], tl.int32)
    bins = tl.arange(0, BINS)
    for step in range(STEPS):
        block = begin + step * TILE + tl.arange(0, TILE)
        there = block < blocks
        keys, free = keys_of_blocks(
            member, matrix, block, there, DTYPE, NORM, BITS, SINGLE, FLAT, MERGED, INDEX, PAST
        )
        if OF_PAST:
            n_free = tl.sum((there & (free != 0)).to(tl.int32))
            found += tl.where(bins == 1, n_free, tl.sum(there.to(tl.int32)) - n_free)
        else:
            digit = (keys >> shift) - from_digit.to(keys.dtype)  # no wrapped one is a digit
            counted = there & (digit >= 0) & (digit < BINS) & (free == chosen)
            digit = digit.to(tl.int32)
            n_counted = tl.sum(counted.to(tl.int32))
            if n_counted * 16 > TILE:
                found += tl.histogram(digit, BINS, mask=counted)
            elif n_counted > 0:
                tl.atomic_add(counts + digit, 1, mask=counted, sem="relaxed")
    tl.atomic_add(counts + bins, found, mask=found != 0, sem="relaxed")


@triton.jit(
    do_not_specialize=["first", "shift"],
    do_not_specialize_on_alignment=["members", "selections"],
)
def decide(
    members, selections, first, shift,
    BINS: tl.constexpr, OF_PAST: tl.constexpr, LAST: tl.constexpr, AGAIN: tl.constexpr,
    LOWEST: tl.constexpr, COUNT: tl.constexpr,
):  # fmt: skip
    """The next digit of each cut, and all counts 0 again.

    After the LAST one, the ties: what is left is paid to the members in their order, up to the
    first block that costs too much. AGAIN: in place of that, the members' own budgets, for a
    selection of each by itself from the lowest key on, as a bound has a cut of its own.
    """
    selection = selections + (first + tl.program_id(0)) * f.SELECTION
    begin = tl.load(selection + f.FIRST)
    end = begin + tl.load(selection + f.COUNT)
    budget = tl.load(selection + f.BUDGET)
    bins = tl.arange(0, BINS)
    cost = tl.zeros([BINS], tl.int64)
    for index in range(begin, end):
        member = members + index * f.MEMBER
        here = tl.load(counts_of(member, COUNT) + bins).to(tl.int64)
        below = tl.load(member + f.BELOW) + tl.cumsum(here, 0) - here
        below = tl.maximum(below, tl.load(member + f.LEAST))
        cost += tl.load(member + f.WEIGHT) * tl.minimum(below, tl.load(member + f.MOST))
    digit = tl.max(tl.where(cost <= budget, bins, 0), 0)
    left = budget - tl.sum(tl.where(bins == digit, cost, 0), 0)
    is_over = left < 0
    tl.debug_barrier()  # every warp has read what one of them writes next
    for index in range(begin, end):
        member = members + index * f.MEMBER
        counts = counts_of(member, COUNT)
        here = tl.load(counts + bins).to(tl.int64)
        below = tl.load(member + f.BELOW) + tl.sum(tl.where(bins < digit, here, 0), 0)
        equal = tl.sum(tl.where(bins == digit, here, 0), 0)
        cut = tl.load(member + f.CUT)
        weight = tl.load(member + f.WEIGHT)
        least = tl.load(member + f.LEAST)
        most = tl.load(member + f.MOST)
        tl.debug_barrier()
        tl.store(counts + bins, tl.zeros([BINS], COUNT))
        if OF_PAST:
            tl.store(member + f.FREE, digit.to(tl.int64))
        else:
            cut += digit.to(tl.int64) << shift
        if LAST:
            pruned = tl.minimum(tl.maximum(below, least), most)
            wanted = tl.minimum(tl.maximum(below + equal, least), most) - pruned
            paid = tl.where(is_over, 0, tl.minimum(wanted, left // tl.maximum(weight, 1)))
            is_over = is_over | (paid < wanted)
            left -= paid * weight
            if AGAIN:
                own = selections + tl.load(member + f.OWN) * f.SELECTION
                tl.store(own + f.BUDGET, pruned + paid)
                tl.store(member + f.WEIGHT, tl.full([], 1, tl.int64))
                tl.store(member + f.LEAST, tl.full([], 0, tl.int64))
                tl.store(member + f.MOST, tl.full([], 1 << 62, tl.int64))
                tl.store(member + f.FREE, tl.full([], 1, tl.int64))
                cut = tl.full([], LOWEST, tl.int64)
                below = tl.full([], 0, tl.int64)
            else:
                tl.store(member + f.TIES, pruned + paid - below)
        tl.store(member + f.BELOW, below)
        tl.store(member + f.CUT, cut)
