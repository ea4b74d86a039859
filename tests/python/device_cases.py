"""Random cases for the routes that compute masks on a device, with what the core computes.

A case is one call: jobs, pools of some of them, and the mask that each job must get. The core gets
the same tensors and configs; only the numbers of a pool's plan are worked out here (`plan_of`).
"""

import importlib
import math
import warnings
from itertools import count

import numpy as np
import torch
from datasparse import DataNormSparsifier
from datasparse.torch.device.job import Job, Pool

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
# Of the route by plain operations. A function of that package hides its module `compute`.
MODULES = {
    name: importlib.import_module(f"datasparse.torch.device.operations.{name}")
    for name in ("arithmetic", "compute", "draw", "keys", "move", "select", "squares", "within")
}


def tenths(rng, shape):
    """Products of these are rounded, which a fused multiply-add leaves out."""
    return rng.integers(-30, 31, shape) / 10


def neighbours(rng, shape):
    """Floats that follow each other: dividing by way of the reciprocal makes others of them."""
    return 3.0 + rng.integers(0, 6, shape) * 2.0**-22


def near_one(rng, shape):
    return 1 + rng.standard_normal(shape) * 2.0**-20


def tiny_squares(rng, shape):
    return rng.standard_normal(shape) * 1e-20


def denormals(rng, shape):
    return rng.integers(-9, 10, shape) * 2.0**-149


def denormal_doubles(rng, shape):
    return rng.integers(-9, 10, shape) * 2.0**-1074


def ties(rng, shape):
    return rng.integers(-3, 4, shape).astype(float)


def mostly_zeros(rng, shape):
    return rng.standard_normal(shape) * (rng.random(shape) < 0.2)


def wide_range(rng, shape):
    return rng.standard_normal(shape) * 2.0 ** rng.integers(-140, 120, shape)


def wide_range_of_doubles(rng, shape):
    """Their squares overflow, or are denormal, or 0."""
    return rng.standard_normal(shape) * 2.0 ** rng.choice([-540, -530, -511, 0, 505, 513], shape)


def overflowing(rng, shape):
    return rng.standard_normal(shape) * 2.0**70


VALUES = [
    tenths,
    neighbours,
    near_one,
    tiny_squares,
    denormals,
    denormal_doubles,
    ties,
    mostly_zeros,
    wide_range,
    wide_range_of_doubles,
    overflowing,
    lambda rng, shape: rng.standard_normal(shape),
]


def random_bits(rng, dtype, shape):
    """Any pattern of bits: all kinds of NaN among them."""
    width = torch.empty(0, dtype=dtype).element_size()
    drawn = torch.from_numpy(rng.integers(-(2**63), 2**63 - 1, shape, dtype=np.int64))
    return drawn.to(BITS[width]).view(dtype)


def put_specials(rng, tensor):
    """NaN of several bits, infinities and zeros of both signs, here and there."""
    bits = tensor.view(BITS[tensor.element_size()])

    infinite = int(torch.tensor(float("inf"), dtype=tensor.dtype).view(bits.dtype).item())
    lowest = torch.iinfo(bits.dtype).min
    nans = [infinite + 1, infinite + 3, (infinite + 2) | lowest]
    for special in [infinite, infinite | lowest, *nans, 0, lowest]:
        if rng.random() < 0.5:
            where = torch.from_numpy(np.asarray(rng.random(tuple(tensor.shape)) < 0.1))
            bits[where] = special


def random_shape(rng):
    kind = rng.random()
    if kind < 0.03:
        return ()
    if kind < 0.06:
        return tuple(rng.choice([0, 3], int(rng.integers(1, 4))).tolist())
    if kind < 0.1:  # several tiles of any route
        return [(3, 1500), (5000,), (1, 2048), (2100, 2), (40, 9, 10)][rng.integers(5)]
    return tuple(rng.integers(1, 11, int(rng.integers(1, 5))).tolist())


def strided(rng, shape, dtype):
    """Uninitialised memory of that shape, its strides drawn."""
    kind = rng.integers(4) if len(shape) > 0 else 0
    if kind == 1:
        order = rng.permutation(len(shape)).tolist()
        inverse = np.argsort(order).tolist()
        return torch.empty([shape[i] for i in order], dtype=dtype).permute(inverse)
    if kind == 2:
        steps = rng.integers(1, 4, len(shape)).tolist()
        larger = torch.empty([n * s + 1 for n, s in zip(shape, steps, strict=True)], dtype=dtype)
        return larger[tuple(slice(1, None, s) for s in steps)]
    if kind == 3:
        return torch.empty(math.prod(shape) + 3, dtype=dtype)[3:].view(shape)
    return torch.empty(shape, dtype=dtype)


def random_values(rng, shape, dtype):
    if rng.random() < 0.15:
        return random_bits(rng, dtype, shape)
    drawn = np.asarray(VALUES[rng.integers(len(VALUES))](rng, shape), dtype=np.float64)
    tensor = torch.from_numpy(drawn).to(dtype)
    if rng.random() < 0.4:
        put_specials(rng, tensor)
    return tensor


