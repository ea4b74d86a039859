"""follow(): what counts as a step, and which masks a training ends with."""

import copy
import gc
import warnings
from collections import OrderedDict

import datasparse
import pytest
import torch
from datasparse import AdaptiveDataScheduler, BaseDataScheduler, DataNormSparsifier, DataScheduler
from datasparse.regrowth import SET
from datasparse.schedules import Constant, Linear, OneShot, Polynomial, Sequential
from datasparse.scores import Taylor
from datasparse.torch import attach
from support import ON_DEVICES, first_there, zeros
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, get_state_dict

pytestmark = ON_DEVICES

SINGLE = {"sparse_block_shape": (1, 1)}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(3)


def followed(schedule=None, level=0.9, every=1, size=10, optimizer=None, **options):
    model = nn.Linear(size, size)
    sparsifier = DataNormSparsifier(sparsity_level=level, **SINGLE)
    attachment = attach(model, sparsifier)
    scheduler = schedule and DataScheduler(sparsifier, "sparsity_level", schedule)
    optimizer = (optimizer or torch.optim.AdamW)(model.parameters(), lr=0.01)
    following = attachment.follow(optimizer, every=every, scheduler=scheduler, **options)
    return model, optimizer, sparsifier, scheduler, following


def train(model, optimizer, steps=1):
    counted = []
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, model.in_features)).square().mean().backward()
        optimizer.step()
        counted.append(zeros(model.weight))
    return counted


def layer(model=None, **options):
    model = model or nn.Linear(10, 10)
    return model, attach(model, sparsity_level=0.9, **SINGLE, **options)


# --- schedules that arrive ------------------------------------------------------------------------


def test_a_ramp_over_n_steps_ends_at_its_final_level():
    model, optimizer, *_ = followed(Linear(end=10))
    assert train(model, optimizer, 10) == [9, 18, 27, 36, 45, 54, 63, 72, 81, 90]


@pytest.mark.parametrize("every", first_there([25, 100]))
def test_the_schedule_counts_steps_and_not_renewals(every):
    steps = 10 * every
    model, optimizer, sparsifier, scheduler, _ = followed(Linear(end=steps), every=every)
    counted = train(model, optimizer, steps)
    # Renewed after steps 1, 101, ..., 901 of 1000 and, since the schedule ends there, 1000.
    assert counted[every - 1 :: every] == [0, 9, 18, 27, 36, 45, 54, 63, 72, 90]
    assert counted[steps - 2] == 81
    assert (sparsifier.step_count, scheduler.last_epoch) == (11, steps)


@pytest.mark.parametrize(
    ("schedule", "every", "expected"),
    [
        (Linear(end=3), 2, [30, 30, 90, 90, 90]),
        (Linear(end=3), 100, [30, 30, 90, 90, 90]),
        (Polynomial(end=4, every=2), 1, [0, 79, 79, 90, 90]),  # 0.9 * (1 - 1/8) = 0.7875
        (OneShot(at=4), 3, [0, 0, 0, 90, 90]),
        (Sequential([Constant(0.1), Linear(initial=0.1, end=2)], milestones=[3]), 10,
         [10, 10, 10, 10, 90]),
        (Constant(0.5), 2, [50, 50, 50, 50, 50]),
    ],
)  # fmt: skip
def test_masks_are_renewed_where_the_schedule_ends(schedule, every, expected):
    model, optimizer, *_ = followed(schedule, every=every)
    assert train(model, optimizer, 5) == expected


def test_each_schedule_of_several_arrives():
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))
    sparsifier = DataNormSparsifier(sparsity_level=0.5, **SINGLE)
    attachment = attach(model, sparsifier)
    by_name = {"0.*": Linear(end=3), "1.*": Linear(end=5)}
    scheduler = DataScheduler(sparsifier, "sparsity_level", by_name)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    attachment.follow(optimizer, every=100, scheduler=scheduler)
    counted = []
    for _ in range(6):
        model(torch.randn(4, 10)).sum().backward()
        optimizer.step()
        counted.append((zeros(model[0].weight), zeros(model[1].weight)))
    assert counted == [(17, 10), (17, 10), (50, 30), (50, 30), (50, 50), (50, 50)]


