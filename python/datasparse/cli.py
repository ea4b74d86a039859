"""The command line: `datasparse demo`, `datasparse info` and `datasparse --version`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import datasparse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, by default the one in `sys.argv`, and return the exit status."""
    options = build_parser().parse_args(arguments)
    return demo(options) if options.command == "demo" else info()


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="datasparse", description="Keep named tensors sparse on a schedule."
    )
    parser.add_argument(
        "--version", action="version", version=f"datasparse {datasparse.__version__}"
    )
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
    return parser


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


def info() -> int:
    """Print what this build is and what it runs on, one aligned line per fact."""
    facts = datasparse.runtime_info()
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")
    return 0
