"""Recipes: what they say, what they make, and what is wrong with those that are."""

import copy
import pickle
import re
import sys
from pathlib import Path

import datasparse
import fuzz_recipes
import numpy as np
import pytest
from datasparse import DataNormSparsifier, DataScheduler, recipes, scores
from datasparse.files.pools import HOW_MANY
from datasparse.recipes import RecipeError, loads
from datasparse.recipes.reading import KEYS, REGROWTH_KEYS, may_be_none
from datasparse.recipes.resolving import INTEGERS
from datasparse.regrowth import SET, RigL, Static
from datasparse.schedules import Constant, Cosine, Lambda, Linear, Polynomial

STUB = Path(datasparse.__file__).with_name("_core.pyi").read_text()

WHOLE = """
version = 1
score = { name = "Taylor", decay = 0.9 }

[defaults]
sparsity_level = 0.75
sparse_block_shape = [1, 2]

[[groups]]
include = ["a*", "b"]
exclude = "a3"
sparsity_level = 0.5
pool = "front"

[[groups]]  # all that is left
norm = "L2"

[schedule]
sparsity_level = "Polynomial(end=10)"
"""


def data(*names, shape=(4, 8)):
    random = np.random.default_rng(3)
    return {name: random.normal(size=shape).astype(np.float32) for name in names}


def test_a_group_is_of_the_first_entry_that_takes_it():
    sparsifier = loads(WHOLE).sparsifier(data("a1", "a3", "b", "c"))
    assert sparsifier.score == scores.Taylor(decay=0.9)
    front = {"sparsity_level": 0.5, "sparse_block_shape": (1, 2), "zeros_per_block": 2}
    front |= {"norm": "L1", "pool": "front"}
    rest = front | {"sparsity_level": 0.75, "norm": "L2"}
    del rest["pool"]
    assert sparsifier.data_groups == {"a1": front, "a3": rest, "b": front, "c": rest}
    assert sparsifier.defaults["sparsity_level"] == 0.75


def test_schedules_are_parsed_and_go_to_each_groups_own_level():
    recipe = loads(WHOLE)
    sparsifier = recipe.sparsifier(data("a1", "a3", "b"))
    (scheduler,) = recipe.schedulers(sparsifier)
    assert type(scheduler) is DataScheduler
    assert scheduler.schedule == Polynomial(end=10)
    sparsifier.enable_mask_update = False
    sparsifier.step()
    for _ in range(10):
        scheduler.step()
    levels = {name: config["sparsity_level"] for name, config in sparsifier.data_groups.items()}
    assert levels == {"a1": 0.5, "a3": 0.75, "b": 0.5}


def test_schedules_of_globs():
    text = 'version = 1\n[schedule.sparsity_level]\n"a*" = "Linear(end=4)"\nb = "Constant(0.25)"\n'
    recipe = loads(text)
    sparsifier = recipe.sparsifier(data("a1", "b", "c"))
    recipe.schedulers(sparsifier)
    levels = {name: config["sparsity_level"] for name, config in sparsifier.data_groups.items()}
    assert levels == {"a1": 0.0, "b": 0.25, "c": 0.5}
    with pytest.raises(RecipeError, match=r"recipe:4: schedule.sparsity_level.b: matches none"):
        recipe.schedulers(recipe.sparsifier(data("a1")))


def test_regrowth():
    text = 'version = 1\nregrowth = "RigL"\n[defaults]\nsparsity_level = 0.75\nseed = 3\n'
    text += '[schedule]\ndrop_fraction = "Cosine(initial=0.3, final=0.0, end=100)"\n'
    recipe = loads(text)
    sparsifier = recipe.sparsifier(data("a", "b"))
    assert type(sparsifier) is RigL
    assert int(sparsifier.get_mask("a").sum()) == 8  # it was drawn
    (scheduler,) = recipe.schedulers(sparsifier)
    assert scheduler.schedule == Cosine(initial=0.3, final=0.0, end=100)
    assert sparsifier.data_groups["b"]["seed"] == 3


def test_false_is_none():
    text = 'version = 1\n[defaults]\npool = "all"\nnorm = "L2"\n'
    text += '[[groups]]\ninclude = "a"\npool = false\nnorm = false\n[[groups]]\n'
    groups = loads(text).sparsifier(data("a", "b")).data_groups
    assert (groups["a"]["pool"], groups["a"]["norm"]) == (None, None)
    assert (groups["b"]["pool"], groups["b"]["norm"]) == ("all", "L2")


