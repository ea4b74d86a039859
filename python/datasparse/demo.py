"""The demo behind `datasparse demo`: a network that loses nine weights in ten while it learns.

A multilayer perceptron in plain NumPy is trained on scikit-learn's handwritten digits. A scheduler
written in Python raises `sparsity_level` epoch by epoch, a `DataNormSparsifier` prunes the weight
matrices after every optimizer step, and a dense twin is trained on the same batches beside it.
"""

from __future__ import annotations

import copy
import importlib.util
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasparse import BaseDataScheduler, BaseDataSparsifier, DataNormSparsifier

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]

# Each weight matrix holds a multiple of ten weights, so that 90% of it is a whole number.
LAYER_SIZES = (64, 500, 200, 10)
FINAL_LEVEL = 0.9
RAMP = 0.6  # the share of the epochs after which the final level is reached
EPOCHS = 60
BATCH_SIZE = 32
LEARNING_RATE = 0.1  # of the first step; it falls to zero along a half cosine
MOMENTUM = 0.9
NOISE = 0.25  # standard deviation of the noise on training images, whose pixels lie in [0, 1]


class CubicScheduler(BaseDataScheduler):
    """Raises every group's `sparsity_level` from 0 to its own level in `ramp_epochs` steps.

    The rise is steep at first, while weights are redundant, and gentle towards the end:
    equation (1) of Zhu and Gupta, "To prune, or not to prune" (2017).
    """

    def __init__(self, data_sparsifier: BaseDataSparsifier, ramp_epochs: int) -> None:
        self.ramp_epochs = ramp_epochs
        super().__init__(data_sparsifier, schedule_param="sparsity_level")

    def get_schedule_param(self) -> dict[str, float]:
        remaining = max(0.0, 1.0 - self.last_epoch / self.ramp_epochs)
        return {name: level * (1.0 - remaining**3) for name, level in self.base_param.items()}


@dataclass
class Layer:
    """One dense layer: weights of shape (inputs, outputs), biases of shape (outputs,)."""

    name: str
    weight: Floats
    bias: Floats
    weight_velocity: Floats = field(init=False)
    bias_velocity: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.weight_velocity = np.zeros_like(self.weight)
        self.bias_velocity = np.zeros_like(self.bias)


Network = list[Layer]


@dataclass(frozen=True)
class Digits:
    """Images of shape (n, 64) with pixels in [0, 1], and labels 0 to 9 of shape (n,)."""

    train_images: Floats
    train_labels: Labels
    test_images: Floats
    test_labels: Labels


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy in nats over the training images; share of test images recognised."""

    loss: float
    accuracy: float


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch ended with. `sparsity` is counted from the weights, `level` was asked for."""

    epoch: int
    level: float
    sparsity: float
    sparse: Score
    dense: Score


@dataclass(frozen=True)
class DemoResult:
    """A finished run: one record per epoch, both trained networks, and the data they saw."""

    seed: int
    history: list[EpochRecord]
    sparse: Network
    dense: Network
    digits: Digits
    seconds: float


