"""What a call launches, worked out on the host: nothing here depends on the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from datasparse.torch.device.job import Job, Pool
from datasparse.torch.device.kernels.geometry import (
    COLUMN_AXES,
    Geometry,
    flat,
    geometry_of,
)
from datasparse.torch.device.operations.grid import order_of

NARROW_MAX = 1 << 30


@dataclass(frozen=True, slots=True)
class Sizes:
    """How work is cut into programs. Any give the same masks."""

    tile: int = 1024  # blocks or elements at a time, a power of 2
    steps: int = 16  # of them, by a program
    score_tile: int = 32  # large blocks, by a program: each is one thread's
    within_tile: int = 512  # elements of a large block at a time
    kept_share: float = 1 / 24  # of the scores' bytes, that keys of blocks may take


class Kind(NamedTuple):
    """What kernels are compiled for: see scoring.py."""

    dtype: str
    norm: str
    bits: int
    single: bool
    flat: bool
    merged: bool
    wide: bool
    past: bool


class Class(NamedTuple):
    """Members whose keys have the same digits, and are asked for the same way."""

    bits: int
    signed: bool
    past: bool
    bounded: bool  # members of pools, whose cuts may be their own


@dataclass(eq=False, slots=True)
class Member:
    """A row of the table of members."""

    kind: Kind
    geometry: Geometry
    scores: int  # addresses
    out: int
    past: int = 0
    kept: int = 0
    cuts: bool = True  # whether it has a cut; else all blocks are kept, or none
    within: bool = False
    weight: int = 1
    least: int = 0
    most: int = 1 << 62
    ties: int = 0  # -1 without a cut: all are kept
    own: int = 0
    cut: int = 0
    counts: int = 0  # an address

    def numbers(self) -> list[int]:
        """In the order of `fields.py`."""
        return [self.scores, self.out, self.past, self.kept, self.weight, self.least, self.most,
                self.own, 0, self.cut, self.ties, 1, self.counts]  # fmt: skip


@dataclass(eq=False, slots=True)
class Large:
    """A row of the table of large blocks."""

    kind: Kind
    geometry: Geometry
    job: Job
    out: Tensor
    is_selected: bool  # else all of its blocks are pruned
    buffers: dict[str, Tensor] = field(default_factory=dict)

    @property
    def within(self) -> bool:
        return self.geometry.zeros < self.geometry.block_size

    def numbers(self) -> list[int]:
        """In the order of `large.py`."""
        names = ("keys", "free", "keep", "cut", "limit", "chosen")
        addresses = [self.buffers[n].data_ptr() if n in self.buffers else 0 for n in names]
        return [*addresses_of(self.job, self.out), *addresses]


@dataclass(eq=False, slots=True)
class Selection:
    members: list[Member]
    budget: int


@dataclass(eq=False, slots=True)
class Plan:
    """All of a call."""

    classes: dict[Class, list[Selection]] = field(default_factory=dict)
    without_cut: list[Member] = field(default_factory=list)
    large: list[Large] = field(default_factory=list)

    def members(self) -> list[Member]:
        """Those of a selection follow each other, those without a cut come last."""
        selected = [m for ss in self.classes.values() for s in ss for m in s.members]
        return selected + self.without_cut


def addresses_of(job: Job, out: Tensor) -> list[int]:
    past = job.mask.data_ptr() if job.monotone else 0
    kept = 0 if job.kept_zeros is None else job.kept_zeros.data_ptr()
    return [job.scores.data_ptr(), out.data_ptr(), past, kept]


def as_matrix(job: Job) -> tuple[Job, tuple[int, ...]]:
    """A job that the kernels take, and the order of axes that its mask then has, or ()."""
    kept = job.kept_zeros
    if kept is not None and not kept.is_contiguous():
        job = replace(job, kept_zeros=kept.contiguous())
    if job.scores.numel() == 0 or len(geometry_of(job).columns) <= COLUMN_AXES:
        return job, ()
    order = order_of(job) or tuple(range(job.scores.dim()))

    def moved(tensor: Tensor) -> Tensor:
        return tensor.permute(order).contiguous()

    kept = job.kept_zeros
    return replace(
        job,
        scores=moved(job.scores),
        mask=moved(job.mask),
        order=(),
        kept_zeros=None if kept is None else moved(kept),
    ), order


def kind_of(job: Job, geometry: Geometry, in_pool: bool) -> Kind:
    dtype = str(job.scores.dtype).removeprefix("torch.")
    single = geometry.block_size == 1
    narrow = job.scores.element_size() == 2 and single and job.norm != "L2" and not in_pool
    return Kind(
        dtype=dtype,
        norm=job.norm,
        bits=16 if narrow else 64 if dtype == "float64" else 32,
        single=single,
        flat=geometry.is_flat,
        merged=len(geometry.columns) == 1,
        wide=is_wide(geometry),
        past=job.monotone,
    )


def is_wide(geometry: Geometry) -> bool:
    """Whether indices, and those of a last tile beyond the end, may not fit into 32 bits."""
    return geometry.reach >= NARROW_MAX


def constant(job: Job, out: Tensor, keeps: bool) -> Member:
    """A mask that is all kept, or all pruned."""
    geometry = flat(job.scores.numel())
    kind = Kind("key32", "none", 32, True, True, True, is_wide(geometry), False)
    scores, address, _, kept = addresses_of(job, out)
    return Member(kind, geometry, scores, address, kept=kept, cuts=False, ties=-keeps)


class Planner:
    """Puts jobs into a plan."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self.plan = Plan()

    def add(self, job: Job, out: Tensor, in_pool: bool, loses: bool) -> Member | None:
        """The member that finds its cut, if there is one to be found."""
        geometry = geometry_of(job)
        is_selected = in_pool or 0 < job.pruned < geometry.blocks
        whole = geometry.zeros == geometry.block_size
        if geometry.zeros == 0 or not loses:
            self.plan.without_cut.append(constant(job, out, keeps=True))
            return None
        if not is_selected and whole:
            self.plan.without_cut.append(constant(job, out, keeps=False))
            return None
        kind = kind_of(job, geometry, in_pool)
        if self.is_large(job, geometry):
            return self.add_large(Large(kind, geometry, job, out, is_selected))
        scores, address, past, kept = addresses_of(job, out)
        member = Member(
            kind, geometry, scores, address, past, kept, cuts=is_selected, within=not whole
        )
        if is_selected:
            return member
        self.plan.without_cut.append(member)
        return None

    def is_large(self, job: Job, geometry: Geometry) -> bool:
        """Whether what is kept of a block is little beside it."""
        key = 8 if job.scores.dtype == torch.float64 else 4
        kept = key + 2 + (key + 9 if geometry.zeros < geometry.block_size else 0)
        bytes_of_block = geometry.block_size * job.scores.element_size()
        return geometry.block_size > 1 and kept <= self.sizes.kept_share * bytes_of_block

    def add_large(self, large: Large) -> Member | None:
        """Its keys are a matrix of single elements, whose mask says which blocks are kept."""
        self.plan.large.append(large)
        blocks, device = large.geometry.blocks, large.out.device
        key = torch.int64 if large.kind.bits == 64 else torch.int32
        buffers: dict[str, torch.dtype] = {}
        if large.is_selected:
            buffers |= {"keys": key, "keep": torch.bool}
            if large.kind.past:
                buffers["free"] = torch.bool
        if large.within:
            buffers |= {"cut": key, "limit": torch.int64, "chosen": torch.bool}
        for name, dtype in buffers.items():
            large.buffers[name] = torch.empty(blocks, dtype=dtype, device=device)
        if not large.is_selected:
            return None
        geometry = flat(blocks)
        kind = large.kind._replace(
            dtype=f"key{large.kind.bits}", single=True, flat=True, merged=True,
            wide=is_wide(geometry),
        )  # fmt: skip
        addresses = {name: buffer.data_ptr() for name, buffer in large.buffers.items()}
        return Member(
            kind, geometry, addresses["keys"], addresses["keep"], addresses.get("free", 0)
        )

    def select(self, members: list[Member], budget: int, bounded: bool = False) -> None:
        """Members that share a cut. Others' classes are others' launches."""
        bits = members[0].kind.bits
        key = Class(
            bits,
            signed=any(member.kind.norm == "none" for member in members),
            past=any(member.kind.past for member in members),
            bounded=bounded,
        )
        self.plan.classes.setdefault(key, []).append(Selection(members, budget))


def plan_of(jobs: Sequence[Job], outs: Sequence[Tensor], pools: Sequence[Pool],
            sizes: Sizes) -> Plan:  # fmt: skip
    planner = Planner(sizes)
    pooled = {i for pool in pools for i in pool.jobs}
    for i, job in enumerate(jobs):
        if i not in pooled and job.scores.numel() > 0:
            member = planner.add(job, outs[i], in_pool=False, loses=job.pruned > 0)
            if member is not None:
                planner.select([member], job.pruned)
    for pool in pools:
        members = []
        is_bounded = False
        for i, weight, least, most in zip(
            pool.jobs, pool.weights, pool.least, pool.most, strict=True
        ):
            if jobs[i].scores.numel() == 0:
                continue
            member = planner.add(jobs[i], outs[i], in_pool=weight > 0, loses=weight > 0)
            if member is None:
                continue
            member.weight, member.least, member.most = weight, least, most
            members.append(member)
            is_bounded = is_bounded or least > 0 or most < geometry_of(jobs[i]).blocks
        if members:
            planner.select(members, pool.budget, is_bounded)
    return planner.plan
