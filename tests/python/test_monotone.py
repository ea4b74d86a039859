"""monotone: what is pruned stays so while the level rises; the highest come back as it falls."""

import datasparse
import numpy as np
import pytest
import reference
import torch
from datasparse.schedules import Linear
from support import ON_DEVICES, as_numpy, placed

pytestmark = ON_DEVICES

SHAPES = [
    ((12, 16), (1, 1)),
    ((12, 16), (1, 4)),
    ((9, 10), (2, 3)),
    ((40,), (1, 8)),
    ((3, 4, 5), (2, 2)),
]
UP = [0.1, 0.3, 0.5, 0.5, 0.8, 1.0]


def group(data, level=0.0, block=(1, 1), **config):
    sparsifier = datasparse.DataNormSparsifier(
        {"w": placed(data)}, sparsity_level=level, sparse_block_shape=block, monotone=True, **config
    )
    return sparsifier, sparsifier.data_groups["w"]


def write(sparsifier, numbers):
    """Gives the group other numbers, and returns them in its dtype."""
    data = sparsifier.get_data("w")
    data[...] = placed(numbers)
    return as_numpy(data)


def mask_of(sparsifier):
    return as_numpy(sparsifier.get_mask("w"))


@pytest.mark.parametrize(("shape", "block"), SHAPES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_masks_are_nested_while_the_level_rises_and_counts_exact(shape, block, dtype, rng):
    data = rng.integers(-4, 5, shape).astype(dtype)  # many ties
    sparsifier, config = group(data, block=block)
    before = np.ones(shape, bool)
    for level in UP:
        config["sparsity_level"] = level
        data = write(sparsifier, rng.integers(-4, 5, shape))  # the weights move meanwhile
        sparsifier.step()
        mask = mask_of(sparsifier)
        assert not mask[~before].any()
        np.testing.assert_array_equal(mask, reference.mask(data, level, block, past=before))
        pruned = reference.pruned_blocks(data, level, block, past=reference.as_matrix(before))
        assert (~mask).sum() == sum(len(one) for one in pruned)
        before = mask.copy()


def test_the_plain_rule_lets_what_is_pruned_come_back():
    data = np.array([1.0, 2.0, 3.0, 4.0])
    plain = datasparse.DataNormSparsifier([("w", placed(data.copy()))], 0.5, (1, 1))
    monotone, _ = group(data, 0.5)
    for sparsifier in (plain, monotone):
        sparsifier.step()
    for sparsifier in (plain, monotone):
        write(sparsifier, np.array([4.0, 3.0, 2.0, 1.0]))
        sparsifier.step()
    assert plain.get_mask("w").tolist() == [True, True, False, False]
    assert monotone.get_mask("w").tolist() == [False, False, True, True]


@pytest.mark.parametrize(("shape", "block"), SHAPES)
def test_the_highest_come_back_when_the_level_falls(shape, block, rng):
    data = rng.normal(size=shape).astype(np.float32)
    sparsifier, config = group(data, 0.9, block)
    sparsifier.step()
    for level in (0.7, 0.4, 0.1, 0.0):
        before = mask_of(sparsifier).copy()
        config["sparsity_level"] = level
        data = write(sparsifier, rng.normal(size=shape))
        sparsifier.step()
        mask = mask_of(sparsifier)
        assert mask[before].all(), "nothing else is pruned"
        np.testing.assert_array_equal(mask, reference.mask(data, level, block, past=before))


def test_those_that_come_back_are_the_highest():
    data = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    sparsifier, config = group(data, 4 / 6)
    sparsifier.step()
    write(sparsifier, np.array([9.0, 1.0, 8.0, 2.0, 0.5, 0.25]))  # the lowest of all are not pruned
    config["sparsity_level"] = 2 / 6
    sparsifier.step()
    assert sparsifier.get_mask("w").tolist() == [True, False, True, False, True, True]


def test_zeros_stay_zeros_while_there_are_more_of_each_block(rng):
    data = rng.normal(size=(16, 32)).astype(np.float32)
    sparsifier, config = group(data, 1.0, (1, 4), zeros_per_block=1)
    before = np.ones(data.shape, bool)
    for zeros in (1, 2, 2, 3):
        config["zeros_per_block"] = zeros
        data = write(sparsifier, rng.normal(size=data.shape))
        sparsifier.step()
        mask = mask_of(sparsifier)
        assert not mask[~before].any()
        assert ((~mask).reshape(-1, 4).sum(axis=1) == zeros).all()
        np.testing.assert_array_equal(mask, reference.mask(data, 1.0, (1, 4), zeros, past=before))
        before = mask.copy()
    config["zeros_per_block"] = 1
    sparsifier.step()
    mask = mask_of(sparsifier)
    np.testing.assert_array_equal(mask, reference.mask(data, 1.0, (1, 4), 1, past=before))
    assert mask[before].all()


def test_the_first_step_is_that_of_the_plain_rule(rng):
    data = rng.normal(size=(300, 400)).astype(np.float32)
    sparsifier, _ = group(data, 0.3, (1, 4))
    sparsifier.step()
    expected = datasparse.block_mask(placed(data), sparsity_level=0.3, sparse_block_shape=(1, 4))
    np.testing.assert_array_equal(sparsifier.get_mask("w"), expected)


def test_a_schedule_up_and_down(rng):
    weight = torch.from_numpy(rng.normal(size=(64, 64)).astype(np.float32))
    sparsifier, _ = group(weight)
    scheduler = datasparse.DataScheduler(
        sparsifier, "sparsity_level", Linear(end=8, initial=0.0, final=0.75)
    )
    before = torch.ones(64, 64, dtype=torch.bool)
    for step in range(9):
        sparsifier.step()
        mask = sparsifier.get_mask("w")
        assert not mask[~before].any()
        assert (~mask).sum() == round(0.75 * step / 8 * 64 * 64)
        before = mask.clone()
        weight += torch.from_numpy(rng.normal(size=(64, 64)).astype(np.float32))
        scheduler.step()


@pytest.mark.parametrize("shape", [(257, 300), (3, 40_000)])
@pytest.mark.parametrize("block", [(1, 1), (1, 4), (8, 8)])
def test_large_groups_follow_the_rule_too(shape, block, rng):
    data = rng.normal(size=shape).astype(np.float32)
    sparsifier, config = group(data, 0.4, block)
    sparsifier.step()
    first = mask_of(sparsifier).copy()
    data = write(sparsifier, rng.normal(size=shape))
    config["sparsity_level"] = 0.6
    sparsifier.step()
    second = mask_of(sparsifier).copy()
    assert not second[~first].any()
    # Those that are free and have the lowest blocks: what is pruned made lower than anything.
    lowered = np.where(first, np.abs(data), 0).astype(np.float32)
    if block == (1, 1):
        expected = reference.whole_block_mask_by_stable_sort(lowered, 0.6)
        np.testing.assert_array_equal(second, expected)
    config["sparsity_level"] = 0.2
    sparsifier.step()
    third = mask_of(sparsifier)
    assert third[second].all()


def test_is_saved_with_the_group_and_goes_on(rng):
    data = rng.normal(size=(8, 8)).astype(np.float32)
    sparsifier, _ = group(data, 0.5)
    sparsifier.step()
    state = sparsifier.state_dict()
    other = datasparse.DataNormSparsifier([("w", placed(data))])
    other.load_state_dict(state)
    assert other.data_groups["w"]["monotone"] is True
    before = mask_of(other).copy()
    write(other, rng.normal(size=data.shape))
    other.data_groups["w"]["sparsity_level"] = 0.75
    other.step()
    assert not mask_of(other)[~before].any()


def test_is_a_key_of_a_group_only_where_it_is_given():
    data = placed(np.ones((2, 4), np.float32))
    sparsifier = datasparse.DataNormSparsifier([("plain", data)])
    sparsifier.add_data("monotone", data, monotone=True)
    assert "monotone" not in sparsifier.data_groups["plain"]
    assert sparsifier.data_groups["monotone"]["monotone"] is True
    assert set(sparsifier.defaults) == {
        "sparsity_level", "sparse_block_shape", "zeros_per_block", "norm"
    }  # fmt: skip


def test_an_override_of_four_keys_goes_on_working():
    class Old(datasparse.DataNormSparsifier):
        def update_mask(
            self, name, data, sparsity_level, sparse_block_shape, zeros_per_block, norm
        ):
            super().update_mask(name, data, sparsity_level=sparsity_level)
            self.get_mask(name)[0] = True

    sparsifier = Old([("w", placed(np.array([1.0, 2.0])))], 1.0, (1, 1))
    sparsifier.step()
    assert sparsifier.get_mask("w").tolist() == [True, False]


@pytest.mark.parametrize("wrong", [1, 0, "True", None, 1.0, (1,)])
def test_what_is_no_bool_is_refused(wrong):
    with pytest.raises(TypeError, match="monotone must be True or False, got"):
        datasparse.DataNormSparsifier(monotone=wrong)
    sparsifier = datasparse.DataNormSparsifier()
    with pytest.raises(TypeError, match="monotone of 'w' must be True or False, got"):
        sparsifier.add_data("w", placed(np.ones(4)), monotone=wrong)


def test_block_mask_takes_no_mask_before():
    with pytest.raises(TypeError, match="monotone"):
        datasparse.block_mask(
            placed(np.ones(4)), sparsity_level=0.5, sparse_block_shape=(1, 1), monotone=True
        )
