"""datasparse.block_mask against the reference and against PyTorch's DataNormSparsifier."""

import math

import datasparse
import numpy as np
import pytest
import reference
import torch
from support import (
    HALF,
    LAYOUTS,
    MAY_PRUNE_ALL,
    OF_NUMPY_ALONE,
    ON_DEVICES,
    as_numpy,
    first_there,
    name_of,
    named,
    placed,
)
from torch.ao.pruning._experimental import data_sparsifier as incumbent

pytestmark = ON_DEVICES

BLOCK_SHAPES = (
    (1, 1), (1, 2), (1, 3), (1, 4), (1, 8), (2, 1), (4, 1), (2, 2), (2, 3), (3, 2), (4, 4),
    (5, 3), (8, 2), (3, 16), (8, 8),
)  # fmt: skip
RANDOM_CASES = [2_000, pytest.param(6_000, marks=pytest.mark.full)]


# --- (a) random data without ties: PyTorch, the reference and datasparse agree --------------------


def has_ties(data, block_shape, norm):
    """Whether two elements or two blocks score alike, so that the order of a sort would show."""
    element_scores = np.abs(data) if norm == "L1" else data * data
    block_scores = [
        reference.block_score([data[place] for place in block], norm)
        for block in reference.blocks(*data.shape, block_shape)
    ]
    return len(np.unique(element_scores)) < data.size or len(set(block_scores)) < len(block_scores)


