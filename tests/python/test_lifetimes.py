"""Who keeps whom alive, what becomes of half-made objects, and how all of it ends.

That a step follows data which move is the matter of test_pinning.py.
"""

import os
import sys
import weakref

import datasparse
import numpy as np
import pytest
import reference
import torch
from support import HALF, as_numpy, collect, on_devices, placed
from torch import nn


class NormSubclass(datasparse.DataNormSparsifier):
    """Has a __dict__, so that it can hold whatever a user hangs on it."""


class Halving(datasparse.BaseDataScheduler):
    def __init__(self, data_sparsifier):
        super().__init__(data_sparsifier, "sparsity_level")

    def get_schedule_param(self):
        if self.last_epoch == 0:
            return self.base_param
        return {
            name: c["sparsity_level"] / 2 for name, c in self.data_sparsifier.data_groups.items()
        }


# --- half-made objects ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "base",
    [datasparse.BaseDataSparsifier, datasparse.DataNormSparsifier, datasparse.BaseDataScheduler],
)
def test_subclass_that_forgets_the_base_constructor(base):
    class Forgetful(base):
        def __init__(self):
            self.forgot = True

    with pytest.raises(TypeError, match="__init__"):
        Forgetful()


UNMADE = """
import copy, gc, pickle
import numpy as np
import datasparse

class Sparsifier(datasparse.DataNormSparsifier):
    def update_mask(self, name, data, **config):
        super().update_mask(name, data, **config)

class Custom(datasparse.BaseDataSparsifier):
    def update_mask(self, name, data, **config):
        self.get_mask(name)[...] = True

class Scheduler(datasparse.BaseDataScheduler):
    def get_schedule_param(self):
        return {}

Cls = {
    "BaseDataSparsifier": datasparse.BaseDataSparsifier,
    "DataNormSparsifier": datasparse.DataNormSparsifier,
    "BaseDataScheduler": datasparse.BaseDataScheduler,
    "subclass of DataNormSparsifier": Sparsifier,
    "subclass of BaseDataSparsifier": Custom,
    "subclass of BaseDataScheduler": Scheduler,
}[%r]

def refuses(use, *arguments):
    try:
        use(*arguments)
    except Exception:
        return True
    return False

calls = 0
for name in dir(Cls):
    if name.startswith("_") or name == "get_schedule_param" and Cls is Scheduler:
        continue
    for arguments in ((), ("a",), ({},), ("a", np.ones((2, 2))), ("a", {}), (None,)):
        unmade = Cls.__new__(Cls)
        if refuses(lambda: getattr(unmade, name)(*arguments)):
            calls += 1
        elif name != "check_config":  # a hook that asks nothing of the object
            raise SystemExit(f"{name}{arguments} raised nothing")
    try:
        read = getattr(unmade, name)
    except Exception:
        continue
    if not callable(read) and name != "config_keys":  # of the class
        raise SystemExit(f"{name} was read")

for name in ("enable_mask_update", "step_count", "data_groups", "last_epoch", "base_param"):
    calls += refuses(setattr, Cls.__new__(Cls), name, 1)
for use in (
    repr, str, bool, hash, copy.copy, copy.deepcopy, pickle.dumps,
    lambda unmade: unmade == unmade,
    lambda unmade: Scheduler(unmade, "sparsity_level"),
):
    calls += refuses(use, Cls.__new__(Cls))
gc.collect()
assert calls >= 10, calls

if Cls in (Sparsifier, Custom):  # none of it is in the way of what __init__ makes
    unmade.__init__()
    unmade.add_data("a", np.ones((2, 2)))
    unmade.step()
    assert list(unmade.data_groups) == ["a"]
if Cls is Scheduler:
    unmade.__init__(datasparse.DataNormSparsifier(), "norm")
    assert unmade.last_epoch == 0
print("survived")
"""


@pytest.mark.parametrize(
    "which",
    [
        "BaseDataSparsifier",
        "DataNormSparsifier",
        "BaseDataScheduler",
        "subclass of DataNormSparsifier",
        "subclass of BaseDataSparsifier",
        "subclass of BaseDataScheduler",
    ],
)
def test_every_method_raises_before_the_base_constructor_has_run(run_python, which):
    assert run_python(UNMADE % which) == "survived\n"


