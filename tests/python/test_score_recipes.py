"""Scores as recipes: what they compute, what they keep, and what is refused."""

import copy
import math
import pickle
from dataclasses import FrozenInstanceError, dataclass

import datasparse
import numpy as np
import pytest
import reference
import torch
from datasparse import scores
from datasparse.schedules import Linear
from datasparse.scores import (
    SNIP,
    AccumulatedScore,
    Fisher,
    Gradient,
    GradientScore,
    GraSP,
    Magnitude,
    Movement,
    Random,
    Score,
    SynFlow,
    Taylor,
    Wanda,
)
from support import HALF, LAYOUTS, OF_NUMPY_ALONE, ON_DEVICES, as_numpy, named, placed, values

pytestmark = ON_DEVICES

# Each of one sample, and of the sums of several, in float32 as it is written.
SAMPLE = {
    Gradient(): lambda w, g: np.abs(g),
    SNIP(): lambda w, g: np.abs(w * g),
    Taylor(): lambda w, g: (w * g) * (w * g),
    Movement(): lambda w, g: -(w * g),
    Fisher(): lambda w, g: g * g,
}
ACCUMULATED = [Taylor(), Movement(), Fisher()]


def from_sums(score, w, sums, samples):
    return np.float32(0.5 / samples) * ((w * w) * sums) if score == Fisher() else sums


def expected_scores(score, w, gradients):
    """One after another, as a list would be summed."""
    if score not in ACCUMULATED:
        return SAMPLE[score](w, gradients[-1])
    sums = np.zeros_like(w)
    for gradient in gradients:
        sums = sums + SAMPLE[score](w, gradient)
    return from_sums(score, w, sums, len(gradients))


def there(*arguments):
    return placed(values(*arguments))


def norm_of(score):
    return None if score.signed else "L1"


def sparsifier_of(score, data, **config):
    data = {name: placed(array) for name, array in data.items()}
    return datasparse.DataNormSparsifier(data, score=score, **{**HALF, **config})


@pytest.mark.parametrize("score", SAMPLE, ids=repr)
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"sparse_block_shape": (2, 3)},
        {"sparsity_level": 1.0, "sparse_block_shape": (1, 4), "zeros_per_block": 2},
    ],
    ids=["elements", "blocks", "2:4"],
)
def test_masks_and_sums_are_those_of_plain_loops(score, samples, config):
    w = values(1)
    gradients = [values(10 + i) for i in range(samples)]
    sparsifier = sparsifier_of(score, {"w": w}, **config)
    for gradient in gradients:
        sparsifier.set_gradients({"w": placed(gradient)})
        sparsifier.accumulate()
    if not score.accumulates:
        assert sparsifier.score_bytes == 0
    else:
        assert sparsifier.score_bytes == w.nbytes + 8
        sums = sum((SAMPLE[score](w, g) for g in gradients), np.zeros_like(w))
        np.testing.assert_array_equal(sparsifier.get_array("w", "sums"), sums)
        assert sparsifier.get_array("w", "samples") == samples
    sparsifier.step()
    expected = expected_scores(score, w, gradients)
    rule = {**HALF, **config}
    np.testing.assert_array_equal(
        sparsifier.get_mask("w"),
        reference.mask(
            expected, rule["sparsity_level"], rule["sparse_block_shape"],
            rule.get("zeros_per_block"), norm_of(score),
        ),
    )  # fmt: skip
    np.testing.assert_array_equal(w, values(1))


@pytest.mark.parametrize("score", ACCUMULATED, ids=repr)
def test_without_sums_one_sample_is_taken(score):
    w, g = values(1), values(2)
    one, summed = (sparsifier_of(score, {"w": w}) for _ in range(2))
    for sparsifier in (one, summed):
        sparsifier.set_gradients({"w": placed(g)})
    summed.accumulate()
    for sparsifier in (one, summed):
        sparsifier.step()
    np.testing.assert_array_equal(one.get_mask("w"), summed.get_mask("w"))
    assert one.score_bytes == 0


