"""Sparse networks by the field's methods, beside each other: which learns most with so few weights?

    pip install 'datasparse[examples]'
    sudo apt install dataset-fashion-mnist
    python examples/sparse_training.py --results results.jsonl --png sparse_training.png

LeNet-300-100 and a small convolutional network learn Fashion-MNIST with 2 to 20% of their weights:
chosen before the training (static, SNIP, GraSP, SynFlow), while it goes on (gradual magnitude,
Taylor, movement), or moved as it goes on (SET, RigL), by one level for every layer ("uniform"), a
level for each ("ERK") or one threshold ("global"). Beside them are the dense network and a small
dense one of as many weights. Each training is a line in the file of results as soon as it is done:
a study that was interrupted goes on from there.

Fashion-MNIST is Zalando's (MIT), as Debian packs it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import datasparse.scores as scores
import torch
from datasparse import DataNormSparsifier, DataScheduler
from datasparse.regrowth import SET, RigL, Static
from datasparse.schedules import Cosine, Polynomial
from datasparse.torch import attach, detach, prune_at_init
from distributions import Images, read_images
from torch import Tensor, nn

LEVELS = (0.8, 0.9, 0.95, 0.98)
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.05, 0.9, 5e-4
BATCH = 100
TRAINED_ON = 20_000  # of the 60,000 training images, drawn anew by each seed
EVERY = 50
DROP_FRACTION = 0.3
MOVES_UNTIL = 0.75  # the share of the training after which masks stay, as in the paper on RigL
RAMP = (0.1, 0.7)  # the share of the training in which the level of a gradual method rises
SCORED_ON = 10  # batches, for what is pruned before the training


@dataclass(frozen=True)
class Setting:
    """One training."""

    task: str
    method: str
    distribution: str
    level: float
    seed: int
    every: int  # steps from one mask to the next


@dataclass(frozen=True)
class Run(Setting):
    """What came of it.

    `density` is the share of all weights that are not zero; `dead` are the channels and neurons
    that no weight leads to.
    """

    accuracy: float
    density: float
    dead: int


# --- the networks ---------------------------------------------------------------------------------


class LeNet300100(nn.Sequential):
    """784-300-100-10 at the width 1: 266,200 weights."""

    def __init__(self, width: float = 1.0) -> None:
        first, second = (max(1, round(size * width)) for size in (300, 100))
        super().__init__(
            nn.Flatten(),
            nn.Linear(784, first), nn.ReLU(),
            nn.Linear(first, second), nn.ReLU(),
            nn.Linear(second, 10),
        )  # fmt: skip


class Convolutional(nn.Sequential):
    """Three convolutions with batch norm and two linear layers: 22,536 weights at the width 1."""

    def __init__(self, width: float = 1.0) -> None:
        a, b, c, d = (max(1, round(size * width)) for size in (8, 16, 32, 32))

        def convolution(inputs: int, outputs: int) -> list[nn.Module]:
            kernel = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
            return [kernel, nn.BatchNorm2d(outputs), nn.ReLU()]

        super().__init__(
            *convolution(1, a), *convolution(a, b), *convolution(b, c),
            nn.Flatten(), nn.Linear(16 * c, d), nn.ReLU(), nn.Linear(d, 10),
        )  # fmt: skip


@dataclass(frozen=True)
class Task:
    title: str
    network: Callable[[float], nn.Module]
    epochs: int
    seeds: int


TASKS = {
    "lenet": Task("LeNet-300-100", LeNet300100, epochs=8, seeds=5),
    "convolutional": Task("convolutional", Convolutional, epochs=8, seeds=3),
}


def weights_of(model: nn.Module) -> list[Tensor]:
    return [parameter for parameter in model.parameters() if parameter.dim() > 1]


def size_of(model: nn.Module) -> int:
    return sum(weight.numel() for weight in weights_of(model))


def small_network(task: Task, level: float) -> nn.Module:
    """The widest dense network with no more weights than the sparse one keeps."""
    most = (1 - level) * size_of(task.network(1.0))
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if size_of(task.network(middle)) <= most else (low, middle)
    return task.network(low)


# --- the methods ----------------------------------------------------------------------------------

Batch = tuple[Tensor, Tensor]  # pixels, labels


@dataclass
class Training:
    """What a method is given to set itself up, before the first step."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    steps: int
    seed: int
    level: float
    every: int
    attach_by: dict[str, Any]  # how the level is shared among layers
    some: list[Batch]  # to score before the first step


