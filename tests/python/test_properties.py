"""Properties of the mask that hold for any data and any config."""

import contextlib
from pathlib import Path

import datasparse
import numpy as np
import pytest
import reference
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support import LAYOUTS, MAY_PRUNE_ALL, OF_NUMPY_ALONE, ON_DEVICES, named, placed

pytestmark = ON_DEVICES

LEVELS = st.one_of(
    st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 1 / 3, 0.9, 1.0]), st.integers(0, 1)
)
BLOCK_SHAPES = st.tuples(
    st.one_of(st.integers(1, 6), st.just(-1)), st.one_of(st.integers(1, 9), st.just(-1))
)
NORMS = st.sampled_from(["L1", "L2", None])
SEEDS = st.integers(0, 2**32 - 1)


def element_values(width):
    """Any bit pattern of a float, with the values that make ties drawn often."""
    return st.one_of(
        st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, np.inf, -np.inf, np.nan]),
        st.integers(-4, 4).map(float),
        st.floats(width=width),
    )


@st.composite
def small_arrays(draw, max_dims=3):
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=max_dims, min_side=0, max_side=9))
    return draw(hnp.arrays(dtype, shape, elements=element_values(np.dtype(dtype).itemsize * 8)))


def large_array(seed, size, dtype, distinct):
    """Seeded data beyond any internal tile; `distinct` values, or normal ones when it is 0."""
    rng = np.random.default_rng(seed)
    if distinct:
        values = rng.normal(size=distinct).astype(dtype)
        return rng.choice(values, size=size)
    return rng.standard_normal(size).astype(dtype)


@contextlib.contextmanager
def flush_denormals(flush):
    torch.set_flush_denormal(flush)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@given(small_arrays(), LEVELS, BLOCK_SHAPES, NORMS)
@example(np.zeros((0, 3), np.float32), 0.5, (-1, -1), "L1")
@example(np.array(1, np.float32), 1, (-1, -1), "L2")
def test_mask_is_the_reference_mask(data, level, block_shape, norm):
    mask = datasparse.block_mask(
        placed(data), sparsity_level=level, sparse_block_shape=block_shape, norm=norm
    )
    assert np.array_equal(mask, reference.mask(data, level, block_shape, norm=norm))


@pytest.mark.full_there
@given(small_arrays(), LEVELS, st.tuples(st.integers(1, 5), st.integers(1, 5)), NORMS, st.data())
def test_mask_with_some_zeros_per_block_is_the_reference_mask(data, level, shape, norm, draw):
    zeros = draw.draw(st.integers(0, shape[0] * shape[1]))
    mask = datasparse.block_mask(
        placed(data),
        sparsity_level=level,
        sparse_block_shape=shape,
        zeros_per_block=zeros,
        norm=norm,
    )
    assert np.array_equal(mask, reference.mask(data, level, shape, zeros, norm))


@pytest.mark.full_there
@given(
    st.integers(100_001, 250_000),
    SEEDS,
    st.integers(0, 3),
    LEVELS,
    st.sampled_from([np.float16, np.float32, np.float64]),
)
@settings(max_examples=25)
def test_large_data_are_masked_as_a_stable_sort_would(size, seed, distinct, level, dtype):
    data = large_array(seed, size, dtype, distinct)
    mask = datasparse.block_mask(placed(data), sparsity_level=level, sparse_block_shape=(1, 1))
    assert np.array_equal(mask, reference.whole_block_mask_by_stable_sort(data, level))


# A device has no threads of ours.
@pytest.mark.device("cpu")
@pytest.mark.parametrize("block_shape", [(1, 1), (1, 4), (4, 4), (-1, 3)], ids=str)
def test_number_of_threads_does_not_change_the_mask(threads, rng, block_shape):
    shape = (421, 503)  # more than 200k elements, edges that no block divides
    for data in (
        rng.normal(size=shape).astype(np.float32),
        rng.integers(-2, 3, size=shape).astype(np.float32),
        np.ones(shape, np.float64),
        rng.integers(0, 500, size=shape).astype(np.uint32).view(np.float32),  # denormals
        rng.normal(size=shape).astype(np.float16),
    ):
        for level in (0.3, 0.5, 0.9):
            masks = set()
            for number in (1, 2, 4, 3):
                threads(number)
                mask = datasparse.block_mask(
                    data, sparsity_level=level, sparse_block_shape=block_shape
                )
                masks.add(mask.tobytes())
            assert len(masks) == 1


