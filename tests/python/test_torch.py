"""attach(), detach() and what a real torch training does to parameters in between."""

import copy
import gc
import weakref
from pathlib import Path

import datasparse
import numpy as np
import pytest
import torch
from datasparse import BaseDataScheduler, DataNormSparsifier
from datasparse.scores import Taylor
from datasparse.torch import Masked, attach, detach, mask_optimizer_state
from support import ON_DEVICES, first_there, zeros
from torch import nn

pytestmark = ON_DEVICES

SINGLE = {"sparse_block_shape": (1, 1)}
OPTIMIZERS = {
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01, weight_decay=0.01),
    "AdamW, amsgrad": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, amsgrad=True),
    "SGD": lambda parameters: torch.optim.SGD(
        parameters, lr=0.05, momentum=0.9, weight_decay=0.01, nesterov=True
    ),
    "RMSprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.001, momentum=0.9),
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(7)


def mlp():
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 4))


def half(**more):
    return DataNormSparsifier(sparsity_level=0.5, **SINGLE, **more)


def batch(n=16):
    return torch.randn(n, 12), torch.randint(4, (n,))


def train_step(model, optimizer, inputs, labels):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(inputs), labels)
    loss.backward()
    optimizer.step()
    return loss.item()


def keys(model):
    return list(model.state_dict())


# --- which parameters -----------------------------------------------------------------------------


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 6)
        self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 2)
        self.scale = nn.Parameter(torch.ones(2, 2))


WEIGHTS = ["blocks.0.weight", "blocks.1.weight", "blocks.2.weight"]


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ({}, ["scale", "table.weight", *WEIGHTS, "head.weight"]),
        ({"include": "*"}, ["scale", "table.weight", *WEIGHTS, "head.weight"]),
        ({"include": ["*", "norm.weight", "head.bias"]},
         ["scale", "table.weight", *WEIGHTS, "norm.weight", "head.weight", "head.bias"]),
        ({"include": "blocks.*.weight"}, WEIGHTS),
        ({"include": ["blocks.[!1].weight", "head.*"]},
         ["blocks.0.weight", "blocks.2.weight", "head.weight"]),
        ({"exclude": ("blocks.*", "scale")}, ["table.weight", "head.weight"]),
        ({"types": nn.Embedding}, ["table.weight"]),
        ({"types": (nn.Embedding, nn.LayerNorm), "include": ["*", "norm.weight"]},
         ["table.weight", "norm.weight"]),
        ({"types": nn.Linear, "exclude": "head*"}, WEIGHTS),
    ],
)  # fmt: skip
def test_parameters_are_chosen_by_name_and_type(choice, names):
    model, sparsifier = Tower(), half()
    attachment = attach(model, sparsifier, **choice)
    assert list(attachment.names) == names
    assert list(sparsifier.data_groups) == names
    parameters = dict(model.named_parameters())
    for name in names:
        assert sparsifier.get_data(name) is parameters[name]


def test_config_goes_to_every_group():
    sparsifier = half()
    attach(Tower(), sparsifier, include="*.weight", sparsity_level=0.25, norm="L2")
    assert {group["sparsity_level"] for group in sparsifier.data_groups.values()} == {0.25}
    assert {group["norm"] for group in sparsifier.data_groups.values()} == {"L2"}


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"include": "*.wieght"}, ValueError, r"'\*.wieght' matches no parameter .* scale, table"),
        ({"exclude": "nothing"}, ValueError, "'nothing' matches no parameter"),
        ({"types": nn.Conv2d}, ValueError, "no parameter of the model is left"),
        ({"mode": "inplace"}, ValueError, 'mode must be "in_place" or "parametrize", got \'inpl'),
        ({"gradients": "all"}, ValueError, "gradients must be"),
        ({"gradients": "straight_through"}, ValueError, 'needs mode="parametrize"'),
        ({"sparsity_level": 1.5}, ValueError, "sparsity_level of 'scale' must be in"),
        ({"sparsity_levle": 0.5}, TypeError, "did you mean 'sparsity_level'"),
        ({"exclude": nn.Embedding}, TypeError, "exclude must be globs .* types chooses by the cl"),
        ({"include": ["*", 3]}, TypeError, "include must be globs of names, got 3"),
        ({"types": ["Linear"]}, TypeError, "types must be classes of modules, got 'Linear'"),
    ],
)
def test_what_cannot_be_attached_says_why_and_changes_nothing(arguments, error, says):
    model, sparsifier = Tower(), half()
    with pytest.raises(error, match=says):
        attach(model, sparsifier, **arguments)
    assert list(sparsifier.data_groups) == []
    with pytest.raises(ValueError, match="nothing is attached"):
        detach(model)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            (nn.Linear(2, 2), DataNormSparsifier),
            "got the class DataNormSparsifier: make one",
        ),
        (
            (nn.Linear(2, 2), 0.8),
            "got float; as a level it is sparsity_level=0.8",
        ),
        ((nn.Linear(2, 2).state_dict(),), "got OrderedDict; a state dict has no modules"),
        (
            (nn.Linear, DataNormSparsifier()),
            "must be a torch.nn.Module, got the class Linear",
        ),
    ],
)
def test_what_is_no_model_or_no_sparsifier_is_refused(given, says):
    with pytest.raises(TypeError, match=says):
        attach(*given)