def random_config(rng, shape):
    """The keys of a group's config, and its layout."""
    blocks = [(1, 1), (1, 1), (1, 4), (1, 2), (1, 8), (2, 2), (3, 2), (4, 1), (1, -1), (-1, 1),
              (2, -1), (5, 7), (1, 16), (-1, -1)]  # fmt: skip
    block = blocks[rng.integers(len(blocks))]
    level = float(rng.choice([0, 0.1, 0.25, 0.5, 0.5, 0.75, 0.9, 1, 1, rng.random()]))
    config = {"sparsity_level": level, "sparse_block_shape": block}
    config["norm"] = [None, "L1", "L1", "L2"][rng.integers(4)]
    if rng.random() < 0.4:
        config["zeros_per_block"] = int(rng.integers(0, math.prod(map(abs, block)) + 1))
    if rng.random() < 0.3:
        config["monotone"] = True
    layout = ()
    if len(shape) > 1 and rng.random() < 0.3:
        layout = tuple(rng.permutation(len(shape)).tolist())
    return config, layout


def matrix_of(shape, layout):
    """Rows and columns of the matrix that blocks are cut from."""
    if len(shape) < 2:
        return 1, math.prod(shape)
    rows = shape[layout[0] if layout else 0]
    return rows, math.prod(shape[axis] for axis in layout[1:]) if layout else math.prod(shape[1:])