def test_a_pattern_of_zeros_in_a_row():
    sparsifier = loads('version = 1\n[defaults]\npattern = "3:4"\n').sparsifier(data("a"))
    sparsifier.step()
    assert (sparsifier.get_mask("a").reshape(-1, 4).sum(1) == 1).all()


@pytest.mark.parametrize(("level", "columns", "zeros"), [(0.5, 9, 4), (0.25, 8, 2), (0.1, 8, 0)])
def test_per_row_is_so_many_zeros_in_each(level, columns, zeros):
    recipe = loads(f'version = 1\n[defaults]\nsparsity_level = {level}\nper = "row"\n')
    sparsifier = recipe.sparsifier(data("a", shape=(5, columns)))
    sparsifier.step()
    assert set((sparsifier.get_mask("a") == 0).sum(1)) == {zeros}
    config = recipe.config_of("a", (5, columns))
    other = DataNormSparsifier()
    other.add_data("a", sparsifier.get_data("a"), **config)
    other.step()
    np.testing.assert_array_equal(other.get_mask("a"), sparsifier.get_mask("a"))


def test_layouts_and_zeros_that_stay():
    text = 'version = 1\n[defaults]\nkeep_zeros = true\nlayout = "inputs"\n[[groups]]\n'
    text += 'include = "b"\nlayout = [1, 0]\nkeep_zeros = false\nupdate = false\n[[groups]]\n'
    arrays = data("a", shape=(2, 3, 2)) | data("b")
    arrays["a"][0, 0] = 0
    sparsifier = loads(text).sparsifier(arrays)
    assert sparsifier.layout("a") == (0, 2, 1)
    assert sparsifier.layout("b") == (1, 0)
    assert sparsifier.frozen("b")
    sparsifier.data_groups["a"]["sparsity_level"] = 0.0
    sparsifier.step()
    np.testing.assert_array_equal(sparsifier.get_mask("a"), arrays["a"] != 0)


def test_a_distribution_is_for_those_without_a_level_of_their_own():
    text = 'version = 1\ndistribution = { name = "erk", dense = "b" }\n[defaults]\n'
    text += 'sparsity_level = 0.75\n[[groups]]\ninclude = "own"\nsparsity_level = 0.1\n[[groups]]\n'
    recipe = loads(text)
    shapes = {"a": (8, 8), "own": (4, 4), "b": (4, 4), "c": (32, 16)}
    configs = recipe.configs(shapes)
    levels = {name: config["sparsity_level"] for name, config in configs.items()}
    del shapes["own"]
    expected = datasparse.distributions.erk(shapes, 0.75, dense="b")
    assert levels == expected | {"own": 0.1}
    with pytest.raises(RecipeError, match="has to see all shapes together"):
        recipe.config_of("a", (8, 8))
    with pytest.raises(RecipeError, match=r"recipe:2: distribution: level must be in"):
        recipe.configs({"b": (64, 64), "own": (4, 4), "a": (2, 2)})


def test_vectors_are_taken_by_their_very_names_only():
    text = 'version = 1\n[[groups]]\ninclude = ["*", "kept.bias"]\n'
    shapes = {"w": (4, 4), "kept.bias": (4,), "bias": (4,)}
    assert [name for name, one in loads(text).configs(shapes).items() if one] == ["w", "kept.bias"]
    with pytest.raises(RecipeError, match="takes none of the weights: a bias or another vector: b"):
        loads("version = 1\n").configs({"bias": (4,)})


def test_options_of_files_are_plain_data_where_schedules_end():
    recipe = loads(WHOLE.replace("Polynomial(end=10)", "Polynomial(final=0.875, end=10)"))
    configs = recipe.final_configs(
        {"a1": (4, 8), "bias": (3,), "c": (4, 8), "b": (2, 2), "a3": (1, 1)}
    )
    assert configs["bias"] is None
    assert configs["a1"] == {
        "sparsity_level": 0.875,
        "sparse_block_shape": (1, 2),
        "zeros_per_block": None,
        "norm": "L1",
        "pool": "front",
    }
    assert recipe.config_of("a1", (4, 8))["sparsity_level"] == 0.5
    endless = loads('version = 1\n[schedule]\nsparsity_level = "Cyclic(0.1, 0.5, 8)"\n')
    with pytest.raises(RecipeError, match=r"recipe:3: .*sparsity_level: .* has no end"):
        endless.final_configs({"a": (4, 4)})


