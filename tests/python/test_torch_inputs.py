"""What reaches the layers of a model: sums of squares, by which Wanda() ranks."""

import numpy as np
import pytest
import torch
from datasparse.scores import SNIP, Wanda
from datasparse.torch import attach, detach, record_inputs
from support import ON_DEVICES, as_numpy
from torch import nn

pytestmark = ON_DEVICES


def mlp():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def wanda(model, **config):
    config = {"sparsity_level": 1.0, "sparse_block_shape": (1, -1), "zeros_per_block": 1, **config}
    return attach(model, score=Wanda(), **config)


def test_wanda_on_a_model_is_that_of_concatenated_activations():
    model, some = mlp(), [torch.randn(5, 6) for _ in range(3)]
    attachment = wanda(model, zeros_per_block=3)
    with record_inputs(attachment), torch.no_grad():
        for batch in some:
            model(batch)
    together = torch.cat(some)
    for name, inputs in (("0.weight", together), ("2.weight", torch.tanh(model[0](together)))):
        weight = dict(model.named_parameters())[name].detach()
        norms = inputs.detach().norm(dim=0)
        squares = as_numpy(attachment.sparsifier.get_array(name, "inputs"))
        assert squares.dtype == np.float64
        np.testing.assert_allclose(squares[0], norms.numpy() ** 2, rtol=1e-5)
        ranked = (weight.abs() * norms).numpy()
        expected = np.ones_like(ranked, dtype=bool)
        for row, its in zip(expected, ranked, strict=True):
            row[np.argsort(its, kind="stable")[:3]] = False
        attachment.sparsifier.step()
        np.testing.assert_array_equal(as_numpy(attachment.sparsifier.get_mask(name)), expected)


