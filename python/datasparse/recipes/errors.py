"""What is wrong with a recipe, and where."""

from __future__ import annotations

from collections.abc import Iterable

from .._core import require_known_keys

Path = tuple[str | int, ...]


class RecipeError(ValueError):
    """A recipe that says what cannot be done.

    file: the name of the file, or None for a text.
    path: the key as it is written, such as "groups[0].sparsity_level"; "" for the whole.
    line: where it stands, from 1; None where the reader cannot tell.
    reason: what is wrong, without these.
    """

    def __init__(
        self, reason: str, path: str = "", line: int | None = None, file: str | None = None
    ) -> None:
        self.reason, self.path, self.line, self.file = reason, path, line, file
        where = "".join(
            [
                file or "recipe",
                "" if line is None else f":{line}",
                ": ",
                f"{path}: " if path else "",
            ]
        )
        super().__init__(where + reason)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.reason, self.path, self.line, self.file)


def shown(path: Path) -> str:
    """A path of keys as text: groups[0].include."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = part.replace("_", "").replace("-", "")
            name = part if bare.isascii() and bare.isalnum() else repr(part)
            text += f".{name}" if text else name
    return text


def unknown(key: str, known: Iterable[str]) -> str | None:
    """What is to be said of a key that is none of those known: the nearest, or all of them."""
    try:
        require_known_keys("", {key: None}, tuple(known))
    except TypeError as error:
        return str(error).replace("unknown config key", "unknown key", 1)
    return None