def test_below_python_3_11_the_parser_is_tomli(monkeypatch):
    tomllib = pytest.importorskip("tomllib")
    monkeypatch.setattr("sys.version_info", (3, 10, 12))
    monkeypatch.setitem(sys.modules, "tomli", tomllib)
    monkeypatch.setitem(sys.modules, "tomllib", None)
    assert loads(WHOLE).groups[0].include == ("a*", "b")


# Each line, and each key, in all the ways that TOML has.
LINES = '''
version = 1
"quoted" = [1, # ] "
  2]
text = """
not.a.key = 1
[not.a.table]
"""
raw = \'\'\'
x = 1\'\'\'
a.b . "c.d" = { e = 1, f = "}" }
[table."with \\u0041"]
key = "a#b" # c
[[array]]
first = [[1], ["]"]]
[array.inner]
x = 1
[[array]]
second = '\\'
'''


def test_lines_of_keys():
    found = recipes.reading.lines_of(LINES)
    keys = {
        ("version",): 2,
        ("quoted",): 3,
        ("text",): 5,
        ("raw",): 9,
        ("a", "b", "c.d"): 11,
        ("table", "with A", "key"): 13,
        ("array", 0, "first"): 15,
        ("array", 0, "inner", "x"): 17,
        ("array", 1, "second"): 19,
    }
    assert {path: found[path] for path in keys} == keys
    assert ("not", "a", "key") not in found
    assert recipes.reading.line_of(("a", "b", "c.d", "e"), found) == 11


# --- recipes as values ----------------------------------------------------------------------------


def test_what_is_written_is_read_as_an_equal_recipe():
    recipe = loads(WHOLE)
    again = loads(recipe.dumps())
    assert again == recipe
    assert copy.deepcopy(recipe) == recipe
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    assert loads("version = 1\n") != recipe


ODD = ["a[0]", "*", "tab\there", 'quote"', "\x7f", "ünï", "a\\b", "x?"]


@pytest.mark.parametrize("kind", [DataNormSparsifier, RigL, SET])
def test_a_sparsifier_as_a_recipe_and_back(kind):
    arrays = data(*ODD, "plain", "frozen") | {"vector": np.ones(5), "cube": np.ones((2, 3, 4))}
    sparsifier = kind(sparsity_level=0.75, sparse_block_shape=(1, 2))
    for name, array in arrays.items():
        own = {} if name == "plain" else {"sparsity_level": 0.5, "pool": "all"}
        if name == "cube":
            own = {"layout": (0, 2, 1), "sparse_block_shape": (1, -1), "sparsity_level": 0.5}
        sparsifier.add_data(name, array, update=name != "frozen", **own)
    schedule = {"plain": Linear(end=8), "*": Constant()}
    scheduler = DataScheduler(sparsifier, "sparsity_level", schedule)
    sparsifier.enable_mask_update = False
    sparsifier.step()
    for _ in range(3):
        scheduler.step()
    recipe = recipes.from_sparsifier(sparsifier, [scheduler])
    again = loads(recipe.dumps())
    assert again == recipe
    made = again.sparsifier(arrays)
    (other,) = again.schedulers(made)
    made.enable_mask_update = False
    made.step()
    for _ in range(3):
        other.step()
    assert type(made) is kind
    assert made.defaults == sparsifier.defaults
    assert made.data_groups == sparsifier.data_groups
    assert list(made.data_groups) == list(sparsifier.data_groups)
    assert other.state_dict() == scheduler.state_dict()
    for name in arrays:
        assert made.layout(name) == sparsifier.layout(name)
        assert made.frozen(name) == sparsifier.frozen(name)
    state, theirs = made.state_dict(), sparsifier.state_dict()
    for name in arrays:  # as written: automatic stays automatic
        assert state["data_groups"][name]["config"] == theirs["data_groups"][name]["config"]


