"""Recipes on models of torch, and in the callbacks of trainers."""

import pytest
import torch
from datasparse import DataNormSparsifier, DataScheduler, recipes
from datasparse.distributions import erk
from datasparse.recipes import RecipeError, loads
from datasparse.regrowth import RigL
from datasparse.schedules import Constant, Linear
from datasparse.scores import Wanda
from datasparse.torch import attach, calibrate, detach
from torch import nn
from torch.nn.utils import prune

RECIPE = """
version = 1
[defaults]
sparsity_level = 0.75
sparse_block_shape = [1, 1]
[[groups]]
include = "first.*"
sparsity_level = 0.5
sparse_block_shape = [1, 4]
pool = "all"
[[groups]]
exclude = "last.*"
pool = "all"
"""


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.first = nn.Conv2d(4, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3)
        self.middle = nn.Linear(8, 16)
        self.last = nn.Linear(16, 2)

    def forward(self, x):
        x = self.second(self.norm(self.first(x)).relu()).relu().mean((2, 3))
        return self.last(self.middle(x).relu())


def test_it_is_attach_with_a_config_for_each_weight():
    model, other = Net(), Net()
    sparsifier, schedulers, attachment = loads(RECIPE).attach(model)
    assert schedulers == []
    plain = DataNormSparsifier(sparsity_level=0.75, sparse_block_shape=(1, 1))
    front = {"sparsity_level": 0.5, "sparse_block_shape": (1, 4)}
    attach(other, plain, include="first.weight", pool="all", **front)
    attach(other, plain, include=("second.weight", "middle.weight"), pool="all")
    assert attachment.names == ("first.weight", "second.weight", "middle.weight")
    assert attachment.left["last.weight"] == "excluded"
    assert attachment.left["first.bias"] == "a bias or another vector"
    assert attachment.left["norm.weight"] == "of a norm layer"
    assert sparsifier.data_groups == plain.data_groups
    sparsifier.step()
    plain.step()
    for name in attachment.names:
        assert sparsifier.layout(name) == plain.layout(name)
        assert torch.equal(sparsifier.get_mask(name), plain.get_mask(name))
    detach(model)
    assert bool((model.first.weight == 0).any())


def test_the_plan_of_a_model_is_what_it_gets():
    recipe, model = loads(RECIPE.replace('pool = "all"', "")), Net()
    plan = recipe.plan(model)
    assert list(plan.configs) == ["first.weight", "second.weight", "middle.weight"]
    assert not hasattr(model.first, "parametrizations")
    sparsifier, _, _ = recipe.attach(model)
    sparsifier.step()
    for name, (least, most) in plan.zeros.items():
        assert least == most == int((sparsifier.get_mask(name) == 0).sum())


def test_a_layout_and_a_row_are_the_layers():
    text = 'version = 1\n[defaults]\nper = "row"\n[[groups]]\ninclude = "1.*"\nlayout = "memory"\n'
    model = nn.Sequential(nn.ConvTranspose1d(4, 6, 3), nn.Conv1d(6, 5, 2))
    sparsifier, _, _ = loads(text + "[[groups]]\n").attach(model)
    sparsifier.step()
    mask = sparsifier.get_mask("0.weight")
    assert {int(count) for count in (mask == 0).sum((0, 2))} == {6}
    assert sparsifier.layout("0.weight") == (1, 2, 0)
    assert sparsifier.layout("1.weight") == ()  # memory's
    assert {int(count) for count in (sparsifier.get_mask("1.weight") == 0).sum((1, 2))} == {6}


def test_a_distribution_over_a_model():
    text = 'version = 1\ndistribution = "erk"\n[defaults]\nsparsity_level = 0.75\n'
    text += "sparse_block_shape = [1, 1]\n"
    model = Net()
    sparsifier, _, _ = loads(text).attach(model)
    shapes = {name: tuple(dict(model.named_parameters())[name].shape)
              for name in sparsifier.data_groups}  # fmt: skip
    levels = {name: config["sparsity_level"] for name, config in sparsifier.data_groups.items()}
    assert levels == erk(shapes, 0.75)


