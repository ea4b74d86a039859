"""The document that the API comes from: its sample scheduler and its training loop, as they stand.

The sample's text is run unchanged; only the base class is imported from here.
"""

import re

import numpy as np
import pytest
import reference
import torch
from datasparse import DataNormSparsifier
from support import ON_DEVICES
from torch import nn

pytestmark = ON_DEVICES

SAMPLE = """
## Write your own data scheduler
The custom data scheduler must be inherit from the ```BaseDataScheduler``` class and should have the ```get_schedule_param()``` function implemented. For example, the following scheduler halves the ```sparsity_level``` at each step.
```
class ImplementedDataScheduler(BaseDataScheduler):
    def __init__(self, data_sparsifier):
        super().__init__(data_sparsifier=data_sparsifier, schedule_param='sparsity_level')  # 'sparsity_level' is the schedule_param in this case

    def get_schedule_param(self):
        # half the sparsity level every epoch
        if self.last_epoch > 0:
            return {name: config['sparsity_level'] * 0.5
                    for name, config in self.data_sparsifier.data_groups.items()}
        else:
            return self.base_param
```
"""  # noqa: E501

IMPORT = "from datasparse import BaseDataScheduler\n"
EPOCHS = 4
BATCHES = 3
BASE_LEVEL = 0.8
ROWS, COLUMNS = 20, 8


@pytest.fixture
def ImplementedDataScheduler():  # noqa: N802  (the sample's own name)
    (source,) = re.findall(r"^```\n(class ImplementedDataScheduler.*?)^```$", SAMPLE, re.S | re.M)
    namespace = {}
    exec(IMPORT + source, namespace)
    return namespace["ImplementedDataScheduler"]


class Model(nn.Module):
    """An embedding table and a linear layer over the mean of a few rows."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(ROWS, COLUMNS)
        self.linear = nn.Linear(COLUMNS, 1)

    def forward(self, rows):
        return self.linear(self.embedding(rows).mean(dim=1))


def training_set():
    generator = torch.Generator().manual_seed(11)
    return [
        (
            torch.randint(0, ROWS, (16, 3), generator=generator),
            torch.randn(16, 1, generator=generator),
        )
        for _ in range(BATCHES)
    ]


def batches(model, optimizer):
    """Trains on one batch after another; the caller's turn comes after each."""
    for input, target in training_set():
        optimizer.zero_grad()
        nn.functional.mse_loss(model(input), target).backward()
        optimizer.step()
        yield


def zeros_of(mask):
    return mask.numel() - int(torch.count_nonzero(mask))


def zeros_at(level, blocks, block_size):
    """The exact number of zeros that a step makes of data cut into whole blocks."""
    return round(level * blocks) * block_size


@pytest.fixture
def model():
    torch.manual_seed(5)
    return Model()


@pytest.fixture
def data_sparsifier(model):
    sparsifier = DataNormSparsifier(sparsity_level=BASE_LEVEL)
    sparsifier.add_data(name="embedding", data=model.embedding)
    sparsifier.add_data(name="linear", data=model.linear.weight, sparse_block_shape=(1, 1))
    return sparsifier


def test_initial_step_gives_the_base_level(data_sparsifier, ImplementedDataScheduler):  # noqa: N803
    data_scheduler = ImplementedDataScheduler(data_sparsifier)
    assert data_scheduler.last_epoch == 0
    assert data_scheduler.base_param == {"embedding": BASE_LEVEL, "linear": BASE_LEVEL}
    assert data_scheduler.get_last_param() == data_scheduler.base_param


def test_training_with_a_schedule_per_epoch(
    model,
    data_sparsifier,
    ImplementedDataScheduler,  # noqa: N803
):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data_scheduler = ImplementedDataScheduler(data_sparsifier)
    lr_scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    loss_fn = nn.MSELoss()

    levels, zeros, rates = [], [], []
    for _epoch in range(EPOCHS):
        for input, target in training_set():
            optimizer.zero_grad()
            output = model(input)
            loss = loss_fn(output, target)
            loss.backward()
            optimizer.step()
            data_sparsifier.step()

        zeros.append(
            (
                zeros_of(data_sparsifier.get_mask("embedding")),
                zeros_of(data_sparsifier.get_mask("linear")),
            )
        )
        data_scheduler.step()
        lr_scheduler.step()
        levels.append(data_scheduler.get_last_param())
        rates.append(optimizer.param_groups[0]["lr"])

    halved = [BASE_LEVEL * 0.5**k for k in range(EPOCHS + 1)]
    assert levels == [{"embedding": level, "linear": level} for level in halved[1:]]
    assert zeros == [(zeros_at(level, 40, 4), zeros_at(level, 8, 1)) for level in halved[:-1]]
    assert rates == [0.05, 0.025, 0.0125, 0.00625]
    assert data_scheduler.last_epoch == EPOCHS

    expected = reference.mask(model.embedding.weight.detach().numpy(), halved[-2], (1, 4))
    assert np.array_equal(data_sparsifier.get_mask("embedding").numpy(), expected)
    data_sparsifier.apply_mask()
    assert zeros_of(model.embedding.weight) == zeros_at(halved[-2], 40, 4) == 16
    assert zeros_of(model.linear.weight) == zeros_at(halved[-2], 8, 1) == 1


