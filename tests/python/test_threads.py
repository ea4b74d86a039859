"""Many threads at once: no call hangs, none is lost, and the masks are those of one thread."""

import contextlib
import copy
import gc
import itertools
import pickle
import sys
import threading
import time
from functools import partial

import datasparse
import numpy as np
import pytest
import reference
import torch
from support import HALF, as_numpy, on_devices, placed, values

LEVELS = (0.25, 0.5, 0.75)

# A hang fails after this time, with the stacks of all threads.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def hasty():
    """Threads interrupt each other as often as the interpreter can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def mask_of(data, level=0.5, block=(1, 4)):
    return reference.whole_block_mask_by_stable_sort(data, level, block)


def run_together(*functions, beside=()):
    """Starts all at the same moment and waits for `functions`; those `beside` are called again and
    again until then. Fails if one raises or hangs."""
    barrier = threading.Barrier(len(functions) + len(beside))
    done = threading.Event()
    errors = []

    def once(function):
        barrier.wait(60)
        function()

    def again(function):
        barrier.wait(60)
        while not done.is_set():
            function()

    def guarded(run, function):
        try:
            run(function)
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=guarded, args=(once, f), daemon=True) for f in functions]
    others = [threading.Thread(target=guarded, args=(again, f), daemon=True) for f in beside]
    for thread in (*workers, *others):
        thread.start()
    for thread in workers:
        thread.join(240)
    done.set()
    for thread in others:
        thread.join(60)
    assert not any(thread.is_alive() for thread in (*workers, *others)), "a thread hangs"
    if errors:
        raise errors[0]


def repeat(times, function):
    return lambda: [function() for _ in range(times)] and None


def often(number, device):
    """A step elsewhere takes a hundred times as long as one of the core. It also lets go of the GIL
    at each of hundreds of operations, and others then collect, or step."""
    return number if device.name == "cpu" else max(2, number // 50)


class Override(datasparse.DataNormSparsifier):
    """The built-in rule and an edit of its own, in Python: the first row is always kept."""

    def __init__(self, *args, **config):
        self.calls = 0
        super().__init__(*args, **config)

    def update_mask(self, name, data, **config):
        super().update_mask(name, data, **config)
        self.get_mask(name)[0] = True
        self.calls += 1


class Custom(datasparse.BaseDataSparsifier):
    """Lets the other threads in while the mask is half written."""

    def update_mask(self, name, data, **config):
        mask = self.get_mask(name)
        mask[...] = False
        time.sleep(0)
        mask[...] = data > 0


class Levels(datasparse.BaseDataScheduler):
    """Goes round LEVELS; all groups have the same level at any time."""

    def __init__(self, sparsifier):
        self.calls = 0
        super().__init__(sparsifier, "sparsity_level")

    def get_schedule_param(self):
        self.calls += 1
        level = LEVELS[self.last_epoch % 3]
        return dict.fromkeys(self.data_sparsifier.data_groups, level)


# --- steps ----------------------------------------------------------------------------------------


FULL_500 = pytest.param(500, marks=pytest.mark.full)


def eight_sparsifiers():
    """Of all kinds, each with data of its own, and the masks that one thread gets."""
    made, expected = [], []
    for index in range(8):
        first, second = values(2 * index), values(2 * index + 1, (9, 11))
        groups = [("numpy", first), ("torch", torch.from_numpy(second.copy()))]
        kind = (datasparse.DataNormSparsifier, Override, Custom)[index % 3]
        masks = [first > 0, second > 0]
        if kind is not Custom:
            masks = [mask_of(first), mask_of(second)]
        if kind is Override:
            for mask in masks:
                mask[0] = True
        made.append(kind(groups))
        expected.append(masks)
    return made, expected


@on_devices
@pytest.mark.parametrize("steps", [40, FULL_500])
def test_eight_threads_step_different_sparsifiers(steps, device):
    steps = often(steps, device)
    made, expected = eight_sparsifiers()
    run_together(*(repeat(steps, sparsifier.step) for sparsifier in made))
    for sparsifier, masks in zip(made, expected, strict=True):
        assert sparsifier.step_count == steps
        for name, mask in zip(sparsifier.data_groups, masks, strict=True):
            np.testing.assert_array_equal(as_numpy(sparsifier.get_mask(name)), mask)


@on_devices
@pytest.mark.parametrize("steps", [40, FULL_500])
@pytest.mark.parametrize("kind", [datasparse.DataNormSparsifier, Override, Custom])
def test_eight_threads_step_one_sparsifier(kind, steps, device):
    steps = often(steps, device)
    made, expected = eight_sparsifiers()
    index = [type(sparsifier) for sparsifier in made].index(kind)
    sparsifier = made[index]
    run_together(*[repeat(steps, sparsifier.step)] * 8)
    assert sparsifier.step_count == 8 * steps
    for name, mask in zip(sparsifier.data_groups, expected[index], strict=True):
        np.testing.assert_array_equal(as_numpy(sparsifier.get_mask(name)), mask)
    if kind is Override:
        assert sparsifier.calls == 2 * 8 * steps


@on_devices
def test_large_and_small_steps_together(device):
    """Steps that use several threads of their own, beside others that use one."""
    large = [values(seed, (600, 700)) for seed in range(2)]
    small = [values(10 + seed) for seed in range(4)]
    sparsifiers = [datasparse.DataNormSparsifier([("w", placed(x))]) for x in (*large, *small)]
    run_together(*(repeat(often(10, device), sparsifier.step) for sparsifier in sparsifiers))
    for sparsifier, data in zip(sparsifiers, (*large, *small), strict=True):
        np.testing.assert_array_equal(sparsifier.get_mask("w"), mask_of(data))


@on_devices
@pytest.mark.parametrize("kind", [datasparse.DataNormSparsifier, Override])
def test_steps_over_the_same_data(kind):
    """Several sparsifiers share one array and one tensor."""
    first, second = values(0), torch.from_numpy(values(1))
    made = [kind([("a", first), ("b", second)], LEVELS[index % 3]) for index in range(6)]
    run_together(*(repeat(20, sparsifier.step) for sparsifier in made))
    for index, sparsifier in enumerate(made):
        for name, data in (("a", first), ("b", second.numpy())):
            mask = mask_of(data, LEVELS[index % 3])
            mask[0] |= kind is Override
            np.testing.assert_array_equal(as_numpy(sparsifier.get_mask(name)), mask)


@on_devices
def test_block_masks_in_parallel():
    data = [values(seed, 100_000 + seed) for seed in range(6)]
    there = [placed(array) for array in data]  # another thread would make them elsewhere
    masks = {}

    def work(index, level):
        def compute():
            masks[index, level] = datasparse.block_mask(
                there[index], sparsity_level=level, sparse_block_shape=(1, 4)
            )

        return compute

    run_together(*(work(index, level) for index in range(6) for level in LEVELS))
    for (index, level), mask in masks.items():
        np.testing.assert_array_equal(mask, mask_of(data[index], level))
    assert len(masks) == 18


@on_devices
def test_failing_steps_beside_good_ones():
    """Every second call raises; what raised changed nothing and counted nothing."""

    class Fails(datasparse.BaseDataSparsifier):
        def __init__(self, data):
            self.turns = itertools.count()
            super().__init__(data)

        def update_mask(self, name, data, **config):
            mask = self.get_mask(name)
            if next(self.turns) % 2:
                mask[...] = False
                raise ZeroDivisionError
            mask[...] = data > 0

    data = placed(values(0))
    sparsifier = Fails([("a", data)])
    raised = []

    def step():
        for _ in range(50):
            try:
                sparsifier.step()
            except ZeroDivisionError:
                raised.append(True)

    run_together(*[step] * 6)
    assert len(raised) == 150
    assert sparsifier.step_count == 150
    np.testing.assert_array_equal(sparsifier.get_mask("a"), data > 0)


# --- readers beside a step ------------------------------------------------------------------------


@on_devices
@pytest.mark.parametrize(
    "kind",
    [pytest.param(datasparse.DataNormSparsifier, marks=pytest.mark.full_there), Override],
)
def test_readers_see_whole_steps_and_whole_configs(kind, device):
    """A state is of before or after a step; what is written as a unit is read as one."""
    arrays = {"a": values(0), "b": values(1)}
    tensor = torch.from_numpy(arrays["b"])
    sparsifier = kind([("a", arrays["a"]), ("b", tensor)], LEVELS[0])
    scheduler = Levels(sparsifier)
    allowed = {}
    for name, data in arrays.items():
        masks = [mask_of(data, level) for level in LEVELS]
        for mask in masks:
            mask[0] |= kind is Override
        packed = [np.packbits(mask, axis=None, bitorder="little").tobytes() for mask in masks]
        allowed[name] = [*packed, b"\xff" * len(packed[0])]
    sparsifier.step()
    counts, steps = [0], often(60, device)

    def train():
        for _ in range(steps):
            sparsifier.step()
            scheduler.step()

    def read_state():
        state = sparsifier.state_dict()
        groups = state["data_groups"]
        found = [allowed[name].index(groups[name]["mask"]) for name in arrays]
        assert found[0] == found[1]  # both masks are of the same step
        levels = {group["config"]["sparsity_level"] for group in groups.values()}
        assert len(levels) == 1
        assert state["step_count"] >= counts[0]
        counts[0] = state["step_count"]

    def read_groups():
        for name, config in sparsifier.data_groups.items():
            shown = dict(config)
            assert shown["sparsity_level"] in LEVELS
            assert shown["zeros_per_block"] == 4
            assert name in sparsifier.data_groups
        assert len(sparsifier.data_groups) == 2

    def read_masks():
        for name, data in arrays.items():
            mask = sparsifier.get_mask(name)
            assert mask is sparsifier.get_mask(name)
            assert tuple(mask.shape) == data.shape
            assert as_numpy(mask).view(np.uint8).max() <= 1

    def read_data():
        assert sparsifier.get_data("a") is arrays["a"]
        assert sparsifier.get_data("b") is tensor
        masked = as_numpy(sparsifier.get_data("b", return_original=False))
        assert ((masked == 0) | (masked == arrays["b"])).all()

    def read_scheduler():
        assert set(scheduler.get_last_param().values()) <= set(LEVELS)
        assert set(scheduler.base_param) == {"a", "b"}
        assert 0 <= scheduler.last_epoch <= steps

    readers = (read_state, read_groups, read_masks, read_data, read_scheduler)
    run_together(train, beside=readers)
    assert sparsifier.step_count == steps + 1
    assert scheduler.last_epoch == steps
    for name in arrays:
        mask = sparsifier.state_dict()["data_groups"][name]["mask"]
        assert mask == allowed[name][(steps - 1) % 3]


@on_devices
def test_copies_of_a_sparsifier_that_steps():
    data = values(0)
    sparsifier = Override([("a", data), ("b", torch.from_numpy(data.copy()))])
    sparsifier.step()
    mask = mask_of(data)
    mask[0] = True

    def check(copied):
        for name in "ab":
            np.testing.assert_array_equal(as_numpy(copied.get_mask(name)), mask)
        copied.step()

    run_together(
        repeat(100, sparsifier.step),
        beside=[
            lambda: check(copy.deepcopy(sparsifier)),
            lambda: check(pickle.loads(pickle.dumps(sparsifier))),
        ],
    )


@on_devices
def test_states_saved_and_loaded_while_stepping(device):
    """Each load is whole: after it, and after the steps since, all groups have one level."""
    arrays = {"a": values(0), "b": values(1)}
    sparsifier = datasparse.DataNormSparsifier({n: placed(array) for n, array in arrays.items()})
    states, times = [], often(150, device)
    for level in LEVELS:
        for name in arrays:
            sparsifier.data_groups[name]["sparsity_level"] = level
        sparsifier.step()
        states.append(sparsifier.state_dict())
    turns = itertools.count()

    def load():
        sparsifier.load_state_dict(states[next(turns) % 3])

    def check():
        groups = sparsifier.state_dict()["data_groups"].values()
        assert len({group["config"]["sparsity_level"] for group in groups}) == 1

    loads = [repeat(times, load)] * 2
    run_together(repeat(times, sparsifier.step), *loads, beside=[check])
    sparsifier.step()
    for name, config in sparsifier.data_groups.items():
        expected = mask_of(arrays[name], config["sparsity_level"])
        np.testing.assert_array_equal(sparsifier.get_mask(name), expected)


@on_devices
def test_configs_are_read_and_written_beside_an_override():
    sparsifier = Custom([("a", placed(values(0)))], threshold=0)
    turns = itertools.count(1)

    def write():
        value = next(turns)
        sparsifier.data_groups["a"]["threshold"] = value
        assert sparsifier.data_groups["a"]["threshold"] == value
        sparsifier.get_mask("a")
        sparsifier.get_data("a")

    run_together(repeat(200, sparsifier.step), beside=[write])
    assert sparsifier.step_count == 200
    assert sparsifier.data_groups["a"]["threshold"] > 0


# --- groups that come and go ----------------------------------------------------------------------


@on_devices
@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_mask_object_read_while_its_group_is_replaced(hasty, make, device):
    """Whatever get_mask() has handed out in between, it ends up with the mask that steps write."""
    sparsifier = datasparse.DataNormSparsifier([("a", make(values(0)))])
    arrays = [make(values(seed)) for seed in range(8)]
    expected = mask_of(values(7))

    def replace():
        for data in arrays * 5:
            sparsifier.add_data("a", data, reuse_mask=False)

    for _ in range(often(200, device)):
        run_together(replace, beside=[lambda: sparsifier.get_mask("a")] * 2)
        sparsifier.step()
        np.testing.assert_array_equal(as_numpy(sparsifier.get_mask("a")), expected)


@on_devices
def test_masked_copy_read_while_its_group_is_replaced_by_another_shape(hasty, device):
    """A copy has the shape of one of the data and the zeros of its mask, or the call is refused."""
    shapes = [(4, 4), (300, 400)]
    arrays = [placed(np.ones(shape, np.float32)) for shape in shapes]
    sparsifier = datasparse.DataNormSparsifier([("a", arrays[0])])

    def replace():
        for turn in range(often(3000, device)):
            sparsifier.add_data("a", arrays[turn % 2], reuse_mask=False)

    def read():
        with contextlib.suppress(ValueError):
            masked = sparsifier.get_data("a", return_original=False)
            assert masked.shape in shapes
            assert masked.all()  # no step: every mask keeps everything

    run_together(replace, beside=[read, read])


@on_devices
def test_groups_come_and_go_beside_steps_and_readers(hasty, device):
    fixed, times = values(0), often(60, device)
    sparsifier = Override([("fixed", placed(fixed))])
    data = [placed(values(index, (3 + index % 5, 8))) for index in range(times)]

    def come_and_go(name):
        def turn():
            for index in range(times):
                sparsifier.add_data(name, copy.deepcopy(data[index]), sparsity_level=0.25)
                sparsifier.data_groups[name].update(norm="L2", sparsity_level=0.75)
                sparsifier.state[name]["turn"] = index
                sparsifier.apply_mask(name)
                if index % 3 == 0:
                    sparsifier.squash_mask(name)
                sparsifier.remove_data(name)

        return turn

    def read():
        for name in list(sparsifier.data_groups):
            with contextlib.suppress(datasparse.UnknownNameError, ValueError):
                assert sparsifier.data_groups[name]["sparsity_level"] in (0.5, 0.25, 0.75)
                sparsifier.get_mask(name)
                sparsifier.get_data(name)
        sparsifier.state_dict()
        len(sparsifier.data_groups)

    run_together(
        repeat(times, sparsifier.step),
        come_and_go("x"),
        come_and_go("y"),
        beside=[read, gc.collect],
    )
    assert list(sparsifier.data_groups) == ["fixed"]
    expected = mask_of(fixed)
    expected[0] = True
    np.testing.assert_array_equal(sparsifier.get_mask("fixed"), expected)


@on_devices
@pytest.mark.parametrize(
    "read",
    [
        repr,
        copy.copy,
        lambda sparsifier: sparsifier.data_groups.copy(),
        lambda sparsifier: sparsifier.data_groups == {},
        lambda sparsifier: sparsifier.state.copy(),
        lambda sparsifier: sparsifier.squash_mask([]),
        lambda sparsifier: sparsifier.apply_mask(),
        lambda sparsifier: sparsifier.step(),
        lambda sparsifier: sparsifier.state_dict(),
    ],
    ids=["repr", "copy", "data_groups.copy", "data_groups ==", "state.copy", "squash", "apply",
         "step", "state_dict"],
)  # fmt: skip
def test_calls_about_all_groups_while_some_come_and_go(hasty, read, device):
    """Such a call names no group: it must not fail because one has just gone."""
    sparsifier = datasparse.DataNormSparsifier({f"fixed {i}": placed(values(i)) for i in range(5)})
    data = placed(values(9))

    def come_and_go():
        for _ in range(often(1000, device)):
            sparsifier.add_data("guest", data)
            sparsifier.get_mask("guest")
            sparsifier.remove_data("guest")

    run_together(come_and_go, beside=[lambda: read(sparsifier)] * 2)
    assert len(sparsifier.data_groups) == 5


# --- schedulers -----------------------------------------------------------------------------------


@on_devices
@pytest.mark.parametrize("steps", [250, pytest.param(5000, marks=pytest.mark.full)])
def test_four_threads_step_one_scheduler(steps):
    sparsifier = datasparse.DataNormSparsifier({n: placed(values(i)) for i, n in enumerate("ab")})
    sparsifier.step()
    scheduler = Levels(sparsifier)
    run_together(*[repeat(steps, scheduler.step)] * 4)
    assert scheduler.last_epoch == 4 * steps
    assert scheduler.calls == 4 * steps + 1
    level = LEVELS[4 * steps % 3]
    assert scheduler.get_last_param() == {"a": level, "b": level}
    assert sparsifier.data_groups["b"]["sparsity_level"] == level


@on_devices
def test_values_are_neither_lost_nor_doubled(device):
    """Each step builds on the last one's value: an interleaved one would skip or repeat."""

    class Counts(datasparse.BaseDataScheduler):
        def get_schedule_param(self):
            if self.last_epoch == 0:
                return {}
            last = self.data_sparsifier.data_groups["a"]["turn"]
            time.sleep(0)
            return {"a": last + 1}

    sparsifier = Custom([("a", placed(values(0)))], turn=0)
    sparsifier.step()
    scheduler = Counts(sparsifier, "turn")
    times = often(100, device)
    run_together(*[repeat(times, scheduler.step)] * 4, beside=[sparsifier.step])
    assert sparsifier.data_groups["a"]["turn"] == scheduler.last_epoch == 4 * times


