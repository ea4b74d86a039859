"""Zeros in other models of the same names: averages, copies, what was loaded."""

import copy
import pickle

import pytest
import torch
from datasparse import DataNormSparsifier
from datasparse.torch import Masked, attach
from support import ON_DEVICES, zeros
from torch import nn
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

pytestmark = ON_DEVICES

SINGLE = {"sparse_block_shape": (1, 1)}
MODES = ["in_place", "parametrize"]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(8)


def mlp():
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))


def attached(mode="in_place", model=None):
    model = model or mlp()
    attachment = attach(model, DataNormSparsifier(sparsity_level=0.75, **SINGLE), mode=mode)
    attachment.sparsifier.step()
    attachment.apply()
    return model, attachment


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("average", [None, get_ema_multi_avg_fn(0.9)])
def test_an_average_gets_the_masks_of_now(mode, average):
    model, attachment = attached(mode)
    averaged = AveragedModel(model, multi_avg_fn=average)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    attachment.follow(optimizer)
    for _ in range(6):
        optimizer.zero_grad()
        model(torch.randn(4, 8)).square().sum().backward()
        optimizer.step()
        averaged.update_parameters(model)
    attachment.apply(averaged)
    for index in (0, 2):
        mask = attachment.sparsifier.get_mask(f"{index}.weight")
        assert torch.equal(averaged.module[index].weight != 0, mask)
    assert attachment.sparsity(averaged) == attachment.sparsity() == 0.75
    with torch.no_grad():
        attachment.sparsifier.get_mask("0.weight").logical_not_()
    assert attachment.sparsity(averaged) == 0.75  # the copy has masks of its own


def test_a_parametrized_copy_is_brought_up_to_date():
    model, attachment = attached("parametrize")
    other = copy.deepcopy(model)
    with torch.no_grad():
        model[0].parametrizations.weight.original.normal_()
    attachment.sparsifier.step()
    assert not torch.equal(other[0].weight != 0, model[0].weight != 0)
    attachment.apply(other)
    assert torch.equal(other[0].weight != 0, model[0].weight != 0)
    (masked, _) = (module for module in other.modules() if isinstance(module, Masked))
    assert masked.sparsifier is not attachment.sparsifier


def test_a_copy_of_a_model_whose_groups_are_squashed_computes_the_same():
    model, attachment = attached("parametrize")
    attachment.sparsifier.squash_mask()
    other = copy.deepcopy(model)
    inputs = torch.randn(4, 8)
    assert torch.equal(other(inputs), model(inputs))
    attachment.apply(other)
    assert torch.equal(other(inputs), model(inputs))
    assert attachment.sparsity(other) == 0.75


def compiled(model):
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize("wrap", [nn.DataParallel, AveragedModel, compiled, lambda model: model])
def test_wrapped_models_have_the_same_names(wrap):
    _, attachment = attached()
    fresh = mlp()
    other = wrap(fresh)
    attachment.apply(other)
    assert attachment.sparsity(other) == 0.75
    assert attachment.sparsity(fresh) == (0.0 if wrap is AveragedModel else 0.75)  # that is a copy


def test_a_model_of_another_precision_or_under_a_norm():
    _, attachment = attached()
    other = mlp().to(torch.bfloat16)
    attachment.apply(other)
    assert zeros(other[0].weight) == 48
    other = mlp()
    parametrizations.weight_norm(other[0])
    attachment.apply(other)
    assert zeros(other[0].weight) == 48


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda m: m.__delitem__(2), r"no weight '2\.weight'"),
        (lambda m: m.__setitem__(2, nn.Linear(8, 4)), r"'2\.weight' of the model must have the sh"),
        (lambda m: parametrizations.orthogonal(m[2]), r"'2\.weight' of the model is made by Orth"),
    ],
)
def test_a_model_that_does_not_fit_is_left_alone(spoil, says):
    _, attachment = attached()
    other = mlp()
    spoil(other)
    with pytest.raises(ValueError, match=says):
        attachment.apply(other)
    assert zeros(other[0].weight) == 0


def test_masks_of_a_detached_model_can_still_be_applied():
    from datasparse.torch import detach

    model, attachment = attached()
    detach(model)
    other = mlp()
    attachment.apply(other)
    assert torch.equal(other[0].weight != 0, model[0].weight != 0)


