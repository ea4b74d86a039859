"""The table of situations in docs/torch.md: each row is run here, under its own words."""

import copy
import re
from pathlib import Path

import datasparse
import pytest
import torch
import torch.distributed as dist
from datasparse import DataNormSparsifier, DataScheduler
from datasparse.schedules import Linear
from datasparse.torch import Masked, attach, detach
from support import ON_DEVICES, zeros
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel

pytestmark = ON_DEVICES

SINGLE = {"sparse_block_shape": (1, 1)}
RUNS = {}  # by the first cell of the row
PAGE = Path(__file__).parents[2] / "docs" / "torch.md"


def situation(words):
    def remember(run):
        RUNS[words] = run
        return run

    return remember


def rows():
    table = PAGE.read_text().split("## What happens when")[1].split("\n\n**")[0]
    found = re.findall(r"^\| (.+?) \| .+ \|$", table, re.MULTILINE)
    return found[1:]  # without the heading


def test_every_row_is_run_and_every_run_has_a_row():
    assert len(rows()) >= 20
    assert list(RUNS) == rows()


@pytest.mark.parametrize("words", list(RUNS) or rows())
def test_what_the_row_says_happens(words, tmp_path):
    torch.manual_seed(11)
    RUNS[words](tmp_path)


# --- a small training -----------------------------------------------------------------------------


def mlp():
    return nn.Sequential(nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 10))


def sparse(model=None, level=0.9, **options):
    model = model or mlp()
    sparsifier = DataNormSparsifier(sparsity_level=level, **SINGLE)
    return model, sparsifier, attach(model, sparsifier, **options)


def followed(model=None, end=None, every=1, **options):
    model, sparsifier, attachment = sparse(model, **options)
    scheduler = end and DataScheduler(sparsifier, "sparsity_level", Linear(end=end))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    following = attachment.follow(optimizer, every=every, scheduler=scheduler)
    return model, sparsifier, attachment, scheduler, optimizer, following


def train(model, optimizer, steps=1):
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 10)).square().sum().backward()
        optimizer.step()


def step(sparsifier, attachment):
    attachment.refresh()
    sparsifier.step()
    attachment.apply()


# --- the rows -------------------------------------------------------------------------------------


@situation("a schedule with `end=N`")
def arrives(_):
    for every in (1, 4, 100):
        model, *_, optimizer, _following = followed(end=7, every=every)
        train(model, optimizer, 7)
        assert zeros(model[0].weight) == 90


@situation("gradients are accumulated")
def accumulates(_):
    model, sparsifier, _, scheduler, optimizer, _ = followed(end=10)
    for batch in range(6):
        model(torch.randn(4, 10)).square().sum().backward()
        if batch % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()
    assert sparsifier.step_count == scheduler.last_epoch == 2


@situation("a GradScaler finds infinite gradients")
def scales(_):
    for fused in (False, True):
        model, sparsifier, attachment = sparse()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
        following = attachment.follow(optimizer)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        scaler.scale(model(torch.randn(4, 10)).sum() * torch.inf).backward()
        before = model[0].weight.detach().clone()
        scaler.step(optimizer)
        assert following.steps == sparsifier.step_count == 0
        assert torch.equal(model[0].weight, before)


@situation("torch.distributed.checkpoint saves an optimizer")
def saves(_):
    model, sparsifier, _, scheduler, optimizer, following = followed(end=10)
    get_state_dict(model, optimizer)
    assert sparsifier.step_count == scheduler.last_epoch == following.steps == 0
    assert zeros(model[0].weight) == 0


@situation("the learning rate begins at 0")
def warms_up(_):
    model, *_, optimizer, following = followed()
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 5)
    train(model, optimizer)
    assert (following.steps, zeros(model[0].weight)) == (1, 90)


