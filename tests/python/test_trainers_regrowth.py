"""Masks that move, and scores that sum up, in trainings by Lightning and by transformers."""

from itertools import pairwise

import pytest
import torch
from datasparse import DataNormSparsifier, DataScheduler
from datasparse.regrowth import RigL
from datasparse.schedules import Cosine, Polynomial
from datasparse.scores import Taylor
from datasparse.torch import attach
from devices.trainers import arguments_of_trainers, options_of_trainers
from support import ON_DEVICES, first_there
from torch import nn

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*num_workers"),
    pytest.mark.filterwarnings("ignore:.*pin_memory"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    *ON_DEVICES,
]

CONFIG = {"sparsity_level": 0.8, "sparse_block_shape": (1, 1)}
KINDS = ["rigl", "taylor"]
STEPS = 12


def sparsifier_of(kind):
    if kind == "rigl":
        sparsifier = RigL(**CONFIG, drop_fraction=0.5, seed=3)
        return sparsifier, "drop_fraction", Cosine(initial=0.5, final=0.0, end=STEPS)
    return DataNormSparsifier(**CONFIG, score=Taylor()), "sparsity_level", Polynomial(end=8)


def data():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(8 * STEPS, 12, generator=generator)
    return inputs, torch.randint(4, (8 * STEPS,), generator=generator)


def network():
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 4))


def by_hand(kind, every):
    """The same training without a trainer: masks and weights after it."""
    model = network()
    sparsifier, key, schedule = sparsifier_of(kind)
    attachment = attach(model, sparsifier)
    scheduler = DataScheduler(sparsifier, key, schedule)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    attachment.follow(optimizer, scheduler=scheduler, every=every, replaces_step=kind == "rigl")
    masks = []
    for inputs, labels in zip(*(part.split(8) for part in data()), strict=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        masks.append(sparsifier.get_mask("0.weight").clone())
    return model, masks


@pytest.mark.parametrize("kind", KINDS)
def test_masks_of_a_training_by_hand(kind):
    model, masks = by_hand(kind, 3)
    changes = [not torch.equal(a, b) for a, b in pairwise(masks)]
    if kind == "rigl":
        assert [step + 2 for step, changed in enumerate(changes) if changed] == [3, 6, 9]
        assert {int(mask.sum()) for mask in masks} == {48}
    else:
        assert any(changes)
    assert int((model[0].weight == 0).sum()) == 192


@pytest.mark.full_there
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_lightning_does_what_a_loop_by_hand_does(kind, package, tmp_path):
    package = pytest.importorskip(package, reason="needs the extra 'lightning'")
    from datasparse.lightning import DataSparsity

    class Module(package.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = network()

        def training_step(self, batch, _index):
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=0.01, weight_decay=0.0)

    module = Module()
    sparsifier, key, schedule = sparsifier_of(kind)
    attachment = attach(module.model, sparsifier)
    callback = DataSparsity(
        attachment, DataScheduler(sparsifier, key, schedule), every=3, replaces_step=kind == "rigl"
    )
    trainer = package.Trainer(
        default_root_dir=tmp_path, callbacks=[callback], logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, max_epochs=1,
        **options_of_trainers(package),
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), 8))
    expected, masks = by_hand(kind, 3)
    assert torch.equal(sparsifier.get_mask("0.weight").cpu(), masks[-1].cpu())
    for ours, other in zip(module.model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours.cpu(), other.cpu())  # Lightning leaves the model on the CPU


@pytest.mark.parametrize("kind", first_there(KINDS))
def test_transformers_does_what_a_loop_by_hand_does(kind, tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs the extra 'transformers'")
    pytest.importorskip("accelerate", reason="its Trainer needs accelerate")
    from datasparse.transformers import DataSparsity

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = network()

        def forward(self, inputs, labels):
            assert inputs.device == labels.device == torch.empty(0).device
            logits = self.model(inputs)
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    inputs, labels = data()
    rows = [
        {"inputs": row, "labels": int(label)} for row, label in zip(inputs, labels, strict=True)
    ]
    model = Model()
    sparsifier, key, schedule = sparsifier_of(kind)
    attachment = attach(model.model, sparsifier)
    callback = DataSparsity(
        attachment, DataScheduler(sparsifier, key, schedule), every=3, replaces_step=kind == "rigl"
    )
    arguments = arguments_of_trainers(
        transformers, tmp_path, num_train_epochs=1, per_device_train_batch_size=8, report_to=[],
        save_strategy="no", logging_strategy="no", learning_rate=0.01, disable_tqdm=True,
        lr_scheduler_type="constant", max_grad_norm=0.0, optim="adamw_torch", weight_decay=0.0,
    )  # fmt: skip
    InOrder(model, arguments, train_dataset=rows, callbacks=[callback]).train()
    expected, masks = by_hand(kind, 3)
    assert torch.equal(sparsifier.get_mask("0.weight"), masks[-1])
    for ours, other in zip(model.model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, other)
