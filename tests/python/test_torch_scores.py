"""Scores of models: gradients that torch keeps, scores on batches, what reaches the layers."""

import copy
import random
import warnings
from dataclasses import dataclass

import datasparse
import numpy as np
import pytest
import reference
import torch
from datasparse.scores import (
    SNIP,
    Fisher,
    Gradient,
    GradientScore,
    GraSP,
    Magnitude,
    Movement,
    Random,
    SynFlow,
    Taylor,
    Wanda,
)
from datasparse.torch import attach, detach, prune_at_init, score_once
from support import HALF, ON_DEVICES, as_numpy, values
from torch import nn
from torch.nn.utils import parametrizations

pytestmark = ON_DEVICES


def mse(model, batch):
    inputs, targets = batch
    return (model(inputs) - targets).square().mean()


def batches(count, features=6, outputs=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(7)
    return [
        (torch.randn(5, features, generator=generator, dtype=dtype),
         torch.randn(5, outputs, generator=generator, dtype=dtype))
        for _ in range(count)
    ]  # fmt: skip


def mlp(seed=1, dtype=torch.float32):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


WEIGHTS = ("0.weight", "2.weight")
_held = []


@pytest.fixture(autouse=True)
def let_go():
    yield
    _held.clear()


def held(model):
    """For the length of a test: attachments refer to models weakly."""
    _held.append(model)
    return model


def scores_of(attachment):
    return {
        name: as_numpy(attachment.sparsifier.get_array(name, "scores")) for name in attachment.names
    }


def mean_gradients(model, some):
    """By backward() of each batch, on a copy."""
    model = copy.deepcopy(model)
    for batch in some:
        (mse(model, batch) / len(some)).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


# --- gradients that torch keeps -------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["in_place", "parametrize"])
def test_the_gradients_of_a_model_are_found(mode):
    model = mlp()
    attachment = attach(model, score=SNIP(), mode=mode, **HALF)
    sparsifier = attachment.sparsifier
    message = r"gradient of '0.weight' is missing: call backward\(\) of a loss"
    with pytest.raises(ValueError, match=message):
        sparsifier.step()
    mse(model, batches(1)[0]).backward()
    sparsifier.step()
    for name, gradient in mean_gradients(mlp(), batches(1)).items():
        if name in WEIGHTS:
            expected = (dict(mlp().named_parameters())[name] * gradient).detach().numpy()
            np.testing.assert_array_equal(
                as_numpy(sparsifier.get_mask(name)), reference.mask(expected, 0.5, (1, 1))
            )
    handed = torch.ones(8, 6)
    sparsifier.set_gradients({"0.weight": handed})
    assert torch.equal(sparsifier.get_gradient("0.weight"), handed)
    detach(model)


@pytest.mark.parametrize("kind", ["parameter", "tensor", "embedding"])
def test_gradients_of_what_add_data_takes(kind):
    torch.manual_seed(0)
    data = {
        "parameter": lambda: nn.Parameter(torch.randn(6, 4)),
        "tensor": lambda: torch.randn(6, 4, requires_grad=True),
        "embedding": lambda: nn.Embedding(6, 4),
    }[kind]()
    weight = data.weight if kind == "embedding" else data
    sparsifier = datasparse.DataNormSparsifier({"w": data}, score=Gradient(), **HALF)
    weight.pow(3).sum().backward()
    sparsifier.step()
    expected = reference.mask(3 * weight.detach().numpy() ** 2, 0.5, (1, 1))
    np.testing.assert_array_equal(as_numpy(sparsifier.get_mask("w")), expected)


@pytest.mark.device("cpu", "cuda")
def test_what_has_no_gradient_of_its_own_is_refused_by_name():
    computed = torch.ones(4, 4, requires_grad=True) * 2
    sparsifier = datasparse.DataNormSparsifier({"w": computed}, score=SNIP(), **HALF)
    with pytest.raises(ValueError, match="data of 'w' must be a leaf to have a gradient"):
        sparsifier.step()
    table = nn.Embedding(4, 4, sparse=True)
    table(torch.tensor([1])).sum().backward()
    sparsifier = datasparse.DataNormSparsifier({"w": table}, score=SNIP(), **HALF)
    with pytest.raises(TypeError, match="gradient of 'w' must be a dense"):
        sparsifier.step()


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm"])
def test_a_weight_that_is_made_of_others_needs_its_own_gradient(norm):
    torch.manual_seed(0)
    layer = getattr(parametrizations, norm)(nn.Linear(6, 8))
    model = nn.Sequential(layer)
    sparsifier = attach(model, score=SNIP(), **HALF).sparsifier
    model(torch.ones(2, 6)).sum().backward()
    with pytest.raises(
        ValueError, match=f"'0.weight' is made by {norm}, and torch keeps .*its own"
    ):
        sparsifier.step()
    with pytest.raises(ValueError, match=f"'0.weight' is made by {norm}, and torch keeps"):
        score_once(model, SNIP(), batches(1), mse)
    gradient = torch.from_numpy(values(3, (8, 6)))
    sparsifier.set_gradients({"0.weight": gradient})
    sparsifier.step()
    weight = layer.weight if norm == "weight_norm" else layer.parametrizations.weight.original
    expected = reference.mask((weight * gradient).detach().numpy(), 0.5, (1, 1))
    np.testing.assert_array_equal(as_numpy(sparsifier.get_mask("0.weight")), expected)


def test_movement_in_a_training_by_hand():
    model, sums = mlp(), {}
    attachment = attach(model, score=Movement(), **HALF)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in batches(4):
        optimizer.zero_grad()
        mse(model, batch).backward()
        attachment.sparsifier.accumulate()
        for name in WEIGHTS:
            weight = dict(model.named_parameters())[name]
            sums[name] = sums.get(name, 0) - (weight * weight.grad).detach().numpy()
        optimizer.step()
    attachment.sparsifier.step()
    for name in WEIGHTS:
        np.testing.assert_array_equal(
            as_numpy(attachment.sparsifier.get_mask(name)),
            reference.mask(sums[name], 0.5, (1, 1), None, None),
        )
    twin = copy.deepcopy((model, attachment))[1]
    assert twin.sparsifier.score == Movement()
    assert twin.sparsifier.state_dict() == attachment.sparsifier.state_dict()


def test_attach_makes_the_sparsifier_of_its_arguments():
    attachment = attach(
        held(mlp()), score=Random(3), sparsity_level=0.75, sparse_block_shape=(1, 2)
    )
    assert attachment.sparsifier.score == Random(3)
    assert attachment.sparsifier.data_groups["0.weight"]["sparsity_level"] == 0.75
    assert attachment.sparsifier.defaults["sparse_block_shape"] == (1, 2)
    attach(held(mlp()), distribution="erk", **HALF).sparsifier.step()
    own = datasparse.DataNormSparsifier()
    with pytest.raises(TypeError, match="score must go to the sparsifier that is given"):
        attach(held(mlp()), own, score=Random())
    assert not own.data_groups


# --- scores on batches ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Cubed(GradientScore):
    def sample(self, weight, gradient):
        return (weight * gradient).abs() ** 3


@pytest.mark.parametrize("mode", ["in_place", "parametrize"])
@pytest.mark.parametrize(
    ("score", "sample"),
    [
        (SNIP(), lambda w, g: (w * g).abs()),
        (Gradient(), lambda w, g: g.abs()),
        (Cubed(), lambda w, g: (w * g).abs() ** 3),
    ],
    ids=["SNIP", "Gradient", "Cubed"],
)
def test_scores_of_the_mean_gradient(score, sample, mode):
    model = mlp()
    expected = {
        name: sample(dict(model.named_parameters())[name], gradient).detach().numpy()
        for name, gradient in mean_gradients(model, batches(3)).items()
        if name in WEIGHTS
    }
    attachment = attach(model, score=score, mode=mode, **HALF)
    score_once(model, score, iter(batches(3)), mse)
    for name, scores in scores_of(attachment).items():
        np.testing.assert_allclose(scores, expected[name], rtol=1e-4, atol=1e-8)
        before = attachment.sparsifier.score_bytes
    assert before == 4 * (48 + 24)
    kept = scores_of(attachment)
    attachment.sparsifier.step()
    for name in WEIGHTS:
        np.testing.assert_array_equal(
            as_numpy(attachment.sparsifier.get_mask(name)), reference.mask(kept[name], 0.5, (1, 1))
        )
    assert attachment.sparsifier.score_bytes == 0
    with pytest.raises(ValueError, match=r"gradient of '0.weight' is missing"):
        attachment.sparsifier.step()
    detach(model)


@pytest.mark.parametrize("decay", [1.0, 0.5])
@pytest.mark.parametrize("kind", [Taylor, Fisher, Movement])
def test_scores_of_samples(kind, decay):
    score = kind(decay=decay)
    model = mlp()
    sums = {}
    for batch in batches(3):
        for name, gradient in mean_gradients(model, [batch]).items():
            w = dict(model.named_parameters())[name].detach()
            sample = {
                Taylor: (w * gradient) ** 2,
                Fisher: gradient**2,
                Movement: -w * gradient,
            }
            sums[name] = decay * sums.get(name, 0) + sample[kind]
    attachment = attach(model, score=score, **HALF)
    score_once(attachment, score, batches(3), mse)
    for name, scores in scores_of(attachment).items():
        w = dict(model.named_parameters())[name].detach()
        halves = 2 * (1 + decay + decay**2)
        expected = sums[name] * w**2 / halves if kind is Fisher else sums[name]
        np.testing.assert_allclose(scores, expected.numpy(), rtol=1e-4, atol=1e-9)


def test_a_count_that_is_none_is_never_counted_on():
    model = mlp()
    sparsifier = attach(model, score=Taylor(), **HALF).sparsifier
    [batch] = batches(1)
    mse(model, batch).backward()
    for name in WEIGHTS:
        sparsifier.set_array(name, "samples", np.zeros(1, np.uint8))
    sparsifier.accumulate()  # there are no sums yet: they begin anew
    assert [sparsifier.get_array(name, "samples") for name in WEIGHTS] == [1, 1]
    before = scores_of_sums(sparsifier)
    sparsifier.set_array(WEIGHTS[1], "samples", np.zeros(1, np.uint8))
    with pytest.raises(ValueError, match=rf"of '{WEIGHTS[1]}' .*: call reset_score\(\) first"):
        sparsifier.accumulate()
    assert scores_of_sums(sparsifier) == before


def scores_of_sums(sparsifier):
    return [as_numpy(sparsifier.get_array(name, "sums")).tolist() for name in WEIGHTS]


def test_grasp_is_the_weight_times_the_hessian_times_the_gradient():
    model = mlp(dtype=torch.float64)
    some = batches(2, dtype=torch.float64)
    names = [name for name, _ in model.named_parameters() if name in WEIGHTS]
    others = dict(model.named_parameters())

    def loss(*weights):
        tensors = {**others, **dict(zip(names, weights, strict=True))}
        total = 0
        for inputs, targets in some:
            output = torch.func.functional_call(model, tensors, (inputs,))
            total = total + (output - targets).square().mean() / len(some)
        return total

    weights = tuple(others[name].detach().requires_grad_() for name in names)
    gradients = torch.autograd.grad(loss(*weights), weights)
    hessian = torch.autograd.functional.hessian(loss, weights)
    attachment = attach(model, score=GraSP(), **HALF)
    score_once(model, GraSP(), iter(some), mse)
    for i, name in enumerate(names):
        product = sum(
            torch.tensordot(hessian[i][j], gradients[j], weights[j].ndim) for j in range(2)
        )
        expected = (weights[i] * product).detach().numpy()
        scores = scores_of(attachment)[name]
        np.testing.assert_allclose(scores, expected, rtol=1e-9, atol=1e-15)
    attachment.sparsifier.step()
    np.testing.assert_array_equal(
        as_numpy(attachment.sparsifier.get_mask(name)),
        reference.mask(scores, 0.5, (1, 1), None, None),
    )


@pytest.mark.parametrize("generator", [random, np.random], ids=["Python", "NumPy"])
def test_grasp_draws_the_same_for_the_mean_and_for_the_product(generator):
    def scored(draw):
        attachment = attach(held(mlp()), score=GraSP(), **HALF)
        score_once(attachment, GraSP(), batches(2), lambda m, b: draw() * mse(m, b))
        return scores_of(attachment)

    generator.seed(3)
    found = scored(generator.random)
    factors = [generator.random() for _ in range(2)]
    wanted = scored(iter(factors * 2).__next__)
    for name, scores in found.items():
        np.testing.assert_array_equal(scores, wanted[name])


@pytest.mark.parametrize("score", [SNIP(), SynFlow()], ids=repr)
def test_nothing_to_score_is_refused(score):
    attachment = attach(held(mlp()), score=score, update=False, **HALF)
    with pytest.raises(ValueError, match="no attached weight is left whose mask a step renews"):
        score_once(attachment, score, batches(1), mse)


def plain_synflow(weights, biases, rounds, level, with_biases):
    """Matrices of magnitudes, masks by one threshold for all; the scores of the last round."""
    weights = [np.abs(w).astype(np.float64) for w in weights]
    biases = [np.abs(b).astype(np.float64) * with_biases for b in biases]
    masks = [np.ones_like(w) for w in weights]
    for k in range(1, rounds + 1):
        masked = [w * m for w, m in zip(weights, masks, strict=True)]
        into = [np.ones(weights[0].shape[1])]
        for w, b in zip(masked, biases, strict=True):
            into.append(w @ into[-1] + b)
        out = [np.ones(weights[-1].shape[0])]
        for w in reversed(masked[1:]):
            out.insert(0, out[0] @ w)
        scores = [w * np.outer(o, i) for w, o, i in zip(masked, out, into[:-1], strict=True)]
        together = np.sort(np.concatenate([s.ravel() for s in scores]))
        pruned = round((1 - (1 - level) ** (k / rounds)) * len(together))
        masks = [(s >= together[pruned]).astype(float) for s in scores]
    return scores, masks


@pytest.mark.parametrize("rounds", [1, 2, 7])
@pytest.mark.parametrize("with_biases", [True, False])
def test_synaptic_flow_is_that_of_matrices_of_magnitudes(rounds, with_biases):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 2))
    layers = [model[0], model[2], model[4]]
    expected, masks = plain_synflow(
        [layer.weight.detach().numpy() for layer in layers],
        [layer.bias.detach().numpy() for layer in layers],
        rounds, 0.8, with_biases,
    )  # fmt: skip
    score = SynFlow(rounds=rounds, dtype="float64", biases=with_biases)
    attachment = attach(
        model, score=score, sparsity_level=0.8, sparse_block_shape=(1, 1), pool="all"
    )
    score_once(model, score, [(torch.randn(4, 6), None)])
    for scores, its in zip(scores_of(attachment).values(), expected, strict=True):
        assert scores.dtype == np.float64
        np.testing.assert_allclose(scores, its, rtol=1e-9, atol=1e-12)
    attachment.sparsifier.step()
    for name, mask in zip(attachment.names, masks, strict=True):
        np.testing.assert_array_equal(as_numpy(attachment.sparsifier.get_mask(name)), mask != 0)


