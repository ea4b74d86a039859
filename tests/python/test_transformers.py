"""The callback in trainings by the Trainer of transformers, which really runs."""

import json

import datasparse
import pytest
import torch
from datasparse import DataNormSparsifier, DataScheduler
from datasparse.regrowth import RigL
from datasparse.schedules import Linear
from datasparse.scores import Taylor
from datasparse.torch import attach, detach
from devices.trainers import arguments_of_trainers
from safetensors.torch import load_file
from support import ON_DEVICES
from torch import nn

transformers = pytest.importorskip("transformers", reason="needs the extra 'transformers'")
pytest.importorskip("accelerate", reason="its Trainer needs accelerate")

CONFIG = {"sparsity_level": 0.8, "sparse_block_shape": (1, 1)}
LAYER = "bert.encoder.layer.0.attention.self.query.weight"  # 16 x 16

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pin_memory"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.full_there,
    *ON_DEVICES,
]


def bert():
    torch.manual_seed(2)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16, num_labels=2,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


class Data(torch.utils.data.Dataset):
    def __init__(self, n=24):
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(50, (n, 8), generator=generator)

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        tokens = self.tokens[index]
        return {"input_ids": tokens, "labels": int(tokens.sum()) % 2}


# Whoever collects the tests need not import what trainers import.
def counter(stop_at=None):
    """A callback that counts zeros after each step."""

    class Counter(transformers.TrainerCallback):
        def __init__(self):
            self.seen = []

        def on_step_end(self, args, state, control, model=None, **kwargs):
            layer = model.get_submodule(LAYER.removesuffix(".weight"))
            self.seen.append(int((layer.weight == 0).sum()))
            if state.global_step == stop_at:
                raise KillError

    return Counter()


class KillError(Exception):
    pass


def sparse_bert(**options):
    from datasparse.transformers import DataSparsity

    model = bert()
    sparsifier = options.pop("sparsifier", None) or DataNormSparsifier(**CONFIG)
    mode = options.pop("mode", "in_place")
    attachment = attach(model, sparsifier, include="*.encoder.*.weight", types=nn.Linear, mode=mode)
    scheduler = DataScheduler(sparsifier, "sparsity_level", Linear(end=4))
    return model, DataSparsity(attachment, scheduler, **options)


def by_gradients(kind):
    """A sparsifier whose masks are renewed before an update."""
    if kind == "Taylor":
        return DataNormSparsifier(**CONFIG, score=Taylor())
    return RigL(sparsity_level=0.8, drop_fraction=0.3, seed=1)


def trainer_of(model, folder, *callbacks, train=None, evaluated=None, **options):
    settings = {
        "num_train_epochs": 3, "per_device_train_batch_size": 4, "report_to": [],
        "save_strategy": "no", "logging_strategy": "no", "learning_rate": 1e-2,
        "disable_tqdm": True, "seed": 4,
    } | options  # fmt: skip
    arguments = arguments_of_trainers(transformers, folder, **settings)
    return transformers.Trainer(
        model,
        arguments,
        train_dataset=train or Data(),
        eval_dataset=evaluated,
        callbacks=list(callbacks),
    )


@pytest.mark.parametrize("mode", ["in_place", "parametrize"])
def test_masks_follow_every_optimizer_step(tmp_path, mode, device):
    model, callback = sparse_bert(mode=mode)
    watch = counter()
    trainer_of(model, tmp_path, callback, watch).train()
    assert watch.seen == [51, 102, 154] + 15 * [205]
    assert model.device.type == device.name
    assert callback.sparsifier.step_count == callback.scheduler.last_epoch == 18
    detach(model)
    assert int((model.get_parameter(LAYER) == 0).sum()) == 205
    assert list(model.state_dict()) == list(bert().state_dict())


def test_the_schedule_may_go_by_epochs(tmp_path):
    model, callback = sparse_bert(schedule="epoch")
    watch = counter()
    trainer_of(model, tmp_path, callback, watch).train()
    # With the last step of an epoch, before it is evaluated and saved.
    assert watch.seen == 5 * [0] + 6 * [51] + 6 * [102] + [154]


