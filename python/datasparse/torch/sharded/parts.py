"""What is here of the tensors whose masks are computed, and who answers for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from ..device.job import Job
from .rectangle import Blocks, Integers, Rectangle

if TYPE_CHECKING:
    from ..._core import ShardSelection


Hint = tuple[tuple[int, int, int, float, float], ...]
"""`ShardHint`s of the core, of one search."""


@dataclass(frozen=True, eq=False, slots=True)
class Part:
    """A part of a job."""

    job: Job  # of what is here, its axes in the order of the matrix; `pruned` is of no account
    rectangle: Rectangle
    blocks: Blocks
    counts: bool  # False for a copy of what is counted elsewhere
    cuts: tuple[int, ...] = ()  # rows at which parts begin within a block
    mask: Tensor | None = None  # where it goes in the end, if its order is that of memory


@dataclass(frozen=True, eq=False, slots=True)
class Search:
    """Groups that share one threshold: `ShardSearch` of the core."""

    groups: tuple[int, ...]  # places among the parts
    weights: tuple[int, ...]
    least: tuple[int, ...]
    most: tuple[int, ...]
    budget: int
    normalize: tuple[bool, ...]
    as_doubles: bool  # how scores are compared: of several types, or divided
    is_wide: bool  # keys have 64 bits
    has_sign: bool
    key_step: int
    hint: Hint | None = None

    @property
    def divided(self) -> list[int]:
        """The groups whose scores are divided by their norm."""
        return [group for group, one in zip(self.groups, self.normalize, strict=True) if one]

    def cost(self, parts: Sequence[Part]) -> int:
        """Of all blocks, of whole tensors: the greatest sum that there may be."""
        pairs = zip(self.groups, self.weights, strict=True)
        return sum(parts[group].blocks.all * weight for group, weight in pairs)

    def as_dict(self, parts: Sequence[Part]) -> dict[str, Any]:
        """As ShardSelection takes it."""
        blocks = [parts[group].blocks.all for group in self.groups]
        return {
            "groups": self.groups,
            "members": list(zip(blocks, self.weights, self.least, self.most, strict=True)),
            "budget": self.budget,
            "wide": self.is_wide,
            "has_sign": self.has_sign,
            "key_step": self.key_step,
            "hint": self.hint,
        }


class Parts(Protocol):
    """The parts that one process has of the groups of some searches: `ShardParts` of the core."""

    def prelude(self) -> Integers:
        """What must be known of all parts before the first question: to be asked again after each
        begin(), until there is nothing."""

    def begin(self, sums: Integers) -> None:
        """Takes the sums of that."""

    def selection(self, most: int = 8192) -> ShardSelection:
        """The selection that answers are for: of the searches, and of what begin() was told."""

    def count(self, selection: ShardSelection) -> Integers:
        """The numbers for all questions of a round."""

    def contents(self, selection: ShardSelection) -> Sequence[Tensor | Unwritten]:
        """The masks of the parts, of the shapes of their jobs. selection.done must hold."""


@dataclass(frozen=True, eq=False, slots=True)
class Unwritten:
    """A mask that is written where it goes, when all ranks have come so far: no second one is
    needed. Nothing can fail in that."""

    write: Callable[[Sequence[int]], None]
    place: int

    @staticmethod
    def write_all(several: Sequence[Unwritten]) -> None:
        """Those of one step together, on all threads."""
        by_writer: dict[Callable[[Sequence[int]], None], list[int]] = {}
        for one in several:
            by_writer.setdefault(one.write, []).append(one.place)
        for write, places in by_writer.items():
            write(places)


def parts_for(parts: Sequence[Part], searches: Sequence[Search]) -> Parts:
    """Who answers for these parts: the core in CPU memory, else torch's operations."""
    from .core_parts import CoreParts
    from .device_parts import DeviceParts

    if all(part.job.scores.is_cpu for part in parts):
        return CoreParts(parts, searches)
    for part in parts:
        if part.cuts:
            raise ValueError(
                f"blocks of {part.job.block} must not be cut between rows where data are on a "
                f"device, got shards of {part.rectangle.whole} that begin at rows "
                f"{', '.join(map(str, part.cuts))}; take a block height that divides them"
            )
    return DeviceParts(parts, searches)
