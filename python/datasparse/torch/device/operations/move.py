"""From masks to those that they move to: in batches, of which each takes a fixed number of
operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from ..job import Move, Moved, MovePool
from .arithmetic import dtype_of_sums, exact_arithmetic, is_exact, require_exact
from .compute import BATCH_LEAST
from .grid import Grid
from .moving import Kind, Moving, only
from .pool import common_keys, share_out
from .select import numbers


def move(moves: Sequence[Move], pools: Sequence[MovePool]) -> list[Moved]:
    """What masks become that are all on one device, and have elements: equal to the bit to what the
    core makes of them on the CPU. Changes nothing.

    Nothing is read back, and nothing but launches goes to the device. ValueError where it cannot
    compute the same bits, float64 among them: require_exact().

    Cost: moves of one size, dtype and config take about 600 operations together, most of which
    read or write what they are ranked by once; a pool takes about 250 for each size, and 1,500.
    Memory besides what is returned, 3 bytes an element: up to 16 for each of the largest tensor, or
    of a pool, or 64 MiB.
    """
    if not moves:
        return []
    device = moves[0].weight.device
    if not is_exact(device, torch.float64):
        raise ValueError(
            f"masks on device {str(device)!r} must move by a share of what is active, a product in "
            "float64, which it does not compute as the CPU does: move the tensors to the CPU"
        )
    most = max(BATCH_LEAST, *(one.weight.numel() for one in moves))
    made: list[Moved | None] = [None] * len(moves)
    with torch.inference_mode(False), torch.no_grad(), exact_arithmetic(device):
        alone, pooled = _batches(moves, pools, device, most)
        for kind, places in alone:
            some = Moving(kind, places, [moves[i] for i in places])
            _move_alone(some)
            some.deliver(made)
        for pool, members in zip(pools, pooled, strict=True):
            batches = [Moving(kind, places, [moves[i] for i in places]) for kind, places in members]
            _move_together(pool, batches)
            for some in batches:
                some.deliver(made)
    return [one for one in made if one is not None]


def _move_alone(some: Moving) -> None:
    fractions = numbers([one.fraction for one in some.moves], some.device, torch.float64)
    dropped = (some.active.to(torch.float64) * fractions).floor_().to(torch.int64)
    target = numbers([one.job.pruned for one in some.moves], some.device)
    if not some.kind.is_within:
        dropped = dropped.maximum(target - some.pruned)
    some.drop(some.drop_keys(), dropped.clamp_(min=0).minimum(some.active))
    if some.kind.is_within:
        some.drop_excess()
        some.grow_within()
    else:
        some.grow(some.grow_keys(), (target - some.number_dead).clamp_(min=0))


def _move_together(pool: MovePool, batches: Sequence[Moving]) -> None:
    """Those of a pool."""
    at = {place: (some, row) for some in batches for row, place in enumerate(some.places)}
    members = [(*at[place], weight) for place, weight in zip(pool.moves, pool.weights, strict=True)]

    def weigh(number: Callable[[Moving], Tensor]) -> Tensor:
        """(1, 1): so much of all members."""
        return torch.stack([number(some)[row] * by for some, row, by in members]).sum(0)[:, None]

    active = weigh(lambda some: some.active)
    dropped = _dropped_by_fraction(members, active)
    if not batches[0].kind.is_within:
        dropped = dropped.maximum(pool.pruned - weigh(lambda some: some.pruned))
    dropped = dropped.clamp_(min=0).minimum(active)
    weights = [some.by_weights for some in batches]
    normalize = [some.kind.normalize for some in batches]
    ranked = common_keys(weights, normalize)
    keys = [only(some.was_active, own) for some, own in zip(batches, ranked, strict=True)]
    for some, number in zip(batches, share_out(pool, weights, keys, dropped), strict=True):
        some.drop(some.drop_keys(), number)
    del keys, ranked
    if batches[0].kind.is_within:
        for some in batches:
            some.drop_excess()
            some.grow_within()
        return
    staying = (pool.pruned - weigh(lambda some: some.number_dead)).clamp_(min=0)
    gradients = [some.by_gradients for some in batches if some.by_gradients is not None]
    ranked = (
        common_keys(gradients, normalize) if gradients else [some.draw_keys() for some in batches]
    )
    keys = [only(some.may_grow(), own) for some, own in zip(batches, ranked, strict=True)]
    for some, number in zip(batches, share_out(pool, weights, keys, staying), strict=True):
        some.grow(some.grow_keys(), number)


def _dropped_by_fraction(members: Sequence[tuple[Moving, int, int]], active: Tensor) -> Tensor:
    """(1, 1): one product where all have the same fraction, else a sum in the order of members."""
    fractions = [some.moves[row].fraction for some, row, _ in members]
    if len(set(fractions)) == 1:
        return (active.to(torch.float64) * fractions[0]).floor_().to(torch.int64)
    total = torch.zeros((1, 1), dtype=torch.float64, device=active.device)
    for (some, row, weight), fraction in zip(members, fractions, strict=True):
        total += (some.active[row] * weight).to(torch.float64) * fraction
    return total.floor_().to(torch.int64)


# --- what goes together ---------------------------------------------------------------------------

_Batches: TypeAlias = list[tuple[Kind, list[int]]]


def _batches(
    moves: Sequence[Move], pools: Sequence[MovePool], device: torch.device, most: int
) -> tuple[_Batches, list[_Batches]]:
    """The kinds and places of moves by themselves, and of those of each pool."""
    kinds = [kind_of(move) for move in moves]
    for number, pool in enumerate(pools):
        for place, normalize in zip(pool.moves, pool.normalize, strict=True):
            kinds[place] = replace(kinds[place], pool=number, normalize=normalize)
        _bring_together(pool, kinds)
    places: dict[Kind, list[int]] = {}
    for place, kind in enumerate(kinds):
        places.setdefault(kind, []).append(place)
    alone: _Batches = []
    pooled: list[_Batches] = [[] for _ in pools]
    for kind, own in places.items():
        job = moves[own[0]].job
        for dtype, given in ((kind.weights, job.scores), (kind.gradients, moves[own[0]].gradient)):
            is_new = given is not None and dtype != given.dtype
            if dtype is not None and (is_new or is_computed(kind)):
                require_exact(device, dtype)
        step = max(most // kind.grid.elements, 1)
        for first in range(0, len(own), step):
            (alone if kind.pool < 0 else pooled[kind.pool]).append(
                (kind, own[first : first + step])
            )
    return alone, pooled


def kind_of(move: Move) -> Kind:
    job, gradient = move.job, move.gradient
    kind = Kind(
        grid=Grid.of(job),
        is_within=move.is_within,
        weights=job.scores.dtype,
        gradients=None if gradient is None else gradient.dtype,
        norm=job.norm,
        keeps_zeros=job.kept_zeros is not None,
        pool=-1,
        normalize=False,
    )
    return _with_sums(kind) if is_computed(kind) else kind


def is_computed(kind: Kind) -> bool:
    """Whether scores are other numbers than the elements."""
    return kind.norm == "L2" or kind.units.size > 1


def _with_sums(kind: Kind, weights: bool = True, gradients: bool = True) -> Kind:
    """Scores in the type that sums are in."""
    if weights:
        kind = replace(kind, weights=dtype_of_sums(kind.weights))
    if gradients and kind.gradients is not None:
        kind = replace(kind, gradients=dtype_of_sums(kind.gradients))
    return kind


def _bring_together(pool: MovePool, kinds: list[Kind]) -> None:
    """Keys of a pool are compared: of one type as they are."""
    own = [kinds[place] for place in pool.moves]
    divided = any(pool.normalize)
    weights = divided or len({kind.weights for kind in own}) > 1
    gradients = divided or len({kind.gradients for kind in own}) > 1
    for place in pool.moves:
        kinds[place] = _with_sums(kinds[place], weights, gradients)
