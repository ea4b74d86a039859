"""Feeds mutated expressions to schedules.parse(): it must parse them or refuse them, and no more.

    python tests/python/fuzz_schedules.py [CPU SECONDS [SEED]]

Begins with the expressions in schedule_expressions.txt, good and bad, one a line, and keeps
whatever mutation is parsed. Fails on any exception but TypeError and ValueError, and on a schedule
whose repr is not parsed into an equal one, or which cannot be evaluated.
"""

import random
import sys
import time
import warnings
from pathlib import Path

from datasparse.schedules import Schedule, parse

CORPUS = Path(__file__).with_name("schedule_expressions.txt")
PIECES = [*"()[]{},:=-. \t\n'\"*+_~@0", "9" * 25, "[" * 30, "Round(", "Constant()"]
PIECES += ["None", "True", "lambda", "Lambda", "1e308", "1e-320", "-0.0", "0x1", "1_0", "1j"]
PIECES += ["final=", "**", "\0", "é", "\ud800"]
MOST_KEPT = 5000


def mutated(rng: random.Random, corpus: list[str]) -> str:
    text = rng.choice(corpus)
    for _ in range(rng.randint(1, 4)):
        begin = rng.randint(0, len(text))
        end = min(len(text), begin + rng.choice([0, 0, 1, 2, 5, 20]))
        other = rng.choice(corpus)
        cut = rng.randint(0, len(other))
        filling = rng.choice(
            ["", rng.choice(PIECES), text[begin:end] * 2, other, other[cut : cut + 30]]
        )
        text = text[:begin] + filling + text[end:]
    return text


def check(text: str) -> bool:
    """Whether the text was parsed."""
    try:
        schedule = parse(text)
    except (TypeError, ValueError):
        return False
    assert isinstance(schedule, Schedule)
    assert parse(repr(schedule)) == schedule
    for step in (0, 1, 7, 1000, 2**63 - 1):
        assert isinstance(schedule(step, 0.5), float)
    return True


def refuse_warning(message: object, *_: object, **__: object) -> None:
    raise AssertionError(message)


def fuzz(seconds: float, seed: int) -> tuple[int, int]:
    """The number of expressions tried, and of those that were parsed."""
    rng = random.Random(seed)
    corpus = CORPUS.read_text().splitlines()
    for text in corpus:
        check(text)
    tried = parsed = 0
    with warnings.catch_warnings():
        # Python's parser must not warn either: it would do so of lines that are not the user's.
        warnings.simplefilter("always")
        warnings.showwarning = refuse_warning
        end = time.process_time() + seconds
        while time.process_time() < end:
            text = mutated(rng, corpus)
            tried += 1
            try:
                good = check(text)
            except BaseException:
                print(f"expression: {text!r}, seed {seed}", file=sys.stderr)
                raise
            parsed += good
            if good and len(text) < 2000:
                corpus.append(text)
                if len(corpus) > MOST_KEPT:
                    corpus[rng.randrange(len(corpus))] = corpus.pop()
    return tried, parsed


if __name__ == "__main__":
    limit = float(sys.argv[1]) if len(sys.argv) > 1 else 900.0
    print("tried {}, parsed {}".format(*fuzz(limit, int(sys.argv[2]) if len(sys.argv) > 2 else 0)))
