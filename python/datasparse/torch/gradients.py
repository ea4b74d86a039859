"""What a training by gradients needs beside masks: when to read them, and what grows."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import ref

import torch
from torch import Tensor

from .._core import BaseDataSparsifier, RegrowthSparsifier
from .grown import start_from_rest

if TYPE_CHECKING:
    from .attachment import Attachment

Masks = dict[str, Tensor]


def reads_gradients(sparsifier: BaseDataSparsifier) -> bool:
    """Whether masks are made by gradients, which hang on the weights before the update."""
    return getattr(sparsifier, "reads_gradients", False) is True


def regrows(sparsifier: BaseDataSparsifier) -> bool:
    """Whether its masks move: weights are dropped, and as many grow."""
    return isinstance(sparsifier, RegrowthSparsifier)


def renews_before_update(sparsifier: BaseDataSparsifier) -> bool:
    """Whether masks are renewed between the gradients of a step and the update by them."""
    return reads_gradients(sparsifier) or regrows(sparsifier)


class BeforeUpdate:
    """What `Following` does between the gradients of a step and the update by them."""

    def __init__(
        self, attachment: Attachment, optimizer: torch.optim.Optimizer, replaces_step: bool
    ) -> None:
        self._attachment = attachment
        self._sparsifier = attachment.sparsifier
        self._optimizer = ref(optimizer)  # which holds what follows it
        self._replaces_step = replaces_step
        if replaces_step and not regrows(self._sparsifier):
            raise ValueError(
                "replaces_step=True is for masks that move, by datasparse.regrowth: "
                f"a {type(self._sparsifier).__name__} leaves every step to the optimizer"
            )
        if self.is_needed and isinstance(optimizer, torch.optim.LBFGS):
            raise ValueError(
                "LBFGS computes several gradients in one step, and masks that are made by "
                "gradients need one: take another optimizer, or call sparsifier.step() yourself"
            )

    @property
    def is_needed(self) -> bool:
        return renews_before_update(self._sparsifier)

    def accumulate(self) -> bool:
        """Let the sparsifier see the gradients of this step: its score may sum them up, and its
        subclass may keep a running mean, say. Returns whether one of them does: it stays done.
        """
        self._hand_in_unscaled()
        self._sparsifier.accumulate()
        score = self._sparsifier.score
        is_own = type(self._sparsifier).accumulate is not BaseDataSparsifier.accumulate
        return is_own or (score is not None and score.accumulates)

    def masks(self) -> Masks:
        """As they are before they move."""
        if not regrows(self._sparsifier):
            return {}
        names = self._attachment._present()
        return {name: self._sparsifier.get_mask(name).clone() for name in names}

    def prepare(self) -> None:
        """Before a renewal."""
        self._hand_in_unscaled()

    def finish(self, before: Masks) -> None:
        """After one: what has grown starts from rest, and the update by a move may be left out."""
        moved = False
        with torch.no_grad():
            for name, mask in before.items():
                now = self._sparsifier.get_mask(name)
                moved = moved or (self._replaces_step and not torch.equal(now, mask))
                grown = now & ~mask
                parameter = self._parameter(name)
                if parameter is None:
                    continue
                gradient = None
                if reads_gradients(self._sparsifier) and parameter.grad is not None:
                    gradient = self._unscaled(parameter.grad)
                for following in self._attachment.followings:
                    optimizer = following.optimizer
                    if optimizer is not None:
                        start_from_rest(optimizer, parameter, grown, gradient)
        own = self._optimizer()
        if moved and own is not None:
            for group in own.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None

    def _parameter(self, name: str) -> Tensor | None:
        return self._attachment.places[name].weight().written

    def _scale(self) -> Tensor | float | None:
        """By what a fused optimizer is about to divide gradients: a GradScaler leaves it to it."""
        return getattr(self._optimizer(), "grad_scale", None)

    def _unscaled(self, gradient: Tensor) -> Tensor:
        scale = self._scale()
        if isinstance(scale, Tensor):  # on a device, where it stays
            scale = scale.reshape(()).to(gradient.device)
        return gradient if scale is None else gradient / scale

    def _hand_in_unscaled(self) -> None:
        if self._scale() is None or not reads_gradients(self._sparsifier):
            return  # the sparsifier reads .grad itself, or none
        gradients = {}
        for name in self._attachment._present():
            parameter = self._parameter(name)
            if parameter is not None and parameter.grad is not None:
                gradients[name] = self._unscaled(parameter.grad)
        self._sparsifier.set_gradients(gradients)