@on_devices
def test_failing_schedules_are_not_counted():
    class Fails(datasparse.BaseDataScheduler):
        def __init__(self, sparsifier):
            self.turns = itertools.count()
            super().__init__(sparsifier, "sparsity_level")

        def get_schedule_param(self):
            turn = next(self.turns)
            if turn % 3 == 1:
                raise ZeroDivisionError
            return {"a": 2.0} if turn % 3 == 2 else {"a": 0.25}

    sparsifier = datasparse.DataNormSparsifier([("a", placed(values(0)))])
    sparsifier.step()
    scheduler = Fails(sparsifier)
    good = []

    def step():
        for _ in range(60):
            with contextlib.suppress(ZeroDivisionError, ValueError):
                scheduler.step()
                good.append(True)

    run_together(*[step] * 4)
    assert len(good) == 80
    assert scheduler.last_epoch == 80


@on_devices
@pytest.mark.full_there
def test_two_schedulers_of_one_sparsifier(device):
    class Norms(datasparse.BaseDataScheduler):
        def get_schedule_param(self):
            return dict.fromkeys(
                self.data_sparsifier.data_groups, ("L1", "L2")[self.last_epoch % 2]
            )

    sparsifier = Override({n: placed(values(i)) for i, n in enumerate("ab")})
    sparsifier.step()
    schedulers, times = [Levels(sparsifier), Norms(sparsifier, "norm")], often(50, device)
    run_together(
        *(repeat(times, scheduler.step) for scheduler in schedulers),
        repeat(times, sparsifier.step),
        beside=[gc.collect],
    )
    assert [scheduler.last_epoch for scheduler in schedulers] == [times, times]
    assert sparsifier.data_groups["a"]["norm"] == ("L1", "L2")[times % 2]
    assert sparsifier.data_groups["a"]["sparsity_level"] == LEVELS[times % 3]


