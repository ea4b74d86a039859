"""The places at which pruning stops, found by sums of what parts have counted."""

import numpy as np
import pytest
import torch
from datasparse._core import ShardParts, ShardSelection


def keys_of(numbers):
    """Those of magnitudes, as the core makes them: they order as the numbers do."""
    return np.abs(numbers.astype(np.float32)).view(np.uint32).astype(np.uint64) + (1 << 31)


def search_of(groups, sizes, budget, hint=None, **other):
    members = [(size, 1, 0, size) for size in sizes]
    search = {"groups": groups, "members": members, "budget": budget, "wide": False}
    return search | {"has_sign": False, "key_step": 0, "hint": hint} | other


def find(searches, keys, ranks, most=8192):
    """Runs it on parts of each group: every ranks-th block is a rank's."""
    selection = ShardSelection(searches, most)
    while not selection.done:
        numbers = np.zeros(selection.size, np.int64)
        for q, (groups, first, at, positions) in enumerate(selection.questions):
            assert at.dtype == np.uint64
            for m, group in enumerate(groups):
                index = np.arange(len(keys[group]))
                for rank in range(ranks):
                    own = index % ranks == rank
                    key, position = keys[group][own, None], first[m] + index[own, None]
                    before = (key < at) | ((key == at) & (position < positions))
                    counts = np.append(before.sum(axis=0), own.sum())
                    selection.add(q, m, counts, numbers)
        selection.tell(numbers)
    return selection


def pruned(selection, group, keys):
    key, position = selection.stop(group)
    return (keys < key) | ((keys == key) & (np.arange(len(keys)) < position))


def test_pool_and_lone_groups_stop_where_a_sort_says():
    random = np.random.default_rng(0)
    numbers = [np.round(random.normal(size=n), 1) for n in (100, 57, 80)]
    keys = [keys_of(x) for x in numbers]
    searches = [search_of([0, 2], [100, 80], 90), search_of([1], [57], 20)]
    for ranks in (1, 3):
        selection = find(searches, keys, ranks)
        pool = np.argsort(np.concatenate([keys[0], keys[2]]), kind="stable")[:90]
        expected = np.isin(np.arange(180), pool)
        np.testing.assert_array_equal(pruned(selection, 0, keys[0]), expected[:100])
        np.testing.assert_array_equal(pruned(selection, 2, keys[2]), expected[100:])
        alone = np.argsort(keys[1], kind="stable")[:20]
        expected = np.isin(np.arange(57), alone)
        np.testing.assert_array_equal(pruned(selection, 1, keys[1]), expected)


def test_hint_of_the_same_data_takes_one_round():
    keys = [keys_of(np.random.default_rng(1).normal(size=1000))]
    first = find([search_of([0], [1000], 900)], keys, 2, 32)
    again = find([search_of([0], [1000], 900, first.hint(0))], keys, 2, 32)
    assert first.rounds > 1
    assert again.rounds == 1
    np.testing.assert_array_equal(pruned(again, 0, keys[0]), pruned(first, 0, keys[0]))


def test_a_search_begins_where_it_is_expected_to_stop():
    keys = [keys_of(np.random.default_rng(1).normal(size=1000))]
    (hint,) = find([search_of([0], [1000], 900)], keys, 2, 32).hint(0)
    expecting = ShardSelection([search_of([0], [1000], 900)], 32)
    expecting.expect(0, hint)
    hinted = ShardSelection([search_of([0], [1000], 900, (hint,))], 32)
    np.testing.assert_array_equal(expecting.questions[0][2], hinted.questions[0][2])
    with pytest.raises(ValueError, match="search must be less than 1, got 1"):
        expecting.expect(1, hint)


def test_sums_that_do_not_add_up_are_refused():
    selection = ShardSelection([search_of([7], [10], 5)])
    before = selection.questions[0][2].copy()
    with pytest.raises(ValueError, match=r"group 7 .* 10 in all, got 0: a part is missing"):
        selection.tell(np.zeros(selection.size, np.int64))
    with pytest.raises(ValueError, match="sums must be an array of"):
        selection.tell(np.zeros(1, np.int64))
    np.testing.assert_array_equal(selection.questions[0][2], before)
    assert selection.rounds == 0