def test_synaptic_flow_goes_in_rounds_by_patterns_too():
    """2:4 at the level 1, and two of four elements of half the blocks at 0.5, say the same as
    levels of elements: of one round and of many the masks differ."""
    masks = {}
    for rounds in (1, 100):
        torch.manual_seed(3)
        model = nn.Sequential(*(nn.Linear(16, 16, bias=False) for _ in range(3)))
        score = SynFlow(rounds=rounds)
        attachment = attach(
            model, score=score, sparsity_level=1.0, sparse_block_shape=(1, 4), zeros_per_block=2
        )
        score_once(model, score, [torch.randn(1, 16)])
        attachment.sparsifier.step()
        masks[rounds] = [
            as_numpy(attachment.sparsifier.get_mask(name)) for name in attachment.names
        ]
        for mask in masks[rounds]:
            assert (mask.reshape(16, 4, 4).sum(-1) == 2).all()
    assert any((one != many).any() for one, many in zip(*masks.values(), strict=True))


def test_synaptic_flow_names_a_buffer_that_is_not_finite():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 2))
    model[0].register_buffer("causal", torch.tensor([0.0, -torch.inf]))
    attach(model, score=SynFlow(), **HALF)
    with pytest.raises(ValueError, match=r"'0\.causal' must be finite for SynFlow"):
        score_once(model, SynFlow(), [torch.ones(1, 6)])


