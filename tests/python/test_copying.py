"""copy, deepcopy and pickle of sparsifiers, schedulers and their Python subclasses."""

import copy
import gc
import pickle
import weakref

import datasparse
import numpy as np
import pytest
import torch
from datasparse import BaseDataScheduler, DataNormSparsifier
from support import ON_DEVICES, as_numpy, placed

pytestmark = ON_DEVICES


class Halving(BaseDataScheduler):
    def __init__(self, sparsifier):
        self.calls = 0
        super().__init__(sparsifier, "sparsity_level")

    def get_schedule_param(self):
        self.calls += 1
        if self.last_epoch == 0:
            return self.base_param
        return {name: level * 0.5 for name, level in self.get_last_param().items()}


class Tagged(DataNormSparsifier):
    """A sparsifier with attributes of its own, and no __init__ that could be called again."""

    def __init__(self, tag):
        super().__init__(sparsity_level=0.8, sparse_block_shape=(1, 1))
        self.tag = tag

    def check_config(self, name, config):
        own = {"temperature"}
        super().check_config(name, {k: v for k, v in config.items() if k not in own})


def through_pickle(protocol):
    return lambda thing: pickle.loads(pickle.dumps(thing, protocol))


PROTOCOLS = [through_pickle(p) for p in range(2, pickle.HIGHEST_PROTOCOL + 1)]
DEEP = pytest.mark.parametrize("deep", [copy.deepcopy, *PROTOCOLS])
ALL = pytest.mark.parametrize("any_copy", [copy.copy, copy.deepcopy, *PROTOCOLS])


def make_pair():
    rng = np.random.default_rng(0)
    sparsifier = Tagged("first")
    sparsifier.add_data("a", placed(rng.standard_normal((8, 10))), temperature=2.0)
    sparsifier.add_data("b", placed(rng.standard_normal(20)), zeros_per_block=None)
    sparsifier.state["a"]["seen"] = 3
    scheduler = Halving(sparsifier)
    sparsifier.step()
    scheduler.step()
    return sparsifier, scheduler


@ALL
def test_a_copy_holds_what_the_original_holds(any_copy):
    sparsifier, _ = make_pair()
    other = any_copy(sparsifier)
    assert type(other) is Tagged
    assert other.tag == "first"
    assert other.data_groups == sparsifier.data_groups
    assert list(other.data_groups) == ["a", "b"]
    assert other.state == {"a": {"seen": 3}, "b": {}}
    assert other.step_count == 1
    for name in "ab":
        np.testing.assert_array_equal(other.get_mask(name), sparsifier.get_mask(name))
        np.testing.assert_array_equal(other.get_data(name), sparsifier.get_data(name))


@ALL
def test_a_copy_has_masks_and_configs_of_its_own(any_copy):
    sparsifier, _ = make_pair()
    other = any_copy(sparsifier)
    before = as_numpy(sparsifier.get_mask("a")).copy()
    other.data_groups["a"]["sparsity_level"] = 0.1
    other.get_mask("a")[...] = True
    assert sparsifier.data_groups["a"]["sparsity_level"] == 0.4
    np.testing.assert_array_equal(sparsifier.get_mask("a"), before)


def test_a_shallow_copy_shares_the_data_and_a_deep_one_does_not():
    sparsifier, _ = make_pair()
    assert copy.copy(sparsifier).get_data("a") is sparsifier.get_data("a")
    assert copy.deepcopy(sparsifier).get_data("a") is not sparsifier.get_data("a")


def test_an_automatic_zeros_per_block_stays_automatic():
    other = copy.deepcopy(make_pair()[0])
    other.data_groups["b"]["sparse_block_shape"] = (1, 4)
    assert other.data_groups["b"]["zeros_per_block"] == 4


@DEEP
def test_a_pair_stays_a_pair(deep):
    sparsifier, scheduler = deep(make_pair())
    assert scheduler.data_sparsifier is sparsifier
    assert (scheduler.calls, scheduler.last_epoch) == (2, 1)
    scheduler.step()
    assert sparsifier.data_groups["a"]["sparsity_level"] == 0.2
    assert scheduler.base_param == {"a": 0.8, "b": 0.8}


@DEEP
@pytest.mark.parametrize("first", [0, 1])
def test_a_sparsifier_that_holds_its_scheduler(deep, first):
    pair = make_pair()
    pair[0].scheduler = pair[1]
    other = deep(pair[first])
    sparsifier, scheduler = (
        (other, other.scheduler) if first == 0 else (other.data_sparsifier, other)
    )
    assert sparsifier.scheduler is scheduler
    assert scheduler.data_sparsifier is sparsifier
    scheduler.step()
    assert sparsifier.data_groups["b"]["sparsity_level"] == 0.2
    died = weakref.ref(sparsifier)
    del sparsifier, scheduler, other
    gc.collect()
    assert died() is None


