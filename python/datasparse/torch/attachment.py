"""attach() and detach(): from a model's weights to a sparsifier's groups, and back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any
from warnings import warn
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

from .._core import BaseDataSparsifier, DataNormSparsifier, RegrowthSparsifier
from .._table import aligned, by_reason
from .choose import (
    Choice,
    Owned,
    Patterns,
    Types,
    choose,
    opened,
)
from .distribute import LEVEL, Distribution, distributed, require_distribution
from .dtensors import count_nonzero, zero_where_pruned
from .follow import Following, Schedulers, named
from .gradients import regrows
from .groups import is_masked
from .layout import Layout, layout_of
from .optimizer import held_by, inner_optimizer, plain_optimizer, writes_averages
from .parametrize import MaskedTensor, mask_tensor, masked_of, masked_tensors
from .places import Path, Place, Seen, plain_model, same_memory, weight_at
from .refuse import (
    refuse_other_data,
    refuse_unfit,
    require_model,
    require_one_of,
    require_sparsifier,
)
from .weights import Weight, weight_of

if TYPE_CHECKING:
    from .._core import ParamValue
    from ..scores import Score

MODES = ("in_place", "parametrize")
GRADIENTS = ("masked", "straight_through")
LAYOUTS = ("inputs", "memory")

_attachments: WeakKeyDictionary[nn.Module, list[Attachment]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False, repr=False)
class Attachment:
    """What `attach()` did: which weights of a model a sparsifier masks, and how.

    `names` are those of the sparsifier's groups: a parameter's in `model.named_parameters()`, or
    for a weight that is computed, its module's path and its attribute. `left` says of every other
    parameter why it was left. `print(attachment)` shows both as a table.

    Each weight is looked up by its name whenever it is needed, so that a parameter that is
    assigned anew, a layer that is exchanged, or `load_state_dict(..., assign=True)` are followed:
    the mask stays. One that is gone, or has another shape, is a ValueError of the next step.
    """

    sparsifier: BaseDataSparsifier
    names: tuple[str, ...]
    mode: str
    left: dict[str, str]
    places: dict[str, Place]
    seen: Seen
    gradients: str
    followings: WeakSet[Following] = field(default_factory=WeakSet)

    def apply(self, model: nn.Module | None = None) -> None:
        """Write the zeros of the masks as they are now.

        Into the attached weights; with mode="parametrize" there is nothing to do. Or into another
        model that has weights of these names: an average, a copy, one that was loaded or merged. Of
        a copy that is parametrized itself, the masks become those of this attachment. ValueError
        where it lacks one of them, or has it in another shape; nothing is written then.
        """
        if model is not None:
            self._apply_to(plain_model(model))
            return
        self.refresh()
        if self.mode == "in_place":
            self.sparsifier.apply_mask(self._present())

    def follow(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        every: int | None = 1,
        scheduler: Schedulers = None,
        mask_state: bool = False,
        replaces_step: bool = False,
    ) -> Following:
        """At each `optimizer.step()`, move the schedule on, renew the masks, write the zeros.

        The schedule counts the optimizer's steps, whatever `every` is. Masks are renewed after the
        first step, each `every`-th one from there, and the one with which the schedule reaches its
        end; those after step s are of the schedule's value at s. So a schedule with end=N has its
        final masks after N steps. A scheduler of your own has no end that is known. With
        `every=None` masks and scheduler are left to you. A scheduler whose state was saved by
        version 0.1.0 goes on counting renewals (`scheduler.counts_renewals`). Several schedulers,
        each of its own key, move together, and masks are renewed where any reaches its end.

        Masks that are made by gradients, or that move (`datasparse.regrowth`), are renewed between
        the gradients of a step, or its closure, and the update by them; all others after the
        update. Masks that move do so first at step `every`. What has grown begins at 0, and the
        optimizer treats it as at rest: `start_from_rest()`. With `replaces_step` the step at which
        they move trains nothing, as in the paper on RigL: all gradients are None then.

        Zeros are written after every step. With `mask_state` the optimizer forgets pruned elements
        too: `mask_optimizer_state()`. A step that trains nothing is none: one that a GradScaler
        skips or calls in vain, and those by which torch.distributed.checkpoint and others fill the
        state of an optimizer.

        TypeError for what is no torch.optim.Optimizer, and for a scheduler that needs a metric;
        ValueError for an optimizer that holds none of the attached weights or is followed already,
        another sparsifier's scheduler, and, where gradients are read or masks move, for LBFGS and
        for a second optimizer that would renew them. A weight without a gradient is then a
        ValueError of `optimizer.step()`, before anything has moved. A UserWarning names attached
        weights that the optimizer does not hold.
        """
        optimizer = plain_optimizer(optimizer)
        lost = self.names_not_in(held_by([optimizer]))
        if lost and len(lost) == len(self._present()):
            raise ValueError(
                f"the optimizer holds none of the attached weights, {named(lost)}: make it from "
                "the attached model's parameters as they are now. What is not trained needs no "
                "follow(): sparsifier.step() and attachment.apply() once"
            )
        if lost:
            warn(
                f"the optimizer does not hold {named(lost)}: their masks are renewed after its "
                "steps all the same",
                UserWarning,
                stacklevel=2,
            )
        return self.follow_silently(optimizer, every, scheduler, mask_state, replaces_step)

    def follow_silently(
        self,
        optimizer: torch.optim.Optimizer,
        every: int | None,
        scheduler: Schedulers,
        mask_state: bool,
        replaces_step: bool = False,
    ) -> Following:
        """follow() for one of several optimizers, which need not hold all weights."""
        if every is not None and not isinstance(every, int):
            raise TypeError(f"every must be an int or None, got {every!r}")
        if every is not None and every < 1:
            raise ValueError(f"every must be at least 1, or None, got {every}")
        if every is None and scheduler not in (None, [], ()):
            raise ValueError("with every=None the scheduler is left to you: pass none here")
        if (inner := inner_optimizer(optimizer)) is not None:
            warn(
                f"the optimizer keeps another one in its attribute {inner!r}: what counts here is "
                "step() of the outer one. Where you call others of its methods in its place, "
                f"follow optimizer.{inner}",
                UserWarning,
                stacklevel=3,
            )
        if writes_averages(optimizer) and not mask_state:
            warn(
                f"eval() of {type(optimizer).__name__} writes averages into the weights, in which "
                "pruned ones are not zero: with mask_state=True they are",
                UserWarning,
                stacklevel=3,
            )
        return Following(self, optimizer, every, scheduler, mask_state, replaces_step)

    def sparsity(self, model: nn.Module | None = None) -> float:
        """The share of zeros in the attached weights, as the model computes with them.

        `model`: another one to count in, as for `apply()`.
        """
        zeros = elements = 0
        for name in self._known():
            if model is None:
                weights = [self.places[name].weight()]
            else:
                weights = self._weights_in(plain_model(model), name)
            for weight in weights:
                tensor = weight.masked().detach()
                zeros += tensor.numel() - count_nonzero(tensor)
                elements += tensor.numel()
        return zeros / elements if elements else 0.0

    def model(self) -> nn.Module | None:
        """The plain model that was attached, unless it is gone."""
        return self.places[self.names[0]].model()

    def owns_any_of(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether the optimizer holds one of these weights."""
        return len(self.names_not_in(held_by([optimizer]))) < len(self._present())

    def names_not_in(self, held: set[int]) -> list[str]:
        """The weights of which none of these parameters, given by their ids, is a part."""
        return [name for name in self._present() if not self.places[name].is_among(held)]

    def changes(self) -> int:
        """How often a parameter was found to be another than before."""
        return self.seen.changes

    def renew(self) -> None:
        """New masks, by the weights as they are now; `apply()` writes their zeros."""
        self.refresh()
        self.sparsifier.apply_kept_zeros()  # which an optimizer may have moved
        self.sparsifier.step()

    def refresh(self) -> None:
        """With mode="parametrize": mask the layers, too, that were exchanged for plain ones."""
        if self.mode == "in_place":
            return
        for name in self._present():
            mask = self.sparsifier.get_mask(name)
            for weight in self.places[name].weights():
                masked = masked_of(weight.module, weight.attribute)
                if masked is None:
                    mask_tensor(
                        self.sparsifier, name, weight.module, weight.attribute, self.gradients
                    )
                elif masked.mask is not mask:  # the group was added anew
                    masked.mask = mask

    def table(self) -> str:
        """What was taken, and what was left and why, as text."""
        rows = [["weight", "shape", "elements", "rows x columns", "found as"]]
        for name in self.names:
            weight = self.places[name].weight()
            tensor = weight.tensor()
            layout = self._layout_of(name)
            rows.append(
                [
                    name,
                    "x".join(map(str, tensor.shape)),
                    f"{tensor.numel():,}",
                    seen_as(tuple(tensor.shape), layout),
                    weight.made_by or "parameter",
                ]
            )
        left = [f"left, {group}" for group in by_reason(self.left)]
        return "\n".join([*aligned(rows, left_aligned=(0, 1, 3, 4)), *left])

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return (
            f"Attachment({len(self.names)} weights, {len(self.left)} left, mode={self.mode!r}; "
            "print() shows which)"
        )

    def _layout_of(self, name: str) -> Layout | None:
        if name not in self.sparsifier.data_groups:
            return None
        layout: Layout | None = self.sparsifier.layout(name)
        return layout

    def _present(self) -> list[str]:
        """The names that are neither removed nor squashed since."""
        return self.sparsifier.active(self.names)

    def _known(self) -> list[str]:
        """The names that are not removed since."""
        groups = self.sparsifier.data_groups
        return [name for name in self.names if name in groups]

    def _weights_in(self, model: nn.Module, name: str) -> list[Weight]:
        """The weight of another model: several, where those are not tied there that are here."""
        found: list[Weight] = []
        for owner in self.places[name].owners:
            weight = weight_at(model, owner)
            if weight is None:
                raise ValueError(f"the model has no weight {'.'.join(owner)!r}")
            if not any(same_memory(weight, other) for other in found):
                found.append(weight)
        return found

    def _apply_to(self, model: nn.Module) -> None:
        written: list[tuple[Tensor, Tensor]] = []
        masks: list[tuple[Tensor, Tensor]] = []
        for name in self._known():
            mask = self.sparsifier.get_mask(name)
            for weight in self._weights_in(model, name):
                own = masked_of(weight.module, weight.attribute)
                tensor = own.mask if own is not None else weight.written
                if tensor is None:
                    raise ValueError(
                        f"{name!r} of the model is made by {weight.made_by}: zeros in no parameter "
                        "would be zeros of it"
                    )
                if tensor.shape != mask.shape:
                    raise ValueError(
                        f"{name!r} of the model must have the shape of its mask, "
                        f"{tuple(mask.shape)}, got {tuple(tensor.shape)}"
                    )
                if own is None:
                    weight.require_lengths(name, mask)
                (written if own is None else masks).append((tensor, mask))
        with torch.no_grad():
            for tensor, mask in masks:
                tensor.copy_(mask)
            for tensor, mask in written:
                zero_where_pruned(tensor, mask)

    def __deepcopy__(self, memo: dict[int, Any]) -> Attachment:
        """With the model, which may hold this attachment, and be half copied."""
        model = copy.deepcopy(self._living_model(), memo)
        sparsifier = copy.deepcopy(self.sparsifier, memo)
        places = {name: copy.deepcopy(place, memo) for name, place in self.places.items()}
        return registered(model, sparsifier, self.mode, dict(self.left), places, self.gradients)

    def __reduce__(self) -> tuple[Any, ...]:
        """With the model."""
        owners = {name: place.owners for name, place in self.places.items()}
        model = self._living_model()
        return restored, (model, self.sparsifier, self.mode, self.left, owners, self.gradients)

    def _living_model(self) -> nn.Module:
        model = self.model()
        if model is None:
            raise ValueError("the model of this attachment is gone")
        return model


