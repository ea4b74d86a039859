"""data_groups: a live, checked mapping of names to mappings of config keys to plain values."""

import collections.abc
import gc
import weakref

import datasparse
import numpy as np
import pytest
from support import ON_DEVICES, name_of, placed

pytestmark = ON_DEVICES


@pytest.fixture
def sparsifier():
    return datasparse.DataNormSparsifier(
        [
            ("emb", placed(np.ones((6, 8), np.float32))),
            ("head", placed(np.ones((4, 4), np.float32))),
        ],
        sparsity_level=0.25,
    )


@pytest.fixture
def config(sparsifier):
    return sparsifier.data_groups["emb"]


class FreeForm(datasparse.BaseDataSparsifier):
    """Takes any keys."""

    def update_mask(self, name, data, **config):
        pass


@pytest.fixture
def free():
    """The config of a sparsifier that has no keys of its own."""
    return FreeForm([("emb", placed(np.ones((2, 2))))], threshold=0.5).data_groups["emb"]


EMB = {
    "sparsity_level": 0.25,
    "sparse_block_shape": (1, 4),
    "zeros_per_block": 4,
    "norm": "L1",
}


# --- reading --------------------------------------------------------------------------------------


def test_keys_are_str(sparsifier, config):
    for key in (("norm",), (), 1, None):
        with pytest.raises(TypeError):
            config[key]
    with pytest.raises(TypeError, match=r"key 1 \(int\), expected str"):
        sparsifier.data_groups.update({1: EMB})
    with pytest.raises(TypeError, match="one default"):
        config.pop("norm", 1, 2)


def test_views_read_as_the_dicts_that_they_stand_for(sparsifier, config):
    for view, same in ((config, EMB), (sparsifier.data_groups, {"emb": EMB, "head": EMB})):
        assert isinstance(view, collections.abc.Mapping)
        assert dict(view) == same == view
        assert view == same
        assert view != {**same, "norm": "L2"}
        assert view != 3
        assert len(view) == len(same)
        assert list(view) == list(view.keys()) == [key for key, _ in view.items()]
        assert list(view.values()) == [view[key] for key in view]
        assert set(view) == set(same)
        first = next(iter(same))
        assert first in view
        assert "nope" not in view
        assert 3 not in view
        assert view.get(first) == same[first]
        assert view.get("nope") is None
        assert view.get("nope", 7) == 7
        with pytest.raises(KeyError, match="nope"):
            view["nope"]
        assert view | {"own": 1} == {**same, "own": 1}
        assert {"own": 1} | view == {"own": 1, **same}
        assert "'sparse_block_shape': (1, 4)" in repr(view)
        assert view == same, "reading has changed it"
    assert isinstance(config, collections.abc.MutableMapping)
    assert config == sparsifier.data_groups["head"]
    assert "'emb'" in repr(sparsifier.data_groups)


def test_groups_are_ordered_as_added(sparsifier):
    for name in ("z", "a", "m"):
        sparsifier.add_data(name, placed(np.ones((1, 4))))
    assert list(sparsifier.data_groups) == ["emb", "head", "z", "a", "m"]


def test_config_unpacks_into_block_mask(config, rng):
    data = rng.normal(size=(6, 8))
    assert np.count_nonzero(datasparse.block_mask(placed(data), **config)) == 36


def test_view_is_live_and_what_it_merges_to_is_not(config, sparsifier):
    merged = config | {}
    sparsifier.data_groups["emb"]["sparsity_level"] = 0.75
    assert config["sparsity_level"] == 0.75
    assert type(merged) is dict
    assert merged == EMB


def test_values_read_back_as_plain_python_numbers(config):
    config.update(
        sparsity_level=np.float32(0.5),
        zeros_per_block=np.int16(2),
        sparse_block_shape=(np.int64(2), np.uint8(2)),
    )
    assert config == {**EMB, "sparsity_level": 0.5, "zeros_per_block": 2,
                      "sparse_block_shape": (2, 2)}  # fmt: skip
    assert type(config["sparsity_level"]) is float
    assert type(config["zeros_per_block"]) is int
    assert type(config["sparse_block_shape"]) is tuple
    assert [type(axis) for axis in config["sparse_block_shape"]] == [int, int]
    config["sparsity_level"] = 1
    assert config["sparsity_level"] == 1.0