@pytest.mark.parametrize("decay", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("kind", [Taylor, Movement, Fisher])
def test_sums_decay(kind, decay):
    w = values(1)
    score, samples = kind(decay=decay), [SAMPLE[kind()](w, values(10 + i)) for i in range(4)]
    sparsifier = sparsifier_of(score, {"w": w})
    sums, total = np.zeros_like(w), 0.0
    for i, sample in enumerate(samples):
        sparsifier.set_gradients({"w": there(10 + i)})
        sparsifier.accumulate()
        sums, total = np.float32(decay) * sums + sample, decay * total + 1
    np.testing.assert_array_equal(sparsifier.get_array("w", "sums"), sums)
    assert sparsifier.get_array("w", "samples") == 4
    assert score.weight_of(4) == pytest.approx(total, rel=1e-12)
    # With Fisher's, a mean: that of samples which are all alike is one of them.
    ones = score.weight_of(4) * np.ones(3)
    expected = np.full(3, 2.0) if kind is Fisher else ones
    np.testing.assert_allclose(score.from_sums(np.full(3, 2.0), ones, 4), expected)


@pytest.mark.device("cpu")
def test_a_decay_is_part_of_a_score_and_named_where_it_is_not_one():
    faster, plain = Taylor(decay=0.5), Taylor(decay=1)
    assert (repr(faster), repr(plain)) == ("Taylor(decay=0.5)", "Taylor()")
    assert plain == Taylor() != faster
    assert repr(Taylor(decay=np.float64(0.5))) == repr(faster)
    assert repr(Lamp(3.0, decay=0)) == "Lamp(decay=0.0, power=3.0)"
    assert repr(Lamp(3.0)) == "Lamp(power=3.0)"


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_own_samples_decay_too(decay):
    w = values(1)
    sparsifier = sparsifier_of(Lamp(decay=decay), {"w": w})
    sums = np.zeros_like(w)
    for i in range(3):
        sparsifier.set_gradients({"w": there(10 + i)})
        sparsifier.accumulate()
        sums = np.float32(decay) * sums + np.abs(w - values(10 + i)) ** 2
    np.testing.assert_array_equal(sparsifier.get_array("w", "sums"), sums)


@pytest.mark.parametrize("score", SAMPLE, ids=repr)
@pytest.mark.parametrize("layout", named(LAYOUTS, OF_NUMPY_ALONE))
def test_any_strides_of_either(score, layout):
    w, g = values(1), values(2)
    for data, gradient in ((layout(w), g), (w, layout(g)), (layout(w), layout(g))):
        sparsifier = sparsifier_of(score, {"w": data})
        sparsifier.set_gradients({"w": placed(gradient)})
        sparsifier.accumulate()
        sparsifier.set_gradients({"w": placed(gradient)})
        sparsifier.step()
        expected = reference.mask(expected_scores(score, w, [g]), 0.5, (1, 1), None, norm_of(score))
        np.testing.assert_array_equal(sparsifier.get_mask("w"), expected)


DTYPES = {
    "float16": (torch.float16, np.float32),
    "bfloat16": (torch.bfloat16, np.float32),
    "float32": (torch.float32, np.float32),
    "float64": (torch.float64, np.float64),
}


@pytest.mark.parametrize("score", ACCUMULATED, ids=repr)
@pytest.mark.parametrize("of_gradient", DTYPES)
@pytest.mark.parametrize("of_weight", DTYPES)
def test_sums_are_in_float32_but_for_float64(score, of_weight, of_gradient):
    w = torch.from_numpy(values(1)).to(DTYPES[of_weight][0])
    g = torch.from_numpy(values(2)).to(DTYPES[of_gradient][0])
    wide = DTYPES[of_weight][1]
    sparsifier = sparsifier_of(score, {"w": w})
    for _ in range(2):
        sparsifier.set_gradients({"w": placed(g)})
        sparsifier.accumulate()
    own, its = (tensor.double().numpy().astype(wide) for tensor in (w, g))
    sample = SAMPLE[score](own, its)
    sums = as_numpy(sparsifier.get_array("w", "sums"))
    assert sums.dtype == wide
    np.testing.assert_array_equal(sums, sample + sample)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 1), (0, 4), (5, 3, 3, 2), (1, 70001)])
def test_any_shape(shape, threads):
    threads(2)
    w, g = values(1, shape), values(2, shape)
    sparsifier = sparsifier_of(Taylor(), {"w": w}, sparsity_level=0.25)
    sparsifier.set_gradients({"w": placed(g)})
    sparsifier.accumulate()
    np.testing.assert_array_equal(sparsifier.get_array("w", "sums"), (w * g) * (w * g))
    sparsifier.step()


