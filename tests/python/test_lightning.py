"""The callbacks, in trainings by the real library, under both of its names."""

import copy
import importlib

import pytest
import torch
from datasparse import AdaptiveDataScheduler, BaseDataScheduler, DataNormSparsifier, DataScheduler
from datasparse.regrowth import RigL
from datasparse.schedules import Constant, Linear
from datasparse.scores import Taylor
from datasparse.torch import attach, detach
from devices.trainers import options_of_trainers
from support import ON_DEVICES, first_there
from torch import nn

PACKAGES = ["lightning.pytorch", "pytorch_lightning"]
CONFIG = {"sparsity_level": 0.8, "sparse_block_shape": (1, 1)}

# What the trainers say about small trainings on a CPU.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*num_workers"),
    pytest.mark.filterwarnings("ignore:.*Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    *ON_DEVICES,
]


# Imported by the process that runs these tests, and not by all that collect them: it takes seconds.
@pytest.fixture(params=first_there(PACKAGES))
def package(request):
    return pytest.importorskip(request.param, reason=f"needs {request.param}")


@pytest.fixture(scope="module", autouse=True)
def _needs_the_extra():
    pytest.importorskip("lightning.pytorch", reason="needs the extra 'lightning'")


def callbacks():
    return importlib.import_module("datasparse.lightning")


class Body:
    """A module of either package: its class is made by module_of()."""

    def __init__(self, accumulate=1):
        super().__init__()
        torch.manual_seed(5)
        self.model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 4))
        self.seen = []  # after each batch: steps of the optimizer, zeros in the first layer

    def training_step(self, batch, _index):
        inputs, labels = batch
        assert self.device == inputs.device == torch.empty(0).device
        return nn.functional.cross_entropy(self.model(inputs), labels)

    def on_train_batch_end(self, *_):
        self.seen.append((self.trainer.global_step, int((self.model[0].weight == 0).sum())))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01, weight_decay=0.1)


class Validated(Body):
    def __init__(self):
        super().__init__()
        self.validated = []

    def validation_step(self, batch, _index):
        self.validated.append(int((self.model[0].weight == 0).sum()))
        self.log("val_loss", nn.functional.cross_entropy(self.model(batch[0]), batch[1]))


def module_of(package):
    return type("Module", (Body, package.LightningModule), {})()


class Loader:
    """Six batches, resumable in the middle, as Lightning asks of a loader."""

    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        inputs = torch.randn(48, 12, generator=generator)
        labels = torch.randint(4, (48,), generator=generator)
        self.batches = list(zip(inputs.split(8), labels.split(8), strict=True))
        self.next = 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        self.next %= len(self.batches)
        while self.next < len(self.batches):
            self.next += 1
            yield self.batches[self.next - 1]

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state):
        self.next = state["next"]


def trainer_of(package, folder, *callbacks, **options):
    settings = {
        "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
        "enable_checkpointing": False, "max_epochs": 3,
    } | options_of_trainers(package) | options  # fmt: skip
    return package.Trainer(default_root_dir=folder, callbacks=list(callbacks), **settings)


def sparse_module(package, **options):
    module = options.pop("module", None) or module_of(package)
    mode = options.pop("mode", "in_place")
    scheduled = options.pop("scheduled", True)
    sparsifier = options.pop("sparsifier", None) or DataNormSparsifier(**CONFIG)
    attachment = attach(module, sparsifier, include="model.*.weight", mode=mode)
    scheduler = DataScheduler(sparsifier, "sparsity_level", Linear(end=4)) if scheduled else None
    return module, callbacks().DataSparsity(attachment, scheduler, **options)


@pytest.mark.parametrize("mode", ["in_place", "parametrize"])
def test_masks_follow_every_optimizer_step(package, tmp_path, mode):
    module, callback = sparse_module(package, mode=mode)
    trainer_of(package, tmp_path, callback).fit(module, Loader())
    levels = [0.2, 0.4, 0.6] + 15 * [0.8]
    assert module.seen == [(step + 1, round(240 * level)) for step, level in enumerate(levels)]
    assert callback.scheduler.last_epoch == 18
    assert callback.sparsifier.step_count == 18
    detach(module)
    assert int((module.model[0].weight == 0).sum()) == 192
    assert list(module.state_dict()) == list(module_of(package).state_dict())


