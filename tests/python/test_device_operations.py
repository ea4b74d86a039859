"""Masks by plain torch operations: the bits of the core.

A route is a function from jobs and pools to masks. What every one must do is asked of `route`.
"""

import math
import warnings
from dataclasses import replace
from fractions import Fraction

import datasparse
import numpy as np
import pytest
import reference
import torch
from datasparse.torch.device.operations import compute
from device_cases import BITS, DTYPES, MODULES, check_route, matrix_job, pool_of, random_bits

ROUTES = {"operations": compute}


@pytest.fixture(params=ROUTES)
def route(request):
    return ROUTES[request.param]


@pytest.fixture
def small_limits(monkeypatch):
    """Tiles, parts and batches as small as they may be, so that small tensors have several."""
    monkeypatch.setattr(MODULES["select"], "TILE", 8)
    monkeypatch.setattr(MODULES["compute"], "BATCH_LEAST", 1)
    monkeypatch.setattr(MODULES["keys"], "SIGNS_LEAST", 1)
    monkeypatch.setattr(MODULES["within"], "PART_LEAST", 1)
    monkeypatch.setattr(MODULES["within"], "FEW", 3)
    monkeypatch.setattr(MODULES["squares"], "PART_LEAST", 4)
    monkeypatch.setattr(MODULES["squares"], "PER_COLUMN", 4)


# --- the same bits --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_random_cases_give_the_masks_of_the_core(route, seed):
    check_route(route, seed, 250)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(100, 120))
def test_many_random_cases_give_the_masks_of_the_core(route, seed):
    check_route(route, seed, 1000)


@pytest.mark.parametrize("seed", [10, 11])
def test_tiles_parts_and_batches_change_no_mask(small_limits, seed):
    check_route(compute, seed, 100)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(120, 124))
def test_tiles_parts_and_batches_change_no_mask_of_many(small_limits, seed):
    check_route(compute, seed, 1000)


@pytest.mark.parametrize("seed", [12])
def test_a_cut_by_bisection_is_that_of_topk(monkeypatch, seed):
    monkeypatch.setattr(MODULES["select"], "TOPK", set())
    check_route(compute, seed, 100)


