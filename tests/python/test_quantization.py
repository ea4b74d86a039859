"""Embedding tables pruned and quantized: zeros stay exact, in either order."""

import pytest
import torch
from datasparse import BaseDataSparsifier, DataNormSparsifier
from datasparse.quantization import post_training_sparse_quantize
from support import ON_DEVICES
from torch import nn

pytestmark = ON_DEVICES

CONFIG = {"sparsity_level": 0.5, "sparse_block_shape": (1, 1)}


class Threshold(BaseDataSparsifier):
    def update_mask(self, name, data, threshold):
        self.get_mask(name)[torch.abs(data) < threshold] = False


class Recommender(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.users = nn.Embedding(30, 8)
        self.items = nn.Sequential(nn.EmbeddingBag(20, 8))  # the mean, by default
        self.tags = nn.EmbeddingBag(10, 8, mode="sum", include_last_offset=True)
        self.head = nn.Linear(8, 1)

    def forward(self, users, items, tags, offsets):
        return self.head(self.users(users) + self.items(items) + self.tags(tags, offsets))


def inputs():
    generator = torch.Generator().manual_seed(2)
    users = torch.randint(30, (6,), generator=generator)
    items = torch.randint(20, (6, 3), generator=generator)
    tags = torch.randint(10, (9,), generator=generator)
    return users, items, tags, torch.tensor([0, 1, 1, 4, 6, 8, 9])


NAMES = ["users", "items.0", "tags"]


def dequantized(model, name):
    return model.get_submodule(name).dequantize()


def test_a_table_with_two_names_is_replaced_under_both():
    model = Recommender()
    model.shared = nn.ModuleDict({"tokens": model.users})
    sparsifier = post_training_sparse_quantize(model, DataNormSparsifier, **CONFIG)
    assert list(sparsifier.data_groups) == NAMES
    assert model.shared["tokens"] is model.users
    assert model.users.levels.dtype == torch.uint8


def test_what_is_tied_to_a_table_is_named():
    model = nn.ModuleDict({"table": nn.Embedding(50, 8), "head": nn.Linear(8, 50, bias=False)})
    model["head"].weight = model["table"].weight
    before = model["head"].weight.detach().clone()
    with pytest.warns(UserWarning, match="'head.weight' shared its values with a table"):
        post_training_sparse_quantize(model, DataNormSparsifier, sparsity_level=0.9)
    assert torch.equal(model["head"].weight, before)


@pytest.mark.parametrize("sparsify_first", [True, False])
def test_a_table_of_width_0_is_replaced_too(sparsify_first):
    model = nn.ModuleList([nn.Embedding(5, 0), nn.EmbeddingBag(5, 0, mode="sum")])
    post_training_sparse_quantize(model, DataNormSparsifier, sparsify_first, **CONFIG)
    assert [table.levels.shape for table in model] == [(5, 0), (5, 0)]
    rows = torch.arange(5)
    assert model[0](rows).shape == (5, 0)
    assert model[1](rows.view(1, -1)).shape == (1, 0)


@pytest.mark.parametrize("sparsify_first", [True, False])
def test_zeros_are_exact_and_values_are_near(sparsify_first):
    dense, model = Recommender(), Recommender()
    sparsifier = post_training_sparse_quantize(
        model, DataNormSparsifier, sparsify_first=sparsify_first, **CONFIG
    )
    assert list(sparsifier.data_groups) == NAMES
    for name in NAMES:
        mask = sparsifier.get_mask(name)
        weight = dense.get_submodule(name).weight.detach()
        left = dequantized(model, name)
        assert int((~mask).sum()) == mask.numel() // 2
        assert torch.all(left[~mask] == 0)
        step = (weight.amax(1) - weight.amin(1)) / 255
        assert torch.all((left - weight * mask).abs() <= 1.01 * step.unsqueeze(1))


@pytest.mark.parametrize("sparsify_first", [True, False])
def test_the_model_computes_with_what_is_left(sparsify_first):
    model = Recommender()
    post_training_sparse_quantize(model, DataNormSparsifier, sparsify_first, **CONFIG)
    plain = Recommender()
    with torch.no_grad():
        for name in NAMES:
            plain.get_submodule(name).weight.copy_(dequantized(model, name))
        plain.head.load_state_dict(model.head.state_dict())
    torch.testing.assert_close(model(*inputs()), plain(*inputs()))


BAGS = {
    "mean": {},
    "sum, last offset": {"mode": "sum", "include_last_offset": True},
    "max": {"mode": "max"},
    "padding": {"mode": "sum", "padding_idx": 3},
    "padding, mean": {"padding_idx": 0},
}


@pytest.mark.parametrize("name", BAGS)
@pytest.mark.parametrize("shape", ["one-dimensional", "two-dimensional"])
def test_bags_of_every_kind(name, shape):
    torch.manual_seed(3)
    model = nn.Sequential(nn.EmbeddingBag(7, 4, **BAGS[name]))
    plain = nn.EmbeddingBag(7, 4, **BAGS[name])
    post_training_sparse_quantize(model, DataNormSparsifier, **CONFIG)
    with torch.no_grad():
        plain.weight.copy_(dequantized(model, "0"))
    if shape == "two-dimensional":
        arguments = (torch.tensor([[0, 3, 3], [6, 0, 2]]),)
    else:
        last = [6] if "last" in name else []
        arguments = (torch.tensor([0, 3, 5, 3, 3, 1]), torch.tensor([0, 2, 2, *last]))
    torch.testing.assert_close(model[0](*arguments), plain(*arguments))
    if plain.mode == "sum":
        weights = torch.rand(arguments[0].shape)
        torch.testing.assert_close(
            model[0](*arguments, per_sample_weights=weights),
            plain(*arguments, per_sample_weights=weights),
        )


def test_a_bag_of_a_narrow_model_takes_its_narrow_weights():
    model = nn.Sequential(nn.EmbeddingBag(7, 4, mode="sum").bfloat16())
    bags, factors = torch.tensor([[0, 3], [6, 2]]), torch.tensor([[0.5, 2.0], [1.0, 0.25]])
    model[0](bags, per_sample_weights=factors.bfloat16())
    post_training_sparse_quantize(model, DataNormSparsifier, **CONFIG)
    narrow = model[0](bags, per_sample_weights=factors.bfloat16())
    assert torch.equal(narrow, model[0](bags, per_sample_weights=factors))


def test_a_state_dict_holds_bytes():
    model, other = (nn.Sequential(nn.Embedding(50, 8)) for _ in range(2))
    for some in (model, other):
        post_training_sparse_quantize(some, DataNormSparsifier, **CONFIG)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other[0].dequantize(), model[0].dequantize())
    sizes = {name: value.nbytes for name, value in model.state_dict().items()}
    assert sizes == {"0.levels": 400, "0.scale": 200, "0.zero": 50}


