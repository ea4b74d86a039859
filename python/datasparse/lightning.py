"""Callbacks for PyTorch Lightning, under either of its names: `lightning` and `pytorch_lightning`.

    sparsifier = DataNormSparsifier(sparsity_level=0.9)
    callback = DataSparsity(attach(module, sparsifier))
    Trainer(callbacks=[callback]).fit(module)

`PostTrainingDataSparsity` and `TrainingAwareDataSparsity` are those of
`torch.ao.pruning._experimental`: they leave the module alone and prune a copy.
"""

from __future__ import annotations

import copy
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim.swa_utils import AveragedModel

from ._core import BaseDataScheduler, BaseDataSparsifier
from ._training import Training, of_recipe
from .recipes import Recipe
from .torch import Attachment, attach
from .torch.follow import Schedulers
from .torch.groups import step_then
from .torch.places import module_at, path_of, plain_model

__all__ = ["DataSparsity", "PostTrainingDataSparsity", "TrainingAwareDataSparsity"]


def callback_class() -> type[Any]:
    """The base of callbacks: of the package that is imported already, or else installed.

    Trainers of either package take callbacks of the other: they call hooks by name.
    """
    packages = ("lightning.pytorch", "pytorch_lightning")
    for package in sorted(packages, key=lambda package: package not in sys.modules):
        try:
            callback: type[Any] = importlib.import_module(package).Callback
        except ModuleNotFoundError as error:
            if error.name not in (package, package.partition(".")[0]):
                raise
        else:
            return callback
    raise ModuleNotFoundError(
        "datasparse.lightning needs PyTorch Lightning: pip install 'datasparse[lightning]'"
    )


if TYPE_CHECKING:

    class Callback:
        """What type checkers see, whether Lightning is installed or not."""

else:
    Callback = callback_class()


class DataSparsity(Callback):
    """Prunes the module that is trained: masks after optimizer steps, a schedule, a log.

    Args:
        attachment: what `datasparse.torch.attach(module, sparsifier)` returned; or, with a recipe,
            the module itself, which is attached now.
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
        log: whether "sparsity", the share of zeros in the weights, is logged at the end of an
            epoch: in those of the average, where Lightning's WeightAveraging keeps one.

    Averages of weights are masked too: that of StochasticWeightAveraging, when the module ends with
    it; that of WeightAveraging and EMAWeightAveraging, whenever it is validated or saved, and in
    the end.

    Masks, configs and schedule are part of the trainer's checkpoints, and a training that is
    resumed from one goes on as if it had not been interrupted. The module stays attached after the
    training: `detach(module)` makes the zeros permanent.
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
    ) -> None:
        super().__init__()
        attachment, scheduler = of_recipe(attachment, scheduler, recipe)
        self._training = Training(attachment, scheduler, schedule, every, mask_state, replaces_step)
        self._log = log
        self._waits_for_epoch = True  # until its first batch

    @property
    def sparsifier(self) -> BaseDataSparsifier:
        return self._training.attachment.sparsifier

    @property
    def scheduler(self) -> BaseDataScheduler | None:
        return self._training.scheduler

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._waits_for_epoch = True
        resumed = trainer.ckpt_path is not None
        self._training.begin(trainer.optimizers, trainer.current_epoch, resumed)

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._waits_for_epoch:
            self._waits_for_epoch = False
            # A training that is resumed from the last batch of an epoch begins no epoch.
            self._training.epochs_done(trainer.current_epoch)
            # Averages were written into the module at the epoch's start, where it ends with them.
            if averages_of(trainer):
                self._training.attachment.apply()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if trainer.is_last_batch:
            self._training.epoch_ends_with_this_step(trainer.current_epoch + 1)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_last_batch:  # before the model is validated and saved
            self._training.epochs_done(trainer.current_epoch + 1)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._waits_for_epoch = True
        self._training.epochs_done(trainer.current_epoch + 1)
        if self._log:
            saved = self._mask_averages(trainer, pl_module)
            pl_module.log("sparsity", self._training.sparsity(saved))

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self._mask_averages(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._mask_averages(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._training.epochs_done(trainer.current_epoch)
        self._training.end_for_good()

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        # Some callbacks write their average into the module when the training ends, after this one.
        self._training.attachment.apply()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._training.end()

    def _mask_averages(self, trainer: Any, pl_module: nn.Module) -> nn.Module | None:
        """Returns the average that is saved in the module's place, where there is one."""
        attachment = self._training.attachment
        saved = None
        for average in averages_of(trainer):
            attached = counterpart(attachment.model(), pl_module, average)
            attachment.apply(attached)
            if isinstance(average, AveragedModel):
                saved = attached
        return saved

    def state_dict(self) -> dict[str, Any]:
        return self._training.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._training.load_state_dict(state_dict)


