"""`datasparse.files.prune`: the masks of a sparsifier in memory, and every other byte as it was."""

import dataclasses
import json
import math
from pathlib import Path

import datasparse
import numpy as np
import pytest
import torch
from datasparse import distributions
from datasparse._norms_file import write_norms
from datasparse.files import pack
from datasparse.files.options import Options
from datasparse.files.prune import plan_prune, prune
from datasparse.torch import attach
from files_support import (
    RankedBy,
    is_taken,
    layout_seen,
    masks_in_memory,
    random_files,
    require_pruned,
    tensor_of,
    tensors_in,
    write_checkpoint,
)
from safetensors.torch import load_file, save_file
from support import MAY_PRUNE_ALL

pytestmark = MAY_PRUNE_ALL


def zeros_per_row(tensor, layout, level):
    rows = tensor.shape[layout[0] if layout else 0]
    return math.floor(level * (tensor.numel() // rows))


def random_rule(rng):
    """Options of the pruning, and the config that says the same in memory."""
    level = float(rng.choice([0, 0.1, 0.29, 0.5, 0.77, 1]))
    kind = rng.choice(["elements", "blocks", "pattern", "row"])
    if kind == "row":
        return {"sparsity_level": level, "per_row": True}
    config = {"sparsity_level": level, "sparse_block_shape": (1, 1)}
    if kind == "blocks":
        config["sparse_block_shape"] = [(1, 4), (2, 3), (4, 4), (1, -1), (-1, 1)][rng.integers(5)]
    elif kind == "pattern":
        config |= {"sparsity_level": 1.0, "sparse_block_shape": (1, 4), "zeros_per_block": 2}
    return config


def check_random_checkpoint(seed, folder):
    rng = np.random.default_rng(seed)
    is_file = rng.integers(3) == 0
    files = random_files(rng, 1 if is_file else None)
    names = ("s.safetensors", "t.safetensors") if is_file else ("s", "t")
    source = write_checkpoint(folder / names[0], files, {"format": "pt", "é": str(seed)})
    target = folder / names[1]
    tensors = tensors_in(source)
    taken = {name: tensor for name, tensor in tensors.items() if is_taken(tensor)}

    rule = random_rule(rng)
    layout = str(rng.choice(["memory", "inputs"]))
    transposed = ("must.0.*",) if rng.integers(2) else ()
    exclude = ("b.*",) if rng.integers(3) == 0 and any(n[0] == "b" for n in tensors) else ()
    taken = {name: tensor for name, tensor in taken.items() if not exclude or name[0] != "b"}
    layouts = {name: layout_seen(tensor, layout, transposed and name.startswith("must.0."))
               for name, tensor in taken.items()}  # fmt: skip

    level = rule["sparsity_level"]
    levels = dict.fromkeys(taken, level)
    distribution = None
    if rng.integers(3) == 0:
        distribution = str(rng.choice(["erk", "uniform"]))
        shapes = {name: tuple(taken[name].shape) for name in sorted(taken)}
        levels = getattr(distributions, distribution)(shapes, level)
    configs = {name: {"sparsity_level": levels[name]} for name in taken}
    if rule.get("per_row"):
        configs = {
            name: {
                "sparsity_level": 1.0,
                "sparse_block_shape": (1, -1),
                "zeros_per_block": zeros_per_row(taken[name], layouts[name], levels[name]),
            }
            for name in taken
        }
    defaults = {key: value for key, value in rule.items() if key != "per_row"}

    by = {}
    sparsifier = datasparse.DataNormSparsifier(**defaults)
    if rng.integers(4) == 0:
        scores = {name: tensor_of(rng, str(rng.choice(["F32", "F16", "BF16", "F64"])),
                                  tuple(taken[name].shape)) for name in taken}  # fmt: skip
        save_file(scores, folder / "scores.safetensors")
        by = {"scores": str(folder / "scores.safetensors")}
        sparsifier = RankedBy(scores, **defaults)
    options = Options(**rule, **by, layout=layout, transposed=transposed, exclude=exclude,
                      distribution=distribution)  # fmt: skip
    expected = masks_in_memory(tensors, taken, sparsifier, layouts, configs)

    done = prune(source, target, options, masks=folder / "masks")
    require_pruned(source, target, expected)
    after = tensors_in(target)
    assert done["tensors"].keys() == taken.keys()
    for name, entry in done["tensors"].items():
        assert entry["zeros"] == int((after[name] == 0).sum())
    assert not (folder / (target.name + ".partial")).exists()

    loaded = datasparse.DataNormSparsifier()
    for name in sorted(taken):
        loaded.add_data(name, tensors[name])
    datasparse.load(folder / "masks", loaded)
    for name, mask in expected.items():
        assert torch.equal(loaded.get_mask(name), mask)
        assert loaded.layout(name) == sparsifier.layout(name)
        config = {**sparsifier.data_groups[name], "norm": "L1"}  # a training ranks magnitudes
        assert dict(loaded.data_groups[name]) == config


@pytest.mark.parametrize("seed", range(40))
def test_masks_are_those_in_memory(seed, tmp_path):
    check_random_checkpoint(seed, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("tens", range(50))
def test_masks_are_those_in_memory_500_times(tens, tmp_path):
    for seed in range(1000 + 10 * tens, 1010 + 10 * tens):
        folder = tmp_path / str(seed)
        folder.mkdir()
        check_random_checkpoint(seed, folder)


def test_after_scores_a_training_goes_on_by_magnitudes(tmp_path):
    weight = torch.tensor([[4.0, -3.0, 2.0, -1.0]])
    save_file({"w": weight}, tmp_path / "s")
    save_file({"w": torch.tensor([[1.0, 2.0, 3.0, 4.0]])}, tmp_path / "scores")
    options = Options(sparsity_level=0.5, scores=str(tmp_path / "scores"))
    prune(tmp_path / "s", tmp_path / "t", options, masks=tmp_path / "masks")
    sparsifier = datasparse.DataNormSparsifier([("w", weight)])
    datasparse.load(tmp_path / "masks", sparsifier)
    assert sparsifier.get_mask("w").tolist() == [[False, False, True, True]]
    sparsifier.step()
    assert sparsifier.get_mask("w").tolist() == [[True, True, False, False]]
    sparsifier.add_data("new", -weight)
    sparsifier.step()
    assert sparsifier.get_mask("new").tolist() == [[True, True, False, False]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("norms_dtype", [torch.float32, torch.bfloat16])
def test_input_norms_are_wandas(dtype, norms_dtype, tmp_path, rng):
    weights = {
        "linear": torch.from_numpy(rng.standard_normal((24, 32))).to(dtype),
        "gpt": torch.from_numpy(rng.standard_normal((32, 24))).to(dtype),
        "conv": torch.from_numpy(rng.standard_normal((8, 6, 3, 3))).to(dtype),
    }
    inputs = {"linear": 32, "gpt": 32, "conv": 6, "more": 3}
    norms = {name: torch.from_numpy(rng.random(size)).to(norms_dtype)
             for name, size in inputs.items()}  # fmt: skip
    source = write_checkpoint(tmp_path / "s.safetensors", {"": weights})
    save_file(norms, tmp_path / "norms.safetensors")

    sparsifier = datasparse.DataNormSparsifier(
        sparsity_level=1.0, sparse_block_shape=(1, 4), zeros_per_block=2,
        score=datasparse.scores.Wanda(),
    )  # fmt: skip
    layouts = {"gpt": (1, 0), "conv": (0, 2, 3, 1), "linear": None}
    shapes = {"linear": (1, 32), "gpt": (32, 1), "conv": (1, 6, 1, 1)}
    for name in sorted(weights):
        sparsifier.add_data(name, weights[name], layout=layouts[name])
        squares = norms[name].double().numpy() ** 2
        sparsifier.set_array(name, "inputs", squares.reshape(shapes[name]))
    sparsifier.step()

    options = Options(
        sparsity_level=1.0, sparse_block_shape=(1, 4), zeros_per_block=2, layout="inputs",
        transposed=("gpt",), input_norms=str(tmp_path / "norms.safetensors"),
    )  # fmt: skip
    prune(source, tmp_path / "t.safetensors", options)
    masks = {name: sparsifier.get_mask(name) for name in weights}
    require_pruned(source, tmp_path / "t.safetensors", masks)


def test_norms_of_a_weight_that_is_stored_by_inputs_need_its_layout(tmp_path):
    """A square weight: its shape does not tell."""
    weight = np.random.default_rng(0).standard_normal((8, 8), np.float32)
    norms = np.arange(8, dtype=np.float32)
    source = write_checkpoint(tmp_path / "s.safetensors", {"": {"w": torch.from_numpy(weight)}})
    write_norms(tmp_path / "norms", {"w": norms}, transposed=["w"])
    by = {"input_norms": str(tmp_path / "norms")}
    with pytest.raises(ValueError, match="'w' are of a weight that is stored as inputs x outputs"):
        prune(source, tmp_path / "t", Options(**by))
    prune(source, tmp_path / "t", Options(**by, transposed=("w",)))
    order = np.argsort(np.abs(weight) * norms[:, None], axis=None)
    kept = tensors_in(tmp_path / "t")["w"].numpy().reshape(-1)[order] != 0
    assert kept.tolist() == [False] * 32 + [True] * 32


def test_a_layout_is_that_of_attach(tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv2d(6, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8, 4))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    source = write_checkpoint(tmp_path / "s.safetensors", {"": state})
    config = {"sparsity_level": 0.5, "sparse_block_shape": (1, 4)}
    sparsifier = datasparse.DataNormSparsifier(**config)
    attachment = attach(model, sparsifier)
    sparsifier.step()
    prune(source, tmp_path / "t.safetensors", Options(**config, layout="inputs"))
    masks = {name: sparsifier.get_mask(name) for name in attachment.names}
    require_pruned(source, tmp_path / "t.safetensors", masks)


@pytest.fixture
def source(tmp_path, rng):
    return write_checkpoint(tmp_path / "s", random_files(rng, 2), {"format": "pt"})


def test_scales_of_quantized_weights_are_left(tmp_path):
    tensors = {
        "l.weight": torch.randn(64, 64).to(torch.float8_e4m3fn),
        "l.weight_scale_inv": torch.rand(2, 2) + 0.1,
        "g.qweight": torch.ones(32, 64, dtype=torch.int32),
        "g.scales": torch.rand(4, 64).half() + 0.1,
        "g.zero": torch.rand(4, 64) + 1,
        "norm.scale_table": torch.randn(8, 8),  # beside nothing that is quantized
    }
    save_file(tensors, tmp_path / "s")
    done = prune(tmp_path / "s", tmp_path / "t", Options(sparsity_level=0.5))
    assert list(done["tensors"]) == ["norm.scale_table"]
    assert done["left"]["g.scales"] == "a scale or a zero point of quantized weights"
    after = load_file(tmp_path / "t")
    for name in ("l.weight_scale_inv", "g.scales", "g.zero"):
        assert torch.equal(after[name], tensors[name])
    options = Options(sparsity_level=0.5, include=("g.scales",))
    assert list(prune(tmp_path / "s", tmp_path / "u", options)["tensors"]) == ["g.scales"]
    options = Options(sparsity_level=0.5, include=("norm.*", "*scales"))
    with pytest.raises(ValueError, match="a scale is included by its very name only"):
        prune(tmp_path / "s", tmp_path / "v", options)


@pytest.mark.parametrize(
    ("include", "taken"), [("*", ["w"]), ("g.scales", ["g.scales"])], ids=["glob", "name"]
)
def test_a_recipe_takes_scales_by_name_alone(include, taken, tmp_path):
    tensors = {"w": torch.randn(8, 8), "g.qweight": torch.ones(32, 64, dtype=torch.int32),
               "g.scales": torch.rand(4, 64) + 0.1}  # fmt: skip
    save_file(tensors, tmp_path / "s")
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        f"version = 1\n[defaults]\nsparsity_level = 0.5\nsparse_block_shape = [1, 1]\n"
        f'[[groups]]\ninclude = "{include}"\n'
    )
    done = prune(tmp_path / "s", tmp_path / "t", Options(recipe=str(recipe)))
    assert list(done["tensors"]) == taken


def test_what_is_packed_is_not_pruned(tmp_path):
    save_file({"w": torch.eye(64), "v": torch.randn(64, 64)}, tmp_path / "s")
    pack(tmp_path / "s", tmp_path / "packed")
    with pytest.raises(ValueError, match="packed is packed: unpack it first"):
        prune(tmp_path / "packed", tmp_path / "t", Options(sparsity_level=0.5))
    options = Options(sparsity_level=0.5, scores=tmp_path / "packed")
    with pytest.raises(ValueError, match="packed is packed: unpack it first"):
        prune(tmp_path / "s", tmp_path / "t", options)
    assert not (tmp_path / "t").exists()


def test_the_same_call_writes_the_same_bytes(source, tmp_path, threads):
    prune(source, tmp_path / "one")
    threads(1)
    prune(source, tmp_path / "two")
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_what_is_left_is_named_with_the_reason(tmp_path, rng):
    tensors = {
        "w": tensor_of(rng, "F32", (4, 4)),
        "out": tensor_of(rng, "F32", (4, 4)),
        "bias": tensor_of(rng, "F32", (4,)),
        "int": tensor_of(rng, "I64", (4, 4)),
        "f8": tensor_of(rng, "F8", (4, 4)),
        "none": tensor_of(rng, "F32", (0, 4)),
    }
    source = write_checkpoint(tmp_path / "s.safetensors", {"": tensors})
    done = prune(source, tmp_path / "t.safetensors", Options(exclude=("out",)))
    assert done["left"] == {
        "out": "excluded",
        "bias": "a scalar or a vector",
        "int": "of dtype I64",
        "f8": "of dtype F8_E4M3",
        "none": "without elements",
    }
    done = prune(source, tmp_path / "u.safetensors", Options(include=("bias",)))
    assert list(done["tensors"]) == ["bias"]
    assert set(done["left"].values()) == {"not included"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"include": ("x*",)}, "'x\\*' matches no tensor; there are bias, f8, w"),
        ({"exclude": ("x*",)}, "'x\\*' matches no tensor"),
        ({"include": ("b*",)}, "'b\\*' matches nothing that it may take: 'bias' is a scalar or"),
        ({"include": ("f8",)}, "'f8' matches nothing that it may take: 'f8' is of dtype F8_E4M3"),
        ({"exclude": ("w",)}, "no tensor is left to be pruned; a scalar or a vector: bias;"),
        ({"strict": True}, "'f8' is of dtype F8_E4M3, which is not pruned: exclude it"),
        ({"transposed": ("b*",)}, "'b\\*' matches no tensor; there are w"),
        ({"transposed": ("bias",), "include": ("bias",)}, "'bias' .* tensor; there are none"),
        ({"zeros_per_block": 2}, "'w': zeros_per_block must"),
    ],
)
def test_options_that_do_not_fit_the_checkpoint(options, message, tmp_path, rng):
    tensors = {
        "w": tensor_of(rng, "F32", (4, 4)),
        "bias": tensor_of(rng, "F32", (4,)),
        "f8": tensor_of(rng, "F8", (4, 4)),
    }
    source = write_checkpoint(tmp_path / "s.safetensors", {"": tensors})
    if "zeros_per_block" in options:
        options |= {"sparse_block_shape": (-1, 1), "zeros_per_block": 5}
    with pytest.raises(ValueError, match=message) as caught:
        prune(source, tmp_path / "t", Options(**options))
    assert str(caught.value).startswith(str(source))
    assert [path.name for path in tmp_path.iterdir()] == ["s.safetensors"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity_level": 1.2}, r"sparsity_level must be in \[0, 1\], got 1.2"),
        ({"sparsity_level": math.nan}, "sparsity_level"),
        ({"sparse_block_shape": (0, 4)}, "sparse_block_shape"),
        ({"zeros_per_block": 2}, "zeros_per_block"),
        ({"layout": "rows"}, "layout must be one of 'memory', 'inputs', got 'rows'"),
        ({"distribution": "ERK"}, "distribution must be one of None, 'erk', 'uniform'"),
        ({"min_level": 0.5}, "there is none: give pool"),
        ({"pool": "all", "min_level": 0.5, "max_level": 0.4}, "min_level"),
        ({"pool": "all", "distribution": "erk"}, "choose one of them"),
        ({"per_row": True, "sparse_block_shape": (1, 4)}, "per_row .* no blocks"),
        ({"per_row": True, "zeros_per_block": 1}, "per_row .* no blocks"),
        ({"per_row": True, "pool": "all"}, "per_row .* no pool"),
        ({"scores": "a", "input_norms": "b"}, "choose one of them"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        Options(**options)


@pytest.mark.parametrize("option", ["scores", "input_norms"])
def test_what_ranks_must_fit(option, tmp_path):
    source = write_checkpoint(tmp_path / "s.safetensors", {"": {"w": torch.ones(4, 6)}})
    shape = (4, 6) if option == "scores" else (6,)
    cases = [
        ({"v": torch.ones(shape)}, "'w' is missing"),
        ({"w": torch.ones(*shape, 2)}, "'w' must be"),
        ({"w": torch.ones(shape, dtype=torch.int64)}, "'w' must be"),
    ]
    if option == "input_norms":
        cases += [({"w": torch.full(shape, bad)}, "must be finite") for bad in (-1.0, math.nan)]
        cases += [({"w": torch.ones(4)}, "one for each of its 6 inputs")]
    for number, (given, message) in enumerate(cases):
        path = tmp_path / f"{number}.safetensors"
        save_file(given, path)
        with pytest.raises(ValueError, match=message) as caught:
            prune(source, tmp_path / "t", Options(**{option: str(path)}))
        assert str(path) in str(caught.value)
    assert not list(tmp_path.glob("t*"))


def test_the_report_is_what_is_returned_and_plain(source, tmp_path):
    done = prune(source, tmp_path / "t", report=tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(done))
    assert done["options"] == dataclasses.asdict(Options())
    assert done["total"]["zeros"] == sum(entry["zeros"] for entry in done["tensors"].values())


def test_progress_ends_where_all_is_written(source, tmp_path):
    seen = []
    prune(source, tmp_path / "t", progress=lambda *told: seen.append(told))
    done, total, _ = seen[-1]
    assert done == total == sum(path.stat().st_size for path in source.glob("*.safetensors"))
    assert [one[0] for one in seen] == sorted(one[0] for one in seen)


def test_a_plan_counts_the_zeros_and_writes_nothing(source, tmp_path):
    before = sorted(tmp_path.iterdir())
    options = Options(per_row=True, sparsity_level=0.3)
    text = plan_prune(source, options)
    assert sorted(tmp_path.iterdir()) == before
    done = prune(source, tmp_path / "t", options, masks=tmp_path / "masks")
    masks = datasparse.DataNormSparsifier()
    for name, entry in done["tensors"].items():
        masks.add_data(name, np.zeros(entry["shape"], np.float32))
        assert f"{entry['config']['zeros_per_block']} of 1xall" in text
    datasparse.load(tmp_path / "masks", masks)
    zeros = sum(int((masks.get_mask(name) == 0).sum()) for name in done["tensors"])
    assert f"zeros: {zeros:,} of {done['total']['elements']:,}" in text


def test_rows_that_m_does_not_divide_are_named(tmp_path):
    shapes = {"whole": (6, 8), "rest": (5, 10), "kernel": (8, 3, 3, 3), "vector": (7,)}
    save_file({name: torch.randn(shape) for name, shape in shapes.items()}, tmp_path / "s.st")
    options = Options(1.0, sparse_block_shape=(1, 4), zeros_per_block=2, include=("*", "vector"))
    done = prune(tmp_path / "s.st", tmp_path / "t.st", options)
    assert done["partial"] == {
        "kernel": "rows of 27 end in a block of 3, which loses 2",
        "rest": "rows of 10 end in a block of 2, which loses 2",
        "vector": "rows of 7 end in a block of 3, which loses 2",
    }
    lines = plan_prune(tmp_path / "s.st", options).splitlines()
    assert "partial, rows of 10 end in a block of 2, which loses 2: rest" in lines
    assert load_file(tmp_path / "t.st")["rest"][:, 8:].eq(0).all()
    for plain in (Options(0.5), Options(1.0, sparse_block_shape=(1, 4))):  # whole blocks are lost
        assert "partial" not in plan_prune(tmp_path / "s.st", plain)


def test_memory_is_what_the_plan_says(tmp_path, run_python, measurable_memory):
    shapes = {"a": (3000, 4000), "b": (500, 300), "c": (2000, 5000)}
    tensors = {name: torch.randn(shape).bfloat16() for name, shape in shapes.items()}
    source = write_checkpoint(tmp_path / "s", {"1.safetensors": tensors})
    printed = run_python(
        "import sys; from pathlib import Path; from datasparse.files import prune, plan, options\n"
        "from contextlib import ExitStack\n"
        "plan.AHEAD = 4 << 20\n"
        "with ExitStack() as stack:\n"
        f"    made = prune.planned(stack, {str(source)!r}, options.Options(), False)\n"
        "    print(made.memory.total)\n"
        f"prune.prune({str(source)!r}, {str(tmp_path / 't')!r})\n"
        "status = Path('/proc/self/status').read_text().splitlines()\n"
        "print(next(line.split()[1] for line in status if line.startswith('VmHWM')))",
        OMP_NUM_THREADS="2",
    )
    promised, most = printed.split()
    assert abs(int(most) * 1024 / int(promised) - 1) < 0.1
    assert int(promised) < sum(tensor.nbytes for tensor in tensors.values()) * 2


def test_importing_it_imports_nothing_heavy(run_python):
    printed = run_python(
        "import sys; from datasparse import cli; cli.build_parser()\n"
        "from datasparse.files import prune\n"
        "print([name for name in ('torch', 'rich', 'matplotlib', 'safetensors') "
        "if name in sys.modules])"
    )
    assert printed.strip() == "[]"


def test_paths_may_be_text(source, tmp_path):
    prune(str(source), str(tmp_path / "t"))
    assert Path(tmp_path, "t").is_dir()