def test_wanda_by_a_recipe():
    model = Net()
    text = 'version = 1\nscore = "Wanda"\n[defaults]\nper = "row"\nsparsity_level = 0.25\n'
    sparsifier, _, attachment = loads(text).attach(model)
    assert sparsifier.score == Wanda()
    calibrate(attachment, [torch.randn(2, 4, 6, 6)])
    mask = sparsifier.get_mask("middle.weight")
    assert {int(count) for count in (mask == 0).sum(1)} == {2}


def test_masks_that_move_are_drawn_once_for_the_whole_pool():
    text = 'version = 1\nregrowth = "RigL"\n[defaults]\nsparsity_level = 0.75\npool = "all"\n'
    model = Net()
    sparsifier, _, attachment = loads(text).attach(model)
    assert type(sparsifier) is RigL
    elements = sum(dict(model.named_parameters())[name].numel() for name in attachment.names)
    active = sum(int(sparsifier.get_mask(name).sum()) for name in attachment.names)
    assert active == elements - round(0.75 * elements)


def test_an_attachment_as_a_recipe_and_back():
    model = Net()
    sparsifier = DataNormSparsifier(sparsity_level=0.9)
    attach(model, sparsifier, include="*.weight", distribution="erk")
    scheduler = DataScheduler(
        sparsifier, "sparsity_level", {"first.*": Constant(), "*": Linear(end=4)}
    )
    again = loads(recipes.from_sparsifier(sparsifier, [scheduler]).dumps())
    other, (own,), _ = again.attach(Net())
    assert other.data_groups == sparsifier.data_groups
    assert own.state_dict() == scheduler.state_dict()
    assert [other.layout(name) for name in other.data_groups] == [
        sparsifier.layout(name) for name in sparsifier.data_groups
    ]


@pytest.mark.parametrize("mode", ["in_place", "parametrize"])
def test_a_recipe_that_fails_leaves_the_model_as_it_was(mode):
    model = Net()
    keys = list(model.state_dict())
    wrong = [
        ("[[groups]]\ninclude = 'nothing.*'\n", "matches no weight; there are 'first.weight', 'f"),
        ("[defaults]\nlayout = [1, 0]\n", "does not fit 'first.weight' of shape"),
        ("[schedule.sparsity_level]\n'haed.*' = 'Constant()'\n", "matches none of the groups"),
    ]
    for text, message in wrong:
        with pytest.raises(RecipeError, match=message):
            loads("version = 1\n" + text).attach(model, mode=mode)
        assert list(model.state_dict()) == keys
        with pytest.raises(ValueError, match="nothing is attached"):
            detach(model)
    loads("version = 1\n").attach(model, mode=mode)
    detach(model)
    with pytest.raises(ValueError, match="mode must be"):
        loads("version = 1\n").attach(model, mode="inplace")


