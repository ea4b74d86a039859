"""`datasparse inspect FILE...`: what is zero in safetensors files, whoever made them."""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path

from .prune import Commands, block
from .status import status_of


def add_parser(commands: Commands) -> None:
    """Add the options of the command."""
    parser = commands.add_parser(
        "inspect",
        help="count the zeros of safetensors files: levels, N:M, blocks, rows",
        description="Count what is zero, tensor by tensor. -0 counts as zero.",
    )
    parser.add_argument(
        "files", metavar="FILE", type=Path, nargs="+", help="a file, or a folder of *.safetensors"
    )
    parser.add_argument(
        "--block", type=block, metavar="HxW", help="count the blocks that are wholly zero too"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write all of it")
    parser.add_argument("--png", type=Path, metavar="FILE", help="where to plot levels by layer")


def run(options: argparse.Namespace) -> int:
    """Print the table, write what else is wanted, and return the exit status."""
    return status_of("inspect", lambda: inspect(options))


def refuse_checkpoint(path: Path, files: list[Path]) -> None:
    """ValueError for a table or a plot in the place of a checkpoint, which it would overwrite."""
    from datasparse.files.folder import DENSE, INDEX

    place = path.resolve()
    if place.name.endswith((*DENSE, INDEX)) or place in {file.resolve() for file in files}:
        raise ValueError(f"{path} must not be a checkpoint: name another file to be written")


def inspect(options: argparse.Namespace) -> None:
    from datasparse.files import inspect

    if options.png is not None and importlib.util.find_spec("matplotlib") is None:
        raise ValueError("--png needs matplotlib: install with pip install 'datasparse[plot]'")
    for path in (options.json, options.png):
        if path is not None:
            refuse_checkpoint(path, options.files)
    found = inspect(options.files, options.block)
    print(found)
    if options.json is not None:
        options.json.write_text(json.dumps(found.as_dict(), indent=2) + "\n")
    if options.png is not None:
        from datasparse.files.level_plot import plot_levels

        plot_levels(found).savefig(options.png, format="png", dpi=120)
        print(f"Plot: {options.png}")