@pytest.mark.parametrize(
    "score",
    [
        scores.Wanda(),
        scores.Taylor(decay=0.5),
        scores.Movement(),
        scores.SynFlow(rounds=3, dtype="float64"),
    ],
)
def test_a_score_as_part_of_a_recipe(score):
    sparsifier = DataNormSparsifier(score=score)
    again = loads(recipes.from_sparsifier(sparsifier).dumps()).sparsifier()
    assert again.score == score
    assert again.defaults == sparsifier.defaults


class Own(DataNormSparsifier):
    pass


def test_what_no_recipe_can_say():
    with pytest.raises(TypeError, match=r"sparsifier must be one that a recipe can name .*got Own"):
        recipes.from_sparsifier(Own())
    sparsifier = DataNormSparsifier(data("a"))
    scheduler = DataScheduler(sparsifier, "sparsity_level", Lambda(lambda step: 0.5))
    with pytest.raises(ValueError, match="schedule must be one that a recipe can say, got Lambda"):
        recipes.from_sparsifier(sparsifier, [scheduler])
    with pytest.raises(ValueError, match="belongs to another sparsifier"):
        recipes.from_sparsifier(DataNormSparsifier(), [scheduler])
    halves = [DataScheduler(sparsifier, "sparsity_level", {"a": Linear(end=end)}) for end in (3, 4)]
    with pytest.raises(ValueError, match="one key each, got two of sparsity_level"):
        recipes.from_sparsifier(sparsifier, halves)
    adaptive = datasparse.AdaptiveDataScheduler(sparsifier, "sparsity_level", Linear(end=3))
    with pytest.raises(TypeError, match="scheduler must be a DataScheduler"):
        recipes.from_sparsifier(sparsifier, [adaptive])
    with pytest.raises(RecipeError, match="valid Unicode"):
        recipes.Recipe(groups=(recipes.Entry(include=("\ud800",)),)).dumps()


def test_the_keys_are_those_of_the_sparsifiers():
    def keywords(kind):
        signature = re.search(rf"class {kind}\(.*?def __init__\((.*?)\) -> None", STUB, re.DOTALL)[
            1
        ]
        return [
            name
            for name in re.findall(r"(\w+):", signature)
            if name not in ("data_list", "score", "own")
        ]

    for kind in (DataNormSparsifier, RigL, SET, Static):
        assert kind.config_keys == tuple(keywords(kind.__name__))
    assert REGROWTH_KEYS == ("drop_fraction", "seed")
    assert INTEGERS == ("zeros_per_block", "min_kept")
    assert set(filter(may_be_none, KEYS)) == {"zeros_per_block", "norm", "pool", "normalize"}
    assert not may_be_none("score")
    which = {"sparse_block_shape", "zeros_per_block", "norm", "monotone"}
    assert sorted({*HOW_MANY, *which}) == sorted(KEYS)


def test_a_plan_says_what_will_be():
    recipe = loads(WHOLE)
    plan = recipe.plan({"a1": (4, 8), "a3": (3, 5), "b": (4, 8), "bias": (4,)})
    front = "sparsity_level=0.5, sparse_block_shape=1x2, pool=front  by the pool, of 32"
    assert str(plan).splitlines() == [
        "weight  shape  config                                                  zeros",
        f"a1      4x8    {front}",
        "a3      3x5    sparsity_level=0.75, sparse_block_shape=1x2, norm=L2    11 to 13 of 15",
        f"b       4x8    {front}",
        "left, a bias or another vector: bias",
        "ranked by Taylor(decay=0.9)",
        "schedule of sparsity_level: Polynomial(initial=0.0, final=None, begin=0, end=10, every=1, "
        "power=3.0)",
        "values and zeros are those of the schedules' ends, where they have any",
        "about 43 to 45 of 79 elements are zero: 55.7%",
    ]
    made = recipe.sparsifier(data("a3", shape=(3, 5)) | data("a1", "b"))
    made.set_gradients({name: np.ones_like(made.get_data(name)) for name in made.data_groups})
    made.step()
    least, most = plan.zeros["a3"]
    assert least <= int((made.get_mask("a3") == 0).sum()) <= most


@pytest.mark.parametrize("seconds", [1, pytest.param(60, marks=pytest.mark.full)])
def test_fuzzed_recipes_are_read_or_refused(seconds):
    tried, read = fuzz_recipes.fuzz(seconds, seed=1)
    assert tried > 100
    assert read > 10
