"""Masks and zeros after the steps of an optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING
from warnings import warn

import torch
from torch import Tensor

from .._core import AdaptiveDataScheduler, BaseDataScheduler
from .optimizer import gradients_of, held_by, mask_optimizer_state

if TYPE_CHECKING:
    from .attachment import Attachment


class Following:
    """What `Attachment.follow()` does after each step of an optimizer, until `remove()`.

    `steps` counts those steps. Where a training is resumed and masks are not renewed at each step,
    set it to what it was.
    """

    def __init__(
        self,
        attachment: Attachment,
        optimizer: torch.optim.Optimizer,
        every: int | None,
        scheduler: BaseDataScheduler | None,
        mask_state: bool,
    ) -> None:
        require_driven_by_steps(scheduler, attachment)
        self.steps = 0
        self._attachment = attachment
        self._every = every
        self._scheduler = scheduler
        self._ends: frozenset[int] = frozenset(getattr(scheduler, "ends", ()))
        self._mask_state = mask_state
        self._had_gradients = False
        self._changes = attachment.changes()
        if scheduler is not None:
            scheduler.leads = True
        self._hooks = (
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        )

    def remove(self) -> None:
        """Leave the optimizer alone again."""
        for hook in self._hooks:
            hook.remove()

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        self._had_gradients = any(True for _ in gradients_of(optimizer))

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if trained_nothing(optimizer, self._had_gradients, self.steps == 0):
            return
        self.steps += 1
        self._attachment.refresh()
        self._renew()
        self._attachment.apply()
        self._warn_of_replaced(optimizer)
        if self._mask_state:
            mask_optimizer_state(optimizer, self._attachment.sparsifier, self._attachment.names)

    def _renew(self) -> None:
        """The schedule moves first, so that the masks after step s are those of schedule(s)."""
        if self._every is None:
            return
        sparsifier, scheduler = self._attachment.sparsifier, self._scheduler
        due = (self.steps - 1) % self._every == 0
        if scheduler is not None and scheduler.counts_renewals:  # as version 0.1.0 did
            if due:
                sparsifier.step()
                scheduler.step()
            return
        if scheduler is not None:
            scheduler.step()
            due = due or scheduler.last_epoch in self._ends
        if due:
            sparsifier.step()

    def _warn_of_replaced(self, optimizer: torch.optim.Optimizer) -> None:
        changes = self._attachment.changes()
        if changes == self._changes:
            return
        self._changes = changes
        held = held_by([optimizer])
        lost = self._attachment.names_not_in(held)
        if lost:
            warn(
                f"the model has other parameters by now than the optimizer holds: {named(lost)}; "
                "their masks go on, but nothing trains them: make a new optimizer, and follow() it",
                UserWarning,
                stacklevel=2,
            )


def named(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(map(repr, names[:4])) + more


def require_driven_by_steps(scheduler: BaseDataScheduler | None, attachment: Attachment) -> None:
    """ValueError for another sparsifier's scheduler, TypeError for one that needs a metric."""
    if scheduler is not None and scheduler.data_sparsifier is not attachment.sparsifier:
        raise ValueError("the scheduler belongs to another sparsifier than the attachment")
    if isinstance(scheduler, AdaptiveDataScheduler):
        raise TypeError(
            "an AdaptiveDataScheduler needs a metric: leave it out here, and call its "
            "step(metric) where the metric is known"
        )


# --- steps that are none --------------------------------------------------------------------------


def trained_nothing(optimizer: torch.optim.Optimizer, had_gradients: bool, is_first: bool) -> bool:
    """Whether a step was none, by which nothing may move: no schedule, no mask, no zero.

    Some call `step()` to fill an optimizer's state: torch.distributed.checkpoint does, to save,
    with zero gradients at the rate 0; others do with zero gradients alone. Without any gradient an
    optimizer passes over all parameters. A fused optimizer is called by a GradScaler though it
    found infinite gradients, and passes over them then. A warm-up that begins at the rate 0 has
    gradients, and is a training.
    """
    if is_infinite(getattr(optimizer, "found_inf", None)):
        return True
    if not had_gradients and next(gradients_of(optimizer), None) is None:
        return True
    rates = [rate for group in optimizer.param_groups if (rate := group.get("lr")) is not None]
    all_at_rest = bool(rates) and all(float(rate) == 0 for rate in rates)
    return (all_at_rest or is_first) and not any(
        is_nonzero(gradient) for gradient in gradients_of(optimizer)
    )


def is_infinite(found_inf: object) -> bool:
    """What a GradScaler says while it calls an optimizer that looks at this itself."""
    return isinstance(found_inf, Tensor) and float(found_inf) != 0


def is_nonzero(gradient: Tensor) -> bool:
    values = gradient.coalesce().values() if gradient.is_sparse else gradient
    return bool(values.any())