@pytest.mark.parametrize("norm", ["L1", "L2", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_reference_says_the_same(route, dtype, norm, rng):
    for shape, block, level, zeros in [
        ((6, 10), (2, 4), 0.5, None),
        ((6, 10), (2, 4), 0.7, 3),
        ((1, 40), (1, 1), 0.3, None),
        ((4, 40), (1, 40), 1.0, 17),
    ]:
        scores = torch.from_numpy(rng.integers(-30, 31, shape) / 10).to(dtype)
        mask = route([matrix_job(scores, block, level, zeros, norm)], [])[0]
        rule = None if norm == "none" else norm
        expected = reference.mask(scores.numpy(), level, block, zeros, rule)
        np.testing.assert_array_equal(mask.numpy(), expected)


def test_block_mask_says_the_same_of_many_tiles(route, rng):
    """More of one value than fit into a tile, and the cut among them."""
    for dtype in DTYPES:
        scores = torch.from_numpy(rng.integers(-2, 3, (3, 7001))).to(dtype)
        for level in (0.1, 0.5, 0.9):
            for block in ((1, 1), (3, 2)):
                mask = route([matrix_job(scores, block, level)], [])[0]
                expected = datasparse.block_mask(
                    scores, sparsity_level=level, sparse_block_shape=block
                )
                assert torch.equal(mask, expected)


@pytest.mark.parametrize(
    ("shape", "block"),
    [
        ((4096, 4), (2048, 1)),
        ((2048, 4), (2048, 1)),
        ((4096, 4), (1024, 2)),
        ((4096, 4), (3000, 1)),
        ((64, 4096), (1, 2048)),
        ((64, 4096), (32, 64)),
        ((64, 4096), (64, 4096)),
    ],
)
def test_patterns_of_large_blocks_are_those_of_block_mask(route, shape, block, rng):
    scores = torch.from_numpy(rng.integers(-9, 10, shape))
    for zeros in (1, math.prod(block) // 2 + 1):
        for level in (0.5, 1.0):
            mask = route([matrix_job(scores.float(), block, level, zeros)], [])[0]
            expected = datasparse.block_mask(
                scores.float(),
                sparsity_level=level,
                sparse_block_shape=block,
                zeros_per_block=zeros,
            )
            assert torch.equal(mask, expected)


def test_no_jobs_have_no_masks(route):
    assert route([], []) == []


def test_a_mask_is_memory_of_its_own(route):
    scores = torch.randn(4, 8)
    first, second = route([matrix_job(scores), matrix_job(scores)], [])
    assert torch.equal(first, second)
    assert first.untyped_storage().data_ptr() != second.untyped_storage().data_ptr()
    assert first.untyped_storage().nbytes() == 32


def test_gradients_and_parameters_do_not_matter(route):
    weight = torch.nn.Parameter(torch.randn(4, 8))
    mask = route([matrix_job(weight, block=(2, 2))], [])[0]
    assert not mask.requires_grad
    assert torch.equal(mask, route([matrix_job(weight.detach(), block=(2, 2))], [])[0])


def test_masks_of_inference_mode_may_be_changed_outside(route):
    with torch.inference_mode():
        scores = torch.randn(4, 8)
        mask = route([matrix_job(scores, (1, 2))], [])[0]
    assert not mask.is_inference()
    assert torch.equal(mask, route([matrix_job(scores.clone(), (1, 2))], [])[0])


def test_deterministic_mode_raises_nothing(route):
    torch.set_deterministic_debug_mode("error")
    try:
        check_route(route, 13, 20)
    finally:
        torch.set_deterministic_debug_mode("default")


# --- denormals ------------------------------------------------------------------------------------


def is_flushing():
    return bool(torch.full((), 1e-310, dtype=torch.float64) * 1 == 0)


def flushed(what):
    torch.set_flush_denormal(True)
    try:
        return what()
    finally:
        torch.set_flush_denormal(False)


def test_denormals_count_whatever_the_process_has_set(route):
    bits = torch.arange(-300, 300, dtype=torch.int32).bitwise_and(0x800000FF - 2**32)
    denormals = bits[torch.randperm(600)].view(torch.float32).reshape(10, 60)
    small = torch.randn(10, 60) * 1e-20
    cases = [(denormals, (1, 3), "L1"), (denormals, (1, 1), "none"), (small, (1, 2), "L2")]
    for scores, block, norm in cases:
        job = matrix_job(scores, block, norm=norm)
        expected = route([job], [])[0]

        def compute_once(job=job):
            masks = route([job], [])
            assert is_flushing(), "the setting comes back"
            return masks

        assert torch.equal(flushed(compute_once)[0], expected)
    assert not is_flushing()


def test_the_setting_and_the_threads_come_back_after_an_error():
    class FailError(Exception):
        pass

    threads = torch.get_num_threads()

    def fail():
        try:
            with MODULES["arithmetic"].exact_arithmetic(torch.device("cpu")):
                assert not is_flushing()
                raise FailError
        except FailError:
            return is_flushing()

    assert flushed(fail)
    assert torch.get_num_threads() == threads


def test_a_device_that_flushes_is_refused_where_scores_are_computed(monkeypatch):
    arithmetic = MODULES["arithmetic"]
    arithmetic._is_exact.cache_clear()
    monkeypatch.setattr(arithmetic, "TRUSTED", set())
    scores = torch.randn(4, 8)
    blocks, elements = matrix_job(scores, (2, 2)), matrix_job(scores)
    expected = compute([blocks, elements], [])
    assert expected  # it has been asked, and computes as it must
    arithmetic._is_exact.cache_clear()
    right, asked = arithmetic._results, []

    def wrong(device, dtype):
        asked.append(dtype)
        return right(device, dtype) + len(asked) % 2

    monkeypatch.setattr(arithmetic, "_results", wrong)
    for job in (blocks, matrix_job(scores, norm="L2"), matrix_job(scores, (1, 4), 1.0, 2, "L2")):
        with pytest.raises(ValueError, match=r"device 'cpu' must be computed as IEEE 754 has it"):
            compute([job], [])
    assert len(asked) == 2  # once
    for job in (elements, matrix_job(scores, (1, 4), 1.0, 2)):  # whose keys are their bits
        compute([job], [])
    arithmetic._is_exact.cache_clear()


def test_a_device_without_float64_has_no_pool_of_doubles(monkeypatch):
    arithmetic = MODULES["arithmetic"]
    arithmetic._is_exact.cache_clear()
    monkeypatch.setattr(arithmetic, "TRUSTED", set())
    right = arithmetic._results

    def without_doubles(device, dtype):
        if dtype == torch.float64:
            raise TypeError("no float64 here")
        return right(device, dtype)

    monkeypatch.setattr(arithmetic, "_results", without_doubles)
    jobs = [matrix_job(torch.randn(4, 8)), matrix_job(torch.randn(4, 8))]
    compute(jobs, [pool_of(jobs)])
    with pytest.raises(ValueError, match=r"torch\.float64 flushes .* or is missing"):
        compute(jobs, [pool_of(jobs, normalize=True)])
    arithmetic._is_exact.cache_clear()


# --- norms ----------------------------------------------------------------------------------------


def exact_norm(values):
    squares = sum(Fraction(x) ** 2 for x in values if math.isfinite(x))
    try:
        return math.sqrt(float(squares)) or 1.0
    except OverflowError:
        return math.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_norms_are_those_of_exact_sums(dtype, rng, request):
    request.getfixturevalue("small_limits")
    drawn = [random_bits(rng, dtype, (2, 9)) for _ in range(60)]
    close = 1 + torch.from_numpy(rng.integers(0, 5, (40, 2, 9))) * torch.finfo(dtype).eps
    drawn += list(close.to(dtype))
    least, most = (-149, 120) if dtype == torch.float32 else (-560, 500)
    for exponent in range(least, most, 7):  # halves, ties and denormal sums among them
        powers = 2.0 ** rng.integers(exponent - 27, exponent + 27, (2, 4))
        drawn.append(torch.from_numpy(powers).to(dtype))
    drawn += [torch.zeros(2, 3, dtype=dtype), torch.full((2, 3), torch.inf, dtype=dtype)]
    for values in drawn:
        bits = values.view(BITS[values.element_size()])
        found = MODULES["squares"].norms_of(bits, dtype).flatten().tolist()
        assert found == [exact_norm(row) for row in values.tolist()]


@pytest.mark.parametrize("norm", [None, "L1"])
def test_infinite_scores_stay_so_where_the_norm_is_infinite(route, norm):
    """The squares of doubles overflow: then what is finite becomes 0."""
    first = torch.tensor([[1e200, torch.inf, -torch.inf, -3.0, torch.nan, 5.0]])
    second = torch.tensor([[-1.0, 1.0, 0.5, 0.0]])
    config = {"sparse_block_shape": (1, 1), "norm": norm, "pool": "all"}
    for budget in range(11):
        tensors = (first.double(), second.double())
        sparsifier = datasparse.DataNormSparsifier(sparsity_level=budget / 10, **config)
        for name, scores, normalize in (("a", tensors[0], "l2"), ("b", tensors[1], None)):
            sparsifier.add_data(name, scores, normalize=normalize)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "step.. pruned all weights")
            sparsifier.step()
        jobs = [matrix_job(scores, norm=norm or "none") for scores in tensors]
        pool = replace(pool_of(jobs), budget=budget, normalize=(True, False))
        for name, mask in zip("ab", route(jobs, [pool]), strict=True):
            assert torch.equal(mask, sparsifier.get_mask(name)), budget
