"""Who keeps whom alive, what happens to half-made objects, and what threads may do at once."""

import contextlib
import gc
import inspect
import sys
import threading
import time
import weakref

import datasparse
import numpy as np
import pytest
import reference
import torch
from torch import nn

HALF = {"sparsity_level": 0.5, "sparse_block_shape": (1, 1)}


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


def collect():
    for _ in range(3):
        gc.collect()


# --- half-made objects ----------------------------------------------------------------------------


def test_sparsifier_subclass_that_forgets_the_base_constructor():
    class Forgetful(datasparse.DataNormSparsifier):
        def __init__(self):
            self.forgot = True

    with pytest.raises(TypeError, match="__init__"):
        Forgetful()


def test_custom_sparsifier_that_forgets_the_base_constructor():
    class Forgetful(datasparse.BaseDataSparsifier):
        def __init__(self):
            self.forgot = True

    with pytest.raises(TypeError, match="__init__"):
        Forgetful()


def test_scheduler_subclass_that_forgets_the_base_constructor():
    class Forgetful(datasparse.BaseDataScheduler):
        def __init__(self, sparsifier):
            self.forgot = True

    with pytest.raises(TypeError, match="__init__"):
        Forgetful(datasparse.DataNormSparsifier())


USED_TOO_EARLY = [
    "self.step()",
    "self.data_groups",
    "list(self.data_groups)",
    "self.get_mask('a')",
    "self.get_data('a')",
    "self.add_data('a', np.ones((2, 2)))",
    "self.update_mask('a', np.ones((2, 2)))",
    "self.apply_mask()",
    "self.squash_mask()",
    "self.remove_data('a')",
    "self.state_dict()",
    "self.load_state_dict({})",
    "self.enable_mask_update",
    "self.step_count",
    "self.state",
    "self.defaults",
]


@pytest.mark.parametrize("base", ["BaseDataSparsifier", "DataNormSparsifier"])
def test_sparsifier_used_before_its_base_constructor_raises(run_python, base):
    statements = "\n".join(f"        with raises(): {statement}" for statement in USED_TOO_EARLY)
    script = f"""
import contextlib
import numpy as np
import datasparse

@contextlib.contextmanager
def raises():
    try:
        yield
    except Exception:
        return
    raise SystemExit("no exception")

class Early(datasparse.{base}):
    def __init__(self):
{statements}
        super().__init__()
        self.add_data("a", np.ones((2, 2)))

    def update_mask(self, name, data, **config):
        super().update_mask(name, data, **config)

assert list(Early().data_groups) == ["a"]
print("survived")
"""
    # the override itself is Python: it may be entered, what it calls must raise
    assert run_python(script) == "survived\n"


def test_scheduler_used_before_its_base_constructor_raises(run_python):
    script = """
import datasparse

class Early(datasparse.BaseDataScheduler):
    def __init__(self, sparsifier):
        for use in (
            lambda: self.step(),
            lambda: self.get_last_param(),
            lambda: self.last_epoch,
            lambda: self.base_param,
            lambda: self.data_sparsifier,
            lambda: self.schedule_param,
            lambda: self.state_dict(),
            lambda: self.load_state_dict({}),
        ):
            try:
                use()
            except Exception:
                continue
            raise SystemExit("no exception")
        super().__init__(sparsifier, "sparsity_level")

    def get_schedule_param(self):
        return {}

assert Early(datasparse.DataNormSparsifier()).last_epoch == 0
print("survived")
"""
    assert run_python(script) == "survived\n"