@pytest.mark.parametrize("which", ["sparsifier.data_groups", 'sparsifier.data_groups["a"]'])
def test_mapping_made_without_init_does_not_crash(run_python, which):
    """Every method of a view's class, on an object that views nothing."""
    script = f"""
import contextlib
import gc
import numpy as np
import datasparse

sparsifier = datasparse.DataNormSparsifier([("a", np.ones((2, 2)))])
Cls = type({which})
with contextlib.suppress(Exception):
    Cls()
for name in dir(Cls):
    if name in ("__class__", "__init_subclass__", "__subclasshook__", "__dir__", "__init__"):
        continue
    if name in ("__reduce__", "__reduce_ex__"):  # the test of pickle below
        continue
    for arguments in ((), ("a",), ("a", 0.5), ({{}},), ({{"a": {{}}}},)):
        with contextlib.suppress(Exception):
            member = getattr(Cls.__new__(Cls), name)
            if callable(member):
                member(*arguments)
gc.collect()
print("survived")
"""
    assert run_python(script) == "survived\n"


def test_pickling_with_any_protocol_does_not_crash(run_python):
    script = """
import contextlib
import pickle
import numpy as np
import datasparse

class Still(datasparse.BaseDataScheduler):
    def get_schedule_param(self):
        return {}

sparsifier = datasparse.DataNormSparsifier([("a", np.ones((2, 2)))])
for made in (sparsifier, Still(sparsifier, "norm"), sparsifier.data_groups["a"]):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with contextlib.suppress(Exception):
            pickle.dumps(made, protocol=protocol)
print("survived")
"""
    assert run_python(script) == "survived\n"


@on_devices
def test_base_constructor_called_twice_is_refused_and_changes_nothing():
    class Twice(datasparse.DataNormSparsifier):
        def __init__(self, data_list):
            super().__init__(data_list)
            self.mask = self.get_mask("a")
            self.config = self.data_groups["a"]
            with pytest.raises(RuntimeError, match="twice"):
                super().__init__(data_list)

    sparsifier = Twice([("a", placed(np.ones((4, 4))))])
    collect()
    sparsifier.config["sparsity_level"] = 0.75
    sparsifier.step()
    assert sparsifier.mask is sparsifier.get_mask("a")
    assert as_numpy(sparsifier.mask).sum() == 4


@on_devices
def test_failed_constructor_leaves_nothing_behind():
    array = placed(np.ones((4, 4)))
    alive = weakref.ref(array)
    with pytest.raises(TypeError):
        datasparse.DataNormSparsifier([("a", array), ("b", placed(np.ones((4, 4), np.int32)))])
    del array
    collect()
    assert alive() is None


# --- who keeps whom alive -------------------------------------------------------------------------

RELEASES = {
    "del": lambda held: held.clear(),
    "remove_data": lambda held: held[0].remove_data("a"),
    "squash_mask": lambda held: held[0].squash_mask(),
    "re-adding": lambda held: held[0].add_data("a", np.ones((4, 4))),
}


@on_devices
@pytest.mark.parametrize("release", RELEASES.values(), ids=RELEASES.keys())
def test_data_are_kept_alive_until_they_are_released(wrap, release):
    data = wrap(np.ones((4, 4)))
    alive = weakref.ref(data)
    held = [datasparse.DataNormSparsifier([("a", data)])]
    held[0].step()
    del data
    collect()
    assert alive() is not None
    release(held)
    collect()
    assert alive() is None


@on_devices
def test_a_step_keeps_no_reference_to_the_data(wrap):
    data = wrap(np.ones((4, 4)))
    sparsifier = datasparse.DataNormSparsifier([("a", data)])
    sparsifier.step()
    count = sys.getrefcount(data)
    for _ in range(50):
        sparsifier.step()
        sparsifier.apply_mask()
    assert sys.getrefcount(data) == count


@on_devices
def test_mask_outlives_its_group(rng, wrap):
    data = rng.normal(size=(50, 50))
    sparsifier = datasparse.DataNormSparsifier([("a", wrap(data))], **HALF)
    sparsifier.step()
    mask = sparsifier.get_mask("a")
    sparsifier.remove_data("a")
    sparsifier.add_data("a", wrap(rng.normal(size=(50, 50))))
    sparsifier.step()
    collect()
    assert np.array_equal(as_numpy(mask), reference.mask(data, **HALF))
    mask[0] = True


@on_devices
def test_views_that_outlive_their_sparsifier_can_be_read():
    sparsifier = datasparse.DataNormSparsifier([("a", placed(np.ones((4, 4))))])
    groups, config = sparsifier.data_groups, sparsifier.data_groups["a"]
    del sparsifier
    collect()
    assert config["sparsity_level"] == 0.5
    assert list(groups) == ["a"]


def test_scheduler_gives_back_the_very_same_sparsifier():
    for sparsifier in (datasparse.DataNormSparsifier(), NormSubclass()):
        scheduler = Halving(sparsifier)
        assert scheduler.data_sparsifier is sparsifier
        assert scheduler.data_sparsifier is sparsifier


