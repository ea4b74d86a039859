"""What a sparsifier's masks are: `sparsifier.report()` makes a `Report`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from ._table import aligned


class ScalarWriter(Protocol):
    """What `Report.write` needs: `torch.utils.tensorboard.SummaryWriter` has it."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int, /) -> object:
        """Record one number under a tag."""


@dataclass(frozen=True)
class GroupReport:
    """The figures of one group, counted from its mask as it was at the time.

    status: "active"; "frozen", where steps leave the mask as it is; "squashed"; or "awaiting data",
        for a state that was loaded without any.
    dtype, bytes_dense, bytes_masked: None where the group holds no data.
    block, zeros_per_block: of the config, where it has such keys. -1 is a whole axis.
    block_elements: the size of a block, whole axes filled in.
    target: the share of zeros that the config asks for: sparsity_level, times zeros_per_block over
        the size of a block. None for a config without a sparsity_level, and for a frozen mask. Of a
        group in a pool it is what counts in the pool's budget, and not what the group comes to.
    sparsity: the share of zeros that there is in the mask; 0 for an empty tensor.
    zeros_in_data: how many of these zeros are zero in the data too, as all are after apply_mask().
        None where the group holds no data of the mask's shape.
    dead: whether the mask keeps no element of a tensor that has some.
    dead_rows, dead_channels: how many rows of outputs, and how many input channels, the mask keeps
        no element of. They are the entries of the first and of the last axis of the group's layout,
        or of the first and of the second axis without one. None for fewer than two axes.
    bytes_masked: what the values that are kept take, and one bit per element for the mask.
    pool: of the config: the groups with this name share one threshold.
    ever_active: how many elements were active at some time, which over `elements` is the ITOP rate
        (Liu et al. 2021). None for masks that do not move; see `datasparse.regrowth`.
    """

    name: str
    status: str
    shape: tuple[int, ...]
    dtype: str | None
    block: tuple[int, int] | None
    block_elements: int | None
    zeros_per_block: int | None
    target: float | None
    sparsity: float
    elements: int
    zeros: int
    zeros_in_data: int | None
    dead: bool
    dead_rows: int | None
    dead_channels: int | None
    bytes_dense: int | None
    bytes_masked: int | None
    pool: str | None = None
    ever_active: int | None = None


@dataclass(frozen=True)
class TotalReport:
    """The figures of several groups together: of all, or of a pool.

    target: by elements, over the groups that have one; None if none has.
    zeros_in_data, bytes_dense, bytes_masked: of the groups that hold data.
    dead_groups, dead_rows, dead_channels: how many there are in all groups.
    ever_active: of the groups whose masks move; None if none does.
    """

    target: float | None
    sparsity: float
    elements: int
    zeros: int
    zeros_in_data: int
    dead_groups: int
    dead_rows: int
    dead_channels: int
    bytes_dense: int
    bytes_masked: int
    ever_active: int | None = None


