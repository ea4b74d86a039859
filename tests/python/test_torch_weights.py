"""What a weight is: layers whose weights are computed, norm layers, adapters; and what is said."""

import warnings

import pytest
import torch
from datasparse import DataNormSparsifier
from datasparse.torch import attach, detach
from support import ON_DEVICES, zeros
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

pytestmark = ON_DEVICES

SINGLE = {"sparse_block_shape": (1, 1)}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(6)


def half(level=0.5):
    return DataNormSparsifier(sparsity_level=level, **SINGLE)


def lowest(weight, count):
    """The mask that keeps all but the `count` smallest."""
    order = weight.detach().abs().flatten().argsort(stable=True)
    mask = torch.ones(weight.numel(), dtype=torch.bool)
    mask[order[:count]] = False
    return mask.reshape(weight.shape)


def old_weight_norm(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(layer)


@pytest.mark.parametrize("wrap", [parametrizations.spectral_norm, nn.utils.spectral_norm])
@pytest.mark.parametrize("scale", [0.01, 1, 100])
@pytest.mark.parametrize("called", [False, True])
def test_a_pool_ranks_what_spectral_norm_makes_of_a_weight(wrap, scale, called):
    model = nn.Sequential(nn.Linear(12, 12), nn.Linear(12, 12)).eval()
    with torch.no_grad():
        model[0].weight.mul_(scale)  # by which spectral_norm divides
    wrap(model[0])
    if called:
        with torch.no_grad():
            for _ in range(20):
                model.train()(torch.randn(1, 12))
    model.eval()(torch.randn(1, 12))
    made = model[0].weight.detach().clone()
    sparsifier = half()
    attachment = attach(model, sparsifier, pool="all")
    sparsifier.step()
    attachment.apply()
    model(torch.randn(1, 12))
    mask = sparsifier.get_mask("0.weight")
    assert torch.equal(model[0].weight != 0, mask)
    assert 0.1 < float(mask.float().mean()) < 0.9
    kept = model[1].weight.detach().abs()
    least = kept[kept > 0].min()
    if called or wrap is parametrizations.spectral_norm:  # the old one begins with any vector
        assert (made[mask].abs() >= least - 1e-3).all()  # one threshold for what both compute with
        assert (made[~mask].abs() <= least + 1e-3).all()


def train(model, attachment, steps=5):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    attachment.follow(optimizer)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 12)).square().sum().backward()
        optimizer.step()
        assert zeros(model[0].weight) == 120
        assert int((model[0].weight != 0).any(1).sum()) == 20  # no row has died


@pytest.mark.parametrize(
    "wrap",
    [parametrizations.weight_norm, old_weight_norm, parametrizations.spectral_norm,
     nn.utils.spectral_norm],
)  # fmt: skip
def test_under_a_norm_the_effective_weight_is_pruned(wrap):
    model = nn.Sequential(wrap(nn.Linear(12, 20)), nn.Linear(20, 3)).eval()
    with torch.no_grad():  # rows of very different scales: the gain counts
        for name, parameter in model[0].named_parameters():
            if name.endswith(("_g", "original0")):
                parameter.mul_(torch.logspace(-0.1, 0.1, 20).unsqueeze(1))
    model(torch.randn(1, 12))
    sparsifier = half()
    attachment = attach(model, sparsifier, types=nn.Linear)
    assert attachment.names == ("0.weight", "1.weight")
    expected = lowest(model[0].weight, 120)
    sparsifier.step()
    attachment.apply()
    model(torch.randn(1, 12))
    assert torch.equal(sparsifier.get_mask("0.weight"), expected)
    assert torch.equal(model[0].weight != 0, expected)
    train(model.train(), attachment)
    gain = [p for name, p in model[0].named_parameters() if name.endswith(("_g", "original0"))]
    assert all(zeros(parameter) == 0 for parameter in gain)
    saved = model.state_dict()
    detach(model)
    assert list(model.state_dict()) == list(saved)
    model(torch.randn(1, 12))
    assert zeros(model[0].weight) == 120


class Symmetric(nn.Module):
    def forward(self, weight):
        return weight + weight.flip(0)