@DEEP
def test_model_and_sparsifier_copied_together_stay_tied(deep):
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Embedding(6, 4))
    sparsifier = DataNormSparsifier(sparse_block_shape=(1, 1))
    sparsifier.add_data("linear", model[0].weight)
    sparsifier.add_data("embedding", model[1])
    sparsifier.step()
    model2, sparsifier2 = deep((model, sparsifier))
    assert sparsifier2.get_data("linear") is model2[0].weight
    assert sparsifier2.get_data("embedding") is model2[1].weight
    sparsifier2.apply_mask()
    assert int((model2[0].weight == 0).sum()) == 32
    assert int((model[0].weight == 0).sum()) == 0


class Holder(torch.nn.Embedding):
    """A module that holds the sparsifier that holds the module."""


@DEEP
def test_a_module_that_holds_the_sparsifier_that_holds_it(deep):
    module = Holder(6, 4)
    module.sparsifier = DataNormSparsifier([("self", module)], sparse_block_shape=(1, 1))
    other = deep(module)
    other.sparsifier.step()
    other.sparsifier.apply_mask()
    assert int((other.weight == 0).sum()) == 12
    assert int((module.weight == 0).sum()) == 0


@DEEP
def test_squashed_groups_and_waiting_states_are_kept(deep):
    sparsifier, _ = make_pair()
    state = sparsifier.state_dict()
    loaded = Tagged("second")
    loaded.load_state_dict(state)
    loaded.add_data("b", placed(np.ones(20)))
    loaded.squash_mask("b")
    other = deep(loaded)
    np.testing.assert_array_equal(other.get_mask("b"), sparsifier.get_mask("b"))
    with pytest.raises(ValueError, match="squashed"):
        other.get_data("b")
    other.add_data("a", placed(np.ones((8, 10))))
    np.testing.assert_array_equal(other.get_mask("a"), sparsifier.get_mask("a"))


def test_an_attribute_that_is_not_plain_is_named():
    sparsifier, scheduler = make_pair()
    scheduler.best = [np.float64(0.5)]
    with pytest.raises(TypeError, match=r"Halving\.best\[0\] cannot be saved.*got float64"):
        scheduler.state_dict()
    sparsifier.scheduler = scheduler
    with pytest.raises(TypeError, match=r"Tagged\.scheduler cannot be saved.*begins with '_'"):
        sparsifier.state_dict()
    del sparsifier.scheduler
    sparsifier._scheduler = scheduler
    assert sparsifier.state_dict()["attributes"] == {"tag": "first"}


class Slotted(DataNormSparsifier):
    __slots__ = ("gain",)

    def __init__(self, *arguments, gain=1.0, **config):
        super().__init__(*arguments, **config)
        self.gain = gain


class SlottedAndMore(Slotted):
    """With a __dict__ beside."""


class SlottedScheduler(BaseDataScheduler):
    __slots__ = ("pace",)

    def get_schedule_param(self):
        return {}


@ALL
def test_attributes_in_slots_are_copied(any_copy):
    sparsifier = SlottedAndMore({"w": np.ones(4)}, gain=5.0)
    sparsifier.other = 2
    again = any_copy(sparsifier)
    assert (again.gain, again.other) == (5.0, 2)
    scheduler = SlottedScheduler(sparsifier, "sparsity_level")
    scheduler.pace = 3
    assert any_copy(scheduler).pace == 3


class Frozen(Slotted):
    """Whose slots nobody may set twice."""

    __slots__ = ()

    def __setattr__(self, name, value):
        if hasattr(self, name):
            raise TypeError(f"{name} is set")
        super().__setattr__(name, value)


def test_attributes_are_loaded_past_a_setattr_that_refuses(tmp_path):
    datasparse.save(tmp_path / "c", Frozen({"w": np.ones(4)}, gain=5.0))
    other = Frozen({"w": np.ones(4)})
    datasparse.load(tmp_path / "c", other)
    assert other.gain == 5.0


def test_attributes_in_slots_are_saved(tmp_path):
    sparsifier = Slotted({"w": np.ones(4)}, gain=5.0)
    scheduler = SlottedScheduler(sparsifier, "sparsity_level")
    scheduler.pace = 3
    datasparse.save(tmp_path / "c", sparsifier, scheduler)
    other = Slotted({"w": np.ones(4)})
    resumed = SlottedScheduler(other, "sparsity_level")
    datasparse.load(tmp_path / "c", other, resumed)
    assert (other.gain, resumed.pace) == (5.0, 3)
    third = Slotted({"w": np.ones(4)})
    third.load_state_dict(sparsifier.state_dict())
    assert third.gain == 5.0