def test_large_arrays_are_summed_by_several_threads_to_the_same_bits(threads):
    w, g = values(1, (700, 1000)), values(2, (700, 1000))
    made = []
    for number in (1, 2):
        threads(number)
        for data, gradient in ((w, g), (np.asfortranarray(w), g)):
            sparsifier = sparsifier_of(Movement(), {"w": data})
            for _ in range(2):
                sparsifier.set_gradients({"w": placed(gradient)})
                sparsifier.accumulate()
            made.append(sparsifier.get_array("w", "sums"))
    for sums in made:
        np.testing.assert_array_equal(sums, -(w * g) - (w * g))


def test_pools_layouts_and_schedules_go_with_them():
    data = {"a": values(1), "b": 3 * values(2)}
    gradients = {"a": there(3), "b": there(4)}
    sparsifier = sparsifier_of(Taylor(), data, pool="all")
    sparsifier.add_data("a", placed(data["a"]), layout=(1, 0))
    scheduler = datasparse.DataScheduler(sparsifier, "sparsity_level", Linear(final=0.8, end=2))
    planned = scheduler.plan(3)
    for step in range(3):
        sparsifier.set_gradients(gradients)
        sparsifier.accumulate()
        sparsifier.step()
        zeros = sum(int((~sparsifier.get_mask(name)).sum()) for name in data)
        assert zeros == planned.pool_zeros_least["all"][step]
        scheduler.step()
    together = np.concatenate([((data[n] * as_numpy(gradients[n])) ** 2).ravel() for n in data])
    kept = np.concatenate([as_numpy(sparsifier.get_mask(name)).ravel() for name in data])
    assert kept.sum() == len(kept) - round(0.8 * len(kept))
    assert together[kept].min() >= together[~kept].max()


def test_magnitude_is_what_no_score_is():
    w = values(1)
    for norm in ("L1", "L2", None):
        own = sparsifier_of(Magnitude(), {"w": w}, norm=norm)
        plain = datasparse.DataNormSparsifier({"w": placed(w)}, **HALF, norm=norm)
        for sparsifier in (own, plain):
            sparsifier.step()
        np.testing.assert_array_equal(own.get_mask("w"), plain.get_mask("w"))


# --- random ---------------------------------------------------------------------------------------


def test_random_is_a_function_of_seed_name_and_shape():
    def mask(score, name="w", data=None):
        sparsifier = sparsifier_of(score, {name: values(1) if data is None else data})
        sparsifier.step()
        return as_numpy(sparsifier.get_mask(name)).tobytes()

    first = mask(Random(3))
    assert first == mask(Random(3), data=torch.from_numpy(values(7)).bfloat16())
    assert len({first, mask(Random(4)), mask(Random(3), "v")}) == 3


@pytest.mark.device("cpu")
def test_random_has_the_same_bits_everywhere():
    """Written down once; NumPy promises the bits of its bit generators for ever."""
    made = Random(7).get_scores(None, "layer.weight", np.zeros((2, 2)))
    assert made.tolist() == RANDOM_OF_7


RANDOM_OF_7 = [[0.8127404885628504, 0.2864212525198997], [0.592159116345738, 0.6882008267329965]]


def test_masks_of_random_scores_are_nested_and_even():
    sparsifier = sparsifier_of(Random(), {"w": values(1, (100, 100))})
    before = np.ones((100, 100), bool)
    for level in (0.2, 0.5, 0.9):
        sparsifier.data_groups["w"]["sparsity_level"] = level
        sparsifier.step()
        mask = as_numpy(sparsifier.get_mask("w")).copy()
        assert not (mask & ~before).any()
        assert mask.sum() == 10000 - round(level * 10000)
        before = mask
    assert 0 < before.sum(1).min() <= 10 <= before.sum(1).max() < 30


# --- Wanda, by hand -------------------------------------------------------------------------------


def test_wanda_ranks_by_magnitudes_and_norms_of_inputs():
    w = values(1)
    squares = np.random.default_rng(5).random((1, 16))
    sparsifier = sparsifier_of(
        Wanda(), {"w": w}, sparsity_level=1.0, sparse_block_shape=(1, -1), zeros_per_block=6
    )
    sparsifier.set_array("w", "inputs", squares)
    assert sparsifier.score_bytes == 16 * 8
    sparsifier.step()
    ranked = np.abs(w * np.sqrt(squares).astype(np.float32))
    np.testing.assert_array_equal(sparsifier.get_mask("w"), reference.mask(ranked, 1.0, (1, -1), 6))
    sparsifier.reset_score()
    assert sparsifier.score_bytes == 0
    with pytest.raises(ValueError, match=r"Wanda\(\) has seen no inputs of 'w'"):
        sparsifier.step()
    sparsifier.set_array("w", "inputs", np.ones((1, 5)))
    with pytest.raises(ValueError, match=r"inputs of 'w' must broadcast to .* got \(1, 5\)"):
        sparsifier.step()


