"""What the callbacks of all trainers share: one attachment, followed through one training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ._core import AdaptiveDataScheduler, BaseDataScheduler

if TYPE_CHECKING:
    import torch

    from .torch import Attachment, Following

SCHEDULES = ("step", "epoch")


class Training:
    """Masks after the steps of optimizers, the schedule after steps or epochs, and a figure to log.

    The arguments are those of the callbacks.
    """

    def __init__(
        self,
        attachment: Attachment,
        scheduler: BaseDataScheduler | None,
        schedule: str,
        every: int,
        mask_state: bool,
    ) -> None:
        if schedule not in SCHEDULES:
            raise ValueError(f'schedule must be "step" or "epoch", got {schedule!r}')
        if scheduler is not None and scheduler.data_sparsifier is not attachment.sparsifier:
            raise ValueError("the scheduler belongs to another sparsifier than the attachment")
        if isinstance(scheduler, AdaptiveDataScheduler):
            raise TypeError(
                "an AdaptiveDataScheduler needs a metric: leave it out here, and call its "
                "step(metric) where the metric is known"
            )
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self.attachment = attachment
        self.scheduler = scheduler
        self.by_epoch = schedule == "epoch"
        self.every = every
        self.mask_state = mask_state
        self.steps = 0  # of the optimizer, before the training was interrupted
        self._following: list[Following] = []
        self._first = 0 if scheduler is None else scheduler.last_epoch  # before the first epoch
        self._resumed = False

    @property
    def schedulers(self) -> list[BaseDataScheduler]:
        return [] if self.scheduler is None else [self.scheduler]

    def begin(self, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        """Follow the optimizers; the first that holds a masked parameter renews the masks."""
        self.end()
        if self.scheduler is not None and not self._resumed:
            self._first = self.scheduler.last_epoch
        if not self._resumed:
            self.steps = 0
        for optimizer in optimizers:
            if not self.attachment.owns_any_of(optimizer):
                continue
            leads = not self._following
            following = self.attachment.follow(
                optimizer,
                every=self.every if leads else None,
                scheduler=self.scheduler if leads and not self.by_epoch else None,
                mask_state=self.mask_state,
            )
            following.steps = self.steps
            self._following.append(following)
        if not self._following:
            raise ValueError("no optimizer of the trainer holds a parameter that was attached")

    def steps_done(self) -> int:
        """How many steps have been followed."""
        return self._following[0].steps if self._following else self.steps

    def epochs_done(self, epochs: int) -> None:
        """Bring the schedule to where it is after so many epochs of this training.

        A checkpoint may be written between the last step of an epoch and its end, which the resumed
        training does not see; so this is called at the beginning of epochs, too.
        """
        if self.scheduler is not None and self.by_epoch:
            while self.scheduler.last_epoch - self._first < epochs:
                self.scheduler.step()

    def resume(self, steps: int) -> None:
        """Say that masks and schedule were loaded, after so many steps of the optimizer."""
        self.end()  # a training that broke off has left its hooks
        self.steps = steps
        self._resumed = True

    def end(self) -> None:
        """Leave the optimizers alone."""
        if self._following:
            self.steps = self.steps_done()
            self._resumed = False
        for following in self._following:
            following.remove()
        self._following = []

    def sparsity(self) -> float:
        """The share of masked elements that are zero, of all groups."""
        return self.attachment.sparsifier.report().total.sparsity

    def state_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "steps": self.steps_done(),
            "sparsifier": self.attachment.sparsifier.state_dict(),
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state["schedulers"]) != len(self.schedulers):
            raise ValueError(
                f"the state has {len(state['schedulers'])} schedulers, the callback "
                f"{len(self.schedulers)}"
            )
        self.attachment.sparsifier.load_state_dict(state["sparsifier"])
        for scheduler, saved in zip(self.schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(saved)
        self.resume(state["steps"])
