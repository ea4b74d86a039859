"""The pretended device: pretended.cpp, built, registered with torch, counted and limited."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from types import ModuleType

import torch

from devices import CountingDevice, Counts
from devices.build import library


class Pretended(CountingDevice):
    name = "pretended"
    places = 2

    def __init__(self) -> None:
        self._library = ctypes.CDLL(str(library()))
        self._library.pretended_memory_now.restype = ctypes.c_long
        self._library.pretended_memory_peak.restype = ctypes.c_long

    def total(self) -> Counts:
        numbers = (ctypes.c_long * len(fields(Counts)))()
        self._library.pretended_counts(numbers)
        return Counts(*numbers)

    def memory(self, index: int = 0) -> int:
        return self._library.pretended_memory_now(index)

    def peak(self, index: int = 0) -> int:
        return self._library.pretended_memory_peak(index)

    @contextmanager
    def with_room_for(self, more: int, index: int = 0) -> Iterator[None]:
        """Within it, what exceeds today's memory by more bytes raises torch.OutOfMemoryError."""
        self._library.pretended_limit(index, ctypes.c_long(self.memory(index) + more))
        try:
            yield
        finally:
            self._library.pretended_limit(index, ctypes.c_long(-1))

    @contextmanager
    def refusing(self, nth: int) -> Iterator[list[bool]]:
        """Within it, the nth request for memory from now, counted from 0, is refused.

        Whether it was is the only element of the list, afterwards.
        """
        refused: list[bool] = []
        self._library.pretended_refuse(ctypes.c_long(nth))
        try:
            yield refused
        finally:
            refused.append(bool(self._library.pretended_refuse(ctypes.c_long(-1))))


def backend_module() -> ModuleType:
    """What torch calls `torch.pretended`."""
    module = ModuleType("torch.pretended")
    module.is_available = lambda: True
    module.is_initialized = lambda: True
    module.device_count = lambda: Pretended.places
    module.current_device = torch.accelerator.current_device_index
    module.device = lambda device: torch.accelerator.device_index(torch.device(device).index)
    module._is_in_bad_fork = lambda: False
    module.manual_seed_all = lambda seed: None
    module.synchronize = lambda device=None: None
    module.get_amp_supported_dtype = lambda: [torch.float16, torch.bfloat16]
    return module


def register() -> Pretended:
    device = Pretended()
    torch.utils.rename_privateuse1_backend(Pretended.name)
    torch._register_device_module(Pretended.name, backend_module())
    torch.utils.generate_methods_for_privateuse1_backend()
    return device