UNMADE = """
import copy, gc, pickle
import numpy as np
import datasparse

class Sparsifier(datasparse.DataNormSparsifier):
    pass

class Custom(datasparse.BaseDataSparsifier):
    def update_mask(self, name, data, **config):
        self.get_mask(name)[...] = True

class Scheduler(datasparse.BaseDataScheduler):
    def get_schedule_param(self):
        return {}

CLASSES = {
    "BaseDataSparsifier": datasparse.BaseDataSparsifier,
    "DataNormSparsifier": datasparse.DataNormSparsifier,
    "BaseDataScheduler": datasparse.BaseDataScheduler,
    "subclass of DataNormSparsifier": Sparsifier,
    "subclass of BaseDataSparsifier": Custom,
    "subclass of BaseDataScheduler": Scheduler,
}
Cls = CLASSES[%r]
ARGUMENTS = (
    (),
    ("a",),
    ({},),
    ("a", np.ones((2, 2))),
    ("a", {}),
    (None,),
)

calls = 0
for name in dir(Cls):
    if name.startswith("_") or name == "get_schedule_param" and Cls is Scheduler:
        continue
    for arguments in ARGUMENTS:
        unmade = Cls.__new__(Cls)
        try:
            member = getattr(unmade, name)
            if not callable(member):
                raise SystemExit(f"{name} was read")
            member(*arguments)
        except Exception:
            calls += 1
        else:
            if name != "check_config":  # a hook that asks nothing of the object
                raise SystemExit(f"{name}{arguments} raised nothing")

for name in ("enable_mask_update", "step_count", "data_groups", "last_epoch", "base_param"):
    try:
        setattr(Cls.__new__(Cls), name, 1)
    except Exception:
        calls += 1

for use in (
    repr, str, bool, hash, copy.copy, copy.deepcopy, pickle.dumps,
    lambda unmade: unmade == unmade,
    lambda unmade: Scheduler(unmade, "sparsity_level"),
):
    try:
        use(Cls.__new__(Cls))
    except Exception:
        calls += 1

gc.collect()
assert calls >= 10, calls
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
def test_every_method_of_an_object_made_without_init_raises(run_python, which):
    assert run_python(UNMADE % which) == "survived\n"


@pytest.mark.parametrize("which", ["sparsifier.data_groups", 'sparsifier.data_groups["a"]'])
def test_mapping_made_without_init_does_not_crash(run_python, which):
    """Every method of a view's class, on an object that views nothing."""
    script = f"""
import gc
import numpy as np
import datasparse

sparsifier = datasparse.DataNormSparsifier([("a", np.ones((2, 2)))])
Cls = type({which})
try:
    Cls()
except Exception:
    pass
for name in dir(Cls):
    if name in ("__class__", "__init_subclass__", "__subclasshook__", "__dir__", "__init__"):
        continue
    if name in ("__reduce__", "__reduce_ex__"):  # the test of pickle below
        continue
    for arguments in ((), ("a",), ("a", 0.5), ({{}},), ({{"a": {{}}}},)):
        try:
            unmade = Cls.__new__(Cls)
            member = getattr(unmade, name)
            if callable(member):
                member(*arguments)
        except Exception:
            pass
gc.collect()
print("survived")
"""
    assert run_python(script) == "survived\n"


@pytest.mark.parametrize("protocol", range(6))
def test_pickling_with_any_protocol_does_not_crash(run_python, protocol):
    script = f"""
import pickle
import numpy as np
import datasparse

class Still(datasparse.BaseDataScheduler):
    def get_schedule_param(self):
        return {{}}

sparsifier = datasparse.DataNormSparsifier([("a", np.ones((2, 2)))])
for made in (sparsifier, Still(sparsifier, "norm"), sparsifier.data_groups["a"]):
    try:
        pickle.dumps(made, protocol={protocol})
    except Exception:
        pass
print("survived")
"""
    assert run_python(script) == "survived\n"


def test_base_constructor_called_twice_does_not_crash(run_python):
    script = """
import gc
import numpy as np
import datasparse

class Twice(datasparse.DataNormSparsifier):
    def __init__(self, data_list):
        super().__init__(data_list)
        mask = self.get_mask("a")
        config = self.data_groups["a"]
        try:
            super().__init__(data_list)
        except Exception:
            return
        gc.collect()
        mask[...] = False
        try:
            config["sparsity_level"] = 0.75
        except Exception:
            pass

sparsifier = Twice([("a", np.ones((4, 4)))])
sparsifier.step()
assert sparsifier.get_mask("a").sum() in (4, 8)
print("survived")
"""
    assert run_python(script) == "survived\n"