# --- scores of one's own --------------------------------------------------------------------------


@dataclass(frozen=True)
class Lamp(AccumulatedScore):
    """Its own sums, with a field."""

    power: float = 2.0

    def sample(self, weight, gradient):
        return abs(weight - gradient) ** self.power


@dataclass(frozen=True)
class Louder(Taylor):
    """Of one that the core sums up by itself."""

    def sample(self, weight, gradient):
        return 2 * gradient


@dataclass(frozen=True)
class Alternating(Score):
    def get_scores(self, sparsifier, name, data):
        return placed(np.arange(math.prod(data.shape), dtype=np.float32).reshape(data.shape) % 2)


def test_a_new_score_is_a_class_of_a_few_lines(wrap):
    w, g = values(1), values(2)
    for score, sample in ((Lamp(3.0), np.abs(w - g) ** 3), (Louder(), 2 * g)):
        sparsifier = sparsifier_of(score, {"w": wrap(w)}, norm="L1")
        for _ in range(2):
            sparsifier.set_gradients({"w": wrap(g)})
            sparsifier.accumulate()
        sums = sparsifier.get_array("w", "sums")
        np.testing.assert_allclose(sums, 2 * sample, rtol=1e-6)
        sparsifier.step()
        np.testing.assert_array_equal(
            as_numpy(sparsifier.get_mask("w")), reference.mask(sums, 0.5, (1, 1))
        )
    sparsifier = sparsifier_of(Alternating(), {"w": w})
    sparsifier.step()
    assert sparsifier.get_mask("w").reshape(-1).tolist() == [False, True] * 96
    scores_of_w = sparsifier.get_scores("w", sparsifier.get_data("w"))
    np.testing.assert_array_equal(scores_of_w.reshape(-1), np.arange(192) % 2)


def test_a_sample_that_raises_adds_nothing():
    @dataclass(frozen=True)
    class Fails(AccumulatedScore):
        def sample(self, weight, gradient):
            if gradient[0] > 5:
                raise ZeroDivisionError
            return gradient

    sparsifier = sparsifier_of(Fails(), {"a": np.ones(3), "b": np.ones(3)})
    sparsifier.set_gradients({"a": placed(np.ones(3)), "b": placed(np.ones(3))})
    sparsifier.accumulate()
    before = sparsifier.state_dict()
    sparsifier.set_gradients({"a": placed(np.ones(3)), "b": placed(np.full(3, 6.0))})
    with pytest.raises(ZeroDivisionError):
        sparsifier.accumulate()
    assert sparsifier.state_dict() == before


# --- recipes --------------------------------------------------------------------------------------

ALL = [
    Magnitude(), Gradient(), Taylor(), Movement(), Fisher(), SNIP(), GraSP(), SynFlow(),
    SynFlow(rounds=3, dtype="float64", biases=False), Random(5), Wanda(), Lamp(0.5),
    Taylor(decay=0.9), Lamp(0.5, decay=0.9),
]  # fmt: skip


@pytest.mark.device("cpu")
@pytest.mark.parametrize("score", ALL, ids=repr)
def test_recipes_compare_hash_copy_print_and_never_change(score):
    twin = pickle.loads(pickle.dumps(score))
    assert twin == score == copy.deepcopy(score)
    assert hash(twin) == hash(score)
    assert eval(repr(score), {**vars(scores), "Lamp": Lamp}) == score
    assert [other for other in ALL if other == score] == [score]
    with pytest.raises(FrozenInstanceError):
        score.anything = 1


