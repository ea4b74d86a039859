"""Pools: one threshold over many tensors, held against a plain walk over all their blocks."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from datasparse import BaseDataScheduler, DataNormSparsifier, DataScheduler, load, save
from datasparse.schedules import Linear
from reference import as_matrix, block_scores, blocks, float_values
from support import ON_DEVICES, as_numpy, first_there, placed
from torch.nn.utils import prune

pytestmark = [
    # A pool may well do without one of its groups.
    pytest.mark.filterwarnings(r"ignore:step\(\) pruned all weights"),
    *ON_DEVICES,
]

LEVEL, SHAPE = "sparsity_level", "sparse_block_shape"


def walk(groups):
    """How many blocks each group loses; `groups` are (data, config) in order.

    Blocks are taken one by one in the order (score, group, index), NaN last: each costs what it
    zeroes, nothing while its group is below its least number, and none is taken of a group that is
    at its most. The first one that costs too much ends it. None where the bounds leave no room.
    """
    scores, zeros = [], []
    for data, config in groups:
        matrix = as_matrix(float_values(data))
        own = block_scores(matrix, config.get(SHAPE, (1, 1)))
        if config.get("normalize") == "l2":
            squares = math.fsum(float(x) ** 2 for x in own if np.isfinite(x))  # float32: exact
            norm = math.sqrt(squares) or 1.0
            own = [float(x) / norm for x in own]
        scores.append([float(x) for x in own])
        height, width = (
            n if b == -1 else min(b, n)
            for b, n in zip(config.get(SHAPE, (1, 1)), matrix.shape, strict=True)
        )
        given = config.get("zeros_per_block")
        zeros.append(min(height * width, height * width if given is None else given))
    divisor = math.gcd(*zeros)
    weights = [z // divisor for z in zeros]
    all_ = sum(w * len(s) for w, s in zip(weights, scores, strict=True))
    levels = [config[LEVEL] for _, config in groups]
    pruned = zip(levels, weights, scores, strict=True)
    differing = {level for level, w, s in pruned if w * len(s) > 0}
    if len(differing) <= 1:
        budget = round(sum(differing) * all_)
    else:
        total = 0.0
        for level, w, s in zip(levels, weights, scores, strict=True):
            total += level * (w * len(s))
        budget = round(total)
    least, most = [], []
    for (_, config), own in zip(groups, scores, strict=True):
        most.append(math.ceil(config.get("max_level", 1) * len(own)))
        least.append(
            min(math.floor(config.get("min_level", 0) * len(own)), budget * len(own) // all_)
        )
    if budget > sum(w * n for w, n in zip(weights, most, strict=True)):
        return None
    left = budget - sum(w * n for w, n in zip(weights, least, strict=True))
    order = sorted(
        (math.isnan(score), 0.0 if math.isnan(score) else score, g, i)
        for g, own in enumerate(scores)
        for i, score in enumerate(own)
    )
    pruned = [0] * len(groups)
    for _, _, g, _ in order:
        if pruned[g] == most[g]:
            continue
        cost = 0 if pruned[g] < least[g] else weights[g]
        if cost > left:
            break
        left -= cost
        pruned[g] += 1
    return [max(p, n) for p, n in zip(pruned, least, strict=True)]


def sparsifier_of(groups, **config):
    sparsifier = DataNormSparsifier(**{SHAPE: (1, 1), "pool": "all", **config})
    for i, (data, own) in enumerate(groups):
        sparsifier.add_data(f"g{i}", placed(data), **own)
    return sparsifier


def zeros_of(sparsifier):
    return [int((~np.asarray(sparsifier.get_mask(name))).sum()) for name in sparsifier.data_groups]


def masks_of(sparsifier):
    return [as_numpy(sparsifier.get_mask(name)).copy() for name in sparsifier.data_groups]


def random_groups(rng, number):
    """Of all dtypes, with bounds, blocks, levels, ties and NaN."""
    level, blocked = rng.uniform(0, 1), rng.random() < 0.5
    bounded, normalized = rng.random() < 0.4, rng.random() < 0.3
    groups = []
    for _ in range(number):
        shape = tuple(rng.integers(1, 9, rng.integers(1, 4)))
        data = rng.standard_normal(shape)
        if rng.random() < 0.4:
            data = np.round(data * 2)
        data[rng.random(shape) < 0.05] = np.nan
        if rng.random() < 0.2:
            data[rng.random(shape) < 0.1] = np.inf
        config = {LEVEL: level if rng.random() < 0.8 else rng.uniform(0, 1)}
        if blocked:
            config[SHAPE] = [(1, 1), (1, 4), (2, 2), (-1, 1), (1, -1)][rng.integers(5)]
        if bounded and rng.random() < 0.6:
            config["max_level"] = rng.uniform(0.8, 1)
            config["min_level"] = rng.uniform(0, 0.8)
        if normalized:
            config["normalize"] = "l2"
        kind = rng.integers(5)
        if kind == 4:
            data = torch.from_numpy(data).to(torch.bfloat16)
        elif kind == 3 and not normalized:
            pass  # float64, whose squares the walk cannot add up exactly
        else:
            data = data.astype([np.float16, np.float32, np.float32, np.float32][kind])
        groups.append((data, config))
    return groups


@pytest.mark.parametrize("seed", first_there(range(8)))
def test_random_pools_lose_what_a_walk_over_all_blocks_takes(seed):
    rng = np.random.default_rng(seed)
    impossible = 0
    for _ in range(12):
        groups = random_groups(rng, int(rng.integers(1, 12)))
        sparsifier = sparsifier_of(groups)
        pruned = walk(groups)
        if pruned is None:
            impossible += 1
            with pytest.raises(ValueError, match=r"must be in \[0, "):
                sparsifier.step()
            continue
        sparsifier.step()
        for (data, config), expected, name in zip(
            groups, pruned, sparsifier.data_groups, strict=True
        ):
            alone = {k: v for k, v in config.items() if k in (SHAPE, "norm")}
            mask = np.asarray(sparsifier.get_mask(name))
            matrix = as_matrix(float_values(data))
            number = len(blocks(*matrix.shape, config.get(SHAPE, (1, 1))))
            same = DataNormSparsifier([("a", placed(data))], **{SHAPE: (1, 1), **alone})
            same.data_groups["a"][LEVEL] = expected / number
            same.step()
            np.testing.assert_array_equal(mask, np.asarray(same.get_mask("a")))
    assert impossible < 6


def test_equals_global_unstructured_where_there_are_no_ties():
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(n, 16) for n in (16, 32, 64)))
    sparsifier = DataNormSparsifier(sparsity_level=0.7, sparse_block_shape=(1, 1), pool="all")
    for i, layer in enumerate(model):
        sparsifier.add_data(f"{i}", layer.weight.detach().clone())
    sparsifier.step()
    prune.global_unstructured(
        [(layer, "weight") for layer in model], pruning_method=prune.L1Unstructured, amount=0.7
    )
    for i, layer in enumerate(model):
        assert torch.equal(sparsifier.get_mask(f"{i}"), layer.weight_mask.bool())


def test_one_group_alone_is_as_without_a_pool():
    data = np.random.default_rng(1).standard_normal((33, 17))
    for level in (0, 0.3, 0.5, 1):
        for config in ({}, {SHAPE: (2, 3)}, {SHAPE: (1, 4), "zeros_per_block": 2}, {"min_kept": 9}):
            pooled = sparsifier_of([(data, {LEVEL: level, **config})])
            alone = DataNormSparsifier(
                [("a", placed(data))], **{SHAPE: (1, 1), LEVEL: level, **config}
            )
            pooled.step()
            alone.step()
            np.testing.assert_array_equal(pooled.get_mask("g0"), alone.get_mask("a"))


def test_ties_go_to_earlier_groups_first():
    ones = np.ones(10)
    sparsifier = sparsifier_of([(ones, {}), (ones, {}), (ones, {})], sparsity_level=0.5)
    sparsifier.step()
    assert zeros_of(sparsifier) == [10, 5, 0]
    np.testing.assert_array_equal(sparsifier.get_mask("g1"), [False] * 5 + [True] * 5)


def test_a_bounded_group_leaves_the_rest_to_the_others():
    small, large = np.full(10, 0.1), np.arange(1.0, 11)
    sparsifier = sparsifier_of([(small, {"max_level": 0.75}), (large, {})], sparsity_level=0.5)
    sparsifier.step()
    assert zeros_of(sparsifier) == [8, 2]
    sparsifier = sparsifier_of([(small, {}), (large, {"min_level": 0.35})], sparsity_level=0.5)
    sparsifier.step()
    assert zeros_of(sparsifier) == [7, 3]


def test_normalized_scores_do_not_depend_on_the_scale_of_a_layer():
    rng = np.random.default_rng(2)
    a, b = (rng.standard_normal((40, 40)).astype(np.float32) for _ in range(2))
    masks = []
    for scale in (1.0, 2.0**20, 2.0**-30):
        sparsifier = sparsifier_of(
            [(a * np.float32(scale), {}), (b, {})], sparsity_level=0.6, normalize="l2"
        )
        sparsifier.step()
        masks.append(masks_of(sparsifier))
    for some in masks[1:]:
        for mask, first in zip(some, masks[0], strict=True):
            np.testing.assert_array_equal(mask, first)


def test_levels_follow_a_schedule_and_the_plan_counts_the_zeros_of_the_pool():
    rng = np.random.default_rng(3)
    groups = [(rng.standard_normal((20, 10)) * scale, {}) for scale in (1, 2, 3)]
    sparsifier = sparsifier_of(groups, sparsity_level=0.8)
    scheduler = DataScheduler(sparsifier, LEVEL, Linear(end=4))
    plan = scheduler.plan(6)
    np.testing.assert_array_equal(plan.pool_zeros_least["all"], [0, 120, 240, 360, 480, 480])
    np.testing.assert_array_equal(plan.pool_zeros_most["all"], plan.pool_zeros_least["all"])
    assert plan.pools == {"all": ["g0", "g1", "g2"]}
    least, most = plan.zero_shares()
    np.testing.assert_array_equal(least, most)
    assert "pool 'all'" in str(plan)
    assert "240 of 600" in str(plan)
    for step in range(4):
        sparsifier.step()
        assert sum(zeros_of(sparsifier)) == plan.pool_zeros_least["all"][step]
        for name, zeros in zip(sparsifier.data_groups, zeros_of(sparsifier), strict=True):
            assert plan.zeros_least[name][step] <= zeros <= plan.zeros_most[name][step]
        scheduler.step()


def test_report_has_a_row_for_the_pool():
    groups = [(np.arange(10.0) + 1, {}), (np.arange(10.0) + 5, {})]
    sparsifier = sparsifier_of(groups, sparsity_level=0.5)
    sparsifier.add_data("alone", placed(np.arange(10.0)), pool=None)
    sparsifier.step()
    report = sparsifier.report()
    assert report["g0"].pool == "all"
    assert report["alone"].pool is None
    assert report.pools["all"].zeros == 10
    assert report.pools["all"].target == 0.5
    assert report.as_dict()["pools"]["all"]["elements"] == 20
    text = str(report)
    assert text.index("pool 'all'") < text.index("total")

    class Writer:
        def __init__(self):
            self.tags = []

        def add_scalar(self, tag, value, step):
            self.tags.append(tag)

    writer = Writer()
    report.write(writer, 0)
    assert "sparsity/pool all" in writer.tags
    assert "sparsity_target/pool all" in writer.tags
    assert "sparsity_target/g0" not in writer.tags
    assert "sparsity_target/alone" in writer.tags


def test_an_impossible_budget_is_refused_where_it_is_seen():
    groups = [(np.arange(10.0), {"max_level": 0.6}), (np.arange(10.0), {"max_level": 0.6})]
    rule = r"sparsity_level of pool 'all' must be in \[0, 0.6\]"
    sparsifier = sparsifier_of(groups, sparsity_level=0.9)  # not while groups are being added
    before = masks_of(sparsifier)
    with pytest.raises(ValueError, match=rule):
        sparsifier.step()
    for name, mask in zip(sparsifier.data_groups, before, strict=True):
        np.testing.assert_array_equal(sparsifier.get_mask(name), mask)

    sparsifier = sparsifier_of(groups, sparsity_level=0.5)

    class Raise(BaseDataScheduler):
        def get_schedule_param(self):
            level = 0.5 if self.last_epoch == 0 else 0.9
            return dict.fromkeys(self.base_param, level)

    scheduler = Raise(sparsifier, LEVEL)
    sparsifier.step()
    with pytest.raises(ValueError, match=rule):
        scheduler.step()
    assert sparsifier.data_groups["g0"][LEVEL] == 0.5
    assert scheduler.last_epoch == 0
    with pytest.warns(UserWarning, match=r"step 4 .*" + rule):
        scheduler = DataScheduler(sparsifier, LEVEL, Linear(final=1.0, end=4))
    with pytest.raises(ValueError, match=r"step 3: .*" + rule):
        scheduler.plan(5)


def test_an_override_of_update_mask_is_told_that_pools_need_all_groups():
    class Own(DataNormSparsifier):
        def update_mask(self, name, data, **config):
            super().update_mask(name, data, **config)

    sparsifier = Own({name: placed(np.arange(4.0)) for name in "ab"}, pool="all")
    with pytest.raises(ValueError, match=r"update_mask\(\) of 'a' .* pool 'all'.*get_scores"):
        sparsifier.step()


def test_zeros_that_stay_count_in_the_pool():
    rng = np.random.default_rng(4)
    data = rng.standard_normal(100)
    data[:30] = 0
    sparsifier = sparsifier_of([(rng.standard_normal(100), {})], sparsity_level=0.25)
    sparsifier.add_data("kept", placed(data), keep_zeros=True)
    sparsifier.step()
    assert not sparsifier.get_mask("kept")[:30].any()
    assert sum(zeros_of(sparsifier)) == 50


def test_monotone_groups_in_a_pool_give_nothing_back():
    rng = np.random.default_rng(5)
    data = [placed(rng.standard_normal((16, 16))) for _ in range(3)]
    sparsifier = sparsifier_of([(x, {}) for x in data], sparsity_level=0.3, monotone=True)
    sparsifier.step()
    before = masks_of(sparsifier)
    for x in data:
        x[:] = placed(rng.standard_normal((16, 16)))
    for name in sparsifier.data_groups:
        sparsifier.data_groups[name][LEVEL] = 0.5
    sparsifier.step()
    assert sum(zeros_of(sparsifier)) == 384
    for name, mask in zip(sparsifier.data_groups, before, strict=True):
        assert not np.asarray(sparsifier.get_mask(name))[~mask].any()


def test_what_is_saved_goes_on_as_if_unbroken(tmp_path):
    def training():
        rng = np.random.default_rng(6)
        groups = [(placed(rng.standard_normal((30, 20)).astype(t) * s), {}) for t, s in
                  ((np.float32, 1), (np.float64, 3), (np.float16, 2))]  # fmt: skip
        sparsifier = sparsifier_of(groups, sparsity_level=0.9, max_level=0.95, normalize="l2")
        return [x for x, _ in groups], sparsifier, DataScheduler(sparsifier, LEVEL, Linear(end=6))

    def go_on(data, sparsifier, scheduler, steps):
        for step in steps:
            for x in data:
                noise = np.random.default_rng(step).standard_normal(x.shape) / 10
                x += placed(noise.astype(as_numpy(x).dtype))
            sparsifier.step()
            sparsifier.apply_mask()
            scheduler.step()

    data, sparsifier, scheduler = training()
    go_on(data, sparsifier, scheduler, range(3))
    save(tmp_path / "c", sparsifier, scheduler)
    copies = copy.deepcopy(data)
    dictionary = copy.deepcopy((sparsifier.state_dict(), scheduler.state_dict()))
    go_on(data, sparsifier, scheduler, range(3, 6))
    expected = masks_of(sparsifier)

    for way in ("file", "dict"):
        again, resumed, its_scheduler = training()
        for x, saved in zip(again, copies, strict=True):
            x[:] = saved
        if way == "file":
            load(tmp_path / "c", resumed, its_scheduler)
        else:
            resumed.load_state_dict(dictionary[0])
            its_scheduler.load_state_dict(dictionary[1])
        assert resumed.data_groups["g0"]["pool"] == "all"
        go_on(again, resumed, its_scheduler, range(3, 6))
        for name, mask in zip(resumed.data_groups, expected, strict=True):
            np.testing.assert_array_equal(resumed.get_mask(name), mask)


def test_copies_keep_their_pools():
    sparsifier = sparsifier_of([(np.arange(10.0), {}), (np.ones(10), {})], sparsity_level=0.5)
    sparsifier.step()
    for other in (copy.deepcopy(sparsifier), pickle.loads(pickle.dumps(sparsifier))):
        assert dict(other.data_groups["g0"]) == dict(sparsifier.data_groups["g0"])
        other.step()
        assert zeros_of(other) == zeros_of(sparsifier)


@pytest.mark.full_there
@pytest.mark.parametrize("number", [1, 3])
def test_many_small_and_some_large_tensors_give_the_same_masks(number, threads):
    threads(number)
    rng = np.random.default_rng(7)
    sizes = [64] * 200 + [600_000, 5, 300_000]
    data = [rng.standard_normal(n).astype(np.float32) for n in sizes]
    sparsifier = sparsifier_of([(x, {}) for x in data], sparsity_level=0.9)
    for level in (0.9, 0.91, 0.5):  # cold, and with hints near and far
        for name in sparsifier.data_groups:
            sparsifier.data_groups[name][LEVEL] = level
        sparsifier.step()
        all_ = np.concatenate(data)
        k = round(level * all_.size)
        order = np.argsort(np.abs(all_), kind="stable")
        expected = np.ones(all_.size, dtype=bool)
        expected[order[:k]] = False
        found = np.concatenate([sparsifier.get_mask(n) for n in sparsifier.data_groups])
        np.testing.assert_array_equal(found, expected)


def test_attach_makes_one_threshold_for_a_model():
    from datasparse.torch import attach

    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    sparsifier = DataNormSparsifier(sparsity_level=0.5, sparse_block_shape=(1, 1))
    attach(model, sparsifier, pool="all", max_level=0.9)
    sparsifier.step()
    assert sum(zeros_of(sparsifier)) == round(0.5 * (16 * 32 + 32 * 4))
    assert {group["pool"] for group in sparsifier.data_groups.values()} == {"all"}
