"""What goes wrong on one rank, in the tests of shards: run by ranks_harness on each rank."""

import os
import signal
from contextlib import contextmanager

import datasparse.torch.sharded.compute as compute
import torch
import torch.distributed as dist
from datasparse import DataNormSparsifier
from datasparse.torch.sharded import RankError
from datasparse.torch.sharded.core_parts import CoreParts
from sharded_cases import mesh_of, spread, whole_of
from torch.distributed.tensor import Replicate, Shard

PLACES = [(Shard(0),), (Shard(1),), (Replicate(),)]


def data_of(seed=0):
    """Three sharded tensors, and one that every rank has."""
    generator = torch.Generator().manual_seed(seed)
    wholes = [torch.randn(16, 8, generator=generator) for _ in range(4)]
    mesh = mesh_of(dist.get_world_size())
    sharded = [spread(w, mesh, p) for w, p in zip(wholes, PLACES, strict=False)]
    return {str(i): data for i, data in enumerate([*sharded, wholes[3]])}


def sparsifier_of(kind=DataNormSparsifier, data=None, **config):
    defaults = {"sparse_block_shape": (1, 1), "sparsity_level": 0.5}
    sparsifier = kind(**(defaults | config))
    for name, tensor in (data or data_of()).items():
        sparsifier.add_data(name, tensor)
    return sparsifier


def masks_of(sparsifier):
    return [whole_of(sparsifier.get_mask(name)) for name in sparsifier.data_groups]


def local_masks_of(sparsifier):
    """Without a word to other ranks."""
    masks = (sparsifier.get_mask(name) for name in sparsifier.data_groups)
    return [getattr(mask, "_local_tensor", mask).clone() for mask in masks]


def raises(sparsifier):
    """The error of a step, which must leave all as it was; None where there is none."""
    before, raised = local_masks_of(sparsifier), None
    try:
        sparsifier.step()
    except Exception as error:
        raised = type(error).__name__, str(error)
    after = local_masks_of(sparsifier)
    assert raised is None or all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    return raised


