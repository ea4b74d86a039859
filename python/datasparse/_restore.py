"""How copies and pickles of sparsifiers and schedulers begin."""

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