def test_types_may_be_a_list():
    assert attach(Tower(), half(), types=[nn.Embedding, nn.Conv2d]).names == ("table.weight",)


@pytest.mark.parametrize("mode", ["in_place", "parametrize"])
def test_a_late_refusal_takes_the_earlier_groups_back(mode):
    model, sparsifier = mlp(), half()
    model[2].weight = nn.Parameter(torch.empty(4, 20, device="meta"))
    names, before = keys(model), list(sparsifier.data_groups)
    with pytest.raises(TypeError, match=r"meta.*"):
        attach(model, sparsifier, mode=mode)
    assert list(sparsifier.data_groups) == before
    assert keys(model) == names


def test_names_that_belong_to_other_data_are_refused():
    sparsifier = half()
    attach(mlp(), sparsifier)
    other = mlp()
    with pytest.raises(ValueError, match=r"other data under the name '0\.weight'"):
        attach(other, sparsifier)
    assert len(sparsifier.data_groups) == 2


def test_what_is_not_initialized_is_refused():
    with pytest.raises(ValueError, match="run the model once"):
        attach(nn.Sequential(nn.LazyLinear(3)), half())


# --- training: what is pruned is zero after every step --------------------------------------------


@pytest.mark.parametrize("mask_state", first_there([True, False]))
@pytest.mark.parametrize("mode", ["in_place", "parametrize"])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    "steps",
    [
        # On a device, at the first batch once more, whose loss is compared.
        pytest.param(31, marks=pytest.mark.device("pretended", "cuda")),
        pytest.param(100, marks=pytest.mark.full_there),
        pytest.param(500, marks=[pytest.mark.full, pytest.mark.device("cpu")]),
    ],
)
def test_pruned_weights_are_zero_after_each_step(steps, name, mode, mask_state):
    model = mlp()
    sparsifier = DataNormSparsifier(sparsity_level=0.9, **SINGLE)
    attachment = attach(model, sparsifier, mode=mode)
    optimizer = OPTIMIZERS[name](model.parameters())
    attachment.follow(optimizer, mask_state=mask_state)
    first = last = 0.0
    data = [batch() for _ in range(5)]
    for step in range(steps):
        last = train_step(model, optimizer, *data[step % 5])
        first = first or last
        for layer, pruned in ((model[0], 216), (model[2], 72)):
            assert zeros(layer.weight) == pruned
    assert last < first
    for group in attachment.names:
        state = optimizer.state[sparsifier.get_data(group)]
        pruned = ~sparsifier.get_mask(group)
        moments = [value for value in state.values() if value.shape == pruned.shape]
        assert moments
        for moment in moments:
            assert (zeros(moment[pruned]) == int(pruned.sum())) or not mask_state
    if mode == "parametrize":
        assert zeros(sparsifier.get_data("0.weight")) < 216  # the dense ones live on


def test_without_the_hook_weights_come_back():
    """The test above could not fail otherwise."""
    model, sparsifier = mlp(), half()
    attach(model, sparsifier)
    optimizer = OPTIMIZERS["Adam"](model.parameters())
    sparsifier.step()
    sparsifier.apply_mask()
    train_step(model, optimizer, *batch())
    assert zeros(model[0].weight) == 0


def test_with_every_none_masks_are_yours():
    model, sparsifier = mlp(), half()
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    attach(model, sparsifier).follow(optimizer, every=None)
    sparsifier.step()
    mask = sparsifier.get_mask("0.weight").clone()
    for _ in range(3):
        train_step(model, optimizer, *batch())
    assert sparsifier.step_count == 1
    assert torch.equal(model[0].weight != 0, mask)