def averages_of(trainer: Any) -> list[nn.Module]:
    """The averages of the module that other callbacks of the trainer keep."""
    kept = (getattr(callback, "_average_model", None) for callback in trainer.callbacks)
    return [model for model in kept if isinstance(model, nn.Module)]


def counterpart(part: nn.Module | None, whole: nn.Module, copied: nn.Module) -> nn.Module:
    """What a part of a model is in a copy of the model."""
    copied = plain_model(copied)
    path = next((path for path, module in whole.named_modules() if module is part), "")
    return module_at(copied, path_of(path)) or copied


def wrapped_model(pl_module: Any) -> nn.Module:
    """`pl_module.model`, where there is such a module, as PyTorch's callbacks have it; else all."""
    model = getattr(pl_module, "model", pl_module)
    return model if isinstance(model, nn.Module) else pl_module


class PostTrainingDataSparsity(Callback):
    """Prunes a copy of `pl_module.model` once, after the training: `sparsified`.

    Args:
        data_sparsifier_class, data_sparsifier_args: what makes the sparsifier.
        selection: which parameters, as for `attach()`: include, exclude, types. By default all of
            two and more dimensions.
    """

    def __init__(
        self,
        data_sparsifier_class: Callable[..., BaseDataSparsifier],
        data_sparsifier_args: Mapping[str, Any],
        **selection: Any,
    ) -> None:
        super().__init__()
        self.data_sparsifier_class = data_sparsifier_class
        self.data_sparsifier_args = dict(data_sparsifier_args)
        self.selection = selection
        self.data_sparsifier: BaseDataSparsifier | None = None
        self.sparsified: nn.Module | None = None

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self.sparsified = copy.deepcopy(wrapped_model(pl_module)).eval()
        self.data_sparsifier = self.data_sparsifier_class(**self.data_sparsifier_args)
        attach(self.sparsified, self.data_sparsifier, **self.selection)
        sparsifier = self.data_sparsifier
        step_then(sparsifier.step, sparsifier, sparsifier.squash_mask)


class TrainingAwareDataSparsity(Callback):
    """Prunes a copy of `pl_module.model` after each epoch, by a schedule: `sparsified`.

    The module that is trained is left alone; `DataSparsity` prunes that one.

    Args:
        data_sparsifier_class, data_sparsifier_args: what makes the sparsifier.
        data_scheduler_class, data_scheduler_args: what makes the scheduler, but for its first
            argument, the sparsifier.
        selection: which parameters, as for `attach()`: include, exclude, types. By default all of
            two and more dimensions.

    Sparsifier and scheduler are part of the trainer's checkpoints.
    """

    def __init__(
        self,
        data_sparsifier_class: Callable[..., BaseDataSparsifier],
        data_sparsifier_args: Mapping[str, Any],
        data_scheduler_class: Callable[..., BaseDataScheduler],
        data_scheduler_args: Mapping[str, Any],
        **selection: Any,
    ) -> None:
        super().__init__()
        self.data_sparsifier_class = data_sparsifier_class
        self.data_sparsifier_args = dict(data_sparsifier_args)
        self.data_scheduler_class = data_scheduler_class
        self.data_scheduler_args = dict(data_scheduler_args)
        self.selection = selection
        self.data_sparsifier: BaseDataSparsifier | None = None
        self.data_scheduler: BaseDataScheduler | None = None
        self.sparsified: nn.Module | None = None
        self._loaded: dict[str, Any] | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.sparsified = copy.deepcopy(wrapped_model(pl_module))
        self.data_sparsifier = self.data_sparsifier_class(**self.data_sparsifier_args)
        attach(self.sparsified, self.data_sparsifier, **self.selection)
        arguments = copy.deepcopy(self.data_scheduler_args) | {
            "data_sparsifier": self.data_sparsifier
        }
        self.data_scheduler = self.data_scheduler_class(**arguments)
        if self._loaded is not None:
            self.data_sparsifier.load_state_dict(self._loaded["sparsifier"])
            self.data_scheduler.load_state_dict(self._loaded["scheduler"])
            self._loaded = None

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        assert self.sparsified is not None  # on_train_start() was called
        assert self.data_sparsifier is not None
        assert self.data_scheduler is not None
        sparsifier, scheduler = self.data_sparsifier, self.data_scheduler
        self.sparsified.load_state_dict(wrapped_model(pl_module).state_dict())

        def follow() -> None:
            sparsifier.apply_mask()
            scheduler.step()

        step_then(sparsifier.step, sparsifier, follow)

    def state_dict(self) -> dict[str, Any]:
        if self.data_sparsifier is None or self.data_scheduler is None:
            return {}
        return {
            "sparsifier": self.data_sparsifier.state_dict(),
            "scheduler": self.data_scheduler.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loaded = state_dict