def test_training_with_a_schedule_per_step(
    model,
    data_sparsifier,
    ImplementedDataScheduler,  # noqa: N803
):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    data_scheduler = ImplementedDataScheduler(data_sparsifier)
    lr_scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2)
    levels, zeros = [], []
    for _epoch in range(2):
        for _batch in batches(model, optimizer):
            data_sparsifier.step()
            zeros.append(zeros_of(data_sparsifier.get_mask("embedding")))
            data_scheduler.step()
            levels.append(data_sparsifier.data_groups["embedding"]["sparsity_level"])

        lr_scheduler.step()

    halved = [BASE_LEVEL * 0.5**k for k in range(2 * BATCHES + 1)]
    assert levels == halved[1:]
    assert zeros == [zeros_at(level, 40, 4) for level in halved[:-1]]
    assert data_scheduler.last_epoch == 2 * BATCHES


def test_masked_weights_stay_zero_where_the_gradient_is_masked_by_the_user(
    model,
    data_sparsifier,
    ImplementedDataScheduler,  # noqa: N803
):
    """The usual way to train sparse: the mask is applied after every optimizer step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data_scheduler = ImplementedDataScheduler(data_sparsifier)
    levels_in_force = []
    for _epoch in range(EPOCHS):
        for _batch in batches(model, optimizer):
            data_sparsifier.step()
            data_sparsifier.apply_mask()
        levels_in_force.append(data_sparsifier.data_groups["embedding"]["sparsity_level"])
        mask = data_sparsifier.get_mask("embedding")
        assert not model.embedding.weight.detach()[~mask].any()
        assert zeros_of(mask) == zeros_at(levels_in_force[-1], 40, 4)
        data_scheduler.step()
    assert levels_in_force == [BASE_LEVEL * 0.5**k for k in range(EPOCHS)]


@pytest.mark.device("cpu")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_loop_on_numpy_arrays(ImplementedDataScheduler, rng, dtype):  # noqa: N803
    weights = {
        "table": rng.normal(size=(ROWS, COLUMNS)).astype(dtype),
        "bias": rng.normal(size=64).astype(dtype),
    }
    data_sparsifier = DataNormSparsifier(list(weights.items()), sparsity_level=BASE_LEVEL)
    data_scheduler = ImplementedDataScheduler(data_sparsifier)

    levels, zeros = [], []
    for _epoch in range(EPOCHS):
        for _batch in range(BATCHES):
            for weight in weights.values():
                weight -= dtype(0.1) * rng.normal(size=weight.shape).astype(dtype)
            data_sparsifier.step()
        zeros.append([np.count_nonzero(~data_sparsifier.get_mask(name)) for name in weights])
        data_scheduler.step()
        levels.append(data_scheduler.get_last_param())

    halved = [BASE_LEVEL * 0.5**k for k in range(EPOCHS + 1)]
    assert levels == [{"table": level, "bias": level} for level in halved[1:]]
    assert zeros == [[zeros_at(level, 40, 4), zeros_at(level, 16, 4)] for level in halved[:-1]]

    data_sparsifier.apply_mask()
    assert [np.count_nonzero(weight == 0) for weight in weights.values()] == zeros[-1]


def test_data_list_form_of_the_constructor_gives_the_same_levels(ImplementedDataScheduler):  # noqa: N803
    data_sparsifier = DataNormSparsifier(
        [("tensor_1", torch.randn(3, 3)), ("tensor_2", torch.randn(4, 4))], sparsity_level=0.7
    )
    data_sparsifier.add_data(name="tensor_3", data=torch.randn(5, 5), sparsity_level=0.3)
    data_scheduler = ImplementedDataScheduler(data_sparsifier)
    data_sparsifier.step()
    data_scheduler.step()
    assert data_scheduler.get_last_param() == {
        "tensor_1": 0.35,
        "tensor_2": 0.35,
        "tensor_3": 0.15,
    }