@pytest.mark.parametrize("every", [0, -1])
def test_every_must_be_positive(every):
    model, sparsifier = mlp(), half()
    with pytest.raises(ValueError, match="every must be at least 1"):
        attach(model, sparsifier).follow(OPTIMIZERS["SGD"](model.parameters()), every=every)


def test_optimizer_state_of_any_nesting_is_masked():
    model, sparsifier = mlp(), half()
    attach(model, sparsifier, include="0.weight")
    sparsifier.step()
    weight = model[0].weight
    optimizer = torch.optim.SGD(model.parameters(), lr=1)
    other = torch.ones(20)
    optimizer.state[weight] = {
        "step": torch.tensor(3.0), "nested": [torch.ones(20, 12), {"a": (torch.ones(20, 12),)}],
        "factor": other, "none": None,
    }  # fmt: skip
    mask_optimizer_state(optimizer, sparsifier)
    nested = optimizer.state[weight]["nested"]
    for tensor in (nested[0], nested[1]["a"][0]):
        assert torch.equal(tensor, sparsifier.get_mask("0.weight").float())
    assert optimizer.state[weight]["step"] == 3
    assert zeros(other) == 0


def test_optimizer_state_is_masked_beside_data_of_numpy():
    model, sparsifier = mlp(), half()
    sparsifier.add_data("table", np.ones((8, 8)))
    attach(model, sparsifier, include="0.weight")
    sparsifier.step()
    optimizer = torch.optim.SGD(model.parameters(), lr=1)
    momentum = torch.ones(20, 12)
    optimizer.state[model[0].weight] = {"momentum": momentum}
    mask_optimizer_state(optimizer, sparsifier)
    assert torch.equal(momentum, sparsifier.get_mask("0.weight").float())


# --- gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradients", ["masked", "straight_through"])
def test_gradients_through_a_parametrization(gradients):
    model, sparsifier = nn.Linear(6, 3, bias=False), half()
    attach(model, sparsifier, mode="parametrize", gradients=gradients)
    sparsifier.step()
    mask = sparsifier.get_mask("weight")
    dense = sparsifier.get_data("weight")
    inputs = torch.randn(5, 6)
    output = model(inputs)
    assert torch.equal(output, inputs @ (dense * mask).detach().t())
    output.sum().backward()
    full = inputs.sum(0).expand(3, 6)
    torch.testing.assert_close(dense.grad, full if gradients == "straight_through" else full * mask)


def test_masked_is_zero_where_the_parameter_is_not_a_number():
    model, sparsifier = (
        nn.Linear(4, 1, bias=False),
        DataNormSparsifier(sparsity_level=1.0, **SINGLE),
    )
    attach(model, sparsifier, mode="parametrize")
    with torch.no_grad():
        sparsifier.get_data("weight")[0, 0] = torch.nan
        sparsifier.get_data("weight")[0, 1] = torch.inf
    sparsifier.step()
    assert zeros(model.weight) == 4


def test_straight_through_weights_can_come_back():
    """A pruned weight whose gradient is large grows until it is kept."""
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.1]]))
    sparsifier = half()
    attachment = attach(model, sparsifier, mode="parametrize", gradients="straight_through")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attachment.follow(optimizer)
    sparsifier.step()
    for _ in range(20):
        optimizer.zero_grad()
        ((model(torch.tensor([[0.1, 1.0]])) - 2) ** 2).sum().backward()
        optimizer.step()
    assert sparsifier.get_mask("weight").tolist() == [[False, True]]


# --- detaching ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["in_place", "parametrize"])
@pytest.mark.parametrize("keep_zeros", [True, False])
def test_detach_leaves_a_plain_model(mode, keep_zeros):
    model, sparsifier = mlp(), half()
    names, classes = keys(model), [type(module) for module in model.modules()]
    objects = list(model.parameters())
    memory = [parameter.data_ptr() for parameter in objects]
    dense = copy.deepcopy(model.state_dict())
    attach(model, sparsifier, mode=mode)
    sparsifier.step()
    mask = sparsifier.get_mask("0.weight").clone()
    detach(model, keep_zeros=keep_zeros)
    assert keys(model) == names
    assert [type(module) for module in model.modules()] == classes
    assert all(a is b for a, b in zip(model.parameters(), objects, strict=True))
    assert [parameter.data_ptr() for parameter in model.parameters()] == memory
    expected = dense["0.weight"] * mask if keep_zeros else dense["0.weight"]
    assert torch.equal(model[0].weight, expected)
    if keep_zeros:
        assert torch.equal(sparsifier.get_mask("0.weight"), mask)  # can be read, and rests
        sparsifier.step()
        assert torch.equal(sparsifier.get_mask("0.weight"), mask)
    else:
        assert list(sparsifier.data_groups) == []
    with pytest.raises(ValueError, match="nothing is attached"):
        detach(model)


