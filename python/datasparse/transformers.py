"""A callback for the Trainer of Hugging Face's transformers.

sparsifier = DataNormSparsifier(sparsity_level=0.9)
callback = DataSparsity(attach(model, sparsifier, types=torch.nn.Linear))
Trainer(model, arguments, callbacks=[callback], ...).train()
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from warnings import warn

from torch import nn

from ._core import BaseDataScheduler, BaseDataSparsifier, load, save
from ._training import Training, of_recipe
from .files.header import json_of
from .recipes import Recipe
from .torch import Attachment
from .torch.dtensors import is_sharded
from .torch.follow import Schedulers
from .torch.optimizer import plain_optimizer, writes_averages

__all__ = ["DataSparsity"]

CHECKPOINT = "datasparse.safetensors"  # within the trainer's
FIRST = "datasparse.first.json"  # beside it: where the schedules began, and epochs
STATE = "trainer_state.json"  # the trainer's own

if TYPE_CHECKING:

    class TrainerCallback:
        """What type checkers see, whether transformers is installed or not."""

else:
    try:
        from transformers import TrainerCallback
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise ModuleNotFoundError(
            "datasparse.transformers needs transformers: pip install 'datasparse[transformers]'"
        ) from error


class DataSparsity(TrainerCallback):
    """Prunes the model that is trained: masks after optimizer steps, a schedule, a log.

    Args:
        attachment: what `datasparse.torch.attach(model, sparsifier)` returned; or, with a recipe,
            the model itself, which is attached now.
        scheduler: of the attachment's sparsifier; or several, of different keys; or none. An
            `AdaptiveDataScheduler` is saved and resumed with the others; its step(metric) is yours.
        recipe: of `datasparse.recipes`, or the path of its file: which weights, how, and the
            schedulers.
        schedule: what the schedule counts. "step": the optimizer's steps, as `follow()` says;
            "epoch": epochs. Then the masks after N epochs are of its value at N: they are renewed
            with the last step of each epoch, too, before the model is validated or saved.
        every: masks are renewed after the first optimizer step and each `every`-th one from there.
        mask_state: whether the optimizer forgets pruned elements, too.
        replaces_step: whether the step at which masks move (`datasparse.regrowth`) trains nothing.
        log: whether "sparsity", the share of zeros in the weights, is added to what is logged.
        resume_from: the checkpoint that the training is resumed from, where that is not the one of
            its step in the trainer's output_dir.

    Each checkpoint of the trainer gets a file `datasparse.safetensors` with masks, configs and
    schedule, which `datasparse.load()` reads, too, and `datasparse.first.json`, which says where
    the schedule began; a training that is resumed from the checkpoint goes on as if it had not been
    interrupted. Where the trainer ends with the best model (load_best_model_at_end), the masks are
    those of its checkpoint. Where data have no length, each pass through them is an epoch. The
    model stays attached after the training: `detach(model)` makes the zeros permanent.
    """

    def __init__(
        self,
        attachment: Attachment | nn.Module,
        scheduler: Schedulers = None,
        *,
        recipe: Recipe | str | os.PathLike[str] | None = None,
        schedule: str = "step",
        every: int = 1,
        mask_state: bool = False,
        replaces_step: bool = False,
        log: bool = True,
        resume_from: str | os.PathLike[str] | None = None,
    ) -> None:
        attachment, scheduler = of_recipe(attachment, scheduler, recipe)
        self._training = Training(attachment, scheduler, schedule, every, mask_state, replaces_step)
        self._epochs = Epochs()
        self._log = log
        self._resume_from = None if resume_from is None else Path(resume_from)

    @property
    def sparsifier(self) -> BaseDataSparsifier:
        return self._training.attachment.sparsifier

    @property
    def scheduler(self) -> BaseDataScheduler | None:
        return self._training.scheduler

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._epochs = Epochs()
        if state.global_step > 0:
            self._resume(args, state, kwargs["optimizer"])
        self._training.begin([kwargs["optimizer"]], resumed=state.global_step > 0)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._epochs.begin(state)
        self._training.epochs_done(self._epochs.done(state))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._epochs.end_with_this_step(args, state, kwargs.get("train_dataloader")):
            self._training.epoch_ends_with_this_step(self._epochs.done(state) + 1)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._epochs.step(state)
        self._training.epochs_done(self._epochs.done(state))  # before it is evaluated and saved

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._epochs.end(state, control)
        self._training.epochs_done(self._epochs.done(state))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.should_save:
            folder = folder_of(args, state)
            counts = self._training.counts() | {"epochs": self._epochs.counts()}
            (folder / FIRST).write_text(json.dumps(counts))
            save(folder / CHECKPOINT, self.sparsifier, *self._training.schedulers)
        elif any(map(is_sharded, map(self.sparsifier.get_mask, self.sparsifier.data_groups))):
            self.sparsifier.state_dict()  # the rank that saves gathers masks of all others

    def _resume(self, args: Any, state: Any, optimizer: Any) -> None:
        folder = self._resume_from or folder_of(args, state)
        if not (folder / CHECKPOINT).exists():
            raise FileNotFoundError(
                f"the training is resumed at step {state.global_step}, but there is no "
                f"{CHECKPOINT} in {folder}: name the checkpoint by "
                "DataSparsity(..., resume_from=...)"
            )
        require_its_own(folder, state)
        counts, noted = {"steps": state.global_step}, folder / FIRST
        if noted.exists():  # version 0.1.0 did not write it
            counts |= json_of(str(noted), noted.read_bytes())
            self._training.checked(counts.get("first"))
            self._epochs.resume(counts.get("epochs", {}))
        load(folder / CHECKPOINT, self.sparsifier, *self._training.schedulers)
        optimizer = plain_optimizer(optimizer)
        is_trained = self._training.attachment.owns_any_of(optimizer)
        if is_trained and not writes_averages(optimizer) and not self._training.has_zeros():
            warn(
                f"the weights that the training is resumed with are not zero where the masks of "
                f"{folder} prune: where these are of another training, name the checkpoint by "
                "DataSparsity(..., resume_from=...)",
                UserWarning,
                stacklevel=2,
            )
        self._training.resume(counts)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._log:
            sparsity = self._training.sparsity()
            kwargs["logs"]["sparsity"] = sparsity  # for the callbacks that come after this one
            if state.log_history:
                state.log_history[-1]["sparsity"] = sparsity

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._training.epochs_done(self._epochs.done(state))
        self._training.end_for_good()
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            best = Path(state.best_model_checkpoint) / CHECKPOINT
            load(best, self.sparsifier, *self._training.schedulers)
            self._training.attachment.apply()


class Epochs:
    """How many epochs of the trainer's are over.

    It counts in fractions of the length of its data. Where the data have none, it takes all of the
    training for one epoch; then each pass through them counts here, and the one before says how
    long the next is.
    """

    def __init__(self) -> None:
        self.cut = 0  # epochs, the last of which a callback broke off
        self.passes = 0  # that are over
        self.length = 0  # of a whole pass, in steps; 0 before the first is over
        self._begun = 0  # the step before the pass under way
        self._resumed = False  # this pass, which may have begun before
        self._expected = False  # this step to be the last
        self._counted = False  # this pass, since its last step was expected

    def counts(self) -> dict[str, int]:
        """What a resumed training has to know."""
        return {"cut": self.cut, "passes": self.passes, "length": self.length}

    def resume(self, counts: Mapping[str, int]) -> None:
        self.cut, self.passes = counts.get("cut", 0), counts.get("passes", 0)
        self.length = counts.get("length", 0)
        self._resumed = True

    def done(self, state: Any) -> int:
        return max(int((state.epoch or 0) + 1e-6), self.cut) if has_length(state) else self.passes

    def begin(self, state: Any) -> None:
        self._begun = state.global_step
        self._counted = False

    def end_with_this_step(self, args: Any, state: Any, data: Any) -> bool:
        """Whether an epoch ends with the update that comes; False where nobody knows."""
        since = int(state.global_step) - self._begun
        if not has_length(state):
            self._expected = not self._resumed and since + 1 == self.length
            return self._expected
        batches = len(data)
        from_new = since == 0 and args.ignore_data_skip  # a resumed trainer, from an epoch's middle
        done = 0 if from_new else round((state.epoch or 0) % 1 * batches)
        return done + int(args.gradient_accumulation_steps) >= batches

    def step(self, state: Any) -> None:
        """After a step: where it was expected to be the last of a pass, the pass is over."""
        if self._expected:
            self.passes += 1
            self._expected, self._counted = False, True

    def end(self, state: Any, control: Any) -> None:
        """After an epoch or a pass, whole or not."""
        steps, resumed = state.global_step - self._begun, self._resumed
        self._resumed = False
        if has_length(state):
            if control.should_epoch_stop and not control.should_training_stop:
                self.cut = math.ceil((state.epoch or 0) - 1e-6)
            return
        if control.should_training_stop and not 0 < self.length <= steps:
            return  # broken off
        if steps > 0 and not self._counted:  # a resumed trainer may pass over what is done
            self.passes += 1
        if steps > 0 and not resumed and not control.should_epoch_stop:
            self.length = steps


def has_length(state: Any) -> bool:
    """Whether the trainer knows how long its data are: if not, it plans for no end of epochs."""
    return int(state.num_train_epochs) < sys.maxsize


def require_its_own(folder: Path, state: Any) -> None:
    """ValueError where a checkpoint is another one than that which the training is resumed from."""
    noted = folder / STATE
    if not noted.exists():  # a folder that was named, with the masks alone
        return
    theirs = json_of(str(noted), noted.read_bytes())
    # As text: a loss may be NaN, which equals none.
    if theirs.get("global_step") != state.global_step or json.dumps(
        theirs.get("log_history")
    ) != json.dumps(state.log_history):
        raise ValueError(
            f"the training is resumed at step {state.global_step}, with another log than {noted}: "
            "name its checkpoint by DataSparsity(..., resume_from=...)"
        )


def folder_of(args: Any, state: Any) -> Path:
    """Where the trainer puts the checkpoint of the step it is at."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