def pattern_of(shape, config, layout):
    """A block's height and width within the matrix, its zeros, and how many blocks there are."""
    matrix = matrix_of(shape, layout)
    height, width = (
        side if block == -1 else min(block, side)
        for block, side in zip(config["sparse_block_shape"], matrix, strict=True)
    )
    if height * width == 0:
        return height, width, 0, 0
    zeros = min(config.get("zeros_per_block", height * width), height * width)
    return height, width, zeros, -(-matrix[0] // height) * -(-matrix[1] // width)


def job_of(data, config, layout, mask, kept):
    height, width, zeros, blocks = pattern_of(data.shape, config, layout)
    block = config["sparse_block_shape"]
    return Job(
        scores=data,
        mask=mask,
        order=layout,
        block=(
            max(height, 1) if block[0] == -1 else block[0],
            max(width, 1) if block[1] == -1 else block[1],
        ),
        zeros=config.get("zeros_per_block", zeros) if -1 not in block else zeros,
        pruned=round(config["sparsity_level"] * blocks),
        norm=config["norm"] or "none",
        monotone=config.get("monotone", False),
        kept_zeros=kept,
    )


def plan_of(jobs, groups):
    """PoolPlan::of() in Python; None where the bounds leave no room. Groups: (shape, config,
    layout)."""
    patterns = [pattern_of(*group) for group in groups]
    divisor = math.gcd(*(zeros for _, _, zeros, _ in patterns)) or 1
    weights = [zeros // divisor for _, _, zeros, _ in patterns]
    blocks = [number for _, _, _, number in patterns]
    of_all = [number * weight for number, weight in zip(blocks, weights, strict=True)]
    all_, levels, total = sum(of_all), set(), 0.0
    for (_, config, _), number in zip(groups, of_all, strict=True):
        if number > 0:
            levels.add(config["sparsity_level"])
            total += config["sparsity_level"] * number
    budget = round(levels.pop() * all_ if len(levels) == 1 else total)
    least, most = [], []
    for (_, config, _), number, weight in zip(groups, blocks, weights, strict=True):
        up = min(number, math.ceil(config.get("max_level", 1) * number)) if weight else 0
        down = math.floor(config.get("min_level", 0) * number)
        most.append(up)
        least.append(min(down, budget * number // all_, up) if weight else 0)
    if budget > sum(w * m for w, m in zip(weights, most, strict=True)):
        return None
    return Pool(
        jobs=tuple(jobs),
        weights=tuple(weights),
        least=tuple(least),
        most=tuple(most),
        budget=budget,
        normalize=tuple(config.get("normalize") == "l2" for _, config, _ in groups),
    )


def put_into_pools(rng, groups):
    """Makes one or two pools of some of the groups, in their configs; returns their plans."""
    pools = []
    member = rng.integers(-1 if len(groups) > 2 else 0, 2, len(groups))
    for number in (0, 1):
        own = [i for i in range(len(groups)) if member[i] == number]
        level = groups[own[0]][1]["sparsity_level"] if own else 0
        bounded, normalized = rng.random() < 0.5, rng.random() < 0.35
        for i in own:
            config = groups[i][1]
            config["pool"] = f"p{number}"
            if rng.random() < 0.8:
                config["sparsity_level"] = level
            if bounded and rng.random() < 0.6:
                config["max_level"] = float(rng.uniform(0.7, 1))
                config["min_level"] = float(rng.uniform(0, 0.7))
            if normalized and rng.random() < 0.7:
                config["normalize"] = "l2"
        plan = plan_of(own, [groups[i] for i in own]) if own else None
        if own and plan is None:
            for i in own:
                groups[i][1].pop("max_level", None)
                groups[i][1].pop("min_level", None)
            plan = plan_of(own, [groups[i] for i in own])
        if plan is not None:
            pools.append(plan)
    return pools


def random_groups(rng):
    """A few (shape, config, layout), and the dtypes: all of one kind at times, for batches."""
    number = int(rng.integers(1, 6))
    shape, dtype = random_shape(rng), DTYPES[rng.integers(4)]
    config, layout = random_config(rng, shape)
    groups, dtypes = [], []
    alike = rng.random()
    for _ in range(number):
        own = dict(config)
        if alike < 0.3:  # but for the level
            own["sparsity_level"] = random_config(rng, shape)[0]["sparsity_level"]
        elif alike > 0.6:
            shape, dtype = random_shape(rng), DTYPES[rng.integers(4)]
            own, layout = random_config(rng, shape)
        groups.append((shape, own, layout))
        dtypes.append(dtype)
    return groups, dtypes


def random_case(rng, with_pools):
    groups, dtypes = random_groups(rng)
    pools = put_into_pools(rng, groups) if rng.random() < 0.35 and with_pools else []
    sparsifier = DataNormSparsifier()
    jobs = []
    for i, ((shape, config, layout), dtype) in enumerate(zip(groups, dtypes, strict=True)):
        data = strided(rng, shape, dtype)
        kept = None
        if rng.random() < 0.25:
            kept = torch.from_numpy(np.asarray(rng.random(shape) < rng.random() * 0.5))
            data.copy_(~kept)
        before = torch.from_numpy(np.asarray(rng.random(shape) >= rng.random()))
        sparsifier.add_data(
            str(i), data, mask=before, layout=layout, keep_zeros=kept is not None, **config
        )
        data.copy_(random_values(rng, shape, dtype))
        jobs.append(job_of(data, config, layout, sparsifier.get_mask(str(i)).clone(), kept))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "step.. pruned all weights")
        sparsifier.step()
    return jobs, pools, [sparsifier.get_mask(str(i)).clone() for i in range(len(jobs))]


def random_cases(seed, n, with_pools=True):
    """Yields (jobs, pools, expected) n times: some Job, all on the CPU, Pools of some of them, and
    the bool mask of each job, as the core computes it. The same for the same seed."""
    for i in range(n):
        yield random_case(np.random.default_rng([seed, i]), with_pools)


def matrix_job(scores, block=(1, 1), level=0.5, zeros=None, norm="L1", **more):
    """A job by itself, of a matrix: plain cases that a test writes down."""
    down, across = (-(-n // b) for n, b in zip(scores.shape, block, strict=True))
    return Job(
        scores=scores,
        mask=more.get("mask", torch.ones(scores.shape, dtype=torch.bool, device=scores.device)),
        order=(),
        block=block,
        zeros=math.prod(block) if zeros is None else zeros,
        pruned=round(level * down * across),
        norm=norm,
        monotone=more.get("monotone", False),
        kept_zeros=more.get("kept_zeros"),
    )


def pool_of(jobs, share=0.5, normalize=False):
    """All of them, blocks of one size."""
    blocks = [math.prod(-(-n // b) for n, b in zip(j.scores.shape, j.block, strict=True))
              for j in jobs]  # fmt: skip
    ones = (1,) * len(jobs)
    return Pool(
        jobs=tuple(range(len(jobs))),
        weights=ones,
        least=(0,) * len(jobs),
        most=tuple(blocks),
        budget=round(share * sum(blocks)),
        normalize=(normalize,) * len(jobs),
    )


def check_route(compute, seed, n):
    """Holds a route to the core in n random cases, and to changing nothing that it is given."""
    for case, (jobs, pools, expected) in enumerate(random_cases(seed, n)):
        before = [(bits_of(job), job.mask.clone()) for job in jobs]
        masks = compute(jobs, pools)
        assert len(masks) == len(jobs)
        for i, (job, mask, right) in enumerate(zip(jobs, masks, expected, strict=True)):
            where = f"job {i} of case {case} of seed {seed}:\n{describe(jobs, pools)}"
            assert mask.dtype == torch.bool, where
            assert mask.is_contiguous(), where
            assert torch.equal(mask, right), where
            assert torch.equal(bits_of(job), before[i][0]), where
            assert torch.equal(job.mask, before[i][1]), where


def bits_of(job):
    return job.scores.clone().view(BITS[job.scores.element_size()])


def ever_of(sparsifier, name="w"):
    """The bits of what was ever active, in CPU memory."""
    array = sparsifier.get_array(name, "ever_active")
    return array if isinstance(array, np.ndarray) else array.cpu().numpy()


def describe(jobs, pools):
    """What a failed case is, without the numbers in its tensors."""
    lines = []
    for number, job in zip(count(), jobs):
        lines.append(
            f"{number}: {job.scores.dtype} {tuple(job.scores.shape)} strides {job.scores.stride()}"
            f" order {job.order} block {job.block} zeros {job.zeros} pruned {job.pruned}"
            f" {job.norm} monotone {job.monotone} kept {job.kept_zeros is not None}"
        )
    return "\n".join(lines + [str(pool) for pool in pools])
