"""A picture of levels by layer. Needs matplotlib: pip install 'datasparse[plot]'."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..plot import COLOURS
from .inspection import Inspection, TensorFound

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_NAMES = 80  # with more tensors, bars have no names


def plot_levels(found: Inspection) -> Figure:
    """Draw a bar for each tensor of two and more axes, as long as its level; of all if none has.

    Layers are in the order of their numbers, and tensors whose names differ in numbers alone have
    one colour. `figure.savefig(path)` writes the picture; pyplot is left alone. ImportError where
    matplotlib is not installed.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    counted = [tensor for tensor in found if tensor.level is not None]
    tensors = [tensor for tensor in counted if len(tensor.shape) > 1] or counted
    tensors.sort(key=lambda tensor: natural(tensor.name))
    kinds = {kind: at for at, kind in enumerate(dict.fromkeys(map(kind_of, tensors)))}
    has_names = len(tensors) <= MOST_NAMES
    height = 1.6 + 0.17 * (len(tensors) if has_names else MOST_NAMES / 2)
    figure = Figure(figsize=(7.5, height), layout="constrained")
    axes = figure.subplots()
    for kind, at in kinds.items():
        rows = [row for row, tensor in enumerate(tensors) if kind_of(tensor) == kind]
        levels = [tensors[row].level or 0.0 for row in rows]
        label = kind if at < len(COLOURS) else None
        axes.barh(rows, levels, 0.8, color=COLOURS[at % len(COLOURS)], label=label)
    total = found.total.level
    axes.axvline(total, color="0.35", linewidth=1, linestyle="--", label=f"all: {total:.1%}")
    axes.set_xlim(0, 1)
    axes.set_xlabel("zeros")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylim(max(len(tensors), 1) - 0.4, -0.6)
    if has_names:
        axes.set_yticks(range(len(tensors)), [tensor.name for tensor in tensors], fontsize=7)
    else:
        axes.set_yticks([])
        axes.set_ylabel(f"{len(tensors):,} tensors, by the numbers in their names")
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=7)
    return figure


def kind_of(tensor: TensorFound) -> str:
    """The name with a star for each number."""
    return re.sub(r"\d+", "*", tensor.name)


def natural(name: str) -> list[str | int]:
    """A key that puts layer 2 before layer 10: texts and numbers in turn."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if at % 2 else part for at, part in enumerate(parts)]