def registered(
    model: nn.Module,
    sparsifier: BaseDataSparsifier,
    mode: str,
    left: dict[str, str],
    places: dict[str, Place],
    gradients: str,
) -> Attachment:
    """A new attachment, which detach() knows of."""
    seen = Seen()
    for place in places.values():
        place.seen = seen
    attachment = Attachment(sparsifier, tuple(places), mode, left, places, seen, gradients)
    if mode == "in_place":
        _attachments.setdefault(model, []).append(attachment)
    return attachment


def restored(
    model: nn.Module,
    sparsifier: BaseDataSparsifier,
    mode: str,
    left: dict[str, str],
    owners: dict[str, tuple[Path, ...]],
    gradients: str,
) -> Attachment:
    """An attachment that was pickled, with its model whole."""
    if "_modules" not in vars(model):
        raise TypeError(
            "a model that holds its own attachment cannot be pickled: leave that out in "
            "__getstate__()"
        )
    places = {}
    for name, at in owners.items():
        weight = weight_at(model, at[0])
        if weight is None:
            raise ValueError(f"the model has no weight {name!r}")
        places[name] = Place(name, model, at, weight, mode == "in_place", Seen())
    for name in sparsifier.active(list(places)):
        sparsifier.add_data(name, places[name])
    return registered(model, sparsifier, mode, left, places, gradients)


