"""Scores that are computed once, on batches that are given: pruning before a training begins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from .._core import _score_terms
from ..scores import AccumulatedScore, GradientScore, GraSP, Magnitude, Random, Score, SynFlow
from .groups import step_then
from .replicas import Group, refuse_shards, summed, warn_of_own_batches
from .scored import Scored, as_it_was, chance_as_it_was, scored
from .synflow import synaptic_flow

if TYPE_CHECKING:
    from .attachment import Attachment

Loss = Callable[[nn.Module, Any], Tensor]
Gradients = dict[str, Tensor]
Kept = np.ndarray[Any, Any] | Tensor  # of a group: a tensor only on a device, where it stays


def score_once(
    model: nn.Module | Attachment,
    score: Score,
    batches: Iterable[Any],
    loss: Loss | None = None,
    *,
    group: Group = None,
) -> None:
    """Score the attached weights on these batches; the sparsifier's next `step()` ranks by that.

    Args:
        model: one that a sparsifier is attached to, or the attachment.
        score: the one that the sparsifier was made with. `SNIP()` and `Gradient()` take the mean
            gradient of all batches, `Taylor()`, `Movement()`, `Fisher()` each batch as a sample,
            `GraSP()` both in turn. `SynFlow()` takes the shape of the first batch only, which is a
            tensor of floats, or a tuple or list that begins with one.
        batches: anything that can be iterated over; GraSP() does so twice.
        loss: `loss(model, batch)` is the loss of a batch, a tensor of one element. SynFlow() needs
            none: its own is the sum of the model's output.
        group: a process group of torch.distributed, whose ranks have replicas of the model and
            batches of their own, and all call this at the same time. The scores are those of all
            batches then, and the same on each rank. With a decay each rank needs as many. Without a
            group a UserWarning says so where there are other ranks.

    The model is left as it was: parameters, buffers such as the statistics of batch norm, `.grad`,
    training mode, and the random generators of torch's CPU, NumPy and Python. It is called in the
    mode that it is in; by SynFlow() in evaluation. The scores lie in the sparsifier, and are saved
    with it, until its next step; `reset_score()` drops them.

    Raises ValueError for another score than the sparsifier's, for no batch, for a weight that is
    sharded, or gets no gradient or one that is not finite, and where nothing, or too much, is
    attached; RankError where another rank has failed. No score has changed then. Memory: gradients
    and scores of all weights; for GraSP the graph of a second derivative; for SynFlow a copy of all
    parameters.
    """
    of = scored(model)
    require_score(of, score)
    if not of.owners:
        raise ValueError("no attached weight is left whose mask a step renews")
    refuse_shards(of.weights, "score_once()")
    made: Mapping[str, Kept]
    with as_it_was(of.model), torch.enable_grad():
        if isinstance(score, SynFlow):
            made = synaptic_flow(of, score, first_of(batches))
        elif loss is None:
            raise ValueError(f"loss must be given for {score}: loss(model, batch) -> tensor")
        elif isinstance(score, GraSP | GradientScore):
            warn_of_own_batches(group)
            made = on_batches(score, Batches(of, batches, loss, group))
        else:
            raise TypeError(f"{score} is not scored on batches and a loss: step() ranks by it")
    for name, scores in made.items():
        if not is_finite(scores):
            raise ValueError(f"scores of {name!r} are not finite: the loss or its gradient is not")
    for name, scores in made.items():
        of.sparsifier.set_array(name, "scores", scores)


def prune_at_init(
    model: nn.Module | Attachment,
    batches: Iterable[Any],
    loss: Loss | None = None,
    *,
    group: Group = None,
) -> None:
    """Prune once and for all: score on these batches, write the masks' zeros, keep the masks.

    `score_once()` by the sparsifier's own score, with its arguments and errors; then `step()`, the
    zeros, and `enable_mask_update = False`. `follow()` keeps the zeros in the training to come.
    `Magnitude()`, `Random()`, or no score at all, need no batches: any will do.

    >>> from datasparse.scores import SNIP
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> attachment = attach(model, score=SNIP(), sparsity_level=0.9, sparse_block_shape=(1, 1))
    >>> prune_at_init(attachment, [torch.randn(4, 8)], lambda model, x: model(x).square().mean())
    >>> attachment.sparsity()
    0.9
    """
    of = scored(model)
    score = of.sparsifier.score
    if score is not None and not isinstance(score, Magnitude | Random):
        score_once(model, score, batches, loss, group=group)

    def keep() -> None:
        of.sparsifier.apply_mask(of.in_place)
        of.sparsifier.enable_mask_update = False

    step_then(of.sparsifier.step, of.sparsifier, keep)


class Batches:
    """The batches, and the gradients that their losses have by the weights that are scored."""

    def __init__(self, of: Scored, batches: Iterable[Any], loss: Loss, group: Group) -> None:
        if not callable(loss):
            raise TypeError(f"loss must be called with a model and a batch, got {loss!r}")
        self.parameters = of.parameters()
        self.names = list(self.parameters)
        self.count = 0  # of those that gradients() has gone through
        self._model, self._batches, self._loss, self._group = of.model, batches, loss, group

    def gradients(self, create_graph: bool = False) -> Iterator[Gradients]:
        """Those of each batch, by name."""
        self.count = 0
        for batch in self._batches:
            self.count += 1
            value = self._loss(self._model, batch)
            if not isinstance(value, Tensor) or value.numel() != 1:
                raise ValueError(f"loss must return a tensor of one element, got {value!r}")
            made = torch.autograd.grad(
                value.sum(), list(self.parameters.values()), None, None, create_graph,
                allow_unused=True,
            )  # fmt: skip
            yield {
                name: self._there(name, gradient)
                for name, gradient in zip(self.names, made, strict=True)
            }
        if self.count == 0:
            raise ValueError("batches must hold at least one, got none")

    def summed(self, sums: Callable[[], Mapping[str, Any]]) -> tuple[dict[str, Any], list[int]]:
        """Sums over these batches, and those of all other ranks; how many each rank has."""
        return summed(self._group, "score_once()", lambda: (sums(), self.count))

    def mean(self, again: bool = False) -> Gradients:
        """again: whether the batches are gone through once more after this."""
        sums, counts = self.summed(lambda: self._sums(again))
        return {name: total / sum(counts) for name, total in sums.items()}

    def _sums(self, again: bool) -> Gradients:
        if again and iter(self._batches) is self._batches:
            self._batches = list(self._batches)
        sums: Gradients = {}
        for gradients in self.gradients():
            for name, gradient in gradients.items():
                if name in sums:
                    sums[name] += gradient
                else:
                    sums[name] = gradient.to(wide(gradient.dtype), copy=True)
        return sums

    def _there(self, name: str, gradient: Tensor | None) -> Tensor:
        if gradient is None:
            raise ValueError(f"{name!r} gets no gradient from the loss: the model does not use it")
        return gradient


def on_batches(score: GraSP | GradientScore, batches: Batches) -> dict[str, Kept]:
    if isinstance(score, GraSP):
        return grasp(batches)
    if isinstance(score, AccumulatedScore):
        return accumulated(score, batches)
    return by_mean_gradient(score, batches)


def by_mean_gradient(score: GradientScore, batches: Batches) -> dict[str, Kept]:
    return {
        name: as_array(score.sample(batches.parameters[name].detach(), gradient))
        for name, gradient in batches.mean().items()
    }


def accumulated(score: AccumulatedScore, batches: Batches) -> dict[str, Kept]:
    def of_rank() -> dict[str, Any]:
        sums: dict[str, Any] = {}
        for gradients in batches.gradients():
            for name, gradient in gradients.items():
                sample = as_array(score.sample(batches.parameters[name].detach(), gradient))
                sums[name] = sample if name not in sums else score.decay * sums[name] + sample
        return sums

    sums, counts = batches.summed(of_rank)
    ranks, samples = 1, sum(counts)
    if score.decay != 1:  # by which the batches of a rank are in order: the mean over ranks
        ranks, samples = len(counts), counts[0]
        if len(set(counts)) > 1:
            raise ValueError(
                f"each rank must have as many batches, since {score} has a decay, got {counts}"
            )
    return {
        name: as_array(score.from_sums(batches.parameters[name].detach(), total / ranks, samples))
        for name, total in sums.items()
    }


def grasp(batches: Batches) -> dict[str, Kept]:
    """w·(Hg), of the mean gradient g and the mean Hessian H. Each batch is gone through twice."""
    with chance_as_it_was():  # the same order, the same dropout
        mean = batches.mean(again=True)

    def of_rank() -> Gradients:
        products = {name: torch.zeros_like(gradient) for name, gradient in mean.items()}
        for gradients in batches.gradients(create_graph=True):
            along = sum((gradients[name] * mean[name]).sum() for name in mean)
            if not isinstance(along, Tensor) or not along.requires_grad:
                continue  # the loss is linear: H is 0
            parameters = list(batches.parameters.values())
            made = torch.autograd.grad(along, parameters, allow_unused=True)
            for name, product in zip(batches.names, made, strict=True):
                if product is not None:
                    products[name] += product
        return products

    products, counts = batches.summed(of_rank)
    return {
        name: as_array(_score_terms("product", batches.parameters[name], product / sum(counts)))
        for name, product in products.items()
    }


# --- what is given --------------------------------------------------------------------------------


def require_score(of: Scored, score: object) -> None:
    own = of.sparsifier.score
    if not isinstance(score, Score):
        raise TypeError(f"score must be one of datasparse.scores, got {score!r}")
    if own != score:
        raise ValueError(
            f"score must be the sparsifier's own, {own}, got {score}: make the sparsifier, or "
            f"attach() the model, with score={score}"
        )


def first_of(batches: Iterable[Any]) -> Tensor:
    """The input of the first batch."""
    for batch in batches:
        first = batch[0] if isinstance(batch, tuple | list) and batch else batch
        if not isinstance(first, Tensor) or not first.is_floating_point() or first.ndim == 0:
            raise ValueError(
                "the first batch must be a tensor of floats, or begin with one, for SynFlow(), "
                f"which puts ones in their place; got {type(first).__name__}"
            )
        return first
    raise ValueError("batches must hold at least one, got none")


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def as_array(scores: Any) -> Kept:
    """As an array that a group keeps."""
    if isinstance(scores, Tensor):
        tensor: Tensor = scores.detach().to(wide(scores.dtype))
        if not tensor.is_cpu:
            return tensor
        scores = tensor.numpy()
    array: np.ndarray[Any, Any] = np.asarray(scores)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def is_finite(scores: Kept) -> bool:
    return bool((scores.isfinite() if isinstance(scores, Tensor) else np.isfinite(scores)).all())