@on_devices
def test_sparsifier_kept_by_its_scheduler_alone_is_still_the_subclass():
    class Marking(datasparse.DataNormSparsifier):
        def __init__(self, data_list):
            self.marks = []
            super().__init__(data_list)

        def update_mask(self, name, data, **config):
            self.marks.append(name)
            super().update_mask(name, data, **config)

    scheduler = Halving(Marking([("a", placed(np.ones((4, 4))))]))
    collect()
    scheduler.data_sparsifier.step()
    scheduler.step()
    assert type(scheduler.data_sparsifier) is Marking
    assert scheduler.data_sparsifier.marks == ["a"]
    assert scheduler.data_sparsifier.data_groups["a"]["sparsity_level"] == 0.25


def test_scheduler_keeps_its_sparsifier_alive_and_not_the_other_way_round():
    sparsifier = NormSubclass()
    alive = weakref.ref(sparsifier)
    scheduler = Halving(sparsifier)
    second = weakref.ref(Halving(sparsifier))
    del sparsifier
    collect()
    assert alive() is not None
    assert second() is None
    del scheduler
    collect()
    assert alive() is None


# --- reference cycles -----------------------------------------------------------------------------


def scheduler_and_sparsifier():
    sparsifier = NormSubclass([("a", np.ones((4, 4)))])
    sparsifier.scheduler = Halving(sparsifier)
    sparsifier.step()
    sparsifier.scheduler.step()
    return sparsifier, sparsifier.scheduler


def two_schedulers():
    sparsifier = NormSubclass([("a", np.ones((4, 4)))])
    first, second = sparsifier.schedulers = Halving(sparsifier), Halving(sparsifier)
    first.other = second
    return sparsifier, first, second


def sparsifier_and_itself():
    sparsifier = NormSubclass([("a", np.ones((4, 4)))])
    sparsifier.itself = sparsifier
    return (sparsifier,)


def masks_and_configs():
    sparsifier = NormSubclass([("a", np.ones((4, 4))), ("b", torch.ones(4, 4))])
    groups = sparsifier.data_groups
    masks = [sparsifier.get_mask(name) for name in groups]
    sparsifier.kept = [*masks, groups, groups["a"], sparsifier.state]
    return (sparsifier,)


def torch_mask_that_holds_the_sparsifier(squash=False):
    sparsifier = datasparse.DataNormSparsifier([("a", torch.ones(4, 4))])
    mask = sparsifier.get_mask("a")
    mask.sparsifier = sparsifier
    if squash:
        sparsifier.squash_mask()
    return sparsifier, mask


def squashed_mask_that_holds_the_sparsifier():
    return torch_mask_that_holds_the_sparsifier(squash=True)


def module_that_holds_the_sparsifier_of_its_weight():
    module = nn.Linear(8, 4)
    module.sparsifier = datasparse.DataNormSparsifier([("weight", module.weight)])
    module.sparsifier.step()
    return module, module.weight, module.sparsifier


def embedding_that_is_the_data_of_its_own_sparsifier():
    embedding = nn.Embedding(6, 8)
    embedding.sparsifier = datasparse.DataNormSparsifier([("self", embedding)], **HALF)
    embedding.sparsifier.step()
    embedding.sparsifier.apply_mask()
    assert torch.count_nonzero(embedding.weight) == 24
    return embedding, embedding.sparsifier


def parameter_that_holds_the_sparsifier_of_itself():
    parameter = nn.Parameter(torch.ones(4, 4))
    parameter.sparsifier = datasparse.DataNormSparsifier([("self", parameter)])
    parameter.sparsifier.step()
    return parameter, parameter.sparsifier


def override_that_raised():
    class Fail(datasparse.BaseDataSparsifier):
        def update_mask(self, name, data, **config):
            raise ZeroDivisionError

    sparsifier = Fail([("a", np.ones((4, 4)))])
    with pytest.raises(ZeroDivisionError):
        sparsifier.step()
    return (sparsifier,)


@on_devices
@pytest.mark.parametrize(
    "make",
    [
        scheduler_and_sparsifier,
        two_schedulers,
        sparsifier_and_itself,
        masks_and_configs,
        torch_mask_that_holds_the_sparsifier,
        squashed_mask_that_holds_the_sparsifier,
        module_that_holds_the_sparsifier_of_its_weight,
        embedding_that_is_the_data_of_its_own_sparsifier,
        parameter_that_holds_the_sparsifier_of_itself,
        override_that_raised,
    ],
    ids=lambda make: make.__name__,
)
def test_cycle_is_collected(make):
    alive = [weakref.ref(thing) for thing in make()]
    collect()
    assert [ref() for ref in alive] == [None] * len(alive)


class Array(np.ndarray):
    """NumPy's own arrays take no attributes; a subclass does."""


