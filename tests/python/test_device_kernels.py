"""Masks by Triton kernels: the core's, to the bit, in few launches.

Without a GPU they run in Triton's interpreter, on tensors in CPU memory. What is compiled of them:
test_device_ptx.py.
"""

import os
from dataclasses import replace

import device_cases
import numpy as np
import pytest
import torch
from datasparse import DataNormSparsifier, block_mask
from datasparse.torch.device.job import Job, Pool
from torch.utils._python_dispatch import TorchDispatchMode

HAS_GPU = torch.cuda.is_available()
if not HAS_GPU:
    # Read where kernels are defined, and Triton's own functions: before it is imported.
    os.environ["TRITON_INTERPRET"] = "1"

pytest.importorskip("triton", reason="the package triton is not installed")

import quick_interpreter  # noqa: E402
from datasparse.torch.device import kernels  # noqa: E402
from datasparse.torch.device.kernels import plan, route, tables  # noqa: E402
from datasparse.torch.device.kernels.geometry import geometry_of  # noqa: E402
from datasparse.torch.device.kernels.plan import Class, Sizes  # noqa: E402

DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
# Small ones, so that small tensors have many tiles; one where blocks soon count as large, and one
# where none does.
SIZES = [Sizes(64, 2, 4, 16, 1.0), Sizes(256, 1, 8, 64, 0.0), Sizes(1024, 1, 8, 64, 1 / 24)]
TINY = Sizes(16, 1, 2, 16, 1.0)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    if not HAS_GPU:
        quick_interpreter.hasten(monkeypatch)


def on_device(job):
    """The same, with the strides of its scores."""
    if not HAS_GPU:
        return job
    scores = torch.empty_strided(job.scores.shape, job.scores.stride(), dtype=job.scores.dtype,
                                 device=DEVICE).copy_(job.scores)  # fmt: skip
    kept = None if job.kept_zeros is None else job.kept_zeros.to(DEVICE)
    return replace(job, scores=scores, mask=job.mask.to(DEVICE), kept_zeros=kept)


def masks_of(jobs, pools=(), sizes=None):
    with np.errstate(all="ignore"):  # the interpreter's
        masks = route.compute_masks([on_device(job) for job in jobs], pools, sizes)
    return [mask.cpu() for mask in masks]


def job_of(scores, level=0.5, block=(1, 1), zeros=None, norm="L1", **rest):
    """A job of contiguous scores."""
    sides = device_cases.matrix_of(scores.shape, ())
    block = tuple(side if b == -1 else b for b, side in zip(block, sides, strict=True))
    blocks = -(-sides[0] // block[0]) * -(-sides[1] // block[1])
    zeros = block[0] * block[1] if zeros is None else zeros
    rest = {"mask": torch.ones(scores.shape, dtype=torch.bool), "order": (), "monotone": False,
            "kept_zeros": None, **rest}  # fmt: skip
    return Job(scores=scores, block=block, zeros=zeros, pruned=round(level * blocks), norm=norm,
               **rest)  # fmt: skip


def core_mask(scores, level=0.5, block=(1, 1), zeros=None, norm="L1"):
    return block_mask(scores, sparsity_level=level, sparse_block_shape=block, zeros_per_block=zeros,
                      norm=None if norm == "none" else norm)  # fmt: skip


def check(scores, sizes=SIZES[0], **config):
    (mask,) = masks_of([job_of(scores, **config)], sizes=sizes)
    assert mask.is_contiguous()
    torch.testing.assert_close(mask, core_mask(scores, **config), rtol=0, atol=0)


def bits_of(scores):
    return scores.view(device_cases.BITS[scores.element_size()])


def is_light(jobs, most=200, most_comparisons=800):
    """Whether the interpreter takes little time."""
    return (elements_of(jobs) <= most and comparisons_of(jobs) <= most_comparisons
            and len(jobs) <= 3)  # fmt: skip


def is_no_burden(jobs):
    return elements_of(jobs) < 3000 and comparisons_of(jobs) < 50_000


def is_tiny(jobs):
    return is_light(jobs, 40, 100)


def comparisons_of(jobs):
    """Within a block that loses some of its elements, each is held against each."""
    geometries = (geometry_of(job) for job in jobs if job.scores.numel() > 0)
    return sum(g.size * g.block_size for g in geometries if g.zeros < g.block_size)


def elements_of(jobs):
    return sum(job.scores.numel() for job in jobs)


def check_cases(seed, n, is_chosen, sizes=SIZES):
    done = 0
    for i, (jobs, pools, expected) in enumerate(device_cases.random_cases(seed, 40 * n)):
        if not kernels.takes(jobs, pools) or not is_chosen(jobs):
            continue
        before = [bits_of(job.scores).clone() for job in jobs]
        masks = masks_of(jobs, pools, sizes[i % len(sizes)])
        for mask, wanted in zip(masks, expected, strict=True):
            assert mask.shape == wanted.shape
            assert mask.is_contiguous()
            assert torch.equal(mask, wanted), f"{seed}, {i}\n{device_cases.describe(jobs, pools)}"
        assert all(map(torch.equal, before, (bits_of(job.scores) for job in jobs)))
        done += 1
        if done == n:
            return
    pytest.fail("too few cases")


@pytest.mark.parametrize(
    "seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.full) for seed in range(6, 20))]
)
def test_fifty_small_cases(seed):
    check_cases([25, seed], 48, is_tiny, [TINY, *SIZES[1:]])
    check_cases([25, seed], 2, is_light)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(40))
