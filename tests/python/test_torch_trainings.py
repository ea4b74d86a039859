"""Random models in random trainings: what is reported is what a user would save."""

import copy
import random
import warnings

import pytest
import torch
from datasparse import DataNormSparsifier, DataScheduler
from datasparse.schedules import Constant, Cosine, Linear, OneShot, Polynomial
from datasparse.torch import attach, detach
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel

WIDTH = 8


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.down = nn.Linear(WIDTH, WIDTH)
        self.up = nn.Linear(WIDTH, WIDTH)
        self.up.weight = self.down.weight

    def forward(self, inputs):
        return self.up(torch.tanh(self.down(inputs)))


class Convolved(nn.Module):
    def __init__(self, transposed):
        super().__init__()
        kind = nn.ConvTranspose1d if transposed else nn.Conv1d
        self.conv = kind(4, 4, 3, padding=1)

    def forward(self, inputs):
        return self.conv(inputs.reshape(-1, 4, WIDTH // 4)).reshape(-1, WIDTH)


LAYERS = [
    lambda: nn.Linear(WIDTH, WIDTH),
    lambda: nn.Linear(WIDTH, WIDTH, bias=False),
    lambda: parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH)),
    lambda: nn.LayerNorm(WIDTH),
    Tied,
    lambda: Convolved(False),
    lambda: Convolved(True),
    lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()),
]
WRAPPERS = [
    lambda model: model,
    lambda model: torch.compile(model, backend="eager"),
    nn.DataParallel,
]
OPTIMIZERS = [
    lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.1),
    lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    lambda parameters: torch.optim.RMSprop(parameters, lr=0.002),
    lambda parameters: torch.optim.Adagrad(parameters, lr=0.05),
]
BLOCKS = [(1, 1), (1, 4), (2, 2), (1, -1)]