def deep(seed, biases=False):
    torch.manual_seed(seed)
    widths = [64, *[128, 32] * 10]
    layers = []
    for i in range(20):
        layers += [nn.Linear(widths[i], widths[i + 1], bias=biases), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize(
    ("score", "lives"),
    [(None, False), (SNIP(), False), (SynFlow(), True), (SynFlow(biases=False), True)],
    ids=repr,
)
@pytest.mark.filterwarnings("ignore:step\\(\\) pruned all weights:UserWarning")
def test_synaptic_flow_keeps_twenty_layers_alive_at_98_percent(score, lives, threads):
    threads(1)  # a hundred small steps
    model = deep(0, biases=isinstance(score, SynFlow) and not score.biases)
    attachment = attach(
        model, score=score, sparsity_level=0.98, sparse_block_shape=(1, 1), pool="all"
    )
    inputs = torch.randn(32, 64, generator=torch.Generator().manual_seed(1))
    prune_at_init(model, [inputs], lambda model, x: model(x).square().mean())
    kept = [int(attachment.sparsifier.get_mask(name).sum()) for name in attachment.names]
    weights = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim == 2)
    assert sum(kept) == weights - round(0.98 * weights)
    assert (min(kept) > 0) == lives
    if lives:
        assert bool(model(inputs).any())


