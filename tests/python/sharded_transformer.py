"""A transformer that is trained in shards, held to its gathered weights: run by ranks_harness."""

import numpy as np
import torch
import torch.distributed as dist
from datasparse import DataNormSparsifier
from datasparse.torch import attach
from sharded_cases import mesh_of, whole_of
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

WIDTH, HEADS, VOCABULARY, LENGTH = 16, 2, 32, 8
LEVEL = 0.8


class Layer(nn.Module):
    """Attention and a network behind it, each beside what comes in."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.o = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        batch, length, _ = x.shape
        seen = self.norm1(x)
        # Ranks of tensor parallelism have some of the heads each.
        q, k, v = (
            project(seen).view(batch, length, -1, WIDTH // HEADS).transpose(1, 2)
            for project in (self.q, self.k, self.v)
        )
        heads = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(heads.transpose(1, 2).reshape(batch, length, -1))
        return x + self.down(torch.relu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(depth))
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def sharded(kind, depth):
    torch.manual_seed(0)
    model = Transformer(depth)
    size = dist.get_world_size()
    mesh = mesh_of(size) if kind == "fsdp" else mesh_of(2, size // 2)["a"]
    for layer in model.layers:
        if kind == "fsdp_tp":
            plan = {name: ColwiseParallel() for name in ("q", "k", "v", "up")}
            plan |= {name: RowwiseParallel() for name in ("o", "down")}
            parallelize_module(layer, mesh_of(2, size // 2)["b"], plan)
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def masks_of(weights):
    """One threshold over all of them, by a sort."""
    magnitudes = np.concatenate([weight.abs().flatten().numpy() for weight in weights.values()])
    pruned = np.argsort(magnitudes, kind="stable")[: round(LEVEL * magnitudes.size)]
    kept = np.ones(magnitudes.size, bool)
    kept[pruned] = False
    ends = np.cumsum([weight.numel() for weight in weights.values()])[:-1]
    parts = np.split(kept, ends)
    return {
        name: torch.from_numpy(part).view(weight.shape)
        for (name, weight), part in zip(weights.items(), parts, strict=True)
    }


def train(rank, kind, depth, steps):
    """Returns the losses: masks and zeros are checked at each step."""
    model = sharded(kind, depth)
    sparsifier = DataNormSparsifier(
        sparse_block_shape=(1, 1), sparsity_level=LEVEL, pool="everything"
    )
    attachment = attach(model, sparsifier)
    assert len(attachment.names) == 6 * depth + 2
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    weights, seen = {}, {}

    def remember(*_):
        for name in attachment.names:
            weights[name] = whole_of(sparsifier.get_data(name))

    optimizer.register_step_post_hook(remember)  # before zeros are written
    attachment.follow(optimizer)
    # What the last layer computes with: of tensor parallelism, this rank's rows.
    last = model.layers[-1].up
    last.register_forward_pre_hook(lambda module, _: seen.update(up=module.weight.detach().clone()))
    generator = torch.Generator().manual_seed(rank if kind == "fsdp" else rank // 2)
    losses = []
    masks = None
    for _ in range(steps):
        tokens = torch.randint(VOCABULARY, (4, LENGTH), generator=generator)
        logits = model(tokens)
        if masks is not None:
            whole = whole_of(seen["up"])
            pruned = ~masks[f"layers.{depth - 1}.up.weight"]
            assert whole.shape == pruned.shape
            assert not whole[pruned].any()
            assert whole.any()
        # Each token is that of the place before.
        wanted = tokens.roll(1, dims=1)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        masks = masks_of(weights)
        for name, mask in masks.items():
            own = sparsifier.get_mask(name)
            assert isinstance(own, DTensor)
            assert torch.equal(whole_of(own), mask), name
            now = whole_of(sparsifier.get_data(name))
            assert torch.equal(now, weights[name].masked_fill(~mask, 0)), name
    assert abs(attachment.sparsity() - LEVEL) < 1e-3
    return losses
