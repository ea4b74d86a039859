"""What is wrong with recipes, and what is said of it: file, line, key, and the nearest known."""

import pickle
import re

import pytest
from datasparse import recipes
from datasparse.recipes import RecipeError, loads

HEAD = "version = 1\n"
WRONG = [
    ("", 'recipe: must begin with "version = 1"'),
    ("version = 2\n", "recipe:1: version: must be 1, got 2"),
    ("version = 1.0\n", "recipe:1: version: must be 1, got 1.0"),
    ("version = 1\n[defaults\n", "recipe: is not TOML: .* line 2"),
    (HEAD + "group = []\n", "recipe:2: group: unknown key 'group'; did you mean 'groups'?"),
    (HEAD + "groups = 3\n", "recipe:2: groups: must be written [[groups]], got 3"),
    (
        HEAD + "[defaults]\nsparsity_levle = 0.5\n",
        "recipe:3: defaults.sparsity_levle: unknown key 'sparsity_levle'; did you mean "
        "'sparsity_level'?",
    ),
    (
        HEAD + "[[groups]]\n[[groups]]\ninclude = 'a'\n\nsparsity_level = 1.5\n",
        "recipe:6: groups[1].sparsity_level: sparsity_level must be in [0, 1], got 1.5",
    ),
    (
        HEAD + "[[groups]]\ninclde = 'a'\n",
        "recipe:3: groups[0].inclde: unknown key 'inclde'; did you mean 'include'?",
    ),
    (
        HEAD + "[[groups]]\ninclude = ['a', 3]\n",
        "recipe:3: groups[0].include: must be a glob or a list of globs, got ['a', 3]",
    ),
    (
        HEAD + "[defaults]\nsparsity_level = '0.5'\n",
        "recipe:3: defaults.sparsity_level: sparsity_level must be a number, got '0.5' (str)",
    ),
    (
        HEAD + "[defaults]\nsparse_block_shape = [1, 2,\n 3]\n",
        "recipe:3: defaults.sparse_block_shape: sparse_block_shape must be a tuple of two "
        "integers, got (1, 2, 3)",
    ),
    (
        HEAD + "[defaults]\nnorm = 'L1'\nzeros_per_block = 9\n",
        "recipe:4: defaults.zeros_per_block: zeros_per_block must be at most 4, the size of a "
        "block of (1, 4), got 9",
    ),
    (
        HEAD + "[defaults]\nmin_level = 0.5\nmax_level = 0.5\n[[groups]]\nsparsity_level = 0.9\n",
        "recipe:5: groups[0]: sparsity_level must be at most max_level, 0.5, got 0.9",
    ),
    (
        HEAD + "[defaults]\ndrop_fraction = 0.5\n",
        "recipe:3: defaults.drop_fraction: unknown key 'drop_fraction'",
    ),
    (HEAD + "[defaults]\nkeep_zeros = 1\n", "recipe:3: defaults.keep_zeros: must be true or false"),
    (
        HEAD + "[defaults]\nlayout = [0, 0]\n",
        'recipe:3: defaults.layout: must be "inputs", "memory" or the order of all axes, '
        "got [0, 0]",
    ),
    (
        HEAD + '[defaults]\npattern = "4:4"\n',
        'defaults.pattern: must be zeros:width, such as "2:4"',
    ),
    (
        HEAD + '[defaults]\npattern = "2:4"\nzeros_per_block = 2\n',
        "recipe:3: defaults.pattern: says all that zeros_per_block would say",
    ),
    (
        HEAD + '[defaults]\nper = "row"\npool = "all"\n',
        'recipe:3: defaults.per: = "row" prunes rows one by one, and goes with no pool',
    ),
    (HEAD + 'score = "Tailor"\n', "recipe:2: score: unknown name 'Tailor'; did you mean 'Taylor'?"),
    (
        HEAD + 'score = { name = "Taylor", decay = 3 }\n',
        "recipe:2: score.decay: decay must be in [0, 1], got 3",
    ),
    (HEAD + "score = { decay = 3 }\n", "recipe:2: score: must be a name, or a table with one"),
    (
        HEAD + '[score]\nname = "Movement"\n[defaults]\nnorm = "L1"\n',
        "recipe:5: defaults.norm: norm must be None with Movement(), whose sign counts",
    ),
    (
        HEAD + 'regrowth = "RiGL"\n',
        "recipe:2: regrowth: unknown name 'RiGL'; did you mean 'RigL'?",
    ),
    (HEAD + 'regrowth = "SET"\nscore = "SNIP"\n', "recipe:3: score: goes with no regrowth"),
    (
        HEAD + 'distribution = { name = "erk", power = -1 }\n',
        "recipe:2: distribution.power: must be a finite number of at least 0, got -1",
    ),
    (
        HEAD + 'distribution = "unifrom"\n',
        "recipe:2: distribution: unknown name 'unifrom'; did you mean 'uniform'?",
    ),
    (
        HEAD + "[schedule]\nsparsity_level = 0.5\n",
        "recipe:3: schedule.sparsity_level: must be a schedule in quotation marks, got 0.5",
    ),
    (
        HEAD + "[schedule]\nsparsity_level = '__import__(\"os\")'\n",
        "recipe:3: schedule.sparsity_level: expression must not hold '\"'",
    ),
    (
        HEAD + "[schedule.sparsity_level]\n'a.*' = 'Linear(final=1.5, end=9)'\n",
        "recipe:3: schedule.sparsity_level.'a.*': sparsity_level must be in [0, 1], got 1.5",
    ),
    (
        HEAD + "[schedule]\nnorm = 'Constant()'\n",
        "recipe:3: schedule.norm: unknown key 'norm'; known: 'sparsity_level'",
    ),
    (
        HEAD + "[schedule]\nmax_level = 'Constant(0.5)'\n",
        "recipe:3: schedule.max_level: needs a value of max_level in [defaults]",
    ),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_said_with_its_place(text, message):
    with pytest.raises(RecipeError) as caught:
        loads(text)
    said = str(caught.value)
    assert said.startswith(message) or message in said or re.match(message, said), said
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (str(copied), copied.line, copied.path) == (said, caught.value.line, caught.value.path)


def test_a_file_is_named(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("# mine\nversion = 1\n[defaults]\npol = 'a'\n")
    with pytest.raises(RecipeError) as caught:
        recipes.load(path)
    assert str(caught.value).startswith(f"{path}:4: defaults.pol: unknown key 'pol'; did you mean")
    assert (caught.value.file, caught.value.line) == (str(path), 4)
    path.write_bytes(b"version = 1\n\xff")
    with pytest.raises(RecipeError, match=r"mine\.toml: is not UTF-8"):
        recipes.load(path)
    with pytest.raises(FileNotFoundError):
        recipes.load(tmp_path / "none")


@pytest.mark.parametrize("text", ["[" * 5000, "a = " + "[" * 5000, "a = " + "{a=" * 5000])
def test_what_nests_without_end_is_refused(text):
    with pytest.raises(RecipeError, match="is not TOML"):
        loads(text)


def test_a_text_without_end_is_refused():
    with pytest.raises(RecipeError, match="must have at most 1,000,000 characters"):
        loads(HEAD + "#" * 1_000_000)


BEHIND = "takes no weight: 'a.w' is taken by groups[0]"
USELESS = {  # two entries of [[groups]], of which the second, or a glob of it, is in vain
    "behind a wider one": ("include = '*.w'", "include = 'a.*'", ".include: 'a.*' " + BEHIND),
    "behind all": ("sparsity_level = 0.5", "include = ['a.w']", ".include: 'a.w' " + BEHIND),
    "all, behind others": ("include = '*'", "sparsity_level = 0.5", ": '*' " + BEHIND),
    "one of two": ("include = '*.w'", "include = ['a.w', 'a.b']", ".include: 'a.w' " + BEHIND),
    "vectors alone": (
        "include = 'a.w'",
        "include = ['b.w', '*.b']",
        ".include: '*.b' takes no weight: 'a.b' is a bias or another vector, which is taken by its",
    ),
    "vectors, and behind": ("include = 'a.w'", "include = 'a.*'", ".include: 'a.*' " + BEHIND),
}
USEFUL = {
    "a vector's name": ("include = 'a.w'", "include = ['b.w', 'a.b']"),
    "both globs of one weight": ("include = ['a.*', '*.w']", "include = 'a.b'"),
    "what is excluded": ("include = ['a.*', 'b.*']\nexclude = 'b.*'", "sparsity_level = 0.5"),
}


@pytest.mark.parametrize(("one", "other", "message"), USELESS.values(), ids=USELESS)
def test_an_entry_that_takes_nothing_is_refused(one, other, message):
    recipe = loads(HEAD + f"[[groups]]\n{one}\n[[groups]]\n{other}\n")
    with pytest.raises(RecipeError, match=re.escape("groups[1]" + message)):
        recipe.configs({"a.w": (4, 4), "a.b": (4,), "b.w": (4, 4)})


@pytest.mark.parametrize(("one", "other"), USEFUL.values(), ids=USEFUL)
def test_a_glob_by_which_a_weight_is_taken_or_left_is_none_too_many(one, other):
    recipe = loads(HEAD + f"[[groups]]\n{one}\n[[groups]]\n{other}\n")
    assert len(recipe.configs({"a.w": (4, 4), "a.b": (4,), "b.w": (4, 4)})) >= 2


def test_what_does_not_match_or_fit_names_is_refused():
    recipe = loads(
        HEAD + "[[groups]]\ninclude = 'head.*'\n[[groups]]\nzeros_per_block = 8\n"
        "sparse_block_shape = [1, -1]\n"
    )
    with pytest.raises(
        RecipeError, match=r"recipe:3: groups\[0\].include: 'head.\*' matches no weight"
    ):
        recipe.configs({"haed.w": (4, 4)})
    assert recipe.config_of("haed.w", (4, 8)) is not None
    with pytest.raises(
        RecipeError, match=r"recipe:4: groups\[1\]: does not fit 'b' of shape \(4, 6\)"
    ):
        recipe.configs({"head.w": (4, 4), "b": (4, 6)})
    axes = loads(HEAD + "[defaults]\nlayout = [1, 0]\n")
    with pytest.raises(RecipeError, match="layout must name each of 3 axes once"):
        axes.configs({"a": (2, 3, 4)})
    moved = loads(HEAD + "[defaults]\nper = 'row'\n[schedule]\nsparsity_level = 'Linear(end=9)'\n")
    with pytest.raises(
        RecipeError, match=r"recipe:5: schedule.sparsity_level: moves 'a', which has per"
    ):
        moved.configs({"a": (4, 4)})