def test_synaptic_flow_goes_over_to_float64_where_float32_overflows():
    model = deep(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(100)
    for score in (SynFlow(rounds=2), SynFlow(rounds=2, dtype="float32")):
        attachment = attach(held(copy.deepcopy(model)), score=score, **HALF)
        if score.dtype is None:
            score_once(attachment, score, [torch.ones(1, 64)])
            assert scores_of(attachment)["0.weight"].dtype == np.float64
        else:
            with pytest.raises(ValueError, match="beyond float32: pass dtype=None"):
                score_once(attachment, score, [torch.ones(1, 64)])
    small = attach(held(mlp()), score=SynFlow(rounds=2), **HALF)
    score_once(small, SynFlow(rounds=2), [torch.ones(1, 6)])
    assert scores_of(small)["0.weight"].dtype == np.float32


SHAPES = {
    "blocks": {"sparsity_level": 0.5, "sparse_block_shape": (2, 4)},
    "2:4": {"sparsity_level": 1.0, "sparse_block_shape": (1, 4), "zeros_per_block": 2},
    "a pool": {"sparsity_level": 0.5, "sparse_block_shape": (1, 1), "pool": "all", "min_kept": 2},
}
BATCHED = [SNIP(), Gradient(), Taylor(), Fisher(), Movement(), GraSP(), SynFlow(rounds=3)]


def normed():
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(32, 4),
    )  # fmt: skip


