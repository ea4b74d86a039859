"""Plans: what a scheduler will do, before it does it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._table import aligned

Counts = NDArray[np.int64]
Shares = NDArray[np.float64]

MOST_COLUMNS = 6  # of groups in a table


@dataclass(frozen=True, eq=False)
class Plan:
    """The values of one parameter, step by step and group by group; `DataScheduler.plan` makes it.

    values: the values of each group, an array of shape (steps,), int64 or float64.
    elements: the number of elements of each group.
    zeros_least, zeros_most: how many elements of each group a mask would zero, as values. The two
        differ where blocks are partial, at the edges of a tensor, where zeros stay, or for a group
        in a pool: then it depends on the data which elements are pruned. Empty for a sparsifier
        with an update_mask() of its own.
    pools: the names of the groups in each pool.
    pool_zeros_least, pool_zeros_most: the same of all groups of a pool together. They differ where
        blocks are partial, zeros stay, or the blocks of its groups zero different numbers.

    str() is a table; `table(rows)` a longer one; `datasparse.plot.plot_plan` draws it.
    """

    param: str
    first: int
    steps: int
    values: dict[str, NDArray[Any]]
    elements: dict[str, int]
    zeros_least: dict[str, Counts]
    zeros_most: dict[str, Counts]
    pools: dict[str, list[str]] = field(default_factory=dict)
    pool_zeros_least: dict[str, Counts] = field(default_factory=dict)
    pool_zeros_most: dict[str, Counts] = field(default_factory=dict)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return columns of one row per step and group, as pandas.DataFrame() takes them.

        step, group, value; and zeros_least and zeros_most where they are known.
        """
        names = list(self.values)
        columns: dict[str, NDArray[Any]] = {
            "step": np.repeat(np.arange(self.first, self.first + self.steps), len(names)),
            "group": np.tile(np.array(names, dtype=str), self.steps),
            "value": _interleaved(self.values),
        }
        if self.zeros_least:
            columns["zeros_least"] = _interleaved(self.zeros_least)
            columns["zeros_most"] = _interleaved(self.zeros_most)
        return columns

    def changes(self) -> Counts:
        """Return the rows in which a value is not that of the row before, and the first."""
        changed = np.zeros(self.steps, dtype=bool)
        changed[:1] = True
        for values in self.values.values():
            changed[1:] |= values[1:] != values[:-1]
        return np.flatnonzero(changed)

    def columns(self) -> list[list[str]]:
        """Return the names of the groups, those with the same values, zeros and size together.

        The groups of a pool are together where they have the same values.
        """
        pool_of: dict[str, str] = {}
        for pool, names in self.pools.items():
            if len({self.values[name].tobytes() for name in names}) == 1:
                pool_of |= dict.fromkeys(names, pool)
        together: dict[tuple[object, ...], list[str]] = {}
        for name, values in self.values.items():
            key: list[object] = [values.tobytes(), values.dtype]
            if name in pool_of:
                key = [pool_of[name]]
            elif self.zeros_least:
                zeros = self.zeros_least[name], self.zeros_most[name]
                key += [*(count.tobytes() for count in zeros), self.elements[name]]
            together.setdefault(tuple(key), []).append(name)
        return list(together.values())

    def zero_shares(self, names: Iterable[str] | None = None) -> tuple[Shares, Shares]:
        """Return the least and the greatest share of zeros in all elements of some groups, by step.

        names: None for all groups. ValueError where the zeros are not known.
        """
        if not self.zeros_least:
            raise ValueError(
                "zeros of this plan are not known: its sparsifier has its own update_mask()"
            )
        chosen = dict.fromkeys(self.values if names is None else names)
        elements = max(sum(self.elements[name] for name in chosen), 1)
        whole_pools = [pool for pool, members in self.pools.items() if chosen.keys() >= {*members}]
        for pool in whole_pools:  # known more closely than its groups
            for name in self.pools[pool]:
                del chosen[name]

        def share(zeros: dict[str, Counts], of_pools: dict[str, Counts]) -> Shares:
            total = np.zeros(self.steps)
            for name in chosen:
                total += zeros[name]
            for pool in whole_pools:
                total += of_pools[pool]
            return total / elements

        return (
            share(self.zeros_least, self.pool_zeros_least),
            share(self.zeros_most, self.pool_zeros_most),
        )

    def table(self, rows: int | None = 20) -> str:
        """Return a table of the steps at which something changes: of `rows` of them, or of all."""
        shown = self.changes()
        left_out = 0
        if rows is not None and len(shown) > rows:
            left_out = len(shown) - rows
            shown = shown[np.linspace(0, len(shown) - 1, rows).astype(int)]
        columns = self.columns()
        more = sum(map(len, columns[MOST_COLUMNS:]))
        cells = [["step", *(self._heading(names) for names in columns[:MOST_COLUMNS])]]
        cells += [
            [str(self.first + row), *(self._cell(names, row) for names in columns[:MOST_COLUMNS])]
            for row in shown
        ]
        last = self.first + self.steps - 1
        lines = [f"{self.param}, steps {self.first} to {last}"] if self.steps else ["no steps"]
        lines += aligned(cells)
        if left_out:
            lines.append(f"... {left_out} more changes: table(rows=None)")
        if more:
            lines.append(f"... {more} more groups")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()

    def _cell(self, names: list[str], row: int) -> str:
        name = names[0]
        value = self.values[name][row]
        text = str(value) if isinstance(value, np.integer) else f"{value:.4f}"
        if not self.zeros_least:
            return text
        least, most = self.zeros_least[name][row], self.zeros_most[name][row]
        elements = self.elements[name]
        pool = self._pool(names)
        if pool is not None:
            least, most = self.pool_zeros_least[pool][row], self.pool_zeros_most[pool][row]
            elements = sum(self.elements[name] for name in names)
        zeros = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        return f"{text}  {zeros} of {elements:,}"

    def _pool(self, names: list[str]) -> str | None:
        """Return the pool that these are all groups of."""
        return next((pool for pool, members in self.pools.items() if members == names), None)

    def _heading(self, names: list[str]) -> str:
        pool = self._pool(names)
        return heading(names) if pool is None else f"pool {pool!r}"


def _interleaved(by_group: dict[str, NDArray[Any]]) -> NDArray[Any]:
    columns = list(by_group.values())
    return np.stack(columns, axis=1).reshape(-1) if columns else np.empty(0)


def heading(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
