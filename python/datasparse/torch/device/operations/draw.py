"""Keys by chance: `random.hpp` of the core, whose 64-bit numbers wrap as int64 does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .keys import new_keys
from .select import numbers

PART_LEAST = 1 << 20  # numbers that are drawn at once
UNUSED = 34  # bits
ODD, FIRST, SECOND = (
    number - (1 << 64) for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def drawn_keys(
    streams: Sequence[int],
    number: int,
    device: torch.device,
    places_of: Callable[[Tensor], Tensor] = lambda index: index,
) -> Tensor:
    """`number` keys of each stream, as rows of new_keys() of float32: the first ones, or those at
    the places that these have in what is drawn, both int64."""
    keys = new_keys(len(streams), number, torch.float32, device)
    stream = numbers(streams, device)
    step = max(PART_LEAST // len(streams), 1)
    for first in range(0, number, step):
        index = torch.arange(first, min(first + step, number), device=device)
        numbers_of_part = _mixed(places_of(index) * ODD + stream)
        keys[:, first : first + step][:, : len(index)].copy_(_shifted(numbers_of_part, UNUSED))
    return keys


def _mixed(number: Tensor) -> Tensor:
    """In place."""
    number.add_(ODD)
    number.bitwise_xor_(_shifted(number, 30)).mul_(FIRST)
    number.bitwise_xor_(_shifted(number, 27)).mul_(SECOND)
    return number.bitwise_xor_(_shifted(number, 31))


def _shifted(number: Tensor, by: int) -> Tensor:
    """To the right, with zeros from the left."""
    return (number >> by).bitwise_and_((1 << (64 - by)) - 1)
