"""The tables that kernels read, all of 64-bit integers: what stands where in a row.

A member is a mask with a cut of its own or a pool's; a selection is the members of a cut.
"""

from __future__ import annotations

import triton.language as tl

# Of a member, in the table of a call: addresses, what a pool says of it, and its cut. Kernels
# change the cut as they find it.
SCORES = tl.constexpr(0)
OUT = tl.constexpr(1)
PAST = tl.constexpr(2)  # the mask before; or 0
KEPT = tl.constexpr(3)  # what stays zero; or 0
WEIGHT = tl.constexpr(4)
LEAST = tl.constexpr(5)
MOST = tl.constexpr(6)
OWN = tl.constexpr(7)  # its selection where it is alone
BELOW = tl.constexpr(8)  # keys below the cut, as far as it is known
CUT = tl.constexpr(9)
TIES = tl.constexpr(10)  # of the keys that equal the cut, so many are pruned
FREE = tl.constexpr(11)  # 1: what the mask before prunes is pruned, the cut is among the others
COUNTS = tl.constexpr(12)  # the address of its counts, BINS of them
MEMBER = tl.constexpr(13)  # so many numbers

# Of a selection, in the same table, behind the members.
FIRST = tl.constexpr(0)
COUNT = tl.constexpr(1)  # members; each other's neighbours
BUDGET = tl.constexpr(2)
SELECTION = tl.constexpr(3)

# Of a member's matrix: Geometry.numbers().
ROWS = tl.constexpr(0)
COLUMNS = tl.constexpr(1)
HEIGHT = tl.constexpr(2)
WIDTH = tl.constexpr(3)
PER_BAND = tl.constexpr(4)
BLOCKS = tl.constexpr(5)
ZEROS = tl.constexpr(6)
ROW = tl.constexpr(7)  # strides of the rows: of the scores, of the mask
AXES = tl.constexpr(9)  # of the columns, innermost first: length and two strides each
GEOMETRY = tl.constexpr(18)

BINS = tl.constexpr(2048)  # so many counts of a member, for the largest digit
