"""Where the keys of a TOML text stand: the parser of the standard library does not tell."""

from __future__ import annotations

import re

from .errors import Path

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
# What a value is made of: strings in their four kinds, comments, brackets, ends of lines.
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|'
    r"'''.*?'{3,5}|"
    r'"(?:\\.|[^"\\\n])*"|'
    r"'[^'\n]*'",
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))")
_ESCAPED = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r"}


def lines_of(text: str) -> dict[Path, int]:
    """The line, from 1, of each key and table of a text that the parser has taken.

    Keys within inline tables stand where the table does. What the scanner does not understand
    ends it: then the keys behind have no line. Linear in the text.
    """
    text = text.replace("\r\n", "\n")
    found: dict[Path, int] = {}
    counts: dict[Path, int] = {}  # the tables of each array of tables
    table: Path = ()
    at, line, counted = 0, 1, 0
    while True:
        at = _end(_BLANK, text, at)
        line, counted = line + text.count("\n", counted, at), at
        if at >= len(text):
            return found
        opened = 2 if text.startswith("[[", at) else 1 if text[at] == "[" else 0
        parsed = _key(text, at + opened)
        if parsed is None:
            return found
        keys, at = parsed
        if opened:
            table = _in_arrays(keys[:-1], counts) + keys[-1:]
            if opened == 2:
                counts[table] = counts.get(table, 0) + 1
                found.setdefault(table, line)
            table = _in_arrays(keys, counts)
            found.setdefault(table, line)
            at += opened
        else:
            for depth in range(1, len(keys) + 1):
                found.setdefault(table + keys[:depth], line)
            at = _end_of_value(text, at + 1)


def line_of(path: Path, lines: dict[Path, int]) -> int | None:
    """The line of a key, or else of the table that it is in."""
    for depth in range(len(path), 0, -1):
        if path[:depth] in lines:
            return lines[path[:depth]]
    return None


def _key(text: str, at: int) -> tuple[tuple[str, ...], int] | None:
    """A dotted key, and where it ends: at what comes after it, blanks aside."""
    parts: list[str] = []
    while True:
        at = _end(_SPACE, text, at)
        quoted = _STRING.match(text, at)
        bare = _BARE.match(text, at)
        if quoted is not None:
            inner = quoted[0][1:-1]
            parts.append(_ESCAPE.sub(_unescaped, inner) if text[at] == '"' else inner)
            at = quoted.end()
        elif bare is not None:
            parts.append(bare[0])
            at = bare.end()
        else:
            return None
        at = _end(_SPACE, text, at)
        if not text.startswith(".", at):
            return tuple(parts), at
        at += 1


def _unescaped(match: re.Match[str]) -> str:
    digits = match[1] or match[2]
    return chr(int(digits, 16)) if digits else _ESCAPED.get(match[3], match[3])


def _in_arrays(keys: Path, counts: dict[Path, int]) -> Path:
    """The path of a table within the last ones of the arrays of tables on its way."""
    path: Path = ()
    for key in keys:
        path += (key,)
        if path in counts:
            path += (counts[path] - 1,)
    return path


def _end_of_value(text: str, at: int) -> int:
    """Where the line ends in which a value ends."""
    depth = 0
    while at < len(text):
        character = text[at]
        if character in "\"'":
            string = _STRING.match(text, at)
            at = at + 1 if string is None else string.end()
            continue
        if character == "#":
            at = text.find("\n", at)
            if at < 0:
                return len(text)
            continue
        if character == "\n" and depth == 0:
            return at
        depth += (character in "[{") - (character in "]}")
        at += 1
    return at


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return at if match is None else match.end()