def random_case(seed):
    """A seeded case: data of random shape, dtype and order, and the arguments of block_mask."""
    rng = np.random.default_rng([2130, seed])
    dtype = (np.float32, np.float64)[seed % 2]
    order = "CF"[seed // 2 % 2]
    norm = ("L1", "L2")[seed // 4 % 2]
    # one column or one row and one column: PyTorch fails on (N, 1), see the tests of shapes
    shape = (int(rng.integers(1, 18)), int(rng.integers(2, 24)))
    block_shape = BLOCK_SHAPES[rng.integers(len(BLOCK_SHAPES))]
    number_of_blocks = math.ceil(shape[0] / block_shape[0]) * math.ceil(shape[1] / block_shape[1])
    level = (
        float(rng.uniform()),
        float(rng.uniform()),
        float(rng.integers(0, 9)) / 8,
        float(rng.integers(0, number_of_blocks) + 0.5) / number_of_blocks,  # halves, to even
    )[rng.integers(4)]
    size = block_shape[0] * block_shape[1]
    zeros_per_block = (None, int(rng.integers(0, size + 1)))[rng.integers(2)]
    while True:
        data = np.asarray(rng.normal(size=shape).astype(dtype), order=order)
        if not has_ties(data, block_shape, norm):
            break
    return data, {
        "sparsity_level": level,
        "sparse_block_shape": block_shape,
        "zeros_per_block": zeros_per_block,
        "norm": norm,
    }


def pytorch_mask(data, arguments):
    tensor = torch.from_numpy(np.ascontiguousarray(data))
    sparsifier = incumbent.DataNormSparsifier([("data", tensor)], **arguments)
    sparsifier.step()
    return sparsifier.get_mask("data").numpy() != 0


@pytest.fixture(scope="module", params=RANDOM_CASES)
def random_cases(request):
    """(data, arguments, mask by the reference) of every random case."""
    step = 1 if request.config.option.device == "cpu" else 41  # odd: random_case() goes by bits
    cases = [random_case(seed) for seed in range(0, request.param, step)]
    return [(data, arguments, reference.mask(data, **arguments)) for data, arguments in cases]


@pytest.mark.device("cpu")
def test_pytorch_and_reference_agree_in_every_random_case(random_cases):
    for seed, (data, arguments, expected) in enumerate(random_cases):
        assert np.array_equal(pytorch_mask(data, arguments), expected), (seed, arguments)
    assert len(random_cases) >= 2_000


@MAY_PRUNE_ALL
def test_block_mask_and_one_step_over_all_random_cases_agree_with_them(random_cases):
    sparsifier = datasparse.DataNormSparsifier()
    for seed, (data, arguments, _) in enumerate(random_cases):
        sparsifier.add_data(f"case {seed}", placed(data), **arguments)
    sparsifier.step()
    for seed, (data, arguments, expected) in enumerate(random_cases):
        case = (seed, data.shape, data.dtype, arguments)
        assert np.array_equal(datasparse.block_mask(placed(data), **arguments), expected), case
        assert np.array_equal(sparsifier.get_mask(f"case {seed}"), expected), case


@pytest.mark.device("cpu")
def test_random_cases_cover_both_dtypes_both_orders_both_norms_and_ragged_edges(random_cases):
    seen = {
        (
            data.dtype.name,
            data.flags.c_contiguous,
            arguments["norm"],
            data.shape[0] % arguments["sparse_block_shape"][0] != 0
            or data.shape[1] % arguments["sparse_block_shape"][1] != 0,
            arguments["zeros_per_block"] is None,
        )
        for data, arguments, _ in random_cases
        if min(data.shape) > 1
    }
    assert len(seen) == 2 * 2 * 2 * 2 * 2


# --- the two references agree with each other -----------------------------------------------------


@pytest.mark.device("cpu")
@pytest.mark.parametrize("norm", ["L1", "L2", None])
@pytest.mark.parametrize("block_shape", [(1, 1), (1, 4), (4, 4), (3, 2), (-1, 2), (2, -1)])
def test_vectorised_reference_is_the_slow_reference(rng, block_shape, norm):
    for dtype in (np.float16, np.float32, np.float64):
        for shape in ((9, 14), (5,), (1, 1), (2, 3, 5)):
            data = rng.choice([0, 1, -1, 2.5, np.nan, np.inf], size=shape).astype(dtype)
            for level in (0.0, 0.3, 0.5, 1.0):
                assert np.array_equal(
                    reference.whole_block_mask_by_stable_sort(data, level, block_shape, norm),
                    reference.mask(data, level, block_shape, norm=norm),
                )


# --- (b) rules that differ from PyTorch on purpose: against the reference alone -------------------

FEW_VALUES = {
    "all equal": [1.5],
    "two values": [-1.0, 2.0],
    "mirrored": [-2.0, 2.0, 1.0, -1.0],
    "zeros and one": [0.0, -0.0, 1.0],
    "NaN": [np.nan, 1.0, -3.0],
    "infinities": [np.inf, -np.inf, 1.0, 2.0],
    "NaN and infinities": [np.nan, np.inf, -np.inf, 0.0, 5.0],
    "all NaN": [np.nan],
    "all infinite": [-np.inf],
    "denormals": [1e-40, -2e-40, 0.0, 3e-39],
    "large": [3e38, -3e38, 1e20],
    "sixteen values": [k / 4 for k in range(-8, 8)],
}
SHAPES = (
    (), (1,), (2,), (7,), (33,), (1, 1), (13, 1), (1, 13), (5, 8), (6, 10), (1, 4, 6), (3, 2, 5),
    (2, 3, 2, 4), (4, 1, 1), (1, 1, 1, 1, 3),
)  # fmt: skip
EMPTY_SHAPES = ((0,), (0, 4), (4, 0), (0, 0), (3, 0, 2), (0, 3, 2))


def assert_same_as_reference(data, **arguments):
    mask = datasparse.block_mask(placed(data), **arguments)
    expected = reference.mask(reference.float_values(data), **arguments)
    assert tuple(mask.shape) == expected.shape
    assert np.array_equal(np.asarray(mask), expected), (data, arguments)


@pytest.mark.full_there
@pytest.mark.parametrize("norm", ["L1", "L2", None])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("values", FEW_VALUES.values(), ids=FEW_VALUES.keys())
def test_few_distinct_values_in_every_shape(rng, values, dtype, norm, device):
    with np.errstate(over="ignore", under="ignore"):
        values = np.array(values).astype(dtype)
    for shape in SHAPES[:: 1 if device.name == "cpu" else 4]:
        data = rng.choice(values, size=shape).astype(dtype)
        data = np.asarray(data).reshape(shape)
        for block_shape in ((1, 1), (1, 4), (2, 2), (3, 4), (-1, 1), (1, -1), (-1, -1)):
            assert_same_as_reference(
                data,
                sparsity_level=float(rng.choice([0.25, 0.5, 0.7, 1.0])),
                sparse_block_shape=block_shape,
                norm=norm,
            )


@pytest.mark.full_there
@pytest.mark.parametrize("norm", ["L1", "L2", None])
@pytest.mark.parametrize("values", FEW_VALUES.values(), ids=FEW_VALUES.keys())
def test_few_distinct_values_with_some_zeros_per_block(rng, values, norm):
    for dtype in (np.float32, np.float64):
        for shape in ((7, 10), (13, 1), (11,), (3, 2, 5)):
            data = rng.choice(np.array(values, dtype=dtype), size=shape)
            for block_shape in ((1, 4), (2, 2), (3, 4), (8, 8)):
                zeros = int(rng.integers(0, block_shape[0] * block_shape[1] + 1))
                for level in (0.5, 1.0):
                    assert_same_as_reference(
                        data,
                        sparsity_level=level,
                        sparse_block_shape=block_shape,
                        zeros_per_block=zeros,
                        norm=norm,
                    )


@pytest.mark.parametrize("norm", first_there(["L1", "L2", None]))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_torch_tensors_of_every_dtype_with_natural_ties(dtype, norm):
    generator = torch.Generator().manual_seed(7)
    for shape in ((40, 33), (16, 64), (129,), (17, 1), (6, 3, 3, 3)):
        data = torch.randn(shape, generator=generator).to(dtype)
        for block_shape, zeros in (((1, 1), None), ((1, 4), None), ((4, 4), 7), ((1, 4), 2)):
            assert_same_as_reference(
                data,
                sparsity_level=0.6,
                sparse_block_shape=block_shape,
                zeros_per_block=zeros,
                norm=norm,
            )


@pytest.mark.parametrize("norm", ["L1", "L2", None])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_bit_pattern_of_the_small_types(rng, dtype, norm):
    bits = rng.permutation(np.arange(2**16, dtype=np.uint16)).view(np.int16).reshape(256, 256)
    data = torch.from_numpy(bits).view(dtype)
    for level in (0.1, 0.5, 0.95, 0.99, 1.0):
        mask = datasparse.block_mask(
            data, sparsity_level=level, sparse_block_shape=(1, 1), norm=norm
        )
        expected = reference.whole_block_mask_by_stable_sort(
            reference.float_values(data), level, norm=norm
        )
        assert np.array_equal(mask.numpy(), expected)


@pytest.mark.parametrize("level", [0.0, 0.3, 0.5, 1.0])
def test_among_ties_the_lower_block_index_is_pruned_first(level):
    mask = datasparse.block_mask(
        placed(np.full((10, 10), -3.0, np.float32)), sparsity_level=level, sparse_block_shape=(1, 1)
    )
    assert np.array_equal(mask.ravel(), np.arange(100) >= round(level * 100))


def test_nan_ranks_above_infinity_which_ranks_above_everything_finite():
    data = np.array([[np.nan, np.inf, 1.0, -np.inf, 3e38, np.nan]], np.float32)
    zeroed_in_order = [2, 4, 1, 3, 0, 5]
    for k in range(7):
        mask = datasparse.block_mask(placed(data), sparsity_level=k / 6, sparse_block_shape=(1, 1))
        assert set(np.flatnonzero(~mask)) == set(zeroed_in_order[:k])


BIG = float(2**24)  # in float32, BIG + 1 rounds to BIG
BITS = np.uint32

# What is claimed: (data, level, block shape, more arguments, which elements are kept).
BY_HAND = {
    "inside a pruned block NaN is zeroed last": (
        np.array([[np.nan, 5.0, -np.inf, 1.0]], np.float32), 1.0, (1, 4), {"zeros_per_block": 3},
        [0]),
    "negative NaN ranks with positive NaN": (
        np.array([0x7FC00000, 0, 0xFFC00000, 0x7F800000], BITS).view(np.float32), 0.75, (1, 1), {},
        [2]),
    "signalling NaN ranks with quiet NaN: one pruned": (
        np.array([0x7F800001, 0x3F800000, 0x7FC00000, 0x7F800000], BITS).view(np.float32),
        0.25, (1, 1), {}, [0, 2, 3]),
    "signalling NaN ranks with quiet NaN: two pruned": (
        np.array([0x7F800001, 0x3F800000, 0x7FC00000, 0x7F800000], BITS).view(np.float32),
        0.5, (1, 1), {}, [0, 2]),
    "signalling NaN ranks with quiet NaN: three pruned": (
        np.array([0x7F800001, 0x3F800000, 0x7FC00000, 0x7F800000], BITS).view(np.float32),
        0.75, (1, 1), {}, [2]),
    "negative zero ties with positive zero": (
        np.array([0.0, -0.0, 0.0, -0.0], np.float32), 0.5, (1, 1), {}, [2, 3]),
    "denormals are ordered like all numbers": (
        np.arange(64, 0, -1).astype(BITS).view(np.float32), 0.25, (1, 1), {}, range(48)),
    "denormals are summed like all numbers": (  # 6, 7, 5
        np.array([[3, 3, 1, 6, 2, 3]], BITS).view(np.float32), 1 / 3, (1, 2), {}, range(4)),
    "L2 squares that underflow to zero are ties": (  # 0, 0, 1, 0
        np.array([2e-30, 1e-30, 1.0, 3e-30], np.float32), 0.5, (1, 1), {"norm": "L2"}, [2, 3]),
    "L2 squares that overflow are infinite and tie": (
        np.array([3e30, 1e30, 1e25, 1.0], np.float32), 0.5, (1, 1), {"norm": "L2"}, [1, 2]),
    "float16 is squared in float32": (  # all squares overflow float16
        np.array([60000.0, 300.0, 50000.0, 400.0], np.float16), 0.5, (1, 1), {"norm": "L2"},
        [0, 2]),
    # in turn both sums are BIG, a tie; in pairs or backwards the first would be BIG + 2 or more
    "elements of a block are summed one after another": (
        np.array([[BIG, 1, 1, 1, BIG, 0, 0, 0]], np.float32), 0.5, (1, 4), {}, range(4, 8)),
    # by rows both sums are BIG, a tie; by columns the first would be (1 + 1) + BIG = BIG + 2
    "elements of a block are summed row by row": (
        np.array([[1, BIG, BIG, 1], [1, 0, 1, 0]], np.float32), 0.5, (2, 2), {}, [2, 3, 6, 7]),
    "float64 data are summed in float64": (
        np.array([[BIG, 1, 1, 1, BIG, 0, 0, 0]], np.float64), 0.5, (1, 4), {}, range(4)),
    "the mean is over the elements that exist": (  # means 4 and 5; sums 16 and 5
        np.array([[4.0, 4.0, 4.0, 4.0, 5.0]], np.float32), 0.5, (1, 4), {}, [4]),
    "places outside the data are never zeroed before real ones": (
        np.array([[9.0, 1.0, 1.0, 1.0, 7.0, 6.0]], np.float32), 1.0, (1, 4),
        {"zeros_per_block": 2}, [0, 3]),
    "a partial block smaller than zeros_per_block is zeroed whole": (
        np.array([[9.0, 8.0, 7.0, 6.0, np.nan]], np.float32), 1.0, (1, 4), {"zeros_per_block": 3},
        [0]),
    "one axis is one row": (
        np.array([1.0, 1.0, 3.0, 3.0, 2.0, 2.0]), 1 / 3, (2, 2), {}, range(2, 6)),
    "one column stays one column": (
        np.array([[1.0], [1.0], [3.0], [3.0], [2.0], [9.0]]), 1 / 3, (2, 1), {}, range(2, 6)),
    "a leading axis of one is one row": (
        np.arange(12.0).reshape(1, 3, 4), 0.5, (1, 6), {}, range(6, 12)),
    "zeros_per_block of zero prunes nothing": (
        np.ones((1, 8)), 1.0, (1, 4), {"zeros_per_block": 0}, range(8)),
    "the default norm is L1": (  # L1 means 3, 2.5; L2 means 9, 12.5
        np.array([[3.0, 3.0, 5.0, 0.0]], np.float32), 0.5, (1, 2), {}, [0, 1]),
    "the norm may be L2": (
        np.array([[3.0, 3.0, 5.0, 0.0]], np.float32), 0.5, (1, 2), {"norm": "L2"}, [2, 3]),
    "without a norm, the most negative goes": (  # means -1, 0
        np.array([[-3.0, 1.0, 5.0, -5.0]], np.float32), 0.5, (1, 2), {"norm": None}, [2, 3]),
    "without a norm, minus infinity is lowest, and NaN highest whatever its sign": (
        np.array([-np.inf, -np.nan, np.nan, np.inf, -1.0, 2.0]), 4 / 6, (1, 1), {"norm": None},
        [1, 2]),
    "without a norm, negative zero is zero": (
        np.array([0.0, -0.0, -0.0, 0.0, -1e-45], np.float32), 0.6, (1, 1), {"norm": None}, [2, 3]),
    "without a norm, a mean that vanishes from below is zero": (  # -1e-45 / 4 and 0
        np.array([[0.0, 0, 0, 0, -1e-45, 0, 0, 0]], np.float32), 0.5, (1, 4), {"norm": None},
        range(4, 8)),
    "without a norm, the lowest of a block go": (
        np.array([[-1.0, -5.0, 5.0, 1.0]], np.float16), 1.0, (1, 4),
        {"norm": None, "zeros_per_block": 2}, [2, 3]),
}  # fmt: skip


@pytest.mark.parametrize("case", BY_HAND.values(), ids=BY_HAND.keys())
def test_mask_worked_out_by_hand(case):
    data, level, block_shape, more, kept = case
    mask = datasparse.block_mask(
        placed(data), sparsity_level=level, sparse_block_shape=block_shape, **more
    )
    assert np.flatnonzero(mask).tolist() == list(kept)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("block_shape", [(1, 64), (8, 8), (16, 3), (1, 300), (100, 1)])
def test_sums_that_differ_in_the_last_bit_by_their_order(rng, dtype, block_shape):
    # cancellation-free but badly rounded sums: permutations of the same values in every block
    values = (rng.uniform(1, 2, size=block_shape[0] * block_shape[1])).astype(dtype)
    tiles = [[rng.permutation(values).reshape(block_shape) for _ in range(8)] for _ in range(4)]
    assert_same_as_reference(np.block(tiles), sparsity_level=0.5, sparse_block_shape=block_shape)


@pytest.mark.parametrize(
    ("blocks", "level", "pruned"),
    [(5, 0.1, 0), (5, 0.3, 2), (5, 0.5, 2), (7, 0.5, 4), (1, 0.5, 0), (3, 0.5, 2), (10, 0.25, 2)],
)
def test_number_of_pruned_blocks_rounds_half_to_even(blocks, level, pruned):
    data = placed(np.ones((1, blocks), np.float32))
    mask = datasparse.block_mask(data, sparsity_level=level, sparse_block_shape=(1, 1))
    assert np.count_nonzero(~mask) == pruned


@pytest.mark.full_there
def test_product_of_level_and_blocks_is_taken_in_double():
    n = 1_000_003
    for level in (0.1, 0.7, np.float64(np.float32(0.1)), 1 - 2**-53, 1e-7, 5e-7, 1.4999e-6):
        mask = datasparse.block_mask(
            placed(np.ones(n, np.float32)), sparsity_level=level, sparse_block_shape=(1, 1)
        )
        assert np.count_nonzero(~mask) == round(float(level) * n)


@pytest.mark.parametrize("shape", EMPTY_SHAPES, ids=str)
@pytest.mark.parametrize("kind", [np.empty, torch.empty], ids=["numpy", "torch"])
def test_empty_data_give_an_empty_mask(shape, kind):
    for block_shape in ((1, 1), (4, 4), (-1, -1)):
        mask = datasparse.block_mask(
            kind(shape), sparsity_level=0.5, sparse_block_shape=block_shape
        )
        assert tuple(mask.shape) == shape


@pytest.mark.parametrize(("level", "kept"), [(0.0, True), (0.5, True), (0.6, False), (1.0, False)])
def test_zero_dimensional_data_are_one_block(level, kept):
    data = placed(np.array(3.0))
    mask = datasparse.block_mask(data, sparsity_level=level, sparse_block_shape=(4, 4))
    assert mask.shape == ()
    assert bool(mask) is kept


def test_convolution_weight_is_output_channels_by_all_the_rest(rng):
    weight = placed(rng.normal(size=(8, 3, 3, 3)).astype(np.float32))
    arguments = {"sparsity_level": 0.5, "sparse_block_shape": (2, 5)}
    mask = datasparse.block_mask(weight, **arguments)
    as_matrix = datasparse.block_mask(weight.reshape(8, 27), **arguments)
    assert np.array_equal(mask, as_matrix.reshape(weight.shape))


@pytest.mark.parametrize(
    ("block_shape", "same_as"), [((1, -1), (1, 9)), ((-1, 1), (6, 1)), ((-1, -1), (6, 9))]
)
def test_block_axis_of_minus_one_means_the_whole_axis(rng, block_shape, same_as):
    data = placed(rng.normal(size=(6, 9)).astype(np.float32))
    for zeros_per_block in (None, 4):
        masks = [
            datasparse.block_mask(
                data,
                sparsity_level=0.5 if block_shape != (-1, -1) else 1.0,
                sparse_block_shape=shape,
                zeros_per_block=zeros_per_block,
            )
            for shape in (block_shape, same_as)
        ]
        assert np.array_equal(*masks)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 4), (4, 8), (1, 2)])