def test_failed_constructor_leaves_nothing_behind():
    array = np.ones((4, 4))
    alive = weakref.ref(array)
    with pytest.raises(TypeError):
        datasparse.DataNormSparsifier([("a", array), ("b", np.ones((4, 4), np.int32))])
    del array
    collect()
    assert alive() is None


# --- who keeps whom alive -------------------------------------------------------------------------


def test_array_dropped_by_the_user_stays_alive(rng):
    data = rng.normal(size=(300, 300))
    expected = reference.whole_block_mask_by_stable_sort(data, 0.5)
    sparsifier = datasparse.DataNormSparsifier([("a", data)], **HALF)
    del data
    collect()
    filler = [np.full((300, 300), np.nan) for _ in range(4)]  # would land in freed memory
    sparsifier.step()
    assert np.array_equal(sparsifier.get_mask("a"), expected)
    assert len(filler) == 4


def test_tensor_dropped_by_the_user_stays_alive():
    data = torch.randn(300, 300, generator=torch.Generator().manual_seed(2))
    expected = reference.whole_block_mask_by_stable_sort(data.numpy().copy(), 0.5)
    sparsifier = datasparse.DataNormSparsifier([("a", nn.Parameter(data))], **HALF)
    del data
    collect()
    filler = [torch.full((300, 300), torch.nan) for _ in range(4)]
    sparsifier.step()
    assert np.array_equal(sparsifier.get_mask("a").numpy(), expected)
    assert len(filler) == 4


def test_data_are_released_with_the_sparsifier():
    array = np.ones((4, 4))
    alive = weakref.ref(array)
    sparsifier = datasparse.DataNormSparsifier([("a", array)])
    sparsifier.step()
    del array
    assert alive() is not None
    del sparsifier
    collect()
    assert alive() is None


def test_data_are_released_by_remove_data():
    array = np.ones((4, 4))
    alive = weakref.ref(array)
    sparsifier = datasparse.DataNormSparsifier([("a", array)])
    sparsifier.step()
    sparsifier.remove_data("a")
    del array
    collect()
    assert alive() is None


def test_data_are_released_when_replaced():
    array = np.ones((4, 4))
    alive = weakref.ref(array)
    sparsifier = datasparse.DataNormSparsifier([("a", array)])
    sparsifier.add_data("a", np.ones((4, 4)))
    del array
    collect()
    assert alive() is None


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_a_step_keeps_no_reference_to_the_data(library):
    data = np.ones((4, 4)) if library == "numpy" else nn.Parameter(torch.ones(4, 4))
    sparsifier = datasparse.DataNormSparsifier([("a", data)])
    sparsifier.step()
    count = sys.getrefcount(data)
    for _ in range(50):
        sparsifier.step()
        sparsifier.apply_mask()
    assert sys.getrefcount(data) == count


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_mask_outlives_its_sparsifier(rng, library):
    data = rng.normal(size=(50, 50))
    sparsifier = datasparse.DataNormSparsifier(
        [("a", torch.from_numpy(data) if library == "torch" else data)], **HALF
    )
    sparsifier.step()
    mask = sparsifier.get_mask("a")
    del sparsifier
    collect()
    filler = [np.full((50, 50), 7, np.uint8) for _ in range(20)]
    assert np.array_equal(np.asarray(mask), reference.mask(data, **HALF))
    mask[0] = True
    assert len(filler) == 20


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_mask_outlives_its_group(rng, library):
    data = rng.normal(size=(50, 50))
    make = torch.from_numpy if library == "torch" else np.asarray
    sparsifier = datasparse.DataNormSparsifier([("a", make(data))], **HALF)
    sparsifier.step()
    mask = sparsifier.get_mask("a")
    sparsifier.remove_data("a")
    sparsifier.add_data("a", make(rng.normal(size=(50, 50))))
    sparsifier.step()
    collect()
    assert np.array_equal(np.asarray(mask), reference.mask(data, **HALF))
    mask[0] = True


