"""Checkpoints of shards, saved on some ranks and resumed on others: run by ranks_harness."""

import copy
from pathlib import Path
from types import SimpleNamespace

import datasparse
import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from datasparse import DataNormSparsifier, DataScheduler, schedules, scores
from datasparse.regrowth import RigL
from datasparse.torch import attach
from datasparse.torch.sharded import RankError, ShardedState
from sharded_cases import part_of, plain_model, sharded_model, whole_of
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.tensor import DTensor

POOL = {"pool": "all", "sparse_block_shape": (1, 1), "sparsity_level": 0.8}
LEVEL = "sparsity_level"


class Training:
    """A model, its masks and its optimizer; `kind` is how it is sharded, or "plain"."""

    def __init__(self, kind, seed=0, every=2, **config):
        self.model = plain_model() if kind == "plain" else sharded_model(kind)
        generator = torch.Generator().manual_seed(seed)
        fill(self.model, generator)
        self.sparsifier = DataNormSparsifier(**(POOL | config))
        with torch.no_grad():  # zeros that stay
            first = self.model[0].up.weight
            (first.to_local() if isinstance(first, DTensor) else first)[0].zero_()
        attach(self.model, self.sparsifier, include="0.up.weight", keep_zeros=True)
        self.attachment = attach(self.model, self.sparsifier)
        schedule = schedules.Linear(initial=0.2, final=0.8, end=10)
        self.scheduler = DataScheduler(self.sparsifier, LEVEL, schedule)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.05)
        self.following = self.attachment.follow(
            self.optimizer, scheduler=self.scheduler, every=every
        )
        self.state = ShardedState(self.sparsifier, self.scheduler, following=self.following)

    def step(self, seed):
        torch.manual_seed(seed)
        self.model(torch.randn(8, 16)).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def everything(self):
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optimizer": optimizer, "masks": self.state}

    def load(self, folder):
        state = self.everything()
        dcp.load(state, checkpoint_id=folder)
        set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
        )

    def facts(self):
        """All that must be the same wherever it goes on."""
        return {
            "state": str(self.sparsifier.state_dict()),
            "scheduler": str(self.scheduler.state_dict()),
            "steps": self.following.steps,
            "weights": {name: whole_of(p).tolist() for name, p in self.model.named_parameters()},
        }

    def next_masks(self):
        """Of the same weights everywhere: sums of gradients differ by how many ranks add them."""
        generator = torch.Generator().manual_seed(7)
        found = []
        for _ in range(3):
            fill(self.model, generator)
            self.sparsifier.step()
            self.scheduler.step()
            found.append(str(self.sparsifier.state_dict()))
        return found


def fill(model, generator):
    """Weights that hang on the generator alone."""
    with torch.no_grad():
        for parameter in model.parameters():
            whole = torch.randn(parameter.shape, generator=generator)
            if isinstance(parameter, DTensor):
                parameter.to_local().copy_(part_of(whole, parameter))
            else:
                parameter.copy_(whole)


