"""The L2 norm of scores by an exact sum of their squares: `SquareSum` of the core.

A square is an integer times a power of two. Integers of each power are added up by themselves, in
pieces that do not overflow; then all become one integer, which is rounded once. No sum depends on
the order in which a device adds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .keys import magnitude_of

DIGIT = 30  # bits, of the integers that the sum is made of
COLUMNS = 64  # counters of each power, so that neighbours do not wait for the same one
PER_COLUMN = 1 << 15  # scores, at least
PART_LEAST = 1 << 18  # scores that are squared at once, at least
PARTS = 32


@dataclass(frozen=True, slots=True)
class _Format:
    """Of a float dtype."""

    fraction: int  # bits
    exponent: int  # bits
    piece: int  # bits of those that a square is cut into
    pieces: int

    @property
    def powers(self) -> int:
        return 1 << self.exponent  # the last one is that of infinity and NaN

    @property
    def least(self) -> int:
        """The exponent of the last bit of a square."""
        return 2 * (2 - (1 << (self.exponent - 1)) - self.fraction)


FORMATS = {torch.float32: _Format(23, 8, 24, 2), torch.float64: _Format(52, 11, 27, 4)}


def norms_of(scores: Tensor, dtype: torch.dtype) -> Tensor:
    """Of each row, (rows, 1), in float64: 1 where it would be 0.

    scores: the bits of float32 or float64 numbers. Infinite ones and NaN are left out.
    """
    return roots_of(digits_of(scores, dtype), dtype)


def digits_of(scores: Tensor, dtype: torch.dtype) -> Tensor:
    """(rows, digits): the sums of the squares, exact, as digits that add up over parts of a row: of
    2^32 parts at the most."""
    form = FORMATS[dtype]
    return _digits(_sums(scores, form), form)


def roots_of(digits: Tensor, dtype: torch.dtype) -> Tensor:
    """norms_of() of rows of such digits, or of sums of them."""
    _carry(digits)
    sums = _rounded(digits, FORMATS[dtype])
    return _roots(sums).masked_fill_(sums == 0, 1).masked_fill_(sums == torch.inf, torch.inf)


def _sums(bits: Tensor, form: _Format) -> Tensor:
    """(rows, pieces · powers): the sums of the pieces of squares, of each power."""
    rows, length = bits.shape
    columns = min(max(length // PER_COLUMN, 1), COLUMNS)
    shape = (form.pieces, rows, form.powers, columns)
    sums = torch.zeros(shape, dtype=torch.int64, device=bits.device)
    some = max(PART_LEAST // rows, length // PARTS) // columns * columns + columns
    for part in torch.split(bits, some, 1):
        whole = part.shape[1] // columns * columns
        for block in (torch.unflatten(part[:, :whole], 1, (-1, columns)), part[:, whole:, None]):
            if block.numel() == 0:
                continue
            magnitude = block & magnitude_of(bits.dtype)
            power = (magnitude >> form.fraction).to(torch.int64)
            for piece, sum_ in zip(_squares(magnitude, form), sums, strict=True):
                sum_.scatter_add_(1, power, piece)
    return sums.sum(3).transpose(0, 1).flatten(1)


def _squares(magnitude: Tensor, form: _Format) -> list[Tensor]:
    """The integers whose squares these are, squared: in pieces, the lowest first."""
    is_normal = magnitude >= (1 << form.fraction)
    whole = (magnitude & ((1 << form.fraction) - 1)).to(torch.int64)
    whole += is_normal.to(torch.int64) << form.fraction
    whole.masked_fill_(magnitude >= (form.powers - 1) << form.fraction, 0)
    mask = (1 << form.piece) - 1
    if form.pieces == 2:
        square = whole * whole
        return [square & mask, square >> form.piece]
    low, high = whole & mask, whole >> form.piece
    lowest, middle, highest = low * low, low * high * 2, high * high
    return [
        lowest & mask,
        (lowest >> form.piece) + (middle & mask),
        (middle >> form.piece) + (highest & mask),
        highest >> form.piece,
    ]


def _digits(sums: Tensor, form: _Format) -> Tensor:
    """(rows, digits): the sum of all as one integer, the lowest digit first, two 0 before it."""
    device = sums.device
    power = torch.arange(form.powers, device=device).clamp_(min=1).sub_(1).mul_(2)
    piece = torch.arange(form.pieces, device=device).mul_(form.piece)
    place = (piece[:, None] + power).flatten()  # of the last bit
    number = (2 * form.powers + form.piece * form.pieces) // DIGIT + 8
    digits = torch.zeros((len(sums), number), dtype=torch.int64, device=device)
    mask = (1 << DIGIT) - 1
    at, shift = place // DIGIT + 2, place % DIGIT
    for i in range(3):
        moved = ((sums >> (DIGIT * i)) & mask) << shift
        digits.index_add_(1, at + i, moved & mask)
        digits.index_add_(1, at + (i + 1), moved >> DIGIT)
    _carry(digits)
    return digits


def _carry(digits: Tensor) -> None:
    """Makes digits of numbers that are too large for them, in place."""
    for i in range(digits.shape[1] - 1):
        digits[:, i + 1].add_(digits[:, i] >> DIGIT)
        digits[:, i].bitwise_and_((1 << DIGIT) - 1)


def _rounded(digits: Tensor, form: _Format) -> Tensor:
    """(rows, 1): the nearest doubles to numbers in digits, half to even."""
    index = torch.arange(digits.shape[1], device=digits.device)
    top = ((digits != 0) * index).amax(1, keepdim=True).clamp_(min=2)
    first, second, third = (digits.gather(1, top - i) for i in range(3))
    rest = ((digits != 0) & (index < top - 2)).any(1, keepdim=True)
    length = ((first >> torch.arange(DIGIT, device=digits.device)) > 0).sum(1, keepdim=True)
    # Two digits long, from the highest bit on; what lies beyond is told by the last bit.
    number = (((first << DIGIT) | second) << (DIGIT - length)) | (third >> length)
    rest |= (third & ((torch.ones_like(length) << length) - 1)) != 0
    number |= rest
    exponent = (top - 2) * DIGIT + (length - 1 + form.least)
    # A double has 53 bits, or fewer below its least exponent.
    drop = (-1022 - exponent).clamp_(0, 54).add_(2 * DIGIT - 53)
    half = torch.ones_like(drop) << (drop - 1)
    fraction = number >> drop
    beyond = number & (half * 2 - 1)
    fraction += (beyond > half) | ((beyond == half) & (fraction % 2 != 0))
    # The highest bit of the fraction adds 1 to the exponent.
    bits = ((exponent + 1022).clamp_(0, 2046) << 52).add_(fraction).clamp_(max=2047 << 52)
    return bits.masked_fill_(first == 0, 0).view(torch.float64)


def _roots(squares: Tensor) -> Tensor:
    """The nearest doubles to the roots of positive, finite ones: sqrt() of the CPU is off by one at
    times.

    A square is M · 4^k, M of 105 or 106 bits, so that its root has 53 before the point, q. It is
    the nearest one if -q < M - q² <= q, which 64 bits tell, although M and q² have more.
    """
    is_small = squares < 2.0**-900  # among them those with fewer bits
    squares = torch.where(is_small, squares * 2.0**200, squares)
    bits = squares.view(torch.int64)
    exponent = bits >> 52
    is_even = 1 - (exponent & 1)
    fraction = ((bits & ((1 << 52) - 1)) + (1 << 52)) << is_even
    k = (exponent - is_even - (1075 + 52)) >> 1
    root = (squares.sqrt() * ((1023 - k) << 52).view(torch.float64)).to(torch.int64)
    for _ in range(2):
        rest = (fraction << 52) - root * root
        root += (rest > root).to(torch.int64) - (rest <= -root).to(torch.int64)
    found = root.to(torch.float64) * ((1023 + k) << 52).view(torch.float64)
    return torch.where(is_small, found * 2.0**-100, found)
