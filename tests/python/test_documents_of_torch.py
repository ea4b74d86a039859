"""What the README files of PyTorch's data sparsifier promise, sample by sample, with our imports.

The scheduler's document is in test_seed_document.py, the callbacks' in test_lightning.py, and the
quantization helper's in test_quantization.py.
"""

import pytest
import torch
from datasparse import BaseDataSparsifier
from support import MAY_PRUNE_ALL, ON_DEVICES
from torch import nn

pytestmark = ON_DEVICES


class ImplementedDataSparsifier(BaseDataSparsifier):
    def __init__(self, threshold):
        super().__init__(threshold=threshold)

    def update_mask(self, name, data, threshold):
        mask = self.get_mask(name)
        mask[torch.abs(data) < threshold] = 0.0


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(11)


def test_simple_example():
    tensor1 = torch.randn(100, 100)
    param1 = nn.Parameter(torch.randn(200, 32))
    before = tensor1.clone(), param1.detach().clone()

    my_sparsifier = ImplementedDataSparsifier(threshold=0.2)
    my_sparsifier.add_data(name="tensor1", data=tensor1, threshold=0.5)
    my_sparsifier.add_data(name="param1", data=param1)

    my_sparsifier.step()  # computes mask

    original = my_sparsifier.get_data(name="tensor1", return_original=True)
    sparsified = my_sparsifier.get_data(name="tensor1", return_original=False)
    assert torch.equal(original, before[0])
    assert torch.equal(sparsified, before[0] * (before[0].abs() >= 0.5))

    my_sparsifier.squash_mask()  # applies and removes mask

    assert torch.equal(tensor1, before[0] * (before[0].abs() >= 0.5))
    assert torch.equal(param1, before[1] * (before[1].abs() >= 0.2))


class Model(nn.Module):
    def __init__(self, feature_dim, emb_dim, num_classes):
        super().__init__()
        self.emb = nn.EmbeddingBag(feature_dim, emb_dim)
        self.linear1 = nn.Linear(emb_dim, 32)
        self.linear2 = nn.Linear(32, num_classes)
        self.relu = nn.ReLU()

    def forward(self, x):
        out = self.emb(x)
        out = self.relu(self.linear1(out))
        return self.linear2(out)


def test_sparsifying_model_embeddings():
    model = Model(100, 32, 10)
    my_sparsifier = ImplementedDataSparsifier(threshold=0.5)
    my_sparsifier.add_data(name="emb", data=model.emb)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randint(100, (8, 5))).sum().backward()
        optimizer.step()
    trained = model.emb.weight.detach().clone()

    my_sparsifier.step()  # creates mask for embeddings
    my_sparsifier.squash_mask()  # applies and removes mask

    kept = trained.abs() >= 0.5
    assert 0 < int(kept.sum()) < kept.numel()
    assert torch.equal(model.emb.weight, trained * kept)


@pytest.mark.parametrize("reuse_mask", [True, False])
def test_in_the_context_of_training_data(reuse_mask):
    """Each batch takes the place of the last one under one name, and is masked as that was."""
    data_sparsifier = ImplementedDataSparsifier(threshold=0.2)
    data_name = "train_data"
    last = None
    for _ in range(4):
        batch = torch.randn(6, 10)
        x = data_sparsifier.add_data(name=data_name, data=batch, reuse_mask=reuse_mask)
        expected = batch if last is None or not reuse_mask else batch * last
        assert torch.equal(x, expected)
        data_sparsifier.step()
        kept = batch.abs() >= 0.2
        # As in the document, the override only ever clears places of the mask that it finds.
        last = kept if last is None or not reuse_mask else last & kept
        assert torch.equal(data_sparsifier.get_mask(data_name), last)


@MAY_PRUNE_ALL
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda mask: mask.__setitem__(slice(0, 10), torch.zeros(10)), 10 * [0] + 6 * [1]),
        (lambda mask: mask.mul_(torch.arange(16) % 2 == 0), 8 * [1, 0]),
        (lambda mask: setattr(mask, "data", torch.zeros_like(mask)), 16 * [0]),
    ],
    ids=["a portion", "in place", "the data"],
)
def test_ways_to_change_a_mask(change, expected):
    class Changing(BaseDataSparsifier):
        def update_mask(self, name, data):
            change(self.get_mask(name))

    sparsifier = Changing([("w", torch.randn(16))])
    sparsifier.step()
    assert sparsifier.get_mask("w").int().tolist() == expected


def test_state_can_be_serialized(tmp_path):
    sparsifier = ImplementedDataSparsifier(threshold=0.4)
    sparsifier.add_data(name="w", data=torch.randn(20))
    sparsifier.step()
    torch.save(sparsifier.state_dict(), tmp_path / "state.pt")
    other = ImplementedDataSparsifier(threshold=0.1)
    other.load_state_dict(torch.load(tmp_path / "state.pt"))
    other.add_data(name="w", data=torch.randn(20))
    assert torch.equal(other.get_mask("w"), sparsifier.get_mask("w"))