def test_the_order_matters():
    """Sparsify first: the scale of a row follows from what is left in it."""
    results = []
    for first in (True, False):
        model = Recommender()
        post_training_sparse_quantize(
            model, DataNormSparsifier, first, sparsity_level=0.9, sparse_block_shape=(1, 1)
        )
        results.append(model.users.scale)
    assert torch.any(results[0] < results[1])
    assert torch.all(results[0] <= results[1])


def test_selected_tables_with_a_sparsifier_of_ones_own():
    model, dense = Recommender(), Recommender()
    post_training_sparse_quantize(model, Threshold, select_embeddings=[model.users], threshold=0.5)
    pruned = dense.users.weight.abs() < 0.5
    assert torch.equal(dequantized(model, "users") == 0, pruned)
    assert isinstance(model.tags, nn.EmbeddingBag)
    assert torch.equal(model.items[0].weight, dense.items[0].weight)


@pytest.mark.parametrize("sparsify_first", [True, False])
@pytest.mark.parametrize("row", [[0.0, 0.0], [1.0, 2.0], [-3.0, -1.0], [1e-30, 0.0]])
def test_rows_that_are_one_sided_or_zero(row, sparsify_first):
    model = nn.Sequential(nn.Embedding(1, 2, _weight=torch.tensor([row])))
    post_training_sparse_quantize(model, DataNormSparsifier, sparsify_first, **CONFIG)
    left = dequantized(model, "0")[0]
    least = 0 if abs(row[0]) <= abs(row[1]) else 1
    assert left[least] == 0
    assert abs(left[1 - least] - row[1 - least]) <= max(map(abs, row)) / 255


WIDE = torch.tensor([[1e300, 1.0]], dtype=torch.float64)


class Scaled(nn.Embedding):
    """As language models have them."""

    def forward(self, indices):
        return 4 * super().forward(indices)


def hooked(pre):
    table = nn.Embedding(3, 2)
    register = table.register_forward_pre_hook if pre else table.register_forward_hook
    register(lambda *_: None)
    return nn.Sequential(table)


def called_otherwise():
    table = nn.Embedding(3, 2)
    table.forward = lambda indices: 4 * nn.Embedding.forward(table, indices)
    return nn.Sequential(table)


@pytest.mark.parametrize("sparsify_first", [True, False])
def test_a_row_may_be_wider_than_float32(sparsify_first):
    table = nn.Embedding.from_pretrained(torch.tensor([[3e38, -3e38, 2e37, 0.0]]))
    model = nn.Sequential(table)
    post_training_sparse_quantize(model, DataNormSparsifier, sparsify_first, sparsity_level=0.0)
    made = model[0].dequantize()
    assert made[0, 3] == 0
    torch.testing.assert_close(made, table.weight.detach(), rtol=0, atol=2e36)


@pytest.mark.device("cpu")
@pytest.mark.parametrize(
    ("model", "says"),
    [
        (nn.Sequential(Scaled(3, 2)), "'0' is a Scaled that does more than to look up rows"),
        (hooked(pre=True), "does more than to look up rows"),
        (hooked(pre=False), "does more than to look up rows"),
        (called_otherwise(), "does more than to look up rows"),
        (nn.Sequential(nn.Embedding.from_pretrained(WIDE)), "finite in float32"),
        (nn.Sequential(nn.Linear(2, 2)), "holds no nn.Embedding"),
        (nn.Embedding(3, 2), "holds no nn.Embedding"),  # nobody could replace it
        (nn.Sequential(nn.Embedding(3, 2, max_norm=1.0)), "max_norm"),
        (nn.Sequential(nn.Embedding.from_pretrained(torch.tensor([[1.0, torch.inf]]))), "finite"),
        (nn.Sequential(nn.Embedding.from_pretrained(torch.tensor([[1.0, torch.nan]]))), "finite"),
    ],
)
def test_what_cannot_be_quantized_is_refused(model, says):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=says):
        post_training_sparse_quantize(model, DataNormSparsifier, **CONFIG)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)


def test_tables_of_another_model_are_refused():
    with pytest.raises(ValueError, match="within the model"):
        post_training_sparse_quantize(
            Recommender(), DataNormSparsifier, select_embeddings=[nn.Embedding(3, 2)]
        )