def test_the_schedule_may_go_by_epochs(package, tmp_path):
    module, callback = sparse_module(package, schedule="epoch")
    trainer_of(package, tmp_path, callback).fit(module, Loader())
    # With the last batch of an epoch, before it is validated and saved.
    assert [zeros for _, zeros in module.seen] == 5 * [0] + 6 * [48] + 6 * [96] + [144]
    assert callback.scheduler.last_epoch == 3


def test_what_is_validated_and_saved_after_an_epoch_has_its_masks(package, tmp_path):
    module = type("Module", (Validated, package.LightningModule), {})()
    module, callback = sparse_module(package, module=module, schedule="epoch")
    saving = package.callbacks.ModelCheckpoint(
        tmp_path / "saved", "{epoch}", save_top_k=-1, monitor="val_loss",
        save_on_train_epoch_end=False,
    )  # fmt: skip
    trainer = trainer_of(
        package, tmp_path, callback, saving, enable_checkpointing=True, num_sanity_val_steps=0
    )
    trainer.fit(module, Loader(), Loader())
    assert module.validated == 6 * [48] + 6 * [96] + 6 * [144]
    for epoch, zeros in enumerate((48, 96, 144)):
        path = tmp_path / "saved" / f"epoch={epoch}.ckpt"
        saved = torch.load(path, weights_only=False)["state_dict"]["model.0.weight"]
        assert int((saved == 0).sum()) == zeros


def test_masks_are_renewed_after_an_epoch_also_where_no_schedule_moves(package, tmp_path):
    module = module_of(package)
    sparsifier = DataNormSparsifier(**CONFIG)
    attachment = attach(module, sparsifier, include="model.*.weight")
    adaptive = AdaptiveDataScheduler(sparsifier, "sparsity_level", Linear(end=2))

    class Metric(package.Callback):
        def on_train_batch_end(self, *_):
            adaptive.step(0.5)

    callback = callbacks().DataSparsity(attachment, adaptive, schedule="epoch", every=1000)
    trainer_of(package, tmp_path, Metric(), callback, max_epochs=1).fit(module, Loader())
    assert int((module.model[0].weight == 0).sum()) == 192


def by_gradients(kind):
    """A sparsifier whose masks are renewed before an update, as `sparse_module()` takes it."""
    if kind == "Taylor":
        return DataNormSparsifier(**CONFIG, score=Taylor())
    return RigL(sparsity_level=0.8, drop_fraction=0.3, seed=1)


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("kind", ["Taylor", "RigL"])
def test_masks_by_gradients_are_renewed_with_the_last_step_of_an_epoch(
    package, tmp_path, kind, accumulate
):
    module, callback = sparse_module(
        package, sparsifier=by_gradients(kind), schedule="epoch", every=100
    )
    pruned = []

    class Watch(package.Callback):
        def on_train_batch_end(self, *_):
            mask = callback.sparsifier.get_mask("model.0.weight")
            pruned.append(mask.numel() - int(mask.sum()))

    trainer = trainer_of(package, tmp_path, callback, Watch(), accumulate_grad_batches=accumulate)
    trainer.fit(module, Loader())
    assert pruned[5::6] == [48, 96, 144]  # of the values at 1, 2, 3
    assert pruned[10] == 48
    assert pruned[16] == 96
    assert callback.scheduler.last_epoch == 3


def test_a_last_value_that_no_mask_is_of_is_said(package, tmp_path):
    """No step comes at the end of the epoch: the optimizer's are skipped in the last batch."""

    class Skipping(Body):
        automatic_optimization = False

        def training_step(self, batch, index):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, index))
            if index < 5:
                optimizer.step()

    module = type("Module", (Skipping, package.LightningModule), {})()
    module, callback = sparse_module(
        package, module=module, sparsifier=by_gradients("Taylor"), schedule="epoch", every=100
    )
    with pytest.warns(UserWarning, match="renewed in steps of the optimizer, and none came after"):
        trainer_of(package, tmp_path, callback).fit(module, Loader())
    assert [zeros for _, zeros in module.seen] == 6 * [0] + 6 * [48] + 6 * [96]


