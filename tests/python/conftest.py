"""Fixtures for all test files, and the tiers of tests.

A plain `pytest` runs the default tier, ci. Tests marked `full` or `long` are proofs that take their
time: they are deselected unless a `-m` expression is given. The summary says which did not run.

`pytest -m quick` runs what of ci takes little time: is_quick() tells them.

`pytest --device=NAME` asks the tests that take the fixture `device`, and no others, on that device.
"""

import gc
import os
import re
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import datasparse
import devices
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from support import SANITIZED, as_numpy

# Deterministic unless asked otherwise: pytest --hypothesis-profile=explore.
settings.register_profile(
    "ci",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("ci")

TIERS = ("full", "long")
NOT_RUN = pytest.StashKey[dict[str, Counter]]()


def tier_of(item):
    """The mark of a test; None for ci."""
    return next((tier for tier in TIERS if item.get_closest_marker(tier)), None)


# Not of the quick tier: most tests of these files train, compile, start processes or draw cases.
NOT_QUICK = re.compile(
    "test_(arrays|bench|checkpoint_killed|cli|demo|device_(checks|kernels|operations|operations_cost)|"
    "docs|embedding|examples|files_journal|files_pool|first_hour|fork|huge|import|language_model|"
    "lightning|lifetimes|memory|memoryless|out_of_memory|properties|regrowth_large|sharded|"
    "sharded_checkpoints|stateful|threads|torch_situations|torch_trainings|trainers_regrowth|"
    "trainings_resumed|transformers|wheel)[.]py"
)
TAKE_LONG = {"run_python", "run_file", "random_cases"}


def is_quick(item):
    """Whether a test that was collected is of the quick tier."""
    takes_long = item.get_closest_marker("not_quick") or TAKE_LONG & set(item.fixturenames)
    return not tier_of(item) and not takes_long


def pytest_ignore_collect(collection_path, config):
    if config.option.markexpr == "quick" and NOT_QUICK.fullmatch(collection_path.name):
        return True
    return None


def pytest_addoption(parser):
    parser.addoption(
        "--device",
        choices=devices.NAMES,
        default="cpu",
        help="where the data of those tests lie that can be asked on any device; no others run",
    )


def can_be_asked_on(item, device):
    """Whether a test is run where that device was chosen."""
    if "device" not in item.fixturenames:
        return device == "cpu"
    if (
        device != "cpu"
        and getattr(item, "callspec", None)
        and item.callspec.params.get("wrap") == "numpy"
    ):
        return False
    only = item.get_closest_marker("device")
    return only is None or not only.args or device in only.args


def pytest_configure(config):
    config.stash[NOT_RUN] = {tier: Counter() for tier in TIERS}


def deselect(config, items, is_kept):
    """Takes the others out of the list."""
    config.hook.pytest_deselected(items=[item for item in items if not is_kept(item)])
    items[:] = filter(is_kept, items)


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config, items):
    deselect(config, items, lambda item: can_be_asked_on(item, config.option.device))
    for item in items:
        if config.option.device != "cpu" and item.get_closest_marker("full_there"):
            item.add_marker("full")
    tiered = [item for item in items if tier_of(item)]
    for item in filter(is_quick, items):
        item.add_marker("quick")
    for item in items:
        if "device" in item.fixturenames and not item.get_closest_marker("device"):
            item.add_marker("device")
    result = yield
    if not config.option.markexpr:
        deselect(config, items, lambda item: not tier_of(item))
    # Files with tests of higher tiers are the long ones in any tier. They go first: where files
    # run side by side, none is left over in the end.
    long_files = {item.path for item in tiered}
    items.sort(key=lambda item: item.path not in long_files)
    if not config.option.keyword:
        chosen = set(items)
        for item in tiered:
            if item not in chosen:
                config.stash[NOT_RUN][tier_of(item)][item.path.name] += 1
    return result


