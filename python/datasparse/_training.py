"""What the callbacks of all trainers share: one attachment, followed through one training."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any
from warnings import warn

import torch
from torch import nn

from ._core import AdaptiveDataScheduler, BaseDataScheduler
from .recipes import Recipe, load
from .torch import Attachment, Following
from .torch.dtensors import is_sharded
from .torch.follow import Schedulers, listed, named
from .torch.gradients import renews_before_update
from .torch.groups import step_then
from .torch.optimizer import held_by, plain_optimizer

SCHEDULES = ("step", "epoch")


def of_recipe(
    attachment: Attachment | nn.Module,
    scheduler: Schedulers,
    recipe: Recipe | str | os.PathLike[str] | None,
) -> tuple[Attachment, Schedulers]:
    """The attachment and the schedulers that a callback was given, or that a recipe makes.

    TypeError where both are there, or what the recipe needs is not.
    """
    if recipe is None:
        if not isinstance(attachment, Attachment):
            raise TypeError(
                f"attachment must be what attach() returned, got {type(attachment).__name__}: a "
                "model goes with a recipe"
            )
        return attachment, scheduler
    if not isinstance(attachment, nn.Module) or scheduler is not None:
        raise TypeError(
            "with a recipe, which attaches the model and makes its schedulers, pass the model and "
            "no scheduler"
        )
    read = recipe if isinstance(recipe, Recipe) else load(recipe)
    _, schedulers, made = read.attach(attachment)
    return made, schedulers


class Training:
    """Masks after the steps of optimizers, the schedule after steps or epochs, and a figure to log.

    The arguments are those of the callbacks.
    """

    def __init__(
        self,
        attachment: Attachment,
        scheduler: Schedulers,
        schedule: str,
        every: int,
        mask_state: bool,
        replaces_step: bool,
    ) -> None:
        if schedule not in SCHEDULES:
            raise ValueError(f'schedule must be "step" or "epoch", got {schedule!r}')
        schedulers = listed(scheduler, attachment)
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self.attachment = attachment
        self.schedulers = schedulers
        self.by_epoch = schedule == "epoch"
        self.every = every
        self.mask_state = mask_state
        self.replaces_step = replaces_step
        # One that needs a metric is stepped by the user, and saved with the others.
        self._moved = [one for one in schedulers if not isinstance(one, AdaptiveDataScheduler)]
        for one in self._moved:
            one.leads = True
        self.steps = 0  # of the optimizer, before the training was interrupted
        self._following: list[Following] = []
        self.first = [one.last_epoch for one in self._moved]  # before the first epoch
        self.over = 0  # epochs, by which the schedule has moved
        self._due = False  # as it was when the training was interrupted
        self._resumed = False

    @property
    def scheduler(self) -> BaseDataScheduler | None:
        """The first."""
        return self.schedulers[0] if self.schedulers else None

    def begin(
        self, optimizers: Iterable[torch.optim.Optimizer], epochs: int = 0, resumed: bool = True
    ) -> None:
        """Follow the optimizers; the first that holds a masked parameter renews the masks.

        epochs: those that the trainer counts already, of a training before.
        resumed: False where this training is not one that a loaded state belongs to.
        """
        self.end()
        self._resumed = self._resumed and resumed
        if not self._resumed:
            self.first = [one.last_epoch - epochs for one in self._moved]
            self.steps, self.over = 0, epochs
        chosen = [optimizer for optimizer in map(plain_optimizer, optimizers)
                  if self.attachment.owns_any_of(optimizer)]  # fmt: skip
        if not chosen:
            raise ValueError("no optimizer of the trainer holds a parameter that was attached")
        lost = self.attachment.names_not_in(held_by(chosen))
        if lost:
            warn(
                f"no optimizer of the trainer holds {named(lost)}: their masks are renewed all the "
                "same",
                UserWarning,
                stacklevel=3,
            )
        for optimizer in chosen:
            leads = not self._following
            following = self.attachment.follow_silently(
                optimizer,
                every=self.every if leads else None,
                scheduler=self._moved if leads and not self.by_epoch else None,
                mask_state=self.mask_state,
                replaces_step=self.replaces_step and leads,
            )
            following.steps = self.steps
            following.is_due = leads and self._due
            self._following.append(following)

    def steps_done(self) -> int:
        """How many steps have been followed."""
        return self._following[0].steps if self._following else self.steps

    def is_due(self) -> bool:
        """Whether the schedule has moved, and masks wait for the next step to be renewed."""
        return self._following[0].is_due if self._following else self._due

    def counts(self) -> dict[str, Any]:
        """What a resumed training has to know beside the states of sparsifier and schedulers."""
        first = self.first[0] if len(self.first) == 1 else self.first
        return {
            "steps": self.steps_done(), "first": first, "over": self.over, "due": self.is_due(),
        }  # fmt: skip

    def epoch_ends_with_this_step(self, epochs: int) -> None:
        """Say, before the update of an epoch's last step, how many epochs are over after it.

        Masks that are renewed before an update are renewed before this one, to be of the schedule's
        value after so many epochs. All others wait for `epochs_done()`.
        """
        if renews_before_update(self.attachment.sparsifier) and self._move_on(epochs):
            self._following[0].is_due = True

    def epochs_done(self, epochs: int) -> None:
        """Bring schedule and masks to where they are after so many epochs of this training.

        So the masks after N epochs are of the schedule's value at N. A checkpoint may be written
        between the last step of an epoch and its end, which the resumed training does not see; so
        this is called at the beginning of epochs, too. Where nobody knew that a step is the last,
        masks that are renewed before an update are renewed before the next one.
        """
        if not self._move_on(epochs):
            return
        if renews_before_update(self.attachment.sparsifier):
            self._following[0].is_due = True
        else:
            sparsifier, apply = self.attachment.sparsifier, self.attachment.apply
            step_then(self.attachment.renew, sparsifier, apply)

    def _move_on(self, epochs: int) -> bool:
        """Move the schedule. Returns whether masks are to follow."""
        if not self.by_epoch or epochs <= self.over:
            return False
        for scheduler, first in zip(self._moved, self.first, strict=True):
            while scheduler.last_epoch < first + epochs:
                scheduler.step()
        self.over = epochs
        # Version 0.1.0 waited for the next renewal.
        return not any(scheduler.counts_renewals for scheduler in self._moved)

    def resume(self, counts: Mapping[str, Any]) -> None:
        """Say that masks and schedule were loaded, and the counts() that were saved beside them."""
        self.end()  # a training that broke off has left its hooks
        self.steps = counts["steps"]
        self.first = self.checked(counts.get("first", self.first))  # 0.1.0 did not save it
        since = [one.last_epoch - first for one, first in zip(self._moved, self.first, strict=True)]
        self.over = counts.get("over", min(since, default=0) if self.by_epoch else 0)
        self._due = counts.get("due", False)
        self._resumed = True

    def has_zeros(self) -> bool:
        """Whether weights are zero where masks prune, as a training in place has left them.

        Those that are not trained may have been made anew since, and shards are not gathered.
        """
        attachment = self.attachment
        for name in attachment.sparsifier.active(attachment.names):
            weight = attachment.places[name].weight()
            written = weight.written
            if attachment.mode != "in_place" or written is None or weight.made_by is not None:
                continue
            if written.requires_grad and not is_sharded(written):
                pruned = attachment.sparsifier.get_mask(name).to(written.device).logical_not()
                if bool(written.detach().masked_select(pruned).any()):
                    return False
        return True

    def end(self) -> None:
        """Leave the optimizers alone."""
        if self._following:
            self.steps, self._due = self.steps_done(), self.is_due()
            self._resumed = False
        for following in self._following:
            following.remove()
        self._following = []

    def end_for_good(self) -> None:
        """The same where the training is over. UserWarning where masks wait for a step to come."""
        self.end()
        if self._due:
            warn(
                "the schedule has moved at the end of the last epoch, but these masks are renewed "
                "in steps of the optimizer, and none came after it: they are of the schedule's "
                "value before, until a training goes on from here",
                UserWarning,
                stacklevel=3,
            )

    def sparsity(self, model: nn.Module | None = None) -> float:
        """The share of zeros in the attached weights, or in those of another model."""
        return self.attachment.sparsity(model)

    def state_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            **self.counts(),
            "sparsifier": self.attachment.sparsifier.state_dict(),
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """All of it, or nothing."""
        keys = ["steps", "sparsifier", "schedulers"]
        if not set(keys) <= set(state):
            raise ValueError(f"the state must have {keys}, got {list(state)}")
        steps, saved = state["steps"], [state["sparsifier"], *state["schedulers"]]
        if type(steps) is not int or steps < 0:
            raise ValueError(f"steps of the state must be an int of 0 or more, got {steps!r}")
        if len(saved) - 1 != len(self.schedulers):
            raise ValueError(
                f"the state has {len(saved) - 1} schedulers, the callback {len(self.schedulers)}"
            )
        self.checked(state.get("first", self.first))
        parts: list[Any] = [self.attachment.sparsifier, *self.schedulers]
        before = [part.state_dict() for part in parts]
        try:
            for part, its in zip(parts, saved, strict=True):
                part.load_state_dict(its)
        except BaseException:
            for part, its in zip(parts, before, strict=True):
                part.load_state_dict(its)
            raise
        self.resume(state)

    def checked(self, first: Any) -> list[int]:
        """`first` as it was saved. ValueError for what it cannot be."""
        listed = list(first) if isinstance(first, list) else [first] * len(self._moved)
        if len(listed) != len(self._moved) or any(type(one) is not int for one in listed):
            raise ValueError(
                f"first of the state must be an int for each of {len(self._moved)} schedulers, "
                f"got {first!r}"
            )
        return listed