CHANGES = {
    "add": lambda sparsifier, name: sparsifier.add_data(name + "+", placed(np.ones((1, 4)))),
    "remove": lambda sparsifier, name: sparsifier.remove_data(name),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_iterating_while_groups_come_or_go_does_not_crash(sparsifier, change):
    seen = []
    try:
        for name in sparsifier.data_groups:
            seen.append(name)
            change(sparsifier, name)
            if len(sparsifier.data_groups) > 20:
                break
    except RuntimeError as error:
        assert "chang" in str(error)  # noqa: PT017  (what a dict says)
    assert seen[0] == "emb"


# --- writing --------------------------------------------------------------------------------------


def test_written_value_is_used_by_the_next_step(sparsifier, rng):
    data = rng.normal(size=(10, 10))
    sparsifier.add_data("data", placed(data), sparse_block_shape=(1, 1))
    for level, zeros in ((0.3, 30), (0.9, 90), (0.0, 0)):
        sparsifier.data_groups["data"]["sparsity_level"] = level
        sparsifier.step()
        assert np.count_nonzero(~sparsifier.get_mask("data")) == zeros


def test_writing_one_group_leaves_the_others_and_the_defaults(sparsifier):
    sparsifier.data_groups["emb"]["sparsity_level"] = 0.9
    sparsifier.add_data("later", placed(np.ones((2, 4))))
    assert sparsifier.data_groups["head"] == sparsifier.data_groups["later"] == EMB


def test_norm_is_read_per_group_and_may_be_written():
    data = np.array([[3.0, 3.0, 5.0, 0.0]])  # the second pair is lower in L1, higher in L2
    sparsifier = datasparse.DataNormSparsifier(sparse_block_shape=(1, 2))
    sparsifier.add_data("l1", placed(data))
    sparsifier.add_data("l2", placed(data), norm="L2")
    sparsifier.add_data("written", placed(data))
    sparsifier.data_groups["written"]["norm"] = "L2"
    sparsifier.step()
    assert sparsifier.get_mask("l1").tolist() == [[True, True, False, False]]
    assert sparsifier.get_mask("l2").tolist() == [[False, False, True, True]]
    assert sparsifier.get_mask("written").tolist() == [[False, False, True, True]]


@pytest.mark.parametrize(
    "write",
    [
        lambda config: config.update({"sparsity_level": 0.75, "norm": "L2"}),
        lambda config: config.update(sparsity_level=0.75, norm="L2"),
        lambda config: config.update([("sparsity_level", 0.75), ("norm", "L2")]),
        lambda config: config.update({"sparsity_level": 0.75}, norm="L2"),
    ],
    ids=["dict", "keywords", "pairs", "both"],
)
def test_update_takes_what_a_dict_takes(config, write):
    write(config)
    assert config == {**EMB, "sparsity_level": 0.75, "norm": "L2"}


@pytest.mark.parametrize("order", [1, -1])
def test_update_is_all_or_nothing(config, order):
    config.update()
    pairs = [("sparsity_level", 0.75), ("norm", "L3")][::order]
    with pytest.raises(ValueError, match="norm"):
        config.update(dict(pairs))
    assert config == EMB


def test_update_is_checked_as_a_unit(config):
    """Each write alone would be refused, or pass through a config that is."""
    config["zeros_per_block"] = 4
    config.update(sparse_block_shape=(1, 2), zeros_per_block=1)
    config.update(zeros_per_block=6, sparse_block_shape=(2, 3))
    assert config == {**EMB, "sparse_block_shape": (2, 3), "zeros_per_block": 6}


def test_block_shape_smaller_than_explicit_zeros_per_block_is_refused(config):
    config["zeros_per_block"] = 3
    with pytest.raises(ValueError, match="zeros_per_block"):
        config["sparse_block_shape"] = (1, 2)
    assert config == {**EMB, "zeros_per_block": 3}


def delete_key(groups):
    del groups["emb"]["sparsity_level"]


def delete_group(groups):
    del groups["emb"]


@pytest.mark.parametrize(
    "write",
    [
        lambda groups: groups.__setitem__("phantom", dict(EMB)),
        lambda groups: groups.update({"emb": {"norm": "L2"}, "phantom": dict(EMB)}),
        delete_key,  # the built-in rule needs all of its keys
        delete_group,  # behind the sparsifier's back
    ],
)
def test_what_cannot_be_written_changes_nothing(sparsifier, write):
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        write(sparsifier.data_groups)
    assert sparsifier.data_groups == {"emb": EMB, "head": EMB}


def test_data_groups_itself_cannot_be_replaced(sparsifier):
    with pytest.raises(AttributeError):
        sparsifier.data_groups = {}
    assert sparsifier.data_groups == {"emb": EMB, "head": EMB}


def test_removed_group_leaves_the_mapping_and_its_config_the_group(sparsifier, config):
    sparsifier.remove_data("emb")
    assert list(sparsifier.data_groups) == ["head"]
    with pytest.raises(datasparse.UnknownNameError, match="emb"):
        config["sparsity_level"] = 0.5
    with pytest.raises(datasparse.UnknownNameError, match="emb"):
        config.update(sparsity_level=0.5)
    with pytest.raises(datasparse.UnknownNameError, match="emb"):
        config["sparsity_level"]


# --- zeros_per_block ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block_shape", "size"),
    [((1, 4), 4), ((2, 3), 6), ((1, 1), 1), ((1, 16), 16),
     ((1, -1), 8), ((-1, 1), 6), ((-1, -1), 48), ((2, -1), 16)],
)  # fmt: skip
def test_automatic_zeros_per_block_is_the_whole_block(sparsifier, config, block_shape, size):
    """Whether the shape is written, or given to add_data(); -1 is the whole axis of the data."""
    config["sparse_block_shape"] = block_shape
    sparsifier.add_data("new", placed(np.ones((6, 8))), sparse_block_shape=block_shape)
    for name in ("emb", "new"):
        read = sparsifier.data_groups[name]
        assert read["zeros_per_block"] == size
        assert type(read["zeros_per_block"]) is int
        assert read["sparse_block_shape"] == block_shape


