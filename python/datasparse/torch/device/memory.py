"""Masks and zeros on a device: made, copied, packed, and written into tensors.

A mask is a contiguous bool tensor on the device of its data. All of this works on the caller's
current stream, and only what brings bytes to the host waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .operations.keys import integer_of


def ones(shape: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.ones(shape, dtype=torch.bool, device=device)


def copy(mask: Tensor) -> Tensor:
    return mask.clone()


def put(masks: Sequence[Tensor], contents: Sequence[Tensor]) -> None:
    """Copy contents into masks of their shapes."""
    torch._foreach_copy_(list(masks), list(contents))


def prune(mask: Tensor, marks: Tensor) -> None:
    """Prune what is marked."""
    mask.logical_and_(marks.logical_not())


def zero(tensors: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """Write +0 wherever a mask prunes: also where there is NaN, which a product would keep.

    All memory that it takes is asked for first: a zero of each dtype.
    """
    zeros = {tensor.dtype: tensor.new_zeros(()) for tensor in tensors}
    for tensor, mask in zip(tensors, masks, strict=True):
        torch.where(mask, tensor, zeros[tensor.dtype], out=tensor)


def zero_grown(weights: Sequence[Tensor], grown: Sequence[Tensor]) -> None:
    """Write +0 where weights have grown. Needs no memory, and does not fail: no elements of one
    overlap, which the core has seen to."""
    for weight, new in zip(weights, grown, strict=True):
        with torch.inference_mode(weight.is_inference()):
            weight.masked_fill_(new, 0)


def zeros_in(tensors: Sequence[Tensor]) -> list[bytes]:
    """The places of zeros, of both signs, as `pack()` packs. By their bits: a device may take
    denormal numbers for zeros. Waits once."""
    return to_host([packed(_magnitude(tensor) == 0) for tensor in tensors])


def pack(masks: Sequence[Tensor]) -> list[bytes]:
    """Eight elements to a byte, the first in the lowest bit, the last byte filled up with zeros.

    Waits once, for all of them together.
    """
    return to_host([packed(mask) for mask in masks])


def unpack(shape: tuple[int, ...], bits: bytearray, device: torch.device) -> Tensor:
    """The inverse of `pack()`."""
    if not bits:
        return ones(shape, device)
    flat = torch.frombuffer(bits, dtype=torch.uint8).to(device)
    places = torch.arange(8, dtype=torch.uint8, device=device)
    elements = flat.unsqueeze(1).bitwise_right_shift(places).bitwise_and(1).to(torch.bool)
    size = torch.Size(shape).numel()
    return elements.flatten()[:size].reshape(shape).clone()


def packed(marks: Tensor) -> Tensor:
    """A bool tensor as bits, where it is."""
    size = marks.numel()
    padded = marks.new_zeros((size + 7) // 8 * 8)
    padded[:size] = marks.flatten()
    places = torch.arange(8, dtype=torch.uint8, device=marks.device)
    eights = padded.view(-1, 8).to(torch.uint8).bitwise_left_shift(places)
    return eights.sum(1, dtype=torch.uint8)


def to_host(tensors: Sequence[Tensor]) -> list[bytes]:
    """The bytes of uint8 tensors, by one copy."""
    if not tensors:
        return []
    everything = torch.cat(list(tensors)).cpu().numpy().tobytes()
    ends = [0]
    for tensor in tensors:
        ends.append(ends[-1] + tensor.numel())
    return [everything[first:last] for first, last in pairwise(ends)]


def _magnitude(tensor: Tensor) -> Tensor:
    """The bits without the sign, moved up by one."""
    return tensor.view(integer_of(tensor.dtype)).bitwise_left_shift(1)
