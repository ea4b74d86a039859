"""What ranks tell each other while they compute masks together: sums of integers, and whether all
are still of one mind."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, NoReturn, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from .rectangle import Integers

Description = list[tuple[str, str]]  # topics, and what each rank has there
T = TypeVar("T")

MESSAGE = 1024  # characters of an error that go to the other ranks
NUMBERS = 24  # that go along with an agreement
TOLD = "__datasparse_told__"  # of an exception: the ranks that know of it


class RankError(RuntimeError):
    """Another rank has failed, or has something else: no rank has changed a mask."""


@dataclass
class Traffic:
    """What one rank has sent: sums of counts, and beside them what keeps ranks of one mind."""

    rounds: int = 0
    bytes: int = 0
    most: int = 0  # bytes of one round
    agreements: int = 0
    agreement_bytes: int = 0


class Ranks:
    """The ranks of one process group. There is one object for the same ranks."""

    _known: ClassVar[dict[tuple[int, ...], Ranks]] = {}

    def __init__(self, members: tuple[int, ...]) -> None:
        self.members = members  # by their numbers in the whole world
        self.traffic = Traffic()
        self.calls = 0

    @staticmethod
    def of_mesh(mesh: DeviceMesh) -> Ranks:
        """The ranks of a mesh. The first time, all of them must ask."""
        members = members_of(mesh)
        return Ranks._of(members, lambda: _group_of(mesh, members))

    @staticmethod
    def of_group(group: dist.ProcessGroup) -> Ranks:
        """The ranks of a process group."""
        return Ranks._of(tuple(sorted(dist.get_process_group_ranks(group))), lambda: group)

    @staticmethod
    def _of(members: tuple[int, ...], group: Callable[[], dist.ProcessGroup]) -> Ranks:
        known = Ranks._known.get(members)
        if known is None:
            known = Ranks._known[members] = Ranks(members)
            known._join(group())
        elif known._group not in dist.distributed_c10d._world.pg_map:  # it was destroyed
            known._join(group())
        return known

    def _join(self, group: dist.ProcessGroup) -> None:
        self.calls = 0
        self._group = group
        kinds = [torch.device(kind) for kind in group._device_types]
        # Counts are made in memory: where ranks can tell each other from there, nothing is copied.
        self._device = next((kind for kind in kinds if kind.type == "cpu"), kinds[0])

    @property
    def rank(self) -> int:
        """This one, by its number in the whole world."""
        return dist.get_rank()

    def call(self, what: str) -> Call:
        """Begins what all of them do at the same time: "step()", say."""
        self.calls += 1
        return Call(self, what, self.calls)

    def know(self, error: BaseException) -> bool:
        """Whether an error was raised where all of them learn of it."""
        return self.members in getattr(error, TOLD, ())

    def __str__(self) -> str:
        return f"ranks {', '.join(map(str, self.members))}"

    def reduce(self, numbers: Integers, by: dist.ReduceOp.RedOpType) -> Integers:
        tensor = torch.from_numpy(numbers).to(self._device, copy=True)
        dist.all_reduce(tensor, op=by, group=self._group)
        result: Integers = tensor.cpu().numpy()
        return result

    def add_up(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, a new tensor, where these can send."""
        total = tensor.to(self._device, copy=True)
        dist.all_reduce(total, group=self._group)
        return total

    def gather(self, thing: object) -> list[Any]:
        """What every rank has, in their order: for few words, by pickles."""
        everybody: list[Any] = [None] * len(self.members)
        dist.all_gather_object(everybody, thing, group=self._group)
        return everybody

    def gather_bytes(self, own: bytes) -> list[bytes]:
        """The same for many bytes, of which each rank has another number."""
        lengths = np.zeros(len(self.members), np.int64)
        here = self.members.index(self.rank)
        lengths[here] = len(own)
        lengths = self.reduce(lengths, dist.ReduceOp.SUM)
        padded = torch.zeros(int(lengths.max()), dtype=torch.uint8)
        padded[: len(own)] = torch.frombuffer(bytearray(own or b"\0"), dtype=torch.uint8)[
            : len(own)
        ]
        everybody = [torch.empty_like(padded, device=self._device) for _ in self.members]
        dist.all_gather(everybody, padded.to(self._device), group=self._group)
        return [
            rank[:length].cpu().numpy().tobytes()
            for rank, length in zip(everybody, lengths.tolist(), strict=True)
        ]