def test_whole_blocks_are_pruned_after_the_block_shape_changed(sparsifier, config):
    config["sparse_block_shape"] = (2, 4)
    config["sparsity_level"] = 0.5
    sparsifier.step()
    assert np.count_nonzero(~sparsifier.get_mask("emb")) == 3 * 8  # 3 of 6 blocks


def test_automatic_zeros_per_block_of_a_whole_axis_counts_all_trailing_axes():
    weight = np.ones((8, 3, 3, 3), np.float32)
    sparsifier = datasparse.DataNormSparsifier(
        [("conv", placed(weight))], sparse_block_shape=(1, -1)
    )
    assert sparsifier.data_groups["conv"]["zeros_per_block"] == 27


def test_explicit_zeros_per_block_stays_until_none_makes_it_automatic_again(config):
    config["zeros_per_block"] = 2
    config["sparse_block_shape"] = (2, 4)
    assert config["zeros_per_block"] == 2
    config["zeros_per_block"] = None
    assert config["zeros_per_block"] == 8


def test_explicit_zeros_per_block_of_the_constructor_stays_for_another_block_shape():
    sparsifier = datasparse.DataNormSparsifier(zeros_per_block=2)
    sparsifier.add_data("data", placed(np.ones((4, 8))), sparse_block_shape=(1, 8))
    assert sparsifier.data_groups["data"]["zeros_per_block"] == 2


@pytest.mark.parametrize("value", [2.0, np.float64(2.0), np.float32(2.0), np.int8(2), 2])
def test_whole_number_of_any_kind_is_stored_as_int(config, value):
    config["zeros_per_block"] = value
    assert config["zeros_per_block"] == 2
    assert type(config["zeros_per_block"]) is int


def test_zeros_per_block_beyond_a_whole_axis_is_refused(config):
    config["sparse_block_shape"] = (1, -1)
    config["zeros_per_block"] = 8
    with pytest.raises(ValueError, match="zeros_per_block"):
        config["zeros_per_block"] = 9
    assert config["zeros_per_block"] == 8


# --- configs of custom sparsifiers ----------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [None, True, False, 3, -3, 0.5, 2.0, "text", "", "ünïcode", (), (1, 2), (0.5, 2.0), 2**62],
    ids=name_of,
)
def test_plain_values_read_back_with_their_type(free, value):
    free["own"] = value
    assert free["own"] == value
    assert type(free["own"]) is type(value)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.float32(0.5), 0.5),
        (np.float64(0.1), 0.1),
        (np.float16(0.25), 0.25),
        (np.int32(-7), -7),
        (np.uint8(7), 7),
        (np.bool_(True), True),
    ],
)
def test_numpy_scalars_are_stored_as_plain_values(free, value, plain):
    free["own"] = value
    assert free["own"] == plain
    assert type(free["own"]) is type(plain)