@pytest.mark.device("cpu")
def test_number_of_threads_does_not_change_the_masks_of_many_groups(threads, rng):
    arrays = [rng.integers(-3, 4, size=(7, 31)).astype(np.float32) for _ in range(300)]
    arrays.append(rng.normal(size=(400, 400)).astype(np.float32))
    masks = set()
    for number in (1, 2, 4):
        threads(number)
        sparsifier = datasparse.DataNormSparsifier([(str(i), a) for i, a in enumerate(arrays)])
        sparsifier.step()
        masks.add(b"".join(sparsifier.get_mask(str(i)).tobytes() for i in range(len(arrays))))
    assert len(masks) == 1


@pytest.mark.device("cpu")
@pytest.mark.parametrize(
    ("bad", "error"), [(-1, ValueError), ("2", TypeError), (None, TypeError), (1.5, TypeError)]
)
def test_wrong_number_of_threads_is_refused(bad, error):
    before = datasparse.get_num_threads()
    with pytest.raises(error):
        datasparse.set_num_threads(bad)
    assert datasparse.get_num_threads() == before


@pytest.mark.device("cpu")
def test_number_of_threads_is_the_least_of_ours_and_openmps(run_python):
    script = """
import os

os.environ.pop("OMP_NUM_THREADS", None)
import torch
import datasparse

seen = []
for ours, openmps in ((1, 3), (2, 3), (2, 1), (3, 2), (0, 2), (0, 1)):  # 0: no limit of ours
    torch.set_num_threads(openmps)
    datasparse.set_num_threads(ours)
    seen.append(datasparse.get_num_threads())
print(seen)
"""
    assert run_python(script) == "[1, 2, 1, 2, 2, 1]\n"


# How many threads a step starts, the initial one included, as the operating system counts them.
COUNT_THREADS = """
import os

os.environ.pop("OMP_NUM_THREADS", None)
os.environ.update({environment})
import numpy as np
import datasparse
from threadpoolctl import threadpool_limits

data = np.random.default_rng(0).standard_normal((800, 800), dtype=np.float32)
sparsifier = datasparse.DataNormSparsifier([("w", data)])
before = len(os.listdir("/proc/self/task"))
{limit}
    allowed = datasparse.get_num_threads()
    sparsifier.step()
print(allowed, len(os.listdir("/proc/self/task")) - before + 1)
"""


@pytest.mark.device("cpu")
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
@pytest.mark.parametrize(
    ("environment", "limit", "number"),
    [
        ({"OMP_NUM_THREADS": "1"}, "if True:", 1),
        ({"OMP_NUM_THREADS": "3"}, "if True:", 3),
        ({"OMP_NUM_THREADS": "3"}, "with threadpool_limits(1):", 1),
        ({"OMP_NUM_THREADS": "3"}, "with threadpool_limits(2, user_api='openmp'):", 2),
        ({"OMP_NUM_THREADS": "4"}, "datasparse.set_num_threads(2)\nif True:", 2),
        ({"OMP_NUM_THREADS": "2"}, "datasparse.set_num_threads(4)\nif True:", 2),
        ({"OMP_THREAD_LIMIT": "2", "OMP_NUM_THREADS": "4"}, "if True:", 2),
    ],
)
def test_a_step_uses_no_more_threads_than_it_is_allowed(run_python, environment, limit, number):
    script = COUNT_THREADS.format(environment=environment, limit=limit)
    allowed, used = map(int, run_python(script).split())
    assert used == number
    assert allowed >= number  # OpenMP's limit on all threads shows only in what it starts


# It is a mode of the CPU, in which a pretended device computes, too.
@pytest.mark.device("cpu")
@pytest.mark.parametrize("norm", ["L1", "L2", None])
@pytest.mark.parametrize("size", [37, 150_001])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_flushing_denormals_does_not_change_the_mask(threads, rng, dtype, size, norm):
    bits = np.dtype(f"u{np.dtype(dtype).itemsize}")
    data = rng.integers(0, 1000, size=size).astype(bits).view(dtype)  # all denormal
    expected = [
        reference.whole_block_mask_by_stable_sort(data, 0.5, shape, norm)
        for shape in ((1, 1), (1, 4))
    ]
    for number in (1, 2, 4):
        threads(number)
        for flush in (True, False):
            with flush_denormals(flush):
                masks = [
                    datasparse.block_mask(
                        data, sparsity_level=0.5, sparse_block_shape=shape, norm=norm
                    )
                    for shape in ((1, 1), (1, 4))
                ]
            assert np.array_equal(masks[0], expected[0])
            assert np.array_equal(masks[1], expected[1])


