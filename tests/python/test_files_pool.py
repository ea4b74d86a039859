"""`--pool`: one threshold over tensors in files; masks are those of a pool in memory."""

import itertools
import json

import datasparse
import numpy as np
import pytest
import torch
from datasparse.files import counting, plan
from datasparse.files.folder import Checkpoint
from datasparse.files.options import Options
from datasparse.files.pools import alone, level_of
from datasparse.files.prune import plan_prune, prune
from files_support import (
    Killed,
    RankedBy,
    is_taken,
    layout_seen,
    masks_in_memory,
    random_files,
    require_pruned,
    snapshot,
    tensor_of,
    tensors_in,
    write_checkpoint,
)
from safetensors.torch import save_file
from support import MAY_PRUNE_ALL

pytestmark = MAY_PRUNE_ALL


def random_rule(rng):
    """Config keys of a pool."""
    level = float(rng.choice([0, 0.1, 0.29, 0.5, 0.77, 1]))
    rule = {"sparsity_level": level, "sparse_block_shape": (1, 1), "pool": "all"}
    kind = rng.integers(3)
    if kind == 1:
        shapes = [(1, 4), (2, 3), (4, 4), (1, -1), (-1, 1)]
        rule["sparse_block_shape"] = shapes[rng.integers(len(shapes))]
    elif kind == 2:
        rule |= {"sparse_block_shape": (1, 4), "zeros_per_block": int(rng.integers(1, 5))}
    if 0 < level < 1 and rng.integers(3) == 0:
        rule |= {"min_level": level * rng.random(), "max_level": level + (1 - level) * rng.random()}
    return rule


def check_random_pool(seed, folder):
    rng = np.random.default_rng([27, seed])
    files = random_files(rng)
    source = write_checkpoint(folder / "s", files)
    tensors = tensors_in(source)
    taken = {name: one for name, one in tensors.items() if is_taken(one)}
    rule = random_rule(rng)
    layout = str(rng.choice(["memory", "inputs"]))
    transposed = ("must.0.*",) if rng.integers(2) else ()
    layouts = {
        name: layout_seen(one, layout, bool(transposed) and name.startswith("must.0."))
        for name, one in taken.items()
    }
    by = {}
    sparsifier = datasparse.DataNormSparsifier(**rule)
    ranks = rng.integers(4)
    if ranks == 0:
        scores = {name: tensor_of(rng, str(rng.choice(["F32", "F16", "BF16", "F64"])),
                                  tuple(taken[name].shape)) for name in taken}  # fmt: skip
        save_file(scores, folder / "scores.safetensors")
        by = {"scores": str(folder / "scores.safetensors")}
        sparsifier = RankedBy(scores, **rule)
    elif ranks == 1:
        norms = {
            name: torch.from_numpy(rng.random(one.shape[0 if one.ndim and layouts[name]
                                              and layouts[name][-1] == 0 else 1])).float()
            for name, one in taken.items()
        }  # fmt: skip
        save_file(norms, folder / "norms.safetensors")
        by = {"input_norms": str(folder / "norms.safetensors")}
        sparsifier = datasparse.DataNormSparsifier(**rule, score=datasparse.scores.Wanda())
    if ranks == 1:
        expected = masks_by_wanda(taken, sparsifier, layouts, norms)
    else:
        expected = masks_in_memory(tensors, taken, sparsifier, layouts)
    options = Options(**rule, **by, layout=layout, transposed=transposed)
    done = prune(source, folder / "t", options, masks=folder / "masks")
    require_pruned(source, folder / "t", expected)

    loaded = datasparse.DataNormSparsifier()
    for name in sorted(taken):
        loaded.add_data(name, tensors[name])
    datasparse.load(folder / "masks", loaded)
    for name, mask in expected.items():
        assert torch.equal(loaded.get_mask(name), mask)
        config = {**sparsifier.data_groups[name], "norm": "L1"}  # a training ranks magnitudes
        assert dict(loaded.data_groups[name]) == config
        assert done["tensors"][name]["config"]["pool"] == "all"


def masks_by_wanda(taken, sparsifier, layouts, norms):
    for name in sorted(taken):
        sparsifier.add_data(name, taken[name], layout=layouts[name])
        shape = [1] * taken[name].ndim
        shape[0 if layouts[name] and layouts[name][-1] == 0 else 1] = -1
        squares = (norms[name].double() ** 2).numpy().reshape(shape)
        sparsifier.set_array(name, "inputs", squares)
    sparsifier.step()
    return {name: sparsifier.get_mask(name) for name in taken}