@situation("a closure is called several times a step")
def closes(_):
    model, sparsifier, attachment = sparse()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.01)
    attachment.follow(optimizer)
    calls = []

    def closure():
        calls.append(1)
        optimizer.zero_grad()
        loss = model(torch.ones(2, 10)).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert (len(calls) > 1, sparsifier.step_count) == (True, 1)


@situation("a Schedule-Free optimizer")
def writes_averages(_):
    class ScheduleFree(torch.optim.AdamW):
        def eval(self):
            for weight in self.param_groups[0]["params"]:
                weight.data += self.state[weight]["exp_avg"]

        def train(self):
            raise AssertionError

    model, _, attachment = sparse()
    optimizer = ScheduleFree(model.parameters(), lr=0.01)
    with pytest.warns(UserWarning, match="mask_state=True"):
        attachment.follow(optimizer).remove()
    attachment.follow(optimizer, mask_state=True)
    train(model, optimizer, 3)
    optimizer.eval()
    assert zeros(model[0].weight) == 90


@situation("the optimizer is followed already")
def is_followed(_):
    _, _, attachment, _, optimizer, _ = followed()
    with pytest.raises(ValueError, match="follows this optimizer already"):
        attachment.follow(optimizer)


@situation("an optimizer whose `step()` calls no hooks, such as timm's Lookahead")
def calls_no_hooks(_):
    class Around(torch.optim.Optimizer):
        def __init__(self, base):
            self.base, self.param_groups = base, base.param_groups
            self._optimizer_step_post_hooks = {}

        def step(self):
            self.base.step()

    model, _, attachment = sparse()
    with pytest.raises(TypeError, match=r"after each of them call .* sparsifier.step\(\)"):
        attachment.follow(Around(torch.optim.SGD(model.parameters(), lr=0.1)))


@situation("the optimizer holds none of the weights")
def holds_none(_):
    model, _, attachment = sparse()
    with pytest.raises(ValueError, match="holds none"):
        attachment.follow(torch.optim.SGD(mlp().parameters(), lr=0.1))
    with pytest.warns(UserWarning, match=r"does not hold '2\.weight'"):
        attachment.follow(torch.optim.SGD(model[0].parameters(), lr=0.1))


@situation("`load_state_dict(..., assign=True)`")
def assigns(_):
    for mode in ("in_place", "parametrize"):
        model, sparsifier, attachment = sparse(mode=mode)
        model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
        step(sparsifier, attachment)
        assert zeros(model[0].weight) == 90
        assert attachment.sparsity() == sparsifier.report().total.sparsity == 0.9


@situation("a layer is exchanged")
def exchanges(_):
    for mode in ("in_place", "parametrize"):
        model, sparsifier, attachment = sparse(mode=mode)
        step(sparsifier, attachment)
        mask = sparsifier.get_mask("0.weight").clone()
        model[0] = nn.Linear(10, 10)
        attachment.apply()
        assert torch.equal(model[0].weight != 0, mask)


@situation("a weight is gone, or has another shape")
def goes(_):
    model, sparsifier, _ = sparse()
    model[0] = nn.Linear(10, 4)
    with pytest.raises(ValueError, match=r"'0\.weight' must keep the shape"):
        sparsifier.step()
    model[0] = nn.ReLU()
    with pytest.raises(ValueError, match=r"'0\.weight' is gone"):
        sparsifier.step()


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 10)
        self.head = nn.Linear(10, 10, bias=False)
        self.head.weight = self.table.weight


@situation("tied weights")
def ties(_):
    model, sparsifier, attachment = sparse(Tied())
    step(sparsifier, attachment)
    assert attachment.names == ("table.weight",)
    assert model.head.weight is model.table.weight
    assert zeros(model.head.weight) == 90


@situation("tied weights are untied")
def unties(_):
    model, sparsifier, _ = sparse(Tied())
    model.head.weight = nn.Parameter(torch.randn(10, 10))
    with pytest.raises(ValueError, match=r"'table\.weight' and 'head\.weight' were tied"):
        sparsifier.step()


