"""A weight is found by its place: whatever a model's owner does to it between two steps."""

import copy
import gc
import pickle
import warnings
import weakref

import pytest
import torch
from datasparse import DataNormSparsifier, DataScheduler
from datasparse.schedules import Linear
from datasparse.torch import Masked, attach, detach
from support import ON_DEVICES, zeros
from torch import nn

pytestmark = ON_DEVICES

SINGLE = {"sparse_block_shape": (1, 1)}
MODES = ["in_place", "parametrize"]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(5)


def mlp():
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))


def attached(mode="in_place", model=None):
    model = model or mlp()
    sparsifier = DataNormSparsifier(sparsity_level=0.5, **SINGLE)
    return model, sparsifier, attach(model, sparsifier, mode=mode)


def step(sparsifier, attachment):
    attachment.refresh()
    sparsifier.step()
    attachment.apply()


def by_state_dict(model):
    state = {name: torch.randn_like(value) for name, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


def by_parameter(model):
    model[0].weight = nn.Parameter(torch.randn(8, 8))


def by_layer(model):
    model[0] = nn.Linear(8, 8)


def by_data(model):
    parameter = next(parameter for parameter in model.parameters() if parameter.ndim == 2)
    parameter.data = torch.randn(8, 8)


def by_delattr(model):
    del model[0].weight
    model[0].weight = nn.Parameter(torch.randn(8, 8))


def by_to_empty(model):
    model.to_empty(device=model[0].weight.device)
    for parameter in model.parameters():
        nn.init.normal_(parameter)


def by_conversion(model):
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        model.double().float()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
    for parameter in model.parameters():
        nn.init.normal_(parameter)


@pytest.mark.parametrize(
    "replace",
    [by_state_dict, by_parameter, by_layer, by_data, by_delattr, by_to_empty,
     by_conversion],
)  # fmt: skip
@pytest.mark.parametrize("mode", MODES)
def test_a_replaced_parameter_is_followed(mode, replace):
    model, sparsifier, attachment = attached(mode)
    step(sparsifier, attachment)
    if mode == "parametrize" and replace in (by_parameter, by_delattr):
        with pytest.raises((KeyError, AttributeError)):  # torch's own: it is parametrized
            replace(model)
        return
    old = sparsifier.get_mask("0.weight").clone()
    replace(model)
    step(sparsifier, attachment)
    assert zeros(model[0].weight) == zeros(model[2].weight) == 32
    assert torch.equal(model[0].weight != 0, sparsifier.get_mask("0.weight"))
    assert not torch.equal(sparsifier.get_mask("0.weight"), old)
    assert sparsifier.report()["0.weight"].zeros == 32
    detach(model)
    assert [type(module) for module in model] == [nn.Linear, nn.ReLU, nn.Linear]
    assert zeros(model[0].weight) == 32


@pytest.mark.parametrize("mode", MODES)
def test_the_mask_goes_along_without_a_new_one(mode):
    model, sparsifier, attachment = attached(mode)
    step(sparsifier, attachment)
    mask = sparsifier.get_mask("0.weight").clone()
    by_layer(model)
    attachment.apply()
    assert torch.equal(model[0].weight != 0, mask)


def test_after_a_replacement_plain_steps_of_the_sparsifier_are_right_too():
    model, sparsifier, _ = attached()
    by_state_dict(model)
    sparsifier.step()
    sparsifier.apply_mask()
    assert zeros(model[0].weight) == 32
    assert sparsifier.get_data("0.weight") is model[0].weight


@pytest.mark.parametrize(
    "spoil",
    [
        lambda model: setattr(model, "0", nn.ReLU()),
        lambda model: model.__delitem__(0),
        lambda model: model[0].register_parameter("weight", None),
    ],
)
def test_a_weight_that_is_gone_is_named_at_the_next_step(spoil):
    model, sparsifier, attachment = attached()
    step(sparsifier, attachment)
    if len(model) == 3:
        spoil(model)
    name = r"'[02]\.weight' is gone"
    for call in (sparsifier.step, sparsifier.apply_mask, attachment.apply):
        with pytest.raises(ValueError, match=name):
            call()
    attachment.sparsifier.remove_data("0.weight")
    if len(model) == 3:
        step(sparsifier, attachment)  # the others go on


def test_another_shape_is_named_at_the_next_step():
    model, sparsifier, attachment = attached()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attachment.follow(optimizer)
    before = sparsifier.get_mask("2.weight").clone()
    model[0] = nn.Linear(8, 4)
    model[2].weight.sum().backward()
    with pytest.raises(ValueError, match=r"data of '0\.weight' must keep the shape \(8, 8\), got"):
        optimizer.step()
    assert torch.equal(sparsifier.get_mask("2.weight"), before)


def test_an_optimizer_that_trains_what_is_no_longer_there_is_warned_of():
    model, sparsifier, attachment = attached()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attachment.follow(optimizer)
    model(torch.randn(2, 8)).sum().backward()
    optimizer.step()
    by_parameter(model)
    model(torch.randn(2, 8)).sum().backward()
    with pytest.warns(UserWarning, match=r"other parameters .* optimizer holds: '0\.weight'"):
        optimizer.step()
    assert zeros(model[0].weight) == 32
    optimizer.step()  # warned of once
    assert sparsifier.step_count == 3


# --- tied weights ---------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(8, 8)
        self.head = nn.Linear(8, 8, bias=False)
        self.head.weight = self.table.weight


@pytest.mark.parametrize("mode", MODES)
def test_weights_that_are_tied_no_longer_are_an_error(mode):
    model, sparsifier, attachment = attached(mode, Tied())
    step(sparsifier, attachment)
    model.head = nn.Linear(8, 8, bias=False)
    with pytest.raises(ValueError, match=r"'table\.weight' and 'head\.weight' were tied"):
        sparsifier.step()
    model.head.weight = model.table.weight if mode == "in_place" else nn.Parameter(torch.ones(8, 8))


def test_weights_that_are_tied_anew_are_followed():
    model, sparsifier, attachment = attached("in_place", Tied())
    model.table.weight = model.head.weight = nn.Parameter(torch.randn(8, 8))
    step(sparsifier, attachment)
    assert zeros(model.head.weight) == 32


def test_weights_that_share_their_memory_only_are_still_tied():
    """load_state_dict(assign=True) makes two parameters of one tensor."""
    model, sparsifier, attachment = attached("in_place", Tied())
    model.load_state_dict(model.state_dict(), assign=True)
    assert model.head.weight is not model.table.weight
    step(sparsifier, attachment)
    assert zeros(model.head.weight) == zeros(model.table.weight) == 32


# --- wrappers that come and go --------------------------------------------------------------------


def compiled(model):
    model[0] = torch.compile(model[0], backend="eager")


def checkpointed(model):
    wrapper = torch.distributed.algorithms._checkpoint.checkpoint_wrapper
    model[0] = wrapper.checkpoint_wrapper(model[0])


def in_parallel(model):
    model[0] = nn.DataParallel(model[0])


@pytest.mark.parametrize("wrap", [compiled, checkpointed, in_parallel])
def test_a_layer_that_is_wrapped_later_is_found(wrap):
    import torch.distributed.algorithms._checkpoint.checkpoint_wrapper  # noqa: F401

    model, sparsifier, attachment = attached()
    layer = model[0]
    wrap(model)
    assert model[0] is not layer
    step(sparsifier, attachment)
    assert zeros(layer.weight) == 32


def test_a_layer_that_is_unwrapped_later_is_found():
    model = mlp()
    layer = model[0]
    compiled(model)
    _, sparsifier, attachment = attached(model=model)
    assert attachment.names == ("0._orig_mod.weight", "2.weight")
    model[0] = layer
    step(sparsifier, attachment)
    assert zeros(layer.weight) == 32


class Twofold(nn.Module):
    """A submodule that is called as wrappers call theirs."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.module = nn.Sequential()
        self.module.fc = nn.Linear(8, 8)
        self.base_layer = nn.Sequential()
        self.base_layer.fc = nn.Linear(8, 8)


def test_a_submodule_with_the_name_of_a_wrapped_one_is_none():
    model, sparsifier, _ = attached(model=Twofold())
    del model.fc
    with pytest.raises(ValueError, match=r"'fc\.weight' is gone"):
        sparsifier.step()


def test_scripted_and_traced_parts():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(nn.Linear(8, 8))
        traced = torch.jit.trace(nn.Linear(8, 8), torch.ones(1, 8))
    model = nn.Sequential(scripted, traced, nn.Linear(8, 8))
    _, sparsifier, attachment = attached(model=model)
    assert attachment.names == ("0.weight", "1.weight", "2.weight")
    step(sparsifier, attachment)
    assert [zeros(layer.weight) for layer in model] == [32, 32, 32]


# --- copies, pickles, lives -----------------------------------------------------------------------


@pytest.mark.parametrize("first", ["model", "sparsifier"])
def test_a_copy_with_its_model_follows_the_copy(first):
    model, sparsifier, attachment = attached()
    step(sparsifier, attachment)
    if first == "model":
        other, its = copy.deepcopy((model, sparsifier))
        by_parameter(other)
    else:
        its, other = copy.deepcopy((sparsifier, model))
    assert its.get_data("0.weight") is other[0].weight
    assert sparsifier.get_data("0.weight") is model[0].weight
    its.step()
    its.apply_mask()
    assert zeros(other[0].weight) == 32


def test_a_copy_alone_copies_the_weights_and_no_model():
    model, sparsifier, _ = attached()
    its = copy.deepcopy(sparsifier)
    assert isinstance(its.get_data("0.weight"), nn.Parameter)
    assert its.get_data("0.weight") is not model[0].weight
    assert torch.equal(its.get_data("0.weight"), model[0].weight)


def test_pickled_together_they_stay_tied():
    model, sparsifier, attachment = attached()
    step(sparsifier, attachment)
    other, its = pickle.loads(pickle.dumps((model, sparsifier)))
    assert its.get_data("0.weight") is other[0].weight
    attach(other, its)
    by_parameter(other)
    its.step()
    its.apply_mask()
    assert zeros(other[0].weight) == 32


def test_the_weights_of_a_model_that_is_gone_are_kept():
    model, sparsifier, attachment = attached()
    weight = model[0].weight
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None
    step(sparsifier, attachment)
    assert zeros(weight) == 32


def test_a_parametrized_layer_may_be_assigned_to():
    model, sparsifier, attachment = attached("parametrize")
    step(sparsifier, attachment)
    dense = sparsifier.get_data("0.weight")
    model[0].weight = torch.full((8, 8), 2.0)
    assert sparsifier.get_data("0.weight") is dense
    assert zeros(dense) == 0
    assert zeros(model[0].weight) == 32


def test_a_copy_after_a_group_was_removed():
    model, sparsifier, attachment = attached("parametrize")
    step(sparsifier, attachment)
    sparsifier.remove_data("0.weight")
    other = copy.deepcopy(model)
    assert zeros(other[0].weight) == 32


def test_what_cannot_be_attached_leaves_the_masks_of_another_attachment(monkeypatch):
    """Names are those within the model that is attached: two weights may have the same one."""
    model = nn.Linear(4, 3)
    model.inner = nn.Linear(4, 3)
    attach(model.inner, DataNormSparsifier(), include="weight", mode="parametrize")

    def failing(*_, **__):
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(nn.utils.parametrize, "register_parametrization", failing)
        with pytest.raises(RuntimeError, match="no memory"):
            attach(model, DataNormSparsifier(), include="weight", mode="parametrize")
    assert nn.utils.parametrize.is_parametrized(model.inner, "weight")


def test_what_cannot_be_parametrized_leaves_the_model_as_it_was(monkeypatch):
    model, sparsifier = mlp(), DataNormSparsifier(**SINGLE)
    register = nn.utils.parametrize.register_parametrization

    def failing(module, attribute, masked, **options):
        if module is model[2]:
            raise RuntimeError("not this one")
        return register(module, attribute, masked, **options)

    monkeypatch.setattr(nn.utils.parametrize, "register_parametrization", failing)
    with pytest.raises(RuntimeError, match="not this one"):
        attach(model, sparsifier, mode="parametrize")
    assert [type(layer) for layer in model] == [nn.Linear, nn.ReLU, nn.Linear]
    assert list(sparsifier.data_groups) == []


def test_a_loaded_state_wins_over_the_options_of_attach():
    def make():
        torch.manual_seed(1)
        model = mlp()
        with torch.no_grad():
            model[0].weight[0] = 0
        return model

    model, sparsifier = make(), DataNormSparsifier(sparsity_level=0.5, **SINGLE)
    attachment = attach(model, sparsifier, keep_zeros=True, min_kept=2)
    step(sparsifier, attachment)
    state, weights = sparsifier.state_dict(), model.state_dict()
    again, its = make(), DataNormSparsifier(sparsity_level=0.9, **SINGLE)
    again.load_state_dict(weights)
    its.load_state_dict(state)
    attach(again, its, keep_zeros=True, min_kept=3)
    assert its.state_dict()["data_groups"] == state["data_groups"]


def test_layers_exchanged_in_a_training_with_parametrizations():
    model, sparsifier, attachment = attached("parametrize")
    scheduler = DataScheduler(sparsifier, "sparsity_level", Linear(end=4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attachment.follow(optimizer, scheduler=scheduler)
    model[0] = nn.Linear(8, 8)
    model(torch.randn(2, 8)).sum().backward()
    with pytest.warns(UserWarning, match="other parameters"):
        optimizer.step()
    assert zeros(model[0].weight) == 8
    assert sum(isinstance(module, Masked) for module in model.modules()) == 2
