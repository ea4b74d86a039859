"""What a sparsifier knows of a name."""

from __future__ import annotations

from .._core import BaseDataSparsifier


def is_masked(sparsifier: BaseDataSparsifier, name: str) -> bool:
    """Whether there is such a group, and it has not been squashed."""
    return name in sparsifier.data_groups and not sparsifier.squashed(name)