def images(count):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(4, 2, 4, 4, generator=generator) for _ in range(count)]


def energy(model, batch):
    return model(batch).square().mean()


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("score", BATCHED, ids=repr)
def test_any_pattern_of_a_convolutional_model(score, config):
    model = normed()
    attachment = attach(model, score=score, **config)
    score_once(attachment, score, images(2), energy)
    kept = scores_of(attachment)
    attachment.sparsifier.step()
    if "pool" in config:
        masks = [attachment.sparsifier.get_mask(name) for name in attachment.names]
        assert sum(int(mask.sum()) for mask in masks) == (144 + 128) // 2
        return
    scores = kept["0.weight"].transpose(0, 2, 3, 1)
    rule = config["sparsity_level"], config["sparse_block_shape"], config.get("zeros_per_block")
    expected = reference.mask(scores, *rule, None if score.signed else "L1")
    np.testing.assert_array_equal(
        as_numpy(attachment.sparsifier.get_mask("0.weight")), expected.transpose(0, 3, 1, 2)
    )


def everything(model):
    """What must be as it was, as values that compare."""
    return (
        {name: (id(t), t.tolist()) for name, t in model.state_dict(keep_vars=True).items()},
        [(id(p.grad), None if p.grad is None else p.grad.tolist()) for p in model.parameters()],
        [module.training for module in model.modules()],
        torch.get_rng_state().tolist(),
        str(np.random.get_state()),
        random.getstate(),
    )  # fmt: skip


