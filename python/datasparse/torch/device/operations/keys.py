"""Scores as integers that order as scores do, and what is pruned already below or above them.

The key of a score that is not below 0 is its bit pattern, that of one below 0 its magnitude's,
negated. So -0 is +0, every NaN is made one key, which is above that of +Inf, and no comparison
depends on how a device treats denormals.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .select import Numbers, count, room_of

PARTS = 8
SIGNS_LEAST = 1 << 20
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def integer_of(dtype: torch.dtype) -> torch.dtype:
    """Of the same size."""
    return INTEGERS[dtype.itemsize]


def nan_key(dtype: torch.dtype) -> int:
    """That of NaN, for integers as wide as the keys of that float dtype."""
    exponent = {torch.float16: 5, torch.bfloat16: 8, torch.float32: 8, torch.float64: 11}[dtype]
    return (((1 << exponent) - 1) << (8 * dtype.itemsize - 1 - exponent)) + 1


def new_keys(tensors: int, number: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Uninitialised keys of float scores: `number` a row, and more that are above all others, so
    that long rows are whole tiles."""
    room = room_of(number)
    keys = torch.empty((tensors, room), dtype=integer_of(dtype), device=device)
    if room > number:
        keys[:, number:].fill_(torch.iinfo(keys.dtype).max)
    return keys


def magnitude_of(integer: torch.dtype) -> int:
    """All bits but that of the sign."""
    return int(torch.iinfo(integer).max)


def make_keys(bits: Tensor, dtype: torch.dtype, norm: str) -> None:
    """Turns bit patterns of scores, one row after the other, into keys, in place. The bit of the
    sign is not set, unless the norm is "none"."""
    nan, magnitude = nan_key(dtype), magnitude_of(bits.dtype)
    if norm != "none":
        bits.clamp_(max=nan)
        return
    length = bits.shape[1]
    # In parts: signs take as much memory as their keys.
    for part in torch.split(bits, length if bits.numel() < SIGNS_LEAST else -(-length // PARTS), 1):
        sign = part >> (8 * dtype.itemsize - 1)
        part.bitwise_and_(magnitude).clamp_(max=nan).bitwise_xor_(sign).sub_(sign)
        part.masked_fill_(part < 1 - nan, nan)


def rank_past(keys: Tensor, past: Tensor, pruned: Numbers, dtype: torch.dtype) -> None:
    """Puts what is pruned already before all else in each row, in place; where it is more than is
    to be pruned, all else behind it."""
    returning = count(past) > pruned
    put_past(keys, past, returning, dtype)


def put_past(keys: Tensor, past: Tensor | None, returning: Tensor, dtype: torch.dtype) -> None:
    """The same where it is known whether there is more. past: None where there is nothing."""
    behind = nan_key(dtype) + 1
    if past is None:
        keys.masked_fill_(returning, behind)
        return
    keys.masked_fill_(past > returning, torch.iinfo(keys.dtype).min)
    keys.masked_fill_(past < returning, behind)