def test_an_ordinary_training_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, optimizer, *_ = followed(Linear(end=4))
        train(model, optimizer, 5)


class Own(BaseDataScheduler):
    def get_schedule_param(self):
        return {name: min(0.1 * self.last_epoch, 0.9) for name in self.base_param}


def test_a_scheduler_of_ones_own_is_led_too():
    model = nn.Linear(10, 10)
    sparsifier = DataNormSparsifier(**SINGLE)
    attachment = attach(model, sparsifier)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    attachment.follow(optimizer, every=4, scheduler=Own(sparsifier, "sparsity_level"))
    assert train(model, optimizer, 6) == [10, 10, 10, 10, 50, 50]  # it has no end that is known


def test_a_scheduler_whose_state_is_of_version_0_1_counts_renewals_on():
    """As it was: the scheduler moves after a renewal, and with renewals only."""
    model, optimizer, sparsifier, scheduler, following = followed(Linear(end=4), every=3)
    state = scheduler.state_dict()
    del state["counts_renewals"]
    scheduler.load_state_dict({**state, "version": 1, "last_epoch": 0})
    assert train(model, optimizer, 15) == [0] * 3 + [22] * 3 + [45] * 3 + [68] * 3 + [90] * 3
    assert (sparsifier.step_count, scheduler.last_epoch, following.steps) == (5, 5, 15)
    following.remove()
    assert train(model, optimizer) == [0]


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("broken", [2, 4, 7])
def test_a_resumed_training_equals_the_unbroken_one(every, broken, tmp_path):
    def make():
        torch.manual_seed(0)
        return followed(Linear(end=8), every=every, mask_state=True)

    def run(model, optimizer, steps):
        for step in steps:
            torch.manual_seed(step)
            train(model, optimizer)

    whole, optimizer, *_ = make()
    run(whole, optimizer, range(9))
    model, optimizer, sparsifier, scheduler, _ = make()
    run(model, optimizer, range(broken))
    datasparse.save(tmp_path / "masks", sparsifier, scheduler)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))

    model, optimizer, sparsifier, scheduler, following = make()
    datasparse.load(tmp_path / "masks", sparsifier, scheduler)
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    assert following.steps == broken
    run(model, optimizer, range(broken, 9))
    assert torch.equal(model.weight, whole.weight)
    assert zeros(model.weight) == 90


def test_each_that_follows_an_optimizer_has_its_own_steps_back():
    def make():
        models = [nn.Linear(10, 10), nn.Linear(10, 10)]
        optimizer = torch.optim.SGD([weight for m in models for weight in m.parameters()], lr=0.1)
        return models, optimizer, [layer(model)[1] for model in models]

    models, optimizer, attachments = make()
    attachments[0].follow(optimizer)
    train(models[0], optimizer, 3)
    attachments[1].follow(optimizer)
    train(models[1], optimizer, 2)
    state = optimizer.state_dict()
    assert state["datasparse_steps"] == [5, 2]

    _, optimizer, attachments = make()
    followings = [attachment.follow(optimizer) for attachment in attachments]
    optimizer.load_state_dict(state)
    assert [following.steps for following in followings] == [5, 2]
    assert state["datasparse_steps"] == [5, 2]
    del state["datasparse_steps"]
    optimizer.load_state_dict(state)  # of one that nobody followed
    assert [following.steps for following in followings] == [5, 2]
    for following in followings:
        following.remove()
    assert "datasparse_steps" not in optimizer.state_dict()


# --- steps that are none --------------------------------------------------------------------------


def untouched(model, sparsifier, scheduler, before):
    assert torch.equal(model.weight, before)
    assert (sparsifier.step_count, scheduler.last_epoch) == (0, 0)
    return True


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop])
def test_saving_by_distributed_checkpoint_is_no_step(kind):
    """It calls step() with zero gradients at the rate 0, to have a state to save."""
    model, optimizer, sparsifier, scheduler, following = followed(
        Linear(initial=0.9, end=9), size=64, optimizer=kind
    )
    before = model.weight.detach().clone()
    get_state_dict(model, optimizer)
    assert untouched(model, sparsifier, scheduler, before)
    get_optimizer_state_dict(model, optimizer)
    assert untouched(model, sparsifier, scheduler, before)
    assert following.steps == 0
    train(model, optimizer)
    assert zeros(model.weight) == 3686
    assert (sparsifier.step_count, scheduler.last_epoch, following.steps) == (1, 1, 1)


