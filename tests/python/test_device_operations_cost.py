"""What masks by plain torch operations take: operations, memory, and no value that is read."""

import itertools
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasparse.torch.device.job import Job
from datasparse.torch.device.operations import compute
from device_cases import MODULES, matrix_job, pool_of, random_cases
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

ALLOCATES = {"empty", "empty_like", "empty_strided", "new_empty"}


class Operations(TorchDispatchMode):
    """Counts the operations that write; views and uninitialised memory are none."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if not function.is_view and function.overloadpacket.__name__ not in ALLOCATES:
            self.counts[str(function)] += 1
        return function(*args, **(kwargs or {}))


def operations_of(jobs, pools=()):
    with Operations() as operations:
        compute(jobs, pools)
    return operations.counts.total()


FOUR_SHAPES = [(96, 96), (64, 100), (33, 64), (50, 70)]


def test_many_groups_of_four_sizes_take_few_operations():
    jobs = [matrix_job(torch.randn(FOUR_SHAPES[i % 4])) for i in range(300)]
    assert operations_of(jobs) <= 120
    assert operations_of(jobs[:8]) == operations_of(jobs), "whatever their number"


def test_levels_that_differ_take_a_few_more():
    jobs = [matrix_job(torch.randn(FOUR_SHAPES[i % 4]), level=0.3 + i / 1000) for i in range(300)]
    assert operations_of(jobs) <= 140


def test_a_pool_takes_a_number_for_each_bit_of_a_key():
    jobs = [matrix_job(torch.randn(FOUR_SHAPES[i % 4])) for i in range(100)]
    plain, bounded = pool_of(jobs), pool_of(jobs)
    bounded = replace(bounded, most=tuple(n - 1 for n in bounded.most))
    assert operations_of(jobs, [plain]) <= 32 * 30 + 150
    assert operations_of(jobs, [bounded]) <= 2 * 32 * 30 + 150


def test_whole_rows_take_an_operation_for_each_position_only_where_they_have_a_score():
    rows = torch.randn(32, 4096)
    assert operations_of([matrix_job(rows, (1, 4096), level=1.0)]) <= 200
    assert operations_of([matrix_job(rows, (1, 4096), level=1.0, zeros=2048)]) <= 200
    assert operations_of([matrix_job(rows[:, :512], (1, 512))]) <= 512 + 40


def test_a_pattern_of_every_block_takes_no_selection_among_them():
    jobs = [matrix_job(torch.randn(64, 64), (1, 4), level=1.0, zeros=2)]
    with Operations() as operations:
        compute(jobs, [])
    assert not {"aten.topk.default", "aten.div_.Tensor"} & set(operations.counts)
    assert operations.counts.total() <= 30


READS = {"_local_scalar_dense", "nonzero", "nonzero_numpy", "masked_select", "item", "equal",
         "is_nonzero", "unique2", "_unique2", "bincount", "lift_fresh", "lift_fresh_copy",
         "scalar_tensor", "index", "index_put", "index_put_"}  # fmt: skip


class NoReads(TorchDispatchMode):
    """Refuses what reads a value back, makes a tensor of host memory, or copies a number."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in READS, str(function)
        assert not (name == "where" and "Scalar" in str(function)), str(function)
        devices = {a.device for a in args if isinstance(a, torch.Tensor)}
        target = (kwargs or {}).get("device")
        if name in ("_to_copy", "copy_", "to"):
            assert len(devices | ({torch.device(target)} if target else set())) == 1, str(function)
        return function(*args, **(kwargs or {}))


def test_no_value_is_read_and_nothing_is_copied_to_the_device():
    for jobs, pools, expected in random_cases(14, 60):
        with NoReads():
            masks = compute(jobs, pools)
        assert all(map(torch.equal, masks, expected))


def on_device(job, device):
    """The same job with uninitialised tensors there."""
    fields = {name: getattr(job, name) for name in Job.__dataclass_fields__}
    for name in ("scores", "mask", "kept_zeros"):
        if (own := fields[name]) is not None:
            fields[name] = torch.empty_strided(
                own.shape, own.stride(), dtype=own.dtype, device=device
            )
    return Job(**fields)