@pytest.mark.device("cpu")
def test_flushing_denormals_does_not_change_a_step(threads, rng):
    data = rng.integers(0, 1000, size=(300, 500)).astype(np.uint32).view(np.float32)
    expected = reference.whole_block_mask_by_stable_sort(data, 0.5, (1, 4))
    for number in (1, 2):
        threads(number)
        sparsifier = datasparse.DataNormSparsifier([("tiny", data)])
        with flush_denormals(True):
            sparsifier.step()
        assert np.array_equal(sparsifier.get_mask("tiny"), expected)


@pytest.mark.device("cpu")
@pytest.mark.parametrize("flush", [True, False])
def test_callers_flush_setting_is_put_back(threads, flush):
    tiny = np.array([1e-40], np.float32)
    data = np.ones(200_000, np.float32)
    threads(2)
    with flush_denormals(flush):
        flushed_before = bool((tiny * np.float32(1) == 0)[0])
        datasparse.block_mask(data, sparsity_level=0.5, sparse_block_shape=(1, 1))
        datasparse.DataNormSparsifier([("data", data)]).step()
        flushed_after = bool((tiny * np.float32(1) == 0)[0])
    assert flushed_before is flushed_after is flush


@pytest.mark.parametrize("layout", named(LAYOUTS, OF_NUMPY_ALONE))
def test_memory_layout_does_not_change_the_mask_of_large_data(rng, layout):
    data = rng.integers(-50, 50, size=(400, 301)).astype(np.float32)
    for block_shape in ((1, 1), (1, 4), (4, 4)):
        arguments = {"sparsity_level": 0.6, "sparse_block_shape": block_shape}
        assert np.array_equal(
            datasparse.block_mask(placed(layout(data)), **arguments),
            datasparse.block_mask(data, **arguments),
        )


@MAY_PRUNE_ALL
@given(small_arrays(max_dims=2), LEVELS, BLOCK_SHAPES, NORMS)
def test_step_does_what_block_mask_does_and_a_second_one_changes_nothing(
    data, level, block_shape, norm
):
    """On the same data, and on data that were masked in whole blocks."""
    data = placed(data)
    sparsifier = datasparse.DataNormSparsifier([("data", data)], level, block_shape, norm=norm)
    mask = datasparse.block_mask(
        data, sparsity_level=level, sparse_block_shape=block_shape, norm=norm
    )
    for _ in range(2):
        sparsifier.step()
        assert np.array_equal(sparsifier.get_mask("data"), mask)
    sparsifier.apply_mask()
    sparsifier.step()
    assert np.array_equal(sparsifier.get_mask("data"), mask)


@pytest.mark.full_there
@MAY_PRUNE_ALL
@given(
    st.lists(st.tuples(SEEDS, st.integers(0, 3), LEVELS), min_size=1, max_size=4),
    st.sampled_from([(1, 1), (1, 4), (4, 4)]),
    NORMS,
)
@example([(0, 0, 0.9999999999999999)], (1, 1), "L1")  # all of them are pruned
@settings(max_examples=30)
def test_earlier_steps_leave_no_trace(rounds, block_shape, norm):
    """What a step remembers of the one before may make it quicker, never different."""
    there = placed(np.empty((150, 300), np.float32))
    sparsifier = datasparse.DataNormSparsifier([("data", there)], 0.5, block_shape, norm=norm)
    for seed, distinct, level in rounds:
        data = large_array(seed, 150 * 300, np.float32, distinct).reshape(150, 300)
        there[...] = placed(data)
        sparsifier.data_groups["data"]["sparsity_level"] = level
        sparsifier.step()
        expected = reference.whole_block_mask_by_stable_sort(data, level, block_shape, norm)
        assert np.array_equal(sparsifier.get_mask("data"), expected)


@pytest.mark.full_there
@pytest.mark.parametrize("norm", ["L1", None])
def test_levels_that_move_slowly_leave_no_trace(rng, norm):
    data = rng.standard_normal((300, 500), dtype=np.float32)
    there = placed(data.copy())
    sparsifier = datasparse.DataNormSparsifier([("data", there)], 0.5, (1, 1), norm=norm)
    for level in np.linspace(0.4, 0.6, 21):
        data += rng.standard_normal(data.shape, dtype=np.float32) * np.float32(0.001)
        there[...] = placed(data)
        sparsifier.data_groups["data"]["sparsity_level"] = float(level)
        sparsifier.step()
        expected = reference.whole_block_mask_by_stable_sort(data, level, norm=norm)
        assert np.array_equal(sparsifier.get_mask("data"), expected)


