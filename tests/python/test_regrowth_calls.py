"""What surrounds masks that move: first masks, gradients, errors, states, checkpoints."""

import copy
import pickle

import numpy as np
import pytest
import torch
from datasparse import DataScheduler, load, save
from datasparse.regrowth import SET, RigL, Static
from datasparse.schedules import Cosine
from datasparse.scores import Taylor
from support import ON_DEVICES, as_numpy, first_there, placed, values

pytestmark = ON_DEVICES


def there(*arguments):
    return placed(values(*arguments))


def mask_of(sparsifier, name="w"):
    return as_numpy(sparsifier.get_mask(name)).copy()


def rigl(weight, gradient=None, **config):
    sparsifier = RigL([("w", weight)], **config)
    if gradient is not None:
        sparsifier.set_gradients({"w": gradient})
    return sparsifier


# --- first masks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RigL, SET, Static])
def test_a_first_mask_is_drawn_once_by_seed_and_name(kind):
    masks = {}
    for name, seed in [("a", 0), ("b", 0), ("a", 1)]:
        for by in ("draw", "step"):
            sparsifier = kind([(name, there(0))], sparsity_level=0.75, seed=seed)
            assert not sparsifier.is_drawn(name)
            getattr(sparsifier, by)()
            assert sparsifier.is_drawn(name)
            mask = mask_of(sparsifier, name)
            assert mask.sum() == mask.size // 4
            np.testing.assert_array_equal(masks.setdefault((name, seed), mask), mask)
    assert len({mask.tobytes() for mask in masks.values()}) == 3


def test_draw_leaves_what_is_drawn_and_data():
    weight = there(0)
    sparsifier = RigL([("w", weight)], sparsity_level=0.5)
    sparsifier.draw()
    first = mask_of(sparsifier)
    sparsifier.add_data("v", there(1))
    sparsifier.draw()
    np.testing.assert_array_equal(mask_of(sparsifier), first)
    np.testing.assert_array_equal(weight, values(0))
    assert mask_of(sparsifier, "v").sum() == values(1).size // 2
    assert sparsifier.step_count == 0


def test_a_given_mask_moves_at_once_and_a_reused_one_goes_on():
    given = np.arange(192).reshape(12, 16) % 2 == 0
    sparsifier = SET(sparsity_level=0.5)
    sparsifier.add_data("w", there(0), mask=given)
    assert sparsifier.is_drawn("w")
    assert sparsifier.ever_active("w") == 96
    sparsifier.step()
    moved = mask_of(sparsifier)
    assert moved.sum() == 96
    assert not np.array_equal(moved, given)
    ever = sparsifier.ever_active("w")
    assert ever == (moved | given).sum()
    sparsifier.add_data("w", there(1))
    assert sparsifier.ever_active("w") == ever
    sparsifier.add_data("w", there(1), reuse_mask=False)
    assert not sparsifier.is_drawn("w")
    assert sparsifier.ever_active("w") == 0


def test_static_keeps_a_given_mask_as_it_is():
    given = np.arange(192).reshape(12, 16) % 3 == 0  # no block of four is whole
    sparsifier = Static(sparsity_level=0.5, sparse_block_shape=(1, 4))
    sparsifier.add_data("w", there(0), mask=given)
    sparsifier.step()
    np.testing.assert_array_equal(mask_of(sparsifier), given)


# --- gradients -----------------------------------------------------------------------------------


def test_gradients_are_the_parameters_own_or_handed_in():
    parameter = torch.nn.Parameter(torch.tensor([4.0, -1.0, 3.0, 0.5]))
    sparsifier = RigL(sparsity_level=0.5, drop_fraction=0.5)
    sparsifier.add_data("w", parameter, mask=torch.tensor([True, True, False, False]))
    (parameter * torch.tensor([0.0, 0.0, 0.1, -0.3])).sum().backward()
    version = parameter._version
    sparsifier.step()
    assert mask_of(sparsifier).tolist() == [True, False, False, True]
    assert parameter.tolist() == [4.0, -1.0, 3.0, 0.0]
    assert parameter._version > version
    sparsifier.set_gradients({"w": torch.tensor([0.0, 0.0, 9.0, 0.0])})
    sparsifier.step()
    assert mask_of(sparsifier).tolist() == [True, False, True, False]
    assert sparsifier.reads_gradients
    assert not SET().reads_gradients


