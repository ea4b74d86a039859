"""mode="parametrize": the model computes with a masked copy, and its parameters stay dense."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .._core import BaseDataSparsifier


class Masked(nn.Module):
    """A parametrization: the tensor where its mask keeps, else 0.

    The mask is the sparsifier's own memory. A copy of the model gets a copy of the sparsifier, tied
    to its own parameters; `Attachment.apply(copy)` brings its masks up to date.
    """

    def __init__(
        self, sparsifier: BaseDataSparsifier, name: str, gradients: str, order: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.sparsifier = sparsifier
        self.name = name
        self.gradients = gradients
        self.order = order  # of the module's parameters, for detach()
        # No buffer: it belongs to the sparsifier's state, and DDP need not send it around.
        self.mask: Tensor = sparsifier.get_mask(name)

    def forward(self, parameter: Tensor) -> Tensor:
        mask = self.mask_beside(parameter)
        if self.gradients == "masked":
            return _masked(parameter, mask)
        masked: Tensor = _StraightThrough.apply(parameter, mask)  # type: ignore[no-untyped-call]
        return masked

    def mask_beside(self, parameter: Tensor) -> Tensor:
        """The mask, which follows the parameter to its device."""
        if self.mask.device != parameter.device:
            if self.name in self.sparsifier.data_groups:  # it may have been removed since
                self.mask = _mask_of(self.sparsifier, self.name)
            self.mask = self.mask.to(parameter.device)  # that of a squashed group stays
        return self.mask

    def right_inverse(self, assigned: Tensor) -> Tensor:
        """What `module.weight = assigned` writes: the dense parameter."""
        return assigned

    def __deepcopy__(self, memo: dict[int, Any]) -> Masked:
        copied = Masked.__new__(Masked)
        nn.Module.__init__(copied)
        copied.name, copied.gradients, copied.order = self.name, self.gradients, self.order
        copied.sparsifier = copy.deepcopy(self.sparsifier, memo)
        has_group = self.name in copied.sparsifier.data_groups  # it may have been removed since
        copied.mask = _mask_of(copied.sparsifier, self.name) if has_group else self.mask.clone()
        return copied

    def extra_repr(self) -> str:
        return f"{self.name!r}, gradients={self.gradients!r}"


def _mask_of(sparsifier: BaseDataSparsifier, name: str) -> Tensor:
    """The memory of its mask. A copy whose group is squashed knows of no torch: it has an array."""
    return torch.as_tensor(sparsifier.get_mask(name))


def _masked(parameter: Tensor, mask: Tensor) -> Tensor:
    # A number would be copied to the device, which waits for that.
    return torch.where(mask, parameter, parameter.new_zeros(()))


class _StraightThrough(torch.autograd.Function):
    """Masked forwards, the identity backwards."""

    @staticmethod
    def forward(_context: Any, parameter: Tensor, mask: Tensor) -> Tensor:
        return _masked(parameter, mask)

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def masked_of(module: nn.Module, attribute: str) -> Masked | None:
    """The mask among the parametrizations of a tensor, if there is one."""
    if not parametrize.is_parametrized(module, attribute):
        return None
    entries = module.parametrizations[attribute]  # type: ignore[index]
    return next((entry for entry in entries if isinstance(entry, Masked)), None)


def mask_tensor(
    sparsifier: BaseDataSparsifier, name: str, module: nn.Module, attribute: str, gradients: str
) -> None:
    """Let a module compute with a masked copy of one of its tensors."""
    masked = Masked(sparsifier, name, gradients, tuple(module._parameters))
    # torch tries a parametrization out, which moves those of others on: spectral_norm iterates.
    others = parametrize.is_parametrized(module, attribute)
    parametrize.register_parametrization(module, attribute, masked, unsafe=others)


@dataclass(frozen=True, eq=False)
class MaskedTensor:
    """A tensor of a module, and the `Masked` among its parametrizations."""

    module: nn.Module
    attribute: str
    masked: Masked

    def make_permanent(self) -> None:
        """What the model computes with becomes a plain parameter, without any parametrization."""
        module, attribute = self.module, self.attribute
        is_trained = any(original.requires_grad for original in self._originals())
        self._take_class_over()
        parametrize.remove_parametrizations(module, attribute, leave_parametrized=True)
        frozen = module._buffers.pop(attribute, None)  # torch has no gradient of it, or no_grad()
        if frozen is not None:
            module.register_parameter(attribute, nn.Parameter(frozen, is_trained))
        self._put_in_order()

    def restorer(self) -> Callable[[], None]:
        """What brings it back as it is now, after `make_permanent()`, also after a failed one."""
        module, kind = self.module, type(self.module)
        entries: Any = module.parametrizations
        registers: list[dict[str, Any]] = [
            module._parameters, module._buffers, module._modules, entries._modules
        ]  # fmt: skip
        held = [(register, dict(register)) for register in registers]
        values = [(original, original.detach()) for original in self._originals()]

        def restore() -> None:
            module.__class__ = kind
            for register, before in held:
                register.clear()
                register.update(before)
            with torch.no_grad():
                for original, value in values:
                    original.set_(value)  # type: ignore[call-overload]

        return restore

    def _originals(self) -> list[nn.Parameter]:
        entries: Any = self.module.parametrizations[self.attribute]  # type: ignore[index]
        return list(entries.parameters(recurse=False))

    def unmask(self) -> None:
        """Take the mask away, and leave parametrizations of others."""
        parametrizations: Any = self.module.parametrizations[self.attribute]  # type: ignore[index]
        if len(parametrizations) > 1:
            del parametrizations[list(parametrizations).index(self.masked)]
            return
        self._take_class_over()
        # leave_parametrized=True would give the parameter other memory.
        parametrize.remove_parametrizations(self.module, self.attribute, leave_parametrized=False)
        self._put_in_order()

    def _put_in_order(self) -> None:
        """A parameter that is registered again comes last, and state_dict() would tell."""
        parameters = self.module._parameters
        for name in dict.fromkeys([*self.masked.order, *parameters]):
            if name in parameters:
                parameters[name] = parameters.pop(name)

    def _take_class_over(self) -> None:
        """A class of its own: a copied module shares the one that torch made, and changes."""
        shared = type(self.module)
        own = {
            name: value
            for name, value in vars(shared).items()
            if name not in ("__dict__", "__weakref__")
        }
        self.module.__class__ = type(shared.__name__, shared.__bases__, own)


def masked_tensors(modules: Iterable[nn.Module]) -> list[MaskedTensor]:
    """The tensors of these modules that parametrizations mask."""
    found = []
    for module in modules:
        if parametrize.is_parametrized(module):
            for attribute in module.parametrizations:  # type: ignore[union-attr]
                masked = masked_of(module, attribute)
                if masked is not None:
                    found.append(MaskedTensor(module, attribute, masked))
    return found
