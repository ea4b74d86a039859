"""A device of torch under its own clock; or the CPU in its place, for a dry run."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.measure import Times

Call = Callable[[], object]
WARM_UP = 3  # calls: kernels are compiled, and memory is had


@dataclass(frozen=True)
class Place:
    name: str  # "cuda", "cpu"

    @property
    def is_cuda(self) -> bool:
        return self.name == "cuda"

    def time(self, call: Call, rounds: int) -> Times:
        """Seconds of each call, from its begin to its end on the device."""
        for _ in range(WARM_UP):
            call()
        return Times(rounds=[[self._seconds(call)] for _ in range(rounds)])

    def wall(self, call: Call, rounds: int) -> Times:
        """Seconds of each call on the clock of the CPU, which waits for its end."""
        for _ in range(WARM_UP):
            call()
        return Times(rounds=[[self._wall_seconds(call)] for _ in range(rounds)])

    def _seconds(self, call: Call) -> float:
        if not self.is_cuda:
            return self._wall_seconds(call)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1e3

    def _wall_seconds(self, call: Call) -> float:
        self.synchronize()
        begin = time.perf_counter_ns()
        call()
        self.synchronize()
        return (time.perf_counter_ns() - begin) / 1e9

    def synchronize(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize()

    def extra_memory(self, call: Call) -> int | None:
        """The most bytes that a call has at a time, besides those that were there before; None
        where nobody counts them."""
        if not self.is_cuda:
            return None
        call()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() - before

    def kernels(self, call: Call) -> int | None:
        """How many kernels and copies a call starts on the device, by torch's profiler."""
        if not self.is_cuda:
            return None
        call()
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            call()
            torch.cuda.synchronize()
        cuda = torch.autograd.DeviceType.CUDA
        return sum(event.device_type == cuda for event in profile.events())

    def describe(self) -> dict[str, Any]:
        """The machine, for the head of the table."""
        if not self.is_cuda:
            return {"device": self.name}
        facts = torch.cuda.get_device_properties(0)
        return {
            "device": facts.name,
            "memory": f"{facts.total_memory / 2**30:.0f} GiB",
            "capability": f"{facts.major}.{facts.minor}",
            "cuda": torch.version.cuda,
        }


class Writes(TorchDispatchMode):
    """Counts dispatched operations that write: what is more than a view, or memory to be filled.

    A kernel by Triton is none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aliases = [returned.alias_info for returned in func._schema.returns]
        is_view = all(alias is not None and not alias.is_write for alias in aliases)
        self.count += not is_view and "empty" not in func._schema.name
        return func(*args, **(kwargs or {}))


def writes(call: Call) -> int:
    """How many operations that write a call dispatches."""
    call()
    with Writes() as counted:
        call()
    return counted.count