def test_following_survives_what_is_detached_or_removed():
    model, sparsifier = mlp(), half()
    optimizer = OPTIMIZERS["Adam"](model.parameters())
    attachment = attach(model, sparsifier)
    attachment.follow(optimizer, mask_state=True)
    train_step(model, optimizer, *batch())
    sparsifier.remove_data("2.weight")
    train_step(model, optimizer, *batch())
    assert (zeros(model[0].weight), zeros(model[2].weight)) == (120, 0)
    detach(model)
    train_step(model, optimizer, *batch())
    assert zeros(model[0].weight) == 0


def test_a_model_may_be_attached_in_parts():
    model = mlp()
    first, second = half(), DataNormSparsifier(sparsity_level=0.25, **SINGLE)
    attach(model, first, include="0.weight", mode="parametrize")
    attach(model, second, include="2.weight")
    for sparsifier in (first, second):
        sparsifier.step()
        sparsifier.apply_mask("2.weight") if sparsifier is second else None
    assert (zeros(model[0].weight), zeros(model[2].weight)) == (120, 20)
    detach(model)
    assert (zeros(model[0].weight), zeros(model[2].weight)) == (120, 20)


def test_parametrizations_of_others_stay():
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    model, sparsifier = nn.Linear(4, 3), half()
    attach(model, sparsifier, include="weight", mode="parametrize")
    nn.utils.parametrize.register_parametrization(model, "weight", Doubled())
    sparsifier.step()
    assert zeros(model.weight) == 6
    dense = sparsifier.get_data("weight").detach().clone()
    detach(model, keep_zeros=False)
    assert torch.equal(model.weight, 2 * dense)


def test_attaching_twice_in_parametrize_mode_is_refused():
    model = mlp()
    attach(model, half(), mode="parametrize")
    with pytest.raises(ValueError, match="belongs to a parametrization already"):
        attach(model, half(), mode="parametrize")


def test_an_attached_model_is_not_kept_alive():
    model, sparsifier = mlp(), half()
    attach(model, sparsifier)
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None
    assert len(sparsifier.data_groups) == 2  # its parameters are, by the sparsifier


# --- inside real torch code -----------------------------------------------------------------------


def compare_with_eager(backend, mode):
    torch._dynamo.reset()
    results = []
    for compiled in (False, True):
        torch.manual_seed(3)
        model = mlp()
        run = torch.compile(model, backend=backend, fullgraph=True) if compiled else model
        sparsifier = half()
        attachment = attach(run, sparsifier, mode=mode)
        assert list(attachment.names) == ["0.weight", "2.weight"]
        optimizer = OPTIMIZERS["SGD"](run.parameters())
        attachment.follow(optimizer)
        losses = [train_step(run, optimizer, *batch()) for _ in range(4)]
        results.append((losses, [sparsifier.get_mask(name).clone() for name in attachment.names]))
        assert zeros(model[0].weight) == 120
        detach(run)
        assert keys(model) == keys(mlp())
    (eager, eager_masks), (other, other_masks) = results
    torch.testing.assert_close(torch.tensor(other), torch.tensor(eager))
    assert all(map(torch.equal, eager_masks, other_masks))


@pytest.mark.not_quick
@pytest.mark.parametrize("mode", ["in_place", "parametrize"])
def test_compiled_models(mode):
    compare_with_eager("aot_eager", mode)


@pytest.mark.full
@pytest.mark.device("cpu", "cuda")  # for which inductor makes code
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inductor's own
@pytest.mark.parametrize("mode", ["in_place", "parametrize"])
def test_models_compiled_to_machine_code(mode):
    compare_with_eager("inductor", mode)