def test_update_mask_reads_its_scheduler_while_another_thread_steps_that(run_python):
    """In a process of its own, which says where it hangs."""
    script = """
import faulthandler
import threading
import numpy as np
import datasparse

faulthandler.dump_traceback_later(20, exit=True)
wanted, begun, done = (threading.Semaphore(0) for _ in range(3))

class Reads(datasparse.DataNormSparsifier):
    def update_mask(self, name, data, **config):
        wanted.release()
        begun.acquire()
        assert self._scheduler.last_epoch >= 0
        assert self._scheduler.get_last_param() == self._scheduler.base_param == {"a": 0.5}
        self._scheduler.state_dict()
        super().update_mask(name, data, **config)

class Still(datasparse.BaseDataScheduler):
    def get_schedule_param(self):
        return {}

sparsifier = Reads([("a", np.ones((4, 4)))])
sparsifier._scheduler = Still(sparsifier, "sparsity_level")

def schedule():
    for _ in range(100):
        wanted.acquire()
        begun.release()
        sparsifier._scheduler.step()
        done.release()

thread = threading.Thread(target=schedule)
thread.start()
for _ in range(100):
    sparsifier.step()
    done.acquire()
thread.join()
assert sparsifier._scheduler.last_epoch == 100
print("done")
"""
    assert run_python(script) == "done\n"


