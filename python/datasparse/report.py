"""What a sparsifier's masks are: `sparsifier.report()` makes a `Report`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol


class ScalarWriter(Protocol):
    """What `Report.write` needs: `torch.utils.tensorboard.SummaryWriter` has it."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int, /) -> object:
        """Record one number under a tag."""


@dataclass(frozen=True)
class GroupReport:
    """The figures of one group, counted from its mask as it was at the time.

    status: "active"; "squashed"; or "awaiting data", for a state that was loaded without any.
    dtype, bytes_dense, bytes_masked: None where the group holds no data.
    block, zeros_per_block: of the config, where it has such keys. -1 is a whole axis.
    target: the share of zeros that the config asks for: sparsity_level, times zeros_per_block over
        the size of a block. None for a config without a sparsity_level.
    sparsity: the share of zeros that there is; 0 for an empty tensor.
    bytes_masked: what the values that are kept take, and one bit per element for the mask.
    """

    name: str
    status: str
    shape: tuple[int, ...]
    dtype: str | None
    block: tuple[int, int] | None
    zeros_per_block: int | None
    target: float | None
    sparsity: float
    elements: int
    zeros: int
    bytes_dense: int | None
    bytes_masked: int | None


@dataclass(frozen=True)
class TotalReport:
    """The figures of all groups together.

    target: by elements, over the groups that have one; None if none has.
    bytes_dense, bytes_masked: of the groups that hold data.
    """

    target: float | None
    sparsity: float
    elements: int
    zeros: int
    bytes_dense: int
    bytes_masked: int


class Report:
    """The groups of a sparsifier and their totals, as they were when `report()` was called.

    It prints as a table, is rendered as one in notebooks, and iterates over its groups.
    """

    def __init__(self, groups: Iterable[GroupReport]) -> None:
        self.groups = {group.name: group for group in groups}
        self.total = total_of(self.groups.values())

    def __getitem__(self, name: str) -> GroupReport:
        return self.groups[name]

    def __iter__(self) -> Iterator[GroupReport]:
        return iter(self.groups.values())

    def __len__(self) -> int:
        return len(self.groups)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data: `{"groups": {name: {...}}, "total": {...}}`."""
        groups = {name: asdict(group) for name, group in self.groups.items()}
        for group in groups.values():
            del group["name"]
        return {"groups": groups, "total": asdict(self.total)}

    def write(self, writer: ScalarWriter, step: int, prefix: str = "sparsity") -> None:
        """Write actual sparsities, and targets where there are some, by `add_scalar`.

        The tags are `prefix/name`, `prefix_target/name`, and `total` for a name; a group of that
        name keeps it, and the total is left out.
        """
        entries: list[tuple[str, GroupReport | TotalReport]] = list(self.groups.items())
        if "total" not in self.groups:
            entries.append(("total", self.total))
        for name, entry in entries:
            writer.add_scalar(f"{prefix}/{name}", entry.sparsity, step)
            if entry.target is not None:
                writer.add_scalar(f"{prefix}_target/{name}", entry.target, step)

    def __str__(self) -> str:
        table = [HEADINGS, *self._rows()]
        widths = [max(len(row[column]) for row in table) for column in range(len(HEADINGS))]
        lines = [
            "  ".join(
                cell.ljust(width) if column < LEFT_ALIGNED else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in table
        ]
        rule = "-" * max(map(len, lines))
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from html import escape

        def row(cells: list[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        *groups, total = self._rows()
        body = "".join(row(cells, "td") for cells in groups)
        return (
            f"<table><thead>{row(HEADINGS, 'th')}</thead><tbody>{body}</tbody>"
            f"<tfoot>{row(total, 'th')}</tfoot></table>"
        )

    def _rows(self) -> list[list[str]]:
        rows = [
            [
                group.name if group.status == "active" else f"{group.name} ({group.status})",
                str(group.shape),
                group.dtype or "",
                block_text(group),
                *figures(group),
            ]
            for group in self
        ]
        return [*rows, ["total", "", "", "", *figures(self.total)]]


HEADINGS = ["group", "shape", "dtype", "block", "target", "actual", "zeros", "dense", "masked"]
LEFT_ALIGNED = 4  # columns of text; the others are numbers


def figures(entry: GroupReport | TotalReport) -> list[str]:
    """Return what group and total have in common, as text."""
    return [
        "" if entry.target is None else f"{entry.target:.2%}",
        f"{entry.sparsity:.2%}",
        f"{entry.zeros:,}",
        bytes_text(entry.bytes_dense),
        bytes_text(entry.bytes_masked),
    ]


def block_text(group: GroupReport) -> str:
    """Return "1x4", or "2 of 1x4" where only some elements of a block are zeroed."""
    if group.block is None:
        return ""
    height, width = ("all" if length == -1 else str(length) for length in group.block)
    whole = group.zeros_per_block in (None, math.prod(resolved(group.block, group.shape)))
    return f"{height}x{width}" if whole else f"{group.zeros_per_block} of {height}x{width}"


def bytes_text(count: int | None) -> str:
    """Return a number of bytes in the largest unit of which there is one."""
    if count is None:
        return ""
    if count < 1000:
        return f"{count} B"
    power = min((len(str(count)) - 1) // 3, 4)
    return f"{count / 1000**power:.1f} {'kMGT'[power - 1]}B"


def resolved(block: tuple[int, int], shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the lengths of a block in a tensor that is seen as rows x columns."""
    rows = shape[0] if len(shape) > 1 else 1
    columns = math.prod(shape[1:]) if len(shape) > 1 else math.prod(shape)
    return (
        max(rows, 1) if block[0] == -1 else block[0],
        max(columns, 1) if block[1] == -1 else block[1],
    )