def normed(norm):
    model = nn.Sequential(norm(nn.Linear(10, 10)))
    model, sparsifier, attachment = sparse(model, types=nn.Linear, level=0.5)
    step(sparsifier, attachment)
    assert attachment.names == ("0.weight",)
    assert zeros(model[0].weight) == 50
    return model, attachment


@situation("weight_norm")
def norms_weights(_):
    model, attachment = normed(parametrizations.weight_norm)
    entries = model[0].parametrizations.weight
    assert (zeros(entries.original0), zeros(entries.original1)) == (0, 50)
    attachment.sparsifier.get_mask("0.weight")[3] = False
    with pytest.raises(ValueError, match="prunes whole rows, and weight_norm divides"):
        attachment.apply()


@situation("spectral_norm")
def norms_spectra(_):
    model, _ = normed(parametrizations.spectral_norm)
    assert zeros(model[0].parametrizations.weight.original) == 50


@situation("an orthogonal or another parametrization")
def is_orthogonal(_):
    model = nn.Sequential(parametrizations.orthogonal(nn.Linear(10, 10)))
    with pytest.raises(ValueError, match="made by Orthogonal"):
        sparse(model)
    model, sparsifier, attachment = sparse(model, mode="parametrize")
    step(sparsifier, attachment)
    assert zeros(model[0].weight) == 90
    assert sparsifier.report()["0.weight"].zeros_in_data < 90
    detach(model)
    assert zeros(model.state_dict()["0.weight"]) == 90


@situation("norm layers and biases")
def leaves(_):
    model = nn.Sequential(nn.Linear(10, 10), nn.LayerNorm((2, 5)))
    _, _, attachment = sparse(model, include="*")
    assert attachment.names == ("0.weight",)
    assert set(attachment.left) == {"0.bias", "1.weight", "1.bias"}
    detach(model)
    assert sparse(model, include="1.weight")[2].names == ("1.weight",)


@situation("LoRA (peft)")
def adapts(_):
    peft = pytest.importorskip("peft", reason="needs peft")
    model = mlp()
    config = peft.LoraConfig(r=2, target_modules=["0"], init_lora_weights=False)
    wrapped = peft.get_peft_model(model, config)
    _, sparsifier, attachment = sparse(wrapped)
    assert attachment.names == (
        "base_model.model.0.base_layer.weight", "base_model.model.2.weight"
    )  # fmt: skip
    step(sparsifier, attachment)
    merged = wrapped.merge_and_unload()
    attachment.apply(merged)
    assert zeros(merged[0].weight) == 90


@situation("an average of weights")
def averages(_):
    model, _, attachment, _, optimizer, _ = followed()
    average = AveragedModel(model)
    for _ in range(4):
        train(model, optimizer)
        average.update_parameters(model)
    attachment.apply(average)
    assert torch.equal(average.module[0].weight != 0, model[0].weight != 0)
    assert attachment.sparsity(average) == 0.9


@situation("a copy of a parametrized model")
def copies(_):
    model, sparsifier, attachment = sparse(mode="parametrize")
    other = copy.deepcopy(model)
    step(sparsifier, attachment)
    own = {module.sparsifier for module in other.modules() if isinstance(module, Masked)}
    assert len(own) == 1
    assert sparsifier not in own
    assert zeros(other[0].weight) == 0
    attachment.apply(other)
    assert zeros(other[0].weight) == 90


@situation("torch.compile, DataParallel, DistributedDataParallel")
def wraps(_):
    for wrap in (lambda model: torch.compile(model, backend="eager"), nn.DataParallel):
        model = mlp()
        _, sparsifier, attachment = sparse(wrap(model))
        assert attachment.names == ("0.weight", "2.weight")
        step(sparsifier, attachment)
        assert zeros(model[0].weight) == 90