@pytest.mark.parametrize("seed", range(15))
def test_masks_are_those_of_a_pool_in_memory(seed, tmp_path):
    check_random_pool(seed, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("tens", range(30))
def test_masks_are_those_of_a_pool_in_memory_300_times(tens, tmp_path):
    for seed in range(1000 + 10 * tens, 1010 + 10 * tens):
        folder = tmp_path / str(seed)
        folder.mkdir()
        check_random_pool(seed, folder)


POOL = Options(sparse_block_shape=(1, 4), pool="all")


@pytest.fixture
def source(tmp_path, rng):
    return write_checkpoint(tmp_path / "s", random_files(rng, 3))


@pytest.mark.parametrize("hint", [None, (1 << 31, 0, 5, 1e-9, 0.0), (0xFF000000, 10, 0, 1e9, 1e9)])
def test_a_hint_that_misleads_changes_no_mask(hint, source, tmp_path, monkeypatch):
    prune(source, tmp_path / "whole", POOL)
    monkeypatch.setattr(counting, "hint_of", lambda *_: hint)
    prune(source, tmp_path / "t", POOL)
    assert snapshot(tmp_path / "t") == snapshot(tmp_path / "whole")


def test_a_run_that_was_killed_while_it_counted_counts_again(source, tmp_path, monkeypatch):
    prune(source, tmp_path / "whole", POOL)
    reads = itertools.count()

    def load(self, place, real=counting.Loads.load):
        if next(reads) == 3:
            raise Killed
        return real(self, place)

    with monkeypatch.context() as patch:
        patch.setattr(counting.Loads, "load", load)
        with pytest.raises(Killed):
            prune(source, tmp_path / "t", POOL)
    assert not (tmp_path / "t").exists()
    assert "cuts" not in (tmp_path / "t.partial" / "journal").read_text()
    prune(source, tmp_path / "t", POOL)
    assert snapshot(tmp_path / "t") == snapshot(tmp_path / "whole")


def test_a_run_that_was_killed_afterwards_does_not_count_again(source, tmp_path, monkeypatch):
    prune(source, tmp_path / "whole", POOL)

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("datasparse.files.prune.Stream", killed)
        with pytest.raises(Killed):
            prune(source, tmp_path / "t", POOL)
    lines = (tmp_path / "t.partial" / "journal").read_text().splitlines()
    names = {name for name, tensor in tensors_in(source).items() if is_taken(tensor)}
    assert json.loads(lines[1])["cuts"].keys() == names
    monkeypatch.setattr("datasparse.files.prune.count_pools", killed)
    with pytest.raises(ValueError, match=r"options.max_level was None, and is 0.9"):
        prune(source, tmp_path / "t", Options(sparse_block_shape=(1, 4), pool="all", max_level=0.9))
    told = []
    prune(source, tmp_path / "t", POOL, progress=lambda *one: told.append(one[:2]))
    assert snapshot(tmp_path / "t") == snapshot(tmp_path / "whole")
    assert told[-1][0] == told[-1][1]


def test_cuts_that_lack_a_tensor_are_damage(source, tmp_path, monkeypatch):
    monkeypatch.setattr("datasparse.files.prune.count_pools", lambda *_: {})
    with pytest.raises(ValueError, match=r"t.partial/journal is damaged: remove .*t.partial"):
        prune(source, tmp_path / "t", POOL)


def test_a_source_that_changes_while_it_is_counted(source, tmp_path, monkeypatch):
    path = sorted(source.glob("*.safetensors"))[-1]

    def load(self, place, real=counting.Loads.load):
        path.touch()
        return real(self, place)

    monkeypatch.setattr(counting.Loads, "load", load)
    with pytest.raises(ValueError, match=f"{path.name} was changed while it was read"):
        prune(source, tmp_path / "t", POOL)
    assert "cuts" not in (tmp_path / "t.partial" / "journal").read_text()


def test_an_error_of_a_read_ahead_ends_the_count(source, tmp_path, monkeypatch):
    def read(self, place, memory, real=counting.Loads._read):
        if place == 1:
            raise OSError(5, "Input/output error", "s")
        real(self, place, memory)

    monkeypatch.setattr(counting.Loads, "_read", read)
    with pytest.raises(OSError, match="Input/output error"):
        prune(source, tmp_path / "t", POOL)


def numbers_in(line):
    """The numbers of a line of a table."""
    return [int(word.replace(",", "")) for word in line.split() if word.replace(",", "").isdigit()]


def test_a_dry_run_says_what_the_headers_tell_and_by_reading_all(tmp_path):
    tensors = {"a": torch.randn(64, 64), "b": 3 * torch.randn(32, 64), "c": torch.randn(64)}
    source = write_checkpoint(tmp_path / "s.safetensors", {"": tensors})
    options = Options(pool="all", max_level=0.75)
    told = plan_prune(source, options).splitlines()
    assert "1,536 to 3,072" in told[1]
    assert "pool all: 2 tensors with one threshold, 3,072 zeros" in told
    assert "zeros: 3,072 of 6,144 (50.00%)" in told
    assert any(line.startswith("read before, to find what pools prune: ") for line in told)
    seen = []
    read = plan_prune(source, options, read=True, progress=lambda *one: seen.append(one))
    done = prune(source, tmp_path / "t.safetensors", options)["tensors"]
    zeros = {line.split()[0]: numbers_in(line)[-1] for line in read.splitlines()[1:3]}
    assert zeros == {name: entry["zeros"] for name, entry in done.items()}
    assert sum(zeros.values()) == 3072
    assert seen[-1][0] == seen[-1][1] == 6144 * 4


def test_a_pool_that_bounds_leave_no_room_is_refused_at_once(tmp_path):
    tensors = {"a": torch.randn(8, 8)}
    source = write_checkpoint(tmp_path / "s.safetensors", {"": {**tensors, "b": torch.randn(8, 8)}})
    with pytest.raises(ValueError, match=r"s.safetensors: .*'all'.*max_level") as caught:
        prune(source, tmp_path / "t", Options(sparsity_level=0.9, pool="all", max_level=0.5))
    assert str(source) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["s.safetensors"]


def test_a_level_of_one_tensor_gives_the_count_again(rng):
    for blocks in [1, 2, 3, 7, 10, 1000, 6_000_000_007, 2**40 + 1, 2**51 - 1]:
        for pruned in {0, 1, blocks // 2, blocks // 3, blocks - 1, blocks,
                       *rng.integers(0, blocks + 1, 200).tolist()}:  # fmt: skip
            level = level_of(pruned, blocks)
            assert 0 <= level <= 1
            assert round(level * blocks) == pruned  # half to even, as the core does
    assert level_of(0, 0) == 0
    config = {"sparsity_level": 0.5, "pool": "all", "min_level": 0.1, "max_level": 0.9,
              "normalize": "l2", "min_kept": 3, "norm": "L1"}  # fmt: skip
    assert alone(config, 0.25) == {"sparsity_level": 0.25, "norm": "L1"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("rule", [{}, {"sparse_block_shape": (4, 4)}, {"max_level": 0.6}])
def test_natural_tensors_are_read_about_twice(dtype, rule, tmp_path):
    torch.manual_seed(0)
    tensors = {
        str(number): (torch.randn(400, 512) * (1 + number / 8)).to(dtype) for number in range(12)
    }
    source = write_checkpoint(tmp_path / "s.safetensors", {"": tensors})
    with Checkpoint(source) as checkpoint:
        made = plan.make_plan(checkpoint, Options(pool="all", **rule))
        read = []
        counting.count_pools(made, lambda done, name: read.append(done))
        assert read[-1] < 3.2 * made.bytes_counted


def test_it_takes_the_memory_that_the_plan_says(tmp_path, run_python, measurable_memory):
    tensors = {str(number): torch.randn(2048, 2048).bfloat16() for number in range(20)}
    source = write_checkpoint(tmp_path / "s", {"1.safetensors": tensors})
    printed = run_python(
        "from contextlib import ExitStack; from pathlib import Path\n"
        "from datasparse.files import options, plan, prune\n"
        "plan.AHEAD, plan.SAMPLED = 8 << 20, 1 << 20\n"
        "pool = options.Options(pool='all')\n"
        "with ExitStack() as stack:\n"
        f"    print(prune.planned(stack, {str(source)!r}, pool, False).memory.total)\n"
        f"prune.prune({str(source)!r}, {str(tmp_path / 't')!r}, pool)\n"
        "status = Path('/proc/self/status').read_text().splitlines()\n"
        "print(next(line.split()[1] for line in status if line.startswith('VmHWM')))",
        OMP_NUM_THREADS="2",
    )
    promised, most = printed.split()
    assert abs(int(most) * 1024 / int(promised) - 1) < 0.1
    assert int(promised) < sum(tensor.nbytes for tensor in tensors.values()) / 2
