"""A device that is a class of tensors: each holds one of the CPU, and says that it lies elsewhere.

Every operation on them passes through `__torch_dispatch__`, which counts it and refuses tensors of
two devices. What they hold, nothing else sees: a pointer to it does not exist. There is no
`backward()`, and what a call resizes keeps its old shape.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from devices import CountingDevice, Counts

aten = torch.ops.aten
CPU = torch.device("cpu")


class WrappedTensor(torch.Tensor):
    """A tensor of the device."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor, device: torch.device):
        result = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=device
        )
        result.held = held
        return result

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return DEVICE.call(func, args, kwargs or {})

    def tolist(self):
        return self.cpu().tolist()

    def __repr__(self, *, tensor_contents=None) -> str:
        return f"WrappedTensor({self.held}, device='{self.device}')"


def held_by(argument):
    """The same with the tensors that are held."""
    if isinstance(argument, (list, tuple)):
        return [held_by(element) for element in argument]
    return argument.held if isinstance(argument, WrappedTensor) else argument


def tensors_in(arguments) -> list[torch.Tensor]:
    """Arguments, and elements of lists among them."""
    result = []
    for argument in arguments:
        if isinstance(argument, torch.Tensor):
            result.append(argument)
        elif isinstance(argument, (list, tuple)):
            result += tensors_in(argument)
    return result


def one_device(func, tensors: list[torch.Tensor]) -> torch.device:
    """The device of all; numbers in the memory of the process go with any."""
    found = {tensor.device for tensor in tensors if tensor.device != CPU or tensor.dim() > 0}
    if len(found) > 1:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, {func} got {sorted(map(str, found))}"
        )
    return found.pop()


@cache
def waits(func) -> bool:
    """Whether what it gives depends on values in more than its values."""
    data_dependent = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
    return any(tag in func.tags for tag in data_dependent)


@cache
def writes(func) -> bool:
    """Whether it is more than a view of what is there, or memory that is not written yet."""
    if "empty" in func._schema.name:
        return False
    aliases = [returned.alias_info for returned in func._schema.returns]
    return any(alias is None or alias.is_write for alias in aliases)


class Wrapped(CountingDevice):
    name = "wrapped"
    places = 2

    def __init__(self) -> None:
        self._total = Counts()

    def total(self) -> Counts:
        return self._total

    def _count(self, name: str) -> None:
        self._total = replace(self._total, **{name: getattr(self._total, name) + 1})

    def _count_copy(self, source: torch.device, target: torch.device) -> None:
        if source == target:
            self._count("operations")
        elif CPU in (source, target):
            self._count("to_device" if source == CPU else "from_device")
        else:
            self._count("between")

    def _count_operation(self, func, tensors: list[torch.Tensor]) -> None:
        if writes(func):
            self._count("operations")
        if waits(func):
            self._count("reads")
        # CUDA takes most numbers with the launch, but copies this one.
        if func is aten.where.self and CPU in {tensor.device for tensor in tensors}:
            self._count("to_device")

    def copy_from(self, source, target, non_blocking=False) -> torch.Tensor:
        self._count_copy(source.device, target.device)
        held_by(target).copy_(held_by(source))
        return target

    def call(self, func, args, kwargs):
        """What an operation gives, of tensors of which some are of the device."""
        if func is aten.copy_.default:
            return self.copy_from(args[1], args[0])
        tensors = tensors_in((*args, *kwargs.values()))
        here = one_device(func, tensors)
        there = torch.device(kwargs.get("device") or here)
        if there == here:
            self._count_operation(func, tensors)
        else:
            self._count_copy(here, there)
        if "device" in kwargs:
            kwargs = {**kwargs, "device": CPU}
        result = func(*held_by(args), **{key: held_by(value) for key, value in kwargs.items()})
        if there == CPU:
            return result
        # What is done in place returns what it was given.
        given = {id(tensor.held): tensor for tensor in tensors if tensor.device != CPU}

        def wrap(made):
            if isinstance(made, (list, tuple)):
                return [wrap(one) for one in made]
            if not isinstance(made, torch.Tensor):
                return made
            return given[id(made)] if id(made) in given else WrappedTensor(made, there)

        return wrap(result)

    def make(self, func):
        """A way to make a tensor of the device from none."""

        def made(*args, device=None, **kwargs) -> torch.Tensor:
            self._count_operation(func, [])
            there = torch.device(device if device is not None else self.at())
            there = there if there.index is not None else self.at()
            return WrappedTensor(func(*args, device=CPU, **kwargs), there)

        return made


DEVICE = Wrapped()
LIBRARY = torch.library.Library("aten", "IMPL")  # what it has registered ends with it


def register() -> Wrapped:
    _setup_privateuseone_for_python_backend(Wrapped.name)
    for func in (
        aten.empty.memory_format,
        aten.empty_strided.default,
        aten.arange.start_step,
        aten.full.default,
        aten.scalar_tensor.default,
    ):
        LIBRARY.impl(func, DEVICE.make(func), "PrivateUse1")
    # torch.tensor(..., device=...) copies below the class.
    LIBRARY.impl(aten._copy_from.default, DEVICE.copy_from, "PrivateUse1")
    return DEVICE