def test_more_random_cases(seed):
    check_cases([26, seed], 25, is_no_burden)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(400))
def test_twenty_thousand_random_cases(seed):
    check_cases([28, seed], 50, is_light)


def test_indices_of_64_bits(monkeypatch):
    monkeypatch.setattr(plan, "NARROW_MAX", 0)
    check_cases(27, 6, is_light)


def numbers(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


# What shows a fused multiplication, a reciprocal in place of a division, a mean by another sum, and
# denormals that are flushed.
@pytest.mark.parametrize("norm", ["L1", "L2"])
@pytest.mark.parametrize(
    "values",
    [device_cases.tenths, device_cases.neighbours, device_cases.near_one,
     device_cases.tiny_squares, device_cases.denormals],
)  # fmt: skip
def test_sums_are_those_of_the_core(values, norm, rng):
    scores = torch.from_numpy(np.asarray(values(rng, (60, 14)))).float()
    check(scores, block=(2, 6), norm=norm, sizes=SIZES[1])


@pytest.mark.parametrize(
    ("dtype", "level"),
    [
        *((torch.float32, level) for level in (0.01, 0.5, 0.99)),
        (torch.bfloat16, 0.5),
        (torch.float64, 0.5),
        *(
            pytest.param(dtype, level, marks=pytest.mark.full)
            for dtype in (torch.bfloat16, torch.float64)
            for level in (0.01, 0.99)
        ),
    ],
)
def test_ties_in_many_tiles(level, dtype, rng):
    few = torch.from_numpy(rng.integers(-1, 2, 300)).to(dtype)
    check(few, level=level)
    check(torch.full((300,), float("nan"), dtype=dtype), level=level, norm="none", sizes=SIZES[1])


def test_a_histogram_counts_what_few_keys_need_not():
    scores = torch.cat([torch.arange(1.0, 1.5, 0.01), numbers(400)])
    check(scores, level=0.5)
    check(scores, level=0.9)


def test_nans_of_all_bits_are_one_key_above_infinity():
    bits = [0x7FC00000, 0x7F800001, -1, 0x7F800000, -0x00800000, 0x7F7FFFFF, -(2**31), 0]
    scores = torch.tensor(bits * 8, dtype=torch.int32).view(torch.float32)
    for norm in ("L1", "L2", "none"):
        for level in (0.45, 0.7):
            check(scores, level=level, norm=norm)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(
    ("block", "zeros"),
    [((1, 4), 2), ((2, 3), 4), ((1, 1), 1), ((1, -1), None), ((-1, 1), 2), ((-1, -1), 7)],
)
def test_all_blocks_pruned_need_no_selection(block, zeros, sizes):
    scores = numbers(2, 5)
    assert "count" not in launches([job_of(scores, 1.0, block, zeros)], sizes=sizes)
    check(scores, level=1.0, block=block, zeros=zeros, sizes=sizes)


def test_axes_that_do_not_merge_are_copied():
    scores = numbers(2, 2, 3, 2, 2, 3).permute(3, 5, 1, 0, 4, 2)[:, ::2]
    job = job_of(scores.detach().requires_grad_(), 0.5, (1, 3))
    assert len(geometry_of(job).columns) > 3
    with torch.device("meta"):  # a default device is of no account
        (mask,) = masks_of([job])
    assert not mask.requires_grad
    assert torch.equal(mask, core_mask(scores, 0.5, (1, 3)))


def test_an_order_that_does_not_matter_still_cuts_blocks_off():
    scores = torch.tensor([[3.0, 1.0, 2.0, 5.0, 4.0]])
    job = job_of(scores, 0.4, (1, 2), 1, order=(1, 0))  # of 5 rows, and so of single elements
    (mask,) = masks_of([replace(job, pruned=2)])
    assert mask.tolist() == [[True, False, False, True, True]]


@pytest.mark.parametrize(
    ("level", "blocks", "scales", "bounds"),
    [
        (0.5, [1, 1], [1, 9], {"min_level": 0.2, "max_level": 0.7}),  # each at a bound
        (5 / 24, [3, 2], [0, 0], {}),  # a block too dear ends it, whatever comes behind
    ],
)
def test_pools(level, blocks, scales, bounds):
    config = {"sparsity_level": level, "norm": "L1", "pool": "p", **bounds}
    groups = [((12,), {**config, "sparse_block_shape": (1, width)}, ()) for width in blocks]
    data = [numbers(12) * scale + scale for scale in scales]
    sparsifier = DataNormSparsifier()
    for name, scores, group in zip("ab", data, groups, strict=True):
        sparsifier.add_data(name, scores, **group[1])
    sparsifier.step()
    ones = torch.ones(12, dtype=torch.bool)
    jobs = [device_cases.job_of(scores, *group[1:], ones, None)
            for scores, group in zip(data, groups, strict=True)]  # fmt: skip
    masks = masks_of(jobs, [device_cases.plan_of((0, 1), groups)], SIZES[0])
    assert [mask.tolist() for mask in masks] == [sparsifier.get_mask(n).tolist() for n in "ab"]


def test_compute_is_the_route():
    assert kernels.compute([], []) == []
    with np.errstate(all="ignore"):
        mask, empty = kernels.compute(
            [on_device(job) for job in (job_of(numbers(8)), job_of(torch.empty(0, 3)))], []
        )
    assert torch.equal(mask.cpu(), core_mask(numbers(8)))
    assert empty.shape == (0, 3)
    assert kernels.is_available(DEVICE)
    assert not kernels.is_available(torch.device("meta"))


# --- what is left to others ----------------------------------------------------------------------


def test_pools_that_need_doubles_are_refused_before_anything_is_computed():
    jobs = [job_of(numbers(8)), job_of(numbers(8).double())]

    def pool(*places, normalize=False):
        ones = (1,) * len(places)
        return Pool(places, ones, ones, ones, 4, (normalize,) * len(places))

    assert kernels.takes(jobs, [])
    assert kernels.takes(jobs, [pool(0), pool(1)])
    for refused in (pool(0, 1), pool(0, normalize=True)):
        assert not kernels.takes(jobs, [refused])
        with pytest.raises(ValueError, match="must not be normalized, and all or none float64"):
            kernels.compute(jobs, [refused])


def test_devices_that_kernels_cannot_read_are_refused(monkeypatch):
    for is_interpreted, device, other in ((True, "cpu", "cuda"), (False, "cuda", "cpu")):
        monkeypatch.setattr(route, "IS_INTERPRETED", is_interpreted)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        route.refuse(torch.device(device))
        with pytest.raises(RuntimeError, match=f"tensors on {device}, got some on {other};"):
            route.refuse(torch.device(other))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="while a CUDA graph is captured"):
        route.refuse(torch.device("cuda"))