def seen_as(shape: tuple[int, ...], layout: Layout | None) -> str:
    """The matrix that blocks are cut from, as text: "64 x 27"."""
    if len(shape) < 2:
        return f"1 x {prod(shape)}"
    row = layout[0] if layout else 0
    columns = prod(length for axis, length in enumerate(shape) if axis != row)
    return f"{shape[row]} x {columns}" + (", inputs innermost" if layout else "")


def attach(
    model: nn.Module,
    sparsifier: BaseDataSparsifier | None = None,
    *,
    score: Score | None = None,
    include: Patterns | None = None,
    exclude: Patterns = (),
    types: Types | None = None,
    mode: str = "in_place",
    gradients: str = "masked",
    layout: str = "inputs",
    keep_zeros: bool | None = None,
    update: bool | None = None,
    distribution: Distribution | None = None,
    **config: ParamValue,
) -> Attachment:
    """Let a sparsifier mask weights of a model, each a group under its own name.

    Args:
        model: its weights are chosen from; of a compiled model, or one within
            DistributedDataParallel, those of the plain one, under the plain names.
        sparsifier: gets a group per weight. Nothing is copied; a tied weight is one group. None
            makes a DataNormSparsifier of `score` and `config`: `attachment.sparsifier`.
        score: of `datasparse.scores`, what the weights are ranked by. A sparsifier that is given
            has its own.
        include: globs of names (`*`, `?`, `[seq]`), any of which has to match; by default `*`.
            Biases and other vectors, what norm layers hold, and adapters (LoRA) are taken by their
            very names only.
        exclude: globs of names, none of which may match.
        types: the module that holds the weight must be one of these.
        mode: "in_place": the parameters are pruned themselves, by `Attachment.follow()` or
            `apply_mask()`; the model is left as it is. "parametrize": the model computes with a
            masked copy and keeps its dense parameters, which may come back.
        gradients: for mode="parametrize". "masked": none for pruned elements. "straight_through":
            those of the masked copy, so that pruned elements learn too (Bengio et al. 2013).
        layout: how blocks lie. "inputs": a weight is seen as outputs x (places of the kernel x
            inputs), so that a block of (1, 4) holds four inputs of one output, for the layers of
            torch and transformers' Conv1D. "memory": as its axes are, rows first.
        keep_zeros: what is zero in a weight now stays zero, whatever the masks prune besides.
        update: False freezes the masks: no step changes them.
        distribution: how `sparsity_level`, which is then that of all weights together, is shared
            among them: "erk", "uniform", or any function of a dict of shapes and a level that
            returns levels by name; see `datasparse.distributions`. Each group's own level is its
            base value for schedules. A name that a function leaves out has `sparsity_level`. The
            total is exact for single elements; larger blocks get the same levels.
        config: of each group; the sparsifier's defaults otherwise.

    A weight that the sparsifier has under its name already, or has loaded a state of, keeps its
    mask, config, layout and zeros, whatever this call says; so a sparsifier that was loaded or
    copied is attached in the same way. It stands outside a distribution, so that a layer with a
    level of its own is to be attached first, by itself.

    A weight under weight_norm is ranked as the model computes with it, and zeroed in its direction;
    one under spectral_norm in its original. Since weight_norm divides by the length of each row,
    `apply()` refuses masks that prune a whole one there. What other parametrizations make needs
    mode="parametrize", where the mask comes last: the parameters that are saved have none of its
    zeros until `detach()`.

    Raises ValueError where nothing matches, a name belongs to other data, or a weight cannot be
    pruned in this mode, and TypeError for parameters that are flattened (FullyShardedDataParallel),
    without memory (meta), or of no supported dtype. Then the model is as it was, and so is the
    sparsifier, but for loaded or squashed masks of these names.

    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> sparsifier = DataNormSparsifier(sparsity_level=0.75, sparse_block_shape=(1, 1))
    >>> attach(model, sparsifier, exclude="2.*").names
    ('0.weight',)
    >>> sparsifier.step()
    >>> sparsifier.apply_mask()
    >>> int((model[0].weight == 0).sum())
    24
    >>> detach(model)
    """
    require_model(model)
    if sparsifier is None:
        sparsifier = DataNormSparsifier(score=score, **config)  # type: ignore[arg-type]
        config = {}
    elif score is not None:
        raise TypeError(
            f"score must go to the sparsifier that is given, got {score} here: make that with "
            f"score={score}, or leave it out"
        )
    require_sparsifier(sparsifier)
    require_one_of("layout", layout, LAYOUTS)
    if distribution is not None:
        require_distribution(distribution)
    require_modes(sparsifier, mode, gradients)
    model, modules = opened(model)
    options: dict[str, Any] = dict(config)
    if keep_zeros is not None:
        options["keep_zeros"] = keep_zeros
    if update is not None:
        options["update"] = update

    def options_of(new: list[Owned]) -> dict[str, dict[str, Any]]:
        shapes = {owned.name: tuple(owned.weight.tensor().shape) for owned in new}
        levels = (
            {} if distribution is None else distributed(distribution, shapes, sparsifier, config)
        )
        return {
            owned.name: options
            | ({} if layout == "memory" else of_inputs(owned))
            | ({LEVEL: levels[owned.name]} if owned.name in levels else {})
            for owned in new
        }

    choice = choose(modules, include, exclude, types)
    return attach_chosen(model, sparsifier, choice, mode, gradients, options_of)