class Report:
    """The groups of a sparsifier and their totals, as they were when `report()` was called.

    It prints as a table, is rendered as one in notebooks, and iterates over its groups.

    groups: a GroupReport for each, by name.
    pools: the totals of each pool, by its name.
    total: those of all groups.
    """

    def __init__(self, groups: Iterable[GroupReport]) -> None:
        self.groups = {group.name: group for group in groups}
        self.total = total_of(self.groups.values())
        members: dict[str, list[GroupReport]] = {}
        for group in self:
            if group.pool is not None:
                members.setdefault(group.pool, []).append(group)
        self.pools = {name: total_of(some) for name, some in members.items()}

    def __getitem__(self, name: str) -> GroupReport:
        return self.groups[name]

    def __iter__(self) -> Iterator[GroupReport]:
        return iter(self.groups.values())

    def __len__(self) -> int:
        return len(self.groups)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data: `{"groups": {name: {...}}, "pools": {...}, "total": {...}}`."""
        groups = {name: asdict(group) for name, group in self.groups.items()}
        for group in groups.values():
            del group["name"]
        pools = {name: asdict(pool) for name, pool in self.pools.items()}
        return {"groups": groups, "pools": pools, "total": asdict(self.total)}

    def write(self, writer: ScalarWriter, step: int, prefix: str = "sparsity") -> None:
        """Write actual sparsities, and targets where there are some, by `add_scalar`.

        The tags are `prefix/name`, `prefix_target/name`, `pool` and a name for a pool, and `total`
        for a name; a group of that name keeps it, and the other one is left out.
        """
        entries: dict[str, GroupReport | TotalReport] = dict(self.groups)
        for name, pool in self.pools.items():
            entries.setdefault(f"pool {name}", pool)
        entries.setdefault("total", self.total)
        for name, entry in entries.items():
            writer.add_scalar(f"{prefix}/{name}", entry.sparsity, step)
            if entry.target is not None and getattr(entry, "pool", None) is None:
                writer.add_scalar(f"{prefix}_target/{name}", entry.target, step)

    def __str__(self) -> str:
        table = [self._headings(), *self._rows()]
        texts = [column for column, heading in enumerate(table[0]) if heading in TEXTS]
        lines = list(aligned(table, texts))
        rule = "-" * max(map(len, lines))
        sums = len(lines) - 1 - len(self.pools)
        return "\n".join([lines[0], rule, *lines[1:sums], rule, *lines[sums:]])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from html import escape

        def row(cells: list[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        rows = self._rows()
        body = "".join(row(cells, "td") for cells in rows[: len(self)])
        foot = "".join(row(cells, "th") for cells in rows[len(self) :])
        return (
            f"<table><thead>{row(self._headings(), 'th')}</thead><tbody>{body}</tbody>"
            f"<tfoot>{foot}</tfoot></table>"
        )

    def _headings(self) -> list[str]:
        return ["group", "shape", "dtype", "block", *(name for name, _ in self._figures())]

    def _rows(self) -> list[list[str]]:
        texts = [text for _, text in self._figures()]
        rows = [
            [
                group.name if group.status == "active" else f"{group.name} ({group.status})",
                str(group.shape),
                group.dtype or "",
                block_text(group),
                *(text(group) for text in texts),
            ]
            for group in self
        ]
        sums = {f"pool {name!r}": pool for name, pool in self.pools.items()}
        sums["total"] = self.total
        rows += [[name, "", "", "", *(text(sum_) for text in texts)] for name, sum_ in sums.items()]
        return rows

    def _figures(self) -> list[tuple[str, Text]]:
        """Return the columns that groups and total have in common, and how they are written."""
        columns: list[tuple[str, Text]] = [
            ("target", target_text),
            ("actual", lambda entry: f"{entry.sparsity:.2%}"),
            ("zeros", lambda entry: f"{entry.zeros:,}"),
            ("dense", lambda entry: bytes_text(entry.bytes_dense)),
            ("masked", lambda entry: bytes_text(entry.bytes_masked)),
        ]
        # Said only where there is something to say.
        if any(group.zeros_in_data not in (None, group.zeros) for group in self):
            columns.insert(2, ("in data", self._in_data_text))
        if self.total.ever_active is not None:
            columns.append(("ever active", self._ever_active_text))
        total = self.total
        if total.dead_groups or total.dead_rows or total.dead_channels:
            columns.append(("dead", dead_text))
        return columns

    def _in_data_text(self, entry: GroupReport | TotalReport) -> str:
        """Return the share of the elements at hand that are pruned, and zero in the data."""
        if entry.zeros_in_data is None:
            return ""
        return self._share_text(entry, entry.zeros_in_data, lambda group: group.zeros_in_data)

    def _ever_active_text(self, entry: GroupReport | TotalReport) -> str:
        """Return the ITOP rate: the share of the elements that were active at some time."""
        if entry.ever_active is None:
            return ""
        return self._share_text(entry, entry.ever_active, lambda group: group.ever_active)

    def _share_text(
        self,
        entry: GroupReport | TotalReport,
        count: int,
        figure: Callable[[GroupReport], int | None],
    ) -> str:
        """Return the share of a count in the elements of those groups that have the figure."""
        groups: Iterable[GroupReport] = self
        if isinstance(entry, GroupReport):
            groups = [entry]
        for name, pool in self.pools.items():
            if entry is pool:
                groups = [group for group in self if group.pool == name]
        elements = sum(group.elements for group in groups if figure(group) is not None)
        return f"{count / elements if elements else 0.0:.2%}"


Text = Callable[[GroupReport | TotalReport], str]
TEXTS = {"group", "shape", "dtype", "block", "dead"}  # columns; the others are numbers


def target_text(entry: GroupReport | TotalReport) -> str:
    """Return the share that is asked for, of a group by itself or of groups together."""
    in_a_pool = isinstance(entry, GroupReport) and entry.pool is not None
    return "" if entry.target is None or in_a_pool else f"{entry.target:.2%}"


def dead_text(entry: GroupReport | TotalReport) -> str:
    """Return "all", or "3 rows, 1 channel": what has no weight left."""
    if isinstance(entry, GroupReport) and entry.dead:
        return "all"
    counts = {"row": entry.dead_rows, "channel": entry.dead_channels}
    if isinstance(entry, TotalReport):
        counts = {"group": entry.dead_groups, **counts}
    return ", ".join(f"{n:,} {what}{'s' if n > 1 else ''}" for what, n in counts.items() if n)


def block_text(group: GroupReport) -> str:
    """Return "1x4", or "2 of 1x4" where only some elements of a block are zeroed."""
    if group.block is None:
        return ""
    height, width = ("all" if length == -1 else str(length) for length in group.block)
    whole = group.zeros_per_block in (None, group.block_elements)
    return f"{height}x{width}" if whole else f"{group.zeros_per_block} of {height}x{width}"


def bytes_text(count: int | None) -> str:
    """Return a number of bytes in the largest unit of which there is one."""
    if count is None:
        return ""
    if count < 1000:
        return f"{count} B"
    power = min((len(str(count)) - 1) // 3, 4)
    return f"{count / 1000**power:.1f} {'kMGT'[power - 1]}B"


def report_of_group(
    *,
    name: str,
    status: str,
    shape: tuple[int, ...],
    dtype: str | None,
    item_size: int,
    zeros: int,
    zeros_in_data: int | None,
    dead: bool,
    dead_rows: int | None,
    dead_channels: int | None,
    lengths: tuple[int, int] | None,
    ever_active: int | None,
    config: dict[str, Any],
) -> GroupReport:
    """Return the figures of a group: what the core counts, and what follows from it.

    lengths: those of the block in the config, whole axes filled in; None where it has no block.
    """
    elements = math.prod(shape)
    mask_bytes = (elements + 7) // 8
    block = None if lengths is None else config["sparse_block_shape"]
    block_elements = None if lengths is None else math.prod(lengths)
    zeros_per_block = as_integer(config.get("zeros_per_block"))
    target = None if status == "frozen" else as_level(config.get("sparsity_level"))
    if target is not None and block_elements is not None and zeros_per_block is not None:
        target *= zeros_per_block / block_elements
    return GroupReport(
        name=name,
        status=status,
        shape=shape,
        dtype=dtype,
        block=block,
        block_elements=block_elements,
        zeros_per_block=zeros_per_block,
        target=target,
        sparsity=zeros / elements if elements else 0.0,
        elements=elements,
        zeros=zeros,
        zeros_in_data=zeros_in_data,
        dead=dead,
        dead_rows=dead_rows,
        dead_channels=dead_channels,
        bytes_dense=None if dtype is None else elements * item_size,
        bytes_masked=None if dtype is None else (elements - zeros) * item_size + mask_bytes,
        pool=as_name(config.get("pool")),
        ever_active=ever_active,
    )


# A subclass may use the same keys for something else: such values are left out.


def as_integer(value: object) -> int | None:
    """Return the value if it is a count."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    return None


