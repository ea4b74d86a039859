"""Sparse training in shards: masks of one machine, on as many processes as there are.

    pip install datasparse torch
    torchrun --nproc-per-node 2 examples/sharded.py

A network is sharded by fully_shard() and learns what a smaller one says of random inputs, while one
threshold over all its weights rises until nine of ten are zero. Half-way its weights, optimizer,
masks and schedule are saved by torch.distributed.checkpoint. Then everything is made anew, loaded,
and trained to the end once more: by as many processes as the first time, to the same bits.

Rank 0 prints what masks cost: how often ranks add up counts in a step, and how many bytes of these
each of them sends. It runs on CPUs, in seconds. With --folder the checkpoint stays, and another
number of processes goes on from there: --resume.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from datasparse import DataNormSparsifier, DataScheduler
from datasparse.schedules import Polynomial
from datasparse.torch import attach
from datasparse.torch.sharded import ShardedState, layout_of
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

INPUTS, WIDTH, CLASSES = 32, 256, 10
BATCH = 256  # of all ranks together
LEVEL = 0.9
SHOWN = 10  # rows of the table


@dataclass(frozen=True)
class Row:
    """What is printed of a step."""

    step: int
    level: float
    zeros: float
    loss: float
    rounds: int
    sent: int


class Training:
    """All that a training has, as it begins; the same on all ranks but for their shards."""

    def __init__(self, steps: int) -> None:
        torch.manual_seed(0)
        self.teacher = nn.Sequential(nn.Linear(INPUTS, 32), nn.Tanh(), nn.Linear(32, CLASSES))
        self.model = nn.Sequential(
            nn.Linear(INPUTS, WIDTH), nn.ReLU(),
            nn.Linear(WIDTH, WIDTH), nn.ReLU(),
            nn.Linear(WIDTH, CLASSES),
        )  # fmt: skip
        mesh = dist.init_device_mesh("cpu", (dist.get_world_size(),))
        for layer in self.model[::2]:
            fully_shard(layer, mesh=mesh)
        fully_shard(self.model, mesh=mesh)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-3)
        self.sparsifier = DataNormSparsifier(
            sparsity_level=LEVEL, sparse_block_shape=(1, 1), pool="everything"
        )
        self.attachment = attach(self.model, self.sparsifier)
        rise = Polynomial(begin=0, end=int(0.7 * steps))
        self.scheduler = DataScheduler(self.sparsifier, "sparsity_level", rise)
        self.following = self.attachment.follow(self.optimizer, scheduler=self.scheduler)
        self.masks = ShardedState(self.sparsifier, self.scheduler, following=self.following)

    def batch(self, step: int) -> Tensor:
        """What this rank has of it."""
        generator = torch.Generator().manual_seed(step)
        whole = torch.randn(BATCH, INPUTS, generator=generator)
        return whole.tensor_split(dist.get_world_size())[dist.get_rank()]

    def step(self, step: int) -> Row:
        first = self.sparsifier.get_data(self.attachment.names[0])
        traffic = layout_of(first).together.traffic
        before = copy.copy(traffic)
        inputs = self.batch(step)
        with torch.no_grad():
            labels = self.teacher(inputs).argmax(1)
        loss = nn.functional.cross_entropy(self.model(inputs), labels)
        loss.backward()
        self.optimizer.step()  # masks and zeros as well
        self.optimizer.zero_grad()
        rounds, sent = traffic.rounds - before.rounds, traffic.bytes - before.bytes
        mean = loss.detach()
        dist.all_reduce(mean)
        return Row(
            step + 1,
            next(iter(self.sparsifier.data_groups.values()))["sparsity_level"],
            self.attachment.sparsity(),
            mean.item() / dist.get_world_size(),
            rounds,
            sent,
        )

    def state(self) -> dict[str, Any]:
        """What torch.distributed.checkpoint saves, and loads into."""
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optimizer": optimizer, "masks": self.masks}

    def save(self, folder: Path) -> None:
        dcp.save(self.state(), checkpoint_id=folder)

    def load(self, folder: Path) -> None:
        state = self.state()
        dcp.load(state, checkpoint_id=folder)
        set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
        )


def say(text: str) -> None:
    """Once, and not once a rank."""
    if dist.get_rank() == 0:
        print(text, flush=True)


def train(training: Training, steps: range, every: int) -> list[Row]:
    say("  step   level   zeros    loss  rounds   bytes")
    rows = []
    for step in steps:
        row = training.step(step)
        rows.append(row)
        if row.step % every == 0 or row.step == steps.stop:
            say(
                f"{row.step:6} {row.level:7.1%} {row.zeros:7.1%} {row.loss:7.3f} "
                f"{row.rounds:7} {row.sent:7,}"
            )
    return rows


def are_equal(one: Training, other: Training) -> bool:
    """Whether all ranks have the same masks in both."""
    pairs = (
        (one.sparsifier.get_mask(name), other.sparsifier.get_mask(name))
        for name in one.attachment.names
    )
    differ = sum(int((a.to_local() != b.to_local()).sum()) for a, b in pairs)
    everywhere = torch.tensor(differ)
    dist.all_reduce(everywhere)
    return int(everywhere) == 0


@contextmanager
def folder_of(given: Path | None) -> Iterator[Path]:
    """The one that is given, or one that is gone afterwards, which rank 0 makes for all."""
    if given is not None:
        yield given
        return
    made = tempfile.TemporaryDirectory() if dist.get_rank() == 0 else None
    name = [made and made.name]
    dist.broadcast_object_list(name, src=0)
    yield Path(str(name[0]))
    dist.barrier()
    if made is not None:
        made.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="where the checkpoint is, or shall be")
    parser.add_argument("--resume", action="store_true", help="begin with what is in --folder")
    options = parser.parse_args()
    if options.resume and options.folder is None:
        parser.error("--resume needs --folder")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    half, every = options.steps // 2, max(1, options.steps // SHOWN)
    with folder_of(options.folder) as folder:
        unbroken: list[Row] = []
        if not options.resume:
            training = Training(options.steps)
            say(f"{dist.get_world_size()} ranks")
            train(training, range(half), every)
            training.save(folder)
            say(f"saved after step {half}")
            unbroken = train(training, range(half, options.steps), every)
        resumed = Training(options.steps)
        resumed.load(folder)
        say(f"resumed after step {resumed.following.steps} on {dist.get_world_size()} ranks")
        again = train(resumed, range(resumed.following.steps, options.steps), every)
        if unbroken:
            losses = [[row.loss for row in rows] for rows in (unbroken, again)]
            same = are_equal(training, resumed) and losses[0] == losses[1]
            say(f"the same masks and losses: {'yes' if same else 'no'}")
    dist.barrier()  # a rank that ends early may break the connections of others
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # a thread of gloo's may ask for the interpreter's lock after its end, and abort
