"""One level for a whole network, shared among its layers in four ways: which costs least?

    pip install 'datasparse[examples]' && pip install --no-deps recbole==1.2.1
    sudo apt install dataset-fashion-mnist
    python examples/distributions.py --png distributions.png

Two networks, a recommender on MovieLens-100k (movielens.py) and a small convolutional one on
Fashion-MNIST, are trained from the same first weights with the same batches, and pruned while they
learn: every layer to the same level ("local"), each to its own by ERK ("ERK"), or all by a single
threshold ("pool"), also after their weights are divided by their layer's norm ("pool, l2") or with
a bound for each layer ("pool, bounded"). It prints, for each level, how well the network does on
the test set, and what is left of its layers.

Fashion-MNIST is Zalando's (MIT), as Debian packs it.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Protocol

import movielens
import numpy as np
import torch
from datasparse import DataNormSparsifier, DataScheduler
from datasparse.schedules import Polynomial
from datasparse.torch import attach, detach
from torch import Tensor, nn

LEVELS = (0.8, 0.9, 0.95, 0.98)
WAYS: dict[str, dict[str, Any]] = {
    "local": {},
    "ERK": {"distribution": "erk"},
    "pool": {"pool": "all"},
    "pool, l2": {"pool": "all", "normalize": "l2"},
}
BOUNDED = "pool, bounded"  # a layer keeps about half of what it does by "local", or more
DENSE = "dense"
Mode = dict[str, str]
IN_PLACE: Mode = {"mode": "in_place"}
STRAIGHT_THROUGH: Mode = {"mode": "parametrize", "gradients": "straight_through"}
COLORS = ("#2f6690", "#c8553d", "#588157", "#8d6a9f", "0.5")
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-2
RAMP = 0.5  # the share of the training in which the level rises
EVERY = 8  # optimizer steps from one mask to the next
IMAGES = Path("/usr/share/datasets/fashion-mnist")
TRAINED_ON = 20_000  # of the 60,000 training images, drawn anew by each seed


class Data(Protocol):
    def __len__(self) -> int: ...

    def rows(self, index: Tensor) -> Any: ...


@dataclass(frozen=True)
class Task:
    """A data set and the network that learns it."""

    title: str
    metric: str
    epochs: int
    batch: int
    split: Callable[[int], tuple[Data, Data]]  # by a seed: to train on, to test on
    network: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Any], Tensor]
    score: Callable[[Any, Any], float]


@dataclass(frozen=True)
class Run:
    """One training. `kept` is the share of each layer's weights that are not zero."""

    task: str
    way: str
    level: float
    seed: int
    score: float
    kept: dict[str, float]


# --- the networks ---------------------------------------------------------------------------------


def recommender() -> Task:
    """Tables and tower of movielens.py."""
    ratings = movielens.read_ratings()
    return Task(
        title="MovieLens-100k",
        metric="AUC",
        epochs=movielens.EPOCHS,
        batch=movielens.BATCH,
        split=lambda seed: movielens.split(ratings, seed),
        network=lambda: movielens.Recommender(ratings.sizes, ratings.genres.shape[1]),
        loss=lambda model, batch: nn.functional.binary_cross_entropy_with_logits(
            model(batch), batch.liked
        ),
        score=movielens.auc,
    )


@dataclass(frozen=True)
class Images:
    pixels: Tensor  # (n, 1, 28, 28), from 0 to 1
    labels: Tensor  # (n,), from 0 to 9

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, index: Tensor) -> Images:
        return Images(self.pixels[index], self.labels[index])


def read_images(part: str) -> Images:
    """All of a part, "train" or "t10k"."""
    if not IMAGES.exists():
        sys.exit("Fashion-MNIST comes with Debian's package: apt install dataset-fashion-mnist")

    def read(what: str, header: int) -> Tensor:
        with gzip.open(IMAGES / f"{part}-{what}-ubyte.gz") as file:
            return torch.from_numpy(np.frombuffer(file.read(), np.uint8, offset=header).copy())

    pixels = read("images-idx3", header=16).view(-1, 1, 28, 28) / 255
    return Images(pixels, read("labels-idx1", header=8).long())


