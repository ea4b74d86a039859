"""Trainings that test_trainings_resumed.py kills.

    interrupted_regrowth.py FOLDER STEPS DEVICE KILLED...   kills itself at these steps, each once

RigL, SET, Movement and Taylor side by side, each with a model, an optimizer and a schedule of its
own, which follow() drives. All is saved after each step; the next child goes on there. It prints
how often one was killed.
"""

import os
import signal

import torch
from datasparse import DataNormSparsifier, DataScheduler
from datasparse.regrowth import SET, RigL
from datasparse.schedules import Cosine, Polynomial
from datasparse.scores import Movement, Taylor
from datasparse.torch import attach
from forked import train_in_children
from torch import nn

CONFIG = {"sparsity_level": 0.7, "sparse_block_shape": (1, 1)}
KINDS = {
    "RigL": lambda: RigL(**CONFIG, seed=3),
    "SET": lambda: SET(**CONFIG, seed=4),
    "Movement": lambda: DataNormSparsifier(**CONFIG, score=Movement()),
    "Taylor": lambda: DataNormSparsifier(**CONFIG, score=Taylor()),
}


class One:
    def __init__(self, kind, steps):
        torch.manual_seed(1)
        self.model = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 4))
        self.sparsifier = KINDS[kind]()
        moves = kind in ("RigL", "SET")
        self.attachment = attach(self.model, self.sparsifier, distribution="erk")
        fraction = Cosine(initial=0.4, final=0.0, end=steps)
        self.scheduler = (
            DataScheduler(self.sparsifier, "drop_fraction", fraction)
            if moves
            else DataScheduler(self.sparsifier, "sparsity_level", Polynomial(end=steps // 2))
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.following = self.attachment.follow(
            self.optimizer, every=3, scheduler=self.scheduler, replaces_step=moves
        )

    def step(self, inputs, labels):
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(inputs), labels).backward()
        self.optimizer.step()

    def state(self):
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sparsifier": self.sparsifier.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "steps": self.following.steps,
        }

    def load(self, state):
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.sparsifier.load_state_dict(state["sparsifier"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.following.steps = state["steps"]


class Training:
    def __init__(self, folder, steps):
        self.folder, self.steps, self.done = folder, steps, 0
        self.each = {kind: One(kind, steps) for kind in KINDS}
        if folder is not None and (folder / "saved").exists():
            saved = torch.load(folder / "saved")
            self.done = saved.pop("done")
            for kind, state in saved.items():
                self.each[kind].load(state)

    def save(self):
        states = {kind: one.state() for kind, one in self.each.items()}
        torch.save({**states, "done": self.done}, self.folder / "new")
        (self.folder / "new").replace(self.folder / "saved")

    def run(self, killed=()):
        while self.done < self.steps:
            generator = torch.Generator().manual_seed(self.done)
            inputs = torch.randn(8, 12, generator=generator)
            labels = torch.randint(4, (8,), generator=generator)
            for place, one in enumerate(self.each.values()):
                one.step(inputs, labels)
                # In the middle of a step, once: what it has done is lost.
                trace = None if self.folder is None else self.folder / f"killed {self.done}"
                if self.done in killed and place == self.done % 4 and not trace.exists():
                    trace.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
            self.done += 1
            if self.folder is not None:
                self.save()
        return self

    def result(self):
        """All bits of it."""
        torch.set_printoptions(precision=12, threshold=10**9)
        return repr({kind: one.state() for kind, one in self.each.items()})


if __name__ == "__main__":
    import torch._dynamo  # else each child would, for its optimizers

    train_in_children(Training)
