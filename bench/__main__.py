"""Measures what masks cost, with answers checked, and prints the tables in Markdown.

    python -m bench --quick                        about a minute, on small tensors
    python -m bench --json all.json --plot all.png all of it
    python -m bench --only rows,hard --rounds 9 --threads 1
    python -m bench --device cuda                  what masks cost on a GPU
    python -m bench compare before.json after.json

Run it in the checkout, after `pip install '.[test]'`. It needs a C++ compiler, and CMake for
`groups`, `count` and `embedding`; with --device, neither. It exits with 1 where an answer is wrong;
a missed goal is reported, not an error.
"""

import argparse
import importlib
import sys
from pathlib import Path

import datasparse

from bench import report
from bench.machine import describe
from bench.options import Options, use_threads

SECTIONS = (
    "rows", "dtypes", "hard", "layouts", "monotone", "peers", "memory", "groups", "pools",
    "schedulers", "scores", "regrowth", "curve", "threads", "isa", "apply", "count", "embedding",
    "shards",
)  # fmt: skip
DEVICE_SECTIONS = ("device", "device_groups")
QUICK = 1 << 20  # elements


def parser_of_run() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only",
        metavar="NAMES",
        help=f"of {', '.join(SECTIONS)}; with --device, of {', '.join(DEVICE_SECTIONS)}",
    )
    parser.add_argument(
        "--device",
        metavar="NAME",
        help="measure masks on a device of torch: cuda; cpu computes them there by the same route",
    )
    parser.add_argument("--quick", action="store_true", help="small tensors and few rounds")
    parser.add_argument("--rounds", type=int, help="7, or 3 with --quick; 20 with --device")
    parser.add_argument("--threads", type=int, default=datasparse.get_num_threads())
    parser.add_argument(
        "--largest", type=int, metavar="N", help="cut every tensor down to as many elements"
    )
    parser.add_argument(
        "--incumbent",
        action="store_true",
        help="time PyTorch's sparsifier too, which takes minutes",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to it too")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the cost over the size")
    return parser


def run(arguments: list[str]) -> int:
    parser = parser_of_run()
    chosen = parser.parse_args(arguments)
    sections = SECTIONS if chosen.device is None else DEVICE_SECTIONS
    names = sections if chosen.only is None else tuple(chosen.only.split(","))
    unknown = set(names) - set(sections)
    if unknown:
        parser.error(f"--only: no section {', '.join(sorted(unknown))}; there are {sections}")
    if chosen.plot is not None and "curve" not in names:
        parser.error("--plot: it draws the section curve, which --only leaves out")
    options = Options(
        rounds=chosen.rounds or (3 if chosen.quick else 7 if chosen.device is None else 20),
        threads=chosen.threads,
        largest=chosen.largest or (QUICK if chosen.quick else 1 << 30),
        incumbent=chosen.incumbent,
        quick=chosen.quick,
        device=chosen.device,
    )
    use_threads(options.threads)
    machine = describe(options)
    print("; ".join(f"{name}: {value}" for name, value in machine.items()), flush=True)
    rows: list[report.Row] = []
    for name in names:
        section = importlib.import_module(f"bench.sections.{name}")
        found = list(section.run(options))
        print(f"\n## {section.TITLE}\n\n{report.markdown(found)}", flush=True)
        rows += found
        if chosen.json is not None:  # after every section: what was measured is kept
            report.write_json(chosen.json, machine, rows)
    if chosen.plot is not None:
        from bench.plot import plot

        plot(rows, machine, chosen.plot)
    print("\n## Summary\n\n" + report.summary(rows))
    return 1 if any(row.right is False for row in rows) else 0


def compare(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench compare")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    chosen = parser.parse_args(arguments)
    print(report.compare(chosen.before, chosen.after))
    return 0


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["compare"]:
        return compare(arguments[1:])
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