class Tied(nn.Module):
    def __init__(self, tied=True):
        super().__init__()
        self.table = nn.Embedding(8, 8)
        self.head = nn.Linear(8, 8, bias=False)
        if tied:
            self.head.weight = self.table.weight


def test_in_a_copy_that_is_not_tied_both_weights_are_zeroed():
    _, attachment = attached(model=Tied())
    other = Tied(tied=False)
    assert attachment.sparsity(other) == 0
    attachment.apply(other)
    assert (zeros(other.table.weight), zeros(other.head.weight)) == (48, 48)
    assert attachment.sparsity(other) == 0.75


def pickled(objects):
    return pickle.loads(pickle.dumps(objects))


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
@pytest.mark.parametrize("first", ["model", "attachment"])
def test_an_attachment_is_copied_with_its_model(copied, first):
    model, attachment = attached()
    if first == "model":
        other, its = copied((model, attachment))
    else:
        its, other = copied((attachment, model))
    assert its.sparsifier.get_data("0.weight") is other[0].weight
    other[0] = nn.Linear(8, 8)
    its.renew()
    its.apply()
    assert zeros(other[0].weight) == 48
    assert its.changes() > attachment.changes() == 0
    assert its.sparsifier is not attachment.sparsifier


def test_a_model_that_holds_its_attachment_is_copied():
    """As StochasticWeightAveraging copies a module."""
    model = mlp()
    _, model.attachment = attached(model=model)
    other = copy.deepcopy(model)
    assert other.attachment.model() is other
    with torch.no_grad():
        other[0].weight.normal_()
    other.attachment.renew()
    other.attachment.apply()
    assert zeros(other[0].weight) == 48
    with pytest.raises(TypeError, match="holds its own attachment"):
        pickled(model)


def test_zeros_that_a_later_parametrization_fills_are_not_counted():
    class Shifted(nn.Module):
        def forward(self, weight):
            return weight + 1

    model, attachment = attached("parametrize")
    assert attachment.sparsity() == 0.75
    nn.utils.parametrize.register_parametrization(model[0], "weight", Shifted(), unsafe=True)
    assert attachment.sparsity() == pytest.approx(0.375)


def test_detaching_a_whole_detaches_its_parts():
    from datasparse.torch import detach

    model = mlp()
    part = attach(model[0], DataNormSparsifier(sparsity_level=0.75, **SINGLE))
    whole = attach(model, DataNormSparsifier(sparsity_level=0.75, **SINGLE), include="2.weight")
    part.sparsifier.step()
    whole.sparsifier.step()
    detach(model)
    assert (zeros(model[0].weight), zeros(model[2].weight)) == (48, 48)


def test_parameters_come_back_in_their_order():
    from datasparse.torch import detach

    model = nn.RNNCell(4, 8)
    names = [name for name, _ in model.named_parameters()]
    attached("parametrize", model)
    detach(model)
    assert [name for name, _ in model.named_parameters()] == names


def test_modules_that_peft_trains_in_another_place_are_found():
    peft = pytest.importorskip("peft", reason="needs peft")
    model = mlp()
    config = peft.LoraConfig(r=2, target_modules=["0"], modules_to_save=["2"])
    wrapped = peft.get_peft_model(model, config)
    _, attachment = attached(model=wrapped)
    trained = "base_model.model.2.modules_to_save.default.weight"
    assert attachment.names == ("base_model.model.0.base_layer.weight", trained)
    left = attachment.left["base_model.model.2.original_module.weight"]
    assert left == "replaced by a copy that is trained"
    assert zeros(model[2].modules_to_save["default"].weight) == 48
    merged = wrapped.merge_and_unload()
    with torch.no_grad():
        merged[2].weight.fill_(1.0)
    attachment.apply(merged)
    assert zeros(merged[2].weight) == 48
    attachment.sparsifier.step()
    attachment.apply()
    assert zeros(merged[0].weight) == zeros(merged[2].weight) == 48
    plain = mlp()
    _, attachment = attached(model=plain)  # before
    peft.get_peft_model(plain, config)
    attachment.sparsifier.step()
    attachment.apply()
    assert zeros(plain[2].modules_to_save["default"].weight) == 48