def test_n_m_sparsity_zeroes_exactly_n_of_every_m(rng, kind, n, m):
    data = rng.choice([0.0, 1.0, -1.0, 2.0, np.nan], size=(48, 64)).astype(np.float32)
    mask = datasparse.block_mask(
        torch.from_numpy(data) if kind == "torch" else data,
        sparsity_level=1.0,
        sparse_block_shape=(1, m),
        zeros_per_block=n,
    )
    zeros_in_groups = np.count_nonzero(~np.asarray(mask).reshape(-1, m), axis=1)
    assert np.all(zeros_in_groups == n)
    assert np.array_equal(mask, reference.mask(data, 1.0, (1, m), n))


# --- sizes beyond one internal tile ---------------------------------------------------------------

LARGE = 200_003
LARGE_DATA = {
    "all equal": lambda rng: np.full(LARGE, -2.5),
    "all zero": lambda rng: np.zeros(LARGE),
    "all NaN": lambda rng: np.full(LARGE, np.nan),
    "two values": lambda rng: rng.choice([1.0, -2.0], size=LARGE),
    "two values in runs": lambda rng: np.repeat([1.0, 2.0, 1.0], [90_000, 20_003, 90_000]),
    "one of the lower value at the end": lambda rng: np.r_[np.full(LARGE - 1, 2.0), 1.0],
    "one of the higher value at the start": lambda rng: np.r_[3.0, np.full(LARGE - 1, 2.0)],
    "256 values": lambda rng: rng.integers(-128, 128, size=LARGE).astype(float),
    "nine of ten zero": lambda rng: rng.normal(size=LARGE) * (rng.uniform(size=LARGE) > 0.9),
    "half NaN": lambda rng: np.where(rng.uniform(size=LARGE) < 0.5, np.nan, rng.normal(size=LARGE)),
    "half infinite": lambda rng: np.where(rng.uniform(size=LARGE) < 0.5, -np.inf, 1.0),
    "sorted": lambda rng: np.sort(rng.normal(size=LARGE)),
    "magnitudes falling": lambda rng: np.arange(LARGE, 0.0, -1.0),
    "normal": lambda rng: rng.normal(size=LARGE),
    "one outlier": lambda rng: np.r_[rng.normal(size=LARGE - 1), 1e30],
    "denormals": lambda rng: rng.integers(0, 1000, size=LARGE) * 1.4e-45,
    "many scales": lambda rng: rng.normal(size=LARGE) * 10.0 ** rng.integers(-30, 30, size=LARGE),
    "ties next to the middle": lambda rng: np.where(
        np.arange(LARGE) % 3 == 0, 1.0, np.where(np.arange(LARGE) % 3 == 1, 0.5, 2.0)
    ),
}