@pytest.mark.parametrize("score", ALL, ids=repr)
def test_copies_and_states_have_the_score(score, tmp_path):
    sparsifier = sparsifier_of(score, {"w": values(1)})
    assert sparsifier.score is score
    for copied in (copy.deepcopy(sparsifier), pickle.loads(pickle.dumps(sparsifier))):
        assert copied.score == score
        assert copied.state_dict() == sparsifier.state_dict()
    state = sparsifier.state_dict()
    assert state["score"] == repr(score)
    datasparse.save(tmp_path / "file", sparsifier)
    same = sparsifier_of(score, {"w": values(1)})
    same.load_state_dict(state)
    datasparse.load(tmp_path / "file", same)
    for other in (Random(99), None):
        wrong = sparsifier_of(other, {"w": values(1)}, norm=norm_of(score))
        before = wrong.state_dict()
        message = f"score of the state must be that of the sparsifier, {other and 'Random'}"
        if other is None:
            message = "score of the state must be that of the sparsifier, none"
        with pytest.raises(ValueError, match=message):
            wrong.load_state_dict(state)
        with pytest.raises(ValueError, match=message):
            datasparse.load(tmp_path / "file", wrong)
        assert wrong.state_dict() == before


def test_a_state_without_a_score_looks_as_ever_and_loads_into_any():
    plain = datasparse.DataNormSparsifier({"w": there(1)}, **HALF)
    plain.step()
    state = plain.state_dict()
    assert "score" not in state
    sparsifier = sparsifier_of(Taylor(), {"w": values(1)})
    sparsifier.load_state_dict(state)
    np.testing.assert_array_equal(sparsifier.get_mask("w"), plain.get_mask("w"))


def test_sums_are_saved_and_go_on_to_the_bit(tmp_path):
    w = values(1)

    def train(sparsifier, steps):
        for step in steps:
            sparsifier.set_gradients({"w": there(step)})
            sparsifier.accumulate()

    for resume in ("state", "file", "deepcopy", "pickle"):
        whole, first = (sparsifier_of(Movement(), {"w": w}) for _ in range(2))
        train(whole, range(6))
        train(first, range(3))
        second = sparsifier_of(Movement(), {"w": w})
        if resume == "state":
            second.load_state_dict(first.state_dict())
        elif resume == "file":
            datasparse.save(tmp_path / "file", first)
            datasparse.load(tmp_path / "file", second)
        else:
            copied = (
                copy.deepcopy if resume == "deepcopy" else lambda s: pickle.loads(pickle.dumps(s))
            )
            second = copied(first)
        train(second, range(3, 6))
        for sparsifier in (whole, second):
            sparsifier.step()
        assert second.state_dict() == whole.state_dict()


def test_what_is_read_or_saved_stays_while_sums_go_on():
    sparsifier = sparsifier_of(Movement(), {"w": values(1)})
    sparsifier.set_gradients({"w": there(2)})
    sparsifier.accumulate()
    view, state = sparsifier.get_array("w", "sums"), sparsifier.state_dict()
    kept, saved = copy.deepcopy((view, state))
    sparsifier.set_gradients({"w": there(3)})
    sparsifier.accumulate()
    np.testing.assert_array_equal(view, kept)
    assert state == saved


def test_what_a_score_is_used_with():
    sparsifier = sparsifier_of(Taylor(), {"w": values(1)})
    assert sparsifier.reads_gradients
    assert sparsifier.defaults["norm"] == "L1"
    assert "score" not in sparsifier.defaults
    plain = datasparse.DataNormSparsifier({"w": there(1)})
    assert plain.score is None
    assert not plain.reads_gradients
    assert plain.score_bytes == 0
    plain.accumulate()
    plain.reset_score()
    assert not sparsifier_of(Wanda(), {}).reads_gradients
    base = datasparse.BaseDataSparsifier()
    assert (base.score, base.reads_gradients, base.score_bytes) == (None, False, 0)
    base.accumulate()


# --- which groups, and when -----------------------------------------------------------------------


def test_frozen_and_squashed_groups_and_a_sparsifier_at_rest_need_no_gradient():
    sparsifier = sparsifier_of(Movement(), {"w": values(1), "gone": values(2)})
    sparsifier.add_data("frozen", there(3), update=False)
    sparsifier.squash_mask("gone")
    sparsifier.set_gradients({"w": there(4)})
    sparsifier.accumulate()
    assert sparsifier.get_array("frozen", "sums") is None
    sparsifier.enable_mask_update = False
    sparsifier.accumulate()
    sparsifier.step()
    assert sparsifier.get_array("w", "samples") == 1


