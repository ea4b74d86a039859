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
    # Optimizer.__init__() makes this, and step() call hooks; timm's Lookahead never calls it.
    if isinstance(plain, torch.optim.Optimizer) and hasattr(
        plain, "_optimizer_state_dict_post_hooks"
    ):
        return plain
    raise TypeError(
        f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}, whose steps "
        "cannot be followed: after each of them call scheduler.step(), if you have a scheduler, "
        "then sparsifier.step() and attachment.apply()"
    )


def inner_optimizer(optimizer: torch.optim.Optimizer) -> str | None:
    """The attribute in which an optimizer keeps another one, as SAM and Lookahead do."""
    for name in ("base_optimizer", "_base_optimizer", "optimizer", "optim"):
        if isinstance(getattr(optimizer, name, None), torch.optim.Optimizer):
            return name
    return None


def writes_averages(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it has an eval(), as Schedule-Free optimizers have: it writes averages of weights,
    made of what the optimizer keeps beside them, into the weights themselves."""
    return callable(getattr(optimizer, "eval", None)) and callable(
        getattr(optimizer, "train", None)
    )


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
    masks; for a square matrix, but for what SOAP and Shampoo keep for its axes. A pruned element
    that comes back then starts from rest.
    """
    for name in list(sparsifier.data_groups) if names is None else names:
        if not is_masked(sparsifier, name):
            continue
        parameter = sparsifier.get_data(name)
        if not isinstance(parameter, Tensor):
            continue
        tensors = [tensor for _, tensor in kept_for(optimizer, parameter)]
        if tensors:
            mask = sparsifier.get_mask(name)
            with torch.no_grad():
                for tensor in tensors:
                    zero_where_pruned(tensor, mask)


def kept_for(optimizer: torch.optim.Optimizer, parameter: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What an optimizer keeps for each element of a parameter, however nested, with its keys.

    That is what has the parameter's shape. Beside a square matrix, so do matrices that belong to
    its axes: SOAP's lists `GG` and `Q`, and Shampoo's preconditioners. They are left out. What an
    optimizer within this one keeps belongs to it: torch's ZeroRedundancyOptimizer has one, and SAM.
    """
    inner = inner_optimizer(optimizer)
    if inner is not None:
        yield from kept_for(getattr(optimizer, inner), parameter)
    is_square = parameter.dim() == 2 and parameter.shape[0] == parameter.shape[1]
    for key, tensor, is_listed in tensors_in(optimizer.state.get(parameter, {})):
        if tensor.shape != parameter.shape:
            continue
        if not (is_square and (is_listed or "precond" in key)):
            yield key, tensor


def tensors_in(
    state: object, key: str = "", is_listed: bool = False
) -> Iterator[tuple[str, Tensor, bool]]:
    """The tensors in a state, with their keys, and whether they are in a list."""
    if isinstance(state, Tensor):
        yield key, state, is_listed
    elif isinstance(state, Mapping):
        for name, entry in state.items():
            yield from tensors_in(entry, str(name), is_listed)
    elif isinstance(state, (list, tuple)):
        for entry in state:
            yield from tensors_in(entry, key, True)
