"""data_groups: a live, checked mapping of names to mappings of config keys to plain values."""

import collections.abc
import math

import datasparse
import numpy as np
import pytest


@pytest.fixture
def sparsifier():
    return datasparse.DataNormSparsifier(
        [("emb", np.ones((6, 8), np.float32)), ("head", np.ones((4, 4), np.float32))],
        sparsity_level=0.25,
    )


@pytest.fixture
def config(sparsifier):
    return sparsifier.data_groups["emb"]


class FreeForm(datasparse.BaseDataSparsifier):
    def update_mask(self, name, data, **config):
        pass


@pytest.fixture
def free():
    """The config of a sparsifier that has no keys of its own."""
    return FreeForm([("emb", np.ones((2, 2)))], threshold=0.5).data_groups["emb"]


EMB = {
    "sparsity_level": 0.25,
    "sparse_block_shape": (1, 4),
    "zeros_per_block": 4,
    "norm": "L1",
}


# --- reading --------------------------------------------------------------------------------------


def test_config_has_exactly_the_constructors_keys(config):
    assert dict(config) == EMB


def test_groups_read_as_a_dict_of_dicts(sparsifier):
    groups = {name: dict(config) for name, config in sparsifier.data_groups.items()}
    assert groups == {"emb": EMB, "head": EMB}


def test_config_is_a_mutable_mapping(config):
    assert isinstance(config, collections.abc.MutableMapping)


def test_groups_are_a_mapping(sparsifier):
    assert isinstance(sparsifier.data_groups, collections.abc.Mapping)


def test_groups_are_ordered_as_added(sparsifier):
    for name in ("z", "a", "m"):
        sparsifier.add_data(name, np.ones((1, 4)))
    assert list(sparsifier.data_groups) == ["emb", "head", "z", "a", "m"]
    assert list(sparsifier.data_groups.keys()) == ["emb", "head", "z", "a", "m"]


def test_len_and_in_of_groups(sparsifier):
    assert len(sparsifier.data_groups) == 2
    assert "emb" in sparsifier.data_groups
    assert "nope" not in sparsifier.data_groups
    assert 3 not in sparsifier.data_groups


def test_len_and_in_of_a_config(config):
    assert len(config) == 4
    assert "norm" in config
    assert "nope" not in config
    assert 3 not in config


def test_keys_values_and_items_of_a_config_agree(config):
    assert list(zip(config.keys(), config.values(), strict=True)) == list(config.items())
    assert set(config) == set(EMB)


def test_get_with_and_without_default(config, sparsifier):
    assert config.get("sparsity_level") == 0.25
    assert config.get("nope") is None
    assert config.get("nope", 7) == 7
    assert sparsifier.data_groups.get("nope") is None
    assert sparsifier.data_groups.get("emb") == EMB


def test_unknown_key_raises_key_error(config):
    with pytest.raises(KeyError, match="nope"):
        config["nope"]


def test_unknown_name_raises_key_error(sparsifier):
    with pytest.raises(KeyError, match="nope"):
        sparsifier.data_groups["nope"]


def test_reading_an_unknown_name_creates_no_group(sparsifier):
    with pytest.raises(KeyError):
        sparsifier.data_groups["nope"]
    assert list(sparsifier.data_groups) == ["emb", "head"]


def test_config_unpacks_as_keyword_arguments(config):
    assert (lambda **arguments: arguments)(**config) == EMB


def test_config_unpacks_into_block_mask(config, rng):
    data = rng.normal(size=(6, 8))
    assert np.count_nonzero(datasparse.block_mask(data, **config)) == 36


def test_config_merges_with_a_dict_on_either_side(config):
    assert config | {"sparsity_level": 0.5, "own": 1} == {**EMB, "sparsity_level": 0.5, "own": 1}
    assert {"sparsity_level": 0.5, "own": 1} | config == {**EMB, "own": 1}
    assert config["sparsity_level"] == 0.25


def test_merging_gives_a_dict_that_is_no_longer_live(config):
    merged = config | {}
    assert type(merged) is dict
    config["sparsity_level"] = 0.75
    assert merged["sparsity_level"] == 0.25


def test_groups_merge_with_a_dict(sparsifier):
    assert sparsifier.data_groups | {"own": 1} == {"emb": EMB, "head": EMB, "own": 1}


def test_config_equals_a_dict_and_another_config(config, sparsifier):
    assert config == EMB
    assert EMB == config  # noqa: SIM300
    assert config == sparsifier.data_groups["head"]
    assert config != {**EMB, "norm": "L2"}
    assert config != 3


def test_groups_equal_a_dict_of_dicts(sparsifier):
    assert sparsifier.data_groups == {"emb": EMB, "head": EMB}
    assert sparsifier.data_groups != {"emb": EMB}