@pytest.mark.parametrize("score", BATCHED, ids=repr)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(score, training, fails):
    model = normed().train(training)
    energy(model, images(1)[0]).backward()
    attachment = attach(model, score=score, **HALF)
    calls = []

    def loss(model, batch):
        np.random.random(), random.random()
        energy(model, batch).backward()  # of no business here
        calls.append(model.training)
        if fails and len(calls) == 2:
            raise ZeroDivisionError
        return energy(model, batch)

    before = everything(model)
    if fails and not isinstance(score, SynFlow):
        with pytest.raises(ZeroDivisionError):
            score_once(model, score, images(2), loss)
        assert set(map(type, scores_of(attachment).values())) == {type(None)}
    else:
        score_once(model, score, images(2), loss)
    assert everything(model) == before
    assert set(calls) <= {training}


def test_scores_wait_in_saved_states_and_are_dropped_by_reset():
    attachment = attach(held(mlp()), score=SNIP(), **HALF)
    score_once(attachment, SNIP(), batches(2), mse)
    state = attachment.sparsifier.state_dict()
    attachment.sparsifier.reset_score()
    assert attachment.sparsifier.score_bytes == 0
    resumed = attach(held(mlp()), score=SNIP(), **HALF)
    resumed.sparsifier.load_state_dict(state)
    attachment.sparsifier.load_state_dict(state)
    for sparsifier in (attachment.sparsifier, resumed.sparsifier):
        sparsifier.step()
    assert resumed.sparsifier.state_dict() == attachment.sparsifier.state_dict()


@pytest.mark.device("cpu", "cuda")
def test_a_model_that_is_wrapped_and_frozen_masks():
    model = mlp()
    attachment = attach(nn.DataParallel(model), score=SNIP(), include="0.*", **HALF)
    attach(model, attachment.sparsifier, include="2.*", update=False)
    seen = []
    score_once(nn.DataParallel(model), SNIP(), batches(1), lambda m, b: seen.append(m) or mse(m, b))
    assert isinstance(seen[0], nn.DataParallel)
    assert attachment.sparsifier.get_array("0.weight", "scores") is not None
    assert attachment.sparsifier.get_array("2.weight", "scores") is None


@pytest.mark.parametrize("mode", ["in_place", "parametrize"])
@pytest.mark.parametrize("gone", ["remove_data", "squash_mask"])
def test_a_model_is_scored_without_what_was_removed_or_squashed(mode, gone):
    model = mlp()
    sparsifier = attach(model, score=SNIP(), mode=mode, **HALF).sparsifier
    first, *others = sparsifier.data_groups
    getattr(sparsifier, gone)(first)
    score_once(model, SNIP(), batches(1), mse)
    assert all(sparsifier.get_array(name, "scores") is not None for name in others)


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x):
        return self.used(x)


def attached(score, model=None):
    return attach(held(mlp() if model is None else model), score=score, **HALF)


def at_rest():
    model = mlp()
    model[0].weight.requires_grad_(False)
    return model


def twice():
    model = mlp()
    attach(model, score=SNIP(), include="0.*")
    attach(model, score=SNIP(), include="2.*")
    return model


