"""min_kept: blocks that a group keeps whatever the level."""

import datasparse
import numpy as np
import pytest
import reference
from datasparse.schedules import Linear
from support import MAY_PRUNE_ALL, ON_DEVICES, as_numpy, placed

pytestmark = ON_DEVICES


@MAY_PRUNE_ALL
def test_no_small_layer_dies(rng):
    """The rule alone prunes all of 40 weights at level 0.99."""
    weight = rng.normal(size=(8, 5)).astype(np.float32)
    plain = datasparse.DataNormSparsifier([("w", placed(weight))], 0.99, (1, 1))
    kept = datasparse.DataNormSparsifier([("w", placed(weight))], 0.99, (1, 1), min_kept=3)
    plain.step()
    kept.step()
    assert not plain.get_mask("w").any()
    mask = as_numpy(kept.get_mask("w"))
    assert mask.sum() == 3
    assert mask.ravel()[np.argsort(np.abs(weight).ravel())[-3:]].all()


@pytest.mark.parametrize("block", [(1, 1), (1, 3), (2, 2), (-1, 1)])
@pytest.mark.parametrize("min_kept", [0, 1, 4, 10**6])
def test_masks_are_those_of_the_rule(block, min_kept, rng):
    weight = rng.normal(size=(6, 7)).astype(np.float32)
    for level in (0.0, 0.5, 0.9, 1.0):
        sparsifier = datasparse.DataNormSparsifier(
            [("w", placed(weight))], level, block, min_kept=min_kept
        )
        sparsifier.step()
        expected = reference.mask(weight, level, block, min_kept=min_kept)
        np.testing.assert_array_equal(sparsifier.get_mask("w"), expected)


def test_large_groups_keep_what_is_asked_for(rng):
    weight = rng.normal(size=(400, 500)).astype(np.float32)
    sparsifier = datasparse.DataNormSparsifier(
        [("w", placed(weight))], 0.9, (1, 1), min_kept=50_000
    )
    sparsifier.step()
    assert sparsifier.get_mask("w").sum() == 50_000


@MAY_PRUNE_ALL
def test_may_be_set_per_group_and_scheduled(rng):
    weight = rng.normal(size=100).astype(np.float32)
    sparsifier = datasparse.DataNormSparsifier([("plain", placed(weight))], 1.0, (1, 1))
    sparsifier.add_data("w", placed(weight), min_kept=8.0)
    assert "min_kept" not in sparsifier.data_groups["plain"]
    assert sparsifier.data_groups["w"]["min_kept"] == 8
    scheduler = datasparse.DataScheduler(sparsifier, "min_kept", Linear(end=4, initial=8, final=0))
    kept = []
    for _ in range(5):
        sparsifier.step()
        assert not sparsifier.get_mask("plain").any()
        kept.append(int(sparsifier.get_mask("w").sum()))
        scheduler.step()
    assert kept == [8, 6, 4, 2, 0]


def test_a_plan_counts_it():
    sparsifier = datasparse.DataNormSparsifier(
        [("w", placed(np.ones((4, 10), np.float32)))], 0.0, (1, 2), min_kept=3
    )
    scheduler = datasparse.DataScheduler(
        sparsifier, "sparsity_level", Linear(end=1, initial=0.0, final=1.0)
    )
    assert scheduler.plan(2).zeros_most["w"].tolist() == [0, 34]
    sparsifier.data_groups["w"]["sparsity_level"] = 1.0
    sparsifier.step()
    assert (~sparsifier.get_mask("w")).sum() == 34


def test_is_saved_with_the_group():
    sparsifier = datasparse.DataNormSparsifier([("w", placed(np.ones(4)))], min_kept=2)
    other = datasparse.DataNormSparsifier([("w", placed(np.ones(4)))])
    other.load_state_dict(sparsifier.state_dict())
    assert other.data_groups["w"]["min_kept"] == 2
    assert other.defaults["min_kept"] == 2
    del other.data_groups["w"]["min_kept"]
    assert "min_kept" not in other.data_groups["w"]


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (-1, ValueError, "min_kept must be at least 0, got -1"),
        (1.5, ValueError, "min_kept"),
        (True, TypeError, "min_kept"),
        ("1", TypeError, "min_kept"),
        (None, TypeError, "min_kept"),
    ],
)
def test_wrong_values_are_refused_when_they_arrive(wrong, error, message):
    with pytest.raises(error, match=message):
        datasparse.DataNormSparsifier(min_kept=wrong)
    sparsifier = datasparse.DataNormSparsifier([("w", placed(np.ones(4)))])
    with pytest.raises(error, match="min_kept of 'w'"):
        sparsifier.data_groups["w"]["min_kept"] = wrong
    assert "min_kept" not in sparsifier.data_groups["w"]


def test_a_mistyped_key_is_named():
    with pytest.raises(TypeError, match="did you mean 'min_kept'"):
        datasparse.DataNormSparsifier().add_data("w", placed(np.ones(4)), min_keep=1)