def test_repr_shows_the_dict(config, sparsifier):
    assert "'sparsity_level': 0.25" in repr(config)
    assert "'sparse_block_shape': (1, 4)" in repr(config)
    assert "'emb'" in repr(sparsifier.data_groups)
    assert "'norm': 'L1'" in repr(sparsifier.data_groups)


def test_tuples_read_back_as_tuples(config):
    assert type(config["sparse_block_shape"]) is tuple


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
    assert [type(axis) for axis in config["sparse_block_shape"]] == [int, int]


def test_integer_level_reads_as_a_number_equal_to_it(config):
    config["sparsity_level"] = 1
    assert config["sparsity_level"] == 1.0


def test_view_is_live(config, sparsifier):
    sparsifier.data_groups["emb"]["sparsity_level"] = 0.75
    assert config["sparsity_level"] == 0.75


def test_iterating_while_adding_a_group_does_not_crash(sparsifier):
    try:
        for name in sparsifier.data_groups:
            sparsifier.add_data(name + "+", np.ones((1, 4)))
            if len(sparsifier.data_groups) > 20:
                break
    except RuntimeError as error:
        assert "chang" in str(error)  # noqa: PT017  (what a dict says)


# --- writing --------------------------------------------------------------------------------------


def test_written_value_is_used_by_the_next_step(sparsifier, rng):
    data = rng.normal(size=(10, 10))
    sparsifier.add_data("data", data, sparse_block_shape=(1, 1))
    for level, zeros in ((0.3, 30), (0.9, 90), (0.0, 0)):
        sparsifier.data_groups["data"]["sparsity_level"] = level
        sparsifier.step()
        assert np.count_nonzero(~sparsifier.get_mask("data")) == zeros


def test_writing_one_group_leaves_the_others(sparsifier):
    sparsifier.data_groups["emb"]["sparsity_level"] = 0.9
    assert sparsifier.data_groups["head"] == EMB


def test_writing_a_group_leaves_the_defaults(sparsifier):
    sparsifier.data_groups["emb"]["sparsity_level"] = 0.9
    sparsifier.add_data("later", np.ones((2, 4)))
    assert sparsifier.data_groups["later"]["sparsity_level"] == 0.25


def test_norm_is_read_per_group():
    data = np.array([[3.0, 3.0, 5.0, 0.0]])  # the second pair is lower in L1, higher in L2
    sparsifier = datasparse.DataNormSparsifier(sparse_block_shape=(1, 2))
    sparsifier.add_data("l1", data)
    sparsifier.add_data("l2", data, norm="L2")
    sparsifier.step()
    assert sparsifier.get_mask("l1").tolist() == [[True, True, False, False]]
    assert sparsifier.get_mask("l2").tolist() == [[False, False, True, True]]


def test_norm_may_be_written():
    data = np.array([[3.0, 3.0, 5.0, 0.0]])
    sparsifier = datasparse.DataNormSparsifier([("data", data)], sparse_block_shape=(1, 2))
    sparsifier.data_groups["data"]["norm"] = "L2"
    sparsifier.step()
    assert sparsifier.get_mask("data").tolist() == [[False, False, True, True]]


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


def test_update_without_arguments_changes_nothing(config):
    config.update()
    assert config == EMB


@pytest.mark.parametrize("order", [1, -1])
def test_update_is_all_or_nothing(config, order):
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


def test_groups_update_checks_every_group(sparsifier):
    with pytest.raises(ValueError, match="'head'"):
        sparsifier.data_groups.update({"head": {"sparsity_level": 0.5, "norm": "L3"}})
    assert sparsifier.data_groups == {"emb": EMB, "head": EMB}


def test_writing_a_new_name_creates_no_group(sparsifier):
    with pytest.raises((KeyError, TypeError)):
        sparsifier.data_groups["phantom"] = dict(EMB)
    assert list(sparsifier.data_groups) == ["emb", "head"]


def test_groups_cannot_be_deleted_behind_the_sparsifiers_back(sparsifier):
    with pytest.raises((TypeError, AttributeError)):
        del sparsifier.data_groups["emb"]
    assert list(sparsifier.data_groups) == ["emb", "head"]


def test_keys_of_a_built_in_config_cannot_be_deleted(config):
    with pytest.raises((TypeError, ValueError, KeyError)):
        del config["sparsity_level"]
    assert config == EMB


def test_data_groups_itself_cannot_be_replaced(sparsifier):
    with pytest.raises(AttributeError):
        sparsifier.data_groups = {}
    assert sparsifier.data_groups == {"emb": EMB, "head": EMB}


def test_removed_group_leaves_the_mapping(sparsifier):
    sparsifier.remove_data("emb")
    assert list(sparsifier.data_groups) == ["head"]
    assert "emb" not in sparsifier.data_groups