@pytest.mark.full_there
@pytest.mark.parametrize("make", LARGE_DATA.values(), ids=LARGE_DATA.keys())
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_large_data_element_by_element_against_a_stable_sort(rng, make, dtype):
    with np.errstate(over="ignore", under="ignore"):
        data = make(rng).astype(dtype)
    for level in (0.001, 0.1, 1 / 3, 0.5, 0.9, 0.999):
        mask = datasparse.block_mask(placed(data), sparsity_level=level, sparse_block_shape=(1, 1))
        assert np.array_equal(mask, reference.whole_block_mask_by_stable_sort(data, level)), level


@pytest.mark.full_there
@pytest.mark.parametrize("make", LARGE_DATA.values(), ids=LARGE_DATA.keys())
@pytest.mark.parametrize("block_shape", [(1, 4), (4, 4), (3, 5), (1, -1)])
def test_large_data_in_whole_blocks_against_a_stable_sort(rng, make, block_shape):
    with np.errstate(over="ignore", under="ignore"):
        data = make(rng).astype(np.float32)[:199_990].reshape(2857, 70)
    for level in (0.1, 0.5, 0.9):
        mask = datasparse.block_mask(
            placed(data), sparsity_level=level, sparse_block_shape=block_shape
        )
        expected = reference.whole_block_mask_by_stable_sort(data, level, block_shape)
        assert np.array_equal(mask, expected), level