def attach_chosen(
    model: nn.Module,
    sparsifier: BaseDataSparsifier,
    choice: Choice,
    mode: str,
    gradients: str,
    options_of: Callable[[list[Owned]], dict[str, dict[str, Any]]],
) -> Attachment:
    """What attach() does once the weights are chosen, of a plain model.

    options_of: the arguments of `add_data()`, by name, for weights that get a new group.
    """
    present = set(sparsifier.active([owned.name for owned in choice.taken]))
    for owned in choice.taken:
        if owned.name in present:
            refuse_other_data(owned, sparsifier)
        refuse_unfit(owned, model, mode)
    refuse_attached(choice.taken, sparsifier)
    in_place, seen = mode == "in_place", Seen()
    places = {
        owned.name: Place(owned.name, model, owned.owners, owned.weight, in_place, seen)
        for owned in choice.taken
    }
    options = options_of(
        [
            owned
            for owned in choice.taken
            if owned.name not in present and not sparsifier.awaits_data(owned.name)
        ]
    )
    add_all(sparsifier, choice.taken, places, options, present)
    attachment = registered(model, sparsifier, mode, choice.left, places, gradients)
    try:
        if isinstance(sparsifier, RegrowthSparsifier):  # its training begins with few weights
            sparsifier.draw()
            attachment.apply()
        attachment.refresh()
    except BaseException:
        withdraw(attachment, [name for name in places if name not in present])
        raise
    return attachment


