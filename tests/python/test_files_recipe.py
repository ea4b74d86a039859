"""`--recipe`: a checkpoint is pruned as the recipe would prune the arrays in memory."""

import datasparse
import numpy as np
import pytest
import torch
from datasparse import cli, recipes
from datasparse.files.options import Options
from datasparse.files.prune import plan_prune, prune
from files_support import require_pruned, snapshot, tensor_of, tensors_in, write_checkpoint
from safetensors.torch import save_file
from support import MAY_PRUNE_ALL

pytestmark = MAY_PRUNE_ALL

SHAPES = {"a.weight": (8, 16), "b.weight": (6, 8), "conv": (4, 4, 3, 3), "d.weight": (12, 4),
          "bias": (8,)}  # fmt: skip
MISSPELT = 'exclude = "*weigth*"\n'
WHOLE = """
version = 1
distribution = "erk"
[defaults]
sparsity_level = 0.5
sparse_block_shape = [1, 1]
[[groups]]
include = "a.*"
pattern = "2:4"
[[groups]]
include = "conv"
layout = "inputs"
sparse_block_shape = [1, 4]
sparsity_level = 0.25
[[groups]]
include = ["bias", "b*"]
exclude = "*weigth*"
min_kept = 3
[[groups]]
include = "d.*"
update = false
"""
POOLS = """
version = 1
[defaults]
sparsity_level = 0.3
sparse_block_shape = [1, 1]
pool = "all"
normalize = "l2"
[[groups]]
include = "a.*"
sparsity_level = 0.7
max_level = 0.9
[[groups]]
include = "conv"
pool = "other"
sparse_block_shape = [1, 4]
layout = [0, 2, 3, 1]
[[groups]]
include = "d.*"
pool = false
normalize = false
[[groups]]
min_kept = 5
[schedule.sparsity_level]
"b.*" = "Polynomial(final=0.6, end=10)"
"""


@pytest.fixture
def source(tmp_path, rng):
    tensors = {name: tensor_of(rng, "F32", shape) for name, shape in SHAPES.items()}
    tensors["ids"] = tensor_of(rng, "I64", (4, 4))
    tensors["b.weight"] = tensors["b.weight"].double()
    return write_checkpoint(tmp_path / "s.safetensors", {"": tensors})


@pytest.fixture
def call(source, tmp_path, capsys):
    """Prunes by the recipe of a text, and returns status, target and stderr."""

    def run(text, *options):
        (tmp_path / "r.toml").write_text(text)
        target = tmp_path / "t.safetensors"
        arguments = ["prune", source, target, "--recipe", tmp_path / "r.toml", *options]
        return cli.main(list(map(str, arguments))), target, capsys.readouterr().err

    return run


@pytest.mark.parametrize("text", [WHOLE.replace(MISSPELT, ""), POOLS])
def test_masks_are_those_of_the_recipe_in_memory(text, source, tmp_path, call):
    masks = tmp_path / "masks"
    assert call(text, "--masks", masks) == (0, tmp_path / "t.safetensors", "")
    recipe = recipes.loads(text)
    tensors = tensors_in(source)
    floats = {name: tensors[name] for name in sorted(SHAPES)}
    sparsifier = recipe.sparsifier(floats)
    if recipe.schedules:  # a file is pruned to where they end
        sparsifier.data_groups["b.weight"]["sparsity_level"] = 0.6
    sparsifier.step()
    taken = [name for name in sparsifier.data_groups if name != "d.weight" or "update" not in text]
    expected = {name: sparsifier.get_mask(name) for name in taken}
    require_pruned(source, tmp_path / "t.safetensors", expected)

    loaded = datasparse.DataNormSparsifier()
    for name in taken:
        loaded.add_data(name, tensors[name])
    datasparse.load(masks, loaded)
    for name in taken:
        assert dict(loaded.data_groups[name]) == dict(sparsifier.data_groups[name])
        assert loaded.layout(name) == sparsifier.layout(name)


def test_the_plan_names_what_is_left_and_why(source, tmp_path):
    (tmp_path / "r.toml").write_text(WHOLE.replace(MISSPELT, ""))
    text = plan_prune(source, Options(recipe=str(tmp_path / "r.toml")))
    assert "left, frozen by the recipe: d.weight" in text
    assert "left, of dtype I64: ids" in text
    assert "2 of 1x4" in text


