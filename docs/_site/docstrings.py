"""From the docstrings of this package, which are plain text, to reStructuredText.

A docstring is paragraphs, blocks of code that are indented, doctests, and lines of arguments:

    name: what it is.
        More of it.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import groupby

ENTRY = re.compile(r"([A-Za-z_]\w*(?:, [A-Za-z_]\w*)*): (.*)")
LIST = re.compile(r"(?:[-*]|\d+[.]) ")
# How a docstring names a page of the site.
PAGE = re.compile(r"docs/([\w-]+)\.md")
# What some docstrings have below their first sentence, for help().
SIGNATURE = re.compile(r"\w+\(.*\)")
# What napoleon reads. It has the same entries, indented, below such a line.
SECTION = re.compile(r"(?:Args|Raises|Returns|Yields):$")


def escaped(text: str) -> str:
    """The text outside of backticks, without what reStructuredText would take for markup."""
    parts = re.split(r"(`+[^`]*`+)", text)
    parts[::2] = [re.sub(r"([\\*|])|_(?=\W|$)", r"\\\g<0>", part) for part in parts[::2]]
    return PAGE.sub(r":doc:`/\1`", "".join(parts))


def indent_of(line: str) -> int:
    return len(line) - len(line.lstrip())


def blocks_of(lines: Iterable[str]) -> Iterator[list[str]]:
    """What lies between empty lines."""
    for filled, group in groupby(lines, key=lambda line: bool(line.strip())):
        if filled:
            yield list(group)


def to_definitions(block: list[str]) -> list[str] | None:
    """A block of arguments, as a list of definitions. None where it is something else."""
    starts = [line for line in block if indent_of(line) == 0]
    if not starts or not all(ENTRY.fullmatch(line) for line in starts):
        return None
    result = []
    for line in block:
        if indent_of(line) == 0 and (entry := ENTRY.fullmatch(line)):
            names = ", ".join(f"``{name}``" for name in entry[1].split(", "))
            result += [names, f"    {escaped(entry[2])}"]
        else:
            result.append(f"    {escaped(line.strip())}")
    return result


def to_rst(lines: list[str]) -> list[str]:
    """The same docstring in reStructuredText."""
    result: list[str] = []
    in_code = False
    for block in blocks_of(lines):
        in_code_before, in_code = in_code, False
        if block[0].lstrip().startswith(">>>"):
            result += block
        elif indent_of(block[0]) >= 4:
            result += block if in_code_before else ["::", "", *block]
            in_code = True
        elif SECTION.match(block[0]):
            result += [block[0], *map(escaped, block[1:])]
        elif LIST.match(block[0]):
            marks = [LIST.match(line) for line in block]
            begins = [mark.end() if mark else 0 for mark in marks]
            result += [
                line[:begin] + escaped(line[begin:])
                for line, begin in zip(block, begins, strict=True)
            ]
        elif len(block) == 1 and SIGNATURE.fullmatch(block[0]):
            continue
        else:
            # The first one is a sentence, also where a colon is in it.
            definitions = to_definitions(block) if result else None
            result += definitions or [escaped(line) for line in block]
        result.append("")
    return result


def convert(app, what, name, it, options, lines):
    lines[:] = to_rst(lines)


def setup(app):
    # Before napoleon, whose priority is 500.
    app.connect("autodoc-process-docstring", convert, priority=400)
    return {"parallel_read_safe": True}
