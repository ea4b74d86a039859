"""What a step of RigL, SET and Static does, written as plainly as possible.

It shares no code and no idea with the library; `reference.py` has the scores of blocks. A group is
a dict: `name`; `data` and `gradient`, matrices of NumPy values; `mask`, `kept` and `zeroed`,
matrices of bool, the first of which a step changes, and the last of which it sets where data become
0; and its config: `level`, `fraction`, `seed`, `shape` of blocks, `zeros` of each or None, `norm`,
`min_kept`.
"""

import math

import numpy as np
from reference import block_score, blocks, element_score, number_pruned, rank

MASK64 = 2**64 - 1
ODD = 0x9E3779B97F4A7C15


def mixed(number):
    number = (number + ODD) & MASK64
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & MASK64
    return number ^ (number >> 31)


def stream_of(seed, name, move):
    stream = mixed(seed)
    for byte in name.encode():
        stream = mixed(stream ^ byte)
    return mixed(stream ^ move)


def drawn_key(stream, index):
    return (0, float(mixed((stream + index * ODD) & MASK64) >> 34))


def number_kind(values):
    return np.float64 if values.dtype == np.float64 else np.float32


def is_within(group):
    """Whether elements go and come within blocks: N:M."""
    height, width = group["shape"]
    rows, columns = group["data"].shape
    size = (rows if height == -1 else height) * (columns if width == -1 else width)
    return group["zeros"] is not None and group["zeros"] < max(size, 1)


class Units:
    """What a group consists of: blocks, or single elements."""

    def __init__(self, group, shape):
        self.group = group
        self.blocks = blocks(*group["data"].shape, shape)
        mask, kept = group["mask"], group["kept"]
        self.dead = [all(kept[at] for at in block) for block in self.blocks]
        self.active = [
            not dead and all(mask[at] or kept[at] for at in block)
            for block, dead in zip(self.blocks, self.dead, strict=True)
        ]
        self.dropped = [False] * len(self.blocks)
        self.grown = [False] * len(self.blocks)

    def keys(self, values, norm):
        kind = number_kind(values)
        with np.errstate(all="ignore"):
            return [
                rank(block_score([kind(values[at]) for at in block], norm)) for block in self.blocks
            ]

    def survives(self, i):
        return self.active[i] and not self.dropped[i]


def lowest(keys, may, budget, weights):
    """The (group, index) of the units that come first, as far as the budget pays for them."""
    order = sorted(
        (keys[g][i], g, i) for g in range(len(keys)) for i in range(len(keys[g])) if may(g, i)
    )
    taken = []
    for _, g, i in order:
        if weights[g] > budget:
            break
        budget -= weights[g]
        taken.append((g, i))
    return taken


