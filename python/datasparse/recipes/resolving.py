"""What a recipe's own words come to for one shape."""

from __future__ import annotations

import math
from typing import Any

from .._core import DataNormSparsifier

Shape = tuple[int, ...]
LEVEL = "sparsity_level"
# Config keys whose schedules are rounded.
INTEGERS = tuple(filter(DataNormSparsifier().is_integer_param, DataNormSparsifier.config_keys))
OWN = ("layout", "keep_zeros", "update", "per")  # beside the config keys


def inputs_last(shape: Shape) -> Shape | None:
    """The axes of a weight of outputs x inputs x places, with inputs last; None as they are."""
    return (0, *range(2, len(shape)), 1) if len(shape) > 2 else None


def axes_of(layout: Any, shape: Shape) -> Shape | None:
    """The order of axes that a `layout` stands for, where no module says what they mean."""
    if layout == "inputs":
        return inputs_last(shape)
    return None if layout in (None, "memory") else tuple(layout)


def in_layout(config: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """The arguments of add_data(): a config whose layout is axes."""
    options = dict(config)
    axes = axes_of(options.pop("layout", None), shape)
    return options if axes is None else options | {"layout": axes}


def require_axes(layout: Any, shape: Shape) -> None:
    """ValueError for axes that are not those of a shape."""
    if isinstance(layout, tuple) and len(layout) != len(shape):
        raise ValueError(f"layout must name each of {len(shape)} axes once, got {layout}")


def rows_and_columns(layout: Any, shape: Shape) -> tuple[int, int]:
    """The matrix that blocks are cut from: the first axis of the layout, by all others."""
    axes = axes_of(layout, shape)
    if len(shape) < 2:
        return 1, math.prod(shape)
    first = axes[0] if axes else 0
    return shape[first], math.prod(shape[:first] + shape[first + 1 :])


def of_whole_axes(config: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """The config keys, with the lengths of a matrix in the place of -1 in the block's shape."""
    own = {key: value for key, value in config.items() if key not in OWN}
    lengths = rows_and_columns(config.get("layout"), shape)
    block = own["sparse_block_shape"]
    return own | {
        "sparse_block_shape": tuple(
            max(1, whole) if length == -1 else length
            for length, whole in zip(block, lengths, strict=True)
        )
    }


def base_of(config: dict[str, Any], key: str, shape: Shape) -> Any:
    """The value that a schedule begins with: the whole block for automatic zeros_per_block."""
    if key == "zeros_per_block" and config[key] is None:
        return math.prod(of_whole_axes(config, shape)["sparse_block_shape"])
    return config[key]


def per_row(config: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """What prunes each row to the level: ⌊level * columns⌋ zeros in every one."""
    columns = rows_and_columns(config.get("layout"), shape)[1]
    zeros = int(config[LEVEL] * columns)
    level = 1.0 if zeros else 0.0  # none of a block is not what zeros_per_block can say
    return {LEVEL: level, "sparse_block_shape": (1, -1), "zeros_per_block": zeros or None}