class Convolutional(nn.Module):
    """Three convolutions and two linear layers, 89,360 weights; returns logits of shape (n, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.hidden = nn.Linear(1024, 64)
        self.output = nn.Linear(64, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        signal = pixels
        for layer in (self.conv1, self.conv2, self.conv3):
            signal = layer(signal).relu()
        logits: Tensor = self.output(self.hidden(signal.flatten(1)).relu())
        return logits


def convolutional() -> Task:
    """Clothes, drawn anew for each seed; all are tested on the same."""
    everything, tests = read_images("train"), read_images("t10k")

    def split(seed: int) -> tuple[Images, Images]:
        order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(seed))
        return everything.rows(order[:TRAINED_ON]), tests

    def score(model: nn.Module, tests: Images) -> float:
        model.eval()
        with torch.no_grad():
            right = model(tests.pixels).argmax(1) == tests.labels
        return float(right.float().mean())

    return Task(
        title="Fashion-MNIST",
        metric="accuracy",
        epochs=6,
        batch=100,
        split=split,
        network=Convolutional,
        loss=lambda model, batch: nn.functional.cross_entropy(model(batch.pixels), batch.labels),
        score=score,
    )


TASKS = {"movielens": recommender, "convolutional": convolutional}


# --- training -------------------------------------------------------------------------------------


def config(way: str, level: float) -> dict[str, Any]:
    """What attach() is told; the level itself is the sparsifier's."""
    return {"pool": "all", "max_level": (1 + level) / 2} if way == BOUNDED else WAYS[way]


