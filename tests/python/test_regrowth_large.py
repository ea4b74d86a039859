"""Masks that move, of tensors so large that the engine samples: against stable sorts."""

import numpy as np
import pytest
from datasparse.regrowth import SET, RigL
from regrowth_reference import MASK64, ODD, stream_of
from support import ON_DEVICES, as_numpy, first_there, placed

pytestmark = ON_DEVICES

ELEMENTS = 200_000


def drawn(stream, n):
    """regrowth_reference.drawn_key() of many."""
    with np.errstate(over="ignore"):
        x = np.uint64(stream & MASK64) + np.arange(n, dtype=np.uint64) * np.uint64(ODD)
        x += np.uint64(ODD)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return ((x ^ (x >> np.uint64(31))) >> np.uint64(34)).astype(np.float64)


def scores(values, width):
    """The mean of |x|, added up one after another, of blocks of one row."""
    kind = np.float64 if values.dtype == np.float64 else np.float32
    parts = np.abs(values.astype(kind)).reshape(-1, width)
    total = np.zeros(len(parts), kind)
    for column in range(width):
        total += parts[:, column]
    return (total / kind(width)).astype(np.float64)


def lowest(keys, may, k):
    """Which of all are the k lowest of those that may be: NaN last, equals in their order."""
    order = np.argsort(keys, kind="stable")
    order = order[may[order]]
    chosen = np.zeros(len(keys), bool)
    chosen[order[:k]] = True
    return chosen


INPUTS = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "two-valued": lambda rng, n: np.where(rng.random(n) < 0.3, 1.0, 2.0),
    "constant": lambda rng, n: np.full(n, 0.5),
    "mostly zero": lambda rng, n: np.where(rng.random(n) < 0.9, 0.0, rng.standard_normal(n)),
    "sorted": lambda rng, n: np.sort(rng.standard_normal(n)),
    "256 values": lambda rng, n: rng.integers(0, 256, n) / 7.0,
    "half NaN": lambda rng, n: np.where(rng.random(n) < 0.5, np.nan, rng.standard_normal(n)),
    "one outlier": lambda rng, n: np.where(np.arange(n) == n // 3, 1e30, 1e-3),
}


def run(kind, inputs, width, sizes, dtypes, level, fraction, steps=3, seed=0):
    rng = np.random.default_rng(seed)
    pooled = len(sizes) > 1
    sparsifier = kind(
        sparsity_level=level,
        drop_fraction=fraction,
        sparse_block_shape=(1, width),
        pool="all" if pooled else None,
        seed=5,
    )
    data = {}
    for i, (size, dtype) in enumerate(zip(sizes, dtypes, strict=True)):
        data[f"g{i}"] = placed(INPUTS[inputs[0]](rng, size).astype(dtype).reshape(8, -1))
        sparsifier.add_data(f"g{i}", data[f"g{i}"])
    blocks = [size // width for size in sizes]
    splits = np.cumsum(blocks)[:-1]
    pruned = round(level * sum(blocks))
    keys = np.concatenate([drawn(stream_of(5, n, 0), b) for n, b in zip(data, blocks, strict=True)])
    active = ~lowest(keys, np.ones(len(keys), bool), pruned)
    sparsifier.step()
    for number in range(2, 2 + steps):
        for name, own in zip(data, np.split(active, splits), strict=True):
            mask = as_numpy(sparsifier.get_mask(name)).reshape(-1)
            np.testing.assert_array_equal(mask, np.repeat(own, width))
        before = {name: as_numpy(array).copy() for name, array in data.items()}
        gradients = {
            name: INPUTS[inputs[1]](rng, array.size).astype(array.dtype).reshape(array.shape)
            for name, array in before.items()
        }
        weights = np.concatenate([scores(array, width) for array in before.values()])
        if kind is RigL:
            sparsifier.set_gradients({name: placed(array) for name, array in gradients.items()})
            keys = np.concatenate([scores(array, width) for array in gradients.values()])
        else:
            keys = np.concatenate(
                [drawn(stream_of(5, n, number), b) for n, b in zip(data, blocks, strict=True)]
            )
        sparsifier.step()
        survivors = active & ~lowest(weights, active, int(np.floor(fraction * active.sum())))
        now = ~lowest(keys, ~survivors, pruned)
        for name, new in zip(data, np.split(now & ~active, splits), strict=True):
            expected = before[name].reshape(-1)
            expected[np.repeat(new, width)] = 0
            bits = expected.view(np.uint8)
            np.testing.assert_array_equal(as_numpy(data[name]).reshape(-1).view(np.uint8), bits)
        assert now.sum() == active.sum()
        active = now


@pytest.mark.parametrize("inputs", first_there(INPUTS))
@pytest.mark.parametrize("width", [1, 4])
def test_a_large_tensor_agrees_with_stable_sorts(inputs, width):
    run(RigL, (inputs, inputs), width, [ELEMENTS], [np.float32], 0.8, 0.3)


@pytest.mark.parametrize("level", first_there([0.5, 0.02, 0.98]))
def test_set_draws_as_the_reference_does(level):
    run(SET, ("normal", "normal"), 1, [ELEMENTS], [np.float32], level, 0.3)


@pytest.mark.parametrize(
    "dtypes", first_there([(np.float32, np.float64, np.float16), (np.float32,) * 3])
)
@pytest.mark.parametrize("kind", [RigL, SET])
@pytest.mark.parametrize("inputs", first_there(["half NaN", "256 values", "normal", "constant"]))
def test_a_large_pool_agrees_with_stable_sorts(dtypes, kind, inputs):
    run(kind, (inputs, "normal"), 1, [ELEMENTS, 80, 40_000], dtypes, 0.9, 0.4)


@pytest.mark.full_there
@pytest.mark.parametrize("number", [1, 2, 5])
def test_masks_are_the_same_for_any_number_of_threads(number, threads):
    threads(number)
    run(RigL, ("256 values", "normal"), 1, [ELEMENTS * 2], [np.float32], 0.9, 0.3)
    run(SET, ("256 values", "normal"), 4, [ELEMENTS * 2, 4096], [np.float32] * 2, 0.9, 0.3)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(40))
def test_many_large_tensors_agree_with_stable_sorts(seed):
    rng = np.random.default_rng(seed)
    inputs = rng.choice(list(INPUTS), 2)
    width = int(rng.choice([1, 2, 4, 8]))
    sizes = [8 * width * int(rng.integers(1, 60_000)) for _ in range(rng.integers(1, 4))]
    dtypes = [np.float32] * len(sizes)
    kind = [RigL, SET][seed % 2]
    run(kind, inputs, width, sizes, dtypes, rng.random(), rng.random(), 3, seed)
