"""What ranks do whose models are replicas, each with batches of its own, in ranks_harness.py."""

import warnings
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from datasparse import DataNormSparsifier
from datasparse.scores import SNIP, Fisher, Gradient, GraSP, Movement, Taylor, Wanda
from datasparse.torch import (
    attach,
    calibrate,
    detach,
    prune_at_init,
    record_inputs,
    score_once,
)
from safetensors.numpy import load_file
from torch import nn
from torch.distributed.fsdp import fully_shard

SCORES = {
    "SNIP": SNIP(),
    "Gradient": Gradient(),
    "Taylor": Taylor(),
    "Movement": Movement(),
    "Fisher": Fisher(),
    "GraSP": GraSP(),
}
ALL = 6  # batches


def loss(model, batch):
    return model(batch).square().mean()


def attached(score, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 6))
    norm = {"norm": None} if isinstance(score, GraSP) else {}
    config = {"sparsity_level": 0.5, "sparse_block_shape": (1, 1), **norm}
    return model, attach(model, score=score, **config, **options)


def batches():
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(4, 12, generator=generator) for _ in range(ALL)]


def own(rank):
    """Of all batches those of a rank: the ranks have unequal numbers where there are four."""
    return batches()[rank :: dist.get_world_size()]


def masks_of(attachment):
    return [attachment.sparsifier.get_mask(name).tolist() for name in attachment.names]