def moved(kind: type[RigL | SET]) -> Callable[[Training], None]:
    """Weights are dropped and grow, ever fewer of them."""

    def set_up(training: Training) -> None:
        sparsifier = kind(
            sparsity_level=training.level, sparse_block_shape=(1, 1), seed=training.seed
        )
        attachment = attach(training.model, sparsifier, **training.attach_by)
        slope = Cosine(initial=DROP_FRACTION, final=0.0, end=int(MOVES_UNTIL * training.steps))
        attachment.follow(
            training.optimizer,
            every=training.every,
            scheduler=DataScheduler(sparsifier, "drop_fraction", slope),
            replaces_step=True,
        )

    return set_up


def static(training: Training) -> None:
    """Drawn once."""
    sparsifier = Static(
        sparsity_level=training.level, sparse_block_shape=(1, 1), seed=training.seed
    )
    attachment = attach(training.model, sparsifier, **training.attach_by)
    attachment.follow(training.optimizer, every=None)


def gradual(
    score: Callable[[], scores.Score] | None = None, **config: Any
) -> Callable[[Training], None]:
    """The level rises by the cubic of Zhu and Gupta (2017)."""

    def set_up(training: Training) -> None:
        sparsifier = DataNormSparsifier(
            sparsity_level=training.level, sparse_block_shape=(1, 1),
            score=None if score is None else score(), **config,
        )  # fmt: skip
        attachment = attach(training.model, sparsifier, **training.attach_by)
        begin, end = (int(share * training.steps) for share in RAMP)
        rise = Polynomial(begin=begin, end=end)
        attachment.follow(
            training.optimizer,
            every=training.every,
            scheduler=DataScheduler(sparsifier, "sparsity_level", rise),
        )

    return set_up


def at_init(score: Callable[[], scores.Score]) -> Callable[[Training], None]:
    """Scored once before the first step."""

    def set_up(training: Training) -> None:
        attachment = attach(
            training.model, score=score(), sparsity_level=training.level,
            sparse_block_shape=(1, 1), **training.attach_by,
        )  # fmt: skip
        prune_at_init(attachment, training.some, loss_of)
        attachment.follow(training.optimizer, every=None)

    return set_up


UNIFORM, ERK, GLOBAL = "uniform", "ERK", "global"
SHARED: dict[str, dict[str, Any]] = {
    UNIFORM: {},
    ERK: {"distribution": "erk"},
    GLOBAL: {"pool": "all"},
}
DENSE, SMALL_DENSE, LONGER = "dense", "small dense", "RigL, twice as long"
METHODS: dict[str, tuple[Callable[[Training], None] | None, tuple[str, ...]]] = {
    DENSE: (None, ("",)),
    SMALL_DENSE: (None, ("",)),
    "static": (static, (UNIFORM, ERK)),
    "SET": (moved(SET), (UNIFORM, ERK)),
    "RigL": (moved(RigL), (UNIFORM, ERK)),
    LONGER: (moved(RigL), (ERK,)),
    "gradual magnitude": (gradual(), (UNIFORM, ERK, GLOBAL)),
    "Taylor": (gradual(scores.Taylor), (GLOBAL,)),
    # What is pruned is 0, and its sum stands still: without `monotone`, it would come back for
    # weights that are at work, whose sums go down as the training ends.
    "movement": (gradual(scores.Movement, monotone=True), (GLOBAL,)),
    "SNIP": (at_init(scores.SNIP), (GLOBAL,)),
    "GraSP": (at_init(scores.GraSP), (GLOBAL,)),
    "SynFlow": (at_init(scores.SynFlow), (GLOBAL,)),
}


# --- one training ---------------------------------------------------------------------------------


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    pixels, labels = batch
    return nn.functional.cross_entropy(model(pixels), labels)


def batch_of(images: Images, index: Tensor) -> Batch:
    return images.pixels[index], images.labels[index]


@cache
def images() -> tuple[Images, Images]:
    return read_images("train"), read_images("t10k")