def test_saving_in_the_middle_of_a_training_is_no_step():
    model, optimizer, sparsifier, scheduler, _ = followed(Linear(end=9))
    train(model, optimizer, 2)
    optimizer.state.clear()
    optimizer.zero_grad()
    get_state_dict(model, optimizer)
    assert (sparsifier.step_count, scheduler.last_epoch) == (2, 2)


def test_rates_of_zero_may_be_tensors():
    model, optimizer, sparsifier, scheduler, _ = followed(Linear(end=9))
    optimizer.param_groups[0]["lr"] = torch.tensor(0.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = model.weight.detach().clone()
    optimizer.step()
    assert untouched(model, sparsifier, scheduler, before)


def test_a_step_without_any_gradient_is_none():
    """As some call it to hush a learning rate scheduler: an optimizer passes over everything."""
    model, optimizer, sparsifier, scheduler, _ = followed(Linear(end=9))
    before = model.weight.detach().clone()
    optimizer.step()
    assert untouched(model, sparsifier, scheduler, before)


def test_zero_gradients_at_a_rate_are_a_step():
    """Weight decay and momentum move weights then."""
    model, optimizer, _, scheduler, _ = followed(Linear(end=3))
    for expected in (30, 60, 90):
        optimizer.zero_grad(set_to_none=False)
        (0 * model(torch.randn(8, 10)).sum()).backward()
        optimizer.step()
        assert zeros(model.weight) == expected
    assert scheduler.last_epoch == 3


def test_a_warm_up_from_the_rate_zero_is_a_training():
    model, optimizer, _, scheduler, _ = followed(Linear(end=2))
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(step / 3, 1.0))
    assert optimizer.param_groups[0]["lr"] == 0
    for expected in (45, 90, 90):
        assert train(model, optimizer) == [expected]
        rates.step()
    assert scheduler.last_epoch == 3


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_scaler_finds_infinite_is_none(fused):
    """A fused optimizer is called all the same, and told."""

    def adam(parameters, lr):
        return torch.optim.AdamW(parameters, lr=lr, fused=fused)

    model, optimizer, sparsifier, scheduler, following = followed(Linear(end=9), optimizer=adam)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for bad in (False, True, False):
        optimizer.zero_grad()
        loss = model(torch.randn(8, 10)).square().mean()
        scaler.scale(loss * torch.inf if bad else loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert following.steps == sparsifier.step_count == scheduler.last_epoch == 2


def test_a_closure_that_is_called_often_is_one_step():
    model, optimizer, sparsifier, scheduler, _ = followed(
        Linear(end=4), optimizer=torch.optim.LBFGS
    )
    calls = []

    def closure():
        calls.append(1)
        optimizer.zero_grad()
        loss = model(torch.ones(2, 10)).square().sum()
        loss.backward()
        return loss

    for step in (1, 2):
        optimizer.step(closure)
        assert (sparsifier.step_count, scheduler.last_epoch) == (step, step)
    assert len(calls) > 4


def test_optimizers_without_a_rate_are_followed():
    class Own(torch.optim.Optimizer):
        def __init__(self, parameters, lr):
            super().__init__(parameters, {"lr": None})

        @torch.no_grad()
        def step(self, closure=None):
            for parameter in self.param_groups[0]["params"]:
                parameter -= 0.1 * parameter.grad

    model, optimizer, *_ = followed(Linear(end=2), optimizer=Own)
    assert train(model, optimizer, 2) == [45, 90]


def test_an_optimizer_in_the_backward_pass():
    """One optimizer a parameter, stepped by its gradient, which is then dropped."""
    model = nn.Linear(10, 10, bias=False)
    sparsifier = DataNormSparsifier(sparsity_level=0.9, **SINGLE)
    optimizer = torch.optim.SGD([model.weight], lr=0.01)
    attach(model, sparsifier).follow(optimizer)

    def step(_parameter):
        optimizer.step()
        optimizer.zero_grad()

    model.weight.register_post_accumulate_grad_hook(step)
    for _ in range(3):
        model(torch.randn(4, 10)).square().sum().backward()
        assert zeros(model.weight) == 90
    assert sparsifier.step_count == 3


def test_zeros_are_written_also_where_a_warning_is_an_error():
    model, optimizer, sparsifier, *_ = followed(level=0.997)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="pruned all weights of 'weight'"):
            train(model, optimizer)
    assert zeros(model.weight) == 100
    assert sparsifier.step_count == 1