def test_a_missing_gradient_names_the_group_and_changes_nothing():
    weights = {"a": there(0), "b": there(1)}
    sparsifier = RigL(weights, sparsity_level=0.5)
    sparsifier.step()
    masks = {name: mask_of(sparsifier, name) for name in weights}
    sparsifier.set_gradients({"a": there(2)})
    with pytest.raises(ValueError, match=r"gradient of 'b' is missing.*set_gradients\(\)"):
        sparsifier.step()
    for name in weights:
        np.testing.assert_array_equal(mask_of(sparsifier, name), masks[name])
    np.testing.assert_array_equal(weights["a"], values(0))
    assert sparsifier.step_count == 1


class Own(RigL):
    """By scores and gradients of its own."""

    def get_scores(self, name, data, **config):
        return self._scores

    def get_gradients(self, name, data, **config):
        return self._gradient


def test_overrides_say_what_is_dropped_and_what_grows():
    weight = placed(np.array([4.0, -1.0, 3.0, 0.5]))
    sparsifier = Own(sparsity_level=0.5, drop_fraction=0.5)
    sparsifier.add_data("w", weight, mask=np.array([True, True, False, False]))
    sparsifier._scores = placed(np.array([1.0, 2, 0, 0]))
    sparsifier._gradient = placed(np.array([0.0, 0, 1, 0]))
    sparsifier.step()
    assert mask_of(sparsifier).tolist() == [False, True, True, False]
    assert weight.tolist() == [4.0, -1.0, 0.0, 0.5]
    for wrong, error in [
        (placed(np.zeros(3)), "shape"),
        (None, r"must be an array .* got None from get_gradients\(\) of Own: return .*super\(\)"),
    ]:
        sparsifier._gradient = wrong
        with pytest.raises(ValueError, match=f"gradient of 'w' .*{error}"):
            sparsifier.step()
        assert mask_of(sparsifier).tolist() == [False, True, True, False]


class ByTaylor(RigL):
    """As the refusal of a score proposes."""

    def get_scores(self, name, data, **config):
        return Taylor().get_scores(self, name, data)


@pytest.mark.parametrize("score", [Taylor(), Taylor], ids=["a score", "a class"])
@pytest.mark.parametrize("kind", [RigL, SET, Static])
def test_a_score_is_given_by_an_override(kind, score):
    with pytest.raises(
        TypeError,
        match=rf"^{kind.__name__}\(\) takes no score, got Taylor.*: a step drops by what get_scores"
        r"\(.*\) returns; .* return Taylor\(\)\.get_scores\(self, name, data\)$",
    ):
        kind({"w": there(0)}, sparsity_level=0.5, score=score)
    with pytest.raises(TypeError, match="unknown config key 'score'"):
        kind(score=None)
    weight = placed(np.array([4.0, -1.0, 3.0, 0.5]))
    gradient = placed(np.array([0.1, 0.9, 0.3, 0.2]))
    sparsifier = ByTaylor(sparsity_level=0.5, drop_fraction=0.5)
    sparsifier.add_data("w", weight, mask=np.array([True, True, False, False]))
    sparsifier.set_gradients({"w": gradient})
    sparsifier.step()
    assert mask_of(sparsifier).tolist() == [False, True, True, False]


def test_an_override_that_fails_brings_masks_and_states_back():
    class Fails(RigL):
        def get_gradients(self, name, data, **config):
            self.get_mask("w")[:] = False
            self.state["w"]["seen"] = 1
            raise RuntimeError("no")

    sparsifier = Fails([("w", there(0))], sparsity_level=0.5)
    sparsifier.step()
    before = mask_of(sparsifier)
    with pytest.raises(RuntimeError, match="no"):
        sparsifier.step()
    np.testing.assert_array_equal(mask_of(sparsifier), before)
    assert dict(sparsifier.state["w"]) == {}


# --- errors --------------------------------------------------------------------------------------

N_OF_M = {"sparsity_level": 1.0, "sparse_block_shape": (1, 4), "zeros_per_block": 2}


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"drop_fraction": 1.5}, r"drop_fraction .*\[0, 1\]"),
        ({"seed": -1}, "seed .*at least 0"),
        ({"monotone": True}, "monotone .*False"),
        ({"min_level": 0.1}, "min_level .*0"),
        ({"max_level": 0.9}, "max_level .*1"),
        ({"min_kept": 1, "pool": "all"}, "min_kept .*pool"),
        ({**N_OF_M, "sparsity_level": 0.5}, "sparsity_level .*be 1 where zeros_per_block"),
        ({**N_OF_M, "zeros_per_block": 0}, "zeros_per_block .*at least 1"),
        ({**N_OF_M, "sparse_block_shape": (1, 5000)}, "zeros_per_block .*4096"),
    ],
)
def test_what_masks_that_move_do_not_know_is_refused(config, match):
    with pytest.raises(ValueError, match=match):
        RigL(**config)
    sparsifier = RigL([("w", there(0))])
    before = dict(sparsifier.data_groups["w"])
    with pytest.raises(ValueError, match=match):
        sparsifier.data_groups["w"].update(config)
    assert dict(sparsifier.data_groups["w"]) == before


