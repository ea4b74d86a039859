"""Steps before and after a fork: no child may wait for threads that did not survive it."""

import multiprocessing
from pathlib import Path

import datasparse
import numpy as np
import pytest
import reference
import torch
from torch.utils.data import DataLoader, Dataset

# Each child is watched: SIGALRM ends one that hangs, and its status tells.
ROUNDS = """
import os, signal, sys
os.environ.update(OMP_NUM_THREADS="3", OMP_WAIT_POLICY="passive")
import numpy as np
import datasparse

rounds = int(sys.argv[1])
rng = np.random.default_rng(0)
many = rng.standard_normal((600, 600), dtype=np.float32)  # above the size for several threads
few = rng.integers(0, 3, (1 << 19) + 17).astype(np.float32)
sparsifier = datasparse.DataNormSparsifier([("many", many)], sparse_block_shape=(1, 1))
sparsifier.add_data("few", few)
assert datasparse.get_num_threads() == 3

def threads():
    return len(os.listdir("/proc/self/task"))

def masks():
    return [sparsifier.get_mask(name).tobytes() for name in ("many", "few")]

before = threads()
sparsifier.step()
assert threads() > before, "one thread did it all: this test proves nothing"
expected = masks()
for i in range(rounds):
    sparsifier.get_mask("many")[...] = True
    sparsifier.step()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        alone = threads()
        sparsifier.step()
        same = masks() == expected
        os._exit(0 if same and threads() > alone else 3)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, f"round {i}: the child's exit status is {status}"
    assert masks() == expected
print(rounds)
"""


@pytest.mark.parametrize("rounds", [8, pytest.param(1000, marks=pytest.mark.full)])
def test_step_fork_step(run_python, rounds):
    script = ROUNDS.replace("int(sys.argv[1])", str(rounds))
    assert run_python(script, timeout=550) == f"{rounds}\n"


def mask_of(index):
    """In whatever process it is called: the mask of that data, and whether threads helped."""
    alone = len(list(Path("/proc/self/task").iterdir()))
    sparsifier = datasparse.DataNormSparsifier([("w", Masks.data(index))])
    sparsifier.step()
    return sparsifier.get_mask("w"), len(list(Path("/proc/self/task").iterdir())) > alone


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_the_processes_of_a_pool_step(threads, method):
    """After a parallel step here, which forked processes begin from. Each is sent two tasks."""
    threads(2)
    mine = datasparse.DataNormSparsifier([("w", Masks.data(99))])
    mine.step()
    with multiprocessing.get_context(method).Pool(2) as pool:
        results = pool.map_async(mask_of, range(4), chunksize=2).get(timeout=120)
        mine.step()
    for index, (mask, _) in enumerate(results):
        expected = reference.whole_block_mask_by_stable_sort(Masks.data(index), 0.5, (1, 4))
        np.testing.assert_array_equal(mask, expected)
    if method == "fork":  # the others start with as many threads as the machine has
        assert any(helped for _, helped in results)


class Masks(Dataset):
    """Each item is a mask of its own data, made in whatever process loads it."""

    def __len__(self):
        return 12

    @staticmethod
    def data(index):
        return np.random.default_rng(index).standard_normal((520, 520), dtype=np.float32)

    def __getitem__(self, index):
        torch.set_num_threads(2)  # a worker begins with one
        sparsifier = datasparse.DataNormSparsifier([("w", torch.from_numpy(self.data(index)))])
        sparsifier.step()
        return sparsifier.get_mask("w")


def load(threads, times):
    """A step in the parent between the loader's forks, and one in every worker."""
    threads(2)
    mine = datasparse.DataNormSparsifier([("w", Masks.data(99))])
    expected = [reference.whole_block_mask_by_stable_sort(Masks.data(i), 0.5, (1, 4))
                for i in range(12)]  # fmt: skip
    for _ in range(times):
        mine.step()
        loader = DataLoader(
            Masks(), batch_size=None, num_workers=2, timeout=60, multiprocessing_context="fork"
        )
        for index, mask in enumerate(loader):
            mine.step()
            np.testing.assert_array_equal(mask.numpy(), expected[index])


def test_a_loaders_workers_step(threads):
    load(threads, 1)


@pytest.mark.full
def test_a_loaders_workers_step_many_times(threads):
    load(threads, 20)