def score(rank, name):
    """The masks, once the scores are those of one rank that sees all batches."""
    group = dist.group.WORLD
    _, whole = attached(SCORES[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        score_once(whole, SCORES[name], batches(), loss)
    _, attachment = attached(SCORES[name])
    score_once(attachment, SCORES[name], own(rank), loss, group=group)
    for key in attachment.names:
        here, there = (each.sparsifier.get_array(key, "scores") for each in (attachment, whole))
        assert here.dtype == there.dtype
        np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-7)
    _, attachment = attached(SCORES[name])
    prune_at_init(attachment, own(rank), loss, group=group)
    assert attachment.sparsity() == 0.5
    return masks_of(attachment)


def score_with_decay(rank):
    model, attachment = attached(Fisher(decay=0.5))
    few = batches()[rank : rank + 2]
    score_once(attachment, Fisher(decay=0.5), few, loss, group=dist.group.WORLD)
    means = 0
    for other in range(dist.get_world_size()):
        _, alone = attached(Fisher(decay=0.5))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            score_once(alone, Fisher(decay=0.5), batches()[other : other + 2], loss)
        means = means + alone.sparsifier.get_array("0.weight", "scores") / dist.get_world_size()
    scores = attachment.sparsifier.get_array("0.weight", "scores")
    np.testing.assert_allclose(scores, means, rtol=1e-5)
    before = attachment.sparsifier.state_dict()
    try:
        score_once(
            attachment, Fisher(decay=0.5), batches()[: 1 + rank], loss, group=dist.group.WORLD
        )
    except ValueError as error:
        assert attachment.model() is model
        assert str(attachment.sparsifier.state_dict()) == str(before)
        return str(error)
    return None


class Mixture(nn.Module):
    """Experts, of which a batch calls one."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(12, 12), nn.Linear(12, 12)])

    def forward(self, batch):
        return self.experts[int(batch[0, 0] > 0)](batch)


def calibrated(rank):
    """Norms and masks, which are those of all batches; also where a rank never calls a layer."""
    group = dist.group.WORLD
    torch.manual_seed(0)
    mixture = Mixture()
    everything = [batch * batch[0, 0].sign() * (-1) ** i for i, batch in enumerate(batches())]
    here = everything[rank :: dist.get_world_size()]  # of two ranks, each has an expert
    norms = calibrate(mixture, here, group=group)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        whole = calibrate(mixture, everything)
    assert set(norms) == set(whole) == {"experts.0.weight", "experts.1.weight"}
    for name, norm in whole.items():
        np.testing.assert_allclose(norms[name], norm, rtol=1e-6)

    model, attachment = attached(Wanda())
    for _ in range(2):  # on top of what is there
        calibrate(attachment, own(rank), group=group)
    first = masks_of(attachment)
    sums = attachment.sparsifier.get_array("0.weight", "inputs")
    expected = 2 * torch.cat(batches()).double().square().sum(0, keepdim=True).numpy()
    np.testing.assert_allclose(sums, expected, rtol=1e-12)

    model, attachment = attached(Wanda())
    with record_inputs(attachment, group=group):
        for batch in own(rank):
            model(batch)
        assert attachment.sparsifier.get_array("0.weight", "inputs") is None
    attachment.sparsifier.step()
    assert masks_of(attachment) == first
    return first


def failing(rank, call):
    """The error, where rank 1 has no batch; nothing has changed."""
    given = own(rank) if rank != 1 else []
    wanda = call != "score_once"
    _, attachment = attached(Wanda() if wanda else SNIP())
    before = attachment.sparsifier.state_dict()
    try:
        if wanda:
            calibrate(attachment, given, group=dist.group.WORLD)
        else:
            score_once(attachment, SNIP(), given, loss, group=dist.group.WORLD)
    except Exception as error:
        assert str(attachment.sparsifier.state_dict()) == str(before)
        return f"{type(error).__name__}: {error}"
    return None


def failing_loader(rank):
    """The error of each rank, where the batches of one cannot be read."""

    def loader():
        yield batches()[0]
        if rank == 1:
            raise OSError("no such batch")

    _, attachment = attached(GraSP())
    try:
        score_once(attachment, GraSP(), loader(), loss, group=dist.group.WORLD)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def of_other_shapes(rank):
    torch.manual_seed(0)
    model = nn.Linear(4 + rank, 4)
    try:
        calibrate(model, [torch.ones(1, 4 + rank)], group=dist.group.WORLD)
    except ValueError as error:
        return str(error)
    return None


def written(rank, folder):
    """The norms are written by one rank; where it cannot, no rank has new masks."""
    group = dist.group.WORLD
    _, attachment = attached(Wanda())
    norms = calibrate(attachment, own(rank), group=group, path=f"{folder}/norms")
    dist.barrier()
    assert Path(folder, "norms").exists()
    kept = load_file(f"{folder}/norms")
    assert all(np.array_equal(kept[name], norms[name]) for name in norms)
    count = attachment.sparsifier.step_count
    try:
        calibrate(attachment, own(rank), group=group, path=f"{folder}/none/norms")
    except Exception as error:
        assert attachment.sparsifier.step_count == count
        return type(error).__name__
    return None


def alone(rank):
    """What is said where there is no group, and with one rank's own."""
    said = []
    for group in (None, dist.new_group([rank], use_local_synchronization=True)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            _, attachment = attached(SNIP())
            prune_at_init(attachment, own(rank), loss, group=group)
            model, attachment = attached(Wanda())
            record_inputs(attachment, group=group).remove()
            calibrate(attachment, own(rank), group=group)
            calibrate(model, own(rank), group=group)
        said.append([str(one.message)[:39] for one in caught])
    return said


def refused_shards(rank):
    """The message of each call for a model that is sharded."""
    said = []
    for of in (SNIP(), Wanda()):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(12, 16), nn.Linear(16, 6))
        fully_shard(model)
        attachment = attach(model, score=of, sparsity_level=0.5)
        calls = [lambda it=attachment: score_once(it, SNIP(), own(rank), loss)]
        if isinstance(of, Wanda):
            calls = [
                lambda it=attachment: record_inputs(it),
                lambda it=model: calibrate(it, own(rank)),
            ]
        for call in calls:
            try:
                call()
            except ValueError as error:
                said.append(str(error))
    return said


def scored_before_sharding(rank):
    """As the refusal says: the zeros of all ranks' batches, kept by the shards while they train."""
    model, attachment = attached(SNIP())
    prune_at_init(attachment, own(rank), loss, group=dist.group.WORLD)
    masks = [torch.tensor(mask) for mask in masks_of(attachment)]
    detach(model)
    fully_shard(model)
    attachment = attach(model, DataNormSparsifier(sparsity_level=0.0), keep_zeros=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    attachment.follow(optimizer)
    for batch in own(rank):
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()
    for name, mask in zip(attachment.names, masks, strict=True):
        weight = model.get_parameter(name).full_tensor()
        assert torch.equal(weight != 0, mask), name
    return attachment.sparsity()
