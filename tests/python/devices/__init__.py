"""The devices that tests can be asked on: `pytest --device=NAME`, one in a process.

`cpu` is the memory of the process. `pretended` has memory of its own, and a fallback to the CPU for
all that torch does: a model is trained on it. `wrapped` is a class of tensors that hold some of the
CPU: operations alone. `cuda` is a GPU. Torch has one place for devices from outside, which the two
share that need no GPU: a process has one of them.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields
from functools import cache

import torch

NAMES = ("cpu", "wrapped", "pretended", "cuda")


@dataclass(frozen=True)
class Counts:
    """What was asked of a device."""

    to_device: int = 0  # copies from the memory of the process
    from_device: int = 0  # and to it
    between: int = 0  # from one device to another
    reads: int = 0  # of values, for which the CPU waits
    operations: int = 0  # that write

    def __sub__(self, before: Counts) -> Counts:
        return Counts(*(getattr(self, f.name) - getattr(before, f.name) for f in fields(Counts)))

    @property
    def waits(self) -> int:
        """How often a GPU and the CPU would have waited for each other."""
        return self.to_device + self.from_device + self.reads


class Counted:
    """The counts of a `with` statement, once it has ended."""

    counts: Counts


class Device(ABC):
    """A kind of device. Its name is that of torch; it may have several places."""

    name: str
    places: int = 1  # how many devices of the kind there are

    def at(self, index: int = 0) -> torch.device:
        return torch.device(self.name, index)

    @property
    def other(self) -> torch.device:
        """A second one, or where there is none, the CPU."""
        return self.at(1) if self.places > 1 else torch.device("cpu")

    def put(self, thing, index: int = 0):
        """A tensor there, or a module that was moved there."""
        return thing.to(self.at(index))

    @abstractmethod
    def never_waits(self) -> AbstractContextManager[None]:
        """Fails where what is done inside reads a value, or copies to or from the CPU."""

    def memory(self, index: int = 0) -> int:
        """Bytes in use."""
        raise NotImplementedError(f"{self.name} does not count its memory")

    def peak(self, index: int = 0) -> int:
        """The most bytes that were in use at a time since the last call."""
        raise NotImplementedError(f"{self.name} does not count its memory")


class CountingDevice(Device):
    """One that counts all it is asked for."""

    @abstractmethod
    def total(self) -> Counts:
        """The counts since the beginning."""

    @contextmanager
    def counted(self) -> Iterator[Counted]:
        before, result = self.total(), Counted()
        yield result
        result.counts = self.total() - before

    @contextmanager
    def never_waits(self) -> Iterator[None]:
        with self.counted() as result:
            yield
        assert result.counts.waits == 0, result.counts


class Cpu(Device):
    name = "cpu"

    def at(self, index: int = 0) -> torch.device:
        return torch.device("cpu")

    @contextmanager
    def never_waits(self) -> Iterator[None]:
        yield


class Cuda(Device):
    name = "cuda"

    @property
    def places(self) -> int:
        return torch.cuda.device_count()

    @contextmanager
    def never_waits(self) -> Iterator[None]:
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)

    @contextmanager
    def with_room_for(self, more: int, index: int = 0) -> Iterator[None]:
        """Within it, what exceeds today's memory by more bytes raises torch.OutOfMemoryError: more
        bytes, and what a block of the allocator has left, 20 MiB at the most."""
        torch.cuda.empty_cache()
        whole = torch.cuda.get_device_properties(index).total_memory
        torch.cuda.set_per_process_memory_fraction(
            min(1.0, (torch.cuda.memory_reserved(index) + more) / whole), index
        )
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, index)

    def memory(self, index: int = 0) -> int:
        return torch.cuda.memory_allocated(index)

    def peak(self, index: int = 0) -> int:
        result = torch.cuda.max_memory_allocated(index)
        torch.cuda.reset_peak_memory_stats(index)
        return result


@cache
def named(name: str) -> Device:
    """The device of that name. It is registered with torch for as long as the process lives."""
    if name == "cpu":
        return Cpu()
    if name == "cuda":
        return Cuda()
    return importlib.import_module(f"devices.{name}").register()