@pytest.mark.parametrize("kind", ["norm", "Taylor"])
def test_what_is_saved_at_the_end_of_an_epoch_has_its_masks(tmp_path, kind):
    sparsifier = None if kind == "norm" else by_gradients(kind)
    model, callback = sparse_bert(schedule="epoch", every=100, sparsifier=sparsifier)
    trainer_of(model, tmp_path, callback, save_strategy="steps", save_steps=6).train()
    for step, zeros in ((6, 51), (12, 102), (18, 154)):
        saved = load_file(tmp_path / f"checkpoint-{step}" / "model.safetensors")
        assert int((saved[LAYER] == 0).sum()) == zeros


def test_an_epoch_that_a_callback_ends_is_over(tmp_path):
    class Stop(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_epoch_stop = state.global_step % 4 == 0

    model, callback = sparse_bert(schedule="epoch", every=100)
    watch = counter()
    trainer_of(model, tmp_path, callback, watch, Stop()).train()
    assert watch.seen == 4 * [0] + 4 * [51] + 4 * [102]
    assert int((model.get_parameter(LAYER) == 0).sum()) == 154
    assert callback.scheduler.last_epoch == 3


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("kind", ["Taylor", "RigL"])
def test_masks_by_gradients_are_renewed_with_the_last_step_of_an_epoch(tmp_path, kind, accumulate):
    model, callback = sparse_bert(schedule="epoch", every=100, sparsifier=by_gradients(kind))
    watch = counter()
    trainer_of(model, tmp_path, callback, watch, gradient_accumulation_steps=accumulate).train()
    steps = {1: 6, 4: 2}[accumulate]  # of an epoch
    assert watch.seen[steps - 1 :: steps] == [51, 102, 154]
    assert watch.seen[2 * steps - 2] == 51
    assert callback.scheduler.last_epoch == 3


class Stream(torch.utils.data.IterableDataset):
    """Data without a length, of six batches of four."""

    def __iter__(self):
        yield from (Data()[index] for index in range(24))


@pytest.mark.parametrize("kind", ["norm", "Taylor"])
def test_epochs_of_data_without_a_length_are_passes_through_them(tmp_path, kind):
    sparsifier = None if kind == "norm" else by_gradients(kind)
    model, callback = sparse_bert(schedule="epoch", every=100, sparsifier=sparsifier)
    watch = counter()
    trainer_of(model, tmp_path, callback, watch, train=Stream(), max_steps=18).train()
    # Nobody knows how long the first pass is.
    assert watch.seen == 6 * [0] + 5 * [51] + 6 * [102] + [154]
    assert int((model.get_parameter(LAYER) == 0).sum()) == 154
    assert callback.scheduler.last_epoch == 3


@pytest.mark.full_there
def test_a_pass_that_the_trainer_breaks_off_is_no_epoch(tmp_path):
    model, callback = sparse_bert(schedule="epoch")
    trainer_of(model, tmp_path, callback, train=Stream(), max_steps=16).train()
    assert callback.scheduler.last_epoch == 2


@pytest.mark.parametrize(
    ("saved", "rest"),
    [
        pytest.param(4, 2 * [0] + 6 * [51] + 5 * [102] + [154], marks=pytest.mark.full),
        (12, 5 * [102] + [154]),
        # transformers passes over 14 batches of a pass that has 6, and begins another one.
        pytest.param(14, 5 * [102] + [154], marks=pytest.mark.full),
    ],
)
def test_passes_are_counted_on_by_a_resumed_training(tmp_path, saved, rest):
    model, callback = sparse_bert(schedule="epoch", every=100)
    options = {"train": Stream(), "save_strategy": "steps", "save_steps": saved}
    trainer_of(model, tmp_path, callback, **options, max_steps=18).train()
    model, callback = sparse_bert(schedule="epoch", every=100)
    checkpoint = str(tmp_path / f"checkpoint-{saved}")
    watch = counter()
    again = trainer_of(model, tmp_path, callback, watch, **options, max_steps=saved + len(rest))
    again.train(resume_from_checkpoint=checkpoint)
    assert watch.seen == rest
    assert callback.scheduler.last_epoch == 3


def test_masks_that_wait_for_a_step_are_renewed_in_a_resumed_training(tmp_path):
    def made():
        return sparse_bert(schedule="epoch", every=100, sparsifier=by_gradients("Taylor"))

    options = {"train": Stream(), "max_steps": 9, "save_strategy": "epoch"}
    model, callback = made()
    watch = counter()
    trainer_of(model, tmp_path, callback, watch, **options).train()
    assert watch.seen == 6 * [0] + 3 * [51]
    model, callback = made()
    rest = counter()
    checkpoint = str(tmp_path / "checkpoint-6")
    trainer_of(model, tmp_path, callback, rest, **options).train(resume_from_checkpoint=checkpoint)
    assert rest.seen == 3 * [51]


def test_steps_that_trained_nothing_do_not_count_in_a_resumed_training_either(tmp_path):
    class Skipping(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            if state.global_step < 2:
                model.zero_grad()

    options = {"save_strategy": "steps", "save_steps": 6, "num_train_epochs": 2}
    unbroken, callback = sparse_bert(every=4)
    watch = counter()
    trainer_of(unbroken, tmp_path, callback, watch, Skipping(), **options).train()
    model, resumed = sparse_bert(every=4)
    rest = counter()
    checkpoint = str(tmp_path / "checkpoint-6")
    trainer_of(model, tmp_path, resumed, rest, **options).train(resume_from_checkpoint=checkpoint)
    assert rest.seen == watch.seen[6:]
    assert torch.equal(model.get_parameter(LAYER), unbroken.get_parameter(LAYER))
    assert resumed.sparsifier.step_count == callback.sparsifier.step_count


def test_gradient_accumulation(tmp_path):
    model, callback = sparse_bert()
    trainer_of(model, tmp_path, callback, gradient_accumulation_steps=3).train()
    assert callback.sparsifier.step_count == 6


def test_the_share_of_zeros_is_logged(tmp_path):
    model, callback = sparse_bert()
    later = []

    class Later(transformers.TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            later.append(logs.get("sparsity"))

    options = {"logging_strategy": "steps", "logging_steps": 6}
    trainer = trainer_of(model, tmp_path, callback, Later(), **options)
    trainer.train()
    logged = [entry["sparsity"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == pytest.approx([0.8, 0.8, 0.8], abs=0.01)
    assert later[:3] == logged


@pytest.mark.parametrize(("mode", "schedule"), [("in_place", "epoch"), ("parametrize", "step")])
@pytest.mark.parametrize("saved", [2, pytest.param(6, marks=pytest.mark.full), 8])  # of 6 an epoch
def test_a_resumed_training_equals_the_unbroken_one(tmp_path, mode, schedule, saved):
    options = {"mode": mode, "schedule": schedule, "every": 2, "mask_state": True}
    unbroken, callback = sparse_bert(**options)
    watch = counter()
    trainer_of(unbroken, tmp_path / "unbroken", callback, watch).train()

    saving = {"save_strategy": "steps", "save_steps": saved}
    model, first = sparse_bert(**options)
    with pytest.raises(KillError):
        trainer_of(model, tmp_path, first, counter(stop_at=saved + 1), **saving).train()

    model, second = sparse_bert(**options)
    rest = counter()
    checkpoint = tmp_path / f"checkpoint-{saved}"
    assert (checkpoint / "datasparse.safetensors").exists()
    trainer_of(model, tmp_path, second, rest).train(resume_from_checkpoint=str(checkpoint))
    assert rest.seen == watch.seen[saved:]
    for name, value in unbroken.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    for name in callback.sparsifier.data_groups:
        assert torch.equal(second.sparsifier.get_mask(name), callback.sparsifier.get_mask(name))
    assert second.scheduler.state_dict() == callback.scheduler.state_dict()
    assert second.sparsifier.step_count == callback.sparsifier.step_count


def test_a_callback_whose_training_broke_off_resumes_too(tmp_path):
    options = {"schedule": "epoch", "every": 4}
    unbroken, callback = sparse_bert(**options)
    watch = counter()
    trainer_of(unbroken, tmp_path / "unbroken", callback, watch).train()

    model, broken = sparse_bert(**options)
    saving = {"save_strategy": "steps", "save_steps": 7}
    with pytest.raises(KillError):
        trainer_of(model, tmp_path, broken, counter(stop_at=9), **saving).train()
    rest = counter()
    checkpoint = str(tmp_path / "checkpoint-7")
    trainer_of(model, tmp_path, broken, rest).train(resume_from_checkpoint=checkpoint)
    assert rest.seen == watch.seen[7:]
    assert broken.scheduler.last_epoch == callback.scheduler.last_epoch


def test_a_second_training_that_is_resumed_schedules_as_the_unbroken_one(tmp_path):
    options = {"schedule": "epoch", "every": 4}
    saving = {"save_strategy": "steps", "save_steps": 6}  # the last of an epoch
    unbroken, callback = sparse_bert(**options)
    trainer_of(unbroken, tmp_path / "first", callback, num_train_epochs=1).train()
    assert callback.scheduler.last_epoch == 1
    watch = counter()
    trainer_of(unbroken, tmp_path, callback, watch, **saving).train()
    for saved in (6, 12):
        model, other = sparse_bert(**options)
        rest = counter()
        checkpoint = str(tmp_path / f"checkpoint-{saved}")
        resumed = trainer_of(model, tmp_path, other, rest)
        resumed.train(resume_from_checkpoint=checkpoint)
        assert rest.seen == watch.seen[saved:]
        assert other.scheduler.state_dict() == callback.scheduler.state_dict()
        assert other.sparsifier.state_dict() == callback.sparsifier.state_dict()
        for name, value in unbroken.state_dict().items():
            assert torch.equal(model.state_dict()[name], value), name


def test_a_training_that_could_not_be_resumed_does_not_make_the_next_a_resumed_one(tmp_path):
    model, callback = sparse_bert(schedule="epoch")
    trainer_of(model, tmp_path, callback, save_strategy="epoch").train()
    checkpoint = str(tmp_path / "checkpoint-12")
    other, again = sparse_bert(schedule="epoch")
    with pytest.raises(ValueError, match="no optimizer of the trainer holds a parameter"):
        trainer_of(bert(), tmp_path, again).train(resume_from_checkpoint=checkpoint)
    assert again.scheduler.last_epoch == 2
    trainer_of(other, tmp_path / "anew", again, num_train_epochs=1).train()
    assert again.scheduler.last_epoch == 3


def test_checkpoints_can_be_read_without_the_trainer(tmp_path):
    model, callback = sparse_bert()
    trainer_of(model, tmp_path, callback, save_strategy="epoch").train()
    folder = tmp_path / "checkpoint-12"
    other = DataNormSparsifier()
    datasparse.load(folder / "datasparse.safetensors", other, strict=False)  # without its scheduler
    assert set(other.report().groups) == set(callback.sparsifier.data_groups)
    assert json.loads((folder / "trainer_state.json").read_text())["global_step"] == 12


def test_a_checkpoint_elsewhere_is_named(tmp_path):
    model, callback = sparse_bert()
    trainer_of(model, tmp_path / "a", callback, save_strategy="epoch").train()
    checkpoint = tmp_path / "a" / "checkpoint-6"
    model, callback = sparse_bert()
    with pytest.raises(FileNotFoundError, match=r"resume_from=\.\.\."):
        trainer_of(model, tmp_path / "b", callback).train(resume_from_checkpoint=str(checkpoint))
    model, callback = sparse_bert(resume_from=checkpoint)
    trainer_of(model, tmp_path / "b", callback).train(resume_from_checkpoint=str(checkpoint))
    assert callback.sparsifier.step_count == 18


def test_the_checkpoint_of_another_training_is_refused(tmp_path):
    saving = {"save_strategy": "epoch", "logging_strategy": "steps", "logging_steps": 2}
    for folder, rate in (("a", 1e-2), ("b", 2e-2)):
        model, callback = sparse_bert()
        trainer_of(model, tmp_path / folder, callback, **saving, learning_rate=rate).train()
    checkpoint = tmp_path / "a" / "checkpoint-6"
    model, callback = sparse_bert()
    before = callback.sparsifier.state_dict()
    with pytest.raises(ValueError, match=r"another log than .*resume_from=\.\.\."):
        trainer_of(model, tmp_path / "b", callback).train(resume_from_checkpoint=str(checkpoint))
    assert str(callback.sparsifier.state_dict()) == str(before)
    model, callback = sparse_bert(resume_from=tmp_path / "a" / "checkpoint-12")  # left in a script
    with pytest.raises(ValueError, match="is resumed at step 6, with another log"):
        trainer_of(model, tmp_path / "a", callback).train(resume_from_checkpoint=str(checkpoint))
    model, callback = sparse_bert()
    trainer_of(model, tmp_path / "a", callback).train(resume_from_checkpoint=str(checkpoint))
    assert callback.sparsifier.step_count == 18


def test_masks_of_other_weights_are_said_where_nothing_was_logged(tmp_path):
    for folder, level in (("a", 0.8), ("b", 0.3)):
        sparsifier = DataNormSparsifier(**CONFIG | {"sparsity_level": level})
        model, callback = sparse_bert(sparsifier=sparsifier)
        options = {"save_strategy": "steps", "save_steps": 4, "learning_rate": 1e-2 * level}
        trainer_of(model, tmp_path / folder, callback, **options).train()
    checkpoint = str(tmp_path / "b" / "checkpoint-8")
    model, callback = sparse_bert()
    with pytest.warns(UserWarning, match=r"are not zero where the masks of .*resume_from=\.\.\."):
        trainer_of(model, tmp_path / "a", callback).train(resume_from_checkpoint=checkpoint)
    model, callback = sparse_bert(resume_from=tmp_path / "b" / "checkpoint-4")  # of another step
    with pytest.raises(ValueError, match="is resumed at step 8"):
        trainer_of(model, tmp_path / "b", callback).train(resume_from_checkpoint=checkpoint)


def test_the_callback_leaves_the_optimizer_alone_in_the_end(tmp_path):
    model, callback = sparse_bert()
    trainer = trainer_of(model, tmp_path, callback)
    trainer.train()
    trainer.optimizer.step()
    assert callback.sparsifier.step_count == 18


def test_the_masks_are_those_of_the_best_model_where_the_training_ends_with_it(tmp_path):
    model, callback = sparse_bert()

    class Best(transformers.TrainerCallback):
        """Says that the first checkpoint, of step 2, was the best."""

        def on_evaluate(self, args, state, control, metrics=None, **kwargs):
            metrics["eval_loss"] = float(state.global_step)

    trainer = trainer_of(
        model, tmp_path, callback, Best(), eval_strategy="steps", eval_steps=2,
        save_strategy="steps", save_steps=2, load_best_model_at_end=True,
        metric_for_best_model="loss", evaluated=Data(4),
    )  # fmt: skip
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    counted = int((model.get_parameter(LAYER) == 0).sum())
    assert counted == callback.sparsifier.report()[LAYER].zeros == 102
    assert callback.scheduler.last_epoch == 2


def test_a_model_with_tied_weights_cannot_be_saved_parametrized_and_is_refused(tmp_path):
    config = transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=16)
    model = transformers.GPT2LMHeadModel(config)
    with pytest.raises(ValueError, match=r"wte\.weight and lm_head\.weight are tied, and save_pre"):
        attach(model, DataNormSparsifier(**CONFIG), mode="parametrize")
    attachment = attach(model, DataNormSparsifier(**CONFIG), exclude="*.wte.*", mode="parametrize")
    attachment.sparsifier.step()
    model.save_pretrained(tmp_path)
    detach(model)
    attachment = attach(model, DataNormSparsifier(**CONFIG))  # in place
    attachment.sparsifier.step()
    attachment.apply()
    model.save_pretrained(tmp_path)
    loaded = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    assert attachment.sparsity(loaded) == attachment.sparsity() == pytest.approx(0.8, abs=0.001)