@pytest.mark.full_there
def test_gradient_accumulation(package, tmp_path):
    module, callback = sparse_module(package, scheduled=False)
    trainer_of(package, tmp_path, callback, accumulate_grad_batches=3).fit(module, Loader())
    assert callback.sparsifier.step_count == 6
    assert module.seen[:6] == [(0, 0), (0, 0), (1, 192), (1, 192), (1, 192), (2, 192)]


@pytest.mark.full_there
def test_masks_may_be_renewed_less_often(package, tmp_path):
    module, callback = sparse_module(package, every=4)
    trainer_of(package, tmp_path, callback).fit(module, Loader())
    assert callback.sparsifier.step_count == 6  # after 1, 5, 9, 13, 17; and 4, where it ends
    assert module.seen[-1] == (18, 192)


def test_the_optimizer_may_forget(package, tmp_path):
    module, callback = sparse_module(package, mask_state=True, scheduled=False)
    trainer = trainer_of(package, tmp_path, callback)
    trainer.fit(module, Loader())
    state = trainer.optimizers[0].state[module.model[0].weight]
    mask = callback.sparsifier.get_mask("model.0.weight")
    assert int((state["exp_avg"] != 0).sum()) <= int(mask.sum())
    assert not state["exp_avg_sq"][~mask].any()


@pytest.mark.full_there
def test_the_share_of_zeros_is_logged(package, tmp_path):
    module, callback = sparse_module(package, scheduled=False)
    trainer = trainer_of(package, tmp_path, callback)
    trainer.fit(module, Loader())
    assert trainer.logged_metrics["sparsity"].item() == pytest.approx(0.8)
    module, callback = sparse_module(package, log=False)
    trainer = trainer_of(package, tmp_path, callback)
    trainer.fit(module, Loader())
    assert "sparsity" not in trainer.logged_metrics


class KillError(Exception):
    pass


