"""From jobs to masks: the launches of a call, in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any, TypeVar

import torch
import triton.language as tl
from torch import Tensor
from triton.runtime import JITFunction

from datasparse.torch.device.job import Job, Pool
from datasparse.torch.device.kernels import fields, large, selection, writing
from datasparse.torch.device.kernels.plan import (
    Class,
    Kind,
    Large,
    Member,
    Plan,
    Sizes,
    as_matrix,
    plan_of,
)
from datasparse.torch.device.kernels.tables import (
    kept_geometries,
    kept_tiles,
    upload,
)

BINS = fields.BINS.value
IS_INTERPRETED = not isinstance(selection.count, JITFunction)
T = TypeVar("T", Member, Large)


def compute_masks(
    jobs: Sequence[Job], pools: Sequence[Pool], sizes: Sizes | None = None
) -> list[Tensor]:
    """`compute()` for jobs that are taken."""
    if not jobs:
        return []
    device = jobs[0].scores.device
    with on(device), torch.no_grad():
        refuse(device)
        taken = [as_matrix(job) for job in jobs]
        matrices = [job for job, _ in taken]
        masks = [torch.empty_like(job.mask, memory_format=torch.contiguous_format)
                 for job in matrices]  # fmt: skip
        sizes = sizes or Sizes()
        Call(plan_of(matrices, masks, pools, sizes), sizes, device).run()
        for i, (_, order) in enumerate(taken):
            if order:
                places = sorted(range(len(order)), key=order.__getitem__)
                masks[i] = masks[i].permute(places).contiguous()
    return masks


def on(device: torch.device) -> AbstractContextManager[Any]:
    """Kernels go to the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def refuse(device: torch.device) -> None:
    """RuntimeError where kernels would read what is not there."""
    if device.type != ("cpu" if IS_INTERPRETED else "cuda"):
        raise RuntimeError(
            f"Triton {'interprets' if IS_INTERPRETED else 'compiles'} kernels, which takes tensors "
            f"on {'cpu' if IS_INTERPRETED else 'cuda'}, got some on {device}; compute their masks "
            "by plain operations, or set TRITON_INTERPRET before Triton is imported"
        )
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "masks must not be computed while a CUDA graph is captured: its replay would read the "
            "addresses of this call from host memory that others use by then; call step() outside "
            "of the graph"
        )


def launch(kernel: Any, programs: int, *arguments: Any, **constants: Any) -> None:
    """No multiplication is fused with an addition: the sums are the core's."""
    kernel[(programs,)](*arguments, **constants, enable_fp_fusion=False)