@pytest.mark.parametrize("cut", [1, 4095, 4096, 4097, 65_535, 65_537, 100_001, 199_999, 200_002])
def test_all_equal_large_data_are_cut_at_the_exact_index(cut):
    data = placed(np.full(LARGE, 1.0, np.float32))
    level = cut / LARGE
    assert round(level * LARGE) == cut
    mask = datasparse.block_mask(data, sparsity_level=level, sparse_block_shape=(1, 1))
    assert np.array_equal(mask, np.arange(LARGE) >= cut)


@pytest.mark.full_there
@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129,
                                  255, 257, 1023, 1025, 4095, 4096, 4097, 8191, 8193, 16_385,
                                  32_767, 32_769, 65_537])  # fmt: skip
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_sizes_around_powers_of_two(rng, dtype, size):
    for data in (rng.normal(size=size), rng.choice([0.5, -1.0, 2.0], size=size)):
        data = data.astype(dtype)
        for level in (0.2, 0.5, 0.93):
            mask = datasparse.block_mask(
                placed(data), sparsity_level=level, sparse_block_shape=(1, 1)
            )
            assert np.array_equal(mask, reference.whole_block_mask_by_stable_sort(data, level))


@pytest.mark.full_there
@pytest.mark.parametrize("columns", [1, 3, 4, 5, 15, 16, 17, 31, 33, 63, 64, 65, 66, 67])
@pytest.mark.parametrize("block_shape", [(1, 4), (4, 4), (2, 2), (4, 1), (1, 16), (3, 7)])
def test_row_lengths_around_the_vector_width(rng, block_shape, columns):
    for dtype in (np.float16, np.float32, np.float64):
        data = rng.integers(-3, 4, size=(37, columns)).astype(dtype)
        for norm in ("L1", "L2"):
            mask = datasparse.block_mask(
                placed(data), sparsity_level=0.45, sparse_block_shape=block_shape, norm=norm
            )
            expected = reference.whole_block_mask_by_stable_sort(data, 0.45, block_shape, norm)
            assert np.array_equal(mask, expected)


