"""RigL, SET and Static against a slow plain reference, to the bit."""

import numpy as np
import pytest
import regrowth_reference
import torch
from datasparse.regrowth import SET, RigL, Static
from reference import as_matrix
from support import ON_DEVICES, first_there

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:step\(\) pruned all weights"),
    *ON_DEVICES,
]

KINDS = {"RigL": RigL, "SET": SET, "Static": Static}
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
BLOCKS = [(1, 1), (1, 4), (4, 4), (2, 3), (-1, 1), (1, -1)]
N_OF_M = [((1, 4), 2), ((1, 8), 5), ((2, 2), 1), ((1, 3), 1), ((1, 16), 4)]


def bits_of(tensor):
    """The bytes of the values: +0 is not -0."""
    flat = tensor.detach().reshape(-1)
    return flat.clone().view(torch.uint8).numpy().copy() if flat.numel() else np.zeros(0, np.uint8)


def random_values(rng, shape, dtype, ties):
    values = rng.standard_normal(shape)
    if ties:
        values = np.round(values * 2) / 2
    values = np.asarray(values)
    if rng.random() < 0.3:
        values[rng.random(shape) < 0.1] = np.nan
    return torch.from_numpy(values.copy()).to(dtype)


class Sequence:
    """A sparsifier and the same groups for the reference."""

    def __init__(self, seed, kind=None):
        self.rng = rng = np.random.default_rng(seed)
        self.kind = kind or ["RigL", "SET", "Static"][rng.choice(3, p=[0.5, 0.4, 0.1])]
        self.pooled = bool(rng.random() < 0.4)
        self.within = bool(rng.random() < 0.3)
        self.ties = bool(rng.random() < 0.5)
        norm = ["L1", "L2", None][rng.choice(3, p=[0.6, 0.2, 0.2])]
        level, fraction = rng.random(), rng.random()
        self.groups, self.weights = [], []
        self.sparsifier = KINDS[self.kind](norm=norm, pool="all" if self.pooled else None)
        for g in range(rng.integers(1, 4)):
            shape = tuple(rng.integers(0 if rng.random() < 0.1 else 1, 9, rng.integers(0, 4)))
            if rng.random() < 0.2:
                shape = (int(rng.integers(8, 24)), int(rng.integers(8, 40)))
            block, zeros = BLOCKS[rng.integers(len(BLOCKS))], None
            if self.within:
                block, zeros = N_OF_M[rng.integers(len(N_OF_M))]
                level = 1.0
            dtype = DTYPES[rng.integers(4)]
            weight = random_values(rng, shape, dtype, self.ties)
            kept = np.zeros(shape, bool)
            if rng.random() < 0.2:
                kept = np.asarray(rng.random(shape) < rng.choice([0.1, 0.6, 1]))
                weight[torch.from_numpy(kept)] = 0
                kept = (weight == 0).numpy()  # ties make zeros, too
            given = None
            if rng.random() < 0.3:
                given = np.asarray(rng.random(shape) < rng.random())
            group = {
                "name": f"g{g}",
                "level": level if not self.pooled or rng.random() < 0.7 else rng.random(),
                "fraction": fraction if rng.random() < 0.7 else rng.random(),
                "seed": int(rng.integers(3)),
                "shape": block,
                "zeros": zeros,
                "norm": norm,
                "min_kept": 0 if self.pooled or self.within else int(rng.integers(3)),
                "drawn": given is not None,
            }
            if self.within:
                group["level"] = 1.0
            self.sparsifier.add_data(
                group["name"],
                weight,
                mask=given,
                keep_zeros=bool(kept.any()),
                sparsity_level=group["level"],
                drop_fraction=group["fraction"],
                seed=group["seed"],
                sparse_block_shape=block,
                zeros_per_block=zeros,
                **({"min_kept": group["min_kept"]} if group["min_kept"] else {}),
            )
            mask = np.ones(shape, bool) if given is None else given
            group["mask"] = as_matrix(mask & ~kept).copy()
            group["kept"] = as_matrix(kept)
            self.groups.append(group)
            self.weights.append(weight)

    def values_of(self, tensor):
        kind = torch.float64 if tensor.dtype == torch.float64 else torch.float32
        return as_matrix(tensor.to(kind).numpy()).copy()

    def step(self, number):
        rng = self.rng
        gradients = {}
        for group, weight in zip(self.groups, self.weights, strict=True):
            # Parameters move wherever an optimizer likes.
            weight += random_values(rng, weight.shape, weight.dtype, self.ties) * 0.5
            group["data"] = self.values_of(weight)
            group["zeroed"] = np.zeros(group["data"].shape, bool)
            kind = DTYPES[rng.integers(4)]
            gradients[group["name"]] = random_values(rng, weight.shape, kind, self.ties)
            group["gradient"] = self.values_of(gradients[group["name"]])
            if rng.random() < 0.2 and not self.within:
                group["level"] = rng.random()
            if rng.random() < 0.2:
                group["fraction"] = float(rng.choice([0, 1, rng.random()]))
            self.sparsifier.data_groups[group["name"]].update(
                sparsity_level=group["level"], drop_fraction=group["fraction"]
            )
        before = [w.clone() for w in self.weights]
        self.sparsifier.set_gradients(gradients if self.kind == "RigL" else {})
        self.sparsifier.step()
        sets = [self.groups] if self.pooled else [[group] for group in self.groups]
        for groups in sets:
            drawn = [group for group in groups if not group["drawn"]]
            moved = [group for group in groups if group["drawn"]]
            regrowth_reference.draw(drawn, self.pooled)
            if self.kind != "Static":
                regrowth_reference.move(moved, self.pooled, self.kind == "RigL", number)
            for group in groups:
                group["drawn"] = True
        for group, weight, old in zip(self.groups, self.weights, before, strict=True):
            mask = as_matrix(np.asarray(self.sparsifier.get_mask(group["name"])))
            np.testing.assert_array_equal(mask, group["mask"], err_msg=str(group))
            old[torch.from_numpy(group["zeroed"]).reshape(weight.shape)] = 0
            expected = old
            np.testing.assert_array_equal(bits_of(weight), bits_of(expected), err_msg=str(group))


def run(seed, kind=None):
    sequence = Sequence(seed, kind)
    for number in range(1, 6):
        sequence.step(number)


@pytest.mark.parametrize("seed", first_there(range(100), 6))
def test_random_sequences_agree_with_the_reference(seed):
    run(seed)


@pytest.mark.full
def test_many_random_sequences_agree_with_the_reference(device):
    for seed in range(100, 2000 if device.name == "cpu" else 400):
        run(seed)