def test_calls_that_make_no_sense_are_refused():
    selection = ShardSelection([search_of([7], [10], 5)])
    numbers = np.zeros(selection.size, np.int64)
    counts = np.zeros(selection.size, np.int64)
    with pytest.raises(RuntimeError, match="must come when done"):
        selection.stop(7)
    with pytest.raises(IndexError, match="question must be less than 1, got 1"):
        selection.add(1, 0, counts, numbers)
    with pytest.raises(IndexError, match="member must be less than 1, got 2"):
        selection.add(0, 2, counts, numbers)
    with pytest.raises(ValueError, match="counts must be an array of"):
        selection.add(0, 0, counts[1:], numbers)
    with pytest.raises(ValueError, match="group 7 a second time"):
        ShardSelection([search_of([7], [10], 5), search_of([7], [10], 5)])
    with pytest.raises(ValueError, match="key_step of search 0 must be in"):
        ShardSelection([search_of([7], [10], 5, key_step=24)])
    with pytest.raises(ValueError, match="0 <= least <= most <= blocks"):
        ShardSelection([search_of([7], [10], 5, members=[(10, 1, 0, 11)])])
    done = ShardSelection([search_of([7], [10], 0)])
    assert done.done
    assert done.stop(7) == (0, 0)
    with pytest.raises(ValueError, match="group must be one of a search, got 8"):
        done.stop(8)
    with pytest.raises(ValueError, match="search must be less than 1, got 1"):
        done.hint(1)


RULE = {"order": (), "block": (1, 1), "zeros": 1, "norm": "L1", "monotone": False}
RULE |= {"normalize": None, "kept": None, "counts": True}


def masks_of_parts(data, told):
    """Of groups in a pool, half of whose elements are pruned. `told` makes what begin() is told."""
    masks = [np.ones(own.shape, bool) for own in data]
    jobs = [
        RULE | {"data": own, "mask": mask, "shard": (1, own.size, 0, 0), "normalize": "l2"}
        for own, mask in zip(data, masks, strict=True)
    ]
    sizes = [own.size for own in data]
    search = search_of(range(len(data)), sizes, sum(sizes) // 2) | {"wide": True}
    parts = ShardParts(jobs, [search])
    parts.begin(told(parts.prelude()))
    selection = parts.selection()
    while not selection.done:
        selection.tell(parts.count(selection))
    parts.find(selection)
    parts.write(range(len(data)))
    return masks


def test_parts_read_sums_that_do_not_follow_each_other_in_memory():
    data = [np.arange(1.0, 9.0)[None], 1000 * np.arange(1.0, 9.0)[None]]
    expected = masks_of_parts(data, lambda sums: sums)
    assert [mask.sum() for mask in expected] == [4, 4]  # by their norms, both are alike
    apart = masks_of_parts(data, lambda sums: np.repeat(sums, 2)[::2])
    np.testing.assert_array_equal(apart, expected)


@pytest.mark.device("wrapped", "pretended", "cuda")
def test_parts_on_a_device_are_refused(device):
    job = RULE | {"data": device.put(torch.ones(1, 8)), "shard": (1, 8, 0, 0)}
    with pytest.raises(TypeError, match=r"^data must lie in CPU memory, got a tensor on "):
        ShardParts([job | {"mask": np.ones((1, 8), bool)}], [search_of([0], [8], 4)])


def test_what_is_no_part_is_refused():
    search = search_of([0], [8], 4)
    job = RULE | {"data": np.ones((1, 8)), "shard": (1, 8, 0, 0)}
    wrong = [[[True] * 8], np.ones((8, 1), bool), np.ones((1, 8)), np.ones((1, 16), bool)[:, ::2]]
    for mask in wrong:
        with pytest.raises(TypeError, match=r"^mask must be a bool array of shape \(1, 8\) in C"):
            ShardParts([job | {"mask": mask}], [search])
    job["mask"] = np.ones((1, 8), bool)
    with pytest.raises(TypeError, match=r"^a job is a str, expected a mapping$"):
        ShardParts(job, [search])
    with pytest.raises(TypeError, match=r"^a search is a str, expected a mapping$"):
        ShardParts([job], search)


def test_sums_and_selections_of_others_are_refused():
    job = RULE | {"data": np.ones((3, 4)), "mask": np.ones((3, 4), bool), "shard": (6, 4, 0, 0)}
    job |= {"block": (2, 2), "zeros": 4, "cuts": [3]}
    parts = ShardParts([job], [search_of([0], [6], 3) | {"wide": True}])
    assert len(parts.prelude()) == 2  # the sums of two blocks that another part ends
    with pytest.raises(ValueError, match=r"^sums must be as many as .* prelude\(\), 2, got 0$"):
        parts.begin(np.zeros(0, np.int64))
    with pytest.raises(ValueError, match=r"^selection must be of groups less than 1, got 5$"):
        parts.count(ShardSelection([search_of([5], [6], 3) | {"wide": True}]))