COMPUTED = {
    "Orthogonal": lambda: parametrizations.orthogonal(nn.Linear(12, 12)),
    "Symmetric": lambda: parametrize.register_parametrization(
        nn.Linear(12, 12), "weight", Symmetric(), unsafe=True
    ),
    "two": lambda: parametrize.register_parametrization(
        parametrizations.weight_norm(nn.Linear(12, 12)), "weight", Symmetric(), unsafe=True
    ),
}


@pytest.mark.parametrize("kind", COMPUTED)
def test_other_parametrizations_are_refused_in_place(kind):
    model = nn.Sequential(COMPUTED[kind]())
    with pytest.raises(ValueError, match=r"'0\.weight' is made by .*mode=\"parametrize\""):
        attach(model, half())


@pytest.mark.parametrize("kind", [*COMPUTED, "weight_norm", "spectral_norm"])
def test_as_the_last_parametrization_the_effective_weight_is_pruned(kind):
    norms = {
        "weight_norm": lambda: parametrizations.weight_norm(nn.Linear(12, 12)),
        "spectral_norm": lambda: parametrizations.spectral_norm(nn.Linear(12, 12)),
    }
    model = nn.Sequential((COMPUTED | norms)[kind]())
    sparsifier = half()
    attachment = attach(model, sparsifier, mode="parametrize")
    with torch.no_grad():
        dense = parametrize_without(model)
    sparsifier.step()
    assert torch.equal(sparsifier.get_mask("0.weight"), lowest(dense, 72))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    attachment.follow(optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 12)).square().sum().backward()
        optimizer.step()
        assert zeros(model[0].weight) == 72
    assert attachment.sparsity() == 0.5
    # The saved original is dense until detach().
    for name, value in model.state_dict().items():
        assert "orig" not in name or not torch.equal(value != 0, sparsifier.get_mask("0.weight"))
    model.eval()
    computed = model[0].weight.detach().clone()
    detach(model)
    assert torch.equal(model[0].weight, computed)  # no bit of what it computes has changed
    assert sorted(model.state_dict()) == ["0.bias", "0.weight"]


def parametrize_without(model):
    model.eval()
    entries = [e for e in model[0].parametrizations.weight if type(e).__name__ != "Masked"]
    list_ = model[0].parametrizations.weight
    originals = (
        [list_.original] if list_.is_tensor
        else [getattr(list_, f"original{i}") for i in range(list_.ntensors)]
    )  # fmt: skip
    value = entries[0](*originals)
    for entry in entries[1:]:
        value = entry(value)
    model.train()
    return value


@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, old_weight_norm])
def test_what_weight_norm_would_divide_by_is_never_zero(wrap, dim):
    """A row without a direction would be 0 / 0."""
    layer = nn.Linear(6, 4)
    if wrap is old_weight_norm:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            nn.utils.weight_norm(layer, dim=dim)
    else:
        parametrizations.weight_norm(layer, dim=dim)
    model = nn.Sequential(layer)
    attachment = attach(model, half())
    mask = attachment.sparsifier.get_mask("0.weight")
    mask[:] = False
    for kept in range(5):
        if kept < (1 if dim is None else 4 if dim == 0 else 5):
            with pytest.raises(ValueError, match="weight_norm divides"):
                attachment.apply()
            for call in (
                lambda: attachment.apply(model), attachment.sparsifier.apply_mask,
                attachment.sparsifier.squash_mask, lambda: detach(model),
            ):  # fmt: skip
                with pytest.raises(ValueError, match="weight_norm divides"):
                    call()
        mask[kept % 4, kept] = True
    mask[0, 5] = True
    attachment.apply()
    model(torch.ones(1, 6))
    assert torch.equal(model[0].weight != 0, mask)


def test_a_dead_row_is_made_permanent_where_weight_norm_could_not_have_it():
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 4)))
    attachment = attach(model, half(), mode="parametrize")
    mask = attachment.sparsifier.get_mask("0.weight")
    mask[1] = False
    expected = model[0].weight.detach().clone()
    detach(model)
    assert sorted(model.state_dict()) == ["0.bias", "0.weight"]
    assert torch.equal(model[0].weight, expected)