def killer_of(package, at):
    class Killer(package.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == at:
                raise KillError

    return Killer()


@pytest.mark.parametrize(("mode", "schedule"), [("in_place", "epoch"), ("parametrize", "step")])
@pytest.mark.parametrize("saved", first_there([4, 1, 6, 9, 12]))  # of 6 steps an epoch
def test_a_resumed_training_equals_the_unbroken_one(package, tmp_path, mode, schedule, saved):
    options = {"mode": mode, "schedule": schedule, "every": 2, "mask_state": True}
    unbroken, callback = sparse_module(package, **options)
    trainer_of(package, tmp_path, callback).fit(unbroken, Loader())

    def checkpoints():
        return package.callbacks.ModelCheckpoint(
            tmp_path / "saved", "{step}", every_n_train_steps=saved, save_top_k=-1,
            save_on_train_epoch_end=False,
        )  # fmt: skip

    module, first = sparse_module(package, **options)
    trainer = trainer_of(
        package, tmp_path, first, checkpoints(), killer_of(package, saved + 1),
        enable_checkpointing=True,
    )  # fmt: skip
    with pytest.raises(KillError):
        trainer.fit(module, Loader())

    module, second = sparse_module(package, **options)
    path = tmp_path / "saved" / f"step={saved}.ckpt"
    trainer_of(package, tmp_path, second).fit(module, Loader(), ckpt_path=path)
    assert module.seen == unbroken.seen[saved:]
    for name, value in unbroken.state_dict().items():
        assert torch.equal(module.state_dict()[name], value), name
    for name in callback.sparsifier.data_groups:
        assert torch.equal(second.sparsifier.get_mask(name), callback.sparsifier.get_mask(name))
    assert second.scheduler.state_dict() == callback.scheduler.state_dict()
    assert second.sparsifier.step_count == callback.sparsifier.step_count


@pytest.mark.parametrize("saved", first_there([6, 9]))  # of 6 steps an epoch
def test_a_resumed_training_by_gradients_equals_the_unbroken_one(package, tmp_path, saved):
    def made():
        return sparse_module(
            package, sparsifier=by_gradients("Taylor"), schedule="epoch", every=100
        )

    unbroken, callback = made()
    trainer_of(package, tmp_path, callback).fit(unbroken, Loader())
    module, first = made()
    saving = package.callbacks.ModelCheckpoint(
        tmp_path / "saved", "{step}", every_n_train_steps=saved, save_top_k=-1
    )
    killer = killer_of(package, saved + 1)
    trainer = trainer_of(package, tmp_path, first, saving, killer, enable_checkpointing=True)
    with pytest.raises(KillError):
        trainer.fit(module, Loader())

    module, second = made()
    path = tmp_path / "saved" / f"step={saved}.ckpt"
    trainer_of(package, tmp_path, second).fit(module, Loader(), ckpt_path=path)
    assert module.seen == unbroken.seen[saved:]
    assert torch.equal(module.model[0].weight, unbroken.model[0].weight)
    assert second.state_dict() == callback.state_dict()


def as_0_1_0_saved(state):
    """The state of a callback, without what came later."""
    groups = {
        name: {key: group[key] for key in ("config", "shape", "mask", "squashed", "state")}
        for name, group in state["sparsifier"]["data_groups"].items()
    }
    return {
        "steps": state["steps"],
        "sparsifier": {**state["sparsifier"], "version": 1, "data_groups": groups},
        "schedulers": [
            {key: value for key, value in scheduler.items() if key != "counts_renewals"}
            | {"version": 1}
            for scheduler in state["schedulers"]
        ],
    }


@pytest.mark.full_there
@pytest.mark.parametrize(
    ("schedule", "levels", "renewals"),
    [
        # Renewed after steps 1, 4, 7, ..., each with the value before the scheduler moves on.
        ("step", 3 * [0] + 3 * [0.2] + 3 * [0.4] + 3 * [0.6] + 6 * [0.8], 6),
        # Moved on at the end of an epoch, for the next renewal, after steps 7 and 13.
        ("epoch", 6 * [0] + 6 * [0.2] + 6 * [0.4], 6),
    ],
)
def test_a_training_that_0_1_0_saved_goes_on_as_it_began(
    package, tmp_path, schedule, levels, renewals
):
    module, callback = sparse_module(package, schedule=schedule, every=3)
    callback.load_state_dict(as_0_1_0_saved(callback.state_dict()))
    trainer_of(package, tmp_path, callback).fit(module, Loader())
    assert [zeros for _, zeros in module.seen] == [round(240 * level) for level in levels]
    assert callback.sparsifier.step_count == renewals
    saved = callback.state_dict()["schedulers"][0]
    assert saved["counts_renewals"] is True  # and goes on to


def test_the_callback_leaves_the_optimizer_alone_after_an_error(package, tmp_path):
    module, callback = sparse_module(package, scheduled=False)
    trainer = trainer_of(package, tmp_path, callback, killer_of(package, 2))
    with pytest.raises(KillError):
        trainer.fit(module, Loader())
    steps = callback.sparsifier.step_count
    trainer.optimizers[0].step()
    assert callback.sparsifier.step_count == steps == 2


def test_a_scheduler_that_needs_a_metric_is_saved_and_left_to_its_owner(package, tmp_path):
    def made():
        module = module_of(package)
        sparsifier = DataNormSparsifier(**CONFIG)
        attachment = attach(module, sparsifier, include="model.*.weight")
        adaptive = AdaptiveDataScheduler(sparsifier, "sparsity_level", Linear(end=4))
        plain = DataScheduler(sparsifier, "zeros_per_block", Constant(1))
        return module, callbacks().DataSparsity(attachment, [adaptive, plain]), adaptive

    module, callback, adaptive = made()
    first = trainer_of(package, tmp_path, callback, max_epochs=1)
    first.fit(module, Loader())
    assert adaptive.position == 0
    for _ in range(3):
        adaptive.step(0.5)
    first.save_checkpoint(tmp_path / "saved.ckpt")

    module, callback, resumed = made()
    second = trainer_of(package, tmp_path, callback, max_epochs=2)
    second.fit(module, Loader(), ckpt_path=tmp_path / "saved.ckpt")
    assert resumed.position == 3
    assert resumed.best == 0.5
    assert int((module.model[0].weight == 0).sum()) == 144
    resumed.step(0.5)
    assert resumed.get_last_param()["model.0.weight"] == 0.8


@pytest.mark.full_there
def test_a_second_training_schedules_on(package, tmp_path):
    module, callback = sparse_module(package, schedule="epoch")
    for epochs in (1, 2, 3):
        trainer_of(package, tmp_path, callback, max_epochs=1).fit(module, Loader())
        assert callback.scheduler.last_epoch == epochs
    assert callback.sparsifier.step_count == 18 + 3  # and at the end of each


@pytest.mark.full_there
def test_a_second_training_by_the_same_trainer_schedules_on(package, tmp_path):
    module, callback = sparse_module(package, schedule="epoch")
    trainer = trainer_of(package, tmp_path, callback, max_epochs=2)
    trainer.fit(module, Loader())
    assert callback.scheduler.last_epoch == 2
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, Loader())
    assert callback.scheduler.last_epoch == 3


