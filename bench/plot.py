"""Nanoseconds per element over the size, from the rows of the section `curve`."""

from collections.abc import Mapping
from pathlib import Path

from bench.report import Row

# Label, beginning of the row's `what`, and how it is drawn.
LINES = (
    ("streaming bound", "bound", {"color": "black", "linestyle": "--"}),
    ("datasparse, cold", "step(), cold", {"color": "tab:blue", "marker": "o"}),
    ("datasparse, warm", "step(), data moved", {"color": "tab:cyan", "marker": "o"}),
    ("numpy.partition", "numpy.partition", {"color": "tab:orange", "marker": "s"}),
    ("torch.kthvalue", "torch.kthvalue", {"color": "tab:red", "marker": "^"}),
    ("torch.topk", "torch.topk", {"color": "tab:pink", "marker": "v"}),
    ("torch.nn.utils.prune", "torch.nn.utils.prune", {"color": "tab:purple", "marker": "D"}),
)


def plot(rows: list[Row], machine: Mapping[str, object], path: Path) -> None:
    """One panel per dtype, logarithmic on both axes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    curve = [row for row in rows if row.section == "curve"]
    dtypes = [name for name in ("float32", "float16") if any(name in row.case for row in curve)]
    if not dtypes:
        raise ValueError("there are no rows of the section curve to plot")
    figure, panels = plt.subplots(
        1, len(dtypes), figsize=(6.5 * len(dtypes), 5), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for panel, dtype in zip(panels[0], dtypes, strict=True):
        for label, what, style in LINES:
            points = sorted(
                (row.elements, row.nanoseconds_an_element)
                for row in curve
                if row.what.startswith(what) and dtype in row.case
            )
            if points:
                panel.plot(*zip(*points, strict=True), label=label, markersize=5, **style)
        panel.set(xscale="log", yscale="log", xlabel="elements", title=f"{dtype}, {_case(curve)}")
        panel.grid(True, which="major", alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("ns per element")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(
        f"A mask of single elements on {machine['threads']} threads "
        f"({machine['processor']}, {machine['instruction set']})",
        fontsize="medium",
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _case(rows: list[Row]) -> str:
    """The blocks and the level that all rows share."""
    return rows[0].case.split(", ", 1)[1]