def test_config_that_outlives_its_sparsifier_does_not_crash():
    config = datasparse.DataNormSparsifier([("a", np.ones((4, 4)))]).data_groups["a"]
    collect()
    with contextlib.suppress(KeyError, RuntimeError):
        assert config["sparsity_level"] == 0.5


def test_groups_that_outlive_their_sparsifier_do_not_crash():
    groups = datasparse.DataNormSparsifier([("a", np.ones((4, 4)))]).data_groups
    collect()
    with contextlib.suppress(KeyError, RuntimeError):
        assert list(groups) in (["a"], [])


def test_iterator_over_groups_survives_the_removal_of_a_group(rng):
    sparsifier = datasparse.DataNormSparsifier([(name, np.ones((2, 2))) for name in "abcdef"])
    seen = []
    try:
        for name in sparsifier.data_groups:
            seen.append(name)
            if name in sparsifier.data_groups:
                sparsifier.remove_data(name)
    except RuntimeError:
        pass
    assert seen[0] == "a"


def test_scheduler_gives_back_the_very_same_sparsifier():
    for sparsifier in (datasparse.DataNormSparsifier(), NormSubclass()):
        scheduler = Halving(sparsifier)
        assert scheduler.data_sparsifier is sparsifier
        assert scheduler.data_sparsifier is sparsifier


def test_sparsifier_kept_by_its_scheduler_alone_is_still_the_subclass():
    class Marking(datasparse.DataNormSparsifier):
        def __init__(self, data_list):
            self.marks = []
            super().__init__(data_list)

        def update_mask(self, name, data, **config):
            self.marks.append(name)
            super().update_mask(name, data, **config)

    scheduler = Halving(Marking([("a", np.ones((4, 4)))]))
    collect()
    scheduler.data_sparsifier.step()
    scheduler.step()
    assert type(scheduler.data_sparsifier) is Marking
    assert scheduler.data_sparsifier.marks == ["a"]
    assert scheduler.data_sparsifier.data_groups["a"]["sparsity_level"] == 0.25


def test_sparsifier_is_released_with_its_scheduler():
    sparsifier = NormSubclass()
    alive = weakref.ref(sparsifier)
    scheduler = Halving(sparsifier)
    del sparsifier
    collect()
    assert alive() is not None
    del scheduler
    collect()
    assert alive() is None


def test_scheduler_does_not_outlive_its_last_reference():
    sparsifier = NormSubclass()
    scheduler = Halving(sparsifier)
    alive = weakref.ref(scheduler)
    del scheduler
    collect()
    assert alive() is None


# --- reference cycles -----------------------------------------------------------------------------


def test_cycle_of_scheduler_and_sparsifier_is_collected():
    sparsifier = NormSubclass([("a", np.ones((4, 4)))])
    sparsifier.scheduler = Halving(sparsifier)
    alive = [weakref.ref(sparsifier), weakref.ref(sparsifier.scheduler)]
    sparsifier.step()
    sparsifier.scheduler.step()
    del sparsifier
    collect()
    assert [ref() for ref in alive] == [None, None]


def test_cycle_with_two_schedulers_is_collected():
    class Other(datasparse.BaseDataScheduler):
        def get_schedule_param(self):
            return {}

    sparsifier = NormSubclass([("a", np.ones((4, 4)))])
    sparsifier.schedulers = [Halving(sparsifier), Other(sparsifier, "norm")]
    sparsifier.schedulers[0].other = sparsifier.schedulers[1]
    alive = [weakref.ref(sparsifier), *map(weakref.ref, sparsifier.schedulers)]
    del sparsifier
    collect()
    assert [ref() for ref in alive] == [None] * 3