class Own(nn.Module):
    """A linear layer that nobody has heard of."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))

    def forward(self, input):
        return input @ self.weight.T


def of_channels(x):
    return x.double().square().sum([axis for axis in range(x.ndim) if axis != 1])


LAYERS = {
    "linear": (lambda: nn.Linear(6, 4), (2, 3, 6), lambda x: x.double().square().sum((0, 1))[None]),
    "own": (lambda: Own(6, 4), (2, 6), lambda x: x.double().square().sum(0)[None]),
    "convolution": (
        lambda: nn.Conv2d(4, 6, 3), (2, 4, 5, 5), lambda x: of_channels(x).reshape(1, 4, 1, 1),
    ),
    "one image": (
        lambda: nn.Conv1d(4, 6, 3), (4, 5), lambda x: of_channels(x[None]).reshape(1, 4, 1),
    ),
    "groups": (
        lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 5, 5),
        lambda x: of_channels(x).reshape(2, 1, 2, 1, 1).expand(2, 3, 2, 1, 1).reshape(6, 2, 1, 1),
    ),
    "depthwise": (
        lambda: nn.Conv1d(4, 8, 3, groups=4), (2, 4, 5),
        lambda x: of_channels(x)[:, None].expand(4, 2).reshape(8, 1, 1),
    ),
    "transposed": (
        lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), (2, 4, 5, 5),
        lambda x: of_channels(x).reshape(4, 1, 1, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "shape", "squares"), LAYERS.values(), ids=LAYERS.keys())
@pytest.mark.parametrize("mode", ["in_place", "parametrize"])
def test_inputs_of_layers(make, shape, squares, mode):
    torch.manual_seed(1)
    model = nn.Sequential(make())
    attachment = wanda(model, mode=mode)
    some = [torch.randn(shape) for _ in range(2)]
    with record_inputs(model):
        for batch in some:
            model(batch)
    model(some[0])  # nobody looks any more
    recorded = as_numpy(attachment.sparsifier.get_array("0.weight", "inputs"))
    np.testing.assert_allclose(recorded, sum(map(squares, some)).numpy(), rtol=1e-12)
    attachment.sparsifier.step()
    assert (~as_numpy(attachment.sparsifier.get_mask("0.weight"))).sum() > 0
    detach(model)


def test_inputs_of_tables_are_counts_and_of_transformers_layers_features():
    transformers = pytest.importorskip("transformers")
    model = nn.Sequential(nn.Embedding(5, 6), transformers.pytorch_utils.Conv1D(4, 6))
    attachment = wanda(model, include="*.weight")
    with record_inputs(attachment) as recorded:
        model(torch.tensor([[1, 1, 4], [0, 1, 1]]))
    counts = as_numpy(attachment.sparsifier.get_array("0.weight", "inputs"))
    assert counts.tolist() == [[1], [4], [0], [0], [1]]
    assert attachment.sparsifier.get_array("1.weight", "inputs").shape == (6, 1)
    attachment.sparsifier.step()
    recorded.remove()


def test_squares_of_bfloat16_do_not_overflow_and_sums_go_on_where_they_stood():
    model = nn.Sequential(nn.Linear(3, 2, bias=False)).bfloat16()
    attachment = wanda(model)
    with record_inputs(attachment), torch.no_grad():
        model(torch.full((2, 3), 1e30).bfloat16())
    one = as_numpy(attachment.sparsifier.get_array("0.weight", "inputs"))
    large = float(torch.tensor(1e30).bfloat16()) ** 2
    np.testing.assert_array_equal(one, np.full((1, 3), 2 * large))
    another = nn.Sequential(nn.Linear(3, 2, bias=False)).bfloat16()
    resumed = wanda(another)
    resumed.sparsifier.load_state_dict(attachment.sparsifier.state_dict())
    with record_inputs(resumed), torch.no_grad():
        another(torch.full((2, 3), 1e30).bfloat16())
    both = as_numpy(resumed.sparsifier.get_array("0.weight", "inputs"))
    np.testing.assert_array_equal(both, 2 * one)


def test_tied_layers_are_summed_up_together():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    model = nn.Sequential(first, second)
    attachment = wanda(model)
    batch = torch.randn(3, 4)
    with record_inputs(attachment):
        between = model[0](batch)
        model[1](between)
    expected = batch.double().square().sum(0) + between.detach().double().square().sum(0)
    kept = as_numpy(attachment.sparsifier.get_array("0.weight", "inputs"))
    np.testing.assert_allclose(kept[0], expected.numpy(), rtol=1e-12)


class Odd(Own):
    def forward(self, input):
        return (input @ self.weight.T).sum()


REFUSED = {
    "recurrent": (lambda: nn.LSTM(4, 4), None, "'weight_ih_l0' belongs to a LSTM, whose inputs"),
    "bag": (lambda: nn.EmbeddingBag(4, 4), None, "'weight' belongs to a EmbeddingBag"),
    "bilinear": (lambda: nn.Bilinear(3, 4, 5), None, "'weight' belongs to a Bilinear"),
    "odd": (
        lambda: Odd(4, 3),
        lambda: torch.ones(2, 4),
        "'weight' belongs to a Odd, whose inputs are not",
    ),
    "NaN": (
        lambda: nn.Linear(4, 3),
        lambda: torch.full((2, 4), np.nan),
        "inputs of 'weight' must be finite",
    ),
}


@pytest.mark.parametrize(("make", "batch", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_layers_whose_inputs_are_not_known_are_refused_by_name(make, batch, message):
    model = make()
    attachment = wanda(model, include="weight*")
    with pytest.raises(ValueError, match=message), record_inputs(model):
        model(batch())
    assert attachment.sparsifier.score_bytes == 0
    assert not any(module._forward_hooks for module in model.modules())


def test_a_table_tied_to_a_layer_is_refused_when_recording_begins():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
    model[1].weight = model[0].weight
    wanda(model)
    with pytest.raises(ValueError, match="is tied between a Embedding and a Linear, whose inputs"):
        record_inputs(model)


def test_only_a_score_of_inputs_records_them():
    model = mlp()  # an attachment does not keep it
    with pytest.raises(ValueError, match=r"score must be Wanda\(\), .* got SNIP\(\)"):
        record_inputs(attach(model, score=SNIP()))


@pytest.mark.not_quick
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
@pytest.mark.parametrize("part", [False, True])
def test_models_that_were_compiled_and_called_before_are_recorded(part):
    torch._dynamo.reset()
    model = mlp()
    attachment = wanda(model)
    inputs = torch.randn(5, 6)
    called = model
    if part:
        model[0] = torch.compile(model[0], backend="eager")
    else:
        called = torch.compile(model, backend="eager")
    with torch.no_grad():
        called(inputs)
        for count in (1, 2):
            with record_inputs(attachment):
                called(inputs)
            sums = attachment.sparsifier.get_array(attachment.names[0], "inputs")
            expected = count * inputs.double().square().sum(0)
            np.testing.assert_allclose(as_numpy(sums).reshape(-1), as_numpy(expected))
        called(inputs)
    assert stance() == "default"


def stance():
    return torch._dynamo.eval_frame._stance.stance


@pytest.mark.not_quick
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_several_recordings_end_in_any_order(order):
    torch._dynamo.reset()
    models = [torch.compile(mlp(), backend="eager") for _ in range(2)]
    attachments = [wanda(model) for model in models]
    inputs = torch.randn(5, 6)
    with torch.no_grad():
        for model in models:
            model(inputs)
        recordings = [record_inputs(attachment) for attachment in attachments]
        recordings[order[0]].remove()
        assert stance() == "force_eager"
        models[order[1]](inputs)
    recordings[order[1]].remove()
    recordings[order[1]].remove()
    assert stance() == "default"
    name = attachments[0].names[0]
    assert attachments[order[0]].sparsifier.get_array(name, "inputs") is None
    assert attachments[order[1]].sparsifier.get_array(name, "inputs") is not None


def test_what_a_checkpoint_computes_once_more_does_not_count():
    model = mlp()
    attachment = wanda(model)
    inputs = torch.randn(5, 6)
    with record_inputs(attachment):
        out = torch.utils.checkpoint.checkpoint(model, inputs, use_reentrant=False)
        out.sum().backward()
    sums = attachment.sparsifier.get_array(attachment.names[0], "inputs")
    expected = inputs.double().square().sum(0)
    np.testing.assert_allclose(as_numpy(sums).reshape(-1), as_numpy(expected))


def test_empty_inputs_are_none():
    attachment = wanda(model := mlp())
    with record_inputs(attachment):
        model(torch.empty(0, 6))
    with pytest.raises(ValueError, match="inputs"):
        attachment.sparsifier.step()


class Two(nn.Module):
    """Two square matrices, of which the second gets what the first makes."""

    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.randn(6, 6))
        self.second = nn.Parameter(torch.randn(6, 6))

    def forward(self, x):
        return (x @ self.first.T).relu() @ self.second.T


def test_one_of_several_matrices_of_a_module_is_refused():
    attachment = wanda(Two())
    with pytest.raises(ValueError, match="'first' is one of several matrices of a Two"):
        record_inputs(attachment)


@pytest.mark.device("cpu")  # elsewhere, the layer need not make nested ones
@pytest.mark.filterwarnings("ignore:.*[Nn]ested")  # torch's own
def test_nested_tensors_add_what_is_in_them():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 1).eval()
    attachment = wanda(model, include="*linear2.weight")
    inputs, padding = torch.randn(2, 3, 8), torch.tensor([[False, False, True], [False] * 3])
    with record_inputs(attachment), torch.no_grad():
        model(inputs, src_key_padding_mask=padding)
    nested = as_numpy(attachment.sparsifier.get_array(attachment.names[0], "inputs"))
    plain = wanda(model, include="*linear2.weight")
    with record_inputs(plain), torch.no_grad():  # each sentence by itself, without padding
        model(inputs[:1, :2])
        model(inputs[1:])
    alone = as_numpy(plain.sparsifier.get_array(plain.names[0], "inputs"))
    np.testing.assert_allclose(nested, alone, rtol=1e-4)


def test_a_bias_of_two_axes_is_no_second_matrix():
    class Biased(nn.Module):
        def __init__(self):
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(6, 6))
            self.bias = nn.Parameter(torch.randn(1, 6))

        def forward(self, x):
            return x @ self.kernel.T + self.bias

    attachment = wanda(model := Biased(), include="kernel")
    with record_inputs(attachment):
        model(torch.ones(2, 6))
    sums = as_numpy(attachment.sparsifier.get_array("kernel", "inputs"))
    assert sums.reshape(-1).tolist() == 6 * [2.0]
