"""Masks on the move: what is dropped, what grows, and what they become.

Units are what is dropped: blocks, or single elements where these come and go within blocks, N:M.
Flags of units are rows as those of new_keys(), False beyond the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..job import Move, Moved
from .batch import Batch
from .draw import drawn_keys
from .grid import Grid
from .keys import make_keys
from .select import count, keep_highest, numbers
from .within import least_of_blocks


@dataclass(frozen=True, slots=True)
class Kind:
    """What moves of one batch have in common."""

    grid: Grid
    is_within: bool
    weights: torch.dtype  # that scores are in
    gradients: torch.dtype | None  # None: what grows is drawn
    norm: str
    keeps_zeros: bool
    pool: int  # -1 for none
    normalize: bool

    @property
    def units(self) -> Grid:
        return Grid(1, self.grid.elements, 1, 1, 1) if self.is_within else self.grid


class Moving:
    """Moves of one kind, between one choice and the next."""

    def __init__(self, kind: Kind, places: Sequence[int], moves: Sequence[Move]) -> None:
        self.places = places
        self.moves = moves
        self.kind = kind
        self.device = moves[0].weight.device
        jobs = [move.job for move in moves]
        self.by_weights = Batch(places, jobs, kind.units, kind.weights, self.device)
        self.by_gradients = None
        if kind.gradients is not None:
            of = [
                replace(move.job, scores=move.gradient)
                for move in moves
                if move.gradient is not None
            ]
            self.by_gradients = Batch(places, of, kind.units, kind.gradients, self.device)
        free = self.by_weights.free()
        self.was_active = self._whole(free)
        self.dead: Tensor | None = None  # nothing but zeros that stay
        if kind.keeps_zeros:
            self.dead = self._units_of(free, self.by_weights._kept())
            self.was_active.logical_and_(self.dead.logical_not())
        self.survives = self.was_active
        self.grown: Tensor | None = None
        # (moves, 1), of int64.
        self.active = count(self.was_active).to(torch.int64)
        self.pruned = kind.units.blocks - self.active
        self.number_dead = numbers([0] * len(moves), self.device)
        if self.dead is not None:
            self.number_dead = count(self.dead).to(torch.int64)

    def _units_of(self, room: Tensor, elements: Tensor) -> Tensor:
        """The same of (moves, rows, columns): `room` is free(), and is written over."""
        inside = room.fill_(True)[:, : self.kind.units.rows, : self.kind.units.columns]
        inside.copy_(elements)
        return self._whole(room)

    def _whole(self, flags: Tensor) -> Tensor:
        """Units all of whose elements are flagged, in what has the shape of free()."""
        whole = self.by_weights.past_blocks(flags).logical_not_()
        whole[:, self.kind.units.blocks :].fill_(False)
        return whole

    # --- what is dropped --------------------------------------------------------------------------

    def drop_keys(self) -> Tensor:
        return only(self.was_active, _keys(self.by_weights))

    def drop(self, keys: Tensor, number: Tensor) -> None:
        """The lowest of what is active, so many of each mask."""
        self.survives = keep_highest(keys, number).logical_and_(self.was_active)

    def drop_excess(self) -> None:
        """N:M: what a block has more than it may."""
        keys = _keys(self.by_weights)
        keys.masked_fill_(self.survives.logical_not(), torch.iinfo(keys.dtype).min)
        least = least_of_blocks(keys, self.kind.weights, None, self.kind.grid)
        survives = self.survives.clone()
        self.kind.grid.matrices(survives).logical_and_(least.logical_not_())
        self.survives = survives

    # --- what grows -------------------------------------------------------------------------------

    def may_grow(self) -> Tensor:
        may = self.survives.logical_not()
        if self.dead is not None:
            may.logical_and_(self.dead.logical_not())
        may[:, self.kind.units.blocks :].fill_(False)
        return may

    def grow_keys(self) -> Tensor:
        return only(self.may_grow(), self._growth())

    def grow(self, keys: Tensor, staying: Tensor) -> None:
        """All that may, but for the lowest, so many of each mask."""
        self.grown = keep_highest(keys, staying).logical_and_(self.may_grow())

    def grow_within(self) -> None:
        """N:M: as much in each block as it has too little."""
        keys = self._growth()
        keys.masked_fill_(self.survives, torch.iinfo(keys.dtype).max)
        if self.dead is not None:
            keys.masked_fill_(self.dead, torch.iinfo(keys.dtype).min)
        dtype = self.kind.gradients or torch.float32
        least = least_of_blocks(keys, dtype, None, self.kind.grid)
        self.grown = self.may_grow()
        self.kind.grid.matrices(self.grown).logical_and_(least.logical_not_())

    def _growth(self) -> Tensor:
        if self.by_gradients is not None:
            return _keys(self.by_gradients)
        return self.draw_keys()

    def draw_keys(self) -> Tensor:
        streams = [move.stream for move in self.moves]
        return drawn_keys(streams, self.kind.units.blocks, self.device)

    # --- what comes of it -------------------------------------------------------------------------

    def deliver(self, to: list[Moved | None]) -> None:
        assert self.grown is not None
        active = self.survives.logical_or(self.grown)
        new = self.grown.logical_and_(self.was_active.logical_not())
        tried = active.logical_or(self.was_active)
        masks, ever, grown = (self._of_elements(units, len(to)) for units in (active, tried, new))
        for place, move in zip(self.places, self.moves, strict=True):
            ever[place].logical_or_(move.ever_active)
            to[place] = Moved(masks[place], ever[place], grown[place])

    def _of_elements(self, units: Tensor, places: int) -> list[Tensor]:
        batch = self.by_weights
        tensors: list[Tensor | None] = [None] * places
        batch.deliver(batch._without_kept(batch._of_elements(units)), tensors)
        return tensors  # type: ignore[return-value]


def _keys(batch: Batch) -> Tensor:
    keys = batch.block_scores(batch.element_scores())
    make_keys(keys[:, : batch.grid.blocks], batch.dtype, batch.norm)
    return keys


def only(flags: Tensor, keys: Tensor) -> Tensor:
    """All others behind, in place."""
    return keys.masked_fill_(flags.logical_not(), torch.iinfo(keys.dtype).max)