WRONG = {
    "nothing attached": (lambda: score_once(mlp(), SNIP(), batches(1), mse), ValueError, "nothing"),
    "two sparsifiers": (
        lambda: score_once(twice(), SNIP(), batches(1), mse),
        ValueError,
        "several",
    ),
    "no model": (lambda: score_once("x", SNIP(), batches(1), mse), TypeError, "model must be"),
    "another score": (
        lambda: score_once(attached(SNIP()), GraSP(), batches(1), mse),
        ValueError,
        r"score must be the sparsifier's own, SNIP\(\), got GraSP\(\)",
    ),
    "no score": (
        lambda: score_once(attached(None), SNIP(), batches(1), mse),
        ValueError,
        r"own, None, got SNIP\(\): make the sparsifier, .*with score=SNIP\(\)",
    ),
    "a name": (lambda: score_once(attached(SNIP()), "snip", [], mse), TypeError, "score must be"),
    "one of no batches": (
        lambda: score_once(attached(Wanda()), Wanda(), batches(1), mse),
        TypeError,
        r"Wanda\(\) is not scored on batches",
    ),
    "no batch": (
        lambda: score_once(attached(SNIP()), SNIP(), [], mse),
        ValueError,
        "batches must hold at least one",
    ),
    "no batch of flow": (
        lambda: score_once(attached(SynFlow()), SynFlow(), []),
        ValueError,
        "batches must hold at least one",
    ),
    "no loss": (
        lambda: score_once(attached(SNIP()), SNIP(), batches(1)),
        ValueError,
        r"loss must be given for SNIP\(\)",
    ),
    "a loss that is none": (
        lambda: score_once(attached(SNIP()), SNIP(), batches(1), 3),
        TypeError,
        "loss must be called with a model and a batch, got 3",
    ),
    "a loss of many": (
        lambda: score_once(attached(SNIP()), SNIP(), batches(1), lambda m, b: m(b[0])),
        ValueError,
        "loss must return a tensor of one element",
    ),
    "NaN": (
        lambda: score_once(attached(SNIP()), SNIP(), batches(1), lambda m, b: mse(m, b) * np.nan),
        ValueError,
        "scores of '0.weight' are not finite",
    ),
    "unused": (
        lambda: score_once(attached(SNIP(), Unused()), SNIP(), batches(1), mse),
        ValueError,
        "'unused.weight' gets no gradient from the loss",
    ),
    "unused by flow": (
        lambda: score_once(attached(SynFlow(), Unused()), SynFlow(), batches(1)),
        ValueError,
        "'unused.weight' is no part of the output",
    ),
    "not trained": (
        lambda: score_once(attached(SNIP(), at_rest()), SNIP(), batches(1), mse),
        ValueError,
        r"'0.weight' has no gradient: call its requires_grad_\(\)",
    ),
    "integers to flow": (
        lambda: score_once(attached(SynFlow()), SynFlow(), [torch.ones(2, 6, dtype=torch.int64)]),
        ValueError,
        "the first batch must be a tensor of floats",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_scored_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("mode", ["in_place", "parametrize"])
@pytest.mark.parametrize("score", [SNIP(), Magnitude(), Random(2), None], ids=repr)
def test_pruning_at_the_beginning_lasts_through_a_training(score, mode):
    model = mlp()
    attachment = attach(model, score=score, mode=mode, **HALF)
    prune_at_init(attachment, batches(2), mse)
    assert attachment.sparsity() == 0.5
    masks = {name: as_numpy(attachment.sparsifier.get_mask(name)).copy() for name in WEIGHTS}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    attachment.follow(optimizer)
    for batch in batches(3):
        optimizer.zero_grad()
        mse(model, batch).backward()
        optimizer.step()
    for name, mask in masks.items():
        np.testing.assert_array_equal(as_numpy(attachment.sparsifier.get_mask(name)), mask)
        layer = model[int(name[0])]
        np.testing.assert_array_equal(layer.weight.detach().numpy() != 0, mask)
    detach(model)


@pytest.mark.filterwarnings("error")
def test_pruning_at_the_beginning_is_whole_where_a_warning_is_an_error():
    model = mlp()
    sparsifier = attach(model, sparsity_level=0.99, sparse_block_shape=(1, 1)).sparsifier
    with pytest.raises(UserWarning, match="pruned all weights"):
        prune_at_init(model, [])
    assert int(model[0].weight.count_nonzero()) == 0
    assert not sparsifier.enable_mask_update


def test_no_warning_is_left(recwarn):
    warnings.simplefilter("error")
    attachment = attach(held(normed()), score=SynFlow(rounds=3), sparsity_level=0.9, pool="all")
    prune_at_init(attachment, images(1))