def test_the_optimizers_state_is_masked_also_where_a_warning_is_an_error():
    model, sparsifier = nn.Linear(10, 10), DataNormSparsifier(sparsity_level=0.997, **SINGLE)
    attachment = attach(model, sparsifier)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    following = attachment.follow(optimizer, mask_state=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="pruned all weights of 'weight'"):
            train(model, optimizer)
    assert following.steps == 1
    assert int(optimizer.state[model.weight]["momentum_buffer"].count_nonzero()) == 0


def test_schedulers_stay_together_where_one_fails():
    class Fails(BaseDataScheduler):
        def get_schedule_param(self):
            if self.last_epoch > 1:
                raise RuntimeError("no value")
            return {"weight": 1}

    model, sparsifier = nn.Linear(10, 10), DataNormSparsifier(**SINGLE)
    attachment = attach(model, sparsifier)
    rise = DataScheduler(sparsifier, "sparsity_level", Linear(end=9))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedulers = [Fails(sparsifier, "zeros_per_block"), rise]
    following = attachment.follow(optimizer, scheduler=schedulers)
    train(model, optimizer)
    with pytest.raises(RuntimeError, match="no value"):
        train(model, optimizer)
    assert rise.last_epoch == following.steps == 2  # as the optimizer has


@pytest.mark.parametrize("monotone", [False, True])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_zeros_that_stay_do_not_push_out_weights(kind, monotone):
    """An optimizer moves them between two steps: they must not rank as weights."""
    model = nn.Linear(20, 20)
    with torch.no_grad():
        model.weight[:, ::2] = 0
    sparsifier = DataNormSparsifier(sparsity_level=0.5, monotone=monotone, **SINGLE)
    attachment = attach(model, sparsifier, keep_zeros=True)
    optimizer = kind(model.parameters(), lr=0.3)
    attachment.follow(optimizer)
    assert train(model, optimizer, 20) == [200] * 20


# --- which optimizers and schedulers --------------------------------------------------------------


def attached():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    sparsifier = DataNormSparsifier(**SINGLE)
    return model, attach(model, sparsifier)


def test_an_optimizer_of_another_model_is_refused():
    _, attachment = attached()
    optimizer = torch.optim.SGD(nn.Linear(6, 6).parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"holds none of the attached weights, '0\.weight', '1"):
        attachment.follow(optimizer)


def test_an_optimizer_of_a_part_is_warned_of():
    model, attachment = attached()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    with pytest.warns(UserWarning, match=r"does not hold '1\.weight'") as caught:
        attachment.follow(optimizer)
    assert caught[0].filename == __file__


def test_an_optimizer_whose_parameters_were_replaced_is_refused():
    model, attachment = attached()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    with pytest.raises(ValueError, match="holds none of the attached weights"):
        attachment.follow(optimizer)


@pytest.mark.parametrize("wrong", [None, "SGD", torch.optim.SGD, nn.Linear(2, 2)])
def test_what_is_no_optimizer_is_named(wrong):
    _, attachment = attached()
    with pytest.raises(TypeError, match=r"must be a torch\.optim\.Optimizer, got .*sparsifier\.st"):
        attachment.follow(wrong)