@pytest.mark.device("cpu")
@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_hundred_thousand_small_cases_of_few_values_against_the_slow_reference():
    rng = np.random.default_rng(51)
    value_sets = [np.array(values, np.float64) for values in FEW_VALUES.values()]
    for _ in range(100_000):
        shape = tuple(rng.integers(1, 9, size=rng.integers(0, 4)))
        with np.errstate(over="ignore", under="ignore"):
            values = value_sets[rng.integers(len(value_sets))].astype(
                (np.float16, np.float32, np.float64)[rng.integers(3)]
            )
        data = np.asarray(rng.choice(values, size=shape)).astype(values.dtype)
        block_shape = BLOCK_SHAPES[rng.integers(len(BLOCK_SHAPES))]
        zeros = int(rng.integers(0, block_shape[0] * block_shape[1] + 1))
        assert_same_as_reference(
            data,
            sparsity_level=float(rng.integers(0, 33)) / 32,
            sparse_block_shape=block_shape,
            zeros_per_block=(None, zeros)[rng.integers(2)],
            norm=("L1", "L2", None)[rng.integers(3)],
        )


@pytest.mark.device("cpu")
@pytest.mark.long
@pytest.mark.timeout(1200)
def test_thirty_million_elements_against_a_stable_sort():
    rng = np.random.default_rng(52)
    for data in (
        rng.standard_normal(30_000_001, dtype=np.float32),
        rng.integers(0, 5, size=30_000_001).astype(np.float32),
    ):
        for level in (0.3, 0.9):
            mask = datasparse.block_mask(data, sparsity_level=level, sparse_block_shape=(1, 1))
            assert np.array_equal(mask, reference.whole_block_mask_by_stable_sort(data, level))


# --- (c) the mask buffer and the memory layout of the input ---------------------------------------


@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy,
                                  lambda a: torch.nn.Parameter(torch.from_numpy(a))])  # fmt: skip
def test_mask_is_a_fresh_bool_array_of_the_datas_own_library(rng, make):
    data = rng.normal(size=(4, 6))
    before = data.copy()
    first, second = (datasparse.block_mask(make(data), **HALF) for _ in range(2))
    torchs = isinstance(make(data), torch.Tensor)
    assert type(first) is (torch.Tensor if torchs else np.ndarray)
    assert first.dtype == (torch.bool if torchs else np.bool_)
    assert not getattr(first, "requires_grad", False)
    first[:] = True
    assert np.array_equal(second, reference.mask(data, **HALF))
    assert np.array_equal(data, before)


def test_out_is_filled_and_returned(rng, wrap):
    data = rng.normal(size=(5, 8)).astype(np.float32)
    for start in (False, True):
        out = wrap(np.full((5, 8), start))
        assert datasparse.block_mask(wrap(data), out=out, **HALF) is out
        assert np.array_equal(out, reference.mask(data, **HALF))