def test_a_look_at_a_weight_does_not_move_spectral_norm_on():
    model = nn.Sequential(parametrizations.spectral_norm(nn.Linear(12, 12)))
    attachment = attach(model, half(), mode="parametrize")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attachment.sparsifier.step()
    attachment.sparsity()
    str(attachment)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert model[0].parametrizations.weight[0].training


def test_what_torch_prunes_already_is_refused_by_name():
    model = nn.Sequential(nn.Linear(12, 12))
    prune.l1_unstructured(model[0], "weight", 0.5)
    with pytest.raises(ValueError, match=r"pruned by torch\.nn\.utils\.prune.*keep_zeros=True"):
        attach(model, half())


def test_an_old_hook_and_a_parametrization_do_not_go_together():
    model = nn.Sequential(old_weight_norm(nn.Linear(12, 12)))
    with pytest.raises(ValueError, match="made by a hook"):
        attach(model, half(), mode="parametrize")


def test_a_norm_that_is_put_on_later_is_followed():
    model = nn.Sequential(nn.Linear(12, 20))
    attachment = attach(model, half())
    parametrizations.weight_norm(model[0])
    attachment.sparsifier.step()
    attachment.apply()
    assert zeros(model[0].weight) == 120
    parametrize.remove_parametrizations(model[0], "weight")
    attachment.sparsifier.step()
    attachment.apply()
    assert zeros(model[0].weight) == 120


def test_a_parametrization_that_is_put_on_later_is_an_error_of_the_next_step():
    model = nn.Sequential(nn.Linear(12, 12))
    attachment = attach(model, half())
    parametrizations.orthogonal(model[0])
    with pytest.raises(ValueError, match=r"'0\.weight' is made by Orthogonal.*parametrize"):
        attachment.apply()


# --- norm layers, vectors -------------------------------------------------------------------------


class MyRMSNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 6))


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.norm = nn.LayerNorm((2, 6))
        self.rms = MyRMSNorm()
        self.act = nn.PReLU(4)
        self.fc = nn.Linear(6, 5)


class LayerNormMLP(nn.Module):
    """As of Transformer Engine: a norm layer and two matrices in one."""

    def __init__(self):
        super().__init__()
        self.layer_norm_weight = nn.Parameter(torch.ones(6))
        self.fc1_weight = nn.Parameter(torch.randn(6, 6))
        self.fc2_weight = nn.Parameter(torch.randn(6, 6))


def test_matrices_beside_a_norm_are_taken():
    attachment = attach(nn.Sequential(LayerNormMLP()), half())
    assert attachment.names == ("0.fc1_weight", "0.fc2_weight")


@pytest.mark.parametrize(
    "name", ["LayerNorm2d", "LlamaRMSNorm", "FrozenBatchNorm2d", "GroupNorm32", "T5LayerNorm",
             "Layer_Norm", "InstanceNorm1D"],
)  # fmt: skip
def test_norm_layers_of_others_are_known_by_their_names(name):
    norm = type(name, (MyRMSNorm,), {})()
    attachment = attach(nn.Sequential(norm, nn.Linear(6, 6)), half())
    assert attachment.left["0.weight"] == "of a norm layer"


@pytest.mark.parametrize("include", [None, "*", "*.weight"])
def test_norm_layers_and_vectors_are_left_by_patterns(include):
    model = Mixed()
    attachment = attach(model, half(), include=include)
    assert attachment.names == ("conv.weight", "fc.weight")
    assert attachment.left["norm.weight"] == attachment.left["rms.weight"] == "of a norm layer"
    assert attachment.left["act.weight"] == "a bias or another vector"


@pytest.mark.parametrize("name", ["norm.weight", "bn.weight", "act.weight", "fc.bias"])
def test_they_are_taken_by_their_very_names(name):
    model = Mixed()
    attachment = attach(model, half(), include=[name])
    assert attachment.names == (name,)


