"""What scores make of weights and gradients on a device: the bits of the core's `ScoreTerm`s.

Each product and each sum is an operation of its own, which no device fuses with another one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .operations.arithmetic import dtype_of_sums

TERMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradient": lambda w, g: g.clone(),
    "abs_gradient": lambda w, g: g.abs(),
    "square_gradient": lambda w, g: g * g,
    "product": lambda w, g: w * g,
    "abs_product": lambda w, g: (w * g).abs_(),
    "square_product": lambda w, g: (product := w * g).mul_(product),
    "weighted_square": lambda w, g: (w * w).mul_(g),
}


def score_terms(term: str, weight: Tensor, gradient: Tensor, scale: float = 1.0) -> Tensor:
    """`scale` times the term of each element: contiguous, float64 for a weight in float64, else
    float32."""
    dtype = dtype_of_sums(weight.dtype)
    w, g = weight.detach().to(dtype), gradient.detach().to(dtype)
    made = TERMS[term](w, g).contiguous()
    return made if scale == 1 else made.mul_(scale)


def add_samples(
    term: str,
    scale: float,
    decay: float,
    names: Sequence[str],
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    before: Sequence[Tensor | None],
) -> list[Tensor]:
    """decay · before + scale · term, of each group, as new tensors.

    TypeError, naming the group, for a gradient that lies elsewhere than its weight. ValueError for
    one of another shape, or one that is not finite, which it waits for once; and where the sums
    before are of another dtype or shape.
    """
    for name, weight, gradient in zip(names, weights, gradients, strict=True):
        there = gradient.device if isinstance(gradient, Tensor) else type(gradient).__name__
        if there != weight.device:
            raise TypeError(
                f"gradient of {name!r} must be on the device of its data, {weight.device}, got "
                f"{there}"
            )
        if gradient.shape != weight.shape:
            raise ValueError(
                f"gradient of {name!r} must have the shape of its data, {tuple(weight.shape)}, got "
                f"{tuple(gradient.shape)}"
            )
    finite = [gradient.isfinite().all() for gradient in gradients]
    for name, is_finite in zip(names, torch.stack(finite).tolist(), strict=True):
        if not is_finite:
            raise ValueError(
                f"gradient of {name!r} must be finite, got infinite values or NaN; leave such a "
                "step out"
            )
    sums = []
    for name, weight, gradient, old in zip(names, weights, gradients, before, strict=True):
        new = score_terms(term, weight, gradient, scale)
        if old is None:
            new.add_(0)  # as to sums of zeros: -0 becomes +0
        elif old.dtype != new.dtype or old.shape != new.shape:
            raise ValueError(
                f"sums of {name!r} are of {old.dtype} and shape {tuple(old.shape)}, and its data "
                f"need {new.dtype} and {tuple(new.shape)}: call reset_score() first"
            )
        else:
            new.add_(old if decay == 1 else old * decay)
        sums.append(new)
    return sums