def test_gradients_that_were_handed_in_are_used_once():
    sparsifier = sparsifier_of(SNIP(), {"w": values(1)})
    sparsifier.set_gradients({"w": there(2)})
    np.testing.assert_array_equal(sparsifier.get_gradient("w"), values(2))
    sparsifier.step()
    with pytest.raises(ValueError, match=r"gradient of 'w' is missing: .*hand it in by set_grad"):
        sparsifier.step()
    sparsifier.set_gradients({"w": there(2)})
    sparsifier.set_gradients({})
    with pytest.raises(ValueError, match="is missing"):
        sparsifier.get_gradient("w")


def test_a_step_that_fails_keeps_them():
    sparsifier = sparsifier_of(SNIP(), {"a": values(1), "b": values(2)})
    sparsifier.set_gradients({"a": there(3)})
    before = sparsifier.state_dict()
    with pytest.raises(ValueError, match="gradient of 'b' is missing"):
        sparsifier.step()
    assert sparsifier.state_dict() == before
    np.testing.assert_array_equal(sparsifier.get_gradient("a"), values(3))


# --- what goes wrong ------------------------------------------------------------------------------

BAD_GRADIENTS = {
    "unknown name": ({"x": values(2)}, datasparse.UnknownNameError, "no data named 'x'"),
    "shape": ({"w": values(2)[:3]}, ValueError, r"gradient of 'w' must have .* got \(3, 16\)"),
    "integers": ({"w": np.ones((12, 16), int)}, TypeError, "gradient of 'w' must be .*int64"),
    "None": ({"w": None}, TypeError, "gradient of 'w' must be a NumPy array, .*NoneType"),
    "no mapping": ([("w", values(2))], TypeError, "gradients.*expected a mapping"),
    "a name that is none": ({3: values(2)}, TypeError, "key 3"),
}


@pytest.mark.parametrize(
    ("gradients", "error", "message"), BAD_GRADIENTS.values(), ids=BAD_GRADIENTS.keys()
)
def test_wrong_gradients_are_refused_where_they_arrive(gradients, error, message):
    sparsifier = sparsifier_of(SNIP(), {"w": values(1), "v": values(5)})
    sparsifier.set_gradients({"w": there(9)})
    with pytest.raises(error, match=message):
        sparsifier.set_gradients(gradients)
    np.testing.assert_array_equal(sparsifier.get_gradient("w"), values(9))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("score", [*SAMPLE, Lamp()], ids=repr)
def test_gradients_that_are_not_finite_change_nothing(score, dtype, bad, device):
    sparsifier = sparsifier_of(score, {"a": values(1), "b": values(2)}, norm=norm_of(score))
    good, wrong = values(3).astype(dtype), values(4).astype(dtype)
    wrong[-1, -1] = bad
    sparsifier.set_gradients({"a": placed(good), "b": placed(good)})
    sparsifier.accumulate()
    before = sparsifier.state_dict()
    sparsifier.reset_score()
    sparsifier.set_gradients({"a": placed(good), "b": placed(wrong)})
    if device.name == "cpu":  # a step on a device waits for no value
        with pytest.raises(ValueError, match="of 'b' must be finite, got infinite values or NaN"):
            sparsifier.step()
    sparsifier.load_state_dict(before)
    if score.accumulates:
        with pytest.raises(ValueError, match="of 'b' must be finite"):
            sparsifier.accumulate()
    assert sparsifier.state_dict() == before


@pytest.mark.device("pretended", "cuda")
@pytest.mark.parametrize("score", [SNIP(), Taylor()], ids=repr)
def test_a_step_on_a_device_ranks_gradients_that_are_not_finite(score):
    sparsifier = sparsifier_of(score, {"w": np.ones((1, 4), np.float32)})
    sparsifier.set_gradients({"w": placed(np.array([[np.nan, 2.0, np.inf, 3.0]], np.float32))})
    sparsifier.step()
    assert sparsifier.get_mask("w").tolist() == [[True, False, True, False]]
    sparsifier.data_groups["w"]["sparsity_level"] = 0.75
    sparsifier.set_gradients({"w": placed(np.array([[np.nan, 2.0, np.inf, 3.0]], np.float32))})
    sparsifier.step()
    assert sparsifier.get_mask("w").tolist() == [[True, False, False, False]]


