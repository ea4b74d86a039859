"""New memory for a group; arrays and names that are refused; what is asked of views of groups."""

import numpy as np
import pytest
import torch
from datasparse import DataNormSparsifier
from datasparse.scores import Taylor
from support import HALF


@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_new_memory_keeps_sums_of_scores_and_masks(make):
    """What a training whose arrays never change hands in, step by step."""
    values = np.array([4.0, 1.0, 3.0, 2.0], np.float32)
    one = DataNormSparsifier({"w": make(values)}, **HALF, score=Taylor())
    other = DataNormSparsifier({"w": make(values)}, **HALF, score=Taylor())
    for step in range(3):
        new = make(values + step)
        one.set_data("w", new)
        assert one.get_data("w") is new
        other.add_data("w", new)
        for sparsifier in (one, other):
            sparsifier.set_gradients({"w": np.array([1.0, -2.0, 0.5, 3.0], np.float32)})
            sparsifier.accumulate()
    for sparsifier in (one, other):
        sparsifier.step()
    assert one.state_dict() == other.state_dict()
    assert list(map(bool, one.get_mask("w"))) == list(map(bool, other.get_mask("w")))


def test_new_memory_keeps_what_is_pruned():
    sparsifier = DataNormSparsifier({"w": np.array([1.0, 2.0, 3.0, 4.0])}, **HALF, monotone=True)
    sparsifier.step()
    sparsifier.set_data("w", np.array([9.0, 8.0, 3.0, 4.0]))
    assert sparsifier.get_mask("w").tolist() == [False, False, True, True]
    sparsifier.step()
    assert sparsifier.get_mask("w").tolist() == [False, False, True, True]


def test_new_memory_has_the_name_and_the_shape_of_a_group():
    sparsifier = DataNormSparsifier({"w": np.ones(4), "gone": np.ones(2)})
    sparsifier.squash_mask("gone")
    before = sparsifier.get_data("w")
    with pytest.raises(KeyError, match="no data named 'other'"):
        sparsifier.set_data("other", np.ones(4))
    with pytest.raises(
        ValueError, match=r"data of 'w' must keep their shape, \(4,\), got \(2, 2\)"
    ):
        sparsifier.set_data("w", np.ones((2, 2)))
    with pytest.raises(ValueError, match="'gone' were squashed"):
        sparsifier.set_data("gone", np.ones(2))
    with pytest.raises(TypeError, match="must be float16"):
        sparsifier.set_data("w", np.ones(4, int))
    assert sparsifier.get_data("w") is before


def test_masked_arrays_are_refused():
    masked = np.ma.masked_greater(np.arange(4.0), 2)
    with pytest.raises(TypeError, match=r"which is two arrays; pass its \.filled"):
        DataNormSparsifier({"w": masked})
    with pytest.raises(TypeError, match="which is two arrays"):
        DataNormSparsifier().add_data("w", np.ones(4), mask=masked > 1)


def test_a_name_comes_once():
    with pytest.raises(ValueError, match="data_list must hold each name once, got 'w' twice"):
        DataNormSparsifier([("w", np.ones(2)), ("w", np.ones(3))])


def test_scores_without_axes_are_scalars_of_numpy():
    class Scaled(DataNormSparsifier):
        def get_scores(self, name, data, **config):
            return abs(data) * 2.0

    sparsifier = Scaled({"w": np.array(3.0)}, sparsity_level=1.0, sparse_block_shape=(1, 1))
    sparsifier.step()
    assert not sparsifier.get_mask("w")


def test_the_groups_take_several_configs_by_update_alone():
    """|= made a dict of them, and wrote nothing."""
    sparsifier = DataNormSparsifier({"a": np.ones(4), "b": np.ones(4)}, **HALF)
    groups, state = sparsifier.data_groups, sparsifier.state
    with pytest.raises(TypeError, match=r"by update\(\)"):
        groups |= {"a": {"sparsity_level": 0.9}}
    with pytest.raises(TypeError, match=r"by update\(\)"):
        state |= {"a": {"seen": 2}}
    with pytest.raises(TypeError, match=r"by update\(\)"):
        sparsifier.data_groups |= {"a": {"sparsity_level": 0.9}}
    assert sparsifier.data_groups["a"]["sparsity_level"] == 0.5
    assert not dict(sparsifier.state["a"])


def test_a_name_that_is_none_is_refused_in_a_list_too():
    with pytest.raises(TypeError, match="add_data"):
        DataNormSparsifier([(["w"], np.ones(2))])