def test_a_pool_of_n_of_m_and_others_is_refused():
    sparsifier = SET([("a", there(0))], pool="all")
    sparsifier.add_data("b", there(1), **N_OF_M)
    with pytest.raises(ValueError, match="pool 'all' must be of groups that all have zeros_per"):
        sparsifier.step()
    assert mask_of(sparsifier, "a").all()
    assert not sparsifier.is_drawn("a")


@pytest.mark.device("cpu")  # a tensor has no flag
def test_data_that_cannot_be_written_to_are_refused_before_anything_changes():
    frozen = there(1)
    frozen.setflags(write=False)
    weights = {"a": there(0), "b": frozen}
    sparsifier = SET(weights, sparsity_level=0.5)
    sparsifier.step()  # a first mask writes no data
    before = mask_of(sparsifier, "a")
    with pytest.raises(ValueError, match=r"step\(\) of 'b'"):
        sparsifier.step()
    np.testing.assert_array_equal(mask_of(sparsifier, "a"), before)
    np.testing.assert_array_equal(weights["a"], values(0))


def test_update_mask_says_that_masks_move_together():
    sparsifier = SET([("w", there(0))])
    with pytest.raises(RuntimeError, match=r"in step\(\), all together"):
        sparsifier.update_mask("w", there(0))


# --- saving --------------------------------------------------------------------------------------


def by_state(sparsifier, weights, path):
    other = type(sparsifier)(weights)
    other.load_state_dict(sparsifier.state_dict())
    return other


def by_state_before_data(sparsifier, weights, path):
    other = type(sparsifier)()
    other.load_state_dict(sparsifier.state_dict())
    for name, weight in weights.items():
        other.add_data(name, weight)
    return other


def by_pickle(sparsifier, weights, path):
    other = pickle.loads(pickle.dumps(sparsifier))
    for name in weights:
        weights[name] = other.get_data(name)
    return other


def by_deepcopy(sparsifier, weights, path):
    other = copy.deepcopy(sparsifier)
    for name in weights:
        weights[name] = other.get_data(name)
    return other


def by_checkpoint(sparsifier, weights, path):
    save(path / "saved", sparsifier)
    other = type(sparsifier)(weights)
    load(path / "saved", other)
    return other


WAYS = [by_state, by_state_before_data, by_pickle, by_deepcopy, by_checkpoint]


def train(kind, steps, resume_at=None, way=None, path=None, seed=0):
    weights = {"a": there(seed), "b": there(seed + 1, (30,))}
    sparsifier = kind(weights, sparsity_level=0.7, seed=seed, pool="all" if seed % 2 else None)
    rng = np.random.default_rng(seed)
    for step in range(steps):
        if step == resume_at:
            sparsifier = way(sparsifier, weights, path)
        gradients = {
            n: placed(rng.standard_normal(tuple(w.shape), np.float32)) for n, w in weights.items()
        }
        for name, weight in weights.items():
            weight -= 0.1 * gradients[name]
        sparsifier.set_gradients(gradients if kind is RigL else {})
        sparsifier.step()
        sparsifier.apply_mask()
    return [
        (
            as_numpy(weights[n]).tobytes(),
            mask_of(sparsifier, n).tobytes(),
            sparsifier.ever_active(n),
        )
        for n in weights
    ]


def resume(number, path):
    kind, way = [RigL, SET, Static][number % 3], WAYS[number % len(WAYS)]
    steps = 8
    place = int(np.random.default_rng(number).integers(0, steps))
    assert train(kind, steps, place, way, path, number) == train(kind, steps, seed=number)


