"""Sparsifiers and schedulers in the checkpoints of torch.distributed.checkpoint."""

from __future__ import annotations

import io
from collections.abc import Iterable
from hashlib import blake2b
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.stateful import Stateful
from torch.distributed.tensor import DTensor

from ..._core import BaseDataScheduler, BaseDataSparsifier
from ..device import memory
from ..follow import Following
from . import device
from .layout import layout_of
from .ranks import Description, Ranks

Saved = dict[str, Any]


class ShardedState(Stateful):
    """A sparsifier and its schedulers, as a part of what torch.distributed.checkpoint saves.

        state = ShardedState(sparsifier, scheduler, following=following)
        dcp.save({"model": ..., "masks": state}, checkpoint_id=path)
        dcp.load({"model": ..., "masks": state}, checkpoint_id=path)

    Masks are saved as the shards that they are, a byte per element, and come back as those of
    whatever ranks load them: of more, of fewer, or of one that has whole tensors. Everything else
    is one entry, so that none of it can be left out. What is loaded has the same masks, levels and
    next masks; attach the model first. Weights and optimizers are yours to save beside it.

    All ranks save and load at the same time, as torch.distributed.checkpoint wants it. It takes a
    copy of the masks that are here, and another one to load; to load, also one bit per element of
    whole tensors. A `score` that is a sum, such as `Movement()`, zeros that stay (`keep_zeros`) and
    which weights were ever active (`datasparse.regrowth`) are gathered, and saved whole.

    Loading is all or nothing, on all ranks together: where one of them fails, all raise, and have
    what they had. ValueError for a checkpoint of other groups, shapes, scores or schedulers.

    Args:
        schedulers: in the same order wherever it is saved and loaded.
        following: what `Attachment.follow()` returned, whose `steps` go on then.
    """

    def __init__(
        self,
        sparsifier: BaseDataSparsifier,
        *schedulers: BaseDataScheduler,
        following: Following | None = None,
    ) -> None:
        for scheduler in schedulers:
            if not isinstance(scheduler, BaseDataScheduler):
                raise TypeError(
                    f"schedulers must be data schedulers of datasparse, got {scheduler!r}"
                )
            if scheduler.data_sparsifier is not sparsifier:
                raise ValueError("the scheduler belongs to another sparsifier")
        self._sparsifier = sparsifier
        self._schedulers = schedulers
        self._following = following

    def state_dict(self) -> dict[str, Any]:
        """New tensors, by the names of groups in `masks`, and bytes in `state`."""
        everything, masks = self._now()
        return {"state": to_bytes(everything), "masks": masks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        ranks = self._ranks()
        if ranks is None:
            before = self._now()
            try:
                self._put_loaded(state_dict)
            except BaseException:
                self._put(*before)
                raise
            return
        call = ranks.call("load_state_dict()")
        here = call.attempt(self._now)
        try:
            call.agree(call.attempt(self._put_loaded, state_dict))
        except BaseException:
            if here is not None:
                self._put(*here)
            raise

    def _ranks(self) -> Ranks | None:
        """Those who have shards; None where nothing is sharded."""
        masks = self._masks(self._sparsifier.data_groups)
        meshes = [layout_of(mask).together for mask in masks.values() if isinstance(mask, DTensor)]
        return max(meshes, key=lambda ranks: len(ranks.members), default=None)

    def _masks(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Those that torch has, by name: of NumPy's arrays, bits are saved with everything else."""
        present = ((name, self._sparsifier.get_mask(name)) for name in names)
        return {name: mask for name, mask in present if isinstance(mask, Tensor)}

    def _now(self) -> tuple[Saved, dict[str, Tensor]]:
        """All but the bits of masks, and copies of those."""
        masks = self._masks(self._sparsifier.data_groups)
        with device.without_bits_of(masks.values()):
            sparsifier = self._sparsifier.state_dict()
        for name in masks:
            sparsifier["data_groups"][name]["mask"] = None
        everything = {
            "sparsifier": sparsifier,
            "schedulers": [scheduler.state_dict() for scheduler in self._schedulers],
            "steps": None if self._following is None else self._following.steps,
        }
        return everything, {name: copied(mask) for name, mask in masks.items()}

    def _put_loaded(self, state_dict: dict[str, Any]) -> Description:
        """Returns what all ranks must have loaded. Where it fails, part of that may be there."""
        written = state_dict["state"]
        everything = of_bytes(written)
        if (found := len(everything["schedulers"])) != len(self._schedulers):
            raise ValueError(
                f"the checkpoint has {found} schedulers, and ShardedState() was given "
                f"{len(self._schedulers)}: give it those that were saved"
            )
        self._put(everything, state_dict["masks"])
        return [("what is loaded", blake2b(written, digest_size=8).hexdigest())]

    def _put(self, everything: Saved, masks: dict[str, Tensor]) -> None:
        sparsifier = everything["sparsifier"]
        groups = {
            name: group if group["mask"] is not None else whole_group(name, group, masks)
            for name, group in sparsifier["data_groups"].items()
        }
        self._sparsifier.load_state_dict(sparsifier | {"data_groups": groups})
        sharded = {name: mask for name, mask in masks.items() if isinstance(mask, DTensor)}
        if sharded:
            own = [self._sparsifier.get_mask(name) for name in sharded]
            device.put(own, list(sharded.values()))
        for scheduler, saved in zip(self._schedulers, everything["schedulers"], strict=True):
            scheduler.load_state_dict(saved)
        if self._following is not None and everything["steps"] is not None:
            self._following.steps = everything["steps"]


def copied(mask: Tensor) -> Tensor:
    return device.copy(mask) if isinstance(mask, DTensor) else mask.clone()


def whole_group(name: str, group: Saved, masks: dict[str, Tensor]) -> Saved:
    """With bits of its mask: of one in shards only as many, which are put there later."""
    mask = masks.get(name)
    if mask is None:
        raise ValueError(
            f"the checkpoint has a mask of {name!r}, which was not among those to load: attach() "
            "the model, or add_data(), before loading"
        )
    if isinstance(mask, DTensor):
        return group | {"mask": bytes((prod(group["shape"]) + 7) // 8)}
    return group | {"mask": memory.pack([mask])[0]}


def to_bytes(everything: Saved) -> bytes:
    file = io.BytesIO()
    torch.save(everything, file)
    return file.getvalue()


def of_bytes(written: bytes) -> Saved:
    everything: Saved = torch.load(io.BytesIO(written), weights_only=True)
    return everything