def train(task: Task, way: str, level: float, seed: int, mode: Mode = IN_PLACE) -> Run:
    """Train once; a seed fixes the split, the network's first weights and the order of batches."""
    training, tests = task.split(seed)
    torch.manual_seed(seed)
    model = task.network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = task.epochs * (len(training) // task.batch)
    if way != DENSE:
        sparsifier = DataNormSparsifier(sparsity_level=level, sparse_block_shape=(1, 1))
        attachment = attach(model, sparsifier, **mode, **config(way, level))
        rise = Polynomial(end=max(1, int(RAMP * steps)))
        scheduler = DataScheduler(sparsifier, "sparsity_level", rise)
        attachment.follow(optimizer, scheduler=scheduler, every=EVERY)
    slope = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(task.epochs):
        order = torch.randperm(len(training))
        for index in order[: len(order) // task.batch * task.batch].view(-1, task.batch):
            optimizer.zero_grad()
            task.loss(model, training.rows(index)).backward()
            optimizer.step()
            slope.step()
    if way != DENSE:
        detach(model)
    weights = {name: p for name, p in model.named_parameters() if p.dim() > 1}
    kept = {name: int(torch.count_nonzero(p)) / p.numel() for name, p in weights.items()}
    return Run(task.title, way, level, seed, task.score(model, tests), kept)


# --- the study ------------------------------------------------------------------------------------


def study(
    task: Task, ways: Sequence[str], levels: Sequence[float], seeds: int, mode: Mode
) -> list[Run]:
    """All trainings, with a progress bar on the terminal."""
    from rich.progress import track

    settings = [(DENSE, 0.0)] + [(way, level) for level in levels for way in ways]
    every = [(*setting, seed) for seed in range(seeds) for setting in settings]
    bar = track(every, f"training {task.title}", transient=True)
    return [train(task, *each, mode) for each in bar]


def of(runs: Sequence[Run], way: str, level: float) -> list[Run]:
    return [run for run in runs if (run.way, run.level) == (way, level)]


def settings_in(runs: Sequence[Run]) -> list[tuple[str, float]]:
    return list(dict.fromkeys((run.way, run.level) for run in runs))


def table(task: Task, runs: Sequence[Run]) -> str:
    """A row for each setting, in Markdown: mean and deviation over the seeds, and the worst."""
    dense = {run.seed: run.score for run in runs if run.way == DENSE}
    lines = [
        f"| level | {task.title} | test {task.metric} | against dense | worst seed |",
        "|---:|---|---:|---:|---:|",
    ]
    for way, level in settings_in(runs):
        these = of(runs, way, level)
        scores = [run.score for run in these]
        differences = [run.score - dense[run.seed] for run in these]
        spread = stdev(scores) if len(scores) > 1 else 0.0
        lines.append(
            f"| {level:g} | {way} | {mean(scores):.4f} ± {spread:.4f} "
            f"| {mean(differences):+.4f} | {min(differences):+.4f} |"
        )
    return "\n".join(lines)


def table_of_layers(runs: Sequence[Run]) -> str:
    """What is left of each layer, in Markdown: means over the seeds."""
    names = list(runs[0].kept)
    lines = [
        "| level | kept by | " + " | ".join(name.removesuffix(".weight") for name in names) + " |",
        "|---:|---|" + "---:|" * len(names),
    ]
    for way, level in settings_in(runs):
        if way != DENSE:
            these = of(runs, way, level)
            shares = [mean(run.kept[name] for run in these) for name in names]
            row = " | ".join(f"{share:.1%}" for share in shares)
            lines.append(f"| {level:g} | {way} | {row} |")
    return "\n".join(lines)


def plot(studies: Sequence[tuple[Task, Sequence[Run]]], png: Path) -> None:
    """The score over the level for each task; each seed a point, means joined."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(5 * len(studies), 4.2), layout="constrained")
    for axes, (task, runs) in zip(
        figure.subplots(1, len(studies), squeeze=False)[0], studies, strict=True
    ):
        dense = mean(run.score for run in runs if run.way == DENSE)
        axes.axhline(dense, color="0.3", linestyle=":", label=DENSE)
        pruned = [run for run in runs if run.way != DENSE]
        levels = sorted({run.level for run in pruned})
        places = {level: place for place, level in enumerate(levels)}
        ways = list(dict.fromkeys(run.way for run in pruned))
        for way, color in zip(ways, COLORS[: len(ways)], strict=True):
            means = [mean(run.score for run in of(runs, way, level)) for level in levels]
            axes.plot(list(places.values()), means, marker="o", color=color, label=way)
            points = [(places[run.level], run.score) for run in pruned if run.way == way]
            axes.plot(*zip(*points, strict=True), ".", color=color, alpha=0.4, markersize=4)
        axes.set(title=f"{task.title}: test {task.metric}", xlabel="level of zeros in all weights")
        axes.set_xticks(list(places.values()), [f"{level:.0%}" for level in levels])
        if task.metric == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower left")
    figure.savefig(png, dpi=80)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--ways", nargs="+", choices=[*WAYS, BOUNDED], default=list(WAYS))
    parser.add_argument("--levels", type=float, nargs="+", default=LEVELS)
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each setting")
    parser.add_argument("--epochs", type=int, help="fewer than the study has")
    parser.add_argument(
        "--straight-through", action="store_true", help="pruned weights learn on, and may come back"
    )
    parser.add_argument("--png", type=Path, help="draw the study")
    parser.add_argument("--json", type=Path, help="write each run")
    chosen = parser.parse_args(arguments)
    mode = STRAIGHT_THROUGH if chosen.straight_through else IN_PLACE
    studies = []
    for name in chosen.tasks:
        task = TASKS[name]()
        if chosen.epochs is not None:
            task = replace(task, epochs=chosen.epochs)
        runs = study(task, chosen.ways, chosen.levels, chosen.seeds, mode)
        print(table(task, runs), table_of_layers(runs), sep="\n\n", end="\n\n")
        studies.append((task, runs))
    if chosen.png is not None:
        plot(studies, chosen.png)
    if chosen.json is not None:
        every = [asdict(run) for _, runs in studies for run in runs]
        chosen.json.write_text(json.dumps(every, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