@pytest.mark.parametrize("number", first_there(range(5), 2))
def test_a_training_that_is_resumed_equals_an_unbroken_one(number, tmp_path):
    resume(number, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("number", range(5, 55))
def test_a_training_resumed_anywhere_equals_an_unbroken_one(number, tmp_path):
    resume(number, tmp_path)


def test_a_state_with_a_damaged_array_is_refused_by_the_step():
    sparsifier = SET([("w", there(0))], sparsity_level=0.5)
    sparsifier.step()
    state = sparsifier.state_dict()
    array = state["data_groups"]["w"]["arrays"]["ever_active"]
    array["shape"], array["bytes"] = (3,), b"abc"
    sparsifier.load_state_dict(state)
    before = mask_of(sparsifier)
    with pytest.raises(ValueError, match="'ever_active' of 'w' must have 24 bytes"):
        sparsifier.step()
    np.testing.assert_array_equal(mask_of(sparsifier), before)


# --- schedules, masks -----------------------------------------------------------------------------


def test_a_scheduler_varies_the_fraction_and_none_moves_nothing():
    weight = there(0)
    sparsifier = SET([("w", weight)], sparsity_level=0.5)
    schedule = Cosine(initial=0.3, final=0.0, end=3)
    scheduler = DataScheduler(sparsifier, "drop_fraction", schedule)
    sparsifier.step()
    for _ in range(3):
        assert sparsifier.data_groups["w"]["drop_fraction"] > 0
        sparsifier.step()
        scheduler.step()
    before = mask_of(sparsifier), copy.deepcopy(weight)
    assert sparsifier.data_groups["w"]["drop_fraction"] == 0
    sparsifier.step()
    np.testing.assert_array_equal(mask_of(sparsifier), before[0])
    np.testing.assert_array_equal(weight, before[1])


def test_a_scheduler_of_the_level_grows_and_drops():
    sparsifier = rigl(there(0), sparsity_level=0.5)
    sparsifier.step()
    for level in (0.9, 0.2, 0.5, 1.0, 0.0):
        sparsifier.data_groups["w"]["sparsity_level"] = level
        sparsifier.set_gradients({"w": there(3)})
        sparsifier.step()
        assert mask_of(sparsifier).sum() == 192 - round(level * 192)


def test_a_layout_moves_blocks_along_another_axis():
    weight = there(0, (4, 8, 3, 3))
    mask = np.ones((4, 8, 3, 3), bool)
    mask[:, ::2] = False
    sparsifier = SET(**N_OF_M)
    sparsifier.add_data("w", weight, layout=(0, 2, 3, 1), mask=mask)
    kept = np.zeros(mask.shape, bool)
    for _ in range(3):
        sparsifier.step()
        moved = mask_of(sparsifier)
        assert (moved.transpose(0, 2, 3, 1).reshape(-1, 4).sum(1) == 2).all()
        kept |= moved
    assert not np.array_equal(moved, mask)
    assert sparsifier.ever_active("w") == (kept | mask).sum()


def test_a_layout_with_kept_zeros_and_weights():
    """As of the transposed tensor, which needs none."""
    rng = np.random.default_rng(0)
    weight = values(0, (12, 16))
    weight[rng.random((12, 16)) < 0.2] = 0
    weight, seen = placed(weight), placed(np.ascontiguousarray(weight.T))
    config = {"sparsity_level": 0.5, "sparse_block_shape": (1, 4), "drop_fraction": 0.4}
    by_layout, plain = RigL(**config), RigL(**config)
    given = np.repeat(rng.random((16, 3)) < 0.5, 4, axis=1)
    by_layout.add_data("w", weight, layout=(1, 0), keep_zeros=True, mask=given.T.copy())
    plain.add_data("w", seen, keep_zeros=True, mask=given)
    for step in range(4):
        gradient = values(step, (12, 16))
        by_layout.set_gradients({"w": placed(gradient)})
        plain.set_gradients({"w": placed(np.ascontiguousarray(gradient.T))})
        by_layout.step()
        plain.step()
        np.testing.assert_array_equal(mask_of(by_layout), mask_of(plain).T)
        np.testing.assert_array_equal(weight, seen.T)
        assert by_layout.ever_active("w") == plain.ever_active("w")


@pytest.mark.parametrize("kind", [RigL, SET])
@pytest.mark.parametrize(
    "config", [{"sparsity_level": 0.5}, {"zeros_per_block": 1, "sparsity_level": 1.0}]
)
def test_blocks_are_cut_off_by_the_matrix_of_the_layout(kind, config):
    """As the same data do that lie so, where the order of memory is no matter."""
    by_layout, plain = kind(), kind()
    weight = there(0, (1, 12))
    shapes = ((by_layout, weight, (1, 0)), (plain, copy.deepcopy(weight).reshape(12, 1), None))
    for sparsifier, data, layout in shapes:
        sparsifier.add_data("w", data, layout=layout, sparse_block_shape=(1, 3), **config)
    for number in range(3):
        for sparsifier, data, _ in shapes:
            if kind is RigL:
                sparsifier.set_gradients({"w": there(number, (1, 12)).reshape(data.shape)})
            sparsifier.step()
        assert np.array_equal(mask_of(by_layout).ravel(), mask_of(plain).ravel())
        assert np.array_equal(shapes[0][1].reshape(-1), shapes[1][1].reshape(-1))