def train(setting: Setting) -> Run:
    """Train once; a seed fixes the images, the first weights, the batches and what is drawn."""
    task = TASKS[setting.task]
    everything, tests = images()
    generator = torch.Generator().manual_seed(setting.seed)
    order = torch.randperm(len(everything), generator=generator)
    training = everything.rows(order[:TRAINED_ON])
    torch.manual_seed(setting.seed)
    small = setting.method == SMALL_DENSE
    model = small_network(task, setting.level) if small else task.network(1.0)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    epochs = task.epochs * (2 if setting.method == LONGER else 1)
    steps = epochs * (len(training) // BATCH)
    set_up, _ = METHODS[setting.method]
    if set_up is not None:
        some = [
            batch_of(training, index) for index in torch.arange(SCORED_ON * BATCH).view(-1, BATCH)
        ]
        by = SHARED[setting.distribution]
        set_up(
            Training(model, optimizer, steps, setting.seed, setting.level, setting.every, by, some)
        )
    slope = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        shuffled = torch.randperm(len(training), generator=generator)
        for index in shuffled.view(-1, BATCH):
            optimizer.zero_grad()
            loss_of(model, batch_of(training, index)).backward()
            optimizer.step()
            slope.step()
    if set_up is not None:
        detach(model)
    model.eval()
    with torch.no_grad():
        right = model(tests.pixels).argmax(1) == tests.labels
    weights = weights_of(model)
    kept = sum(int(torch.count_nonzero(weight)) for weight in weights)
    return Run(
        **asdict(setting),
        accuracy=float(right.float().mean()),
        density=kept / size_of(task.network(1.0)),
        dead=sum(int((weight.flatten(1) == 0).all(1).sum()) for weight in weights),
    )


# --- the study ------------------------------------------------------------------------------------


def settings(
    tasks: Iterable[str],
    methods: Iterable[str],
    levels: Sequence[float],
    seeds: int | None,
    every: int,
) -> list[Setting]:
    """All trainings, seed by seed, so that an interrupted study has something of everything."""
    tasks, methods = list(tasks), list(methods)
    most = max(seeds or TASKS[task].seeds for task in tasks)
    return [
        Setting(task, method, distribution, level, seed, every)
        for seed in range(most)
        for task in tasks
        if seed < (seeds or TASKS[task].seeds)
        for method in methods
        for distribution in METHODS[method][1]
        for level in ((0.0,) if method == DENSE else levels)
    ]


def read_results(path: Path) -> list[Run]:
    """What is done. A line that a kill tore is cut off: the next would be written behind it."""
    if not path.exists():
        return []
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:
        os.truncate(path, len(whole))
    return [Run(**json.loads(line)) for line in whole.splitlines()]


def setting_of(run: Run) -> Setting:
    return Setting(**{field.name: getattr(run, field.name) for field in fields(Setting)})


def one_thread() -> None:
    torch.set_num_threads(1)


def study(wanted: Sequence[Setting], path: Path, processes: int) -> list[Run]:
    """What is not in the file of results is trained and added to it; all of it is returned."""
    from rich.progress import track

    runs = read_results(path)
    done = {setting_of(run) for run in runs}
    left = [setting for setting in wanted if setting not in done]
    with (
        path.open("a") as file,
        multiprocessing.get_context("spawn").Pool(processes, one_thread) as pool,
    ):
        for run in track(pool.imap(train, left), "training", total=len(left), transient=True):
            file.write(json.dumps(asdict(run)) + "\n")
            file.flush()
            runs.append(run)
    return [run for run in runs if setting_of(run) in set(wanted)]


def of(runs: Sequence[Run], task: str, method: str, distribution: str, level: float) -> list[Run]:
    wanted = (task, method, distribution, level)
    these = [run for run in runs if (run.task, run.method, run.distribution, run.level) == wanted]
    return sorted(these, key=lambda run: run.seed)


def shown(values: Sequence[float]) -> str:
    """Mean and standard error, in percent."""
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{mean(values):.2%} ± {100 * error:.2f}"


def rows_of(runs: Sequence[Run], task: str) -> list[tuple[str, str]]:
    found = {(run.method, run.distribution) for run in runs if run.task == task}
    listed = ((method, way) for method, (_, shared) in METHODS.items() for way in shared)
    return [row for row in listed if row in found]


def table(runs: Sequence[Run], task: str) -> str:
    """A row for each method and distribution, a column for each level, in Markdown."""
    levels = sorted({run.level for run in runs if run.method != DENSE})
    lines = [
        "| " + TASKS[task].title + " | shared | " + " | ".join(f"{x:.0%}" for x in levels) + " |",
        "|---|---|" + "---:|" * len(levels),
    ]
    for method, distribution in rows_of(runs, task):
        cells = []
        for level in levels:
            at = 0.0 if method == DENSE else level
            found = of(runs, task, method, distribution, at)
            cells.append(shown([run.accuracy for run in found]) if found else "")
        lines.append(f"| {method} | {distribution} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


COMPARED = (
    (("SET", ERK), ("static", ERK)),
    (("RigL", ERK), ("SET", ERK)),
    (("gradual magnitude", ERK), ("RigL", ERK)),
    ((LONGER, ERK), ("RigL", ERK)),
    (("static", ERK), ("static", UNIFORM)),
    (("SET", ERK), ("SET", UNIFORM)),
    (("RigL", ERK), ("RigL", UNIFORM)),
    (("gradual magnitude", ERK), ("gradual magnitude", UNIFORM)),
    (("gradual magnitude", GLOBAL), ("gradual magnitude", ERK)),
)


def differences(runs: Sequence[Run], task: str) -> str:
    """The same seeds by two methods: how much better the first is, in Markdown."""
    levels = sorted({run.level for run in runs if run.method != DENSE})
    lines = [
        "| " + TASKS[task].title + " | " + " | ".join(f"{x:.0%}" for x in levels) + " |",
        "|---|" + "---:|" * len(levels),
    ]
    for better, worse in COMPARED:
        cells = []
        for level in levels:
            pairs = zip(of(runs, task, *better, level), of(runs, task, *worse, level), strict=False)
            gains = [first.accuracy - second.accuracy for first, second in pairs]
            cells.append(shown(gains) if gains else "")
        lines.append(f"| {' '.join(better)} over {' '.join(worse)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


COLORS = {
    SMALL_DENSE: "0.55", "static": "#8d6a9f", "SET": "#588157", "RigL": "#c8553d",
    LONGER: "#e09f3e", "gradual magnitude": "#2f6690", "Taylor": "#3a9188", "movement": "#16425b",
    "SNIP": "#b5838d", "GraSP": "#7f5539", "SynFlow": "#6a994e",
}  # fmt: skip
DRAWN = {UNIFORM: ":", ERK: "-", GLOBAL: "--", "": "-."}


LEAST = 0.1  # points: what is lost less is drawn there


def plot(runs: Sequence[Run], tasks: Sequence[str], png: Path) -> None:
    """What each method loses against the dense network, over the level."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(tasks) + 2, 5.5), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        levels = sorted({run.level for run in runs if run.method != DENSE})
        dense = mean(run.accuracy for run in runs if (run.task, run.method) == (task, DENSE))
        for method, distribution in rows_of(runs, task):
            if method == DENSE:
                continue
            groups = [of(runs, task, method, distribution, level) for level in levels]
            lost = [100 * (dense - mean(run.accuracy for run in group)) for group in groups]
            axes.plot(
                range(len(levels)), [max(points, LEAST) for points in lost],
                DRAWN[distribution], color=COLORS[method], marker=".",
                label=f"{method}, {distribution}" if distribution else method,
            )  # fmt: skip
        axes.set(
            title=f"{TASKS[task].title}, dense: {dense:.1%}",
            xlabel="level of zeros in all weights",
            ylabel="points of test accuracy lost (lower is better)",
            yscale="log",
        )
        axes.set_xticks(range(len(levels)), [f"{level:.0%}" for level in levels])
        axes.set_yticks([0.1, 0.3, 1, 3, 10, 30], ["0.1", "0.3", "1", "3", "10", "30"])
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(png, dpi=80)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, required=True, help="a line for each training")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--levels", type=float, nargs="+", default=LEVELS)
    parser.add_argument("--seeds", type=int, help="trainings of each setting; by default 5 and 3")
    parser.add_argument("--every", type=int, default=EVERY, help="steps from one mask to the next")
    parser.add_argument("--processes", type=int, default=2, help="each with one thread")
    parser.add_argument("--png", type=Path, help="draw the study")
    chosen = parser.parse_args(arguments)
    wanted = settings(chosen.tasks, chosen.methods, chosen.levels, chosen.seeds, chosen.every)
    runs = study(wanted, chosen.results, chosen.processes)
    for task in chosen.tasks:
        print(table(runs, task), differences(runs, task), sep="\n\n", end="\n\n")
    if chosen.png is not None:
        plot(runs, chosen.tasks, chosen.png)
    return 0


if __name__ == "__main__":
    sys.exit(main())