@pytest.mark.device("cpu")
def test_out_bytes_around_the_buffer_are_untouched(rng):
    data = rng.normal(size=1001).astype(np.float32)
    guarded = np.full(1001 + 128, 77, np.uint8)
    out = guarded[64:-64].view(np.bool_)
    datasparse.block_mask(data, out=out, **HALF)
    assert np.all(guarded[:64] == 77)
    assert np.all(guarded[-64:] == 77)
    assert set(np.unique(guarded[64:-64])) == {0, 1}


def test_out_at_any_byte_offset(rng, device):
    data = rng.normal(size=3000).astype(np.float32)
    expected = reference.whole_block_mask_by_stable_sort(data, 0.5)
    for offset in range(65)[:: 1 if device.name == "cpu" else 13]:
        out = placed(np.zeros(3000 + offset, np.bool_))[offset:]
        assert np.array_equal(datasparse.block_mask(placed(data), out=out, **HALF), expected)


def test_strided_out_is_filled_and_nothing_between(rng):
    data = rng.normal(size=(6, 8)).astype(np.float32)
    buffer = placed(np.zeros((6, 16), np.bool_))
    datasparse.block_mask(placed(data), out=buffer[:, ::2], **HALF)
    assert np.array_equal(buffer[:, ::2], reference.mask(data, **HALF))
    assert not buffer[:, 1::2].any()


def read_only(shape):
    out = np.ones(shape, np.bool_)
    out.flags.writeable = False
    return out


WRONG_OUT = [
    *((np.full((5, 8), 7, d), TypeError) for d in (np.uint8, np.int8, np.float32, np.int64)),
    *((np.ones(s, np.bool_), ValueError) for s in ((8, 5), (40,), (5, 9), (1, 5, 8), ())),
    ([[True, True]], TypeError),
]
each_wrong_out = pytest.mark.parametrize(
    ("out", "error"),
    WRONG_OUT,
    ids=lambda value: f"{getattr(value, 'dtype', '')}{getattr(value, 'shape', '')}",
)


@each_wrong_out
def test_wrong_out_is_refused_untouched(out, error):
    if isinstance(out, np.ndarray):
        out = placed(out)
    before = np.copy(as_numpy(out))
    with pytest.raises(error, match=r"out must (be a bool|have)"):
        datasparse.block_mask(placed(np.ones((5, 8))), out=out, **HALF)
    assert np.array_equal(as_numpy(out), before)


def test_read_only_out_is_refused():
    out = read_only((5, 8))
    with pytest.raises(ValueError, match="out must be writable"):
        datasparse.block_mask(np.ones((5, 8)), out=out, **HALF)
    assert out.all()


def test_out_may_be_of_a_subclass_of_tensors():
    data = torch.arange(40.0).reshape(5, 8)
    out = torch.nn.Parameter(torch.ones(5, 8, dtype=torch.bool), requires_grad=False)
    assert datasparse.block_mask(data, out=out, **HALF) is out
    assert int(out.sum()) == 20


def test_out_that_overlaps_itself_is_refused_untouched():
    for out in (
        torch.ones(8, dtype=torch.bool).expand(5, 8),
        torch.ones(12, dtype=torch.bool).as_strided((5, 8), (1, 1)),
    ):
        with pytest.raises(ValueError, match="out must not overlap itself, got a view of shape"):
            datasparse.block_mask(torch.ones(5, 8), out=out, **HALF)
        assert out.all()


def test_out_on_another_device_than_the_data_is_refused(device):
    here, there = (torch.ones(5, 8, device=where) for where in ("cpu", device.at()))
    if here.device == there.device:
        there = torch.ones(5, 8, device="meta")
    with pytest.raises(
        TypeError, match="out must be in CPU memory, where data are, got a tensor on"
    ):
        datasparse.block_mask(here, out=there.bool(), **HALF)
    if there.device.type != "meta":
        with pytest.raises(TypeError, match=f"out must be a bool tensor on {there.device}, got "):
            datasparse.block_mask(there, out=here.bool(), **HALF)


@pytest.mark.parametrize("dtype", first_there([np.float32, np.float16, np.float64]))
@pytest.mark.parametrize("layout", named(LAYOUTS, OF_NUMPY_ALONE))
def test_layout_does_not_change_the_mask(rng, layout, dtype):
    for shape in ((9, 14), (70, 65), (1, 200), (200, 1)):
        data = rng.integers(-20, 20, size=shape).astype(dtype)
        arranged = layout(data)
        assert np.array_equal(arranged, data)
        for arguments in (
            HALF,
            {"sparsity_level": 0.4, "sparse_block_shape": (1, 4)},
            {"sparsity_level": 0.6, "sparse_block_shape": (4, 4), "norm": "L2"},
            {"sparsity_level": 1.0, "sparse_block_shape": (1, 4), "zeros_per_block": 2},
            {"sparsity_level": 0.5, "sparse_block_shape": (3, -1)},
        ):
            assert np.array_equal(
                datasparse.block_mask(placed(arranged), **arguments),
                datasparse.block_mask(data, **arguments),
            )


