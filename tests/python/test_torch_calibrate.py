"""Norms of inputs: as arrays, as a file, and as masks."""

import json

import numpy as np
import pytest
import torch
from datasparse import block_mask
from datasparse.scores import SNIP, Wanda
from datasparse.torch import attach, calibrate
from safetensors import safe_open
from safetensors.numpy import load_file
from support import as_numpy
from torch import nn
from torch.nn.utils import prune


def mlp():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 3))


def batches(count=3, *shape):
    torch.manual_seed(2)
    return [torch.randn(*(shape or (5, 6))) for _ in range(count)]


def test_norms_are_those_of_concatenated_activations():
    model, some = mlp(), batches()
    norms = calibrate(model, iter(some))
    together = torch.cat(some)
    inner = torch.tanh(model[0](together)).detach()
    assert list(norms) == ["0.weight", "3.weight"]
    for found, inputs in zip(norms.values(), (together, inner), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, inputs.double().norm(dim=0).numpy(), rtol=1e-6)


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    some, state = batches(), torch.get_rng_state()
    calibrate(model, some)
    assert model.training
    assert model[1].training
    assert not model[0]._forward_hooks
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert model[0].weight.grad is None


def test_the_file_is_what_the_library_of_its_format_reads(tmp_path):
    path = tmp_path / "norms.safetensors"
    path.write_text("of yesterday")
    norms = calibrate(mlp(), batches(), path=path)
    read = load_file(path)
    assert read.keys() == norms.keys()
    for name, values in norms.items():
        assert read[name].dtype == np.float32
        assert read[name].tobytes() == values.tobytes()
    with safe_open(path, "np") as file:
        assert json.loads(file.metadata()["transposed"]) == []
    assert list(tmp_path.iterdir()) == [path]


def test_a_weight_that_is_stored_as_inputs_by_outputs_is_said_to_be(tmp_path):
    from transformers.pytorch_utils import Conv1D

    model = nn.Sequential(Conv1D(6, 6), nn.Linear(6, 2))
    norms = calibrate(model, batches(), path=tmp_path / "norms")
    np.testing.assert_allclose(norms["0.weight"], torch.cat(batches()).norm(dim=0), rtol=1e-6)
    with safe_open(tmp_path / "norms", "np") as file:
        assert json.loads(file.metadata()["transposed"]) == ["0.weight"]


def test_channels_of_a_convolution():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1, groups=2))
    some = batches(2, 2, 3, 5, 5)
    norms = calibrate(model, some)
    assert list(norms) == ["0.weight"]
    expected = torch.cat(some).square().sum((0, 2, 3)).sqrt()
    np.testing.assert_allclose(norms["0.weight"], expected, rtol=1e-6)


class Words(nn.Module):
    """As language models: the last layer's weight is the embedding's."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(7, 4)
        self.inner = nn.Linear(4, 4)
        self.last = nn.Linear(4, 7, bias=False)
        self.last.weight = self.words.weight
        self.never = nn.Linear(2, 2)

    def forward(self, tokens, scale=1.0):
        return self.last(self.inner(self.words(tokens)) * scale)


TOKENS = torch.tensor([[0, 3, 3]])


def test_what_has_no_columns_is_left_by_default_and_refused_by_name():
    model = Words()
    assert list(calibrate(model, [TOKENS])) == ["inner.weight"]
    with pytest.raises(ValueError, match=r"'words.weight' belongs to a Embedding, whose inputs"):
        calibrate(model, [TOKENS], include="words.weight")
    with pytest.raises(ValueError, match=r"'never.weight' got no input from any batch"):
        calibrate(model, [TOKENS], include="never.*")
    grouped = nn.Sequential(nn.Conv1d(4, 4, 1, groups=2))
    with pytest.raises(ValueError, match="groups have inputs of their own"):
        calibrate(grouped, batches(1, 2, 4, 5), include="*")
    with pytest.raises(ValueError, match="no weight of the model belongs to a layer"):
        calibrate(grouped, batches(1, 2, 4, 5))


class Stacked(nn.Module):
    """Several matrices in one parameter, as mixtures of experts keep them."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 6, 6))

    def forward(self, x):
        return x @ self.weight[0] + x @ self.weight[1]


def test_what_nobody_knows_the_inputs_of_is_left_by_default():
    attention = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)
    model = nn.Sequential(Stacked(), nn.Bilinear(6, 6, 6), attention)
    norms = calibrate(model, batches(2, 3, 4, 6), call=lambda model, x: model[2](model[0](x)))
    assert list(norms) == ["2.linear1.weight", "2.linear2.weight"]
    for name in ("0.weight", "1.weight", "2.self_attn.in_proj_weight"):
        with pytest.raises(ValueError, match="whose inputs are not known, and norms are of"):
            calibrate(model, [], include=name)


def test_layers_that_torch_prunes_have_norms():
    model = prune.l1_unstructured(nn.Linear(3, 2), "weight", 0.5)
    (norms,) = calibrate(model, [torch.tensor([[3.0, 0.0, 1.0], [4.0, 0.0, 0.0]])]).values()
    np.testing.assert_array_equal(norms, [5.0, 0.0, 1.0])