def block_weights(groups):
    sizes = []
    for group in groups:
        rows, columns = group["data"].shape
        height, width = group["shape"]
        height = rows if height == -1 else min(height, rows)
        width = columns if width == -1 else min(width, columns)
        sizes.append(height * width)
    divisor = math.gcd(*sizes) or 1
    return [size // divisor for size in sizes]


def number_pruned_of_all(groups, units, weights, pooled):
    if not pooled:
        (group,) = groups
        return number_pruned(group["level"], len(units[0].blocks), group["min_kept"])
    counts = [w * len(u.blocks) for w, u in zip(weights, units, strict=True)]
    levels = [group["level"] for group in groups]
    if len(set(levels)) == 1:
        return round(levels[0] * sum(counts))
    total = 0.0
    for level, count in zip(levels, counts, strict=True):
        total += level * count
    return round(total)


def number_dropped(groups, counts):
    fractions = [group["fraction"] for group in groups]
    if len(set(fractions)) == 1:
        return math.floor(fractions[0] * sum(counts))
    total = 0.0
    for fraction, count in zip(fractions, counts, strict=True):
        total += fraction * count
    return math.floor(total)


def put(group, units):
    """Writes the mask, and what is new."""
    for i, block in enumerate(units.blocks):
        keeps = units.survives(i) or units.grown[i]
        for at in block:
            group["mask"][at] = keeps and not group["kept"][at]
            if units.grown[i] and not units.active[i] and not group["kept"][at]:
                group["zeroed"][at] = True


def total(units, weights, what):
    return sum(w * sum(what(u)) for u, w in zip(units, weights, strict=True))


def inactive(units):
    return [not units.survives(i) and not units.dead[i] for i in range(len(units.blocks))]


def draw(groups, pooled):
    """First masks."""
    groups = [group for group in groups if group["data"].size]
    for group in groups:
        group["mask"][:] = True
    if not groups:
        return
    if is_within(groups[0]):
        for group in groups:
            stream = stream_of(group["seed"], group["name"], 0)
            columns = group["data"].shape[1]
            for block in blocks(*group["data"].shape, group["shape"]):
                order = sorted(
                    block,
                    key=lambda at: (
                        not group["kept"][at],
                        drawn_key(stream, at[0] * columns + at[1]),
                    ),
                )
                for at in order[: group["zeros"]]:
                    group["mask"][at] = False
            group["mask"] &= ~group["kept"]
        return
    units = [Units(group, group["shape"]) for group in groups]
    weights = block_weights(groups)
    dead = total(units, weights, lambda u: u.dead)
    budget = number_pruned_of_all(groups, units, weights, pooled) - dead
    keys = [
        [drawn_key(stream_of(group["seed"], group["name"], 0), i) for i in range(len(own.blocks))]
        for group, own in zip(groups, units, strict=True)
    ]
    for g, i in lowest(keys, lambda g, i: units[g].active[i], budget, weights):
        units[g].dropped[i] = True
    for group, own in zip(groups, units, strict=True):
        put(group, own)


def move(groups, pooled, by_gradient, number):
    """Moves the masks of a group, or of those of a pool; `number` counts steps from 1."""
    groups = [group for group in groups if group["data"].size]
    if not groups:
        return
    streams = [stream_of(group["seed"], group["name"], number) for group in groups]
    within = is_within(groups[0])
    units = [Units(group, (1, 1) if within else group["shape"]) for group in groups]
    weights = [1] * len(groups) if within or not pooled else block_weights(groups)
    active = [w * sum(u.active) for u, w in zip(units, weights, strict=True)]
    drops = number_dropped(groups, active)
    if not within:
        pruned = total(units, weights, lambda u: [not a for a in u.active])
        target = number_pruned_of_all(groups, units, weights, pooled)
        drops = max(drops, target - pruned)
    keys = [u.keys(u.group["data"], u.group["norm"]) for u in units]
    for g, i in lowest(keys, lambda g, i: units[g].active[i], drops, weights):
        units[g].dropped[i] = True
    if within:
        for own, stream in zip(units, streams, strict=True):
            move_within(own, by_gradient, stream)
    else:
        if by_gradient:
            keys = [u.keys(u.group["gradient"], u.group["norm"]) for u in units]
        else:
            keys = [
                [drawn_key(stream, i) for i in range(len(own.blocks))]
                for own, stream in zip(units, streams, strict=True)
            ]
        may = [inactive(u) for u in units]
        target -= total(units, weights, lambda u: u.dead)
        stay = set(lowest(keys, lambda g, i: may[g][i], target, weights))
        for g, own in enumerate(units):
            for i in range(len(own.blocks)):
                own.grown[i] = may[g][i] and (g, i) not in stay
    for group, own in zip(groups, units, strict=True):
        put(group, own)


def move_within(units, by_gradient, stream):
    """`units` are elements, some of which are dropped: each block of the group is filled up."""
    group = units.group
    columns = group["data"].shape[1]
    norm = group["norm"]

    def score(values, at):
        with np.errstate(all="ignore"):
            return rank(element_score(number_kind(values)(values[at]), norm))

    for block in blocks(*group["data"].shape, group["shape"]):
        index = {at: at[0] * columns + at[1] for at in block}
        zeros = min(group["zeros"], len(block))
        pruned = [at for at in block if not units.survives(index[at])]
        survivors = [at for at in block if units.survives(index[at])]
        survivors.sort(key=lambda at: (score(group["data"], at), at))
        for at in survivors[: max(zeros - len(pruned), 0)]:
            units.dropped[index[at]] = True
        may = [at for at in block if not units.survives(index[at]) and not units.dead[index[at]]]
        dead = sum(units.dead[index[at]] for at in block)
        may.sort(
            key=lambda at: (
                score(group["gradient"], at) if by_gradient else drawn_key(stream, index[at]),
                at,
            )
        )
        for at in may[max(zeros - dead, 0) :]:
            units.grown[index[at]] = True