def test_writing_after_remove_data_fails_with_unknown_name(sparsifier, config):
    sparsifier.remove_data("emb")
    with pytest.raises(datasparse.UnknownNameError, match="emb"):
        config["sparsity_level"] = 0.5
    with pytest.raises(datasparse.UnknownNameError, match="emb"):
        config.update(sparsity_level=0.5)


def test_reading_after_remove_data_fails_or_stays_as_it_was(sparsifier, config):
    sparsifier.remove_data("emb")
    try:
        level = config["sparsity_level"]
    except KeyError:
        return
    assert level == 0.25


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("sparsity_level", True, TypeError),
        ("sparsity_level", np.bool_(True), TypeError),
        ("sparsity_level", "0.5", TypeError),
        ("sparsity_level", None, TypeError),
        ("sparsity_level", [0.5], TypeError),
        ("sparsity_level", (0.5,), TypeError),
        ("sparsity_level", np.array([0.5, 0.5]), TypeError),
        ("sparsity_level", 1j, TypeError),
        ("sparsity_level", math.nan, ValueError),
        ("sparsity_level", -math.inf, ValueError),
        ("sparsity_level", -1e-9, ValueError),
        ("sparsity_level", 1 + 1e-9, ValueError),
        ("sparse_block_shape", [1, 4], TypeError),
        ("sparse_block_shape", np.array([1, 4]), TypeError),
        ("sparse_block_shape", (True, 4), TypeError),
        ("sparse_block_shape", (1, True), TypeError),
        ("sparse_block_shape", 4, TypeError),
        ("sparse_block_shape", (1, None), TypeError),
        ("sparse_block_shape", (0, 4), ValueError),
        ("sparse_block_shape", (1, -2), ValueError),
        ("sparse_block_shape", (1, 4, 1), ValueError),
        ("zeros_per_block", True, TypeError),
        ("zeros_per_block", "4", TypeError),
        ("zeros_per_block", (4,), TypeError),
        ("zeros_per_block", 1.5, ValueError),
        ("zeros_per_block", 5, ValueError),
        ("zeros_per_block", -1, ValueError),
        ("zeros_per_block", math.nan, ValueError),
        ("zeros_per_block", math.inf, ValueError),
        ("norm", "l1", ValueError),
        ("norm", 1, TypeError),
        ("norm", None, TypeError),
        ("norm", ("L1",), TypeError),
    ],
)
def test_bad_value_is_refused_by_name_and_group(config, key, value, error):
    with pytest.raises(error) as caught:
        config[key] = value
    assert key in str(caught.value)
    assert "'emb'" in str(caught.value)
    assert config == EMB


# --- zeros_per_block ------------------------------------------------------------------------------


def test_automatic_zeros_per_block_reads_as_the_block_size(config):
    assert config["zeros_per_block"] == 4
    assert type(config["zeros_per_block"]) is int


def test_automatic_zeros_per_block_follows_a_written_block_shape(config):
    config["sparse_block_shape"] = (2, 3)
    assert config["zeros_per_block"] == 6
    config["sparse_block_shape"] = (1, 1)
    assert config["zeros_per_block"] == 1


def test_automatic_zeros_per_block_follows_a_block_shape_given_to_add_data(sparsifier):
    sparsifier.add_data("data", np.ones((4, 4)), sparse_block_shape=(2, 2))
    assert sparsifier.data_groups["data"]["zeros_per_block"] == 4
    sparsifier.add_data("wide", np.ones((4, 16)), sparse_block_shape=(1, 16))
    assert sparsifier.data_groups["wide"]["zeros_per_block"] == 16


def test_whole_blocks_are_pruned_after_the_block_shape_changed(sparsifier, config):
    config["sparse_block_shape"] = (2, 4)
    config["sparsity_level"] = 0.5
    sparsifier.step()
    assert np.count_nonzero(~sparsifier.get_mask("emb")) == 3 * 8  # 3 of 6 blocks


@pytest.mark.parametrize(
    ("block_shape", "size"), [((1, -1), 8), ((-1, 1), 6), ((-1, -1), 48), ((2, -1), 16)]
)
def test_automatic_zeros_per_block_of_a_whole_axis_follows_the_data(config, block_shape, size):
    config["sparse_block_shape"] = block_shape
    assert config["zeros_per_block"] == size
    assert config["sparse_block_shape"] == block_shape


def test_automatic_zeros_per_block_of_a_whole_axis_counts_all_trailing_axes():
    weight = np.ones((8, 3, 3, 3), np.float32)
    sparsifier = datasparse.DataNormSparsifier([("conv", weight)], sparse_block_shape=(1, -1))
    assert sparsifier.data_groups["conv"]["zeros_per_block"] == 27


