"""Feeds mutated recipes to recipes.loads(): it must read them or refuse them, and no more.

    python tests/python/fuzz_recipes.py [CPU SECONDS [SEED]]

Fails on any exception but RecipeError, on a line that the text has not, and on a recipe that is not
read again as an equal one from what dumps() writes, or whose configs make no sparsifier.
"""

import contextlib
import random
import sys
import time

import numpy as np
from datasparse.recipes import Recipe, RecipeError, loads

CORPUS = [
    'version = 1\n',
    'version = 1\nscore = "Wanda"\n[defaults]\nsparsity_level = 0.5\nper = "row"\n',
    'version = 1\nregrowth = "RigL"\n[defaults]\nseed = 3\ndrop_fraction = 0.25\n'
    '[schedule]\ndrop_fraction = "Cosine(initial=0.3, final=0.0, end=100)"\n',
    'version = 1\nscore = { name = "Taylor", decay = 0.9 }\n[defaults]\npattern = "2:4"\n'
    '[[groups]]\ninclude = ["a*", "b"]\nexclude = "a3"\nnorm = "L2"\n[[groups]]\npool = false\n',
    'version = 1\n[distribution]\nname = "erk"\npower = 0.5\ndense = ["a*"]\n[defaults]\n'
    'sparsity_level = 0.9\nsparse_block_shape = [1, 4]\nzeros_per_block = 4\nlayout = [1, 0]\n',
    'version = 1\n[defaults]\npool = "all"\nmin_level = 0.1\nmax_level = 0.95\nmonotone = true\n'
    'min_kept = 1\nnormalize = "l2"\nkeep_zeros = true\nupdate = false\nlayout = "inputs"\n',
    'version = 1\n[schedule]\nsparsity_level = "Polynomial(final=0.9, end=1000, every=100)"\n',
    'version = 1\n[schedule.sparsity_level]\n"a*" = "Linear(end=4)"\nb = "Constant(0.25)"\n',
    'version = 1\n[schedule]\nzeros_per_block = "Round(Linear(final=3.0, end=9))"\n'
    '[defaults]\nzeros_per_block = 1\n',
]  # fmt: skip
PIECES = [*"[]{}=.,\"'#\n -+_:*?", '"""', "'''", "[[groups]]\n", "[schedule]\n", "version = 1\n"]
PIECES += ["false", "true", "nan", "inf", "-1", "1e400", "9" * 30, "0.1", "1979-05-27", "07:32:00"]
PIECES += ["[" * 40, "é", "\\u0041", "\\", "\r\n", "\t", "\0", "'row'", '"2:4"', "a = 1\n"]
SHAPES = {"a1": (4, 8), "a3": (3, 5), "b": (8,), "c.weight": (2, 3, 2), "d": (0, 4)}
MOST_KEPT = 2000


def mutated(rng: random.Random, corpus: list[str]) -> str:
    text = rng.choice(corpus)
    for _ in range(rng.randint(1, 4)):
        other = rng.choice(corpus)
        if rng.random() < 0.4:  # lines of another
            lines, more = text.splitlines(True), other.splitlines(True)
            at = rng.randint(0, len(lines))
            lines[at : at + rng.randint(0, 2)] = rng.sample(more, min(len(more), rng.randint(0, 2)))
            text = "".join(lines)
            continue
        begin = rng.randint(0, len(text))
        end = min(len(text), begin + rng.choice([0, 0, 1, 2, 5, 20]))
        filling = rng.choice(["", rng.choice(PIECES), text[begin:end] * 2])
        text = text[:begin] + filling + text[end:]
    return text


def check(text: str) -> bool:
    """Whether the text was read."""
    try:
        recipe = loads(text)
    except RecipeError as error:
        line = error.line or 1
    else:
        require_whole(recipe)
        return True
    assert 1 <= line <= text.count("\n") + 1
    return False


def require_whole(recipe: Recipe) -> None:
    """What is read can be written, planned and used, or is refused in words."""
    assert loads(recipe.dumps()) == recipe
    try:
        configs = recipe.configs(SHAPES)
        str(recipe.plan(SHAPES))
    except RecipeError:
        return
    arrays = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
    sparsifier = recipe.sparsifier(arrays)
    taken = [name for name, config in configs.items() if config is not None]
    assert list(sparsifier.data_groups) == taken
    with contextlib.suppress(RecipeError):
        recipe.schedulers(sparsifier)


def fuzz(seconds: float, seed: int) -> tuple[int, int]:
    """The number of texts tried, and of those that were read."""
    rng = random.Random(seed)
    corpus = list(CORPUS)
    for text in corpus:
        assert check(text), text
    tried = read = 0
    end = time.process_time() + seconds
    while time.process_time() < end:
        text = mutated(rng, corpus)
        tried += 1
        try:
            good = check(text)
        except BaseException:
            print(f"recipe: {text!r}, seed {seed}", file=sys.stderr)
            raise
        read += good
        if good and len(text) < 3000:
            corpus.append(text)
            if len(corpus) > MOST_KEPT:
                corpus[rng.randrange(len(corpus))] = corpus.pop()
    return tried, read


if __name__ == "__main__":
    limit = float(sys.argv[1]) if len(sys.argv) > 1 else 900.0
    print("tried {}, read {}".format(*fuzz(limit, int(sys.argv[2]) if len(sys.argv) > 2 else 0)))