def digits_of(kind: Class) -> list[tuple[int, int]]:
    """(shift, bits) of the digits of the keys, highest first.

    Few bits of the first one: its histogram counts all keys, and costs as many operations as it has
    bins. Keys that are never negative have one bit less.
    """
    bits = kind.bits if kind.signed else kind.bits - 1
    if bits <= 16:
        first, others = (bits + 1) // 2, [bits // 2]
    else:
        number = -(-(bits - 10) // 11)
        first, others = bits - 11 * number, [11] * number
    shift, digits = bits, []
    for digit in [first, *others]:
        shift -= digit
        digits.append((shift, digit))
    return digits


def lowest_of(kind: Class) -> int:
    """No key is lower."""
    return -(1 << (kind.bits - 1)) if kind.signed else 0


def grouped(items: Iterable[T], key: Callable[[T], Any]) -> dict[Any, list[T]]:
    groups: dict[Any, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


class Call:
    """The launches of one call."""

    def __init__(self, plan: Plan, sizes: Sizes, device: torch.device) -> None:
        self.plan, self.sizes, self.device = plan, sizes, device
        self.members = plan.members()
        self.counted = self.members[: len(self.members) - len(plan.without_cut)]
        self.place = {id(member): i for i, member in enumerate(self.members)}
        self.large_place = {id(one): i for i, one in enumerate(plan.large)}

    def run(self) -> None:
        if not self.members and not self.plan.large:
            return
        self.place_counts()
        self.send()
        self.score_large_blocks()
        if self.plan.classes:
            self.select()
        self.write()
        self.write_large_blocks()

    def place_counts(self) -> None:
        """Keys are counted where the mask will be, which is written when its cut is known; of a
        mask that is too small, in memory of their own."""
        self.count_type = index_of(any(member.kind.wide for member in self.members))
        size = BINS * self.count_type.primitive_bitwidth // 8
        small = [member for member in self.counted if member.geometry.size < size]
        self.counts = torch.empty(len(small) * size, dtype=torch.uint8, device=self.device)
        for member in self.counted:
            member.counts = member.out
        for i, member in enumerate(small):
            member.counts = self.counts.data_ptr() + i * size

    def send(self) -> None:
        """All that the kernels are told, by one copy: members, selections, large blocks."""
        selections: list[int] = []
        alone: list[int] = []  # of members of pools with bounds, behind the others
        self.first_selection: dict[Class, int] = {}
        number = sum(len(some) for some in self.plan.classes.values())
        for kind, some in self.plan.classes.items():
            self.first_selection[kind] = len(selections) // fields.SELECTION.value
            for one in some:
                first = self.place[id(one.members[0])]
                selections += [first, len(one.members), one.budget]
                for member in one.members:
                    member.cut = lowest_of(kind)
                    if kind.bounded:
                        member.own = number + len(alone) // fields.SELECTION.value
                        alone += [self.place[id(member)], 1, 0]
        tables = [
            [number for member in self.members for number in member.numbers()],
            selections + alone,
            [number for one in self.plan.large for number in one.numbers()],
        ]
        table = upload(chain(*tables), torch.int64, self.device)
        self.table, self.selections, self.large_table = torch.split(
            table, [len(one) for one in tables]
        )
        self.geometries = kept_geometries(
            self.device, tuple(member.geometry for member in self.members)
        )
        self.large_geometries = kept_geometries(
            self.device, tuple(one.geometry for one in self.plan.large)
        )

    def tiles_of(self, members: Iterable[Member]) -> Tensor:
        parts = tuple((self.place[id(member)], member.geometry.blocks) for member in members)
        return kept_tiles(self.device, (self.sizes.tile * self.sizes.steps, parts))

    # --- cuts ------------------------------------------------------------------------------------

    def select(self) -> None:
        """Finds all cuts, one class after another."""
        launch(selection.clear, len(self.counted), self.table, BINS=BINS, COUNT=self.count_type)
        for kind, selections in self.plan.classes.items():
            members = [member for one in selections for member in one.members]
            first = self.first_selection[kind]
            self.find_cuts(kind, members, first, len(selections), again=kind.bounded)
            if kind.bounded:
                own = min(member.own for member in members)
                self.find_cuts(kind, members, own, len(members), again=False)

    def find_cuts(self, kind: Class, members: list[Member], first: int, number: int,
                  again: bool) -> None:  # fmt: skip
        digits = digits_of(kind)
        passes = [(0, 1, True)] if kind.past else []
        passes += [(shift, bits, False) for shift, bits in digits]
        by_kind = grouped(members, lambda member: member.kind)
        parts = [(constants(of), self.tiles_of(some)) for of, some in by_kind.items()]
        for shift, bits, of_past in passes:
            for options, tiles in parts:
                launch(selection.count, len(tiles), self.table, self.geometries, tiles, shift,
                       **options, OF_PAST=of_past, BINS=1 << bits, TILE=self.sizes.tile,
                       STEPS=self.sizes.steps, COUNT=self.count_type)  # fmt: skip
            is_last = (shift, bits) == digits[-1] and not of_past
            launch(selection.decide, number, self.table, self.selections, first, shift,
                   BINS=1 << bits, OF_PAST=of_past, LAST=is_last, AGAIN=is_last and again,
                   LOWEST=lowest_of(kind), COUNT=self.count_type)  # fmt: skip

    # --- masks -----------------------------------------------------------------------------------

    def write(self) -> None:
        by_kind = grouped(self.members, lambda m: (m.kind, m.cuts, m.within))
        for (kind, cuts, within), some in by_kind.items():
            tiles = self.tiles_of(some)
            tied = torch.empty(len(tiles), dtype=torch.int32, device=self.device)
            sizes = {"TILE": self.sizes.tile, "STEPS": self.sizes.steps}
            launch(writing.write, len(tiles), self.table, self.geometries, tiles, tied,
                   **constants(kind), CUTS=cuts, WITHIN=within, **sizes)  # fmt: skip
            if cuts:
                launch(writing.keep_late_ties, len(tiles), self.table, self.geometries, tiles, tied,
                       **constants(kind), **sizes)  # fmt: skip

    # --- large blocks ----------------------------------------------------------------------------

    def score_large_blocks(self) -> None:
        selected = [one for one in self.plan.large if one.is_selected]
        for kind, some in grouped(selected, lambda one: one.kind).items():
            size = self.sizes.score_tile
            self.launch_large(large.score, kind, some, size, lambda one: one.geometry.blocks,
                              TILE=size, num_warps=1)  # fmt: skip

    def write_large_blocks(self) -> None:
        by_kind = grouped(self.plan.large, lambda one: (one.kind, one.within))
        for (kind, within), some in by_kind.items():
            if within:
                self.launch_large(large.select_within, kind, some, 1,
                                  lambda one: one.geometry.blocks,
                                  TILE=self.sizes.within_tile)  # fmt: skip
            self.launch_large(large.expand, kind, some, self.sizes.tile * self.sizes.steps,
                              lambda one: one.geometry.size, WITHIN=within, TILE=self.sizes.tile,
                              STEPS=self.sizes.steps)  # fmt: skip

    def launch_large(self, kernel: Any, kind: Kind, some: list[Large], per_program: int,
                     items: Callable[[Large], int], **sizes: Any) -> None:  # fmt: skip
        parts = tuple((self.large_place[id(one)], items(one)) for one in some)
        tiles = kept_tiles(self.device, (per_program, parts))
        options = constants(kind)
        del options["SINGLE"]
        launch(kernel, len(tiles), self.large_table, self.large_geometries, tiles, **options,
               **sizes)  # fmt: skip


def constants(kind: Kind) -> dict[str, Any]:
    """As kernels name them."""
    options = {name.upper(): value for name, value in kind._asdict().items()}
    return {**options, "INDEX": index_of(options.pop("WIDE"))}


def index_of(is_wide: bool) -> tl.dtype:
    return tl.int64 if is_wide else tl.int32
