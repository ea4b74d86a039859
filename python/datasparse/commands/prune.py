"""`datasparse prune SOURCE TARGET`: zeros into a checkpoint, as a stream from file to file."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._table import few
from .status import status_of

if TYPE_CHECKING:
    from datasparse.files.options import Options

Commands = Any  # what argparse's add_subparsers() returns, which has no public name

EPILOG = """\
Exit status: 0 done; 1 the system refused (a full disk, say), and the same command goes on where it
stopped; 2 what was asked for, or the source, cannot be. Nothing is under TARGET's name unless it is
whole. docs/shell.md tells it all.
"""

SAID_BY_RECIPES = (
    *("level", "block", "zeros_per_block", "pattern", "per", "distribution", "pool", "min_level"),
    *("max_level", "include", "exclude", "layout", "transposed"),
)


def add_parser(commands: Commands) -> None:
    """Add the options of the command."""
    parser = commands.add_parser(
        "prune",
        help="zero the lowest weights of a safetensors checkpoint, whatever its size",
        description="Zero the lowest weights of a checkpoint: a .safetensors file, or a folder.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", type=Path, help="a file, or a folder")
    parser.add_argument("target", metavar="TARGET", type=Path, nargs="?", help="is not there yet")
    how = parser.add_argument_group("how much, in what pattern")
    how.add_argument("--level", type=float, metavar="X", help="share that is pruned, in [0, 1]")
    how.add_argument(
        "--block", type=block, metavar="HxW", help="such as 4x4, or 1xall (default: 1x1)"
    )
    how.add_argument(
        "--zeros-per-block", type=int, metavar="N", help="of a pruned block (default: all)"
    )
    how.add_argument(
        "--pattern", type=pattern, metavar="N:M", help="N zeros in every M along a row"
    )
    how.add_argument("--per", choices=["row"], help="prune the level's share of each row")
    how.add_argument(
        "--distribution", choices=["erk", "uniform"], help="share the level among the tensors"
    )
    how.add_argument(
        "--pool", metavar="NAME", help="one threshold for all tensors, under that name: all"
    )
    how.add_argument("--min-level", type=float, metavar="X", help="of each tensor of a pool")
    how.add_argument("--max-level", type=float, metavar="X", help="of each tensor of a pool")
    how.add_argument(
        "--recipe", metavar="FILE", help="says all this, and which tensors: docs/recipes.md"
    )
    which = parser.add_argument_group("which tensors, seen how")
    which.add_argument(
        "--include", action="append", default=[], metavar="GLOB", help="by default all matrices"
    )
    which.add_argument("--exclude", action="append", default=[], metavar="GLOB")
    which.add_argument(
        "--strict", action="store_true", help="refuse tensors that only their dtype leaves out"
    )
    which.add_argument(
        "--layout",
        choices=["memory", "inputs"],
        help="of convolutions: as they lie, or outputs x (places x inputs) (default: memory)",
    )
    which.add_argument(
        "--transposed",
        action="append",
        default=[],
        metavar="GLOB",
        help="tensors stored as inputs x outputs, as GPT-2's are",
    )
    by = parser.add_argument_group("by what")
    by.add_argument("--scores", metavar="FILE", help="same names and shapes, ranked by value")
    by.add_argument(
        "--input-norms", metavar="FILE", help="a vector for each weight: Wanda, |W| times the norm"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan, and do nothing")
    parser.add_argument(
        "--read", action="store_true", help="with --dry-run: count what a pool zeroes in each"
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="what was done, as JSON")
    parser.add_argument(
        "--masks", type=Path, metavar="FILE", help="the masks, for datasparse.load()"
    )
    parser.add_argument("--threads", type=threads, metavar="N", help="that masks are computed by")


def block(text: str) -> tuple[int, int]:
    """The shape of a block: "4x4", or "1xall" for a whole axis."""
    lengths = text.split("x", 1)
    values = [-1 if length == "all" else int(length) for length in lengths]
    if len(values) != 2 or any(length.startswith("-") for length in lengths):
        raise argparse.ArgumentTypeError(f'must be two lengths, such as 4x4 or 1xall, got "{text}"')
    return values[0], values[1]


def pattern(text: str) -> tuple[int, int]:
    """Zeros and length of an N:M pattern."""
    zeros, length = (int(number) for number in text.split(":"))
    if not 0 <= zeros <= length or length < 1:
        raise argparse.ArgumentTypeError(f'must be N:M with N of at most M, got "{text}"')
    return zeros, length


def threads(text: str) -> int:
    """A number of threads."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)