@pytest.mark.full_there
def test_of_several_optimizers_the_first_with_masked_parameters_renews_masks(package, tmp_path):
    """And zeros are written after the steps of each that has any."""

    class Manual(package.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(5)
            self.automatic_optimization = False
            self.layers = nn.ModuleList([nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 4)])
            self.zeros = []

        def training_step(self, batch, _index):
            signal = batch[0]
            for layer in self.layers:
                signal = layer(signal)
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            self.manual_backward(nn.functional.cross_entropy(signal, batch[1]))
            for optimizer in self.optimizers():
                optimizer.step()
                self.zeros.append([int((layer.weight == 0).sum()) for layer in self.layers])

        def configure_optimizers(self):
            return [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in self.layers]

    module = Manual()
    sparsifier = DataNormSparsifier(**CONFIG)
    callback = callbacks().DataSparsity(attach(module, sparsifier, exclude="layers.0.*"))
    trainer_of(package, tmp_path, callback, max_epochs=1).fit(module, Loader())
    assert sparsifier.step_count == 6
    assert module.zeros == [[0, 0, 0], [0, 115, 38], [0, 115, 38]] + 5 * [
        [0, 115, 38], [0, 115, 38], [0, 115, 38],
    ]  # fmt: skip


@pytest.mark.full_there
@pytest.mark.parametrize("schedule", ["step", "epoch"])
def test_testing_a_checkpoint_does_not_make_the_next_training_a_resumed_one(
    package, tmp_path, schedule
):
    counted = []
    for test in (False, True):
        module, callback = sparse_module(package, schedule=schedule, every=4)
        module.test_step = lambda *_: None
        trainer = trainer_of(package, tmp_path, callback, max_epochs=1)
        trainer.fit(module, Loader())
        trainer.save_checkpoint(tmp_path / "saved.ckpt")
        if test:
            trainer.test(module, Loader(), ckpt_path=tmp_path / "saved.ckpt", verbose=False)
        trainer_of(package, tmp_path, callback, max_epochs=2).fit(module, Loader())
        counted.append((module.seen, callback.scheduler.last_epoch))
    assert counted[0] == counted[1]


@pytest.mark.full_there
def test_a_second_training_that_is_resumed_goes_on_where_it_was(package, tmp_path):
    def run(stop):
        module, callback = sparse_module(package, schedule="epoch")
        trainer_of(package, tmp_path, callback, max_epochs=1).fit(module, Loader())
        again = trainer_of(package, tmp_path, callback, max_epochs=stop)
        again.fit(module, Loader())
        return again, callback

    _, unbroken = run(2)
    trainer, _ = run(1)
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    module, callback = sparse_module(package, schedule="epoch")
    last = trainer_of(package, tmp_path, callback, max_epochs=2)
    last.fit(module, Loader(), ckpt_path=tmp_path / "saved.ckpt")
    assert callback.scheduler.last_epoch == unbroken.scheduler.last_epoch == 3


# --- averages -------------------------------------------------------------------------------------


