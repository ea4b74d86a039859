"""Where memory runs out: MemoryError, and everything is as it was. tests/cpp/allocation_test.cpp
does the same to the core alone.

CPython's own small objects are left out: pybind11 crashes where one of its instances cannot be had.
Of data on a device, test_devices.py and others refuse the device's own memory. The core's is not
refused there: after a step it counts what it may warn of, which is too late for an error.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import SANITIZED

REFUSER = Path(__file__).with_name("refuse_allocations.cpp")

pytestmark = pytest.mark.skipif(
    SANITIZED,
    reason="AddressSanitizer has an operator new of its own, and takes terabytes of addresses",
)

EVERY_ALLOCATION = """
import ctypes
import sys
import tempfile
from pathlib import Path

import datasparse
import numpy as np
import torch

refuser = ctypes.PyDLL(None)
data = np.random.default_rng(0).standard_normal((12, 16)).astype(np.float32)
path = Path(tempfile.mkdtemp()) / "masks.safetensors"


class FirstRow(datasparse.DataNormSparsifier):
    def update_mask(self, name, data, **config):
        super().update_mask(name, data, **config)
        self.get_mask(name)[0] = True


class Rising(datasparse.BaseDataScheduler):
    def get_schedule_param(self):
        return {name: 0.1 * self.last_epoch for name in self.data_sparsifier.data_groups}


def make(kind):
    sparsifier = kind([("numpy", data), ("torch", torch.from_numpy(data[:4].copy()))])
    scheduler = Rising(sparsifier, "sparsity_level")
    sparsifier.step()
    scheduler.step()
    return sparsifier, scheduler


CALLS = {
    "add_data": lambda sparsifier, scheduler: sparsifier.add_data("new", data, norm="L2"),
    "step": lambda sparsifier, scheduler: sparsifier.step(),
    "step of the scheduler": lambda sparsifier, scheduler: scheduler.step(),
    "save": lambda sparsifier, scheduler: datasparse.save(path, sparsifier, scheduler),
    "load": lambda sparsifier, scheduler: datasparse.load(path, sparsifier, scheduler),
    "state_dict": lambda sparsifier, scheduler: sparsifier.state_dict(),
    "report": lambda sparsifier, scheduler: sparsifier.report(),
    "squash_mask": lambda sparsifier, scheduler: sparsifier.squash_mask(),
}


def refuse_each(kind, call):
    nth = 0
    while True:
        sparsifier, scheduler = make(kind)
        before = repr((sparsifier.state_dict(), scheduler.state_dict(), data.tobytes()))
        error = None
        refuser.refuse_allocation(nth)
        try:
            call(sparsifier, scheduler)
        except MemoryError as raised:
            error = raised
        refused = refuser.stop_refusing()
        if not refused:
            assert error is None
            return nth
        assert error is not None, nth
        after = repr((sparsifier.state_dict(), scheduler.state_dict(), data.tobytes()))
        assert after == before, nth
        nth += 1


for kind in (datasparse.DataNormSparsifier, FirstRow):
    datasparse.save(path, *make(kind))
    for name, call in CALLS.items():
        print(f"{kind.__name__}, {name}: {refuse_each(kind, call)}")
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++, which scripts/test installs")
def test_each_allocation_of_each_call_is_refused_once(run_python, tmp_path):
    library = tmp_path / "refuser.so"
    command = ["g++", "-O1", "-shared", "-fPIC", str(REFUSER), "-o", str(library)]
    subprocess.run(command, check=True, timeout=60)
    refused = run_python(EVERY_ALLOCATION, LD_PRELOAD=str(library))
    numbers = [int(line.split(": ")[1]) for line in refused.splitlines()]
    assert len(numbers) == 16
    assert all(number > 0 for number in numbers), refused


LITTLE_MEMORY = """
import resource
import tempfile
from pathlib import Path

import datasparse
import numpy as np

small = np.random.default_rng(0).standard_normal((700, 800), dtype=np.float32)
large = np.random.default_rng(1).standard_normal((4000, 4000), dtype=np.float32)
path = Path(tempfile.mkdtemp()) / "masks.safetensors"
no_limit = resource.getrlimit(resource.RLIMIT_AS)


def make():
    sparsifier = datasparse.DataNormSparsifier([("small", small)])
    sparsifier.step()  # the threads are there: OpenMP ends the process where it cannot start them
    return sparsifier


def size():
    pages = Path("/proc/self/statm").read_text().split()[0]
    return int(pages) * resource.getpagesize()


def figures(sparsifier):
    masks = {name: int(sparsifier.get_mask(name).sum()) for name in sparsifier.data_groups}
    return masks, sparsifier.step_count, path.read_bytes() if path.exists() else None


def with_ever_more_memory(sparsifier, call):
    failures = 0
    for extra in range(0, 1 << 30, 1 << 22):
        before = figures(sparsifier)
        resource.setrlimit(resource.RLIMIT_AS, (size() + extra, no_limit[1]))
        try:
            call()
        except MemoryError:
            failures += 1
        else:
            return failures
        finally:
            resource.setrlimit(resource.RLIMIT_AS, no_limit)
        assert figures(sparsifier) == before, extra
    raise AssertionError("a gibibyte is enough for any call")


sparsifier = make()
add_data = with_ever_more_memory(sparsifier, lambda: sparsifier.add_data("large", large))
step = with_ever_more_memory(sparsifier, sparsifier.step)
save = with_ever_more_memory(sparsifier, lambda: datasparse.save(path, sparsifier))
other = datasparse.DataNormSparsifier([("small", small), ("large", large)])
load = with_ever_more_memory(other, lambda: datasparse.load(path, other))
assert (other.get_mask("large") == sparsifier.get_mask("large")).all()
expected = datasparse.block_mask(large, sparsity_level=0.5, sparse_block_shape=(1, 4))
assert (other.get_mask("large") == expected).all()
print(add_data, step, save, load)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs RLIMIT_AS and /proc")
def test_a_process_with_little_memory_goes_on(run_python):
    failures = run_python(LITTLE_MEMORY, OMP_NUM_THREADS="2")
    assert all(int(number) > 0 for number in failures.split()), failures
