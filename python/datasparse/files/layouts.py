"""How a tensor lies in a packed file: which elements are there, and how their places are written.

An element is left out only if all its bits are zero, so that -0 stays. `places` says which ones are
there, and `values` are these, in C order:

bits: one bit per element, in C order, lowest first; a bit that is set is an element that is there.
N:M: M - N elements of each group of M along the last axis are there. Their places are one code per
    group, the rank of the set among all sets of M - N places, as `Pattern` says.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .._core import _count_bits
from .groups import MOST

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]


class Layout(Protocol):
    """Which elements are there. Parts of a tensor begin at multiples of `step` elements."""

    @property
    def name(self) -> str:
        """As packed files have it."""

    @property
    def step(self) -> int: ...

    def places_size(self, elements: int) -> int:
        """The bytes of `places`."""

    def values(self, elements: int, nonzero: int) -> int:
        """How many elements are there, of a tensor with so many that are not all zero bits."""

    def put(self, places: Bytes, begin: int, nonzero: Mask) -> Mask:
        """Write the places of elements from `begin` on. Returns which of them are there."""

    def bits(self, places: Bytes, begin: int, end: int) -> Bytes:
        """Which elements from `begin` to `end` are there, a bit for each, lowest first.

        ValueError for places that are damage.
        """

    def before(self, places: Bytes, end: int) -> int:
        """How many of the elements before one at a multiple of `step` are there."""

    def check(self, places: Bytes, elements: int) -> None:
        """ValueError for bits that are set beyond the end."""


@dataclass(frozen=True)
class Bits:
    """One bit per element."""

    name = "bits"
    step = 8

    def places_size(self, elements: int) -> int:
        return -(-elements // 8)

    def values(self, elements: int, nonzero: int) -> int:
        return nonzero

    def put(self, places: Bytes, begin: int, nonzero: Mask) -> Mask:
        packed = np.packbits(nonzero, bitorder="little")
        places[begin // 8 : begin // 8 + len(packed)] = packed
        return nonzero

    def bits(self, places: Bytes, begin: int, end: int) -> Bytes:
        return places[begin // 8 : -(-end // 8)]

    def before(self, places: Bytes, end: int) -> int:
        return _count_bits(places[: end // 8])

    def check(self, places: Bytes, elements: int) -> None:
        check_end(places, elements)


@dataclass(frozen=True)
class Pattern:
    """N:M, as codes of the groups of M elements, which follow each other in C order.

    zeros, size: N and M, 1 <= N < M <= 16.

    A code of w bits, 2 ** w >= binomial(M, M - N), numbers the sets of M - N places: a set is read
    as a number whose bit i is place i, and sets are in the order of these numbers. A group with
    more zeros than N keeps its first ones, until there are M - N elements. `places` is w planes
    of one bit per group, whose bytes are filled up with zeros: bit b of the code of group g is bit
    g of plane b.
    """

    zeros: int
    size: int

    @property
    def name(self) -> str:
        return f"{self.zeros}:{self.size}"

    @property
    def step(self) -> int:
        return 8 * self.size

    @property
    def width(self) -> int:
        """The bits of a code."""
        return (math.comb(self.size, self.zeros) - 1).bit_length()

    def places_size(self, elements: int) -> int:
        return self.width * self._plane(elements)

    def values(self, elements: int, nonzero: int) -> int:
        return elements // self.size * (self.size - self.zeros)

    def put(self, places: Bytes, begin: int, nonzero: Mask) -> Mask:
        # Column by column: `packbits` along a short axis takes several times as long.
        columns = nonzero.reshape(-1, self.size).view(np.uint8).T
        numbers = np.zeros(columns.shape[1], np.uint16)
        for column in columns[::-1]:
            numbers += numbers
            numbers += column
        kept, codes = tables(self)
        code = np.take(codes, numbers)
        if code.size and code.min() < 0:
            raise ValueError(f"a group of {self.size} has fewer than {self.zeros} zeros")
        first = begin // self.step
        for bit, plane in enumerate(places.reshape(self.width, -1)):
            packed = np.packbits((code >> bit & 1).astype(np.bool_), bitorder="little")
            plane[first : first + len(packed)] = packed
        return np.take(kept, code, axis=0).reshape(-1)

    def bits(self, places: Bytes, begin: int, end: int) -> Bytes:
        count = (end - begin) // self.size
        if self.size == 4:
            return self._bits_of_fours(places, begin // self.step, count)
        code = self._codes(places, begin // self.step, count)
        if self.size not in (8, 16):
            return np.packbits(np.take(tables(self)[0], code, axis=0), bitorder="little")
        return np.take(sets_of(self), code).view(np.uint8)

    def _codes(self, places: Bytes, first: int, count: int) -> NDArray[Any]:
        """Of so many groups from a byte of the planes on. ValueError for one that is none."""
        code: NDArray[Any] = np.zeros(count, np.uint8 if self.width <= 8 else np.uint16)
        for plane in places.reshape(self.width, -1)[::-1]:
            code += code
            code += mask_of(plane[first:], count)
        sets = math.comb(self.size, self.zeros)
        if count and sets < 1 << self.width and code.max() >= sets:
            raise ValueError(f"must be of codes below {sets}, got {code.max()}")
        return code

    def _bits_of_fours(self, places: Bytes, first: int, count: int) -> Bytes:
        """The same for groups of 4, four at a time: half of a byte of each plane."""
        end = first + -(-count // 8)
        planes = places.reshape(self.width, -1)[:, first:end].astype(np.uint16)
        shift = 4 * np.arange(self.width, dtype=np.uint16)[:, None]
        low = np.bitwise_or.reduce((planes & 15) << shift)
        high = np.bitwise_or.reduce((planes >> 4) << shift)
        sets = np.stack([np.take(fours_of(self), each) for each in (low, high)], axis=1)
        if not sets.all():
            self._codes(places, first, count)  # it raises
        bits: Bytes = sets.view(np.uint8).reshape(-1)[: -(-count // 2)]
        if count % 2:
            bits[-1] &= 15
        return bits

    def before(self, places: Bytes, end: int) -> int:
        return self.values(end, 0)

    def check(self, places: Bytes, elements: int) -> None:
        for plane in places.reshape(self.width, -1):
            check_end(plane, elements // self.size)

    def _plane(self, elements: int) -> int:
        return -(-(elements // self.size) // 8)


BITS = Bits()


def layout_named(name: object, last_axis: int) -> Layout:
    """The layout of that name, for a tensor whose last axis is so long. ValueError for no name."""
    if name == BITS.name:
        return BITS
    match = re.fullmatch(r"([1-9]\d?):([1-9]\d?)", name) if isinstance(name, str) else None
    if match:
        zeros, size = map(int, match.groups())
        if zeros < size <= MOST and last_axis % size == 0:
            return Pattern(zeros, size)
    raise ValueError(
        f'must be "bits", or "N:M" with N < M <= {MOST} and M a divisor of the last axis, '
        f"{last_axis}, got {name!r}"
    )


def smallest(
    elements: int, item_size: int, nonzero: int, holding: dict[int, int], least: int
) -> tuple[Layout | None, int]:
    """The layout that takes the fewest bytes, and these; None is the dense one.

    nonzero: elements whose bits are not all zero. holding: N by M, of such elements.
    least: the bytes that a layout must save to be worth its entries in a header.
    Of equals, bits come first, then the shortest group.
    """
    layouts: list[Layout] = [BITS, *(Pattern(n, m) for m, n in sorted(holding.items()) if n < m)]
    sizes = [
        each.places_size(elements) + each.values(elements, nonzero) * item_size for each in layouts
    ]
    best = min(range(len(layouts)), key=sizes.__getitem__)
    dense = elements * item_size
    return (layouts[best], sizes[best]) if sizes[best] + least <= dense else (None, dense)


@cache
def tables(pattern: Pattern) -> tuple[Mask, NDArray[np.int16]]:
    """The places of each code, (codes, M); and the code of each set of places, -1 for none."""
    size = pattern.size
    sets = np.arange(1 << size)
    places = (sets[:, None] >> np.arange(size) & 1).astype(np.bool_)
    count = places.sum(axis=1)
    room = size - pattern.zeros
    is_there = count <= room
    whole = sets[count == room]
    for place in range(size):
        added = ~places[:, place] & (count < room)
        places[added, place] = True
        count[added] += 1
    numbers = places @ (1 << np.arange(size))
    codes = np.where(is_there, np.searchsorted(whole, numbers), -1).astype(np.int16)
    return places[whole].copy(), codes


@cache
def sets_of(pattern: Pattern) -> NDArray[Any]:
    """The set of places of each code, a bit for each place."""
    places = tables(pattern)[0]
    numbers = places @ (1 << np.arange(pattern.size))
    return numbers.astype(np.uint8 if pattern.size <= 8 else "<u2")


@cache
def fours_of(pattern: Pattern) -> NDArray[np.uint16]:
    """The places of four groups of 4, by four bits of each plane; 0 where a code is none."""
    sets = np.zeros(1 << pattern.width, np.uint16)
    sets[: math.comb(pattern.size, pattern.zeros)] = sets_of(pattern)
    index = np.arange(1 << 4 * pattern.width)
    fours = np.zeros(len(index), np.uint16)
    is_there = np.ones(len(index), np.bool_)
    for group in range(4):
        code = sum((index >> 4 * bit + group & 1) << bit for bit in range(pattern.width))
        fours |= sets[code] << 4 * group
        is_there &= sets[code] > 0
    return np.where(is_there, fours, 0).astype("<u2")


def mask_of(packed: Bytes, count: int) -> NDArray[np.uint8]:
    """The first `count` bits of bytes, lowest first, as 0 and 1."""
    return np.unpackbits(packed[: -(-count // 8)], count=count, bitorder="little")


def check_end(packed: Bytes, count: int) -> None:
    """ValueError for bits that are set behind the first `count` ones."""
    if count % 8 and packed[-1] >> count % 8:
        raise ValueError(f"must not have bits beyond the end, {count}")