def test_engines_with_a_step_of_their_own_are_told_what_works():
    class DeepSpeedEngine:
        def step(self):
            """Of a library that wraps model and optimizer."""

    _, attachment = attached()
    with pytest.raises(TypeError, match=r"got DeepSpeedEngine.*attachment\.apply\(\)"):
        attachment.follow(DeepSpeedEngine())


def test_weights_that_are_squashed_or_removed_no_longer_count():
    model, attachment = attached()
    attachment.sparsifier.squash_mask("0.weight")
    with pytest.raises(ValueError, match=r"none of the attached weights, '1\.weight'"):
        attachment.follow(torch.optim.SGD(model[0].parameters(), lr=0.1))
    attachment.follow(torch.optim.SGD(model[1].parameters(), lr=0.1))


@pytest.mark.device("cpu")  # accelerate puts the model where it likes
def test_the_optimizer_that_accelerate_wraps_is_followed():
    accelerate = pytest.importorskip("accelerate", reason="needs accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    model = nn.Linear(10, 10)
    sparsifier = DataNormSparsifier(sparsity_level=0.9, **SINGLE)
    attachment = attach(model, sparsifier)
    prepared, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    attachment.follow(optimizer)
    accelerator.backward(prepared(torch.randn(4, 10)).sum())
    optimizer.step()
    assert zeros(model.weight) == 90


def test_schedulers_of_others_are_refused():
    model, attachment = attached()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    other = DataScheduler(DataNormSparsifier(), "sparsity_level", Linear(end=4))
    with pytest.raises(ValueError, match="another sparsifier"):
        attachment.follow(optimizer, scheduler=other)
    adaptive = AdaptiveDataScheduler(attachment.sparsifier, "sparsity_level", Linear(end=4))
    with pytest.raises(TypeError, match="needs a metric"):
        attachment.follow(optimizer, scheduler=adaptive)


def test_an_optimizer_that_clears_its_gradients_itself_is_followed():
    class Clearing(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            self.zero_grad()

    model, optimizer, *_ = followed(Linear(end=2), optimizer=Clearing)
    assert train(model, optimizer, 2) == [45, 90]


def test_a_step_that_calls_that_of_its_base_is_one():
    """Torch calls the hooks for each of the two."""

    class Clipped(torch.optim.AdamW):
        fails = False

        def step(self, closure=None):
            torch.nn.utils.clip_grad_norm_(self.param_groups[0]["params"], 1.0)
            if self.fails:
                raise RuntimeError("not now")
            return super().step(closure)

    model, optimizer, sparsifier, scheduler, _ = followed(Linear(end=3), optimizer=Clipped)
    assert train(model, optimizer, 2) == [30, 60]
    optimizer.fails = True
    with pytest.raises(RuntimeError, match="not now"):
        train(model, optimizer)
    optimizer.fails = False
    assert train(model, optimizer, 2) == [90, 90]
    assert sparsifier.step_count == scheduler.last_epoch == 4


class Lookahead(torch.optim.Optimizer):
    """Writes weights of its own after each second step of the optimizer within."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        super().__init__(optimizer.param_groups[0]["params"], {"lr": 0.1})
        self.slow = [p.detach().clone() for p in optimizer.param_groups[0]["params"]]
        self.count = 0

    @torch.no_grad()
    def step(self, closure=None):
        self.optimizer.step(closure)
        self.count += 1
        if self.count % 2 == 0:
            for slow, fast in zip(self.slow, self.param_groups[0]["params"], strict=True):
                slow += 0.5 * (fast - slow)
                fast.copy_(slow)


def test_an_optimizer_around_another_is_followed_where_it_writes():
    model = nn.Linear(10, 10)
    attachment = attach(model, DataNormSparsifier(sparsity_level=0.9, **SINGLE))
    optimizer = Lookahead(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.warns(UserWarning, match=r"keeps another one in its attribute 'optimizer'"):
        attachment.follow(optimizer)
    assert train(model, optimizer, 4) == [90] * 4


def test_what_an_optimizer_within_keeps_is_masked_too():
    """As in torch's ZeroRedundancyOptimizer, whose own state is empty."""
    model, attachment = layer()
    inner = torch.optim.AdamW(model.parameters(), lr=0.1)
    optimizer = Lookahead(inner)
    with pytest.warns(UserWarning, match="keeps another one"):
        attachment.follow(optimizer, mask_state=True)
    assert train(model, optimizer, 2) == [90] * 2
    state = inner.state[model.weight]
    assert [int((state[key] == 0).sum()) for key in ("exp_avg", "exp_avg_sq")] == [90, 90]


def test_what_has_grown_rests_in_an_optimizer_within_too():
    model = nn.Linear(10, 10)
    sparsifier = SET(sparsity_level=0.5, drop_fraction=0.5, seed=1)
    attachment = attach(model, sparsifier)
    inner = torch.optim.AdamW(model.parameters(), lr=0.1)
    optimizer = Lookahead(inner)
    with pytest.warns(UserWarning, match="keeps another one"):
        attachment.follow(optimizer, every=3)
    train(model, optimizer, 2)
    before = sparsifier.get_mask("weight").clone()
    averages = []
    inner.register_step_pre_hook(
        lambda *_: averages.append(inner.state[model.weight]["exp_avg"].clone())
    )
    train(model, optimizer, 1)
    grown = sparsifier.get_mask("weight") & ~before
    assert int(grown.sum()) > 0
    assert not averages[0][grown].any()


class HooklessLookahead(torch.optim.Optimizer):
    """As timm's: its __init__() is not that of its base."""

    def __init__(self, base):
        self._optimizer_step_pre_hooks = OrderedDict()
        self._optimizer_step_post_hooks = OrderedDict()
        self._base_optimizer, self.param_groups = base, base.param_groups
        self.defaults, self.state = base.defaults, base.state

    def step(self, closure=None):
        return self._base_optimizer.step(closure)


@pytest.mark.parametrize("is_late", [False, True])
def test_an_optimizer_that_calls_no_hooks_is_refused(is_late):
    model, attachment = layer()
    optimizer = HooklessLookahead(torch.optim.SGD(model.parameters(), lr=0.1))
    if is_late:
        optimizer.zero_grad()  # by which torch mends half of it
    with pytest.raises(TypeError, match="got HooklessLookahead, whose steps cannot be followed"):
        attachment.follow(optimizer)


def test_an_optimizer_is_followed_once():
    model, attachment = layer()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    following = attachment.follow(optimizer)
    with pytest.raises(ValueError, match="follows this optimizer already"):
        attachment.follow(optimizer)
    with pytest.raises(ValueError, match="follows this optimizer already"):
        attachment.follow(optimizer, every=None)
    following.remove()
    attachment.follow(optimizer)
    train(model, optimizer, 3)
    assert attachment.sparsifier.step_count == 3


@pytest.mark.parametrize("moves", [False, True])
def test_one_optimizer_renews_masks_that_hang_on_gradients(moves):
    model = nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False))
    sparsifier = SET(sparsity_level=0.5, seed=1) if moves else None
    attachment = attach(model, sparsifier, **({} if moves else {"score": Taylor(), **SINGLE}))
    made = [torch.optim.SGD(part.parameters(), lr=0.1) for part in model]
    with pytest.warns(UserWarning, match="does not hold"):
        attachment.follow(made[0])
    with (
        pytest.warns(UserWarning, match="does not hold"),
        pytest.raises(ValueError, match="another optimizer renew"),
    ):
        attachment.follow(made[1])
    with pytest.warns(UserWarning, match="does not hold"):
        attachment.follow(made[1], every=None)
    model(torch.randn(4, 10)).square().mean().backward()
    for optimizer in made:
        optimizer.step()
    assert attachment.sparsifier.step_count == 1
    assert attachment.sparsity() == 0.5


