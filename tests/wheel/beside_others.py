"""A wheel beside others that bring an OpenMP of their own: python beside_others.py MODULE...

Imports the modules in that order; datasparse and torch must be among them. Fails unless steps use
the threads that OMP_NUM_THREADS or set_num_threads() allows, all compute what they should, and a
child can step after a fork. Says whether torch.set_num_threads() reaches datasparse too.
"""

import importlib
import os
import sys
from pathlib import Path

for module in sys.argv[1:]:
    importlib.import_module(module)

import datasparse  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

DATA = np.random.default_rng(0).standard_normal((1500, 1500), dtype=np.float32)


def step():
    return datasparse.block_mask(DATA, sparsity_level=0.5, sparse_block_shape=(1, 1))


def threads():
    return len(list(Path("/proc/self/task").iterdir()))


def shares_torchs_openmp():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    shares = datasparse.get_num_threads() == 1
    torch.set_num_threads(before)
    return shares


def check_threads(asked):
    """As many as are asked for: OpenMP starts what is missing, and keeps what it has."""
    assert datasparse.get_num_threads() == asked
    datasparse.set_num_threads(1)
    before = threads()
    step()
    assert threads() == before, "a step on one thread has started others"
    datasparse.set_num_threads(0)
    step()
    assert threads() == before + asked - 1


def check_results():
    mask = step()
    assert mask.sum() == DATA.size // 2
    assert np.abs(DATA[~mask]).max() <= np.abs(DATA[mask]).min()
    tensor = torch.from_numpy(DATA)
    assert torch.allclose((tensor @ tensor).double(), tensor.double() @ tensor.double(), atol=0.05)
    child = os.fork()
    if child == 0:
        import signal

        signal.alarm(30)
        os._exit(0 if (step() == mask).all() else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, f"the child of a fork ended with {status}"


shares = shares_torchs_openmp()
# Torch's own number is at most that of the cores.
check_threads(torch.get_num_threads() if shares else int(os.environ["OMP_NUM_THREADS"]))
check_results()
print(f"{'shares' if shares else 'does not share'} torch's OpenMP")
