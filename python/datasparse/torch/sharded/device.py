"""What the core asks of a device whose tensors are sharded: `datasparse.torch.device` on what this
rank has of each.

Whole bits are gathered where the core wants them on the host: by all ranks at the same time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from itertools import compress
from math import prod

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..device import Job, Move, MovePool, Pool, _plainly, memory, sums
from .compute import compute as compute_shards
from .compute import local
from .layout import Layout, layout_of
from .move import move as move_shards
from .parts import Unwritten
from .ranks import Ranks

__all__ = [
    "Job",
    "Move",
    "MovePool",
    "Pool",
    "add_samples",
    "compute",
    "copy",
    "give_up",
    "meet",
    "move",
    "ones",
    "pack",
    "prune",
    "put",
    "score_terms",
    "share_of",
    "unpack",
    "without_bits_of",
    "zero",
    "zero_grown",
    "zeros_in",
]

compute = _plainly(compute_shards)
move = _plainly(move_shards)


# --- masks ------------------------------------------------------------------------------------


@_plainly
def ones(shape: tuple[int, ...], layout: Layout) -> Tensor:
    own, _ = layout.box(shape)
    return layout.spread(memory.ones(own, layout.device), shape)


@_plainly
def copy(mask: DTensor) -> Tensor:
    return layout_of(mask).spread(memory.copy(local(mask)), tuple(mask.shape))


@_plainly
def put(masks: Sequence[Tensor], contents: Sequence[Tensor | Unwritten]) -> None:
    Unwritten.write_all([one for one in contents if isinstance(one, Unwritten)])
    made = [
        (local(mask), local(content))
        for mask, content in zip(masks, contents, strict=True)
        if not isinstance(content, Unwritten)
    ]
    if made:
        memory.put([mask for mask, _ in made], [content for _, content in made])


@_plainly
def prune(mask: Tensor, marks: Tensor) -> None:
    memory.prune(local(mask), local(marks))


@_plainly
def unpack(shape: tuple[int, ...], bits: bytearray, layout: Layout) -> Tensor:
    """The part that is here, of the bits of the whole."""
    if bits.count(0) == len(bits):  # what will be put there from elsewhere, mostly
        own, _ = layout.box(shape)
        return layout.spread(torch.zeros(own, dtype=torch.bool, device=layout.device), shape)
    return share_of(memory.unpack(shape, bits, torch.device("cpu")), layout)


@_plainly
def share_of(whole: Tensor, layout: Layout) -> Tensor:
    """What is here of a tensor that every rank has."""
    shape = tuple(whole.shape)
    here = box_of(whole, *layout.box(shape)).contiguous()
    return layout.spread(here.to(layout.device), shape)


_left_out: ContextVar[frozenset[int]] = ContextVar("_left_out", default=frozenset())


@contextmanager
def without_bits_of(masks: Iterable[Tensor]) -> Iterator[None]:
    """States are made without the bits of these: no rank hears of others."""
    token = _left_out.set(frozenset(map(memory_of, masks)))
    try:
        yield
    finally:
        _left_out.reset(token)


def memory_of(mask: Tensor) -> int:
    """What all tensors over the same memory have in common, also where there are no bytes in it."""
    storage: int = local(mask).untyped_storage()._cdata
    return storage


@_plainly
def pack(masks: Sequence[DTensor]) -> list[bytes]:
    """The bits of the whole, on all ranks."""
    is_packed = [memory_of(mask) not in _left_out.get() for mask in masks]
    packed = list(compress(masks, is_packed))
    bits = iter(gathered(packed, memory.pack([local(mask) for mask in packed]) if packed else []))
    return [next(bits) if is_here else b"" for is_here in is_packed]


def gathered(tensors: Sequence[DTensor], bits: Sequence[bytes]) -> list[bytes]:
    """Bits of whole tensors of one layout, of those that each rank has of them."""
    if not tensors:
        return []
    layout = layout_of(tensors[0])
    ranks = layout.together
    call = ranks.call("saving masks")
    call.agree([("tensors", str([tuple(tensor.shape) for tensor in tensors]))])
    boxes = ranks.gather([layout.box(tuple(tensor.shape)) for tensor in tensors])
    everybody = [memoryview(sent) for sent in ranks.gather_bytes(b"".join(bits))]
    whole = []
    for place, tensor in enumerate(tensors):
        flags = torch.zeros(tensor.shape, dtype=torch.bool)
        for rank, own in enumerate(boxes):
            size, offset = own[place]
            length = (prod(size) + 7) // 8
            part, everybody[rank] = everybody[rank][:length], everybody[rank][length:]
            if length:
                here = memory.unpack(size, bytearray(part), torch.device("cpu"))
                box_of(flags, size, offset).copy_(here)
        whole.append(flags)
    return memory.pack(whole)


def box_of(whole: Tensor, size: tuple[int, ...], offset: tuple[int, ...]) -> Tensor:
    places = zip(offset, size, strict=True)
    return whole[tuple(slice(first, first + length) for first, length in places)]


# --- data -------------------------------------------------------------------------------------


@_plainly
def zero(tensors: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    memory.zero([local(tensor) for tensor in tensors], [local(mask) for mask in masks])


@_plainly
def zero_grown(weights: Sequence[Tensor], grown: Sequence[Tensor]) -> None:
    memory.zero_grown([local(weight) for weight in weights], [local(new) for new in grown])


@_plainly
def zeros_in(tensors: Sequence[DTensor]) -> list[bytes]:
    return gathered(tensors, memory.zeros_in([local(tensor) for tensor in tensors]))


@_plainly
def score_terms(term: str, weight: DTensor, gradient: DTensor, scale: float = 1.0) -> Tensor:
    made = sums.score_terms(term, local(weight), local(gradient), scale)
    return layout_of(weight).spread(made, tuple(weight.shape))


@_plainly
def add_samples(
    term: str,
    scale: float,
    decay: float,
    names: Sequence[str],
    weights: Sequence[DTensor],
    gradients: Sequence[Tensor],
    before: Sequence[Tensor | None],
) -> list[Tensor]:
    """As that of any device; what one rank refuses, none adds."""
    layout = layout_of(weights[0])
    call = layout.together.call("accumulate()")
    made = call.attempt(
        sums.add_samples,
        term,
        scale,
        decay,
        names,
        [local(weight) for weight in weights],
        [local(gradient) for gradient in gradients],
        [None if old is None else local(old) for old in before],
    )
    call.agree([("the names of groups", str(list(names)))])
    assert made is not None  # else agree() has raised
    return [
        layout_of(weight).spread(new, tuple(weight.shape))
        for weight, new in zip(weights, made, strict=True)
    ]


# --- ranks ------------------------------------------------------------------------------------


@_plainly
def meet(ranks: Ranks, drawn: Sequence[int]) -> None:
    """Goes on once all ranks have come here. RankError where one of them has given up, or has drawn
    other first masks, whose hashes these are."""
    facts = [(f"the hash of drawn mask {i}", str(own)) for i, own in enumerate(drawn)]
    ranks.call("step()").agree(facts)


@_plainly
def give_up(ranks: Ranks, error: BaseException | str) -> None:
    """Takes part in the agreement that the others wait for, so that they raise as well; but for an
    error of which all ranks know."""
    if isinstance(error, BaseException) and ranks.know(error):
        return
    call = ranks.call("step()")
    call.fail(error if isinstance(error, BaseException) else RuntimeError(error))
    with suppress(BaseException):  # the caller raises what has made it give up
        call.agree()