def test_cycle_of_a_sparsifier_and_itself_is_collected():
    sparsifier = NormSubclass([("a", np.ones((4, 4)))])
    sparsifier.itself = sparsifier
    alive = weakref.ref(sparsifier)
    del sparsifier
    collect()
    assert alive() is None


def test_cycle_through_the_mask_and_the_configs_is_collected():
    sparsifier = NormSubclass([("a", np.ones((4, 4))), ("b", torch.ones(4, 4))])
    sparsifier.kept = [
        sparsifier.get_mask("a"),
        sparsifier.get_mask("b"),
        sparsifier.data_groups,
        sparsifier.data_groups["a"],
        sparsifier.state,
    ]
    alive = weakref.ref(sparsifier)
    del sparsifier
    collect()
    assert alive() is None


def test_module_that_holds_the_sparsifier_of_its_weight_is_collected():
    module = nn.Linear(8, 4)
    module.sparsifier = datasparse.DataNormSparsifier([("weight", module.weight)])
    module.sparsifier.step()
    alive = [weakref.ref(module), weakref.ref(module.weight), weakref.ref(module.sparsifier)]
    del module
    collect()
    assert [ref() for ref in alive] == [None] * 3


class SparseEmbedding(nn.Embedding):
    """An embedding that owns its sparsifier, whose data is the embedding itself."""

    def __init__(self, *shape):
        super().__init__(*shape)
        self.sparsifier = datasparse.DataNormSparsifier([("self", self)], **HALF)


def test_module_that_is_the_data_of_its_own_sparsifier_works():
    embedding = SparseEmbedding(6, 8)
    embedding.sparsifier.step()
    embedding.sparsifier.apply_mask()
    assert torch.count_nonzero(embedding.weight) == 24


def test_module_that_is_the_data_of_its_own_sparsifier_is_collected():
    embedding = SparseEmbedding(6, 8)
    embedding.sparsifier.step()
    alive = [weakref.ref(embedding), weakref.ref(embedding.sparsifier)]
    del embedding
    collect()
    assert [ref() for ref in alive] == [None, None]


def test_parameter_that_holds_the_sparsifier_of_itself_is_collected():
    parameter = nn.Parameter(torch.ones(4, 4))
    parameter.sparsifier = datasparse.DataNormSparsifier([("self", parameter)])
    parameter.sparsifier.step()
    alive = [weakref.ref(parameter), weakref.ref(parameter.sparsifier)]
    del parameter
    collect()
    assert [ref() for ref in alive] == [None, None]


class Array(np.ndarray):
    """NumPy's own arrays take no attributes; a subclass does."""


def test_array_that_holds_the_sparsifier_of_itself_is_collected():
    array = np.ones((4, 4)).view(Array)
    array.sparsifier = NormSubclass([("self", array)])
    array.sparsifier.step()
    alive = weakref.ref(array.sparsifier)
    del array
    collect()
    # NumPy arrays are no part of the collector's work: what they hold is kept, but never crashes
    assert alive() is None or alive().step_count == 1


def test_exception_from_an_override_keeps_nothing_alive():
    class Fail(datasparse.BaseDataSparsifier):
        def update_mask(self, name, data, **config):
            raise ZeroDivisionError

    sparsifier = Fail([("a", np.ones((4, 4)))])
    alive = weakref.ref(sparsifier)
    with pytest.raises(ZeroDivisionError):
        sparsifier.step()
    del sparsifier
    collect()
    assert alive() is None


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


def test_child_of_a_fork_can_step(run_python):
    script = """
import os
import numpy as np
import datasparse

data = np.random.default_rng(0).normal(size=(600, 600))
sparsifier = datasparse.DataNormSparsifier([("a", data)])
sparsifier.step()
expected = sparsifier.get_mask("a").tobytes()
child = os.fork()
if child == 0:
    sparsifier.step()
    other = datasparse.DataNormSparsifier([("a", data)])
    other.step()
    same = sparsifier.get_mask("a").tobytes() == other.get_mask("a").tobytes() == expected
    os._exit(0 if same else 3)
for _ in range(600):
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        break
    __import__("time").sleep(0.1)
else:
    os.kill(child, 9)
    raise SystemExit("the child hangs")
sparsifier.step()
assert sparsifier.get_mask("a").tobytes() == expected
print(os.waitstatus_to_exitcode(status))
"""
    assert run_python(script) == "0\n"