def test_data_of_another_type_than_the_sums_are_refused():
    sparsifier = sparsifier_of(Taylor(), {"w": values(1)})
    sparsifier.set_gradients({"w": there(2)})
    sparsifier.accumulate()
    sparsifier.add_data("w", placed(values(1).astype(np.float64)))
    sparsifier.set_gradients({"w": there(2)})
    before = sparsifier.state_dict()
    with pytest.raises(
        ValueError, match=r"sums of 'w' are of (torch\.)?float32 .*float64.*reset_score"
    ):
        sparsifier.accumulate()
    assert sparsifier.state_dict() == before
    sparsifier.reset_score()
    sparsifier.accumulate()
    assert as_numpy(sparsifier.get_array("w", "sums")).dtype == np.float64


@pytest.mark.device("pretended", "cuda")
@pytest.mark.parametrize("of", ["numpy", "torch"])
@pytest.mark.parametrize("score", SAMPLE, ids=repr)
def test_a_gradient_that_lies_elsewhere_is_refused(score, of):
    sparsifier = sparsifier_of(score, {"w": values(1)})
    elsewhere = values(2) if of == "numpy" else there(2).cpu()
    before = sparsifier.state_dict()
    sparsifier.set_gradients({"w": elsewhere})
    if score.accumulates:
        with pytest.raises(TypeError, match=r"^gradient of 'w' must be on the device of its data"):
            sparsifier.accumulate()
        assert sparsifier.state_dict() == before
    with pytest.raises(TypeError, match=r"^gradient must be on the device of the weight, .*got"):
        sparsifier.step()
    assert sparsifier.state_dict() == before


