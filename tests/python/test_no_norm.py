"""norm=None: values are ranked as they are, sign included; test_block_mask.py has the rule."""

import copy
import pickle

import datasparse
import numpy as np
import pytest
import reference
import torch
from datasparse.schedules import Constant, Linear
from support import ON_DEVICES, as_numpy, first_there, placed

pytestmark = ON_DEVICES


class Movement(datasparse.DataNormSparsifier):
    """Ranks by what an optimizer would make of the weights: by the sum of -weight * gradient."""

    def __init__(self, scores, *args, **config):
        super().__init__(*args, **config)
        self._scores = scores

    def update_mask(self, name, data, **config):
        super().update_mask(name, placed(self._scores[name]), **config)


def values(rng, shape=(12, 16), dtype=np.float32):
    return rng.normal(-0.5, 1, shape).astype(dtype)


@pytest.mark.parametrize("key", ["keyword", "of the group", "written later", "default"])
def test_every_way_to_say_it(key, rng):
    data = values(rng)
    norm = {"norm": None}
    sparsifier = datasparse.DataNormSparsifier(**(norm if key == "keyword" else {}))
    if key == "default":
        sparsifier.defaults["norm"] = None
    sparsifier.add_data(
        "w", placed(data), sparsity_level=0.3, **(norm if key == "of the group" else {})
    )
    if key == "written later":
        sparsifier.data_groups["w"]["norm"] = None
    assert sparsifier.data_groups["w"]["norm"] is None
    assert dict(sparsifier.data_groups["w"])["norm"] is None
    sparsifier.step()
    expected = reference.mask(data, 0.3, (1, 4), norm=None)
    assert np.array_equal(sparsifier.get_mask("w"), expected)
    assert not np.array_equal(expected, reference.mask(data, 0.3, (1, 4)))

    sparsifier.data_groups["w"]["norm"] = "L2"
    sparsifier.step()
    assert np.array_equal(sparsifier.get_mask("w"), reference.mask(data, 0.3, (1, 4), norm="L2"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("block", first_there([(1, 4), (1, 1), (4, 4), (3, 5)]))
def test_tensors_beyond_every_tile_step_by_step(dtype, block):
    """The cut moves from the negative values through zero to the positive ones."""
    generator = torch.Generator().manual_seed(5)
    data = torch.randn((300, 400), generator=generator).to(dtype)
    sparsifier = datasparse.DataNormSparsifier([("w", data)], 0.0, block, norm=None)
    for level in (0.3, 0.31, 0.49, 0.5, 0.5, 0.51, 0.7, 0.9):
        data += torch.randn(data.shape, generator=generator).to(dtype) * 0.001
        sparsifier.data_groups["w"]["sparsity_level"] = level
        sparsifier.step()
        expected = reference.whole_block_mask_by_stable_sort(
            reference.float_values(data), level, block, norm=None
        )
        assert np.array_equal(sparsifier.get_mask("w").numpy(), expected)


def test_monotone_masks_without_a_norm(rng):
    data = values(rng)
    weight = placed(data.copy())
    sparsifier = datasparse.DataNormSparsifier(
        [("w", weight)], 0.0, (1, 4), zeros_per_block=3, norm=None, monotone=True
    )
    before = np.ones(data.shape, bool)
    for level in (0.2, 0.6, 0.4, 1.0):
        data = values(rng)
        weight[...] = placed(data)
        sparsifier.data_groups["w"]["sparsity_level"] = level
        sparsifier.step()
        expected = reference.mask(data, level, (1, 4), 3, norm=None, past=before)
        before = as_numpy(sparsifier.get_mask("w")).copy()
        assert np.array_equal(before, expected)


def test_movement_scores_of_ones_own(rng):
    weight, gradient = values(rng), values(rng)
    scores = {"w": -weight * gradient}
    sparsifier = Movement(scores, [("w", placed(weight))], 0.4, (1, 1), norm=None)
    sparsifier.step()
    expected = reference.mask(scores["w"], 0.4, (1, 1), norm=None)
    assert np.array_equal(sparsifier.get_mask("w"), expected)


def restored_by_pickle(sparsifier, tmp_path, data):
    other = pickle.loads(pickle.dumps(sparsifier))
    other.add_data("w", data)
    return other


def restored_by_copy(sparsifier, tmp_path, data):
    return copy.deepcopy(sparsifier)


def restored_by_state(sparsifier, tmp_path, data):
    other = datasparse.DataNormSparsifier([("w", data)])
    other.load_state_dict(sparsifier.state_dict())
    return other


def restored_by_checkpoint(sparsifier, tmp_path, data):
    datasparse.save(tmp_path / "file", sparsifier)
    other = datasparse.DataNormSparsifier([("w", data)])
    datasparse.load(tmp_path / "file", other)
    return other


@pytest.mark.parametrize(
    "restored", [restored_by_pickle, restored_by_copy, restored_by_state, restored_by_checkpoint]
)
def test_it_is_saved(restored, tmp_path, rng):
    data = values(rng)
    weight = placed(data)
    sparsifier = datasparse.DataNormSparsifier([("w", weight)], 0.3, norm=None)
    other = restored(sparsifier, tmp_path, weight)
    assert other.data_groups["w"]["norm"] is None
    assert sparsifier.state_dict()["data_groups"]["w"]["config"]["norm"] is None
    other.step()
    assert np.array_equal(other.get_mask("w"), reference.mask(data, 0.3, (1, 4), norm=None))


@pytest.mark.parametrize("norm", ["L1", None])
@pytest.mark.parametrize("schedule", [Constant(0.5), Linear(final=0.5, end=4)])
def test_no_schedule_of_numbers_drives_it(norm, schedule, observe):
    sparsifier = datasparse.DataNormSparsifier([("w", placed(np.ones(8)))], norm=norm)
    before = observe(sparsifier)
    with pytest.raises(TypeError, match=r"norm.* must be"):
        datasparse.DataScheduler(sparsifier, "norm", schedule)
    assert observe(sparsifier) == before


def test_other_keys_are_scheduled_as_ever(rng):
    data = values(rng)
    sparsifier = datasparse.DataNormSparsifier([("w", placed(data))], norm=None)
    scheduler = datasparse.DataScheduler(
        sparsifier, "sparsity_level", Linear(initial=0.0, final=0.8, end=4)
    )
    for level in (0.0, 0.2, 0.4, 0.6, 0.8):
        assert sparsifier.data_groups["w"]["sparsity_level"] == pytest.approx(level)
        sparsifier.step()
        expected = reference.mask(data, level, (1, 4), norm=None)
        assert np.array_equal(sparsifier.get_mask("w"), expected)
        scheduler.step()


@pytest.mark.device("cpu")
def test_what_is_no_norm():
    with pytest.raises(ValueError, match="norm must be 'L1', 'L2' or None, got 'None'"):
        datasparse.DataNormSparsifier(norm="None")
    with pytest.raises(TypeError, match="norm must be 'L1', 'L2' or None, got 0"):
        datasparse.block_mask(np.ones(4), sparsity_level=0.5, sparse_block_shape=(1, 1), norm=0)