@situation("the training is stopped and resumed")
def resumes(folder):
    def run(model, optimizer, steps):
        for number in steps:
            torch.manual_seed(number)
            train(model, optimizer)

    start = copy.deepcopy(mlp())
    model, sparsifier, _, scheduler, optimizer, _ = followed(copy.deepcopy(start), end=6, every=2)
    run(model, optimizer, range(3))
    datasparse.save(folder / "masks", sparsifier, scheduler)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    run(model, optimizer, range(3, 8))

    again, sparsifier, _, scheduler, optimizer, _ = followed(copy.deepcopy(start), end=6, every=2)
    datasparse.load(folder / "masks", sparsifier, scheduler)
    again.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    run(again, optimizer, range(3, 8))
    assert torch.equal(again[0].weight, model[0].weight)


@situation("a state of version 0.1.0 is resumed")
def is_old(_):
    model, sparsifier, _, scheduler, optimizer, _ = followed(nn.Conv2d(4, 4, 3), end=2, every=3)
    state = sparsifier.state_dict()
    state["version"] = 1
    for key in ("layout", "kept_zeros", "update"):
        del state["data_groups"]["weight"][key]
    sparsifier.load_state_dict(state)
    old = scheduler.state_dict()
    del old["counts_renewals"]
    scheduler.load_state_dict({**old, "version": 1})
    assert sparsifier.layout("weight") == ()
    for _ in range(7):
        optimizer.zero_grad()
        model(torch.randn(1, 4, 5, 5)).square().sum().backward()
        optimizer.step()
    assert scheduler.last_epoch == sparsifier.step_count == 3


@situation("a sparse checkpoint is fine-tuned")
def keeps(_):
    model = mlp()
    with torch.no_grad():
        model[0].weight[::2] = 0
    model, *_, optimizer, _ = followed(model, level=0.3, keep_zeros=True)
    train(model, optimizer, 3)
    assert zeros(model[0].weight[::2]) == 50
    assert zeros(model[2].weight) == 30
    detach(model)
    model, *_, optimizer, _ = followed(model, keep_zeros=True, update=False)
    train(model, optimizer, 3)
    assert zeros(model[2].weight) == 30


@situation("2:4 on a convolution")
def convolves(_):
    layer = nn.Conv2d(8, 4, 3)
    sparsifier = DataNormSparsifier(
        sparsity_level=1.0, sparse_block_shape=(1, 4), zeros_per_block=2
    )
    attachment = attach(layer, sparsifier)
    step(sparsifier, attachment)
    groups = (layer.weight == 0).permute(0, 2, 3, 1).reshape(-1, 4)
    assert (groups.sum(1) == 2).all()


@situation("a level leaves no weight in a small layer")
def dies(_):
    model, sparsifier, _ = sparse(nn.Linear(8, 5), level=0.99)
    with pytest.warns(UserWarning, match="'weight'"):
        sparsifier.step()
    sparsifier.step()
    assert sparsifier.report()["weight"].dead
    model, sparsifier, attachment = sparse(nn.Linear(8, 5), level=0.99, min_kept=1)
    step(sparsifier, attachment)
    assert zeros(model.weight) == 39


@situation("`optimizer.load_state_dict()`")
def loads(_):
    model, *_, optimizer, following = followed()
    train(model, optimizer, 2)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, optimizer)
    assert (following.steps, zeros(model[0].weight)) == (3, 90)


@situation("`model.double()`, `param.data = …`")
def converts(_):
    model, sparsifier, attachment = sparse()
    model.double()
    step(sparsifier, attachment)
    assert zeros(model[0].weight) == 90
    model[0].weight.data = torch.randn(10, 10, dtype=torch.bfloat16)
    step(sparsifier, attachment)
    assert zeros(model[0].weight) == 90


@situation("the model is sharded by `fully_shard()`")
def shards(_):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = mlp()
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        model, sparsifier, attachment = sparse(model)
        step(sparsifier, attachment)
        assert zeros(model[0].weight.to_local()) == 90
    finally:
        dist.destroy_process_group()
