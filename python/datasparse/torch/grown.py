"""What an optimizer remembers of weights that have just grown."""

from __future__ import annotations

import torch
from torch import Tensor

from .dtensors import is_sharded, local, whole
from .optimizer import kept_for

# What optimizers of torch and transformers call the averages of squared gradients: exp_avg_sq,
# max_exp_avg_sq, square_avg, v, Adagrad's sum, Adafactor's variance.
SQUARES = "sq"  # within a name
SQUARES_BY_NAME = ("v", "sum", "variance")
MAGNITUDES = ("exp_inf",)  # Adamax: the largest magnitude, not its square
RATES = ("step_size",)  # Rprop: a rate for each weight


def start_from_rest(
    optimizer: torch.optim.Optimizer, parameter: Tensor, grown: Tensor, gradient: Tensor | None
) -> None:
    """Let an optimizer treat the weights that have grown as if they had rested until now.

    Momenta and averages begin at 0. Averages of squares begin at the square of the gradient by
    which a weight grew, so that its first update is at most the learning rate: Adam divides by
    their root, and corrects for the age of the average, which is that of the whole tensor. Without
    a gradient, where weights grow at random, they begin at the mean over the other active ones,
    which is what `grown` leaves out and where the average is not 0.

    Only tensors of the parameter's shape and of floating point are looked at: factored averages
    (Adafactor) stay, and so do those that are kept in 8 bits, and what belongs to the axes of a
    square matrix: `kept_for()`.
    """
    if grown.device.type == "cpu" and not is_sharded(grown) and not bool(grown.any()):
        return  # elsewhere, the CPU would wait to see; and other ranks, for what has not grown here
    with torch.no_grad():
        for key, tensor in kept_for(optimizer, parameter):
            if not tensor.is_floating_point():
                continue
            here = local(tensor)
            at = local(grown).to(here.device)
            if key in RATES:
                here.masked_fill_(at, rate_of(optimizer, parameter))
            elif not is_of_squares(key) and key not in MAGNITUDES:
                here.masked_fill_(at, 0)
            elif gradient is None:
                here.masked_fill_(at, mean_of(tensor, grown))
            else:
                values = local(gradient.detach()).to(here.device, here.dtype)
                values = values.abs() if key in MAGNITUDES else values.square()
                here.copy_(torch.where(at, values, here))


def mean_of(tensor: Tensor, grown: Tensor) -> Tensor:
    """Of the elements that have not grown and are not 0, 0 of none, as a tensor: no value is read.
    Ranks that have parts of it sum up at the same time."""
    kind = torch.promote_types(tensor.dtype, torch.float32)
    some = (tensor != 0) & ~grown.to(tensor.device)
    total = whole(tensor.masked_fill(some.logical_not(), 0).sum(dtype=kind))
    return (total / whole(some.sum()).clamp_(min=1)).to(tensor.dtype)


def is_of_squares(key: str) -> bool:
    return key in SQUARES_BY_NAME or SQUARES in key


def rate_of(optimizer: torch.optim.Optimizer, parameter: Tensor) -> float:
    for group in optimizer.param_groups:
        if any(held is parameter for held in group["params"]):
            return float(group.get("lr", 0.0))
    return 0.0