# --- launches and memory -------------------------------------------------------------------------


class Operations(TorchDispatchMode):
    """Counts what is dispatched but views and plain allocations; adds up what is allocated."""

    FREE = ("empty", "empty_like", "empty_strided", "split_with_sizes", "lift_fresh", "detach",
            "is_pinned", "permute", "slice", "view", "_pin_memory")  # fmt: skip

    def __init__(self):
        super().__init__()
        self.names, self.bytes = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name not in self.FREE:
            self.names.append("copy" if name == "_to_copy" else name)
        if name in ("empty", "empty_like", "zeros", "_to_copy", "clone"):
            self.bytes += result.untyped_storage().nbytes()
        return result


def launches(jobs, pools=(), sizes=None, memory=None):
    """What a call launches, kernels and operations, by name. Runs no kernel."""
    names = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(route, "launch", lambda kernel, *_, **__: names.append(kernel.__name__))
        with Operations() as operations:
            masks = route.compute_masks([on_device(job) for job in jobs], pools, sizes)
    if memory is not None:
        memory.append(operations.bytes - sum(mask.numel() for mask in masks))
    # From CPU memory nothing needs to be copied: on a GPU, one table goes there.
    return names + operations.names + ([] if HAS_GPU else ["copy"])


SHAPES = [(64, 48), (32, 32), (100, 7), (256,)]


