"""What an optimizer holds: its parameters, and what it remembers of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from .._core import BaseDataSparsifier
from .dtensors import zero_where_pruned
from .groups import is_masked

# They hand each step on to the optimizer that they wrap, and write nothing themselves.
PASS_ON = ("accelerate.", "lightning.", "pytorch_lightning.")


def plain_optimizer(optimizer: object) -> torch.optim.Optimizer:
    """The optimizer within what accelerate and Lightning wrap; TypeError for what is none."""
    plain = optimizer
    while type(plain).__module__.startswith(PASS_ON) and isinstance(
        inner := getattr(plain, "optimizer", None), torch.optim.Optimizer
    ):
        plain = inner
    if isinstance(plain, torch.optim.Optimizer) and hasattr(plain, "_optimizer_step_post_hooks"):
        return plain
    raise TypeError(
        f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}, whose steps "
        "cannot be followed: after each of them call scheduler.step(), if you have a scheduler, "
        "then sparsifier.step() and attachment.apply()"
    )


def inner_optimizer(optimizer: torch.optim.Optimizer) -> str | None:
    """The attribute in which an optimizer keeps another one, as SAM and Lookahead do."""
    for name in ("base_optimizer", "optimizer", "optim"):
        if isinstance(getattr(optimizer, name, None), torch.optim.Optimizer):
            return name
    return None


def held_by(optimizers: Iterable[torch.optim.Optimizer]) -> set[int]:
    """The ids of the parameters that some optimizers hold."""
    return {
        id(parameter)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def gradients_of(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                yield parameter.grad


def mask_optimizer_state(
    optimizer: torch.optim.Optimizer,
    sparsifier: BaseDataSparsifier,
    names: Iterable[str] | None = None,
) -> None:
    """Zero an optimizer's state where the masks prune: momenta, averages of squares.

    That is, of every tensor in its state that has the shape of a parameter that the sparsifier
    masks. A pruned element that comes back then starts from rest.
    """
    for name in list(sparsifier.data_groups) if names is None else names:
        if not is_masked(sparsifier, name):
            continue
        parameter = sparsifier.get_data(name)
        if not isinstance(parameter, Tensor):
            continue
        tensors = [
            value
            for _, value in tensors_in(optimizer.state.get(parameter, {}))
            if value.shape == parameter.shape
        ]
        if tensors:
            mask = sparsifier.get_mask(name)
            with torch.no_grad():
                for tensor in tensors:
                    zero_where_pruned(tensor, mask)


def tensors_in(state: object, key: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in what an optimizer keeps for a parameter, however nested, with their keys."""
    if isinstance(state, Tensor):
        yield key, state
    elif isinstance(state, Mapping):
        for name, entry in state.items():
            yield from tensors_in(entry, str(name))
    elif isinstance(state, (list, tuple)):
        for entry in state:
            yield from tensors_in(entry, key)