def test_a_pattern_that_can_take_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"'\*\.bias' matches nothing .* 'conv\.bias' is a bias"):
        attach(Mixed(), half(), include=["*.weight", "*.bias"])
    with pytest.raises(ValueError, match=r"no parameter .* of another type of module"):
        attach(Mixed(), half(), types=nn.LayerNorm)


def test_the_ingredients_of_a_weight_are_taken_by_their_very_names():
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 5)))
    name = "0.parametrizations.weight.original0"
    attachment = attach(model, half())
    assert attachment.left[name] == "an ingredient of a weight"
    detach(model)
    assert attach(model, half(), include=name).names == (name,)


# --- adapters -------------------------------------------------------------------------------------


class Low(nn.Module):
    """As loralib has it: the factors are parameters of the layer."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))
        self.lora_A = nn.Parameter(torch.randn(2, 8))
        self.lora_B = nn.Parameter(torch.zeros(8, 2))


def test_adapters_are_left():
    model = nn.Sequential(Low())
    attachment = attach(model, half())
    assert attachment.names == ("0.weight",)
    assert attachment.left == {"0.lora_A": "part of an adapter", "0.lora_B": "part of an adapter"}


def lora(model, **options):
    peft = pytest.importorskip("peft", reason="needs peft")
    config = peft.LoraConfig(r=2, target_modules=["0", "2"], init_lora_weights=False, **options)
    return peft.get_peft_model(model, config)


def mlp():
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))


@pytest.mark.parametrize("before", [True, False], ids=["attached first", "wrapped first"])
def test_merging_an_adapter_keeps_the_zeros(before):
    model = mlp()
    sparsifier = half()
    if before:
        attachment = attach(model, sparsifier)
        wrapped = lora(model)
    else:
        wrapped = lora(model)
        attachment = attach(wrapped, sparsifier, types=nn.Linear)
        left = {name for name, why in attachment.left.items() if why == "part of an adapter"}
        assert {name.split(".")[3] for name in left} == {"lora_A", "lora_B"}
    assert len(attachment.names) == 2
    sparsifier.step()
    attachment.apply()
    base = model[0].base_layer.weight
    assert zeros(base) == 32
    assert not any(zeros(p) for name, p in wrapped.named_parameters() if "lora" in name)
    masks = [sparsifier.get_mask(name).clone() for name in attachment.names]
    wrapped.merge_adapter()
    assert zeros(base) == 0  # what merging does
    attachment.apply()
    assert torch.equal(base != 0, masks[0])
    wrapped.unmerge_adapter()
    merged = wrapped.merge_and_unload()
    assert type(merged[0]) is nn.Linear
    attachment.apply(merged)
    assert torch.equal(merged[0].weight != 0, masks[0])
    assert torch.equal(merged[2].weight != 0, masks[1])
    if before:
        attachment.apply()  # its own model is the merged one by now


def test_an_optimizer_of_adapters_alone_is_told_what_to_do():
    wrapped = lora(mlp())
    attachment = attach(wrapped, half())
    optimizer = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], lr=0.1)
    with pytest.raises(ValueError, match=r"holds none .* sparsifier\.step\(\) and attachment\.app"):
        attachment.follow(optimizer)


# --- what is said ---------------------------------------------------------------------------------


def test_an_attachment_says_what_it_took_and_what_it_left():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), parametrizations.weight_norm(nn.Linear(6, 5))
    )
    attachment = attach(model, half())
    assert repr(attachment) == (
        "Attachment(2 weights, 6 left, mode='in_place'; print() shows which)"
    )
    assert str(attachment).splitlines() == [
        "weight    shape    elements  rows x columns            found as",
        "0.weight  4x3x3x3       108  4 x 27, inputs innermost  parameter",
        "2.weight  5x6            30  5 x 6                     weight_norm",
        "left, a bias or another vector: 0.bias, 2.bias",
        "left, of a norm layer: 1.weight, 1.bias",
        "left, an ingredient of a weight: 2.parametrizations.weight.original0, "
        "2.parametrizations.weight.original1",
    ]


class Broken(nn.Module):
    """A parametrization that fails when it is told to."""

    fails = False

    def forward(self, weight):
        if self.fails:
            raise RuntimeError("no weight")
        return weight

    def right_inverse(self, weight):
        return weight


def overlapping(layer):
    """Its rows share their memory, in which no row can have zeros of its own."""
    layer.weight = nn.Parameter(torch.randn(1, layer.in_features).expand(layer.out_features, -1))
    return layer


def everything_of(model):
    """The classes, the keys, and each parameter with its identity."""
    kinds = [type(module) for module in model.modules()]
    state = {name: (id(value), value.clone()) for name, value in model.named_parameters()}
    return kinds, list(model.state_dict()), state


def assert_unchanged(model, before, inputs, outputs):
    kinds, keys, state = everything_of(model)
    assert (kinds, keys, list(state)) == (*before[:2], list(before[2]))
    for name, (identity, value) in state.items():
        assert identity == before[2][name][0], name
        assert torch.equal(value, before[2][name][1]), name
    assert torch.equal(model(inputs), outputs)


@pytest.mark.parametrize("frozen", [True, False])
def test_detach_makes_a_parameter_of_what_is_computed_and_frozen(frozen):
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 6)))
    model.requires_grad_(not frozen)
    sparsifier = half()
    attach(model, sparsifier, mode="parametrize")
    sparsifier.step()
    with torch.no_grad():
        expected = model[0].weight.clone()
        detach(model)
    assert isinstance(model[0].weight, nn.Parameter)
    assert model[0].weight.requires_grad is not frozen
    assert torch.equal(model[0].weight, expected)


@pytest.mark.device("cpu")
def test_what_cannot_be_detached_stays_attached():
    model = nn.Sequential(
        parametrizations.orthogonal(nn.Linear(6, 6)),
        parametrizations.weight_norm(nn.Linear(6, 6)),
        overlapping(nn.Linear(6, 6)),
    )
    sparsifier = half()
    attach(model, sparsifier, mode="parametrize")
    sparsifier.step()
    model.eval()
    inputs = torch.randn(3, 6)
    outputs, before = model(inputs), everything_of(model)
    with pytest.raises(ValueError, match=r"squash_mask of '2\.weight'"):
        detach(model)
    assert_unchanged(model, before, inputs, outputs)
    assert len(sparsifier.active(sparsifier.data_groups)) == 3
    model[2].parametrizations.weight.original = nn.Parameter(torch.randn(6, 6))
    detach(model)
    assert set(model.state_dict()) == {
        f"{at}.{name}" for at in range(3) for name in ("weight", "bias")
    }


@pytest.mark.device("cpu")
def test_where_a_parametrization_fails_all_stay_attached():
    broken = Broken()
    model = nn.Sequential(nn.Linear(6, 6), parametrizations.orthogonal(nn.Linear(6, 6)))
    parametrize.register_parametrization(model[0], "weight", broken)
    sparsifier = half()
    attach(model, sparsifier, mode="parametrize")
    sparsifier.step()
    model.eval()
    inputs = torch.randn(3, 6)
    outputs, before = model(inputs), everything_of(model)
    broken.fails = True
    with pytest.raises(RuntimeError, match="no weight"):
        detach(model)
    broken.fails = False
    assert_unchanged(model, before, inputs, outputs)
    detach(model)
    assert torch.equal(model(inputs), outputs)


@pytest.mark.device("cpu")
@pytest.mark.parametrize("mode", ["in_place", "parametrize"])
@pytest.mark.parametrize("at", [0, 1])
def test_where_one_sparsifier_is_refused_the_other_stays_attached(at, mode):
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    overlapping(model[at])
    sparsifiers = half(), half()
    for name, sparsifier in zip(("0.weight", "1.weight"), sparsifiers, strict=True):
        attach(model, sparsifier, include=name, mode=mode)
        sparsifier.step()
    inputs = torch.randn(3, 6)
    outputs, before = model(inputs), everything_of(model)
    with pytest.raises(ValueError, match=rf"of '{at}\.weight'"):
        detach(model)
    assert_unchanged(model, before, inputs, outputs)
    for name, sparsifier in zip(("0.weight", "1.weight"), sparsifiers, strict=True):
        assert sparsifier.active([name]) == [name]