def spare_the_collector():
    """gc.collect() holds up every thread. From now on it leaves out what is there already."""
    gc.collect()
    gc.freeze()


def pytest_collection_finish():
    spare_the_collector()  # the objects of the imported libraries


@pytest.fixture(scope="module", autouse=True)
def leave_out_other_files(request):
    """A file that collects looks at what it has made, and not at what files before it left."""
    if hasattr(request.module, "gc"):
        spare_the_collector()


# Under pytest-xdist, the workers collect, and this process sums up.


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        counters = session.config.stash[NOT_RUN]
        session.config.workeroutput["not_run"] = {tier: dict(c) for tier, c in counters.items()}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    for tier, counts in getattr(node, "workeroutput", {}).get("not_run", {}).items():
        node.config.stash[NOT_RUN][tier] = Counter(counts)


def pytest_terminal_summary(terminalreporter, config):
    for tier, not_run in config.stash[NOT_RUN].items():
        if not not_run:
            continue
        files = ", ".join(f"{name} ({count})" for name, count in sorted(not_run.items()))
        terminalreporter.write_line(
            f"{tier} tier: {not_run.total()} tests were not run, in {files}; "
            f"`pytest -m {tier}` runs them"
        )


@pytest.fixture
def device(request):
    """Where the data of a test lie: a `devices.Device`, as --device says."""
    return devices.named(request.config.option.device)


@pytest.fixture
def made_there(device):
    """All tensors of the test lie on the device, though the test does not say so."""
    from devices.made_there import making_on

    with making_on(device):
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(20130)


@pytest.fixture(params=["numpy", "torch"])
def wrap(request):
    """Makes of an array what a user of either library has; the memory stays the same."""
    return np.asarray if request.param == "numpy" else torch.from_numpy


def observe(sparsifier, scheduler=None):
    """Everything that a failed call must leave alone, as plain values that compare with ==."""
    seen = {
        "config": {name: dict(config) for name, config in sparsifier.data_groups.items()},
        "masks": {name: as_numpy(sparsifier.get_mask(name)).tolist()
                  for name in sparsifier.data_groups},
        "state": {name: dict(state) for name, state in sparsifier.state.items()},
        "step_count": sparsifier.step_count,
        "enable_mask_update": sparsifier.enable_mask_update,
    }  # fmt: skip
    if scheduler is not None:
        seen["last_epoch"] = scheduler.last_epoch
        seen["base_param"] = dict(scheduler.base_param)
        seen["last_param"] = dict(scheduler.get_last_param())
    return seen


@pytest.fixture(name="observe")
def observe_fixture():
    return observe


@pytest.fixture
def measurable_memory():
    if SANITIZED:
        pytest.skip("AddressSanitizer keeps freed memory for a while, and peaks count it")


@pytest.fixture
def threads():
    """Sets the number of threads that a step may use; the old numbers come back afterwards."""
    torch_threads = torch.get_num_threads()

    def set_threads(number):
        torch.set_num_threads(number)  # the process's OpenMP maximum, which caps ours
        datasparse.set_num_threads(number)

    yield set_threads
    torch.set_num_threads(torch_threads)
    datasparse.set_num_threads(0)  # no limit


@pytest.fixture(scope="session")
def run_python():
    """Runs a script in a fresh interpreter, fails unless it exits with 0, returns its stdout."""

    def run(script, *options, timeout=120, **environment):
        done = subprocess.run(
            [sys.executable, *options, "-c", script],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=Path(__file__).parent,
            env={**os.environ, **environment},
        )
        assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


@pytest.fixture
def run_file():
    """Runs a file in a fresh interpreter, for what starts processes of its own."""

    def run(path, *arguments):
        done = subprocess.run(
            [sys.executable, str(path), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


@pytest.fixture
def free_port():
    """Finds a port that nobody listens at."""

    def find():
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            return listener.getsockname()[1]

    return find