def require_modes(sparsifier: BaseDataSparsifier, mode: str, gradients: str) -> None:
    """ValueError for modes that are none, or do not go together."""
    require_one_of("mode", mode, MODES)
    require_one_of("gradients", gradients, GRADIENTS)
    if mode == "parametrize" and gradients == "masked" and regrows(sparsifier):
        raise ValueError(
            f"a {type(sparsifier).__name__} grows weights that are pruned, whose gradients "
            'mode="parametrize" masks: take mode="in_place", or gradients="straight_through"'
        )
    if mode == "in_place" and gradients != "masked":
        raise ValueError(
            f'gradients="{gradients}" needs mode="parametrize": in place there is no masked copy '
            "whose gradients could go straight through"
        )


def withdraw(attachment: Attachment, names: list[str]) -> None:
    """Take back an attachment that cannot be made whole, and the groups that it added."""
    model = attachment.model()
    assert model is not None  # whoever attaches it holds it
    for tensor in masked_tensors(model.modules()):
        masked = tensor.masked
        if masked.sparsifier is attachment.sparsifier and masked.name in attachment.places:
            tensor.unmask()
    if attachment.mode == "in_place":
        _attachments[model].remove(attachment)
    for name in names:
        attachment.sparsifier.remove_data(name)


def detach(model: nn.Module, *, keep_zeros: bool = True) -> None:
    """Undo `attach()`: the model is a plain one, with the keys in `state_dict()` that it had.

    With `keep_zeros` the zeros are written into the parameters for good, in their own memory, and
    the groups are squashed: their masks can still be read. With mode="parametrize", a weight that
    other parametrizations make, weight_norm or an orthogonal one, becomes a plain parameter, as the
    model computes with it. Without, the parameters stay as they are (with mode="parametrize":
    dense), and the groups are removed. What follows an optimizer finds nothing to do then;
    `Following.remove()` ends it.

    Raises ValueError if nothing is attached, or if a parameter's memory may not be written to. The
    model stays attached then, and as it was.
    """
    model = plain_model(model)
    # In reverse, so that parameters come back in their order.
    tensors = masked_tensors(model.modules())[::-1]
    attached = [module for module in model.modules() if module in _attachments]
    names: dict[BaseDataSparsifier, list[str]] = {}
    for tensor in tensors:
        names.setdefault(tensor.masked.sparsifier, []).append(tensor.masked.name)
    for module in attached:
        for attachment in _attachments[module]:
            names.setdefault(attachment.sparsifier, []).extend(attachment.names)
    if not names:
        raise ValueError(
            "nothing is attached to this model; a copy of a model that was pruned in place is plain"
        )
    present = {
        sparsifier: [name for name in dict.fromkeys(its) if is_masked(sparsifier, name)]
        for sparsifier, its in names.items()
    }
    if keep_zeros:
        with ExitStack() as undo:
            for tensor in tensors:
                if is_computed(tensor):
                    undo.callback(tensor.restorer())
                    tensor.make_permanent()
            for sparsifier in [*present][1:]:  # the first checks its own before it writes
                require_squashable(sparsifier, present[sparsifier], attached)
            for sparsifier, its in present.items():
                sparsifier.squash_mask(its)
            undo.pop_all()
    else:
        for sparsifier, its in present.items():
            for name in its:
                sparsifier.remove_data(name)
    for tensor in tensors:
        if masked_of(tensor.module, tensor.attribute) is not None:
            tensor.unmask()
    for module in attached:
        del _attachments[module]