def test_array_that_holds_the_sparsifier_of_itself_does_not_crash():
    array = np.ones((4, 4)).view(Array)
    array.sparsifier = NormSubclass([("self", array)])
    array.sparsifier.step()
    alive = weakref.ref(array.sparsifier)
    del array
    collect()
    # NumPy arrays are no part of the collector's work: what they hold is kept
    assert alive() is None or alive().step_count == 1


# --- the end --------------------------------------------------------------------------------------


def test_thousands_of_short_lives(run_python):
    script = """
import gc
import weakref
import numpy as np
import datasparse

class Sub(datasparse.DataNormSparsifier):
    pass

class Still(datasparse.BaseDataScheduler):
    def get_schedule_param(self):
        return {}

alive = []
for turn in range(2000):
    sparsifier = Sub([("a", np.ones((3, 4)))])
    sparsifier.scheduler = Still(sparsifier, "norm")
    sparsifier.step()
    sparsifier.mask = sparsifier.get_mask("a")
    alive.append(weakref.ref(sparsifier))
del sparsifier
gc.collect()
gc.collect()
print(sum(ref() is not None for ref in alive))
"""
    assert run_python(script) == "0\n"


def test_interpreter_exits_cleanly_with_everything_alive(run_python):
    script = """
import sys
import threading
import numpy as np
import datasparse

class Sub(datasparse.DataNormSparsifier):
    def update_mask(self, name, data, **config):
        super().update_mask(name, data, **config)

class Still(datasparse.BaseDataScheduler):
    def get_schedule_param(self):
        return {}

sparsifier = Sub([("a", np.ones((300, 400)))])
sparsifier.scheduler = Still(sparsifier, "norm")
sparsifier.step()
sys.kept = [sparsifier, sparsifier.get_mask("a"), sparsifier.data_groups, sparsifier.scheduler]
print("leaving")
"""
    assert run_python(script) == "leaving\n"


def test_interpreter_releases_data_that_are_alive_at_its_end(run_python):
    # No function of the script's own: a cycle through its globals would go another way, by the
    # collector.
    script = """
import sys
import weakref
from functools import partial
import numpy as np
import datasparse

data = np.ones((4, 4))
sys.witness = weakref.ref(data, partial(print, "released"))
sparsifier = datasparse.DataNormSparsifier([("a", data)])
sparsifier.step()
del data
print("leaving")
"""
    assert run_python(script).startswith("leaving\nreleased ")


STEPPING_AT_EXIT = """
import threading
import numpy as np
import datasparse

class Sub(datasparse.DataNormSparsifier):
    def update_mask(self, name, data, **config):
        super().update_mask(name, data, **config)
        self.get_mask(name)[0] = True

class Scheduler(datasparse.BaseDataScheduler):
    def get_schedule_param(self):
        return dict.fromkeys(self.base_param, 0.5)

data = np.random.default_rng(0).standard_normal((ROWS, 700), dtype=np.float32)
sparsifier = KIND([("a", data)])
scheduler = Scheduler(sparsifier, "sparsity_level")
wanted = True
all_step = threading.Barrier(4)

def step():
    sparsifier.step()
    all_step.wait()
    while wanted:
        sparsifier.step()
        scheduler.step()
        sparsifier.data_groups["a"]["sparsity_level"]

threads = [threading.Thread(target=step, daemon=True) for _ in range(3)]
for thread in threads:
    thread.start()

def finish():
    global wanted
    wanted = False
    for thread in threads:
        thread.join()
    print("joined")

all_step.wait()
print("leaving")
"""


@pytest.mark.parametrize("times", [3, pytest.param(50, marks=pytest.mark.full)])
@pytest.mark.parametrize("rows", [40, 4000])
@pytest.mark.parametrize("kind", ["Sub", "datasparse.DataNormSparsifier"])
def test_interpreter_exits_cleanly_while_daemon_threads_step(run_python, kind, rows, times):
    """Before Python 3.14, a thread that asks for the GIL then is ended by CPython, in C++."""
    script = STEPPING_AT_EXIT.replace("KIND", kind).replace("ROWS", str(rows))
    # What a thread keeps is not lost while it sleeps, but the leak detector does not find it.
    options = os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"
    for _ in range(times):
        assert run_python(script, ASAN_OPTIONS=options) == "leaving\n"


def test_threads_that_are_waited_for_at_exit_come_to_their_end(run_python):
    """By a function that was registered before ours, and so runs after it."""
    script = STEPPING_AT_EXIT.replace("KIND", "Sub").replace("ROWS", "40")
    early = "import atexit\natexit.register(lambda: finish())\n"
    assert run_python(early + script) == "leaving\njoined\n"
