"""Synaptic flow: scores of a model's weights that need no data (Tanaka et al. 2020)."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._core import DataNormSparsifier, _pool_plan
from ..recipes.reading import KEYS
from ..scores import SynFlow
from .places import plain_model
from .scored import Scored

ALONE = {"pool": None}  # what a block is hangs on no pool


def synaptic_flow(of: Scored, score: SynFlow, example: Tensor) -> dict[str, np.ndarray[Any, Any]]:
    """The scores of the last round, in which the density falls to what each group asks for."""
    dtypes = [torch.float32, torch.float64]
    if score.dtype is not None:
        dtypes = [getattr(torch, score.dtype)]
    for dtype in dtypes:
        made = flow(of, score, example, dtype)
        if made is not None:
            return made
    raise ValueError(
        f"the flow of {score} is 0 or beyond {str(dtypes[-1]).removeprefix('torch.')}: "
        + ("nothing of the input reaches the output" if score.dtype is None else "pass dtype=None")
    )


def flow(
    of: Scored, score: SynFlow, example: Tensor, dtype: torch.dtype
) -> dict[str, np.ndarray[Any, Any]] | None:
    """None where the numbers overflow or vanish."""
    model = plain_model(of.model).eval()
    called = {id(parameter): name for name, parameter in model.named_parameters()}
    everything = {}
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if not value.is_floating_point():
            everything[name] = value.clone()
            continue
        if not bool(value.isfinite().all()):
            raise ValueError(
                f"{name!r} must be finite for {score}, which takes the magnitudes of parameters "
                "and buffers, got infinite values or NaN"
            )
        everything[name] = value.detach().abs().to(dtype)
    # The names of groups are those of weights: parametrized ones have others in the model.
    paths = {name: called[id(parameter)] for name, parameter in of.parameters().items()}
    sizes = {name: everything[path] for name, path in paths.items()}
    thetas = dict(sizes)
    where = next(iter(sizes.values())).device
    given = torch.ones((1, *example.shape[1:]), dtype=dtype, device=where)
    if not score.biases:
        given = torch.cat([given, torch.zeros_like(given)])
    scores = {name: np.empty(tuple(size.shape), str(dtype)[6:]) for name, size in sizes.items()}
    ranked = Rounds(of, scores)
    for k in range(1, score.rounds + 1):
        leaves = {name: theta.detach().requires_grad_() for name, theta in thetas.items()}
        scored = {paths[name]: leaf for name, leaf in leaves.items()}
        output = torch.func.functional_call(model, everything | scored, (given,))
        if not isinstance(output, Tensor):
            raise TypeError(
                "the model must return a tensor for SynFlow(), got "
                f"{type(output).__name__}: attach a module that does"
            )
        total = output.sum() if score.biases else output[0].sum() - output[1].sum()
        if not torch.isfinite(total) or total < torch.finfo(dtype).tiny:
            return None
        gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        for (name, theta), gradient in zip(leaves.items(), gradients, strict=True):
            if gradient is None:
                raise ValueError(f"{name!r} is no part of the output: the model does not use it")
            scores[name][...] = (theta * gradient).detach().abs().cpu().numpy()
        if not all(np.isfinite(array).all() for array in scores.values()):
            return None
        if k < score.rounds:
            masks = ranked.masks(k / score.rounds)
            thetas = {name: size * masks[name].to(where) for name, size in sizes.items()}
    return scores


class Rounds:
    """Masks of the rounds before the last, by each group's own pattern, pool and level."""

    def __init__(self, of: Scored, scores: dict[str, np.ndarray[Any, Any]]) -> None:
        self._sparsifier = DataNormSparsifier()
        self._shares = {}  # of each group: its level, and what of a pruned block is zero
        for name, array in scores.items():
            config = dict(of.sparsifier.data_groups[name])
            pattern = {key: config[key] for key in KEYS if key in config}
            layout = of.sparsifier.layout(name)
            self._sparsifier.add_data(name, array, layout=layout, **pattern)
            (_, height, width, zeros), *_ = _pool_plan([(array.shape, layout, pattern | ALONE)])[0]
            self._shares[name] = config["sparsity_level"], zeros / max(height * width, 1)

    def masks(self, share: float) -> dict[str, Tensor]:
        """At the density of each group to the power of `share`."""
        for name, (level, zeros) in self._shares.items():
            density = 1.0 - level * zeros
            part = min((1.0 - density**share) / zeros, 1.0) if zeros else level
            self._sparsifier.data_groups[name]["sparsity_level"] = part
        with warnings.catch_warnings():  # of dead groups: the step to come warns of its own
            warnings.simplefilter("ignore", UserWarning)
            self._sparsifier.step()
        return {name: torch.from_numpy(self._sparsifier.get_mask(name)) for name in self._shares}