@pytest.mark.not_quick
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
@pytest.mark.filterwarnings("ignore:Dynamo does not know:UserWarning")  # of a frame's caller
@pytest.mark.parametrize("score", [None, Taylor()])
def test_steps_within_a_compiled_function_are_followed(score):
    torch._dynamo.reset()
    model = nn.Linear(10, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    attachment = attach(model, half(score=score))
    following = attachment.follow(optimizer, mask_state=True)

    @torch.compile(backend="eager")
    def step():
        optimizer.step()

    for count in (1, 2, 3):
        optimizer.zero_grad()
        model(torch.randn(4, 10)).square().mean().backward()
        step()
        assert (following.steps, attachment.sparsifier.step_count) == (count, count)
        assert zeros(model.weight) == zeros(optimizer.state[model.weight]["momentum_buffer"]) == 50


@pytest.mark.not_quick
def test_a_compiled_model_sees_new_masks():
    torch._dynamo.reset()
    model, sparsifier = nn.Linear(8, 1, bias=False), half()
    attach(model, sparsifier, mode="parametrize")
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    compiled(torch.ones(1, 8))
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for level, kept in ((0.5, 4), (0.75, 2), (0.0, 8)):
        sparsifier.data_groups["weight"]["sparsity_level"] = level
        sparsifier.step()
        masked = model.weight.detach()
        assert zeros(masked) == 8 - kept
        torch.testing.assert_close(compiled(torch.ones(1, 8)).squeeze(), masked.sum())
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs  # not compiled again


@pytest.mark.parametrize("mode", ["in_place", "parametrize"])
def test_a_model_that_was_compiled_before(mode):
    torch._dynamo.reset()
    model, sparsifier = nn.Linear(8, 1, bias=False), half()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    dense = compiled(torch.ones(1, 8)).squeeze()
    attachment = attach(compiled, sparsifier, mode=mode)
    sparsifier.step()
    attachment.apply()
    masked = compiled(torch.ones(1, 8)).squeeze()
    assert not torch.equal(masked, dense)
    torch.testing.assert_close(masked, model.weight.sum())
    detach(compiled)
    torch.testing.assert_close(compiled(torch.ones(1, 8)).squeeze(), masked)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 6)
        self.head = nn.Linear(6, 9, bias=False)
        self.head.weight = self.table.weight

    def forward(self, indices):
        return self.head(self.table(indices))


@pytest.mark.parametrize("mode", ["in_place", "parametrize"])
def test_tied_weights_are_one_group(mode):
    model, sparsifier = Tied(), half()
    names = keys(model)
    attachment = attach(model, sparsifier, mode=mode)
    assert attachment.names == ("table.weight",)
    optimizer = OPTIMIZERS["Adam"](model.parameters())
    attachment.follow(optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.arange(9)).logsumexp(1).sum().backward()
        optimizer.step()
        assert zeros(model.table.weight) == zeros(model.head.weight) == 27
    detach(model)
    assert model.table.weight is model.head.weight
    assert zeros(model.head.weight) == 27
    assert keys(model) == names


@pytest.mark.parametrize("mode", ["in_place", "parametrize"])
def test_model_and_sparsifier_copied_together_stay_tied(mode):
    model, sparsifier = mlp(), half()
    attach(model, sparsifier, mode=mode)
    sparsifier.step()
    other, its = copy.deepcopy((model, sparsifier))
    with torch.no_grad():
        its.get_data("0.weight").normal_()
    its.step()
    if mode == "in_place":
        its.apply_mask()
    assert torch.equal(other[0].weight != 0, its.get_mask("0.weight"))
    assert not torch.equal(its.get_mask("0.weight"), sparsifier.get_mask("0.weight"))
    attachment = attach(other, its) if mode == "in_place" else None  # known to it already
    assert attachment is None or attachment.names == ("0.weight", "2.weight")
    detach(other)
    assert keys(other) == keys(mlp())
    assert zeros(other[0].weight) == 120
    sparsifier.step()  # the first pair goes on
    detach(model)
    assert keys(model) == keys(mlp())


def test_a_copy_of_a_parametrized_model_alone_has_its_own_sparsifier():
    model, sparsifier = Tied(), half()
    attach(model, sparsifier, mode="parametrize")
    sparsifier.step()
    other = copy.deepcopy(model)
    masks = [module for module in other.modules() if isinstance(module, Masked)]
    (own,) = {mask.sparsifier for mask in masks}
    assert own is not sparsifier
    assert own.get_data("table.weight") is not sparsifier.get_data("table.weight")
    own.data_groups["table.weight"]["sparsity_level"] = 0.75
    with torch.no_grad():
        own.get_data("table.weight").normal_()
    own.step()
    assert zeros(other.table.weight) == zeros(other.head.weight) == 40
    assert zeros(model.table.weight) == 27