def test_an_optimizer_that_is_gone_renews_nothing():
    model, attachment = layer(score=Taylor())
    gone = attachment.follow(torch.optim.SGD(model.parameters(), lr=0.1))
    gc.collect()
    assert gone.optimizer is None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attachment.follow(optimizer)
    train(model, optimizer, 2)
    assert attachment.sparsifier.step_count == 2


class ScheduleFree(torch.optim.SGD):
    """What schedulefree.SGDScheduleFree does, without its ways to make it quick."""

    steps = 0

    @torch.no_grad()
    def step(self, closure=None):
        self.steps += 1
        share = 1 / self.steps
        for p in self.param_groups[0]["params"]:
            z = self.state[p].setdefault("z", p.clone())
            p.lerp_(z, share).add_(p.grad, alpha=0.1 * (0.9 * (1 - share) - 1))
            z.sub_(p.grad, alpha=0.1)

    @torch.no_grad()
    def eval(self):
        for p in self.param_groups[0]["params"]:
            p.lerp_(self.state[p]["z"], 1 - 1 / 0.9)

    def train(self):
        raise AssertionError


def test_a_schedule_free_optimizer_keeps_zeros_where_its_state_is_masked():
    model, attachment = layer()
    optimizer = ScheduleFree(model.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match=r"eval\(\) of ScheduleFree writes averages"):
        attachment.follow(optimizer).remove()
    with pytest.warns(UserWarning, match="mask_state=True"):  # as the callbacks do
        attachment.follow_silently(optimizer, 1, None, mask_state=False).remove()
    attachment.follow(optimizer, mask_state=True)
    train(model, optimizer, 4)
    assert zeros(model.weight) == 90
    optimizer.eval()
    assert zeros(model.weight) == 90