@pytest.mark.parametrize(
    ("dtype", "norm", "most"),
    [(torch.float32, "L1", 10), (torch.float32, "none", 10), (torch.bfloat16, "L1", 8),
     (torch.float16, "none", 8), (torch.float64, "L2", 16)],
)  # fmt: skip
def test_launches_of_many_groups(dtype, norm, most):
    jobs = [job_of(torch.ones(SHAPES[i % 4], dtype=dtype), 0.5, norm=norm) for i in range(300)]
    launches(jobs)  # tables are made
    names = launches(jobs)
    assert len(names) == most, names


@pytest.mark.parametrize(
    ("block", "zeros", "level", "most"),
    [((1, 4), None, 0.5, 10), ((1, 4), 2, 1.0, 2), ((4, 4), 8, 0.5, 10), ((1, -1), None, 0.5, 12),
     ((1, -1), 9, 0.5, 13), ((1, 1), None, 1.0, 2), ((1, 1), None, 0.0, 2)],
)  # fmt: skip
def test_launches_by_block(block, zeros, level, most):
    job = job_of(torch.ones(64, 4096), level, block, zeros)
    launches([job])
    assert len(launches([job])) == most


def test_groups_at_different_levels_are_one_batch():
    jobs = [job_of(numbers(40), level) for level in (0.1, 0.5, 0.9)]
    launches(jobs)
    assert len(launches(jobs)) == 10
    for mask, job, level in zip(masks_of(jobs, sizes=SIZES[0]), jobs, (0.1, 0.5, 0.9), strict=True):
        assert torch.equal(mask, core_mask(job.scores, level))


def test_kinds_share_what_is_sent_and_the_counts():
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    jobs = [job_of(torch.ones(50, dtype=dtype)) for dtype in dtypes]
    names = launches(jobs, memory=(memory := []))
    assert names.count("clear") == names.count("copy") == 1
    assert len(names) == 2 + 2 * 3 + 2 * 6 + 3 * 2 + 2 * 4  # 16 bits decide together
    assert memory[0] < len(jobs) * 9000


def test_tables_of_shapes_are_sent_once(monkeypatch):
    sent = []
    upload = tables.upload

    def record(numbers, *rest):
        sent.append(rest)
        return upload(numbers, *rest)

    monkeypatch.setattr(tables, "upload", record)
    monkeypatch.setattr(route, "upload", record)
    shape = (3, 101)  # of no other test
    for level in (0.5, 0.5, 0.25, 0.75):
        launches([job_of(numbers(*shape), level)])
    assert len(sent) == 4 + 2  # and geometries and tiles


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    ("block", "zeros"),
    [((1, 1), None), ((1, 4), 2), ((5, 5), None), ((1, 80), 7), ((1, -1), None), ((8, 16), 5)],
)
def test_memory_beside_the_mask_is_a_twentieth(dtype, block, zeros):
    scores = torch.empty(1024, 2048, dtype=dtype)
    job = job_of(scores, 0.5, block, zeros, mask=torch.empty(scores.shape, dtype=torch.bool))
    launches([job], memory=(memory := []))
    assert memory[0] <= 0.05 * scores.nbytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_beside_300_masks_is_a_twentieth_of_one_tensor(dtype):
    scores = torch.empty(1024, 2048, dtype=dtype)
    jobs = [job_of(scores, mask=torch.empty(scores.shape, dtype=torch.bool)) for _ in range(300)]
    launches(jobs)  # tables of shapes are made
    launches(jobs, memory=(memory := []))
    assert memory[0] <= 0.05 * scores.nbytes


@pytest.mark.parametrize(
    ("dtype", "n"), [(torch.float32, 8192), (torch.bfloat16, 8191), (torch.float64, 9000)]
)
def test_counts_lie_in_a_mask_that_has_the_room(dtype, n, rng):
    scores = torch.from_numpy(rng.integers(-400, 400, n) / 8).to(dtype)
    check(scores, sizes=Sizes(8192, 2), level=0.3)


def test_counts_lie_in_masks_of_all_kinds(monkeypatch):
    def digits_of(kind):  # few counts, for which small masks have the room
        bits = kind.bits if kind.signed else kind.bits - 1
        return [(shift, min(4, bits - shift)) for shift in reversed(range(0, bits, 4))]

    monkeypatch.setattr(route, "BINS", 16)
    monkeypatch.setattr(route, "digits_of", digits_of)
    check_cases(29, 12, lambda jobs: is_light(jobs) and elements_of(jobs) >= 64 * len(jobs))


def test_digits_cover_all_bits():
    for bits in (16, 32, 64):
        for signed in (False, True):
            kind = Class(bits, signed, False, False)
            end = bits if signed else bits - 1
            for shift, digit in route.digits_of(kind):
                assert end == shift + digit
                assert 1 << digit <= route.BINS
                end = shift
            assert end == 0