def test_tuple_of_integers_and_floats_reads_back_equal(free):
    free["own"] = (1, 2.5)
    assert free["own"] == (1, 2.5)
    assert type(free["own"]) is tuple


@pytest.mark.parametrize(
    "value",
    [
        [1, 2],
        {"a": 1},
        {1},
        object(),
        lambda: None,
        np.ones(2),
        1j,
        b"bytes",
        (1, "two"),
        ((1, 2), 3),
        (None,),
        ([1],),
    ],
    ids=lambda value: type(value).__name__,
)
def test_anything_else_is_refused(free, value):
    with pytest.raises(TypeError, match="own"):
        free["own"] = value
    assert free == {"threshold": 0.5}


@pytest.mark.parametrize(("key", "value"), [("own", 2**64 + 3), (3, 1)])
def test_what_does_not_fit_is_refused(free, key, value):
    with pytest.raises((ValueError, OverflowError, TypeError)):
        free[key] = value
    assert free == {"threshold": 0.5}


def test_custom_sparsifier_takes_any_key():
    sparsifier = FreeForm(threshold=0.5)
    sparsifier.add_data("data", placed(np.ones((2, 2))), threshold=0.9, own=(1, 2))
    sparsifier.data_groups["data"]["more"] = 1
    assert sparsifier.data_groups["data"] == {"threshold": 0.9, "own": (1, 2), "more": 1}


class AtMostOne(FreeForm):
    def check_config(self, name, config):
        if config.get("threshold", 0) > 1:
            raise ValueError(f"threshold of {name!r} must be at most 1, got {config['threshold']}")


class Push(datasparse.BaseDataScheduler):
    def get_schedule_param(self):
        return {"b": 0.7, "a": 2.0} if self.last_epoch else self.base_param


def push(sparsifier):
    scheduler = Push(sparsifier, "threshold")
    sparsifier.step()
    scheduler.step()


@pytest.mark.parametrize(
    "write",
    [
        lambda s: s.add_data("a", placed(np.ones((2, 2))), threshold=2.0),
        lambda s: s.data_groups["a"].__setitem__("threshold", 2.0),
        lambda s: s.data_groups["a"].update(own=1, threshold=2.0),
        lambda s: s.data_groups.update({"b": {"threshold": 0.7}, "a": {"threshold": 2.0}}),
        push,
    ],
    ids=["add_data", "item", "update", "groups", "scheduler"],
)
def test_check_config_guards_every_write(write):
    sparsifier = AtMostOne(
        [("a", placed(np.ones((2, 2)))), ("b", placed(np.ones((2, 2))))], threshold=0.5
    )
    with pytest.raises(ValueError, match=r"threshold of 'a' must be at most 1, got 2.0"):
        write(sparsifier)
    assert sparsifier.data_groups == {"a": {"threshold": 0.5}, "b": {"threshold": 0.5}}


@pytest.mark.parametrize("names", [(), ("data",)], ids=["none", "one"])
def test_check_config_guards_the_constructor_and_the_defaults(names):
    data_list = [(name, placed(np.ones((2, 2)))) for name in names] or None
    with pytest.raises(ValueError, match=r"threshold of .* must be at most 1, got 3"):
        AtMostOne(data_list, threshold=3)
    sparsifier = AtMostOne(data_list, threshold=1)
    with pytest.raises(ValueError, match=r"threshold of '' must be at most 1, got 3"):
        sparsifier.defaults["threshold"] = 3
    assert sparsifier.defaults == {"threshold": 1}


def test_check_config_sees_the_whole_config_as_it_would_be():
    class Record(FreeForm):
        def __init__(self, data_list, **defaults):
            self.seen = []
            super().__init__(data_list, **defaults)

        def check_config(self, name, config):
            self.seen.append((name, dict(config)))

    sparsifier = Record([("data", placed(np.ones((2, 2))))], a=1, b=2)
    assert sparsifier.seen == [("", {"a": 1, "b": 2}), ("data", {"a": 1, "b": 2})]
    sparsifier.data_groups["data"]["b"] = 3
    assert sparsifier.seen[-1] == ("data", {"a": 1, "b": 3})