@pytest.mark.parametrize("key", ["Q", "precond_0"])
def test_what_belongs_to_the_axes_of_a_square_matrix_is_left_alone(key):
    model = nn.Linear(10, 10, bias=False)
    attachment = attach(model, SET(sparsity_level=0.5, drop_fraction=0.9, seed=1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    attachment.follow(optimizer, mask_state=True)
    axis = torch.eye(10) + 1
    optimizer.state[model.weight][key] = axis.clone() if "precond" in key else [axis.clone()] * 2
    train(model, optimizer, 3)
    kept = optimizer.state[model.weight][key]
    assert torch.equal(kept if "precond" in key else kept[1], axis)
    assert zeros(optimizer.state[model.weight]["momentum_buffer"]) >= 50


def test_a_scheduler_is_moved_by_one_optimizer_only():
    model, attachment = attached()
    scheduler = DataScheduler(attachment.sparsifier, "sparsity_level", Linear(end=4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    following = attachment.follow(optimizer, scheduler=scheduler)
    with pytest.raises(ValueError, match=r"moved by the steps of another follow\(\)"):
        attachment.follow(optimizer, scheduler=scheduler)
    following.remove()
    other = attachment.follow(optimizer, scheduler=scheduler)
    following.remove()  # once more, which is nothing to the other one
    with pytest.raises(ValueError, match=r"moved by the steps of another follow\(\)"):
        attachment.follow(optimizer, scheduler=scheduler)
    other.remove()


def test_what_a_training_masks_is_attached_once():
    """A cell of a notebook that is run again would leave two masks on one weight."""
    model, attachment = attached()
    other = attach(model, DataNormSparsifier(**SINGLE))  # nobody follows the first one
    with pytest.raises(ValueError, match=r"'weight' is attached already, as '0\.weight'"):
        attach(model[0], other.sparsifier, include="weight")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attachment.follow(optimizer)
    with pytest.raises(ValueError, match=r"'0\.weight' is attached already, as '0\.weight'"):
        attach(model, DataNormSparsifier(**SINGLE))


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"every": 1.5}, TypeError, "every must be an int"),
        ({"every": "epoch"}, TypeError, "every must be an int"),
        ({"scheduler": object()}, TypeError, "must be a data scheduler of datasparse, got object"),
        ({"every": None, "scheduler": "its own"}, ValueError, "every=None the scheduler is left"),
    ],
)
def test_arguments_are_checked(options, error, says):
    model, attachment = attached()
    if options.get("scheduler") == "its own":
        options["scheduler"] = DataScheduler(attachment.sparsifier, "sparsity_level", Linear(end=4))
    with pytest.raises(error, match=says):
        attachment.follow(torch.optim.SGD(model.parameters(), lr=0.1), **options)