RULE = "version = 1\n[defaults]\nsparsity_level = 0.5\nsparse_block_shape = [1, 1]\n"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (RULE, ["--level=0.5"], "--level and --recipe must not both be given"),
        (RULE, ["--exclude=b*"], "--exclude and --recipe must not both be given"),
        (RULE, ["--layout=memory"], "--layout and --recipe must not both be given"),
        (RULE, ["--pool=all"], "--pool and --recipe must not both be given"),
        (RULE, ["--strict"], "'ids' is of dtype I64"),
        (WHOLE, [], "groups[2].exclude: '*weigth*' matches no weight"),
        (RULE.replace("0.5", "1.5"), [], "sparsity_level"),
        ('regrowth = "RigL"\n' + RULE, [], "regrowth: RigL moves masks in a training"),
        ('score = "Taylor"\n' + RULE, [], "score: Taylor is made in a training"),
        ('score = "Wanda"\n' + RULE, [], "Wanda needs what reaches the inputs: give input_norms"),
        ('score = "Magnitude"\n' + RULE, ["--scores=SCORES"], "and scores both say what is ranked"),
        ('score = "Magnitude"\n' + RULE, ["--input-norms=SCORES"], "both say what is ranked"),
        (RULE + "keep_zeros = true\n", [], "keep_zeros of 'a.weight' is of trainings"),
        (RULE + "update = false\n", [], "takes no tensor but those whose masks are frozen"),
        (RULE + '[schedule]\nsparsity_level = "Cyclic(low=0.1, high=0.9, period=4)"\n', [],
         "has no end, at which a file could be pruned"),
        (RULE + '[[groups]]\ninclude = "a.*"\nzeros_per_block = 3\nsparse_block_shape = [2, 1]\n',
         [], "zeros_per_block"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_file_and_key(text, options, message, call, tmp_path):
    save_file({"a.weight": torch.ones(8, 16)}, tmp_path / "scores.safetensors")
    given = [one.replace("SCORES", str(tmp_path / "scores.safetensors")) for one in options]
    (tmp_path / "r.toml").write_text(text)
    before = snapshot(tmp_path)
    status, target, err = call(text, *given)
    assert (status, target.exists()) == (2, False)
    assert message in err
    assert snapshot(tmp_path) == before


def test_options_beside_a_recipe():
    with pytest.raises(ValueError, match="max_level and recipe must not both be given"):
        Options(recipe="r.toml", max_level=0.5)


def test_wanda_takes_the_norms(source, tmp_path, call, rng):
    inputs = {"a.weight": 16, "b.weight": 8, "conv": 4, "d.weight": 4}
    norms = {name: torch.from_numpy(rng.random(size)).float() for name, size in inputs.items()}
    save_file(norms, tmp_path / "norms.safetensors")
    text = 'score = "Wanda"\n' + RULE + 'per = "row"\nlayout = "inputs"\n'
    text = text.replace("sparse_block_shape = [1, 1]\n", "")
    status, target, err = call(text, "--input-norms", tmp_path / "norms.safetensors")
    assert (status, err) == (0, "")
    options = Options(per_row=True, layout="inputs",
                      input_norms=str(tmp_path / "norms.safetensors"))  # fmt: skip
    prune(source, tmp_path / "other.safetensors", options)
    assert target.read_bytes() == (tmp_path / "other.safetensors").read_bytes()


def test_scores_beside_a_recipe_are_ranked_by_value(tmp_path, call, rng):
    scores = {name: torch.from_numpy(rng.standard_normal(shape)) for name, shape in SHAPES.items()}
    save_file(scores, tmp_path / "scores.safetensors")
    status, target, _ = call(RULE, "--scores", tmp_path / "scores.safetensors")
    assert status == 0
    pruned = tensors_in(target)["a.weight"] == 0
    order = np.argsort(scores["a.weight"].numpy().reshape(-1))
    assert pruned.reshape(-1)[order[:64]].all()


def test_a_recipe_that_has_changed_is_other_work(call, monkeypatch):
    def failing(*_):
        raise OSError(28, "No space left on device", "t")

    with monkeypatch.context() as patch:
        patch.setattr("datasparse.files.prune.Stream", failing)
        assert call(RULE)[0] == 1
    status, _, err = call(RULE.replace("0.5", "0.6"))
    assert status == 2
    assert "holds other work: recipe was" in err
    assert call("# the same\n" + RULE)[0] == 0
