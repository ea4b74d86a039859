"""Pictures of plans. Needs matplotlib: pip install 'datasparse[plot]'."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from datasparse.plan import Plan, heading

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_LINES = 8  # further groups are drawn without a name
COLOURS = ("#2f6690", "#c8553d", "#588157", "#e09f3e", "#6d597a", "#3a7d7c", "#9a8c98", "#a44a3f")


def plot_plan(plan: Plan, title: str | None = None) -> Figure:
    """Draw the values of a plan over its steps, and the share of zeros below if it is known.

    Groups with the same values are one line. Where partial blocks leave the zeros open, a band
    shows from where to where. `figure.savefig(path)` writes the picture; the backend and the
    figures of pyplot are left alone. ImportError where matplotlib is not installed.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    known = bool(plan.zeros_least)
    figure = Figure(figsize=(7.5, 5.0 if known else 3.4), layout="constrained")
    figure.suptitle(title or plan.param, fontsize=10.5)
    panels = figure.subplots(2 if known else 1, sharex=True, squeeze=False)[:, 0]

    edges = np.arange(plan.first, plan.first + plan.steps + 1)
    for number, names in enumerate(plan.columns()):
        style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "linewidth": 1.5}
        if number < MOST_LINES:
            style["label"] = heading(names)
        # A value holds from its step to the next one.
        panels[0].stairs(plan.values[names[0]], edges, baseline=None, **style)
        if known:
            least, most = plan.zero_shares(names)
            panels[1].stairs((least + most) / 2, edges, baseline=None, **style)
            panels[1].stairs(
                most, edges, baseline=least, fill=True, color=style["color"], alpha=0.25
            )

    panels[0].set_ylabel(plan.param)
    if known:
        panels[1].set_ylabel("zeros")
        panels[1].yaxis.set_major_formatter(PercentFormatter(1.0))
        panels[1].set_ylim(-0.04, 1.04)
    panels[-1].set_xlabel("step")
    panels[-1].xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=True))
    for axes in panels:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    if len(plan.values) > 1:
        panels[0].legend(frameon=False)
    return figure
