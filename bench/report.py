"""Rows of results: as Markdown with goal and verdict, as JSON, and two of them side by side."""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Goal:
    value: float
    at_least: bool = False

    def met(self, value: float) -> bool:
        return value >= self.value if self.at_least else value <= self.value

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.value:g}"


@dataclass
class Row:
    section: str
    case: str
    what: str
    seconds: float | None = None
    spread: float | None = None
    nanoseconds_an_element: float | None = None
    gigabytes_a_second: float | None = None
    value: float | None = None  # what the goal is about,
    unit: str = "x bound"  # in this unit
    goal: Goal | None = None
    right: bool | None = None  # None: it gives no answer to check
    elements: int | None = None
    threads: int | None = None
    isa: str | None = None

    @property
    def verdict(self) -> str:
        if self.goal is None or self.value is None:
            return ""
        return "met" if self.goal.met(self.value) else "**missed**"

    @property
    def key(self) -> str:
        return " / ".join(
            str(part) for part in (self.section, self.case, self.what, self.threads, self.isa)
        )


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return (
                f"{seconds / size:.3g} {unit}"
                if seconds < 100 * size
                else f"{seconds / size:.0f} {unit}"
            )
    return f"{seconds / 1e-6:.3g} µs"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


COLUMNS = ("case", "what", "time", "spread", "ns/element", "GB/s", "measured", "goal", "", "answer")


def markdown(rows: Iterable[Row]) -> str:
    """One table."""
    lines = [
        "| " + " | ".join(COLUMNS) + " |",
        "|---|---|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    for row in rows:
        cells = (
            row.case,
            row.what,
            _time(row.seconds),
            _number(row.spread, ".0%"),
            _number(row.nanoseconds_an_element, ".3g"),
            _number(row.gigabytes_a_second, ".1f"),
            "" if row.value is None else f"{row.value:.3g} {row.unit}",
            "" if row.goal is None else str(row.goal),
            row.verdict,
            {None: "", True: "right", False: "**WRONG**"}[row.right],
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(rows: list[Row]) -> str:
    """How many goals were met, and which were not."""
    judged = [row for row in rows if row.verdict]
    missed = [row for row in judged if row.goal is not None and row.verdict != "met"]
    wrong = [row for row in rows if row.right is False]
    lines = [f"{len(judged) - len(missed)} of {len(judged)} goals met; {len(wrong)} wrong answers."]
    for row in missed:
        lines.append(f"- missed: {row.key}: {row.value:.3g} {row.unit}, goal {row.goal}")
    lines += [f"- WRONG: {row.key}" for row in wrong]
    return "\n".join(lines)


def write_json(path: Path, machine: dict[str, Any], rows: list[Row]) -> None:
    contents = {"machine": machine, "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(contents, indent=1, ensure_ascii=False) + "\n")


def row_from(entry: dict[str, Any]) -> Row:
    """A row from what asdict() made of it."""
    goal = entry["goal"]
    return Row(**entry | {"goal": None if goal is None else Goal(**goal)})


def read_rows(path: Path) -> list[Row]:
    return [row_from(entry) for entry in json.loads(path.read_text())["rows"]]


def compare(before: Path, after: Path) -> str:
    """A table of the rows that both files hold: times, what the goals are about, and the change."""
    old, new = ({row.key: row for row in read_rows(path)} for path in (before, after))
    lines = [
        f"| row | {before.name} | {after.name} | time | {before.name} | {after.name} |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for key, was in old.items():
        now = new.get(key)
        if now is None or (was.seconds is None and was.value is None):
            continue
        change = (
            ""
            if not was.seconds or now.seconds is None
            else f"{now.seconds / was.seconds - 1:+.0%}"
        )
        values = (
            "" if row.value is None else f"{row.value:.3g} {row.unit} {row.verdict}".strip()
            for row in (was, now)
        )
        cells = (key, _time(was.seconds), _time(now.seconds), change, *values)
        lines.append("| " + " | ".join(cells) + " |")
    for name, only in (
        (before.name, old.keys() - new.keys()),
        (after.name, new.keys() - old.keys()),
    ):
        if only:
            lines.append(f"\nOnly in {name}: " + "; ".join(sorted(only)))
    return "\n".join(lines)


def progress(text: str) -> None:
    """A line for whoever waits."""
    print(text, file=sys.stderr, flush=True)


def tell_faults(what: str, faults: Iterable[str]) -> None:
    """A line for each fault that was found in answers."""
    for fault in faults:
        progress(f"WRONG: {what}: {fault}")