class Training:
    """One random training, with the masks that follow it, and a twin of its schedule."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        torch.manual_seed(seed)
        pick = self.random.choice
        self.model = nn.Sequential(nn.Linear(WIDTH, WIDTH), *(pick(LAYERS)() for _ in range(3)))
        self.run = pick(WRAPPERS)(self.model)
        self.mode = pick(["in_place", "in_place", "parametrize"])
        self.level = pick([0.3, 0.5, 0.75])
        end = self.random.randint(1, 12)
        every = pick([1, 2])
        self.schedule = pick([
            Linear(end=end), Polynomial(end=end, every=every), Cosine(end=end),
            OneShot(at=end), Constant(0.4), Linear(initial=0.8, final=0.2, end=end),
        ])  # fmt: skip
        self.end = self.schedule.end
        self.every = pick([1, 2, 5])
        self.sparsifier = DataNormSparsifier(
            sparsity_level=self.level, sparse_block_shape=pick(BLOCKS), monotone=pick([True, False])
        )
        self.attachment = attach(
            self.run, self.sparsifier, mode=self.mode, layout=pick(["inputs", "memory"])
        )
        self.scheduler = DataScheduler(self.sparsifier, "sparsity_level", self.schedule)
        self.average = AveragedModel(self.model)
        self.make_optimizer = pick(OPTIMIZERS)
        self.follow(0)
        self.steps = 0

    def follow(self, steps):
        self.optimizer = self.make_optimizer(self.run.parameters())
        self.following = self.attachment.follow(
            self.optimizer, every=self.every, scheduler=self.scheduler,
            mask_state=self.random.random() < 0.5,
        )  # fmt: skip
        self.following.steps = steps

    # --- what may happen ---

    def train(self):
        self.optimizer.zero_grad()
        for _ in range(self.random.choice([1, 1, 3])):  # accumulated
            self.run(torch.randn(4, WIDTH)).sigmoid().mean().backward()
        self.optimizer.step()
        self.steps += 1

    def skip(self):
        """No step: nothing was accumulated, or somebody saves the optimizer."""
        self.optimizer.zero_grad()
        self.optimizer.step()
        get_state_dict(self.model, self.optimizer)
        self.optimizer.zero_grad()

    def update_average(self):
        self.average.update_parameters(self.model)
        self.attachment.apply(self.average)

    def reload(self):
        """Other parameters by the same names, and an optimizer of those."""
        tied = any(isinstance(module, Tied) for module in self.model)  # which torch would untie
        assign = self.random.random() < 0.5 and not tied
        self.model.load_state_dict(copy.deepcopy(self.model.state_dict()), assign=assign)
        self.following.remove()
        self.follow(self.steps)

    def resume(self):
        """Masks and schedule by way of their states."""
        states = self.sparsifier.state_dict(), self.scheduler.state_dict()
        with torch.no_grad():
            for name in self.attachment.names:
                self.sparsifier.get_mask(name).fill_(True)
        self.sparsifier.load_state_dict(states[0])
        self.scheduler.load_state_dict(states[1])

    # --- what must hold ---

    def check(self):
        report = self.sparsifier.report()
        assert self.scheduler.last_epoch == self.steps
        if self.steps == 0:
            return
        zeros = elements = 0
        saved = self.model.state_dict()
        for name in self.attachment.names:
            group = report[name]
            weight, mask = self.computed(self.model, name), self.sparsifier.get_mask(name)
            # A kept weight may be zero as well: one that came back, and has no gradient yet.
            assert not (weight != 0)[~mask].any(), name
            assert group.zeros == int((~mask).sum())
            zeros += int((weight == 0).sum())
            elements += weight.numel()
            if self.mode == "in_place":
                assert group.zeros_in_data == group.zeros
                made = name.replace("weight", "parametrizations.weight.original")
                stored = saved[name if name in saved else made]
                assert torch.equal(stored == 0, weight == 0)
        assert self.attachment.sparsity() == zeros / elements
        if self.mode == "in_place":
            assert sum(group.zeros_in_data for group in report) == report.total.zeros <= zeros
        renewed = (self.steps - 1) // self.every * self.every + 1
        if self.end is not None and renewed <= self.end <= self.steps:
            renewed = max(renewed, self.end)
        self.check_level(report, self.schedule(renewed, self.level) if renewed else None)

    def check_level(self, report, level):
        for name in self.attachment.names:
            group = report[name]
            rows, columns = group_matrix(self.sparsifier, self.model, name)
            height, width = group.block
            height, width = min(height, rows), columns if width == -1 else min(width, columns)
            if rows % height or columns % width:
                continue  # partial blocks: counted elsewhere
            blocks = (rows // height) * (columns // width)
            assert group.zeros == round(level * blocks) * height * width, name

    @staticmethod
    def computed(model, name):
        path, _, attribute = name.rpartition(".")
        return getattr(model.get_submodule(path), attribute).detach()


def group_matrix(sparsifier, model, name):
    shape = Training.computed(model, name).shape
    layout = sparsifier.layout(name)
    rows = shape[layout[0] if layout else 0]
    return rows, shape.numel() // rows


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own
@pytest.mark.filterwarnings("ignore:the mask of")
@pytest.mark.parametrize(
    "seeds",
    [range(4), *(pytest.param(range(n, n + 60), marks=pytest.mark.full) for n in (4, 64, 124))],
    ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}",
)
def test_what_is_reported_is_what_a_user_would_save(seeds):
    for seed in seeds:
        torch._dynamo.reset()
        training = Training(seed)
        happens = [training.train] * 5 + [
            training.skip, training.update_average, training.reload, training.resume
        ]  # fmt: skip
        for _ in range(14):
            training.random.choice(happens)()
            training.check()
        for _ in range(12):
            training.train()
        training.check()
        if training.end is not None:
            assert training.steps >= training.end
            level = training.schedule(training.end, training.level)
            assert set(training.scheduler.get_last_param().values()) == {level}
            training.check_level(training.sparsifier.report(), level)
        training.update_average()
        names = training.attachment.names
        masks = {name: training.sparsifier.get_mask(name).clone() for name in names}
        for name, mask in masks.items():
            assert not (training.computed(training.average.module, name) != 0)[~mask].any()
        detach(training.model)
        for name, mask in masks.items():
            assert not (training.computed(training.model, name) != 0)[~mask].any()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            copied = copy.deepcopy(training.model)
        assert list(copied.state_dict()) == list(training.model.state_dict())