class Experiment:
    """A sparse and a dense network that start equal and are trained on the same batches."""

    def __init__(self, seed: int, epochs: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.digits = read_digits(self._rng)
        self.dense = random_network(self._rng)
        self.sparse = copy.deepcopy(self.dense)

        self.sparsifier = DataNormSparsifier(sparsity_level=FINAL_LEVEL, sparse_block_shape=(1, 1))
        for layer in self.sparse:
            self.sparsifier.add_data(layer.name, layer.weight)
        self.scheduler = CubicScheduler(self.sparsifier, max(1, round(RAMP * epochs)))

        self._batches_per_epoch = len(self.digits.train_labels) // BATCH_SIZE
        self._batches = epochs * self._batches_per_epoch
        self._batches_done = 0

    def run_epoch(self) -> EpochRecord:
        """Train on every image once, then let the scheduler set the level of the next epoch."""
        order = self._rng.permutation(len(self.digits.train_labels))
        for batch in np.array_split(order, self._batches_per_epoch):
            images = self.digits.train_images[batch]
            noise = self._rng.standard_normal(images.shape, dtype=np.float32)
            self.train_batch(images + NOISE * noise, self.digits.train_labels[batch])
        record = self._record()
        self.scheduler.step()
        return record

    def train_batch(self, images: Floats, labels: Labels) -> None:
        """Take one optimizer step in each network, and prune the sparse one again."""
        progress = self._batches_done / self._batches
        learning_rate = LEARNING_RATE * (1.0 + float(np.cos(np.pi * progress))) / 2.0
        self._batches_done += 1

        descend(self.dense, images, labels, learning_rate)
        descend(self.sparse, images, labels, learning_rate)
        self.sparsifier.step()
        self.sparsifier.apply_mask()
        for layer in self.sparse:
            # A pruned weight starts again from rest. With its old velocity it would move on with
            # the next step, far enough to drive a smaller but useful weight out of the mask.
            layer.weight_velocity *= self.sparsifier.get_mask(layer.name)

    def _record(self) -> EpochRecord:
        (level,) = set(self.scheduler.get_last_param().values())
        return EpochRecord(
            epoch=self.scheduler.last_epoch + 1,
            level=level,
            sparsity=sparsity(self.sparse),
            sparse=score(self.sparse, self.digits),
            dense=score(self.dense, self.digits),
        )


def read_digits(rng: np.random.Generator) -> Digits:
    """Return the 1797 digits, shuffled: two thirds to train on, one third to test on."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = rng.permutation(len(labels))
    images, labels = (images[order] / 16).astype(np.float32), labels[order]
    tests = len(labels) // 3
    return Digits(images[tests:], labels[tests:], images[:tests], labels[:tests])


def random_network(rng: np.random.Generator) -> Network:
    """Return an untrained network with weights drawn after He et al. (2015)."""
    network = []
    for number, (inputs, outputs) in enumerate(pairwise(LAYER_SIZES), start=1):
        weight = rng.normal(scale=(2 / inputs) ** 0.5, size=(inputs, outputs)).astype(np.float32)
        network.append(Layer(f"layer{number}.weight", weight, np.zeros(outputs, np.float32)))
    return network


def forward(network: Network, images: Floats) -> list[Floats]:
    """Return what enters each layer, and the logits of shape (n, 10) last."""
    signals = [images]
    for layer in network[:-1]:
        signals.append(np.maximum(signals[-1] @ layer.weight + layer.bias, 0))
    signals.append(signals[-1] @ network[-1].weight + network[-1].bias)
    return signals


def log_softmax(logits: Floats) -> Floats:
    """Return the log-probabilities of the classes, of the shape of `logits`."""
    shifted: Floats = logits - logits.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def descend(network: Network, images: Floats, labels: Labels, learning_rate: float) -> None:
    """Take one step of gradient descent with momentum, in the network's own memory."""
    *inputs, logits = forward(network, images)
    error = np.exp(log_softmax(logits))  # the gradient at the layer's output, (n, outputs)
    error[np.arange(len(labels)), labels] -= 1
    error /= len(labels)
    for layer, signal in zip(reversed(network), reversed(inputs), strict=True):
        weight_gradient, bias_gradient = signal.T @ error, error.sum(axis=0)
        error = (error @ layer.weight.T) * (signal > 0)
        layer.weight_velocity *= MOMENTUM
        layer.weight_velocity += weight_gradient
        layer.weight -= learning_rate * layer.weight_velocity
        layer.bias_velocity *= MOMENTUM
        layer.bias_velocity += bias_gradient
        layer.bias -= learning_rate * layer.bias_velocity


def score(network: Network, digits: Digits) -> Score:
    """Measure a network on the images as they are, without noise."""
    log_probabilities = log_softmax(forward(network, digits.train_images)[-1])
    rows = np.arange(len(digits.train_labels))
    predictions = forward(network, digits.test_images)[-1].argmax(axis=1)
    return Score(
        loss=-float(log_probabilities[rows, digits.train_labels].mean()),
        accuracy=float(np.mean(predictions == digits.test_labels)),
    )


def sparsity(network: Network) -> float:
    """Return the share of exact zeros, counted over all weight matrices (biases aside)."""
    zeros = sum(np.count_nonzero(layer.weight == 0) for layer in network)
    return zeros / sum(layer.weight.size for layer in network)


def run_demo(seed: int = 0, epochs: int = EPOCHS, quiet: bool = False) -> DemoResult:
    """Train both networks and return everything measured; unless `quiet`, show it as well.

    The first epoch is dense: with fewer than two, nothing is pruned.
    """
    from threadpoolctl import threadpool_limits

    start = time.perf_counter()
    experiment = Experiment(seed, epochs)
    records = (experiment.run_epoch() for _ in range(epochs))
    # Products this small take longer on two threads, and their rounding, which training magnifies,
    # would depend on the number of cores.
    with threadpool_limits(1, user_api="blas"):
        history = list(records if quiet else show_progress(records, epochs))
    result = DemoResult(
        seed=seed,
        history=history,
        sparse=experiment.sparse,
        dense=experiment.dense,
        digits=experiment.digits,
        seconds=time.perf_counter() - start,
    )
    if not quiet:
        print_report(result)
    return result


def show_progress(records: Iterator[EpochRecord], epochs: int) -> Iterator[EpochRecord]:
    """Pass the records on as they come, with a progress bar on the terminal until the last."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}")
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("training", total=epochs)
        for record in records:
            now = f"{record.sparsity:.1%} zeros, {record.sparse.accuracy:.1%} test accuracy"
            progress.update(task, advance=1, description=now)
            yield record


def print_report(result: DemoResult) -> None:
    """Print a table with a row per epoch, and the outcome in one line."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Digits, seed {result.seed}: sparse network beside its dense twin")
    table.add_column("epoch", justify="right")
    for heading in ("level", "zeros\ncounted"):
        table.add_column(heading, justify="right", style="cyan")
    for heading in ("loss\nsparse", "loss\ndense", "accuracy\nsparse", "accuracy\ndense"):
        table.add_column(heading, justify="right")
    for record in result.history:
        table.add_row(
            str(record.epoch),
            f"{record.level:.1%}",
            f"{record.sparsity:.1%}",
            f"{record.sparse.loss:.4f}",
            f"{record.dense.loss:.4f}",
            f"{record.sparse.accuracy:.2%}",
            f"{record.dense.accuracy:.2%}",
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(summary(result), soft_wrap=True)


def summary(result: DemoResult) -> str:
    """Return the outcome of a run in one line."""
    last = result.history[-1]
    weights = sum(layer.weight.size for layer in result.sparse)
    points = 100 * (last.sparse.accuracy - last.dense.accuracy)
    return (
        f"{last.sparsity:.1%} of {weights:,} weights are zero; test accuracy "
        f"{last.sparse.accuracy:.2%}, dense {last.dense.accuracy:.2%} "
        f"({points:+.2f} points); {result.seconds:.1f} s"
    )


def save_plot(result: DemoResult, png: Path) -> None:
    """Draw sparsity, test accuracy and training loss over the epochs into a PNG file."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    epochs = [record.epoch for record in result.history]
    styles = {
        "dense": {"color": "#2f6690", "linestyle": "--", "linewidth": 1.4},
        "sparse": {"color": "#c8553d", "linestyle": "-", "linewidth": 1.4},
    }

    # A Figure of its own draws with Agg and leaves the backend of the caller's process alone.
    figure = Figure(figsize=(7.5, 8.5), layout="constrained")
    figure.suptitle(summary(result), fontsize=10.5)
    top, middle, bottom = figure.subplots(3, sharex=True, gridspec_kw={"hspace": 0.06})

    levels = [record.level for record in result.history]
    counted = [record.sparsity for record in result.history]
    top.step(epochs, levels, where="mid", color="0.55", label="scheduled level")
    top.plot(epochs, counted, "o", markersize=3.5, color="#c8553d", label="zeros counted")
    top.set(ylabel="sparsity", ylim=(-0.04, 1.0), yticks=np.linspace(0, 1, 6))
    top.yaxis.set_major_formatter(PercentFormatter(1.0))

    for name, style in styles.items():
        scores: list[Score] = [getattr(record, name) for record in result.history]
        middle.plot(epochs, [score.accuracy for score in scores], label=name, **style)
        bottom.semilogy(epochs, [score.loss for score in scores], label=name, **style)
    middle.set(ylabel="test accuracy")
    middle.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
    bottom.set(ylabel="training loss (nats)", xlabel="epoch")
    bottom.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=True))

    for axes, corner in ((top, "lower right"), (middle, "lower right"), (bottom, "upper right")):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc=corner)
    figure.savefig(png, format="png", dpi=150)


def missing_packages(plot: bool) -> list[str]:
    """Return the names, as pip knows them, of the packages that a shown run lacks."""
    packages = {"sklearn": "scikit-learn", "threadpoolctl": "threadpoolctl", "rich": "rich"}
    if plot:
        packages["matplotlib"] = "matplotlib"
    return [name for module, name in packages.items() if importlib.util.find_spec(module) is None]


def main(seed: int, epochs: int, png: Path | None) -> int:
    """Run and show the demo, write the plot to `png` if given, and return the exit status."""
    missing = missing_packages(plot=png is not None)
    if missing:
        print(
            f"datasparse demo needs {', '.join(missing)}: "
            "install with pip install 'datasparse[demo]'",
            file=sys.stderr,
        )
        return 2
    result = run_demo(seed, epochs)
    if png is not None:
        try:
            save_plot(result, png)
        except OSError as error:
            print(f"datasparse demo could not write the plot: {error}", file=sys.stderr)
            return 1
        print(f"Curves: {png}")
    return 0
