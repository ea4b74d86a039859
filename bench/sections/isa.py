"""step() with every instruction set that this machine and build have, each in its own process."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict

import datasparse

from bench.cases import TWO_OF_FOUR, Case
from bench.child import run_child
from bench.inputs import natural
from bench.options import Options, use_threads
from bench.report import Row, row_from
from bench.step import NO_GOALS, measure_step

TITLE = "Instruction sets"
CASES = [Case((1, 1), 0.5), Case((1, 4), 0.5), Case((4, 4), 0.5), TWO_OF_FOUR]


def run(options: Options) -> Iterator[Row]:
    available = str(datasparse.runtime_info()["instruction sets available"])
    for isa in available.split(", "):
        arguments = [json.dumps(asdict(options))]
        for entry in run_child("bench.sections.isa", arguments, DATASPARSE_ISA=isa):
            yield row_from(entry)


def child(options: Options) -> list[Row]:
    """All rows for the instruction set in use."""
    use_threads(options.threads)
    input_ = natural(min(1 << 24, options.largest))
    rows: list[Row] = []
    for case in CASES[:1] if options.quick else CASES:
        rows += measure_step("isa", input_, case, options, NO_GOALS, with_copy=False)
    for row in rows:
        row.case += f", {row.isa}"
    return rows


if __name__ == "__main__":
    found = child(Options(**json.loads(sys.argv[1])))
    print(json.dumps([asdict(row) for row in found]))