# --- threads --------------------------------------------------------------------------------------


def run_in_threads(functions, timeout=60):
    """Runs all at once; fails if one raises or does not end."""
    errors = []

    def guarded(function):
        try:
            function()
        except BaseException as error:
            errors.append(error)

    running = [threading.Thread(target=guarded, args=(f,), daemon=True) for f in functions]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(timeout)
    assert not any(thread.is_alive() for thread in running), "a thread hangs"
    assert errors == []


def test_steps_of_different_sparsifiers_in_parallel_give_the_serial_masks(rng):
    data = [rng.standard_normal((200, 150 + 10 * index), dtype=np.float32) for index in range(6)]
    expected = [reference.whole_block_mask_by_stable_sort(d, 0.5, (1, 4)) for d in data]
    sparsifiers = [datasparse.DataNormSparsifier([("a", d)]) for d in data]
    run_in_threads([lambda s=s: [s.step() for _ in range(20)] for s in sparsifiers])
    for sparsifier, mask in zip(sparsifiers, expected, strict=True):
        assert np.array_equal(sparsifier.get_mask("a"), mask)
        assert sparsifier.step_count == 20


def test_block_mask_in_parallel_gives_the_serial_masks(rng):
    data = [rng.standard_normal(100_000 + index, dtype=np.float32) for index in range(6)]
    masks = [[] for _ in data]

    def work(index):
        for level in (0.2, 0.5, 0.9):
            masks[index].append(
                datasparse.block_mask(data[index], sparsity_level=level, sparse_block_shape=(1, 1))
            )

    run_in_threads([lambda index=index: work(index) for index in range(6)])
    for index, d in enumerate(data):
        for level, mask in zip((0.2, 0.5, 0.9), masks[index], strict=True):
            assert np.array_equal(mask, reference.whole_block_mask_by_stable_sort(d, level))


def test_threads_that_step_one_sparsifier_take_turns(rng):
    data = rng.standard_normal((200, 150), dtype=np.float32)
    sparsifier = datasparse.DataNormSparsifier([("a", data)])
    run_in_threads([lambda: [sparsifier.step() for _ in range(25)]] * 4)
    assert sparsifier.step_count == 100
    expected = reference.whole_block_mask_by_stable_sort(data, 0.5, (1, 4))
    assert np.array_equal(sparsifier.get_mask("a"), expected)


class Slow(datasparse.BaseDataSparsifier):
    """Lets the other threads in while it holds the sparsifier."""

    def update_mask(self, name, data, **config):
        mask = self.get_mask(name)
        mask[...] = False
        time.sleep(0.001)
        mask[0] = True


def test_threads_that_step_one_sparsifier_with_an_override_do_not_deadlock():
    sparsifier = Slow([("a", np.ones((4, 4))), ("b", np.ones((4, 4)))])
    run_in_threads([lambda: [sparsifier.step() for _ in range(10)]] * 4)
    assert sparsifier.step_count == 40
    assert np.count_nonzero(sparsifier.get_mask("a")) == 4


def test_other_threads_may_read_and_write_config_during_steps_with_an_override():
    sparsifier = Slow([("a", np.ones((4, 4)))], threshold=0.0)
    done = threading.Event()

    def step():
        for _ in range(30):
            sparsifier.step()
        done.set()

    def write():
        value = 0
        while not done.is_set():
            value += 1
            sparsifier.data_groups["a"]["threshold"] = value
            assert sparsifier.data_groups["a"]["threshold"] == value
            sparsifier.get_mask("a")
            sparsifier.get_data("a")

    run_in_threads([step, write])
    assert sparsifier.step_count == 30