def options_of(given: argparse.Namespace) -> Options:
    """The record of what is asked. ValueError or TypeError for what cannot be."""
    from datasparse.files.options import Options

    if given.recipe is not None:
        for option in SAID_BY_RECIPES:
            if getattr(given, option) not in (None, []):
                raise ValueError(f"--{option.replace('_', '-')} and --recipe must not both be "
                                 "given: the recipe says it")  # fmt: skip
        return Options(
            recipe=given.recipe,
            scores=given.scores,
            input_norms=given.input_norms,
            strict=given.strict,
        )
    level, shape, zeros = given.level, given.block, given.zeros_per_block
    if given.pattern is not None:
        if shape is not None or zeros is not None or given.per is not None:
            raise ValueError("--pattern is a block and its zeros: it goes with none of --block, "
                             "--zeros-per-block and --per")  # fmt: skip
        zeros, shape = given.pattern[0], (1, given.pattern[1])
        level = 1.0 if level is None else level
    if level is None:
        raise ValueError("--level is needed, where neither --pattern nor --recipe says how much")
    return Options(
        sparsity_level=level,
        sparse_block_shape=shape or (1, 1),
        zeros_per_block=zeros,
        per_row=given.per == "row",
        distribution=given.distribution,
        pool=given.pool,
        min_level=given.min_level,
        max_level=given.max_level,
        layout=given.layout or "memory",
        transposed=tuple(given.transposed),
        scores=given.scores,
        input_norms=given.input_norms,
        include=tuple(given.include),
        exclude=tuple(given.exclude),
        strict=given.strict,
    )


def run(given: argparse.Namespace) -> int:
    """Prune, or print the plan, and return the exit status."""
    work = dry_run if given.dry_run else prune
    status = status_of("prune", lambda: work(given), "; --dry-run tells how much")
    if status == 1 and given.target is not None and os.path.lexists(f"{given.target}.partial"):
        print(f"What was done is in {given.target}.partial: the same command goes on from there.",
              file=sys.stderr)  # fmt: skip
    return status


def dry_run(given: argparse.Namespace) -> None:
    """Print what would be done."""
    from datasparse.files.prune import plan_prune

    from .progress import shown

    if given.target is not None and os.path.lexists(given.target):
        raise ValueError(f"{given.target} is there already: remove it, or name another target")
    set_threads(given)
    options = options_of(given)
    with shown() as progress:
        text = plan_prune(given.source, options, masks=given.masks is not None, read=given.read,
                          progress=progress)  # fmt: skip
    print(text)


def prune(given: argparse.Namespace) -> None:
    """Do it, show how far it is, and sum up."""
    from datasparse.files.prune import prune
    from datasparse.report import bytes_text

    from .progress import shown

    if given.target is None:
        raise ValueError("TARGET is needed, but for --dry-run")
    if given.read:
        raise ValueError("--read goes with --dry-run: without, everything is read anyway")
    options = options_of(given)
    set_threads(given)
    begin = time.monotonic()
    with shown() as progress:
        done = prune(given.source, given.target, options, report=given.report, masks=given.masks,
                     progress=progress)  # fmt: skip
    total, seconds = done["total"], time.monotonic() - begin
    print(
        f"{total['tensors']} tensors: {total['zeros']:,} of {total['elements']:,} elements "
        f"are zero ({total['sparsity']:.2%})"
    )
    print(f"{given.target}: {bytes_text(total['bytes'])} in {seconds:.1f} s, "
          f"{total['bytes'] / seconds / 1e9:.2f} GB/s")  # fmt: skip
    for what in ("partial", "left", "not_copied"):
        if done[what]:
            print(f"{what.replace('_', ' ')}: {few(done[what])}")


def set_threads(given: argparse.Namespace) -> None:
    if given.threads is not None:
        from datasparse import set_num_threads

        set_num_threads(given.threads)
