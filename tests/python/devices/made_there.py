"""Makes the tensors of a test on a device, so that the test need not say where."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import datasparse
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

from devices import Device

LIBRARY = str(Path(datasparse.__file__).parent)
TO_NUMPY = (torch.Tensor.numpy, torch.Tensor.__array__)


def called_by_the_library() -> bool:
    """Whether what calls this is called by a function of ours."""
    return sys._getframe(2).f_code.co_filename.startswith(LIBRARY)


def making_on(device: Device) -> AbstractContextManager[Any]:
    """Within it, tensors are made on the device."""
    return nullcontext() if device.name == "cpu" else MadeThere(device.at())


class MadeThere(TorchFunctionMode):
    """As `with torch.device(...)`, but for what the library makes, which has to say where.

    What comes from NumPy is copied there, and what is asked for as an array comes from there.
    """

    _from_numpy = staticmethod(torch.from_numpy)  # no mode sees it

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __enter__(self):
        # The core has looked torch's functions up by then, and keeps them.
        datasparse.DataNormSparsifier([("w", torch.zeros(4))])

        def from_numpy(array):
            made = self._from_numpy(array)
            return made if called_by_the_library() else made.to(self.device)

        torch.from_numpy = from_numpy
        return super().__enter__()

    def __exit__(self, *exception):
        torch.from_numpy = self._from_numpy
        super().__exit__(*exception)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if torch.compiler.is_compiling():  # which sees no callers
            return func(*args, **kwargs)
        if called_by_the_library():
            return func(*args, **kwargs)
        if func in TO_NUMPY:
            return func(args[0].cpu(), *args[1:], **kwargs)
        if func in _device_constructors() and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": self.device}
        return func(*args, **kwargs)
