"""`--pool`: one threshold over tensors in files, the masks of a pool in memory, found by counting."""

import itertools
import json
import shutil

import datasparse
import numpy as np
import pytest
import torch
from datasparse.files import counting, plan
from datasparse.files.folder import Checkpoint
from datasparse.files.options import Options
from datasparse.files.pools import alone, level_of
from datasparse.files.prune import plan_prune, prune
from files_support import (
    RankedBy,
    layout_seen,
    masks_in_memory,
    random_files,
    require_pruned,
    snapshot,
    tensor_of,
    tensors_in,
    write_checkpoint,
)
from safetensors.torch import save_file
from support import MAY_PRUNE_ALL

pytestmark = MAY_PRUNE_ALL
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def random_rule(rng):
    """Config keys of a pool."""
    level = float(rng.choice([0, 0.1, 0.29, 0.5, 0.77, 1]))
    rule = {"sparsity_level": level, "sparse_block_shape": (1, 1), "pool": "all"}
    kind = rng.integers(3)
    if kind == 1:
        shapes = [(1, 4), (2, 3), (4, 4), (1, -1), (-1, 1)]
        rule["sparse_block_shape"] = shapes[rng.integers(len(shapes))]
    elif kind == 2:
        rule |= {"sparse_block_shape": (1, 4), "zeros_per_block": int(rng.integers(1, 5))}
    if level < 1 and rng.integers(3) == 0:
        rule |= {"min_level": level * rng.random(), "max_level": level + (1 - level) * rng.random()}
    return rule


def check_random_pool(seed, folder):
    rng = np.random.default_rng([27, seed])
    files = random_files(rng)
    source = write_checkpoint(folder / "s", files)
    tensors = tensors_in(source)
    taken = {name: one for name, one in tensors.items() if one.ndim > 1 and one.dtype in FLOATS}
    rule = random_rule(rng)
    layout = str(rng.choice(["memory", "inputs"]))
    transposed = ("must.0.*",) if rng.integers(2) else ()
    layouts = {
        name: layout_seen(one, layout, bool(transposed) and name.startswith("must.0."))
        for name, one in taken.items()
    }
    by = {}
    sparsifier = datasparse.DataNormSparsifier(**rule)
    ranks = rng.integers(4)
    if ranks == 0:
        scores = {name: tensor_of(rng, str(rng.choice(["F32", "F16", "BF16", "F64"])),
                                  tuple(taken[name].shape)) for name in taken}  # fmt: skip
        save_file(scores, folder / "scores.safetensors")
        by = {"scores": str(folder / "scores.safetensors")}
        sparsifier = RankedBy(scores, **rule)
    elif ranks == 1:
        norms = {
            name: torch.from_numpy(rng.random(one.shape[0 if one.ndim and layouts[name]
                                              and layouts[name][-1] == 0 else 1])).float()
            for name, one in taken.items()
        }  # fmt: skip
        save_file(norms, folder / "norms.safetensors")
        by = {"input_norms": str(folder / "norms.safetensors")}
        sparsifier = datasparse.DataNormSparsifier(**rule, score=datasparse.scores.Wanda())
    if ranks == 1:
        expected = masks_by_wanda(taken, sparsifier, layouts, norms)
    else:
        expected = masks_in_memory(tensors, taken, sparsifier, layouts)
    options = Options(**rule, **by, layout=layout, transposed=transposed)
    done = prune(source, folder / "t", options, masks=folder / "masks")
    require_pruned(source, folder / "t", expected)

    loaded = datasparse.DataNormSparsifier()
    for name in sorted(taken):
        loaded.add_data(name, tensors[name])
    datasparse.load(folder / "masks", loaded)
    for name, mask in expected.items():
        assert torch.equal(loaded.get_mask(name), mask)
        assert dict(loaded.data_groups[name]) == dict(sparsifier.data_groups[name])
        assert done["tensors"][name]["config"]["pool"] == "all"


def masks_by_wanda(taken, sparsifier, layouts, norms):
    for name in sorted(taken):
        sparsifier.add_data(name, taken[name], layout=layouts[name])
        shape = [1] * taken[name].ndim
        shape[0 if layouts[name] and layouts[name][-1] == 0 else 1] = -1
        squares = (norms[name].double() ** 2).numpy().reshape(shape)
        sparsifier.set_array(name, "inputs", squares)
    sparsifier.step()
    return {name: sparsifier.get_mask(name) for name in taken}


@pytest.mark.parametrize("seed", range(30))
def test_masks_are_those_of_a_pool_in_memory(seed, tmp_path):
    check_random_pool(seed, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("tens", range(30))
def test_masks_are_those_of_a_pool_in_memory_300_times(tens, tmp_path):
    for seed in range(1000 + 10 * tens, 1010 + 10 * tens):
        folder = tmp_path / str(seed)
        folder.mkdir()
        check_random_pool(seed, folder)
