"""Programs that test_checkpoint_killed.py starts and kills.

    interrupted.py train FOLDER SCHEDULER   a training that resumes from its last checkpoint
    interrupted.py save PATH ONE OTHER      saves what two files hold to PATH, in turn, for ever

Both print a line when they have come further.
"""

import random
import sys
from pathlib import Path

import datasparse
import numpy as np
from datasparse import (
    AdaptiveDataScheduler,
    BaseDataScheduler,
    DataNormSparsifier,
    DataScheduler,
)
from datasparse.schedules import Polynomial

STEPS = 40


class Restless(BaseDataScheduler):
    """Its next value depends on attributes of its own: without them the levels go astray."""

    def __init__(self, sparsifier):
        self.speed = 0.1
        self.random = 2**100 + 1  # beyond 64 bits, as the states of generators are
        self.history = {"levels": [], "last": (0, float("inf"))}
        super().__init__(sparsifier, "sparsity_level")

    def get_schedule_param(self):
        self.speed *= 0.97
        self.random = self.random * 6364136223846793005 % 2**127
        self.history["levels"].append(self.speed)
        self.history["last"] = (self.last_epoch, self.history["last"][0] / 7)
        shift = self.random % 1000 / 20000 + self.history["last"][1] % 0.01
        return {
            name: min(0.95, base + 0.3 * (1 - self.speed / 0.1) + shift)
            for name, base in self.base_param.items()
        }


def by_schedule(sparsifier):
    return DataScheduler(
        sparsifier, "sparsity_level", Polynomial(initial=0.1, final=0.9, end=STEPS, every=3)
    )


class Adaptive(AdaptiveDataScheduler):
    """Driven by a metric that wanders, and that it keeps itself."""

    def __init__(self, sparsifier):
        self.metrics = []
        schedule = Polynomial(initial=0.1, final=0.9, end=STEPS)
        super().__init__(
            sparsifier, "sparsity_level", schedule, tolerance=0.2, patience=1, back_off=2
        )

    def step(self):
        self.metrics.append(random.Random(len(self.metrics)).random())
        super().step(self.metrics[-1])


# Schedulers by name, made for a sparsifier whose levels they vary.
SCHEDULERS = {
    "a Python subclass": Restless,
    "DataScheduler": by_schedule,
    "a subclass of AdaptiveDataScheduler": Adaptive,
    "DataScheduler over a pool": by_schedule,
}


class Counting(DataNormSparsifier):
    """Its masks depend on what it keeps per group, and as an attribute."""

    def __init__(self, *args, **config):
        self.turns = 0
        super().__init__(*args, **config)

    def update_mask(self, name, data, **config):
        super().update_mask(name, data, **config)
        self.turns += 1
        self.state[name]["count"] = self.state[name].get("count", 0) + 1
        mask = self.get_mask(name).reshape(-1)
        mask[(self.state[name]["count"] * 7 + self.turns) % mask.size] = self.turns % 2


class Moving(DataNormSparsifier):
    """One threshold over scores that move, with their sign, and that are kept per group."""

    def __init__(self, weights, **config):
        self.turns = 0
        pool = {"pool": "all", "normalize": "l2", "norm": None, "max_level": 0.97}
        super().__init__(weights, **config, **pool)

    def get_scores(self, name, data, **config):
        self.turns += 1
        moved = self.state[name].get("moved", 0.0) * 0.9 + float(data.sum())
        self.state[name]["moved"] = moved
        return np.sin(data * 3 + moved)


class Training:
    def __init__(self, folder, scheduler):
        rng = np.random.default_rng(11)
        self.folder = folder
        self.weights = {
            "rows": rng.standard_normal((40, 30)).astype(np.float32),
            "cube": rng.standard_normal((4, 5, 60)),
        }
        kind = Moving if scheduler.endswith("a pool") else Counting
        self.sparsifier = kind(self.weights, sparsity_level=0.3, sparse_block_shape=(1, 2))
        self.scheduler = SCHEDULERS[scheduler](self.sparsifier)
        self.steps = 0
        self.resume()

    def step(self):
        rng = np.random.default_rng(self.steps)
        for weight in self.weights.values():
            weight += 0.1 * rng.standard_normal(weight.shape).astype(weight.dtype)
            weight *= 0.98
        self.sparsifier.step()
        self.sparsifier.apply_mask()
        self.scheduler.step()
        self.steps += 1

    def save(self):
        """Weights first, masks last: a step that has masks has both."""
        weights = self.folder / f"{self.steps:04}.npz"
        unfinished = weights.with_suffix(".part")
        with unfinished.open("wb") as file:
            np.savez(file, **self.weights)
        unfinished.rename(weights)
        datasparse.save(self.masks(self.steps), self.sparsifier, self.scheduler)

    def masks(self, steps):
        return self.folder / f"{steps:04}.masks"

    def resume(self):
        finished = sorted(self.folder.glob("*.masks"))
        if not finished:
            return
        self.steps = int(finished[-1].stem)
        with np.load(self.folder / f"{self.steps:04}.npz") as saved:
            for name, weight in self.weights.items():
                weight[...] = saved[name]
        datasparse.load(finished[-1], self.sparsifier, self.scheduler)

    def result(self):
        """Bytes that tell any difference between two trainings."""
        levels = {name: c["sparsity_level"] for name, c in self.sparsifier.data_groups.items()}
        parts = [repr(levels), repr(self.scheduler.state_dict()), repr(self.sparsifier.turns)]
        for name, weight in self.weights.items():
            parts += [weight.tobytes().hex(), self.sparsifier.get_mask(name).tobytes().hex()]
        return "\n".join(parts)


def train(folder, scheduler):
    training = Training(Path(folder), scheduler)
    while training.steps < STEPS:
        training.step()
        training.save()
        print(training.steps, flush=True)
    (training.folder / "result").write_text(training.result())


def save(path, *files):
    sparsifiers = [DataNormSparsifier() for _ in files]
    for sparsifier, file in zip(sparsifiers, files, strict=True):
        datasparse.load(file, sparsifier)
    while True:
        for sparsifier in sparsifiers:
            datasparse.save(path, sparsifier)
            print("saved", flush=True)


if __name__ == "__main__":
    {"train": train, "save": save}[sys.argv[1]](*sys.argv[2:])
