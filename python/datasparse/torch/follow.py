"""Masks and zeros at the steps of an optimizer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import FrameType
from typing import TYPE_CHECKING, Any
from warnings import warn
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from .._core import AdaptiveDataScheduler, BaseDataScheduler
from .._table import few
from .dtensors import count_nonzero
from .gradients import BeforeUpdate, Masks, regrows, renews_before_update
from .groups import step_then
from .optimizer import gradients_of, held_by, mask_optimizer_state

if TYPE_CHECKING:
    from .attachment import Attachment


Schedulers = BaseDataScheduler | Sequence[BaseDataScheduler] | None

STEPS = "datasparse_steps"  # in an optimizer's state_dict(): a list, one for each that follows it

_moved_by: WeakKeyDictionary[BaseDataScheduler, ref[Following]] = WeakKeyDictionary()


def require_no_metric(scheduler: BaseDataScheduler) -> None:
    """TypeError for a scheduler that an optimizer's steps cannot move."""
    if isinstance(scheduler, AdaptiveDataScheduler):
        raise TypeError(
            "an AdaptiveDataScheduler needs a metric: leave it out here, and call its "
            "step(metric) where the metric is known"
        )


def require_still(scheduler: BaseDataScheduler) -> None:
    """ValueError where another optimizer's steps move a scheduler already: it would go too fast."""
    following = _moved_by.get(scheduler)
    if following is not None and following() is not None:
        raise ValueError(
            "the scheduler is moved by the steps of another follow() already: remove() that one "
            "first, or leave the scheduler out here"
        )


def require_alone(attachment: Attachment, optimizer: torch.optim.Optimizer) -> None:
    """ValueError where the attachment follows an optimizer already: each step would count twice."""
    if any(following.optimizer is optimizer for following in attachment.followings):
        raise ValueError(
            "the attachment follows this optimizer already: remove() that following first"
        )


def require_one_reader(attachment: Attachment, every: int | None) -> None:
    """ValueError where two optimizers would both renew masks that one gradient makes."""
    if every is None or not renews_before_update(attachment.sparsifier):
        return
    if any(following.renews for following in attachment.followings):
        raise ValueError(
            "the steps of another optimizer renew the masks already, which hang on gradients or "
            "move: each step would count twice. remove() that following, or give every=None, by "
            "which this one writes zeros alone"
        )