def test_check_config_may_refuse_keys_with_the_nearest_known_one():
    class Strict(FreeForm):
        def check_config(self, name, config):
            datasparse.require_known_keys(name, config, ("threshold", "window"))

    data = ("emb", placed(np.ones((2, 2))))
    sparsifier = Strict([data], threshold=0.5)
    with pytest.raises(TypeError, match=r"^unknown config key 'treshold' of 'emb'; did you mean "):
        sparsifier.add_data(*data, treshold=0.5)
    with pytest.raises(TypeError, match=r"^unknown config key 'windo'; did you mean 'window'\?$"):
        Strict(windo=3)
    sparsifier.data_groups["emb"]["window"] = 3
    assert sparsifier.data_groups["emb"] == {"threshold": 0.5, "window": 3}


# --- views of many groups -------------------------------------------------------------------------


def test_items_of_groups_are_a_view(sparsifier):
    items = sparsifier.data_groups.items()
    assert isinstance(items, collections.abc.ItemsView)
    assert len(items) == 2
    assert ("emb", EMB) in items
    assert ("emb", {**EMB, "norm": "L2"}) not in items
    assert ("nope", EMB) not in items
    assert dict(items) == {"emb": EMB, "head": EMB}
    sparsifier.add_data("tail", placed(np.ones(4)))
    assert [name for name, _ in items] == ["emb", "head", "tail"]
    assert [name for name, _ in sparsifier.state.items()] == ["emb", "head", "tail"]


def test_groups_may_come_and_go_while_their_items_are_read(sparsifier):
    items = iter(sparsifier.data_groups.items())
    assert iter(items) is items
    sparsifier.add_data("tail", placed(np.ones(4)))
    sparsifier.remove_data("head")
    (first, config), (gone, config_of_gone) = items
    assert (first, gone) == ("emb", "head")
    assert config == EMB
    with pytest.raises(KeyError, match="head"):
        config_of_gone["norm"]
    assert list(items) == []
    with pytest.raises(StopIteration):
        items.__next__()


def test_configs_of_an_iterator_outlive_it(sparsifier):
    configs = [config for _, config in sparsifier.data_groups.items()]
    configs[1]["norm"] = "L2"
    assert sparsifier.data_groups["head"]["norm"] == "L2"
    assert configs[0]["norm"] == "L1"


def test_an_iterator_does_not_keep_a_cycle_alive():
    class Holding(datasparse.DataNormSparsifier):
        pass

    sparsifier = Holding([("emb", placed(np.ones(4)))])
    sparsifier.iterator = iter(sparsifier.data_groups.items())
    gone = weakref.ref(sparsifier)
    del sparsifier
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("kind", ["config", "defaults", "state"])
def test_each_view_changes_as_a_dict_does(kind):
    sparsifier = FreeForm([("w", placed(np.arange(8.0)))], a=1, b=2)
    sparsifier.state["w"] = {"a": 1, "b": 2}
    views = {"config": sparsifier.data_groups["w"], "state": sparsifier.state["w"]}
    view = views.get(kind, sparsifier.defaults)
    same = view
    view |= {"c": 3}
    assert view is same
    assert view.setdefault("c", 9) == 3
    assert view.setdefault("d", 4) == 4
    assert view.pop("d") == 4
    assert view.pop("d", 7) == 7
    with pytest.raises(KeyError, match="'d'"):
        view.pop("d")
    del view["c"]
    with pytest.raises(KeyError, match="unknown key 'c'"):
        del view["c"]
    assert dict(view) == {"a": 1, "b": 2}


def test_names_of_a_state_dict_are_text():
    sparsifier = FreeForm([("w", placed(np.arange(8.0)))])
    state = sparsifier.state_dict()
    state["data_groups"][1] = state["data_groups"]["w"]
    with pytest.raises(ValueError, match="must have names as keys, got 1"):
        sparsifier.load_state_dict(state)
    state = sparsifier.state_dict()
    state["attributes"] = {1: "one"}
    with pytest.raises(ValueError, match="must have names as keys, got 1"):
        sparsifier.load_state_dict(state)
    assert list(sparsifier.data_groups) == ["w"]
