"""How copies and pickles of sparsifiers, schedulers and schedules begin."""

from typing import Any, TypeVar

T = TypeVar("T")


def empty(cls: type[T]) -> T:
    """Return a `cls` whose __init__ has not run, ready for __setstate__.

    Objects that refer to each other, such as a sparsifier that holds its scheduler, need to exist
    before either gets its state.
    """
    restored: Any = cls.__new__(cls)
    restored._construct_empty()
    return restored  # type: ignore[no-any-return]


def recreated(cls: type[T], arguments: dict[str, Any]) -> T:
    """Return `cls(**arguments)`: pickle knows calls with positional arguments only."""
    return cls(**arguments)