CALLS = {
    "accumulate": lambda s: s.accumulate(),
    "set_gradients": lambda s: s.set_gradients({"w": there(2)}),
    "step": lambda s: s.step(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_calls_from_inside_an_override_are_refused(call):
    @dataclass(frozen=True)
    class Calls(AccumulatedScore):
        def sample(self, weight, gradient):
            call(sparsifier)
            return gradient

    sparsifier = sparsifier_of(Calls(), {"w": values(1)})
    sparsifier.set_gradients({"w": there(2)})
    before = sparsifier.state_dict()
    with pytest.raises(RuntimeError, match="must not be called from inside"):
        sparsifier.step()
    assert sparsifier.state_dict() == before


SIGNED = [Movement(), GraSP()]


@pytest.mark.parametrize("score", SIGNED, ids=repr)
def test_a_score_with_a_sign_goes_with_no_norm(score):
    sparsifier = sparsifier_of(score, {"w": values(1)})
    assert sparsifier.data_groups["w"]["norm"] is None
    refused = pytest.raises(ValueError, match=r"norm.* must be None with .*, whose sign counts")
    with refused:
        datasparse.DataNormSparsifier(score=score, norm="L1")
    with refused:
        sparsifier.data_groups["w"]["norm"] = "L2"
    with refused:
        sparsifier.defaults["norm"] = "L1"
    with refused:
        sparsifier.add_data("v", there(2), norm="L1")
    assert list(sparsifier.data_groups) == ["w"]
    assert sparsifier.defaults["norm"] is None
    state = sparsifier.state_dict()
    state["data_groups"]["w"]["config"]["norm"] = "L1"
    with refused:
        sparsifier.load_state_dict(state)


class Overrides(datasparse.DataNormSparsifier):
    def get_scores(self, name, data, **config):
        return data


class Updates(datasparse.DataNormSparsifier):
    def update_mask(self, name, data, **config):
        super().update_mask(name, data)


@dataclass(frozen=True)
class Endless(Score):
    accumulates = True


@dataclass(frozen=True)
class Unlisted(GradientScore):
    """Accumulates without a list of what is kept, and keeps something that it does not list."""

    accumulates = True

    def sample(self, weight, gradient):
        return gradient


def test_what_counts_as_kept_is_what_is_listed_and_the_sums():
    sparsifier = sparsifier_of(Unlisted(), {"w": values(1)})
    sparsifier.set_gradients({"w": there(2)})
    sparsifier.accumulate()
    sparsifier.set_array("w", "notes", np.ones(5))
    assert sparsifier.score_bytes == values(1).nbytes + 8
    sparsifier.reset_score()
    assert sparsifier.score_bytes == 0
    assert sparsifier.get_array("w", "sums") is None
    assert sparsifier.get_array("w", "samples") is None
    np.testing.assert_array_equal(sparsifier.get_array("w", "notes"), np.ones(5))


@dataclass(frozen=True)
class Noting(Taylor):
    arrays = ("notes", "marks")


def test_a_score_that_lists_arrays_of_its_own_ranks_by_its_sums():
    masks = []
    for score in (Taylor(), Noting()):
        sparsifier = sparsifier_of(score, {"w": values(1)})
        sparsifier.set_gradients({"w": there(2)})
        sparsifier.accumulate()
        sparsifier.set_gradients({"w": there(3)})
        sparsifier.step()
        masks.append(sparsifier.get_mask("w"))
    np.testing.assert_array_equal(*masks)


NO_SCORES = {
    "a class": (Taylor, r"score must be an object, got the class: Taylor\(\)"),
    "a name": ("taylor", "score must be one of datasparse.scores, .*got 'taylor'"),
    "a function": (abs, "score must be one of datasparse.scores"),
    "what is not plain": (Lamp([1.0]), r"power of Lamp must be plain data .* got \[1.0\]"),
    "no sample": (
        Endless(),
        r"Endless accumulates, and so must have sample\(weight, gradient\), .*",
    ),
}


@pytest.mark.device("cpu")
@pytest.mark.parametrize(("score", "message"), NO_SCORES.values(), ids=NO_SCORES.keys())
def test_what_is_no_score_is_refused(score, message):
    with pytest.raises(TypeError, match=message):
        datasparse.DataNormSparsifier(score=score)


@pytest.mark.parametrize(("cls", "method"), [(Overrides, "get_scores"), (Updates, "update_mask")])
def test_an_override_and_a_score_are_refused(cls, method):
    with pytest.raises(TypeError, match=rf"must not be given a score, since it overrides {method}"):
        cls({"w": there(1)}, score=Taylor())
    cls({"w": there(1)}, score=None).step()


class WithKeys(datasparse.DataNormSparsifier):
    def __init__(self, data_list=None, **config):
        super().__init__(data_list, **{"speed": 1.0, **config})

    def check_config(self, name, config):
        super().check_config(name, {k: v for k, v in config.items() if k != "speed"})


def test_subclasses_take_scores():
    sparsifier = WithKeys({"w": there(1)}, score=Movement(), **HALF)
    sparsifier.set_gradients({"w": there(2)})
    sparsifier.step()
    expected = reference.mask(-(values(1) * values(2)), 0.5, (1, 1), None, None)
    np.testing.assert_array_equal(sparsifier.get_mask("w"), expected)
    with pytest.raises(ValueError, match="whose sign counts"):
        sparsifier.data_groups["w"]["norm"] = "L1"


NEEDS_BATCHES = [GraSP(), SynFlow()]


@pytest.mark.parametrize("score", NEEDS_BATCHES, ids=repr)
def test_those_that_need_batches_say_so(score):
    sparsifier = sparsifier_of(score, {"w": values(1)})
    with pytest.raises(
        ValueError, match=r"needs batches, and has scored none for 'w': call .*once"
    ):
        sparsifier.step()


ARGUMENTS = {
    "seed": (lambda: Random(1.0), TypeError, "seed must be an int, got 1.0"),
    "bool": (lambda: Random(True), TypeError, "seed must be an int, got True"),
    "rounds": (lambda: SynFlow(0), ValueError, "rounds must be at least 1, got 0"),
    "dtype": (lambda: SynFlow(dtype="half"), ValueError, 'dtype must be "float32", "float64" or'),
    "biases": (lambda: SynFlow(biases=1), TypeError, "biases must be a bool, got 1"),
    "below": (lambda: Taylor(decay=-0.1), ValueError, r"decay must be in \[0, 1\], got -0.1"),
    "above": (lambda: Lamp(decay=1.5), ValueError, r"decay must be in \[0, 1\], got 1.5"),
    "nan": (lambda: Fisher(decay=float("nan")), ValueError, r"decay must be in \[0, 1\], got nan"),
    "flag": (lambda: Movement(decay=True), TypeError, "decay must be a float, got True"),
}


@pytest.mark.device("cpu")
@pytest.mark.parametrize(("make", "error", "message"), ARGUMENTS.values(), ids=ARGUMENTS.keys())
def test_arguments_are_checked(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("cls", [Score, GradientScore])
def test_the_bases_score_nothing(cls):
    sparsifier = sparsifier_of(cls(), {"w": values(1)})
    sparsifier.set_gradients({"w": there(1)})
    with pytest.raises(NotImplementedError, match=f"{cls.__name__} must override"):
        sparsifier.step()