class Call:
    """One thing that ranks do together, from the first agreement on. Where one of them fails, it
    goes on to take part in what the others are waiting for, and all of them raise there."""

    def __init__(self, ranks: Ranks, what: str, number: int) -> None:
        self._ranks = ranks
        self._what = what
        self._number = number
        self._round = 0
        self._error: BaseException | None = None  # of this rank

    @property
    def traffic(self) -> Traffic:
        return self._ranks.traffic

    def attempt(self, work: Callable[..., T], *args: Any) -> T | None:
        """What the work returns; None where it fails, or where something has failed before."""
        if self._error is not None:
            return None
        try:
            return work(*args)
        except BaseException as error:  # it is raised where the others learn of it
            self._error = error
            return None

    def fail(self, error: BaseException) -> None:
        self._error = self._error or error

    def agree(
        self, description: Description | None = None, numbers: Integers | None = None
    ) -> Integers:
        """Goes on once all have come here, with the same description. Returns the maxima over ranks
        of NUMBERS numbers, which need not be the same.

        Raises what attempt() has caught, and RankError where another rank has failed or has
        something else.
        """
        described = [("call", f"{self._what} {self._number}"), *(description or [])]
        digest = hashlib.blake2b(repr(described).encode(), digest_size=7).digest()
        sign = int.from_bytes(digest, "little")
        failed = 0 if self._error is None else 1
        # As many in any call: ranks may be at different ones, and must learn of it.
        sent = np.zeros(3 + NUMBERS, np.int64)
        sent[:3] = sign, -sign, failed
        if numbers is not None:
            sent[3:] = numbers
        self.traffic.agreements += 1
        self.traffic.agreement_bytes += sent.nbytes
        maxima = self._reduce("agreement", sent, dist.ReduceOp.MAX)
        highest, lowest, failed = maxima[:3].tolist()
        if failed:
            self._raise()
        if highest != -lowest:
            self._raise_difference(self.gather(described))
        return maxima[3:]

    def sum(self, numbers: Integers | None, size: int) -> Integers:
        """The sums over all ranks of as many numbers; of None, where there is an error to raise."""
        sent = np.zeros(size + 1, np.int64)
        if numbers is None:
            sent[size] = 1
        else:
            sent[:size] = numbers
        self._round += 1
        self.traffic.rounds += 1
        self.traffic.bytes += sent.nbytes
        self.traffic.most = max(self.traffic.most, sent.nbytes)
        sums = self._reduce(f"sum {self._round} of counts", sent, dist.ReduceOp.SUM)
        if sums[size] > 0:
            self._raise()
        return sums[:size]

    def _reduce(self, what: str, numbers: Integers, by: dist.ReduceOp.RedOpType) -> Integers:
        return self._talk(what, lambda: self._ranks.reduce(numbers, by))

    def gather(self, thing: object) -> list[Any]:
        return self._talk("exchange", lambda: self._ranks.gather(thing))

    def add_up(self, tensor: Tensor) -> Tensor:
        return self._talk("sum of scores", lambda: self._ranks.add_up(tensor))

    def _talk(self, what: str, work: Callable[[], T]) -> T:
        """RankError, naming what has failed, for an error of the backend: a rank has died, or has
        not come."""
        try:
            return work()
        except RuntimeError as error:
            if self._error is not None:
                raise self._told(self._error) from error
            raise self._told(
                RankError(
                    f"the {what} in {self._what}, call {self._number} of these ranks, failed on "
                    f"rank {self._ranks.rank}: {error}; this rank has changed no mask: resume all "
                    "of them from a checkpoint"
                )
            ) from error

    def _told(self, error: BaseException) -> BaseException:
        """The same, marked: the others know."""
        known = (*getattr(error, TOLD, ()), self._ranks.members)
        with suppress(AttributeError, TypeError):  # no error must hide this one
            setattr(error, TOLD, known)
        return error

    def _raise(self) -> NoReturn:
        """The error of this rank, or that of the first one that has any."""
        own = self._error
        text = None if own is None else f"{type(own).__name__}: {own}"[:MESSAGE]
        everybody = self.gather(text)
        if own is not None:
            raise self._told(own)
        rank, error = next(
            (rank, text)
            for rank, text in zip(self._ranks.members, everybody, strict=True)
            if text is not None
        )
        raise self._told(RankError(f"rank {rank} failed in {self._what}: {error}"))

    def _raise_difference(self, everybody: Sequence[Description]) -> NoReturn:
        differences = (
            difference(everybody[0], other, f"rank {rank} differs from rank "
                       f"{self._ranks.members[0]} in {self._what}")
            for rank, other in zip(self._ranks.members, everybody, strict=True)
        )  # fmt: skip
        found = next(filter(None, differences), f"ranks have disagreed in {self._what}")
        raise self._told(RankError(f"{found}; no rank has changed a mask"))


def difference(first: Description, other: Description, begin: str) -> str | None:
    """The first fact in which two ranks differ, in words; None where there is none."""
    for (topic, here), (other_topic, there) in zip(first, other, strict=False):
        if topic != other_topic:
            return f"{begin}: it is at {other_topic} ({there}), the other at {topic} ({here})"
        if here != there:
            return f"{begin}: {topic} is {there}, and not {here}"
    if len(first) != len(other):
        return f"{begin}: it has {len(other)} facts to agree on, and not {len(first)}"
    return None


@lru_cache(1024)
def members_of(mesh: DeviceMesh) -> tuple[int, ...]:
    """The ranks of a mesh by their numbers in the whole world, ascending."""
    return tuple(sorted(mesh.mesh.flatten().tolist()))


def _group_of(mesh: DeviceMesh, members: tuple[int, ...]) -> dist.ProcessGroup:
    if mesh.ndim == 1:
        return mesh.get_group()
    world = dist.group.WORLD
    if world is not None and sorted(dist.get_process_group_ranks(world)) == list(members):
        return world
    group = dist.new_group(list(members), use_local_synchronization=True)
    assert isinstance(group, dist.ProcessGroup)
    return group