def test_a_copy_of_a_model_pruned_in_place_is_plain():
    model, sparsifier = mlp(), half()
    attach(model, sparsifier)
    other = copy.deepcopy(model)
    with pytest.raises(ValueError, match=r"a copy .* is plain"):
        detach(other)


def test_loading_a_state_dict_keeps_model_and_masks_tied():
    model, sparsifier = mlp(), half()
    attach(model, sparsifier, mode="parametrize")
    sparsifier.step()
    saved = copy.deepcopy((model.state_dict(), sparsifier.state_dict()))
    fresh, its = mlp(), half()
    attach(fresh, its, mode="parametrize")
    its.step()
    fresh.load_state_dict(saved[0])
    its.load_state_dict(saved[1])
    assert torch.equal(fresh[0].weight, model[0].weight)
    its.get_mask("0.weight")[:] = False  # still the very mask that the model computes with
    assert zeros(fresh[0].weight) == 240


def test_loading_a_checkpoint_keeps_a_parametrized_model_tied(tmp_path):
    model, sparsifier = mlp(), half()
    attach(model, sparsifier, mode="parametrize")
    sparsifier.step()
    path = tmp_path / "masks.safetensors"
    datasparse.save(path, sparsifier)
    expected = model[0].weight.detach().clone()
    with torch.no_grad():
        sparsifier.get_mask("0.weight").logical_not_()
    assert not torch.equal(model[0].weight, expected)
    datasparse.load(path, sparsifier)
    assert torch.equal(model[0].weight, expected)


def test_gradient_accumulation():
    model, sparsifier = mlp(), half()
    optimizer = OPTIMIZERS["Adam"](model.parameters())
    attach(model, sparsifier).follow(optimizer)
    for step in range(12):
        inputs, labels = batch()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        if step % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()
            assert zeros(model[0].weight) == 120
    assert sparsifier.step_count == 3


@pytest.mark.device("cpu", "cuda")
@pytest.mark.parametrize("mode", ["in_place", "parametrize"])
def test_automatic_mixed_precision(mode):
    model, sparsifier = mlp(), half()
    optimizer = OPTIMIZERS["Adam"](model.parameters())
    attach(model, sparsifier, mode=mode).follow(optimizer)
    for _ in range(5):
        inputs, labels = batch()
        optimizer.zero_grad()
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16):
            output = model(inputs)
            assert output.dtype == torch.bfloat16
            loss = nn.functional.cross_entropy(output, labels)
        loss.backward()
        optimizer.step()
        assert zeros(model[0].weight) == 120
        assert model[0].weight.dtype == torch.float32


