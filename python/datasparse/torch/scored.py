"""The weights of a model that a sparsifier ranks, and a model that stays as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .._core import BaseDataSparsifier
from .attachment import Attachment, attachments_of
from .parametrize import masked_tensors
from .places import plain_model
from .weights import Weight, set_training, weight_of


@dataclass(frozen=True)
class Scored:
    """What is scored: `weights` by name, those of groups whose masks a step renews.

    `owners` are all weights that stand for each, several where they are tied. `in_place` are the
    names into which zeros are written.
    """

    model: nn.Module
    sparsifier: BaseDataSparsifier
    owners: dict[str, list[Weight]]
    in_place: tuple[str, ...]

    @property
    def weights(self) -> dict[str, Weight]:
        return {name: owners[0] for name, owners in self.owners.items()}

    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameter that each is. ValueError for one that is computed, or gets no gradient."""
        found = {}
        for name, weight in self.weights.items():
            if weight.written is None or weight.made_by is not None:
                raise ValueError(
                    f"{name!r} is made by {weight.made_by}, and torch keeps the gradients of its "
                    "parameters, not its own: leave it out by exclude, or freeze its mask"
                )
            if not weight.written.requires_grad:
                raise ValueError(f"{name!r} has no gradient: call its requires_grad_() first")
            found[name] = weight.written
        return found


def scored(model: nn.Module | Attachment) -> Scored:
    """The groups of an attachment, or of all that is attached to a model.

    ValueError where nothing is attached, or by several sparsifiers.
    """
    owners: dict[str, list[Weight]] = {}
    in_place: list[str] = []
    sparsifiers: list[BaseDataSparsifier] = []
    if isinstance(model, Attachment):
        found, plain = [model], model.model()
        if plain is None:
            raise ValueError("the model of this attachment is gone")
        called: nn.Module = plain
    elif isinstance(model, nn.Module):
        called, plain = model, plain_model(model)
        found = attachments_of(plain)
        for tensor in masked_tensors(plain.modules()):
            weight = weight_of(tensor.module, tensor.attribute)
            assert weight is not None  # its mask was found there
            owners.setdefault(tensor.masked.name, []).append(weight)
            sparsifiers.append(tensor.masked.sparsifier)
    else:
        raise TypeError(f"model must be a model or what attach() returned, got {model!r}")
    for attachment in found:
        sparsifiers.append(attachment.sparsifier)
        for name in attachment.sparsifier.active(attachment.names):
            owners[name] = attachment.places[name].weights()
            if attachment.mode == "in_place":
                in_place.append(name)
    if not sparsifiers:
        raise ValueError("nothing is attached to this model: attach() it first")
    if any(sparsifier is not sparsifiers[0] for sparsifier in sparsifiers):
        raise ValueError("several sparsifiers are attached to this model: pass an attachment")
    sparsifier = sparsifiers[0]
    present = sparsifier.active(list(owners))  # a parametrization outlives its group
    renewed = {name: owners[name] for name in present if not sparsifier.frozen(name)}
    return Scored(called, sparsifier, renewed, tuple(in_place))


@contextmanager
def chance_as_it_was() -> Iterator[None]:
    """Brings back the states of the random generators of torch's CPU, NumPy and Python."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


@contextmanager
def as_it_was(model: nn.Module) -> Iterator[None]:
    """Brings back what a forward and a backward pass change.

    Those are buffers, such as the statistics of batch norm; `.grad` of the parameters; whether
    modules are training; and what `chance_as_it_was()` does.
    """
    modules = list(model.modules())
    training = [module.training for module in modules]
    buffers = [
        (module, name, buffer, None if buffer is None else buffer.detach().clone())
        for module in modules
        for name, buffer in module._buffers.items()
    ]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        with chance_as_it_was():
            yield
    finally:
        set_training(modules, training)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                module._buffers[name] = buffer
                if buffer is not None and value is not None and not is_expanded(buffer):
                    buffer.copy_(value)


def is_expanded(buffer: Tensor) -> bool:
    """Whether elements share memory: torch lets nobody write to these."""
    return buffer.layout == torch.strided and any(
        stride == 0 and size > 1 for stride, size in zip(buffer.stride(), buffer.shape, strict=True)
    )