@pytest.mark.parametrize("selects", ["by topk", "by bisection"])
@pytest.mark.parametrize("device", ["meta", "cuda"])
def test_tensors_without_values_have_masks_on_their_device(monkeypatch, device, selects):
    """There is no value that could be read, and a tensor of the CPU beside them is refused."""
    if device == "cuda" and not torch.backends.cuda.is_built():
        pytest.skip("operations on fake tensors of CUDA ask a torch that was built for it")
    monkeypatch.setattr(MODULES["arithmetic"], "TRUSTED", {device})
    monkeypatch.setattr(MODULES["select"], "TOPK", {device} if selects == "by topk" else set())
    for jobs, pools, _ in random_cases(15, 12):
        with FakeTensorMode() if device == "cuda" else nullcontext():
            masks = compute([on_device(job, device) for job in jobs], pools)
        for job, mask in zip(jobs, masks, strict=True):
            assert mask.device.type == device
            assert mask.dtype == torch.bool
            assert mask.shape == job.scores.shape


def peak_of(jobs, pools=()):
    """Bytes alive at once, besides the masks: what operations take within counts, too."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        masks = compute(jobs, pools)
    events = [event for event in seen.profiler.kineto_results.events()
              if event.name() == "[memory]"]  # fmt: skip
    alive = np.cumsum([e.nbytes() for e in sorted(events, key=lambda event: event.start_ns())])
    return int(alive.max()) - sum(mask.numel() for mask in masks)


@pytest.fixture
def tight_limits(monkeypatch):
    """Those of large tensors, for small ones."""
    for name, limit in (("compute", "BATCH_LEAST"), ("keys", "SIGNS_LEAST"),
                        ("within", "PART_LEAST"), ("squares", "PART_LEAST")):  # fmt: skip
        monkeypatch.setattr(MODULES[name], limit, 1 << 10)


MOST_BYTES = 16.1  # an element: rows are whole tiles


@pytest.mark.parametrize("norm", ["L1", "none"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_extra_memory_is_at_most_16_bytes_an_element(dtype, norm, tight_limits):
    scores = torch.randn(96, 2051).to(dtype)
    kept = torch.rand(scores.shape) < 0.1
    for block, zeros, level in [((1, 1), None, 0.5), ((1, 1), None, 0.9), ((1, 1), None, 0.1),
                                ((1, 4), None, 0.5), ((1, 4), 2, 1.0),
                                ((1, 2), 1, 0.5), ((4, 8), 3, 0.5), ((1, 2051), 999, 1.0),
                                ((48, 2051), 999, 1.0)]:  # fmt: skip
        for more in ({}, {"mask": ~kept, "monotone": True, "kept_zeros": kept}):
            job = matrix_job(scores, block, level, zeros, norm, **more)
            assert peak_of([job]) <= MOST_BYTES * scores.numel(), (block, zeros, more.keys())
    assert peak_of([matrix_job(scores) for _ in range(5)]) <= MOST_BYTES * scores.numel()


def check_memory_of_pools(dtype, normalize, blocks, heights):
    scores = torch.randn(96, 2051).to(dtype)
    kept = torch.rand(scores.shape) < 0.1

    def past(rows):
        return {"mask": ~kept[:rows], "monotone": True, "kept_zeros": kept[:rows]}

    for (block, zeros), more in itertools.product(blocks, (lambda rows: {}, past)):
        jobs = [matrix_job(scores[:n], block, 0.5, zeros, "none", **more(n)) for n in heights]
        peak = peak_of(jobs, [pool_of(jobs, normalize=normalize)])
        assert peak <= MOST_BYTES * scores.numel(), (block, zeros, more)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    ("dtype", "block"), [(torch.float64, (1, 1)), (torch.float64, (1, 2)), (torch.float32, (1, 1))]
)
def test_so_is_that_of_pools(dtype, block, normalize, tight_limits):
    check_memory_of_pools(dtype, normalize, [(block, None)], [96, 40, 7])


@pytest.mark.full
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("heights", [[96], [96] * 3, [96, 40, 7]])
def test_so_is_that_of_all_pools(heights, dtype, normalize, tight_limits):
    # Each position of a block takes operations: of a whole row the profiler keeps gigabytes.
    blocks = [((1, 1), None), ((1, 2), None), ((1, 4), 2), ((1, 293), 142)]
    check_memory_of_pools(dtype, normalize, blocks, heights)