def as_level(value: object) -> float | None:
    """Return the value if it is a share."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    return None


def as_name(value: object) -> str | None:
    """Return the value if it is a text."""
    return value if isinstance(value, str) else None


def total_of(groups: Iterable[GroupReport]) -> TotalReport:
    """Return the sums over groups, and their means by elements."""
    groups = list(groups)
    elements = sum(group.elements for group in groups)
    zeros = sum(group.zeros for group in groups)
    aimed = [(g.target, g.elements) for g in groups if g.target is not None and g.elements]
    tried = [group.ever_active for group in groups if group.ever_active is not None]
    return TotalReport(
        target=sum(t * n for t, n in aimed) / sum(n for _, n in aimed) if aimed else None,
        sparsity=zeros / elements if elements else 0.0,
        elements=elements,
        zeros=zeros,
        zeros_in_data=sum(group.zeros_in_data or 0 for group in groups),
        dead_groups=sum(group.dead for group in groups),
        dead_rows=sum(group.dead_rows or 0 for group in groups),
        dead_channels=sum(group.dead_channels or 0 for group in groups),
        bytes_dense=sum(group.bytes_dense or 0 for group in groups),
        bytes_masked=sum(group.bytes_masked or 0 for group in groups),
        ever_active=sum(tried) if tried else None,
    )