@pytest.mark.full_there
@given(SEEDS, st.integers(0, 3), st.lists(st.floats(0, 1), min_size=2, max_size=5))
@settings(max_examples=20)
def test_zeros_of_rising_levels_are_nested_in_large_data(seed, distinct, levels):
    data = large_array(seed, 150_001, np.float32, distinct)
    previous = placed(np.ones(data.shape, bool))
    for level in sorted(levels):
        mask = datasparse.block_mask(placed(data), sparsity_level=level, sparse_block_shape=(1, 1))
        assert not (mask & ~previous).any()
        previous = mask


@given(SEEDS, LEVELS, BLOCK_SHAPES, NORMS)
def test_widening_bfloat16_does_not_change_the_mask(seed, level, block_shape, norm):
    bits = np.random.default_rng(seed).integers(-(2**15), 2**15, size=(9, 14)).astype(np.int16)
    data = torch.from_numpy(bits).view(torch.bfloat16)
    arguments = {"sparsity_level": level, "sparse_block_shape": block_shape, "norm": norm}
    assert torch.equal(
        datasparse.block_mask(data, **arguments),
        datasparse.block_mask(data.float(), **arguments),
    )


def stress_array(rng, size, dtype):
    """Data that are hard to select from: ties at the cut, clusters, runs, sorted, NaN."""
    kind = rng.integers(9)
    if kind == 0:
        data = rng.standard_normal(size)
    elif kind == 1:
        data = rng.choice(rng.standard_normal(rng.integers(1, 300)), size=size)
    elif kind == 2:  # half of all in one value, somewhere in the middle
        data = np.where(rng.uniform(size=size) < 0.5, 0.7, rng.standard_normal(size))
    elif kind == 3:  # clusters a few units in the last place wide
        data = rng.integers(1, 5, size=size) + rng.integers(0, 9, size=size) * 2.0**-22
    elif kind == 4:
        data = np.sort(rng.standard_normal(size))[:: rng.choice([-1, 1])]
    elif kind == 5:
        data = np.where(rng.uniform(size=size) < rng.uniform(), np.nan, rng.standard_normal(size))
    elif kind == 6:  # runs
        data = np.repeat(rng.standard_normal(size // 1000 + 1), 1000)[:size]
    elif kind == 7:  # mostly pruned already
        data = rng.standard_normal(size) * (rng.uniform(size=size) > 0.9)
    else:
        data = rng.standard_normal(size) * 10.0 ** rng.integers(-45, 38, size=size)
    with np.errstate(over="ignore", under="ignore"):
        return data.astype(dtype)


@pytest.mark.device("cpu")
@pytest.mark.long
@pytest.mark.timeout(3600)
def test_twenty_thousand_hard_arrays_on_one_to_four_threads(threads):
    rng = np.random.default_rng(77)
    for run in range(20_000):
        threads(1 + run % 4)
        size = int(10 ** rng.uniform(0, 5.6))
        data = stress_array(rng, size, (np.float32, np.float64, np.float16)[rng.integers(3)])
        level = rng.choice([0.5, 0.9, rng.uniform(), rng.integers(0, size + 1) / size])
        mask = datasparse.block_mask(data, sparsity_level=level, sparse_block_shape=(1, 1))
        expected = reference.whole_block_mask_by_stable_sort(data, level)
        assert np.array_equal(mask, expected), (run, size, data.dtype, level)


@pytest.mark.device("cpu")
@pytest.mark.full
@pytest.mark.timeout(3600)
@MAY_PRUNE_ALL
def test_five_thousand_steps_that_remember_the_one_before(threads):
    rng = np.random.default_rng(78)
    for run in range(500):
        threads(1 + run % 3)
        shape = (int(rng.integers(1, 500)), int(rng.integers(1, 500)))
        block_shape = [(1, 1), (1, 4), (4, 4)][rng.integers(3)]
        data = stress_array(rng, shape[0] * shape[1], np.float32).reshape(shape)
        sparsifier = datasparse.DataNormSparsifier([("data", data)], 0.5, block_shape)
        level = rng.uniform()
        for turn in range(10):
            if rng.integers(4) == 0:
                data[...] = stress_array(rng, data.size, np.float32).reshape(shape)
            else:
                data *= np.float32(1 + rng.normal() * 0.01)
            level = float(np.clip(level + rng.normal() * 0.02, 0, 1))
            sparsifier.data_groups["data"]["sparsity_level"] = level
            sparsifier.step()
            expected = reference.whole_block_mask_by_stable_sort(data, level, block_shape)
            assert np.array_equal(sparsifier.get_mask("data"), expected), (run, turn)