def test_permuted_axes_of_a_four_dimensional_array(rng):
    data = rng.normal(size=(3, 4, 5, 6)).astype(np.float32)
    arranged = np.ascontiguousarray(data.transpose(2, 0, 3, 1)).transpose(1, 3, 0, 2)
    assert np.array_equal(arranged, data)
    arguments = {"sparsity_level": 0.5, "sparse_block_shape": (2, 7)}
    assert np.array_equal(
        datasparse.block_mask(placed(arranged), **arguments), reference.mask(data, **arguments)
    )


def test_transposed_and_sliced_torch_tensors():
    data = torch.randn(12, 20, generator=torch.Generator().manual_seed(1))
    for view in (data.t(), data[:, ::3], data[::2, 1:], data.to(torch.bfloat16).t()):
        assert_same_as_reference(view, sparsity_level=0.5, sparse_block_shape=(2, 3))


# test_errors.py has such tensors.
@pytest.mark.device("cpu")
@pytest.mark.parametrize(
    "view",
    [
        np.broadcast_to(np.arange(6.0), (5, 6)),
        np.broadcast_to(np.arange(5.0)[:, None], (5, 6)),
        np.lib.stride_tricks.sliding_window_view(np.arange(10.0), 6),
        np.broadcast_to(np.float32(2.0), (5, 6)),
    ],
    ids=["one row", "one column", "windows", "one value"],
)
def test_data_that_overlap_themselves(view):
    assert_same_as_reference(view, sparsity_level=0.5, sparse_block_shape=(1, 2))


@pytest.mark.device("cpu")
def test_read_only_data(rng):
    data = rng.normal(size=(5, 8)).astype(np.float32)
    data.flags.writeable = False
    assert_same_as_reference(data, sparsity_level=0.5, sparse_block_shape=(1, 4))


# --- (d) arguments --------------------------------------------------------------------------------

GOOD = {"sparsity_level": 0.5, "sparse_block_shape": (1, 4), "zeros_per_block": 2, "norm": "L1"}


def test_zeros_per_block_beyond_a_whole_axis_block_is_refused():
    data = placed(np.ones((3, 6)))
    with pytest.raises(ValueError, match="zeros_per_block"):
        datasparse.block_mask(
            data, sparsity_level=0.5, sparse_block_shape=(1, -1), zeros_per_block=7
        )


@pytest.mark.parametrize(
    ("argument", "given"),
    [("zeros_per_block", zeros) for zeros in (2.0, np.int64(2), np.float32(2.0), np.uint8(2))]
    + [("sparsity_level", half) for half in (np.float32(0.5), np.float16(0.5), np.float64(0.5))]
    + [("sparse_block_shape", (np.int64(1), np.int32(4)))],
    ids=name_of,
)
def test_number_of_any_kind_is_accepted(argument, given):
    mask = datasparse.block_mask(placed(np.ones((4, 8))), **{**GOOD, argument: given})
    assert np.count_nonzero(~mask) == 4 * 2


@pytest.mark.parametrize("level", [1, np.int32(1)])
def test_level_may_be_an_integer(level):
    data = placed(np.ones((4, 8)))
    mask = datasparse.block_mask(data, sparsity_level=level, sparse_block_shape=(1, 4))
    assert not mask.any()


def test_level_and_block_shape_are_required_and_by_keyword():
    with pytest.raises(TypeError):
        datasparse.block_mask(placed(np.ones(4)))
    with pytest.raises(TypeError):
        datasparse.block_mask(placed(np.ones(4)), sparsity_level=0.5)
    with pytest.raises(TypeError):
        datasparse.block_mask(placed(np.ones((4, 8))), 0.5, (1, 4))


def test_huge_block_shape_is_one_block():
    mask = datasparse.block_mask(
        placed(np.ones((4, 8), np.float32)), sparsity_level=1.0, sparse_block_shape=(2**31, 2**31)
    )
    assert not mask.any()


@pytest.mark.parametrize("block_shape", [(2**40, 2**40), (2**63, 1), (2**64, 4), (10**30, 1)])
def test_block_shape_that_overflows_is_refused_not_wrapped(block_shape):
    with pytest.raises((ValueError, OverflowError, TypeError), match="sparse_block_shape"):
        datasparse.block_mask(
            placed(np.ones((4, 8), np.float32)), sparsity_level=1.0, sparse_block_shape=block_shape
        )


# Of tensors on a device, test_errors.py asks this.
@pytest.mark.device("cpu")
@pytest.mark.parametrize(
    "data",
    [
        np.ones((4, 8), np.int64),
        np.ones((4, 8), np.bool_),
        np.ones((4, 8), np.complex64),
        np.ones((4, 8), ">f4"),
        np.ones((4, 8), np.longdouble),
        np.array([["a", "b"]]),
        np.array([[object()]]),
        torch.ones(4, 8, dtype=torch.int32),
        torch.ones(4, 8, dtype=torch.complex64),
        torch.ones(4, 8, device="meta"),
        torch.ones(4, 8).to_sparse(),
        [[1.0, 2.0]],
        1.5,
        None,
        "data",
    ],
    ids=lambda data: f"{type(data).__name__}-{getattr(data, 'dtype', '')}",
)
def test_unsupported_data_are_refused(data):
    with pytest.raises(TypeError):
        datasparse.block_mask(data, **HALF)
