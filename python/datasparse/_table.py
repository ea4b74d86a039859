"""Tables as text, and what stands in them and beside them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence


def aligned(rows: Sequence[Sequence[str]], left_aligned: Collection[int] = ()) -> Iterator[str]:
    """Yield a line for each row of cells, columns to the right but for those given."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.ljust(width) if column in left_aligned else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def between(least: int, most: int) -> str:
    """Two counts as text, or one where they are the same."""
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def few(names: Iterable[str]) -> str:
    """The first of several names, and how many more there are."""
    some = list(names)
    return ", ".join(some[:4]) + (f" and {len(some) - 4} more" if some[4:] else "")


def by_reason(reasons: Mapping[str, str]) -> list[str]:
    """A line for each reason with a few of the names that have it."""
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(name)
    return [f"{reason}: {few(some)}" for reason, some in names.items()]
