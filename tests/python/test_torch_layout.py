"""Blocks along the inputs of an output, whatever the layer keeps innermost."""

import numpy as np
import pytest
import torch
from datasparse import DataNormSparsifier, block_mask
from datasparse.torch import attach
from support import ON_DEVICES
from torch import nn

pytestmark = ON_DEVICES

transformers = pytest.importorskip("transformers", reason="Conv1D is in transformers")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(9)


# The layer, the attribute, and the order of its axes: outputs first, inputs last.
LAYERS = {
    "Linear": (lambda: nn.Linear(16, 6), "weight", (0, 1)),
    "Conv1d": (lambda: nn.Conv1d(8, 6, 5), "weight", (0, 2, 1)),
    "Conv2d": (lambda: nn.Conv2d(8, 6, 3), "weight", (0, 2, 3, 1)),
    "Conv3d": (lambda: nn.Conv3d(4, 3, (1, 2, 3)), "weight", (0, 2, 3, 4, 1)),
    "grouped Conv2d": (lambda: nn.Conv2d(16, 6, 3, groups=2), "weight", (0, 2, 3, 1)),
    "depthwise Conv2d": (lambda: nn.Conv2d(8, 8, 4, groups=8), "weight", (0, 2, 3, 1)),
    "pointwise Conv2d": (lambda: nn.Conv2d(16, 6, 1), "weight", (0, 2, 3, 1)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(8, 6, 3), "weight", (1, 2, 0)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(8, 6, 3), "weight", (1, 2, 3, 0)),
    "Embedding": (lambda: nn.Embedding(6, 16), "weight", (0, 1)),
    "Conv1D": (lambda: transformers.pytorch_utils.Conv1D(6, 16), "weight", (1, 0)),
    "attention": (lambda: nn.MultiheadAttention(8, 2), "in_proj_weight", (0, 1)),
    "LSTM": (lambda: nn.LSTM(8, 4), "weight_ih_l0", (0, 1)),
}
CONFIGS = [
    {"sparsity_level": 1.0, "sparse_block_shape": (1, 4), "zeros_per_block": 2},
    {"sparsity_level": 0.5, "sparse_block_shape": (1, 4)},
    {"sparsity_level": 0.5, "sparse_block_shape": (2, 3), "norm": "L2"},
    {"sparsity_level": 1.0, "sparse_block_shape": (1, -1), "zeros_per_block": 5},
]


def permuted_mask(weight, order, config):
    """What block_mask() says of a copy whose axes lie in that order, in the weight's own order."""
    rows = np.ascontiguousarray(weight.detach().numpy().transpose(order))
    return block_mask(rows, **config).transpose(np.argsort(order))


@pytest.mark.parametrize("config", CONFIGS, ids=["2:4", "1x4", "2x3", "per row"])
@pytest.mark.parametrize("kind", LAYERS)
def test_blocks_lie_along_the_inputs(kind, config):
    make, attribute, order = LAYERS[kind]
    layer = make()
    sparsifier = DataNormSparsifier(**config)
    attachment = attach(layer, sparsifier, include=attribute)
    sparsifier.step()
    attachment.apply()
    mask = sparsifier.get_mask(attribute).numpy()
    weight = getattr(layer, attribute)
    assert mask.shape == tuple(weight.shape)
    fresh = make()
    getattr(fresh, attribute).data.normal_()
    sparsifier = DataNormSparsifier(**config)
    attach(fresh, sparsifier, include=attribute)
    sparsifier.step()
    expected = permuted_mask(getattr(fresh, attribute), order, config)
    np.testing.assert_array_equal(sparsifier.get_mask(attribute).numpy(), expected)


def test_two_of_four_inputs_are_zero_at_every_place_of_a_kernel():
    layer = nn.Conv2d(64, 32, 3)
    for layout, least, most in (("inputs", 1.0, 1.0), ("memory", 0.3, 0.5)):
        sparsifier = DataNormSparsifier(
            sparsity_level=1.0, sparse_block_shape=(1, 4), zeros_per_block=2
        )
        attachment = attach(layer, sparsifier, layout=layout)
        sparsifier.step()
        zeros = (~sparsifier.get_mask("weight")).permute(0, 2, 3, 1).reshape(-1, 4).sum(1)
        assert least <= float((zeros == 2).float().mean()) <= most
        axes = (0, 2, 3, 1) if layout == "inputs" else ()
        assert attachment.sparsifier.layout("weight") == axes


def test_the_inputs_of_a_grouped_transposed_convolution():
    """Blocks along the inputs of one output stay within its group."""
    layer = nn.ConvTranspose2d(16, 6, 2, groups=2)  # weight: 16 inputs x 3 outputs of each group
    sparsifier = DataNormSparsifier(
        sparsity_level=1.0, sparse_block_shape=(1, 4), zeros_per_block=2
    )
    attach(layer, sparsifier)
    sparsifier.step()
    pruned = ~sparsifier.get_mask("weight")
    for group in pruned.split(8):
        assert (group.permute(1, 2, 3, 0).reshape(-1, 4).sum(1) == 2).all()


def test_a_saved_layout_comes_back_and_a_state_without_one_means_memory():
    config = CONFIGS[0]
    layer, sparsifier = nn.Conv2d(8, 6, 3), DataNormSparsifier(**config)
    attach(layer, sparsifier)
    sparsifier.step()
    state = sparsifier.state_dict()
    for claimed in (True, False):
        for old in (True, False):
            its = DataNormSparsifier(**config)
            saved = dict(state, data_groups={"weight": dict(state["data_groups"]["weight"])})
            if old:
                saved["version"] = 1
                for key in ("layout", "kept_zeros", "update"):
                    del saved["data_groups"]["weight"][key]
            if claimed:
                its.load_state_dict(saved)
                attach(layer, its)
            else:
                attach(layer, its)
                its.load_state_dict(saved)
            assert its.layout("weight") == (() if old else (0, 2, 3, 1))
            its.step()
            order = (0, 1, 2, 3) if old else (0, 2, 3, 1)
            expected = permuted_mask(layer.weight, order, config)
            np.testing.assert_array_equal(its.get_mask("weight").numpy(), expected)


def test_an_override_gets_the_parameter_as_it_is():
    seen = []

    class Own(DataNormSparsifier):
        def update_mask(self, name, data, **config):
            seen.append(tuple(data.shape))
            super().update_mask(name, data, **config)

    layer, sparsifier = nn.Conv2d(8, 6, 3), Own(**CONFIGS[0])
    attach(layer, sparsifier)
    sparsifier.step()
    assert seen == [(6, 8, 3, 3)]
    expected = permuted_mask(layer.weight, (0, 2, 3, 1), CONFIGS[0])
    np.testing.assert_array_equal(sparsifier.get_mask("weight").numpy(), expected)


def test_a_layout_is_one_of_two():
    with pytest.raises(ValueError, match='layout must be "inputs" or "memory", got'):
        attach(nn.Linear(4, 4), DataNormSparsifier(), layout="outputs")