def save(rank, folder, kind):
    """Trains, saves, and says what comes next."""
    training = Training(kind)
    for seed in range(3):
        # Ranks of tensor parallelism see the same inputs.
        training.step(10 * (rank // 2 if kind == "fsdp_tp" else rank) + seed)
    facts = training.facts()
    dcp.save(training.everything(), checkpoint_id=folder)
    datasparse.save(Path(folder) / "single.safetensors", training.sparsifier, training.scheduler)
    return facts, training.next_masks()


def resume(rank, folder, kind):
    """What another training has that has loaded this one."""
    training = Training(kind, seed=1)
    training.load(folder)
    return training.facts(), training.next_masks()


def resume_file(rank, folder, kind):
    """The same of masks and schedule, from the single file."""
    training = Training(kind, seed=1)
    file = Path(folder) / "single.safetensors"
    datasparse.load(file, training.sparsifier, training.scheduler)
    return str(training.sparsifier.state_dict()), training.next_masks()


# --- what cannot be loaded --------------------------------------------------------------------


def before_attaching(training):
    sparsifier = DataNormSparsifier(**POOL)
    scheduler = DataScheduler(sparsifier, LEVEL, schedules.Linear(initial=0.2, final=0.8, end=10))
    return ShardedState(sparsifier, scheduler)


def without_schedulers(training):
    return ShardedState(training.sparsifier)


def of_another_score(training):
    return Training("fsdp", score=scores.Movement()).state


def of_more_weights(training):
    other = Training("fsdp")
    other.sparsifier.add_data("more", torch.zeros(3))
    return other.state


WRONG = {
    "before attaching": (
        before_attaching,
        "has a mask of '0.up.weight', which was not among those to load: attach",
    ),
    "without schedulers": (
        without_schedulers,
        "has 1 schedulers, and ShardedState.. was given 0",
    ),
    "another score": (of_another_score, "norm must be None with Movement.."),
    "more weights": (of_more_weights, r"Missing key in checkpoint state_dict: masks.masks.more"),
}


def refuse(rank, folder, name):
    """Returns the error of loading; what was there stays."""
    make, _ = WRONG[name]
    dcp.save({"masks": Training("fsdp", seed=3).state}, checkpoint_id=folder)
    here = make(Training("fsdp"))
    before = str(here.state_dict()["masks"]), here._now()[0]
    try:
        dcp.load({"masks": here}, checkpoint_id=folder)
    except (Exception, CheckpointException) as error:  # torch's is none of the former
        assert (str(here.state_dict()["masks"]), here._now()[0]) == before
        return type(error).__name__, str(error)
    return None


def fail_on_one(rank, folder, on):
    """One rank cannot load: no rank has loaded anything, and both can go on."""
    saved, here = Training("fsdp", seed=3), Training("fsdp")
    saved.sparsifier.step()
    dcp.save({"masks": saved.state}, checkpoint_id=folder)
    before = here.facts()

    def no_memory(state):
        raise MemoryError("none left")

    kind, message = (MemoryError, "none left") if rank == on else (RankError, f"rank {on} failed")
    if rank == on:
        here.state._put_loaded = no_memory
    with pytest.raises(kind, match=message):
        dcp.load({"masks": here.state}, checkpoint_id=folder)
    assert here.facts() == before
    vars(here.state).pop("_put_loaded", None)
    dcp.load({"masks": here.state}, checkpoint_id=folder)
    assert here.facts()["state"] == saved.facts()["state"]


def score(rank, folder):
    """Sums of a score go on."""
    saved = Training("fsdp", score=scores.Movement())
    for seed in range(2):
        saved.step(seed)
    dcp.save({"masks": saved.state}, checkpoint_id=folder)
    here = Training("fsdp", seed=1, score=scores.Movement())
    dcp.load({"masks": here.state}, checkpoint_id=folder)
    assert here.facts()["state"] == saved.facts()["state"]
    assert "sums" in here.facts()["state"]


def moved(folder, saves):
    """A training whose masks move, and what it has: where it saves, as it goes on from there."""
    model = sharded_model("fsdp")
    fill(model, torch.Generator().manual_seed(5))
    sparsifier = RigL(sparsity_level=0.8, sparse_block_shape=(1, 1), seed=3 if saves else 4)
    attach(model, sparsifier)
    state = {"masks": ShardedState(sparsifier)}
    if saves:
        move(model, sparsifier, 6)
        dcp.save(state, checkpoint_id=folder)
    else:
        dcp.load(state, checkpoint_id=folder)
    found = str(sparsifier.state_dict())
    move(model, sparsifier, 7)
    return found, str(sparsifier.state_dict())


def move(model, sparsifier, seed):
    """By weights and gradients that hang on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    fill(model, generator)
    sparsifier.apply_mask()
    gradients = copy.deepcopy(
        {name: sparsifier.get_data(name).detach() for name in sparsifier.data_groups}
    )
    for gradient in gradients.values():
        whole = torch.randn(gradient.shape, generator=generator)
        gradient.to_local().copy_(part_of(whole, gradient))
    sparsifier.set_gradients(gradients)
    sparsifier.step()


def save_moved(rank, folder):
    return moved(folder, saves=True)


def resume_moved(rank, folder):
    return moved(folder, saves=False)


def nothing_is_sent(rank, folder):
    """Masks are not gathered: no rank tells others anything to make the state."""
    training = Training("fsdp")
    training.step(rank)
    calls = [dist.all_reduce, dist.all_gather, dist.all_gather_object]

    def refused(*args, **options):
        raise AssertionError("something was sent")

    dist.all_reduce = dist.all_gather = dist.all_gather_object = refused
    try:
        state = training.state.state_dict()
    finally:
        dist.all_reduce, dist.all_gather, dist.all_gather_object = calls
    for name, mask in state["masks"].items():
        assert isinstance(mask, DTensor)
        own = training.sparsifier.get_mask(name).to_local()
        assert torch.equal(mask.to_local(), own)
        assert own.numel() == 0 or mask.to_local().data_ptr() != own.data_ptr()
    assert len(state["state"]) < 10_000


def trainer_saves(rank, folder):
    """Transformers' trainer lets one rank alone save."""
    from datasparse.transformers import CHECKPOINT, DataSparsity

    training = Training("fsdp")
    training.step(rank)
    training.following.remove()
    callback = DataSparsity(training.attachment, training.scheduler)
    arguments = SimpleNamespace(should_save=rank == 0, output_dir=folder)
    at = SimpleNamespace(global_step=1)
    (Path(folder) / "checkpoint-1").mkdir(exist_ok=True)
    callback.on_save(arguments, at, None)
    dist.barrier()
    other = Training("fsdp", seed=1)
    datasparse.load(Path(folder) / "checkpoint-1" / CHECKPOINT, other.sparsifier, other.scheduler)
    assert str(other.sparsifier.state_dict()) == str(training.sparsifier.state_dict())