def require_squashable(
    sparsifier: BaseDataSparsifier, names: list[str], attached: list[nn.Module]
) -> None:
    """What squash_mask() would raise, before it writes."""
    places = [one.places for module in attached for one in _attachments[module]
              if one.sparsifier is sparsifier]  # fmt: skip
    probe = BaseDataSparsifier()
    for name in names:
        probe.add_data(name, sparsifier.get_data(name))
        probe.squash_mask(name)  # which prunes nothing yet
        probe.remove_data(name)
        for by_name in places:
            if name in by_name:
                by_name[name].__datasparse_allow_zeros__(sparsifier.get_mask(name))


def attachments_of(model: nn.Module) -> list[Attachment]:
    """Those to the plain model or to parts of it, in place."""
    return [attachment for module in model.modules() for attachment in _attachments.get(module, ())]


def is_computed(tensor: MaskedTensor) -> bool:
    """Whether zeros in a parameter would change more of the weight than what is masked."""
    weight = weight_of(tensor.module, tensor.attribute)
    assert weight is not None  # its mask was found there
    return weight.made_by is not None


def refuse_attached(chosen: list[Owned], sparsifier: BaseDataSparsifier) -> None:
    """ValueError for weights that are a group already, or that a training masks."""
    by_parameter = {id(owned.weight.parameters[-1]): owned.name for owned in chosen}
    for attachments in list(_attachments.values()):
        for attachment in attachments:
            for name in attachment._present():
                known = by_parameter.get(id(attachment.places[name].known))
                twice = attachment.sparsifier is sparsifier and known != name
                followed = attachment.sparsifier is not sparsifier and attachment.followings
                if known is not None and (twice or followed):
                    raise ValueError(
                        f"{known!r} is attached already, as {name!r}: detach() the model first, or "
                        "remove() what follows its optimizer"
                    )


def of_inputs(owned: Owned) -> dict[str, Any]:
    """The layout of a weight with its inputs innermost, where that is not memory's."""
    axes = layout_of(owned.modules[0], owned.weight.ndim)
    return {} if axes is None else {"layout": axes}


def add_all(
    sparsifier: BaseDataSparsifier,
    chosen: list[Owned],
    places: dict[str, Place],
    options: dict[str, dict[str, Any]],
    present: set[str],
) -> None:
    """A group for each, with its options if it is new; or for none."""
    added: list[str] = []
    try:
        for owned in chosen:
            # One that is present is looked up from now on; all else of one that waits is its state.
            sparsifier.add_data(owned.name, places[owned.name], **options.get(owned.name, {}))
            if owned.name not in present:
                added.append(owned.name)
    except BaseException:
        for name in added:
            sparsifier.remove_data(name)
        raise