class Following:
    """What `Attachment.follow()` does at each step of an optimizer, until `remove()`.

    Masks that hang on weights alone are renewed after the update. What reads gradients gets them
    before it, with the weights that they belong to, and behind the closure where there is one.
    Zeros are written after the update in any case.

    A step happens as a whole, or not at all. What is refused before the update leaves masks,
    schedules and `steps` as they were, and the optimizer takes no step. An error that comes when
    masks have changed, such as a warning that is an error, or gradients have been summed up, is
    raised when all else is done. So is one that comes after the update. Where the update itself
    fails and gradients are read, masks and schedules have moved; the next step writes the zeros.

    `steps` counts those steps. The optimizer's `state_dict()` brings it, under the key
    "datasparse_steps", and `load_state_dict()` takes it from there. Where a training is resumed
    without its optimizer's state, and masks are not renewed at each step, set it to what it was.
    """

    def __init__(
        self,
        attachment: Attachment,
        optimizer: torch.optim.Optimizer,
        every: int | None,
        scheduler: Schedulers,
        mask_state: bool,
        replaces_step: bool = False,
    ) -> None:
        schedulers = listed(scheduler, attachment)
        self._optimizer = ref(optimizer)  # which holds this by its hooks
        self._before_update = BeforeUpdate(attachment, optimizer, replaces_step)
        for one in schedulers:
            require_no_metric(one)
            require_still(one)
        require_alone(attachment, optimizer)
        require_one_reader(attachment, every)
        for one in schedulers:
            _moved_by[one] = ref(self)
        attachment.followings.add(self)
        self.steps = 0
        self.is_due = False  # whether masks are renewed at the next step, whatever `every` is
        self._attachment = attachment
        self._every = every
        # A mask that was drawn is trained first; all others are drawn by the weights at once.
        self._phase = 0 if regrows(attachment.sparsifier) else 1
        self._schedulers = [(one, frozenset(getattr(one, "ends", ()))) for one in schedulers]
        self._mask_state = mask_state
        self._outermost: FrameType | None = None  # of the calls of step() that are under way
        self._had_gradients = False
        self._trained = False  # in the step under way
        self._summed = False  # its gradients
        self._late: BaseException | None = None  # what it raises when it is done
        self._changes = attachment.changes()
        for one in schedulers:
            one.leads = True
        self._hooks = (
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
            optimizer.register_state_dict_post_hook(self._save_steps),
            optimizer.register_load_state_dict_pre_hook(self._load_steps),
        )

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """Whose steps are followed; None where it is gone."""
        return self._optimizer()

    @property
    def renews(self) -> bool:
        """Whether the steps of an optimizer that is still there renew the masks."""
        return self._every is not None and self.optimizer is not None

    def remove(self) -> None:
        """Leave the optimizer alone again."""
        for hook in self._hooks:
            hook.remove()
        self._attachment.followings.discard(self)
        for scheduler, _ in self._schedulers:
            mover = _moved_by.get(scheduler)
            if mover is not None and mover() is self:  # another one may have taken over since
                del _moved_by[scheduler]

    # One that follows the same optimizer as another saves its steps behind the other's.

    def _save_steps(self, _: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        state.setdefault(STEPS, []).append(self.steps)

    def _load_steps(self, _: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        if not state.get(STEPS):  # an optimizer that nobody followed
            return state
        self.steps, *others = state[STEPS]
        return state | {STEPS: others}

    # Torch calls the hooks for each class's step(): twice, where one calls that of its base. The
    # frame that calls a hook is that of the step.

    def _before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        frame = sys._getframe(1)
        if self._outermost is not None and is_called_by(frame, self._outermost):
            return None
        self._outermost = frame
        self._had_gradients = any(True for _ in gradients_of(optimizer))
        if not self._before_update.is_needed:
            return None
        self._trained = self._summed = False
        self._late = None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._read_gradients(optimizer)
            return None
        reading = self._then_read(closure, optimizer)
        if len(args) > 1:
            return (args[0], reading, *args[2:]), kwargs
        return args, kwargs | {"closure": reading}

    def _then_read(
        self, closure: Callable[[], Any], optimizer: torch.optim.Optimizer
    ) -> Callable[[], Any]:
        called = False

        def reading() -> Any:
            nonlocal called
            if called:
                raise RuntimeError(
                    f"{type(optimizer).__name__} calls its closure several times in one step, and "
                    "masks that are made by gradients need one gradient a step"
                )
            called = True
            loss = closure()
            self._read_gradients(optimizer)
            return loss

        return reading

    @_disable_dynamo  # in a compiled function, what calls the core cannot be traced
    def _read_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        if trained_nothing(optimizer, had_gradients=False):
            return
        sparsifier = self._attachment.sparsifier
        count = sparsifier.step_count
        before = [(scheduler, scheduler.state_dict()) for scheduler, _ in self._schedulers]
        self.steps += 1
        try:
            self._renew()
        except BaseException as error:
            # A weight without a gradient, an error of another rank: nothing has happened, nor shall
            # it. What has changed masks, as a warning that is an error has, or sums, cannot be
            # taken back: the optimizer then takes its step by these, and the error comes after it.
            if not self._summed and sparsifier.step_count == count:
                self.steps -= 1
                for scheduler, state in before:
                    scheduler.load_state_dict(state)
                raise
            self._late = error
        self._trained = True

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if sys._getframe(1) is not self._outermost:
            return
        self._outermost = None
        self._finish(optimizer)

    @_disable_dynamo  # nor can what computes masks on a device
    def _finish(self, optimizer: torch.optim.Optimizer) -> None:
        is_renewed = self._before_update.is_needed
        if not self._trained if is_renewed else trained_nothing(optimizer, self._had_gradients):
            return
        try:
            if not is_renewed:
                self.steps += 1
                self._renew()
            elif self._late is not None:
                raise self._late
        finally:  # a warning may be an error: of a group that has lost all its weights
            self._late = None
            self._attachment.apply()
            if self._mask_state:
                mask_optimizer_state(optimizer, self._attachment.sparsifier, self._attachment.names)
        self._warn_of_replaced(optimizer)

    def _renew(self) -> None:
        """Schedules move first, so that the masks after step s are those of schedule(s)."""
        if self._every is None:
            return
        due = self.is_due or (self.steps - self._phase) % self._every == 0
        schedulers = [scheduler for scheduler, _ in self._schedulers]
        moves_last = any(scheduler.counts_renewals for scheduler in schedulers)  # as 0.1.0 did
        if not moves_last:
            due = due or any(one.last_epoch + 1 in ends for one, ends in self._schedulers)
            move(schedulers)
        if self._before_update.is_needed:
            self._summed = self._before_update.accumulate()
        if due:
            self._renew_masks()
            if moves_last:
                move(schedulers)

    def _renew_masks(self) -> None:
        self._before_update.prepare()
        before = self._before_update.masks()
        renewal, sparsifier = self._attachment.renew, self._attachment.sparsifier
        step_then(renewal, sparsifier, lambda: self._renewed(before))

    def _renewed(self, before: Masks) -> None:
        self.is_due = False
        self._before_update.finish(before)

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


def is_called_by(frame: FrameType, outer: FrameType) -> bool:
    """Whether a call is made, in the end, by another one. One that was broken off makes none."""
    caller = frame.f_back
    while caller is not None and caller is not outer:
        caller = caller.f_back
    return caller is outer


def named(names: list[str]) -> str:
    return few(map(repr, names))


def listed(scheduler: Schedulers, attachment: Attachment) -> list[BaseDataScheduler]:
    """The schedulers that are given: one, several, or none.

    ValueError for another sparsifier's, and for two of one key.
    """
    if scheduler is None:
        return []
    found: list[Any] = [*scheduler] if isinstance(scheduler, list | tuple) else [scheduler]
    for one in found:
        if not isinstance(one, BaseDataScheduler):
            raise TypeError(
                f"scheduler must be a data scheduler of datasparse, got {type(one).__name__}"
            )
        if one.data_sparsifier is not attachment.sparsifier:
            raise ValueError("the scheduler belongs to another sparsifier than the attachment")
    keys = [one.schedule_param for one in found]
    if len(set(keys)) < len(keys):
        raise ValueError(f"schedulers must move different keys, got {', '.join(keys)}")
    return found


def move(schedulers: Sequence[BaseDataScheduler]) -> None:
    """Each by a step, whatever becomes of the others: they stay together."""
    with ExitStack() as calls:
        for scheduler in reversed(schedulers):
            calls.callback(scheduler.step)


# --- steps that are none --------------------------------------------------------------------------


def trained_nothing(optimizer: torch.optim.Optimizer, had_gradients: bool) -> bool:
    """Whether a step was none, by which nothing may move: no schedule, no mask, no zero.

    Some call `step()` to fill an optimizer's state: torch.distributed.checkpoint does, to save,
    with zero gradients at the rate 0. Without any gradient an optimizer passes over all parameters.
    A fused optimizer is called by a GradScaler though it found infinite gradients, and passes over
    them then. A warm-up that begins at the rate 0 has gradients, and is a training.
    """
    if is_infinite(getattr(optimizer, "found_inf", None)):
        return True
    if not had_gradients and next(gradients_of(optimizer), None) is None:
        return True
    rates = [rate for group in optimizer.param_groups if (rate := group.get("lr")) is not None]
    all_at_rest = bool(rates) and all(float(rate) == 0 for rate in rates)
    return all_at_rest and not any(map(is_nonzero, gradients_of(optimizer)))


def is_infinite(found_inf: object) -> bool:
    """What a GradScaler says while it calls an optimizer that looks at this itself."""
    return isinstance(found_inf, Tensor) and float(found_inf) != 0


def is_nonzero(gradient: Tensor) -> bool:
    values = gradient.coalesce().values() if gradient.is_sparse else gradient
    return count_nonzero(values) > 0