# --- the interpreter's lock -----------------------------------------------------------------------


def turns_of_another_thread(work):
    """How often another thread gets the GIL while this one works, and nobody is made to give it up:
    only where it is released."""
    turns = itertools.count()
    started, done = threading.Event(), threading.Event()

    def count():
        while not done.is_set():
            next(turns)
            started.set()
            time.sleep(0)  # gives the GIL up

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    started.wait(30)
    sys.setswitchinterval(1000)
    started.clear()  # a wait that has begun goes by the old interval: the next one does not
    started.wait(30)
    try:
        before = next(turns)
        work()
        return next(turns) - before - 1
    finally:
        sys.setswitchinterval(interval)
        done.set()
        thread.join(30)


def test_gil_is_released_during_a_big_step():
    sparsifier = datasparse.DataNormSparsifier([("a", values(1, (2000, 2000)))], **HALF)
    assert turns_of_another_thread(repeat(20, sparsifier.step)) > 0


def test_the_check_above_can_fail():
    """Pure Python work lets no other thread in."""
    assert turns_of_another_thread(lambda: sum(number for number in range(200_000))) == 0


def test_interrupt_during_a_step_is_raised_after_it(run_python):
    """A step that writes masks is not interrupted; a pending Ctrl-C is raised after it."""
    script = """
import os
import signal
import sys
import threading
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
sys.setswitchinterval(1000)  # nobody is made to give up the GIL: others get it within a step
for attempt in range(5):
    mask = sparsifier.get_mask("a")
    mask[:] = True
    count = sparsifier.step_count
    go_on = threading.Event()
    interrupt = lambda: go_on.wait() and os.kill(os.getpid(), signal.SIGINT)
    thread = threading.Thread(target=interrupt)
    thread.start()
    steps = 0
    try:
        go_on.set()
        while True:
            sparsifier.step()
            steps += 1
    except KeyboardInterrupt:
        pass
    thread.join()
    assert sparsifier.step_count - count in (steps, steps + 1)
    assert sparsifier.step_count > count
    assert np.array_equal(mask, expected)
print("whole")
"""
    assert run_python(script) == "whole\n"