def test_groups_come_and_go_while_another_thread_steps(rng):
    fixed = rng.standard_normal((100, 100), dtype=np.float32)
    sparsifier = datasparse.DataNormSparsifier([("fixed", fixed)])
    done = threading.Event()

    def step():
        for _ in range(200):
            sparsifier.step()
        done.set()

    def come_and_go():
        turn = 0
        while not done.is_set():
            turn += 1
            sparsifier.add_data("guest", np.ones((1 + turn % 50, 20), np.float32))
            sparsifier.remove_data("guest")

    run_in_threads([step, come_and_go])
    expected = reference.whole_block_mask_by_stable_sort(fixed, 0.5, (1, 4))
    assert np.array_equal(sparsifier.get_mask("fixed"), expected)


def test_interrupt_during_a_step_is_raised_after_it(run_python):
    """A step that writes masks is not interrupted; a pending Ctrl-C is raised after it."""
    script = """
import os
import signal
import threading
import time
import numpy as np
import reference
import datasparse

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
data = np.random.default_rng(0).standard_normal((3000, 1000), dtype=np.float32)
expected = reference.whole_block_mask_by_stable_sort(data, 0.5)
sparsifier = datasparse.DataNormSparsifier(
    [("a", data)], sparsity_level=0.5, sparse_block_shape=(1, 1)
)
sparsifier.step()
for attempt in range(5):
    mask = sparsifier.get_mask("a")
    mask[:] = True
    count = sparsifier.step_count
    timer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    steps = 0
    try:
        while True:
            sparsifier.step()
            steps += 1
    except KeyboardInterrupt:
        pass
    timer.join()
    assert sparsifier.step_count - count in (steps, steps + 1)
    assert sparsifier.step_count > count
    assert np.array_equal(mask, expected)
print("whole")
"""
    assert run_python(script) == "whole\n"


def test_gil_is_released_during_a_big_step():
    data = np.random.default_rng(1).standard_normal((2000, 2000), dtype=np.float32)
    sparsifier = datasparse.DataNormSparsifier([("a", data)], **HALF)
    turns = 0
    started, done = threading.Event(), threading.Event()

    def count():
        nonlocal turns
        while not done.is_set():
            turns += 1
            started.set()
            time.sleep(0.0001)

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    started.wait(30)
    # from here on nobody is made to give up the GIL: the counter moves only where it is released
    sys.setswitchinterval(1000)
    try:
        before = turns
        for _ in range(20):
            sparsifier.step()
        during = turns - before
    finally:
        sys.setswitchinterval(interval)
        done.set()
        thread.join(30)
    assert during > 0


def test_counter_of_the_test_above_stands_still_while_the_gil_is_held():
    """The check can fail: pure Python work with no forced switches lets no other thread in."""
    turns = 0
    started, done = threading.Event(), threading.Event()

    def count():
        nonlocal turns
        while not done.is_set():
            turns += 1
            started.set()
            time.sleep(0.0001)

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    started.wait(30)
    sys.setswitchinterval(1000)
    try:
        before = turns
        total = 0
        for number in range(200_000):
            total += number
        during = turns - before
    finally:
        sys.setswitchinterval(interval)
        done.set()
        thread.join(30)
    assert during == 0
    assert total == 19_999_900_000


def test_docstrings_exist_on_what_users_call():
    for owner, names in (
        (
            datasparse.BaseDataSparsifier,
            "add_data remove_data update_mask check_config step get_data get_mask apply_mask "
            "squash_mask state_dict load_state_dict",
        ),
        (datasparse.BaseDataScheduler, "get_schedule_param get_last_param step"),
        (datasparse, "block_mask set_num_threads DataNormSparsifier BaseDataScheduler"),
    ):
        for name in names.split():
            assert inspect.getdoc(getattr(owner, name)), name
