"""The command line: one function or file per command, and options that print one fact each."""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasparse
from datasparse.commands import inspect, pack, prune


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, by default the one in `sys.argv`, and return the exit status."""
    options = build_parser().parse_args(arguments)
    try:
        status = RUN[options.command](options)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


class PrintPath(argparse.Action):
    """An option like `--version`: prints a path, and exits."""

    def __init__(self, path: Callable[[], str], **options: Any) -> None:
        super().__init__(nargs=0, default=argparse.SUPPRESS, **options)
        self.path = path

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        try:
            path = self.path()
        except FileNotFoundError as error:
            parser.exit(1, f"datasparse: {error}\n")
        print(path)
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="datasparse", description="Keep named tensors sparse on a schedule."
    )
    parser.add_argument(
        "--version", action="version", version=f"datasparse {datasparse.__version__}"
    )
    for option, function, what in (
        ("--cmakedir", datasparse.get_cmake_dir, "the folder of the CMake package"),
        ("--includedir", datasparse.get_include, "the folder of the headers for C and C++"),
        ("--library", datasparse.get_library, "the path of the shared library"),
    ):
        parser.add_argument(option, action=PrintPath, path=function, help=f"print {what} and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("info", help="show the version, the instruction set and the threads in use")
    demo_parser = commands.add_parser(
        "demo", help="train a network that ends with 90%% of its weights at zero"
    )
    demo_parser.add_argument(
        "--seed", type=at_least(0), default=0, metavar="N", help="0 or more (default: %(default)s)"
    )
    demo_parser.add_argument(
        "--epochs", type=at_least(2), metavar="N", help="2 or more (default: enough to converge)"
    )
    plot = demo_parser.add_mutually_exclusive_group()
    plot.add_argument(
        "--png",
        type=Path,
        default=Path("datasparse-demo.png"),
        metavar="PATH",
        help="where the plot is written (default: %(default)s)",
    )
    plot.add_argument("--no-plot", action="store_true", help="write no plot")
    add_plan_parser(commands.add_parser("plan", help="show what a schedule will do, step by step"))
    for command in (prune, inspect, pack):
        command.add_parser(commands)
    return parser


def add_plan_parser(parser: argparse.ArgumentParser) -> None:
    """Add the options of `datasparse plan`."""
    parser.add_argument(
        "schedule",
        metavar="SCHEDULE",
        help='such as "Polynomial(final=0.9, end=1000, every=100)"; see datasparse.schedules',
    )
    parser.add_argument(
        "--steps",
        type=at_least(1),
        metavar="N",
        help="1 or more (default: a tenth more than the schedule takes)",
    )
    parser.add_argument(
        "--param",
        choices=["sparsity_level", "zeros_per_block"],
        default="sparsity_level",
        help="what is scheduled (default: %(default)s)",
    )
    parser.add_argument(
        "--level",
        type=float,
        default=0.5,
        metavar="X",
        help="sparsity_level before the schedule: its base value (default: %(default)s)",
    )
    parser.add_argument(
        "--shape",
        type=lengths(1),
        default=(1024, 1024),
        metavar="NxM",
        help="of the tensor whose zeros are counted (default: 1024x1024)",
    )
    parser.add_argument(
        "--block",
        type=lengths(2),
        default=(1, 4),
        metavar="HxW",
        help="sparse_block_shape (default: 1x4)",
    )
    parser.add_argument("--png", type=Path, metavar="PATH", help="where to write a plot")


def lengths(fewest: int) -> Callable[[str], tuple[int, ...]]:
    """Return a parser of "64x256", for at least so many axes."""

    def axes(text: str) -> tuple[int, ...]:
        values = tuple(int(part) for part in text.split("x"))
        if len(values) < fewest or min(values) < 1:
            raise argparse.ArgumentTypeError(f"must be lengths of 1 or more, got {text}")
        return values

    return axes


def at_least(minimum: int) -> Callable[[str], int]:
    """Return a parser of integers not below `minimum`."""

    def integer(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}, got {value}")
        return value

    return integer


def demo(options: argparse.Namespace) -> int:
    """Run the demo with the options of the command line."""
    from datasparse.demo import EPOCHS, main

    png = None if options.no_plot else options.png
    return main(options.seed, options.epochs or EPOCHS, png)


def plan(options: argparse.Namespace) -> int:
    """Print a table of what a schedule will do, and draw it if that is wanted."""
    import numpy as np

    from datasparse import DataNormSparsifier, DataScheduler, schedules

    if options.png is not None and importlib.util.find_spec("matplotlib") is None:
        print(
            "datasparse plan needs matplotlib: install with pip install 'datasparse[plot]'",
            file=sys.stderr,
        )
        return 2
    try:
        schedule = schedules.parse(options.schedule)
        # A tensor of that shape in the memory of one number: a plan reads no data.
        data = np.broadcast_to(np.float32(0), options.shape)
        sparsifier = DataNormSparsifier(
            {"tensor": data}, sparsity_level=options.level, sparse_block_shape=options.block
        )
        steps = options.steps or math.ceil(1.1 * (schedule.end or 100)) + 1
        planned = DataScheduler(sparsifier, options.param, schedule).plan(steps)
    except (MemoryError, TypeError, ValueError) as error:
        print(f"datasparse plan: {error}", file=sys.stderr)
        return 2
    print(planned)
    if options.png is not None:
        from datasparse.plot import plot_plan

        try:
            plot_plan(planned, title=options.schedule).savefig(options.png, format="png", dpi=120)
        except OSError as error:
            print(f"datasparse plan could not write the plot: {error}", file=sys.stderr)
            return 1
        print(f"Plot: {options.png}")
    return 0


def _devices() -> str:
    """How masks of tensors on devices of torch are computed. Imports nothing for it."""
    if importlib.util.find_spec("torch") is None:
        return "none: torch is not installed"
    choice = os.environ.get("DATASPARSE_DEVICE_ROUTE", "auto")
    has_triton = importlib.util.find_spec("triton") is not None and choice != "operations"
    how = "Triton kernels on CUDA, plain operations elsewhere" if has_triton else "plain operations"
    return f"{how} (DATASPARSE_DEVICE_ROUTE={choice})"


def info(_: argparse.Namespace) -> int:
    """Print what this build is and what it runs on, one aligned line per fact."""
    facts = datasparse.runtime_info() | {"devices": _devices()}
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")
    return 0


RUN: dict[str, Callable[[argparse.Namespace], int]] = {
    **{"demo": demo, "plan": plan, "info": info, "prune": prune.run},
    **{"inspect": inspect.run, "pack": pack.run, "unpack": pack.run},
}