def test_a_step_that_the_scaler_skips_is_none():
    model, sparsifier = mlp(), half()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    following = attach(model, sparsifier).follow(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for bad in (False, True, False):
        optimizer.zero_grad()
        inputs, labels = batch()
        loss = nn.functional.cross_entropy(model(inputs), labels)
        scaler.scale(loss * torch.inf if bad else loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert following.steps == sparsifier.step_count == 2


def test_zeros_written_in_place_invalidate_what_autograd_saved():
    model, sparsifier = mlp(), half()
    attachment = attach(model, sparsifier)
    sparsifier.step()
    loss = model(torch.randn(2, 12, requires_grad=True)).sum()
    version = model[0].weight._version
    attachment.apply()
    assert model[0].weight._version > version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.device("cpu", "cuda")
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers(kind):
    model = kind(4, 7)
    with pytest.raises(ValueError, match=f"nn.{kind.__name__}.*in_place"):
        attach(model, half(), mode="parametrize")
    sparsifier = half()
    attachment = attach(model, sparsifier)
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    attachment.follow(optimizer)
    model(torch.randn(3, 2, 4))[0].sum().backward()
    optimizer.step()
    assert zeros(model.weight_ih_l0) == model.weight_ih_l0.numel() // 2


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_a_table_that_scales_its_rows_is_pruned_in_place(kind):
    model = nn.Sequential(kind(20, 4, max_norm=1.0))
    with pytest.raises(ValueError, match="with max_norm, which would scale the rows of a masked"):
        attach(model, half(), mode="parametrize")
    attachment = attach(model, half())
    attachment.sparsifier.step()
    attachment.apply()
    assert zeros(model[0].weight) == 40


@pytest.mark.device("cpu", "cuda")
def test_sparse_gradients():
    model = nn.Embedding(20, 4, sparse=True)
    with pytest.raises(ValueError, match="sparse=True"):
        attach(model, half(), mode="parametrize")
    sparsifier = half()
    optimizer = torch.optim.SparseAdam(list(model.parameters()), lr=0.1)
    attach(model, sparsifier).follow(optimizer, mask_state=True)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.tensor([1, 5, 5, 7])).sum().backward()
        optimizer.step()
        assert zeros(model.weight) == 40


def test_attention_computes_with_the_mask():
    torch.manual_seed(0)
    model, sparsifier = nn.MultiheadAttention(8, 2, batch_first=True), half()
    attach(model, sparsifier, include="*weight", mode="parametrize")
    sparsifier.step()
    inputs = torch.randn(2, 3, 8)
    masked = model(inputs, inputs, inputs)[0]
    plain = copy.deepcopy(model)
    detach(plain)
    assert torch.equal(plain(inputs, inputs, inputs)[0], masked)
    assert zeros(plain.in_proj_weight) == 96


DDP = """
import os, sys, torch, torch.distributed as dist, torch.multiprocessing as mp
import torch._dynamo  # else each rank would, for its optimizer
from torch import nn
from datasparse import DataNormSparsifier
from datasparse.torch import attach, detach

def run(rank, port, mode):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.manual_seed(rank)  # DDP sends rank 0's parameters
    model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 4))
    sparsifier = DataNormSparsifier(sparsity_level=0.9, sparse_block_shape=(1, 1))
    attachment = attach(model, sparsifier, mode=mode)
    ddp = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.Adam(ddp.parameters(), lr=0.01, weight_decay=0.01)
    attachment.follow(optimizer, mask_state=True)
    generator = torch.Generator().manual_seed(100 + rank)  # each rank its own data
    for _ in range(20):
        optimizer.zero_grad()
        ddp(torch.randn(8, 12, generator=generator)).square().mean().backward()
        optimizer.step()
        assert int((model[0].weight == 0).sum()) == 216
    for name in attachment.names:
        mask, weight = sparsifier.get_mask(name), sparsifier.get_data(name).detach()
        for tensor in (mask.to(torch.uint8), weight):
            both = [torch.empty_like(tensor) for _ in range(2)]
            dist.all_gather(both, tensor)
            assert torch.equal(*both), name
    detach(ddp)
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    if rank == 0:
        print("equal bits", flush=True)
    # Both leave at once, and without torch's own farewell, which aborts now and then ("terminate
    # called without an active exception"), also where datasparse has not been imported.
    dist.barrier()
    os._exit(0)

if __name__ == "__main__":
    # By fork, since torch is imported already.
    mp.start_processes(run, (int(sys.argv[1]), sys.argv[2]), nprocs=2, start_method="fork")
"""


@pytest.mark.device("cpu")
@pytest.mark.parametrize("mode", ["in_place", pytest.param("parametrize", marks=pytest.mark.full)])
def test_every_rank_computes_the_same_bits(mode, tmp_path, run_file, free_port):
    script = tmp_path / "ddp.py"
    script.write_text(DDP)
    assert run_file(script, free_port(), mode) == "equal bits\n"


FSDP = """
import os, sys, torch, torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard, FullyShardedDataParallel
from torch.distributed.device_mesh import init_device_mesh
from datasparse import DataNormSparsifier
from datasparse.torch import attach

os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=sys.argv[1])
dist.init_process_group("gloo", rank=0, world_size=1)
sharded = nn.Sequential(nn.Linear(4, 4))
fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
flat = FullyShardedDataParallel(nn.Sequential(nn.Linear(4, 4)), device_id=torch.device("cpu"))
print(attach(sharded, DataNormSparsifier()).names)
try:
    attach(flat, DataNormSparsifier(), include="*")
except TypeError as error:
    print(str(error)[:41])
for refused in (
    lambda: attach(sharded, DataNormSparsifier(), mode="parametrize"),
    lambda: attach(sharded, DataNormSparsifier(), mode="parametrize", include="0.bias"),
):
    try:
        refused()
    except ValueError as error:
        print(str(error)[-25:])
dist.destroy_process_group()
"""


@pytest.mark.device("cpu")
def test_shards_are_taken_and_flat_parameters_refused(tmp_path, run_file, free_port):
    script = tmp_path / "fsdp.py"
    script.write_text(FSDP)
    assert run_file(script, free_port()) == (
        "('0.weight',)\n"
        "the model's parameters are flattened by F\n"
        'them; use mode="in_place"\n'
        'them; use mode="in_place"\n'
    )


MEMORY = """
import sys, torch
from torch import nn
from datasparse import DataNormSparsifier
from datasparse.torch import attach, detach

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) << 10

def growth(work):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = peak()
    work()
    return peak() - before

width, layers = int(sys.argv[1]), 4
small = nn.Linear(64, 64)
attach(small, DataNormSparsifier()).sparsifier.step()  # what only the first step takes
model = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(layers)))
sparsifier = DataNormSparsifier(sparsity_level=0.9, sparse_block_shape=(1, 1))
steps = [lambda: attach(model, sparsifier), sparsifier.step, sparsifier.apply_mask,
         lambda: detach(model)]
print(4 * layers * width**2, *map(growth, steps))
"""


@pytest.mark.usefixtures("measurable_memory")
@pytest.mark.device("cpu")
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from /proc")
@pytest.mark.parametrize(
    "width", [2048, pytest.param(8192, marks=pytest.mark.full)], ids=["64 MiB", "1 GiB"]
)
def test_nothing_is_copied(run_file, tmp_path, width):
    script = tmp_path / "memory.py"
    script.write_text(MEMORY)
    data, *grown = map(int, run_file(script, width).split())
    attached, stepped, applied, detached = grown
    masks = data // 4
    slack = 2 << 20
    assert attached + stepped <= masks + 0.02 * data + slack, grown
    assert applied <= slack, grown
    assert detached <= slack, grown


# --- beside the incumbent -------------------------------------------------------------------------


@pytest.mark.parametrize("block", [(1, 1), (1, 4), (4, 4)])
@pytest.mark.parametrize("norm", first_there(["L2", "L1"]))
def test_a_training_has_the_masks_of_pytorchs_sparsifier_at_every_step(block, norm):
    from torch.ao.pruning._experimental.data_sparsifier import DataNormSparsifier as Theirs

    config = {"sparsity_level": 0.6, "sparse_block_shape": block}
    zeros_per_block = block[0] * block[1]
    models = [mlp(), mlp()]
    models[1].load_state_dict(models[0].state_dict())
    ours = DataNormSparsifier(norm=norm, **config)
    attachment = attach(models[0], ours)
    optimizers = [OPTIMIZERS["Adam"](model.parameters()) for model in models]
    attachment.follow(optimizers[0])
    names = {name: name.replace(".", "_") for name in attachment.names}
    parameters = dict(models[1].named_parameters())
    theirs = Theirs(
        [(names[name], parameters[name]) for name in names],
        norm=norm, zeros_per_block=zeros_per_block, **config,
    )  # fmt: skip
    for _ in range(60):
        data = batch()
        for model, optimizer in zip(models, optimizers, strict=True):
            train_step(model, optimizer, *data)
        # It works on the memory that it was given, as long as nobody replaces that.
        theirs.step()
        with torch.no_grad():
            for name, valid in names.items():
                parameters[name] *= theirs.get_mask(valid)
        for name, valid in names.items():
            assert torch.equal(ours.get_mask(name), theirs.get_mask(valid) != 0)
            assert torch.equal(models[0].get_parameter(name), parameters[name])


# --- a scheduler of one's own, as in the seed document --------------------------------------------


class Halving(BaseDataScheduler):
    def __init__(self, data_sparsifier):
        super().__init__(data_sparsifier=data_sparsifier, schedule_param="sparsity_level")

    def get_schedule_param(self):
        if self.last_epoch > 0:
            return {
                name: config["sparsity_level"] * 0.5
                for name, config in self.data_sparsifier.data_groups.items()
            }
        return self.base_param


def test_a_scheduler_in_python_goes_with_the_steps():
    model = mlp()
    sparsifier = DataNormSparsifier(sparsity_level=0.8, **SINGLE)
    attachment = attach(model, sparsifier, include="0.weight")
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    attachment.follow(optimizer, scheduler=Halving(sparsifier))
    counted = []
    for _ in range(4):
        train_step(model, optimizer, *batch())
        counted.append(int((~sparsifier.get_mask("0.weight")).sum()))
    assert counted == [96, 48, 24, 12]