def report_of_group(
    name: str,
    status: str,
    shape: tuple[int, ...],
    dtype: str | None,
    item_size: int,
    zeros: int,
    config: dict[str, Any],
) -> GroupReport:
    """Return the figures of a group: what the core counts, and what follows from it."""
    elements = math.prod(shape)
    mask_bytes = (elements + 7) // 8
    block = as_block(config.get("sparse_block_shape"))
    zeros_per_block = as_integer(config.get("zeros_per_block"))
    target = as_level(config.get("sparsity_level"))
    if target is not None and block is not None and zeros_per_block is not None:
        target *= zeros_per_block / math.prod(resolved(block, shape))
    return GroupReport(
        name=name,
        status=status,
        shape=shape,
        dtype=dtype,
        block=block,
        zeros_per_block=zeros_per_block,
        target=target,
        sparsity=zeros / elements if elements else 0.0,
        elements=elements,
        zeros=zeros,
        bytes_dense=None if dtype is None else elements * item_size,
        bytes_masked=None if dtype is None else (elements - zeros) * item_size + mask_bytes,
    )


# A subclass may use the same keys for something else: such values are left out.


def as_block(value: object) -> tuple[int, int] | None:
    """Return the value if it is (height, width), each at least 1 or -1."""
    if not isinstance(value, tuple) or len(value) != 2:
        return None
    if not all(isinstance(length, int) and (length >= 1 or length == -1) for length in value):
        return None
    return value


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


def total_of(groups: Iterable[GroupReport]) -> TotalReport:
    """Return the sums over groups, and their means by elements."""
    groups = list(groups)
    elements = sum(group.elements for group in groups)
    zeros = sum(group.zeros for group in groups)
    aimed = [(g.target, g.elements) for g in groups if g.target is not None and g.elements]
    return TotalReport(
        target=sum(t * n for t, n in aimed) / sum(n for _, n in aimed) if aimed else None,
        sparsity=zeros / elements if elements else 0.0,
        elements=elements,
        zeros=zeros,
        bytes_dense=sum(group.bytes_dense or 0 for group in groups),
        bytes_masked=sum(group.bytes_masked or 0 for group in groups),
    )
