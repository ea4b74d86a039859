"""What ranks do in the tests of shards: run by ranks_harness, on each with the same arguments."""

import warnings
import weakref
from functools import cache

import numpy as np
import torch
import torch.distributed as dist
from datasparse import DataNormSparsifier, DataScheduler, schedules, scores
from datasparse.torch import attach
from datasparse.torch.sharded import RankError, Traffic, layout_of, sample
from device_cases import BITS, put_into_pools, random_groups, random_values
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.distributed.tensor.placement_types import _StridedShard


@cache
def mesh_of(*shape):
    return init_device_mesh("cpu", shape, mesh_dim_names=("a", "b", "c")[: len(shape)])


def layouts():
    """Meshes of all ranks, with placements: of tensors of two axes at least."""
    size = dist.get_world_size()
    found = [(mesh_of(size), p) for p in [(Shard(0),), (Shard(1),), (Replicate(),)]]
    for a in range(2, size):
        if size % a == 0:
            mesh = mesh_of(a, size // a)
            found += [
                (mesh, p)
                for p in [
                    (Replicate(), Shard(0)),
                    (Shard(0), Replicate()),
                    (Shard(0), Shard(1)),
                    (Shard(1), Shard(0)),
                    (Shard(0), Shard(0)),
                    (_StridedShard(0, split_factor=size // a), Shard(0)),
                ]
            ]
    return found


def spread(whole, mesh, placements):
    """A DTensor of what all ranks have."""
    if any(isinstance(p, _StridedShard) for p in placements):
        # As FSDP does over tensor parallelism: the inner axis first.
        inner = distribute_tensor(whole, mesh, (Replicate(), placements[1]), src_data_rank=None)
        local = inner.to_local()
        parts = list(torch.chunk(local, mesh.size(0), dim=0))
        parts += [local[:0]] * (mesh.size(0) - len(parts))
        own = parts[mesh.get_local_rank(0)]
        return DTensor.from_local(
            own.clone(), mesh, placements, run_check=False, shape=whole.shape, stride=whole.stride()
        )
    return distribute_tensor(whole, mesh, placements, src_data_rank=None)


def same(a, b):
    bits = BITS.get(a.element_size())
    if a.dtype == torch.bool or bits is None:
        return torch.equal(a, b)
    return torch.equal(a.contiguous().view(bits), b.contiguous().view(bits))


def part_of(whole, dtensor):
    size, offset = layout_of(dtensor).box(tuple(whole.shape))
    return whole[tuple(slice(o, o + n) for o, n in zip(offset, size, strict=True))]


def fits(whole, config, layout, place):
    """Whether a step takes the tensor in that layout: no block is cut."""
    try:
        # Where blocks are pruned as a whole, rows may cut them.
        pattern = ("sparse_block_shape", "zeros_per_block")
        alone = DataNormSparsifier(**{key: config[key] for key in pattern if key in config})
        alone.add_data("x", spread(whole, *place), layout=layout)
        alone.step()
    except (ValueError, RankError) as error:
        if "must lie on one rank" in str(error) or "rectangle" in str(error):
            return False
        raise
    return True


def random_sparsifiers(rank, seed, n):
    """Cases of sharded and plain tensors in one sparsifier, held to one of whole tensors."""
    taken = refused = 0
    for case in range(n):
        rng = np.random.default_rng([seed, case])
        sample.LARGE = int(rng.choice([1, 1 << 20]))
        groups, dtypes = random_groups(rng)
        if rng.random() < 0.5:
            put_into_pools(rng, groups)
        here, there = DataNormSparsifier(), DataNormSparsifier()
        wholes, sharded = [], []
        for i, ((shape, config, layout), dtype) in enumerate(zip(groups, dtypes, strict=True)):
            whole = random_values(rng, shape, dtype)
            data = whole.clone()
            for _ in range(int(rng.integers(0, 6))):
                choices = layouts() if len(shape) > 1 else layouts()[: len(shape)]
                if not choices:
                    break
                choice = choices[rng.integers(len(choices))]
                if fits(whole, config, layout, choice):
                    data = spread(whole, *choice)
                    taken += 1
                    break
                refused += 1
            before = torch.from_numpy(np.asarray(rng.random(shape) >= rng.random()))
            keep = bool(rng.random() < 0.25)
            here.add_data(str(i), whole, mask=before, layout=layout, keep_zeros=keep, **config)
            there.add_data(str(i), data, mask=before, layout=layout, keep_zeros=keep, **config)
            wholes.append(whole)
            sharded.append(data)
        for step in range(2):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "step.. pruned all weights")
                here.step()
                there.step()
            for i, data in enumerate(sharded):
                mask, right = there.get_mask(str(i)), here.get_mask(str(i))
                own = mask.to_local() if isinstance(mask, DTensor) else mask
                if isinstance(mask, DTensor):
                    right = part_of(right, data)
                assert torch.equal(own, right), (seed, case, i, step, groups[i], dtypes[i], data)
        compare_all(here, there, wholes, sharded, (seed, case))
    return taken, refused


def compare_all(here, there, wholes, sharded, case):
    here.apply_mask()
    there.apply_mask()
    for whole, data in zip(wholes, sharded, strict=True):
        if isinstance(data, DTensor):
            assert same(data.to_local(), part_of(whole, data))
        else:
            assert same(data, whole)
    mine, theirs = here.state_dict(), there.state_dict()
    assert str(mine) == str(theirs), case
    again = DataNormSparsifier()
    for i, data in enumerate(sharded):
        again.add_data(str(i), data)
    again.load_state_dict(theirs)
    assert str(again.state_dict()) == str(theirs)


# --- models -----------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(self.norm(x))))


def plain_model(width=16, depth=2, outputs=10):
    torch.manual_seed(0)
    blocks = [Block(width) for _ in range(depth)]
    return nn.Sequential(*blocks, nn.Linear(width, outputs))


def sharded_model(kind):
    """As torch shards it, over all ranks."""
    size = dist.get_world_size()
    model = plain_model()
    plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
    if kind in ("fsdp", "mixed"):
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16) if kind == "mixed" else None
        options = {} if policy is None else {"mp_policy": policy}
        for block in model[:-1]:
            fully_shard(block, mesh=mesh_of(size), **options)
        fully_shard(model, mesh=mesh_of(size), **options)
    elif kind == "hsdp":
        mesh = mesh_of(2, size // 2)
        for block in model[:-1]:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
    elif kind == "tp":
        for block in model[:-1]:
            parallelize_module(block, mesh_of(size), plan)
    elif kind == "fsdp_tp":
        mesh = mesh_of(2, size // 2)
        for block in model[:-1]:
            parallelize_module(block, mesh["b"], plan)
            fully_shard(block, mesh=mesh["a"])
        fully_shard(model, mesh=mesh["a"])
    else:
        raise ValueError(kind)
    return model


def whole_of(tensor):
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def train(rank, kind, config, steps=3):
    """Trains a sharded model, and holds its masks at each step to those of its gathered weights."""
    model = sharded_model(kind)
    sparsifier = DataNormSparsifier(**config)
    attachment = attach(model, sparsifier)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.01)
    weights = {}

    def remember(*_):
        for name in attachment.names:
            weights[name] = whole_of(sparsifier.get_data(name))

    optimizer.register_step_post_hook(remember)
    schedule = schedules.Linear(initial=0.2, final=0.8, end=steps)
    scheduler = DataScheduler(sparsifier, "sparsity_level", schedule)
    attachment.follow(optimizer, scheduler=scheduler, mask_state=True)
    # Ranks of tensor parallelism see the same inputs.
    torch.manual_seed({"tp": 0, "fsdp_tp": rank // 2}.get(kind, rank))
    for _ in range(steps):
        inputs = torch.randn(8, 16)
        model(inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        here = DataNormSparsifier(**config)
        for name in attachment.names:
            here.add_data(name, weights[name], **dict(sparsifier.data_groups[name]))
        here.step()
        here.apply_mask()
        for name in attachment.names:
            assert torch.equal(whole_of(sparsifier.get_mask(name)), here.get_mask(name)), name
            now = whole_of(sparsifier.get_data(name))
            assert same(now, here.get_data(name)), name
            state = optimizer.state[sparsifier.get_data(name)]["exp_avg"]
            assert not whole_of(state)[~here.get_mask(name)].any()
    zeros = sum(int((~whole_of(sparsifier.get_mask(n))).sum()) for n in attachment.names)
    elements = sum(whole_of(sparsifier.get_mask(n)).numel() for n in attachment.names)
    assert attachment.sparsity() == zeros / elements
    with torch.no_grad():  # leaves the parameters of the root whole
        model(torch.randn(8, 16))
    before = {name: whole_of(sparsifier.get_mask(name)) for name in attachment.names}
    sparsifier.step()
    attachment.apply()
    for name in attachment.names:
        assert isinstance(sparsifier.get_data(name), DTensor) or kind in ("tp", "fsdp_tp")
        assert torch.equal(whole_of(sparsifier.get_mask(name)), before[name]), name
    return len(attachment.names), zeros / elements


def traffic(rank, dtype, tensors=40, pool="all", steps=2, guesses=True):
    """What a step sends without hints, and with those of the step before."""
    sample.LARGE = 1 << (20 if guesses else 60)
    generator = torch.Generator().manual_seed(0)
    kind = getattr(torch, dtype)
    mesh = mesh_of(dist.get_world_size())
    sparsifier = DataNormSparsifier(sparse_block_shape=(1, 1), sparsity_level=0.9, pool=pool)
    for i in range(tensors):
        whole = torch.randn(64, 512, generator=generator).to(kind)
        sparsifier.add_data(str(i), spread(whole, mesh, (Shard(0),)))
    ranks = layout_of(sparsifier.get_data("0")).together
    sent = []
    for _ in range(steps):
        ranks.traffic = Traffic()
        sparsifier.step()
        sent.append(ranks.traffic)
    return tuple(sent)


def replaced_memory(rank):
    """Shards whose memory is another one at each step, in each way in which it is replaced."""
    mesh = mesh_of(dist.get_world_size())
    generator = torch.Generator().manual_seed(0)
    parameter = nn.Parameter(spread(torch.zeros(8, 12), mesh, (Shard(0),)))
    sparsifier = DataNormSparsifier([("w", parameter)], 0.5, (1, 1))
    alone = DataNormSparsifier(sparsity_level=0.5, sparse_block_shape=(1, 1))

    def set_whole(whole):
        with torch.no_grad():
            parameter.copy_(spread(whole, mesh, (Shard(0),)))

    def set_memory(whole):
        parameter._local_tensor = whole.clone()  # as FSDP2 does

    def set_storage(whole):
        parameter._local_tensor.data = whole.t().clone().t()

    for number, put in enumerate([set_whole, set_memory, set_storage] * 2):
        whole = torch.randn(8, 12, generator=generator)
        before = weakref.ref(parameter._local_tensor.untyped_storage())
        put(whole)
        sparsifier.step()
        assert put is set_whole or before() is None, put
        alone.add_data(f"{number}", whole)
        alone.step()
        assert torch.equal(sparsifier.get_mask("w").full_tensor(), alone.get_mask(f"{number}")), put
        sparsifier.apply_mask()
        assert torch.equal(parameter.full_tensor(), whole * alone.get_mask(f"{number}")), put


def pool_of_two_kinds(rank):
    """A pool of shards of which one is of a class of its own, whose memory nobody borrows."""

    class Own(torch.Tensor):
        pass

    mesh = mesh_of(dist.get_world_size())
    sparsifier = DataNormSparsifier(sparsity_level=0.5, sparse_block_shape=(1, 1), pool="p")
    for name, first in (("less", 1.0), ("more", 101.0)):
        shards = spread(torch.arange(first, first + 24).reshape(6, 4), mesh, (Shard(0),))
        if name == "more":
            shards._local_tensor = shards._local_tensor.as_subclass(Own)
        sparsifier.add_data(name, shards)
    sparsifier.step()
    assert not bool(sparsifier.get_mask("less").to_local().any())
    assert bool(sparsifier.get_mask("more").to_local().all())


def warm_up(rank):
    """DCP fills an optimizer's state by a step that is none."""
    model = sharded_model("fsdp")
    sparsifier = DataNormSparsifier(sparse_block_shape=(1, 1), sparsity_level=0.5)
    attachment = attach(model, sparsifier)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    schedule = schedules.Linear(initial=0.2, final=0.8, end=3)
    scheduler = DataScheduler(sparsifier, "sparsity_level", schedule)
    following = attachment.follow(optimizer, scheduler=scheduler)
    epoch = scheduler.last_epoch
    before = {name: whole_of(sparsifier.get_data(name)) for name in attachment.names}
    get_optimizer_state_dict(model, optimizer)
    get_state_dict(model, optimizer)
    assert following.steps == 0
    assert scheduler.last_epoch == epoch
    for name in attachment.names:
        assert torch.equal(whole_of(sparsifier.get_data(name)), before[name])
        assert whole_of(sparsifier.get_mask(name)).all()


def scored(rank, name):
    """Scores that read gradients, and sum them up: those of whole tensors."""
    model = sharded_model("fsdp")
    config = {"sparse_block_shape": (1, 1), "sparsity_level": 0.5, "score": getattr(scores, name)()}
    sparsifier, here = DataNormSparsifier(**config), DataNormSparsifier(**config)
    attachment = attach(model, sparsifier)
    for group in attachment.names:
        here.add_data(group, whole_of(sparsifier.get_data(group)))
    torch.manual_seed(rank)
    for _ in range(2):
        model.zero_grad()
        model(torch.randn(8, 16)).square().mean().backward()
        here.set_gradients(
            {group: whole_of(sparsifier.get_data(group).grad) for group in attachment.names}
        )
        sparsifier.accumulate()
        here.accumulate()
    here.set_gradients(
        {group: whole_of(sparsifier.get_data(group).grad) for group in attachment.names}
    )
    sparsifier.step()
    here.step()
    for group in attachment.names:
        assert torch.equal(whole_of(sparsifier.get_mask(group)), here.get_mask(group)), group
    saved, right = sparsifier.state_dict(), here.state_dict()
    assert str(saved) == str(right)
