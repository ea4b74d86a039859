"""`datasparse pack SOURCE TARGET` and `unpack`: zeros out of files, and in again."""

from __future__ import annotations

import argparse
from pathlib import Path

from .progress import shown
from .prune import Commands
from .status import status_of

DESCRIPTIONS = {
    "pack": "Write a safetensors file, or a folder of them, without zeros. Elements whose bits are "
    "all zero are left out; unpack brings back the same bytes.",
    "unpack": "Write what pack wrote as it was before, byte for byte.",
}


def add_parser(commands: Commands) -> None:
    """Add the options of both commands."""
    for command, what in (
        ("pack", "write safetensors files without their zeros"),
        ("unpack", "write packed files as they were"),
    ):
        parser = commands.add_parser(command, help=what, description=DESCRIPTIONS[command])
        parser.add_argument("source", metavar="SOURCE", type=Path, help="a file, or a folder")
        parser.add_argument("target", metavar="TARGET", type=Path, help="is not there yet")


def run(options: argparse.Namespace) -> int:
    """Do what the command says, and return the exit status."""
    return status_of(options.command, lambda: convert(options))


def convert(options: argparse.Namespace) -> None:
    from datasparse.files import pack, unpack

    with shown() as progress:
        one = {"pack": pack, "unpack": unpack}[options.command]
        print(one(options.source, options.target, progress=progress))