def averaging_of(package, kind):
    if kind == "swa":
        return package.callbacks.StochasticWeightAveraging(
            swa_lrs=0.01, swa_epoch_start=1, annealing_epochs=1
        )
    return package.callbacks.EMAWeightAveraging(decay=0.5)


@pytest.mark.parametrize("first", first_there([True, False]), ids=["before it", "after it"])
@pytest.mark.parametrize("mode", ["in_place", "parametrize"])
@pytest.mark.parametrize("kind", first_there(["ema", "swa"]))
def test_averages_have_the_zeros_of_the_masks(package, tmp_path, kind, mode, first):
    """In the model that the training ends with, in what is validated, saved and logged."""
    module = type("Module", (Validated, package.LightningModule), {})()
    sparsifier = DataNormSparsifier(**CONFIG)
    attachment = attach(module.model, sparsifier, mode=mode)  # a part of the module
    scheduler = DataScheduler(sparsifier, "sparsity_level", Linear(end=8))
    both = [callbacks().DataSparsity(attachment, scheduler), averaging_of(package, kind)]
    saving = package.callbacks.ModelCheckpoint(tmp_path / "saved", save_last=True)
    trainer = trainer_of(
        package, tmp_path, *(both if first else both[::-1]), saving,
        enable_checkpointing=True, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, Loader(), Loader())
    assert int((module.model[0].weight == 0).sum()) == 192
    assert trainer.logged_metrics["sparsity"].item() == pytest.approx(0.8)
    assert attachment.sparsity() == sparsifier.report().total.sparsity == 0.8
    if mode == "in_place":
        assert set(module.validated[-6:]) == {192}
        saved = torch.load(tmp_path / "saved" / "last.ckpt")["state_dict"]
        assert int((saved["model.0.weight"] == 0).sum()) == 192


def test_arguments_are_checked():
    module = module_of(importlib.import_module(PACKAGES[0]))
    sparsifier = DataNormSparsifier(**CONFIG)
    attachment = attach(module, sparsifier)
    with pytest.raises(ValueError, match='schedule must be "step" or "epoch"'):
        callbacks().DataSparsity(attachment, schedule="batch")
    with pytest.raises(ValueError, match="every must be at least 1"):
        callbacks().DataSparsity(attachment, every=0)
    other = DataNormSparsifier(**CONFIG)
    with pytest.raises(ValueError, match="belongs to another sparsifier"):
        callbacks().DataSparsity(attachment, DataScheduler(other, "sparsity_level", Linear(end=4)))
    adaptive = AdaptiveDataScheduler(sparsifier, "sparsity_level", Linear(end=4))
    plain = DataScheduler(sparsifier, "sparsity_level", Linear(end=4))
    with pytest.raises(ValueError, match="must move different keys"):
        callbacks().DataSparsity(attachment, [adaptive, plain])


def test_an_optimizer_without_attached_parameters_is_an_error(package, tmp_path):
    module, _ = sparse_module(package)
    other = nn.Linear(3, 3)
    callback = callbacks().DataSparsity(attach(other, DataNormSparsifier(**CONFIG)))
    with pytest.raises(ValueError, match="no optimizer of the trainer holds"):
        trainer_of(package, tmp_path, callback).fit(module, Loader())


# --- the callbacks of PyTorch's experimental package ----------------------------------------------


class StepSL(BaseDataScheduler):
    """As in the documents of those callbacks: times gamma, every so many epochs."""

    def __init__(self, data_sparsifier, schedule_param="sparsity_level", step_size=1, gamma=2):
        self.step_size, self.gamma = step_size, gamma
        super().__init__(data_sparsifier, schedule_param)

    def get_schedule_param(self):
        if self.last_epoch > 0 and self.last_epoch % self.step_size == 0:
            return {
                name: config[self.schedule_param] * self.gamma
                for name, config in self.data_sparsifier.data_groups.items()
            }
        return self.base_param


ARGUMENTS = {"sparsity_level": 0.1, "sparse_block_shape": (1, 4), "zeros_per_block": 4}