def test_interrupt_during_an_override_leaves_everything_as_it_was(run_python):
    """Ctrl-C while Python code of the user's runs, within a step of either object."""
    script = """
import signal
import numpy as np
import datasparse

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
interrupted = False


def interrupt():
    if interrupted:
        signal.raise_signal(signal.SIGINT)


class Sparsifier(datasparse.DataNormSparsifier):
    def update_mask(self, name, data, **config):
        super().update_mask(name, data, **config)
        self.state[name]["steps"] = self.state[name].get("steps", 0) + 1
        if name == "b":
            interrupt()


class Scheduler(datasparse.BaseDataScheduler):
    def get_schedule_param(self):
        interrupt()
        return dict.fromkeys(self.base_param, 0.25 * self.last_epoch)


data = np.random.default_rng(0).standard_normal((2, 40, 50))
sparsifier = Sparsifier([("a", data[0]), ("b", data[1])], sparse_block_shape=(1, 1))
scheduler = Scheduler(sparsifier, "sparsity_level")
for turn in range(2):
    sparsifier.step()
    scheduler.step()
for step in (sparsifier.step, scheduler.step):
    before = repr((sparsifier.state_dict(), scheduler.state_dict()))
    interrupted = True
    try:
        step()
    except KeyboardInterrupt:
        interrupted = False
    assert not interrupted
    assert repr((sparsifier.state_dict(), scheduler.state_dict())) == before
    step()
assert sparsifier.state["b"] == {"steps": 3}
assert scheduler.last_epoch == 3
print("as it was")
"""
    assert run_python(script) == "as it was\n"