def test_none_makes_zeros_per_block_automatic_again(config):
    config["zeros_per_block"] = 2
    config["zeros_per_block"] = None
    config["sparse_block_shape"] = (2, 4)
    assert config["zeros_per_block"] == 8


def test_explicit_zeros_per_block_stays(config):
    config["zeros_per_block"] = 2
    config["sparse_block_shape"] = (2, 4)
    assert config["zeros_per_block"] == 2


def test_explicit_zeros_per_block_of_the_constructor_stays_for_another_block_shape():
    sparsifier = datasparse.DataNormSparsifier(zeros_per_block=2)
    sparsifier.add_data("data", np.ones((4, 8)), sparse_block_shape=(1, 8))
    assert sparsifier.data_groups["data"]["zeros_per_block"] == 2


@pytest.mark.parametrize("value", [2.0, np.float64(2.0), np.float32(2.0), np.int8(2), 2])
def test_whole_number_of_any_kind_is_stored_as_int(config, value):
    config["zeros_per_block"] = value
    assert config["zeros_per_block"] == 2
    assert type(config["zeros_per_block"]) is int


def test_fraction_is_refused(config):
    with pytest.raises(ValueError, match=r"zeros_per_block.*1\.5"):
        config["zeros_per_block"] = 1.5
    assert config == EMB


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
    ids=repr,
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


def test_integer_too_large_to_store_is_refused_not_wrapped(free):
    with pytest.raises((ValueError, OverflowError, TypeError)):
        free["own"] = 2**64 + 3
    assert free == {"threshold": 0.5}


def test_key_must_be_a_string(free):
    with pytest.raises(TypeError):
        free[3] = 1
    assert free == {"threshold": 0.5}


def test_custom_sparsifier_takes_any_key(free):
    free["own"] = 1
    assert dict(free) == {"threshold": 0.5, "own": 1}


def test_custom_config_passed_to_add_data_overrides_the_defaults():
    sparsifier = FreeForm(threshold=0.5)
    sparsifier.add_data("data", np.ones((2, 2)), threshold=0.9, own=(1, 2))
    assert sparsifier.data_groups["data"] == {"threshold": 0.9, "own": (1, 2)}


class AtMostOne(FreeForm):
    def check_config(self, name, config):
        if config.get("threshold", 0) > 1:
            raise ValueError(f"threshold of {name!r} must be at most 1, got {config['threshold']}")


def test_check_config_guards_add_data():
    sparsifier = AtMostOne(threshold=0.5)
    with pytest.raises(ValueError, match="threshold of 'data' must be at most 1, got 3"):
        sparsifier.add_data("data", np.ones((2, 2)), threshold=3)
    assert len(sparsifier.data_groups) == 0


def test_check_config_guards_the_constructor():
    with pytest.raises(ValueError, match=r"threshold of .* must be at most 1, got 3"):
        AtMostOne([("data", np.ones((2, 2)))], threshold=3)


def test_check_config_sees_the_constructors_data_list():
    class Record(FreeForm):
        def __init__(self, data_list, **defaults):
            self.seen = []
            super().__init__(data_list, **defaults)

        def check_config(self, name, config):
            self.seen.append((name, dict(config)))

    assert ("data", {"own": 1}) in Record([("data", np.ones((2, 2)))], own=1).seen


def test_check_config_sees_the_whole_config_as_it_would_be():
    class Record(FreeForm):
        def check_config(self, name, config):
            seen.append((name, dict(config)))

    seen = []
    sparsifier = Record([("data", np.ones((2, 2)))], a=1, b=2)
    sparsifier.data_groups["data"]["b"] = 3
    assert seen[-1] == ("data", {"a": 1, "b": 3})


def test_check_config_guards_writing():
    config = AtMostOne([("data", np.ones((2, 2)))], threshold=0.5).data_groups["data"]
    with pytest.raises(ValueError, match="threshold of 'data'"):
        config["threshold"] = 1.5
    with pytest.raises(ValueError, match="threshold of 'data'"):
        config.update(own=1, threshold=1.5)
    assert config == {"threshold": 0.5}


def test_check_config_guards_a_schedulers_map():
    class Push(datasparse.BaseDataScheduler):
        def get_schedule_param(self):
            return {"b": 0.7, "a": 2.0} if self.last_epoch else self.base_param

    sparsifier = AtMostOne([("a", np.ones((2, 2))), ("b", np.ones((2, 2)))], threshold=0.5)
    scheduler = Push(sparsifier, "threshold")
    sparsifier.step()
    with pytest.raises(ValueError, match="threshold of 'a'"):
        scheduler.step()
    assert sparsifier.data_groups == {"a": {"threshold": 0.5}, "b": {"threshold": 0.5}}
