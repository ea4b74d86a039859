"""Reads what the sanitizers wrote: fails if an error was found, or a leak of our own.

The interpreter, NumPy and torch leave memory behind that nothing points to. A leak is ours if, from
the allocation upwards, a frame of our module comes before one of Python code.
"""

import re
import sys
from collections import Counter
from pathlib import Path

# Frames end in the file that holds their code: test-sanitized sets stack_trace_format.
OURS = re.compile(r"\(\S*/datasparse/_core\.\S*\)$")
PYTHON_CODE = re.compile(r"\b_PyEval_EvalFrameDefault\b")
LEAK = re.compile(r"(?:Direct|Indirect) leak of \d+ byte\(s\) in \d+ object\(s\)")
LEAKS = "ERROR: LeakSanitizer: detected memory leaks"


def is_ours(stack):
    for frame in stack:
        if OURS.search(frame) or PYTHON_CODE.search(frame):
            return bool(OURS.search(frame))
    return False


def our_leaks(report):
    """The stacks of our leaks in a report, without the addresses."""
    for block in report.split("\n\n"):
        lines = block.strip().splitlines()
        if lines and LEAK.match(lines[0]) and is_ours(lines[1:]):
            yield "\n".join(lines[1:])


def main(folder):
    reports = [path.read_text(errors="replace") for path in sorted(Path(folder).iterdir())]
    errors = [report for report in reports if LEAKS not in report]
    leaks = Counter(stack for report in reports for stack in our_leaks(report))
    for report in errors:
        print(report)
    for stack, processes in leaks.most_common():
        print(f"Leak, in {processes} processes:\n{stack}\n")
    print(
        f"{len(reports) - len(errors)} processes looked for leaks and found some; "
        f"ours: {len(leaks)}; other errors: {len(errors)}"
    )
    if len(reports) == len(errors):
        print("No leak at all, not even of others: the detector did not run.")
        return 1
    return 1 if errors or leaks else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