@pytest.mark.parametrize("kind", ["state", "defaults", "config"])
def test_keys_that_several_threads_write_at_once_are_all_there(hasty, kind):
    """A view of a state is changed as a whole, and not read by one call and written by another."""
    sparsifier = Custom([("a", values(0))])
    views = {"state": sparsifier.state["a"], "config": sparsifier.data_groups["a"]}
    view = views.get(kind, sparsifier.defaults)

    def write(thread):
        for turn in range(200):
            view[f"key {thread} {turn}"] = turn

    run_together(*(partial(write, thread) for thread in range(4)))
    written = {key: value for key, value in dict(view).items() if key.startswith("key ")}
    assert written == {f"key {thread} {turn}": turn for thread in range(4) for turn in range(200)}


# --- the collector --------------------------------------------------------------------------------


@on_devices
def test_collector_beside_short_lives_and_steps(device):
    """Sparsifiers in cycles are made, stepped and dropped while the collector runs."""
    data = values(0)
    mask = mask_of(data)
    mask[0] = True

    def live():
        for _ in range(often(40, device)):
            sparsifier = Override([("a", data), ("b", torch.from_numpy(data))])
            sparsifier.scheduler = Levels(sparsifier)
            sparsifier.kept = [sparsifier, sparsifier.data_groups, sparsifier.get_mask("b")]
            sparsifier.data_groups["a"]["sparsity_level"] = 0.5
            sparsifier.step()
            np.testing.assert_array_equal(sparsifier.get_mask("a"), mask)

    run_together(*[live] * 4, beside=[gc.collect])


@on_devices
@pytest.mark.full_there
def test_collector_beside_steps_of_one_sparsifier(device):
    data = values(0)
    sparsifier = Custom([(str(index), placed(data.copy())) for index in range(10)])
    sparsifier.itself = sparsifier
    times = often(15, device)
    run_together(*[repeat(times, sparsifier.step)] * 3, beside=[gc.collect])
    assert sparsifier.step_count == 3 * times
    for name in sparsifier.data_groups:
        np.testing.assert_array_equal(sparsifier.get_mask(name), data > 0)