def test_batches_are_passed_as_what_they_are():
    model = Words()
    plain = calibrate(model, [TOKENS])["inner.weight"]
    for batch in ((TOKENS, 2.0), [TOKENS], {"tokens": TOKENS, "scale": 3.0}):
        np.testing.assert_array_equal(calibrate(model, [batch])["inner.weight"], plain)
    called = calibrate(model, ["abc"], call=lambda model, batch: model(TOKENS))
    np.testing.assert_array_equal(called["inner.weight"], plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_attachment_gets_masks(dtype):
    model, some = mlp().to(dtype), [batch.to(dtype) for batch in batches()]
    config = {"sparsity_level": 1.0, "sparse_block_shape": (1, -1), "zeros_per_block": 3}
    attachment = attach(model, score=Wanda(), **config)
    norms = calibrate(attachment, some)
    for name, weight in model.named_parameters():
        if name not in norms:
            continue
        mask = as_numpy(attachment.sparsifier.get_mask(name))
        assert (mask.sum(1) == mask.shape[1] - 3).all()
        if dtype == torch.float64:
            continue
        # What the shell ranks by: |W| times the norms of the file, in float32.
        scores = weight.detach().float().abs().numpy() * norms[name]
        np.testing.assert_array_equal(mask, block_mask(scores, **config))
    assert not bool((model[0].weight == 0).any())  # the zeros are apply()'s


def test_an_attachment_that_fails_is_as_before(tmp_path):
    model = mlp()
    attachment = attach(model, score=Wanda(), sparsity_level=0.5, sparse_block_shape=(1, 1))
    calibrate(attachment, batches())
    mask = as_numpy(attachment.sparsifier.get_mask("0.weight")).copy()
    sums = as_numpy(attachment.sparsifier.get_array("0.weight", "inputs")).copy()
    bad = [torch.ones(5, 6), torch.full((5, 6), torch.inf)]
    path = tmp_path / "norms"
    with pytest.raises(ValueError, match="must be finite"):
        calibrate(attachment, bad, path=path)
    np.testing.assert_array_equal(as_numpy(attachment.sparsifier.get_mask("0.weight")), mask)
    found = as_numpy(attachment.sparsifier.get_array("0.weight", "inputs"))
    np.testing.assert_array_equal(found, sums)
    assert not path.exists()
    assert not model[0]._forward_hooks
    attachment.sparsifier.reset_score()
    with pytest.raises(ValueError, match=r"has seen no inputs of '3\.weight'"):
        calibrate(attachment, batches(), call=lambda model, batch: model[0](batch), path=path)
    assert attachment.sparsifier.get_array("0.weight", "inputs") is None
    assert not path.exists()


@pytest.mark.filterwarnings("error")
def test_an_attachment_whose_masks_have_changed_keeps_its_sums():
    model = mlp()
    attachment = attach(model, score=Wanda(), sparsity_level=0.99, sparse_block_shape=(1, 1))
    with pytest.raises(UserWarning, match="pruned all weights"):
        calibrate(attachment, batches())
    sparsifier = attachment.sparsifier
    assert sparsifier.step_count == 1
    assert not sparsifier.get_mask("0.weight").any()
    assert sparsifier.get_array("0.weight", "inputs") is not None


def test_what_is_refused():
    model = mlp()
    with pytest.raises(ValueError, match="batches must hold at least one, got none"):
        calibrate(model, [])
    with pytest.raises(TypeError, match="model must be a model or what attach"):
        calibrate(3, [])
    with pytest.raises(ValueError, match=r"'nothing' matches no parameter"):
        calibrate(model, batches(), include="nothing")
    attachment = attach(model, score=SNIP())
    with pytest.raises(ValueError, match=r"score must be Wanda\(\)"):
        calibrate(attachment, batches())
    with pytest.raises(TypeError, match="are those of the attachment"):
        calibrate(attachment, batches(), include="0.*")


def test_a_module_with_several_matrices_has_no_norms_of_its_own():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Parameter(torch.randn(6, 6))
            self.second = nn.Parameter(torch.randn(6, 6))
            self.last = nn.Linear(6, 2)

        def forward(self, x):
            return self.last((x @ self.first.T).relu() @ self.second.T)

    assert list(calibrate(Two(), batches())) == ["last.weight"]
    with pytest.raises(ValueError, match="'second' belongs to a Two, which has several matrices"):
        calibrate(Two(), batches(), include="second")


class Buffers(nn.Module):
    """One that is None at first, and one whose elements share memory."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.register_buffer("seen", None)
        self.register_buffer("places", torch.arange(3.0).expand(5, 3))

    def forward(self, x):
        self.seen = x
        return self.layer(x) + self.places


def test_buffers_are_left_as_they_were():
    model = Buffers()
    calibrate(model, batches())
    assert model.seen is None
    assert model.training
    assert torch.equal(model.places, torch.arange(3.0).expand(5, 3))


def test_norms_that_no_float32_is_are_refused(tmp_path):
    model = nn.Linear(6, 3).double()
    with pytest.raises(ValueError, match="norms of the inputs of 'weight' are beyond float32"):
        calibrate(model, [torch.full((1, 6), 1e100, dtype=torch.float64)], path=tmp_path / "n")
    assert not list(tmp_path.iterdir())


def test_batches_that_reach_no_layer_are_refused():
    with pytest.raises(ValueError, match="no layer got an input from any batch"):
        calibrate(mlp(), batches(), call=lambda model, batch: None)
