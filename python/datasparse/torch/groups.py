"""What a sparsifier knows of a name."""

from __future__ import annotations

from collections.abc import Callable

from .._core import BaseDataSparsifier


def is_masked(sparsifier: BaseDataSparsifier, name: str) -> bool:
    """Whether there is such a group, and it has not been squashed."""
    return name in sparsifier.data_groups and not sparsifier.squashed(name)


def step_then(
    step: Callable[[], None], sparsifier: BaseDataSparsifier, then: Callable[[], None]
) -> None:
    """Call what makes new masks, and what is to follow them, also where a warning is an error.

    Such an error comes when the masks have changed. After any other none has: nothing follows.
    """
    count = sparsifier.step_count
    try:
        step()
    finally:
        if sparsifier.step_count > count:
            then()