def test_post_training_sparsity(package, tmp_path):
    module = module_of(package)
    callback = callbacks().PostTrainingDataSparsity(
        data_sparsifier_class=DataNormSparsifier, data_sparsifier_args=ARGUMENTS
    )
    trainer_of(package, tmp_path, callback).fit(module, Loader())
    assert not (module.model[0].weight == 0).any()
    sparsified = callback.sparsified
    assert not sparsified.training
    assert int((sparsified[0].weight == 0).sum()) == 24
    kept = sparsified[0].weight != 0
    assert torch.equal(sparsified[0].weight[kept], module.model[0].weight[kept])
    assert torch.equal(sparsified[0].bias, module.model[0].bias)  # PyTorch's stumbles over biases


def test_training_aware_sparsity(package, tmp_path):
    module = module_of(package)
    callback = callbacks().TrainingAwareDataSparsity(
        data_sparsifier_class=DataNormSparsifier,
        data_sparsifier_args=ARGUMENTS,
        data_scheduler_class=StepSL,
        data_scheduler_args={"gamma": 2, "step_size": 1},
        exclude="2.*",
    )
    trainer_of(package, tmp_path, callback).fit(module, Loader())
    assert not (module.model[0].weight == 0).any()
    assert int((callback.sparsified[0].weight == 0).sum()) == 96  # 0.1, 0.2, 0.4 at its epochs
    assert not (callback.sparsified[2].weight == 0).any()
    trained = module.model[0].weight.to(callback.sparsified[0].weight.device)  # Lightning moves it
    kept = callback.sparsified[0].weight != 0
    assert torch.equal(callback.sparsified[0].weight[kept], trained[kept])
    assert callback.data_scheduler.get_last_param() == {"0.weight": 0.8}


@pytest.mark.full_there
def test_training_aware_sparsity_resumes(package, tmp_path):
    def make():
        return callbacks().TrainingAwareDataSparsity(
            DataNormSparsifier, ARGUMENTS, StepSL, {"gamma": 1.5}, include="*.weight"
        )

    unbroken, module = make(), module_of(package)
    trainer_of(package, tmp_path, unbroken, max_epochs=4).fit(module, Loader())
    first, module = make(), module_of(package)
    trainer = trainer_of(package, tmp_path, first, max_epochs=2)
    trainer.fit(module, Loader())
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    second, module = make(), module_of(package)
    trainer_of(package, tmp_path, second, max_epochs=4).fit(
        module, Loader(), ckpt_path=tmp_path / "saved.ckpt"
    )
    for name, value in unbroken.sparsified.state_dict().items():
        assert torch.equal(second.sparsified.state_dict()[name], value)
    assert second.data_scheduler.state_dict() == unbroken.data_scheduler.state_dict()


class Loud(DataNormSparsifier):
    """Warns of new masks, and the warning is an error."""

    def step(self):
        super().step()
        raise UserWarning("new masks")


@pytest.mark.parametrize("kind", ["PostTraining", "TrainingAware"])
def test_a_copy_gets_its_zeros_also_where_a_warning_is_an_error(package, tmp_path, kind):
    module = module_of(package)
    scheduled = (StepSL, {"gamma": 2, "step_size": 1}) if kind == "TrainingAware" else ()
    callback = getattr(callbacks(), f"{kind}DataSparsity")(Loud, ARGUMENTS, *scheduled)
    with pytest.raises(UserWarning, match="new masks"):
        trainer_of(package, tmp_path, callback).fit(module, Loader())
    assert int((callback.sparsified[0].weight == 0).sum()) == 24
    if scheduled:
        assert callback.data_scheduler.get_last_param()["0.weight"] == 0.2
    else:
        assert callback.data_sparsifier.squashed("0.weight")


@pytest.mark.full_there
def test_a_module_that_is_the_model_itself(package, tmp_path):
    class Whole(package.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(12, 4)

        def training_step(self, batch, _index):
            return nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    module = Whole()
    callback = callbacks().PostTrainingDataSparsity(DataNormSparsifier, CONFIG)
    trainer_of(package, tmp_path, callback).fit(module, Loader())
    assert int((callback.sparsified.layer.weight == 0).sum()) == round(0.8 * 48)
    assert copy.deepcopy(module).layer.weight.count_nonzero() == 48