TWO = """
version = 1
regrowth = "RigL"
[defaults]
sparsity_level = 0.5
[schedule]
sparsity_level = "Linear(initial=0.25, end=4)"
drop_fraction = "Linear(initial=0.5, final=0.0, end=4)"
"""


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (lambda: nn.LazyLinear(4), "'0.weight' is not initialized yet"),
        (lambda: prune.l1_unstructured(nn.Linear(8, 4), "weight", 0.5), "torch.nn.utils.prune"),
    ],
    ids=["lazy", "pruned by torch"],
)
def test_what_attach_refuses_a_recipe_refuses_in_the_same_words(layer, says):
    model = nn.Sequential(layer(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=says) as plain:
        attach(model, DataNormSparsifier())
    with pytest.raises(ValueError, match=says) as by_recipe:
        loads("version = 1").attach(model)
    assert str(by_recipe.value) == str(plain.value)


def test_several_schedules_are_followed_together():
    model = Net()
    sparsifier, schedulers, attachment = loads(TWO).attach(model)
    assert [one.schedule_param for one in schedulers] == ["sparsity_level", "drop_fraction"]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    following = attachment.follow(optimizer, scheduler=schedulers, every=2)
    for step in range(1, 6):
        optimizer.zero_grad()
        model(torch.randn(2, 4, 6, 6)).square().mean().backward()
        optimizer.step()
        config = sparsifier.data_groups["first.weight"]
        assert config["sparsity_level"] == pytest.approx(0.25 + 0.0625 * min(step, 4))
        assert config["drop_fraction"] == pytest.approx(0.5 - 0.125 * min(step, 4))
    assert sparsifier.get_mask("middle.weight").sum() == 64
    with pytest.raises(ValueError, match="is moved by the steps of another"):
        attachment.follow(optimizer, scheduler=schedulers[1])
    following.remove()
    again = attachment.follow(optimizer, scheduler=schedulers)
    again.remove()
    with pytest.raises(ValueError, match="schedulers must move different keys"):
        attachment.follow(optimizer, scheduler=[schedulers[0], schedulers[0]])
    with pytest.raises(ValueError, match="with every=None the scheduler is left to you"):
        attachment.follow(optimizer, scheduler=schedulers, every=None)


def test_a_missing_gradient_takes_all_schedules_back():
    model = Net()
    _, schedulers, attachment = loads(TWO).attach(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    attachment.follow(optimizer, scheduler=schedulers, every=1)
    before = [one.state_dict() for one in schedulers]
    model.middle(torch.randn(2, 8)).sum().backward()  # the others get none
    with pytest.raises(ValueError, match="gradient"):
        optimizer.step()
    assert [one.state_dict() for one in schedulers] == before


def lightning_parts():
    lightning = pytest.importorskip("lightning.pytorch")
    from datasparse.lightning import DataSparsity

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def training_step(self, batch, _):
            return self.net(batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    loader = torch.utils.data.DataLoader(torch.randn(8, 4, 6, 6), batch_size=2)

    def trainer(callback, **options):
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        return lightning.Trainer(
            accelerator="cpu", callbacks=[callback], **quiet, **options
        ), loader

    return Module, DataSparsity, trainer


QUIET = pytest.mark.filterwarnings("ignore")  # of workers, and of Lightning's own use of torch


@pytest.mark.not_quick
@QUIET
@pytest.mark.parametrize("schedule", ["step", "epoch"])
def test_lightnings_callback_takes_a_recipe(tmp_path, schedule):
    make, callback_of, trainer_of = lightning_parts()
    path = tmp_path / "recipe.toml"
    path.write_text(TWO.replace("end=4", "end=2"))
    module = make()
    callback = callback_of(module, recipe=path, schedule=schedule)
    trainer, loader = trainer_of(callback, max_epochs=1, default_root_dir=tmp_path)
    trainer.fit(module, loader)
    config = callback.sparsifier.data_groups["net.middle.weight"]
    done = {"step": 2, "epoch": 1}[schedule]
    assert config["sparsity_level"] == pytest.approx(0.25 + 0.125 * done)
    assert config["drop_fraction"] == pytest.approx(0.5 - 0.25 * done)
    trainer.save_checkpoint(tmp_path / "whole.ckpt")
    other = make()
    resumed = callback_of(other, recipe=path, schedule=schedule)
    trainer, loader = trainer_of(resumed, max_epochs=2, default_root_dir=tmp_path)
    trainer.fit(other, loader, ckpt_path=tmp_path / "whole.ckpt", weights_only=False)
    config = resumed.sparsifier.data_groups["net.middle.weight"]
    assert (config["sparsity_level"], config["drop_fraction"]) == (0.5, 0.0)
    assert int((other.net.middle.weight == 0).sum()) == 64


@pytest.mark.not_quick
def test_the_trainers_callback_takes_a_recipe():
    pytest.importorskip("transformers")
    from datasparse.transformers import DataSparsity

    model = Net()
    callback = DataSparsity(model, recipe=loads(RECIPE))
    assert callback.scheduler is None
    assert callback.sparsifier.data_groups["first.weight"]["pool"] == "all"
    _, _, attachment = loads(RECIPE).attach(Net())
    with pytest.raises(TypeError, match="pass the model and no scheduler"):
        DataSparsity(attachment, recipe=loads(RECIPE))
    with pytest.raises(TypeError, match="a model goes with a recipe"):
        DataSparsity(Net())
