"""Pools whose members lie on several devices: the masks of the CPU, and few reads."""

import datasparse
import numpy as np
import pytest
import torch
from datasparse.regrowth import RigL

pytestmark = [
    pytest.mark.device("pretended", "cuda"),
    pytest.mark.filterwarnings(r"ignore:step\(\) pruned all weights"),
]

DTYPES = [torch.float32, torch.bfloat16, torch.float64]


def places_of(device, rng, number):
    places = ["cpu", device.at(), device.other]
    return [places[i] for i in rng.integers(0, 3, number)]


def random_group(rng, dtypes):
    shape = tuple(int(n) for n in rng.integers(1, 12, 2))
    values = torch.from_numpy(np.round(rng.standard_normal(shape), 1))
    group = {"monotone": bool(rng.random() < 0.3)}
    if rng.random() < 0.3:
        group |= {"min_level": 0.1, "max_level": 0.9}
    values = values.to(dtypes[rng.integers(len(dtypes))])
    return (values.T.contiguous().T if rng.random() < 0.3 else values), group


@pytest.mark.parametrize("seed", range(20))
def test_masks_are_those_of_the_cpu(seed, device):
    rng = np.random.default_rng(seed)
    dtypes = DTYPES if rng.random() < 0.3 else DTYPES[:1]
    block = [(1, 1), (1, 2), (2, 2)][rng.integers(3)]
    config = {"sparse_block_shape": block, "pool": "all", "sparsity_level": 0.6}
    if rng.random() < 0.2:
        config["normalize"] = "l2"
    groups = [random_group(rng, dtypes) for _ in range(5)]
    places = places_of(device, rng, len(groups))
    there, here = (datasparse.DataNormSparsifier(**config) for _ in range(2))
    keep = [bool(rng.random() < 0.3) for _ in groups]
    for i, (values, group) in enumerate(groups):
        there.add_data(str(i), values.to(places[i], copy=True), keep_zeros=keep[i], **group)
        here.add_data(str(i), values.clone(), keep_zeros=keep[i], **group)
    there.add_data("alone", torch.arange(6.0).to(device.at()), pool=None)
    here.add_data("alone", torch.arange(6.0), pool=None)
    for level in (0.4, 0.6, 0.5):
        for sparsifier in (there, here):
            for name in sparsifier.data_groups:
                sparsifier.data_groups[name]["sparsity_level"] = level
            sparsifier.step()
        for i, place in enumerate(places):
            mask = there.get_mask(str(i))
            assert mask.device == torch.device(place)
            assert torch.equal(mask.cpu(), here.get_mask(str(i))), (seed, i, level)
        assert torch.equal(there.get_mask("alone").cpu(), here.get_mask("alone"))


@pytest.mark.device("pretended")  # which counts
def test_scores_stay_where_they_are(device):
    """What goes from one device to another are counts and keys, a few bytes for each bit."""
    rows = torch.randn(64, 1024)
    sparsifier = datasparse.DataNormSparsifier(sparse_block_shape=(1, 1), pool="all")
    sparsifier.add_data("cpu", rows)
    sparsifier.add_data("there", device.put(rows.clone()))
    sparsifier.step()
    with device.counted() as asked:
        sparsifier.step()
    assert asked.counts.reads == 0
    assert asked.counts.from_device <= 40, "one a round of 32, and those of the end"


def test_memory_that_ends_leaves_all_as_it_was(device):
    if not hasattr(device, "refusing"):
        pytest.skip(f"the memory of {device.name} cannot be limited")
    weights = {"cpu": torch.randn(8, 8), "there": device.put(torch.randn(8, 8))}
    sparsifier = datasparse.DataNormSparsifier(weights, sparse_block_shape=(1, 1), pool="all")
    for nth in (0, 5, 40):
        with device.refusing(nth) as refused, pytest.raises(torch.OutOfMemoryError):
            sparsifier.step()
        assert refused == [True]
        assert all(bool(sparsifier.get_mask(name).all()) for name in weights)


def test_masks_that_move_share_pools_on_one_device_only(device):
    weights = {"cpu": torch.randn(4, 4), "there": device.put(torch.randn(4, 4))}
    sparsifier = RigL(weights, sparsity_level=0.5, pool="all")
    with pytest.raises(TypeError, match="pool 'all' ranks must be on one device, got some"):
        sparsifier.draw()
