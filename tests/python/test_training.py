"""What the callbacks of all trainers share, without a trainer."""

import pytest
import torch
from datasparse import DataNormSparsifier, DataScheduler
from datasparse._training import Training
from datasparse.schedules import Constant, Linear
from datasparse.torch import attach
from torch import nn


def training(level=0.8, schedule="step"):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))
    sparsifier = DataNormSparsifier(sparsity_level=level, sparse_block_shape=(1, 1))
    attachment = attach(model, sparsifier)
    schedulers = [
        DataScheduler(sparsifier, "sparsity_level", Linear(end=2)),
        DataScheduler(sparsifier, "zeros_per_block", Constant(1)),
    ]
    made = Training(attachment, schedulers, schedule, 1, False, False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    made.begin([optimizer])
    return made, model, optimizer


def train(model, optimizer):
    optimizer.zero_grad()
    model(torch.ones(4, 6)).square().sum().backward()
    optimizer.step()


BAD = {
    "no steps": ({"steps": None}, r"the state must have \['steps', 'sparsifier', 'schedulers'\]"),
    "steps": ({"steps": -1}, "steps of the state must be an int of 0 or more, got -1"),
    "a text": ({"steps": "1"}, "steps of the state must be an int of 0 or more, got '1'"),
    "first": ({"first": [0]}, r"first of the state must be an int for each of 2 .*, got \[0\]"),
    "schedulers": ({"schedulers": []}, "the state has 0 schedulers, the callback 2"),
    "sparsifier": ({"sparsifier": {"version": 99}}, "version"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_a_state_is_loaded_whole_or_not_at_all(changes, message):
    other, model, optimizer = training()
    train(model, optimizer)
    state = other.state_dict() | changes
    state = {key: value for key, value in state.items() if value is not None}
    here, *_ = training()
    before = here.state_dict()
    with pytest.raises(ValueError, match=message):
        here.load_state_dict(state)
    assert here.state_dict() == before


def test_a_state_whose_last_scheduler_is_bad_changes_nothing():
    other, model, optimizer = training()
    train(model, optimizer)
    state = other.state_dict()
    state["schedulers"][1] = state["schedulers"][1] | {"last_epoch": "late"}
    here, model, optimizer = training()
    before = here.state_dict()
    with pytest.raises((TypeError, ValueError), match="last_epoch"):
        here.load_state_dict(state)
    assert here.state_dict() == before
    here.load_state_dict(other.state_dict())
    assert here.state_dict() == other.state_dict()


@pytest.mark.filterwarnings("error")
def test_zeros_are_written_at_the_end_of_an_epoch_also_where_a_warning_is_an_error():
    made, model, optimizer = training(level=0.99, schedule="epoch")
    train(model, optimizer)
    with pytest.raises(UserWarning, match="pruned all weights"):
        made.epochs_done(2)
    assert int(model[0].weight.count_nonzero()) == 0
