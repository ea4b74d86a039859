"""follow() for masks that are made by gradients, or that move."""

import gc
import warnings
import weakref
from typing import ClassVar

import datasparse
import numpy as np
import pytest
import torch
from datasparse.regrowth import RigL
from datasparse.scores import Taylor
from datasparse.torch import attach
from datasparse.torch.grown import start_from_rest
from support import ON_DEVICES, as_numpy

pytestmark = ON_DEVICES


class ByGradient(datasparse.DataNormSparsifier):
    """Prunes where gradients are small; tells what it has seen."""

    reads_gradients = True

    def __init__(self, *args, **config):
        self._seen = []
        super().__init__(*args, **config)

    def get_scores(self, name, data, **config):
        parameter = self.get_data(name)
        if parameter.grad is None:
            raise ValueError(f"{name!r} has no gradient")
        self._seen.append((name, parameter.detach().clone(), parameter.grad.clone()))
        return parameter.grad.abs()


class Moving(RigL):
    """RigL that counts its moves."""

    def __init__(self, *args, **config):
        self._moves = 0
        super().__init__(*args, drop_fraction=0.5, **config)

    def get_gradients(self, name, data, **config):
        self._moves += 1
        return super().get_gradients(name, data, **config)


def model_of(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))


def loss_of(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return model(torch.randn(8, 6, generator=generator)).square().mean()


def attached(kind, **config):
    model = model_of()
    sparsifier = kind(sparsity_level=0.5, sparse_block_shape=(1, 1), **config)
    return model, sparsifier, attach(model, sparsifier)


def step(model, optimizer, seed=1, closure=False):
    def compute():
        optimizer.zero_grad()
        loss = loss_of(model, seed)
        loss.backward()
        return loss

    if closure:
        return optimizer.step(compute)
    compute()
    optimizer.step()
    return None


@pytest.mark.parametrize("closure", [False, True])
def test_gradients_are_read_with_the_weights_that_they_belong_to(closure):
    model, sparsifier, attachment = attached(ByGradient)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attachment.follow(optimizer)
    before = model[0].weight.detach().clone()
    step(model, optimizer, closure=closure)
    plain = model_of()
    loss_of(plain).backward()
    name, weights, gradient = sparsifier._seen[0]
    assert name == "0.weight"
    assert torch.equal(weights, before)
    assert torch.equal(gradient, plain[0].weight.grad)
    mask = sparsifier.get_mask("0.weight")
    expected = datasparse.block_mask(gradient.abs(), sparsity_level=0.5, sparse_block_shape=(1, 1))
    assert torch.equal(torch.as_tensor(expected), mask)
    assert torch.equal(model[0].weight.detach(), (before - 0.1 * gradient) * mask)


def test_a_closure_by_keyword_is_read_too_and_its_loss_is_returned():
    model, sparsifier, attachment = attached(ByGradient)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attachment.follow(optimizer)

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    loss = optimizer.step(closure=closure)
    assert torch.equal(loss.detach(), loss_of(model_of()).detach())
    assert len(sparsifier._seen) == 2


def test_a_closure_that_is_called_twice_is_refused():
    class Twice(torch.optim.SGD):
        def step(self, closure=None):
            closure()
            return super().step(closure)

    model, _, attachment = attached(ByGradient)
    optimizer = Twice(model.parameters(), lr=0.1)
    attachment.follow(optimizer)
    with pytest.raises(RuntimeError, match="Twice calls its closure several times in one step"):
        step(model, optimizer, closure=True)


def test_lbfgs_is_refused():
    model, _, attachment = attached(ByGradient)
    with pytest.raises(ValueError, match="LBFGS computes several gradients in one step"):
        attachment.follow(torch.optim.LBFGS(model.parameters()))


def training_on_a_schedule():
    """After one step."""
    model, sparsifier, attachment = attached(ByGradient)
    scheduler = datasparse.DataScheduler(
        sparsifier, "sparsity_level", datasparse.schedules.Linear(initial=0.0, final=0.8, end=4)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    following = attachment.follow(optimizer, scheduler=scheduler)
    step(model, optimizer)
    return model, sparsifier, scheduler, optimizer, following


def test_a_weight_without_a_gradient_stops_the_step_before_anything_moves():
    model, sparsifier, scheduler, optimizer, following = training_on_a_schedule()
    before = (sparsifier.state_dict(), scheduler.state_dict(), following.steps)
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer.zero_grad()
    loss_of(model).backward()
    model[2].weight.grad = None
    with pytest.raises(ValueError, match=r"'2.weight' has no gradient"):
        optimizer.step()
    assert (sparsifier.state_dict(), scheduler.state_dict(), following.steps) == before
    for parameter, old in zip(model.parameters(), weights, strict=True):
        assert torch.equal(parameter.detach(), old)
    step(model, optimizer)
    assert following.steps == 2
    assert scheduler.last_epoch == 2


def test_an_error_of_another_kind_takes_the_schedule_back(monkeypatch):
    """Another rank's, say: the schedules of all ranks stay together."""
    model, sparsifier, scheduler, optimizer, following = training_on_a_schedule()
    before = (sparsifier.state_dict(), scheduler.state_dict(), following.steps)

    def fail(*_, **__):
        raise RuntimeError("rank 1 failed")

    with monkeypatch.context() as patch:
        patch.setattr(ByGradient, "get_scores", fail)
        with pytest.raises(RuntimeError, match="rank 1 failed"):
            step(model, optimizer)
    assert (sparsifier.state_dict(), scheduler.state_dict(), following.steps) == before
    step(model, optimizer)
    assert scheduler.last_epoch == following.steps == 2


class Reluctant(Taylor):
    """Ranks by sums, and fails when it is told to."""

    fails: ClassVar[bool] = False

    def from_sums(self, weight, sums, samples):
        if type(self).fails:
            raise RuntimeError("no ranking")
        return sums


class OfBlocks(datasparse.BaseDataScheduler):
    """Writes what is there, and fails when it is told to."""

    def __init__(self, *args):
        self._fails = False
        super().__init__(*args)

    def get_schedule_param(self):
        if self._fails:
            raise RuntimeError("no value")
        return dict.fromkeys(self.data_sparsifier.data_groups, 1)


def dead_training(kind, **config):
    """Its steps prune all of a weight, by rounding, of which a warning tells."""
    model, sparsifier, attachment = attached(kind, **config)
    scheduler = datasparse.DataScheduler(
        sparsifier, "sparsity_level", datasparse.schedules.Linear(initial=0.99, final=0.99, end=4)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    following = attachment.follow(optimizer, scheduler=scheduler, mask_state=True)
    return model, sparsifier, scheduler, optimizer, following


@pytest.mark.parametrize("closure", [False, True])
@pytest.mark.parametrize("config", [{}, {"score": Taylor()}])
def test_a_warning_that_is_an_error_comes_when_the_step_is_done(config, closure):
    kind = datasparse.DataNormSparsifier if config else ByGradient
    plain = dead_training(kind, **config)
    with pytest.warns(UserWarning, match="pruned all weights"):
        step(plain[0], plain[3], closure=closure)
    strict = dead_training(kind, **config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="pruned all weights"):
            step(strict[0], strict[3], closure=closure)
    for model, sparsifier, scheduler, _, following in (plain, strict):
        assert sparsifier.step_count == scheduler.last_epoch == following.steps == 1
        assert int(model[0].weight.count_nonzero()) == 0
    assert strict[1].state_dict() == plain[1].state_dict()
    for one, other in zip(strict[0].parameters(), plain[0].parameters(), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(strict[3].state.values(), plain[3].state.values(), strict=True):
        assert torch.equal(one["momentum_buffer"], other["momentum_buffer"])
    with pytest.warns(UserWarning, match="pruned all weights"):  # it is told once
        step(strict[0], strict[3])
    assert strict[4].steps == 2


def test_what_grows_starts_from_rest_where_a_warning_is_an_error(monkeypatch):
    model, sparsifier, attachment = attached(Moving)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    following = attachment.follow(optimizer, every=2)
    step(model, optimizer)
    before = sparsifier.get_mask("0.weight").clone()
    moves = RigL.step

    def warned(self):
        moves(self)
        raise UserWarning("moved")

    monkeypatch.setattr(Moving, "step", warned, raising=False)
    with pytest.raises(UserWarning, match="moved"):
        step(model, optimizer)
    assert following.steps == 2
    grown = sparsifier.get_mask("0.weight") & ~before
    assert bool(grown.any())
    momentum = optimizer.state[model[0].weight]["momentum_buffer"]
    assert torch.equal(momentum[grown], model[0].weight.grad[grown])  # of this step alone


@pytest.mark.parametrize("every", [1, 2])
def test_nothing_is_summed_up_where_the_schedule_does_not_move(every):
    model, sparsifier, attachment = attached(datasparse.DataNormSparsifier, score=Taylor())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    slope = datasparse.schedules.Linear(initial=0.2, final=0.4, end=9)
    schedulers = [
        datasparse.DataScheduler(sparsifier, "sparsity_level", slope),
        OfBlocks(sparsifier, "zeros_per_block"),
    ]
    following = attachment.follow(optimizer, scheduler=schedulers, every=every)
    step(model, optimizer)
    before = sparsifier.state_dict(), [one.last_epoch for one in schedulers], following.steps
    schedulers[1]._fails = True
    with pytest.raises(RuntimeError, match="no value"):
        step(model, optimizer)
    after = sparsifier.state_dict(), [one.last_epoch for one in schedulers], following.steps
    assert after == before


def test_a_gradient_that_was_summed_up_is_trained_by():
    model, sparsifier, attachment = attached(datasparse.DataNormSparsifier, score=Reluctant())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    slope = datasparse.schedules.Linear(initial=0.2, final=0.4, end=9)
    scheduler = datasparse.DataScheduler(sparsifier, "sparsity_level", slope)
    following = attachment.follow(optimizer, scheduler=scheduler)
    step(model, optimizer)
    mask, weights = sparsifier.get_mask("0.weight").clone(), model[0].weight.detach().clone()
    Reluctant.fails = True
    try:
        with pytest.raises(RuntimeError, match="no ranking"):
            step(model, optimizer)
    finally:
        Reluctant.fails = False
    assert int(sparsifier.get_array("0.weight", "samples")) == following.steps == 2
    assert scheduler.last_epoch == 2
    assert torch.equal(sparsifier.get_mask("0.weight"), mask)
    expected = (weights - 0.1 * model[0].weight.grad) * mask
    assert torch.equal(model[0].weight.detach(), expected)


def test_a_step_that_trains_nothing_moves_nothing():
    model, sparsifier, attachment = attached(ByGradient)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    following = attachment.follow(optimizer)
    optimizer.step()
    assert following.steps == 0
    assert sparsifier._seen == []
    step(model, optimizer)
    optimizer.param_groups[0]["lr"] = 0.0
    for parameter in model.parameters():
        parameter.grad.zero_()
    optimizer.step()
    assert following.steps == 1


def test_masks_that_move_do_so_first_at_step_every():
    model, sparsifier, attachment = attached(Moving)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attachment.follow(optimizer, every=3)
    moved = []
    for count in range(1, 8):
        step(model, optimizer, seed=count)
        if sparsifier._moves > 2 * len(moved):
            moved.append(count)
    assert moved == [3, 6]


@pytest.mark.parametrize("closure", [False, True])
def test_a_replaced_step_trains_nothing_at_all(closure):
    model, sparsifier, attachment = attached(Moving)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, weight_decay=0.1)
    attachment.follow(optimizer, every=2, replaces_step=True)
    step(model, optimizer, closure=closure)
    mask = sparsifier.get_mask("0.weight").clone()
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    step(model, optimizer, seed=5, closure=closure)
    assert not torch.equal(sparsifier.get_mask("0.weight"), mask)
    for name, parameter, old in zip(
        ("0.weight", None, "2.weight", None), model.parameters(), weights, strict=True
    ):
        expected = old if name is None else old * sparsifier.get_mask(name)
        assert torch.equal(parameter.detach(), expected)
        assert parameter.grad is None
    step(model, optimizer, seed=6, closure=closure)
    assert not torch.equal(model[2].bias.detach(), weights[3])


@pytest.mark.parametrize("kind", [ByGradient, Moving, datasparse.DataNormSparsifier])
def test_an_optimizer_that_is_let_go_of_is_gone_at_once(kind):
    model, _, attachment = attached(kind)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attachment.follow(optimizer)
    step(model, optimizer)
    left = weakref.ref(optimizer)
    gc.disable()
    try:
        del optimizer
        assert left() is None
        assert not attachment.followings
    finally:
        gc.enable()


class Averaging(RigL):
    """Sees every step, and grows by a running mean."""

    def accumulate(self):
        for name in self.data_groups:
            gradient = self.get_gradient(name).abs()
            mean = self.get_array(name, "mean")
            if isinstance(mean, np.ndarray):  # on a device it is a tensor
                mean = torch.from_numpy(mean.copy())
            self.set_array(name, "mean", gradient if mean is None else 0.5 * mean + 0.5 * gradient)

    def get_gradients(self, name, data, **config):
        return self.get_array(name, "mean")


@pytest.mark.parametrize("closure", [False, True])
def test_an_override_of_accumulate_sees_every_step(closure):
    model, sparsifier, attachment = attached(Averaging)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attachment.follow(optimizer, every=4)
    plain, mean = model_of(), None
    with torch.no_grad():
        plain[0].weight.copy_(model[0].weight)
        plain[2].weight.copy_(model[2].weight)
    for seed in range(3):
        step(model, optimizer, seed, closure)
        plain.zero_grad()
        loss_of(plain, seed).backward()
        gradient = plain[0].weight.grad.abs()
        mean = gradient if mean is None else 0.5 * mean + 0.5 * gradient
        plain.load_state_dict(model.state_dict())
    kept = sparsifier.get_array("0.weight", "mean")
    np.testing.assert_array_equal(as_numpy(kept), as_numpy(mean))


def test_a_step_at_which_nothing_moves_is_not_replaced():
    model, sparsifier, attachment = attached(Moving)
    for config in sparsifier.data_groups.values():
        config["drop_fraction"] = 0.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attachment.follow(optimizer, every=1, replaces_step=True)
    before = model[2].bias.detach().clone()
    step(model, optimizer)
    assert sparsifier._moves == 2
    assert not torch.equal(model[2].bias.detach(), before)


def test_replaced_steps_are_for_masks_that_move():
    model, _, attachment = attached(ByGradient)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="replaces_step=True is for masks that move"):
        attachment.follow(optimizer, replaces_step=True)


@pytest.mark.parametrize("kind", [Moving, Taylor])
def test_gradients_that_a_fused_optimizer_is_about_to_unscale_are_unscaled(kind):
    """A GradScaler leaves that to an optimizer that can; others have it done before."""

    def trained(fused, scaled):
        model = model_of()
        config = {"sparsity_level": 0.5, "sparse_block_shape": (1, 1)}
        own = kind(**config) if kind is Moving else None
        sparsifier = own or datasparse.DataNormSparsifier(**config, score=Taylor())
        attachment = attach(model, sparsifier)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=fused)
        attachment.follow(optimizer, every=2)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        for seed in range(4):
            optimizer.zero_grad()
            scaler.scale(loss_of(model, seed)).backward()
            scaler.step(optimizer)
            scaler.update()
        state = optimizer.state[model[0].weight]["exp_avg_sq"]
        return sparsifier.state_dict(), state

    state, squares = trained(fused=True, scaled=False)
    for fused in (True, False):
        other, others = trained(fused=fused, scaled=True)
        assert {k: v["mask"] for k, v in other["data_groups"].items()} == {
            k: v["mask"] for k, v in state["data_groups"].items()
        }
        torch.testing.assert_close(others, squares)


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=0.01),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("replaces_step", [False, True])
def test_the_first_update_of_what_has_grown_is_at_most_the_rate(name, replaces_step):
    model = torch.nn.Linear(6, 5, bias=False)
    sparsifier = Moving(sparsity_level=0.5, sparse_block_shape=(1, 1))
    attachment = attach(model, sparsifier)

    def train(seed):
        """By a gradient that hangs on the seed alone: that by which weights grow comes again."""
        optimizer.zero_grad()
        slopes = torch.randn(5, 6, generator=torch.Generator().manual_seed(seed))
        (model.weight * slopes).sum().backward()
        optimizer.step()
        return slopes.abs()

    optimizer = OPTIMIZERS[name](model.parameters())
    attachment.follow(optimizer, every=10, replaces_step=replaces_step)
    for seed in range(9):
        train(seed)
    before = sparsifier.get_mask("weight").clone()
    slopes = train(77)
    grown = sparsifier.get_mask("weight") & ~before
    assert grown.any()
    if replaces_step:
        assert torch.all(model.weight.detach()[grown] == 0)
        train(77)
    moved = model.weight.detach()[grown].abs()
    scale = slopes[grown] if name == "sgd" else 1
    assert torch.all(moved > 0)
    assert torch.all(moved <= 0.01 * scale * (1 + 1e-4))


def test_what_grows_at_random_has_the_mean_of_the_active_squares():
    parameter = torch.nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    optimizer.state[parameter] = {
        "step": torch.tensor(5.0),
        "exp_avg": torch.tensor([1.0, 2.0, 3.0, 0.0]),
        "exp_avg_sq": torch.tensor([0.0, 2.0, 4.0, 9.0]),
    }
    grown = torch.tensor([True, False, False, True])
    start_from_rest(optimizer, parameter, grown, None)
    state = optimizer.state[parameter]
    assert state["exp_avg"].tolist() == [0, 2, 3, 0]
    assert state["exp_avg_sq"].tolist() == [3, 2, 4, 3]
    assert state["step"] == 5


def test_factored_averages_and_those_of_eight_bits_stay():
    parameter = torch.nn.Parameter(torch.zeros(2, 3))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    state = {
        "row_var": torch.ones(2, 1),
        "col_var": torch.ones(1, 3),
        "state1": torch.full((2, 3), 7, dtype=torch.uint8),
    }
    optimizer.state[parameter] = {key: value.clone() for key, value in state.items()}
    start_from_rest(optimizer, parameter, torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 3))
    for key, value in state.items():
        assert torch.equal(optimizer.state[parameter][key], value)