def goes_on(sparsifier, **config):
    """Whether all ranks have the same masks after another step as one machine has."""
    sparsifier.step()
    here = DataNormSparsifier(**({"sparse_block_shape": (1, 1), "sparsity_level": 0.5} | config))
    for name in sparsifier.data_groups:
        here.add_data(name, whole_of(sparsifier.get_data(name)))
    here.step()
    pairs = zip(masks_of(sparsifier), masks_of(here), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


# --- disagreements ----------------------------------------------------------------------------


def level(sparsifier):
    sparsifier.data_groups["0"]["sparsity_level"] = 0.75


def block(sparsifier):
    sparsifier.data_groups["1"]["sparse_block_shape"] = (1, 2)


def norm(sparsifier):
    sparsifier.data_groups["2"]["norm"] = "L2"


def monotone(sparsifier):
    sparsifier.data_groups["0"]["monotone"] = True


def pool(sparsifier):
    for name in ("0", "1"):
        sparsifier.data_groups[name]["pool"] = "p"


def bound(sparsifier):
    for name in ("0", "1"):
        sparsifier.data_groups[name].update(pool="p", max_level=0.6)


def one_less(sparsifier):
    sparsifier.remove_data("1")


def order(sparsifier):
    data = sparsifier.get_data("0")
    sparsifier.remove_data("0")
    sparsifier.add_data("0", data)


def shape(sparsifier):
    sparsifier.remove_data("2")
    data = spread(torch.randn(16, 4), mesh_of(dist.get_world_size()), (Replicate(),))
    sparsifier.add_data("2", data)


def dtype(sparsifier):
    sparsifier.remove_data("2")
    data = spread(torch.randn(16, 8).double(), mesh_of(dist.get_world_size()), (Replicate(),))
    sparsifier.add_data("2", data)


def version(sparsifier):
    compute.__version__ = "0.0"


def steps(sparsifier):
    mesh = mesh_of(dist.get_world_size())
    compute.Ranks.of_mesh(mesh).calls += 1


DISAGREEMENTS = {
    "level": (level, "tensor 0 is"),
    "block": (block, "tensor 1 is"),
    "norm": (norm, "norm L2"),
    "monotone": (monotone, "monotone True"),
    "pool": (pool, "search 0 is"),
    "bound": (bound, "search 0 is"),
    "one_less": (one_less, "the number of tensors is 2, and not 3"),
    "order": (order, "tensor 0 is"),
    "shape": (shape, "of shape (16, 4)"),
    "dtype": (dtype, "torch.float64"),
    "version": (version, "datasparse is 0.0"),
    "steps": (steps, "call is step() "),
}


def disagree(rank, name):
    sparsifier = sparsifier_of()
    before = compute.__version__
    if rank == 1:
        DISAGREEMENTS[name][0](sparsifier)
    error = raises(sparsifier)
    compute.__version__ = before
    if name == "steps" and rank != 1:
        steps(sparsifier)
    again = sparsifier_of()
    goes_on(again)
    return error


# --- errors -----------------------------------------------------------------------------------


class Scored(DataNormSparsifier):
    fails = False

    def get_scores(self, name, data, **config):
        if self.fails and name == "1":
            raise KeyError("no scores")
        return data


class Overridden(DataNormSparsifier):
    fails_at = None

    def update_mask(self, name, data, **config):
        super().update_mask(name, data, **config)
        if name == self.fails_at:
            raise KeyError("no mask")


@contextmanager
def failing(name, at=1, of=CoreParts):
    """A method of CoreParts, or a function of a module, that raises at its so manieth call."""
    work = getattr(of, name)
    calls = 0

    def raising(*args):
        nonlocal calls
        calls += 1
        if calls == at:
            raise MemoryError(f"{name}()")
        return work(*args)

    setattr(of, name, raising)
    try:
        yield
    finally:
        setattr(of, name, work)


FAULTS = ["scores", "first_mask", "last_mask", "shape", "prelude", "begin", "count", "count_again",
          "contents"]  # fmt: skip


def fail(rank, fault):
    """An error on rank 1; returns what each rank raises."""
    kind = {"scores": Scored, "first_mask": Overridden, "last_mask": Overridden}.get(fault)
    config = {"monotone": True} if fault in ("prelude", "begin") else {}
    data = data_of()
    sparsifier = sparsifier_of(kind or DataNormSparsifier, data, **config)
    sparsifier.step()
    for tensor in data.values():
        getattr(tensor, "_local_tensor", tensor).mul_(-1).add_(0.3)
        if fault == "count_again":  # ties
            getattr(tensor, "_local_tensor", tensor).sign_()
    fails = rank == 1
    if fault == "scores":
        sparsifier.fails = fails
        error = raises(sparsifier)
        sparsifier.fails = False
    elif fault in ("first_mask", "last_mask"):
        sparsifier.fails_at = {"first_mask": "0", "last_mask": "3"}[fault] if fails else None
        error = raises(sparsifier)
        sparsifier.fails_at = None
    elif fault == "shape":
        whole = data["3"].data
        if fails:
            data["3"].data = torch.zeros(3)
        error = raises(sparsifier)
        data["3"].data = whole
    else:
        name, at = {"count_again": ("count", 2)}.get(fault, (fault, 1))
        if fails:
            with failing(name, at):
                error = raises(sparsifier)
        else:
            error = raises(sparsifier)
    if not config:
        goes_on(sparsifier)
    else:
        sparsifier.step()
    return error


def killed(rank, at):
    """One rank dies in the middle of a step; what the others raise, and whether all is whole."""
    sparsifier = sparsifier_of()
    sparsifier.step()
    before = local_masks_of(sparsifier)
    if rank == 1:

        def dying(*_):
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(CoreParts, at, dying)
    for name in sparsifier.data_groups:
        sparsifier.data_groups[name]["sparsity_level"] = 0.75
    try:
        sparsifier.step()
    except RankError as error:
        after = local_masks_of(sparsifier)
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        return str(error)
    return None
