"""get_scores(): what is ranked in the place of the data."""

import copy
import gc
import threading
import weakref

import datasparse
import numpy as np
import pytest
import reference
import torch
from datasparse.schedules import Linear
from datasparse.torch import attach, detach
from support import HALF, LAYOUTS, OF_NUMPY_ALONE, ON_DEVICES, as_numpy, named, placed, values
from torch import nn
from torch.nn.utils import parametrizations

pytestmark = ON_DEVICES


class Scored(datasparse.DataNormSparsifier):
    """Asks `_get(name, data, config)`, where it is set."""

    def get_scores(self, name, data, **config):
        return data if self._get is None else self._get(name, data, config)

    _get = None


def there(*arguments):
    return placed(values(*arguments))


def scored(data, get, **config):
    data = {name: placed(array) for name, array in dict(data).items()}
    sparsifier = Scored(data, **{**HALF, **config})
    sparsifier._get = get
    return sparsifier


def share_memory(a, b):
    if isinstance(a, torch.Tensor):
        return a.data_ptr() == b.data_ptr()
    return np.shares_memory(a, b)


class Lender:
    """DLPack and nothing else."""

    def __init__(self, tensor):
        self._tensor = tensor

    def __dlpack__(self, **options):
        return self._tensor.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._tensor.__dlpack_device__()


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


class Subclass(torch.Tensor):
    pass


ON_THE_CPU_ALONE = ("DLPack", "read-only", "broadcast", *OF_NUMPY_ALONE)
KINDS = {
    "float16": lambda a: placed(a.astype(np.float16)),
    "float64": lambda a: placed(a.astype(np.float64)),
    "torch": lambda a: torch.from_numpy(a),
    "bfloat16": lambda a: torch.from_numpy(a).bfloat16(),
    "requires_grad": lambda a: torch.from_numpy(a).requires_grad_(),
    "a graph's result": lambda a: torch.from_numpy(a).requires_grad_() * 2,
    "parameter": lambda a: nn.Parameter(torch.from_numpy(a)),
    "tensor subclass": lambda a: torch.from_numpy(a).as_subclass(Subclass),
    "transposed torch": lambda a: torch.from_numpy(a.T.copy()).T,
    "DLPack": lambda a: Lender(torch.from_numpy(a)),
    "read-only": read_only,
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
    **{name: lambda a, arrange=arrange: placed(arrange(a)) for name, arrange in LAYOUTS.items()},
}


@pytest.mark.parametrize("kind", named(KINDS, ON_THE_CPU_ALONE))
@pytest.mark.parametrize("block", [(1, 1), (2, 3)])
def test_scores_of_any_kind_are_ranked_and_the_data_zeroed(kind, block, wrap):
    array = values(1)
    scores = kind(values(2))
    sparsifier = scored([("w", wrap(array))], lambda *_: scores, sparse_block_shape=block)
    sparsifier.step()
    plain = scores._tensor if isinstance(scores, Lender) else scores
    if isinstance(plain, torch.Tensor):
        plain = plain.detach().as_subclass(torch.Tensor)
        plain = plain.float().numpy() if plain.dtype == torch.bfloat16 else plain.numpy()
    expected = reference.mask(np.array(plain), 0.5, block)
    np.testing.assert_array_equal(as_numpy(sparsifier.get_mask("w")), expected)
    kept = values(1)
    sparsifier.apply_mask()
    np.testing.assert_array_equal(sparsifier.get_data("w"), np.where(expected, kept, 0))


@pytest.mark.parametrize("norm", ["L1", "L2"])
@pytest.mark.parametrize("zeros", [None, 2])
def test_patterns_norms_layouts_and_zeros_that_stay_go_with_scores(norm, zeros):
    array = values(1)
    array[0, :4] = 0
    scores = values(2)
    config = {"sparse_block_shape": (1, 4), "zeros_per_block": zeros, "norm": norm}
    sparsifier = scored({}, lambda *_: placed(scores), **config)
    sparsifier.add_data("w", placed(array), layout=(1, 0), keep_zeros=True)
    sparsifier.step()
    expected = reference.mask(scores.T, 0.5, (1, 4), zeros, norm).T
    expected[0, :4] = False
    np.testing.assert_array_equal(sparsifier.get_mask("w"), expected)


def test_the_default_and_super_are_the_data(wrap):
    data = wrap(values(1))
    built_in = datasparse.DataNormSparsifier([("w", data)], **HALF)
    built_in.step()
    assert built_in.get_scores("w", data, norm="L1") is data

    class Doubled(datasparse.DataNormSparsifier):
        def get_scores(self, name, data, **config):
            return super().get_scores(name, data, **config) * 2

    for sparsifier in (scored([("w", data)], None), Doubled([("w", data)], **HALF)):
        sparsifier.step()
        np.testing.assert_array_equal(sparsifier.get_mask("w"), built_in.get_mask("w"))


def test_get_scores_gets_what_update_mask_gets(wrap):
    seen = {}

    def get(name, data, config):
        seen["scores"] = data, config, torch.is_grad_enabled()
        return data

    class Updates(datasparse.DataNormSparsifier):
        def update_mask(self, name, data, **config):
            seen["update"] = data, config, torch.is_grad_enabled()

    data = wrap(values(1))
    if isinstance(data, torch.Tensor):
        data.requires_grad_()
    for sparsifier in (scored([("w", data)], get), Updates([("w", data)], **HALF)):
        sparsifier.data_groups["w"]["min_kept"] = 3
        sparsifier.step()
    (data, config, grad), (also, configured, enabled) = seen["scores"], seen["update"]
    assert type(data) is type(also)
    assert share_memory(data, also)
    assert not getattr(data, "requires_grad", False)
    assert config == configured
    assert "zeros_per_block" in config
    assert grad == enabled


def test_all_are_asked_for_before_any_is_ranked_and_see_the_masks_before():
    masks = []
    sparsifier = scored({name: values(1) for name in "abc"}, None)

    def get(name, data, config):
        masks.append([sparsifier.get_mask(group).all() for group in "abc"])
        return data

    sparsifier._get = get
    sparsifier.step()
    assert masks == [[True] * 3] * 3
    assert not sparsifier.get_mask("a").all()


def test_nobody_else_need_hold_them_and_they_go_with_the_step():
    alive = []

    def get(name, data, config):
        scores = abs(data)
        alive.append(weakref.ref(scores))
        return scores

    array = values(1)
    sparsifier = scored(dict.fromkeys("abc", array), get)
    sparsifier.step()
    assert [ref() for ref in alive] == [None] * 3
    np.testing.assert_array_equal(sparsifier.get_mask("c"), reference.mask(array, 0.5, (1, 1)))


LARGE = np.ones((1 << 15) + 1)  # two of them exceed what is held together


@pytest.mark.parametrize("pool", [None, "all"])
def test_large_scores_are_held_one_after_another_but_for_those_of_a_pool(pool):
    held, alive = [], []

    def get(name, data, config):
        scores = data[...]
        held.append(weakref.ref(scores))
        alive.append(sum(ref() is not None for ref in held))
        return scores

    sparsifier = scored([("w", values(1))], get)
    for name in "abc":
        sparsifier.add_data(name, placed(LARGE), sparsity_level=0.0)
    for config in sparsifier.data_groups.values():
        config["pool"] = pool
    sparsifier.step()
    assert alive == ([1, 2, 1, 1] if pool is None else [1, 2, 3, 4])
    assert [ref() for ref in held] == [None] * 4


def test_a_failure_behind_large_scores_brings_all_masks_back():
    def get(name, data, config):
        asked.append(name)
        sparsifier.state[name] = {"asked": True}
        if name == "last":
            assert not sparsifier.get_mask("w").all(), "the ones before are computed already"
            raise ZeroDivisionError
        return data[...]

    sparsifier = scored({"w": values(1), "a": LARGE, "b": LARGE, "last": values(2)}, get)
    for name in "ab":
        sparsifier.data_groups[name]["sparsity_level"] = 0.0
    asked = []
    before = sparsifier.state_dict()
    with pytest.raises(ZeroDivisionError):
        sparsifier.step()
    assert asked == ["w", "a", "b", "last"]
    assert sparsifier.state_dict() == before
    assert sparsifier.step_count == 0


def test_a_pool_is_cut_by_scores_of_its_own():
    scores = {"a": np.array([1.0, 2, 3, 4]), "b": np.array([2.5, 5, 6, 7], np.float32)}
    sparsifier = scored({}, lambda name, *_: placed(scores[name]))
    for name in "ab":
        sparsifier.add_data(name, placed(np.ones(4)), pool="all")
    sparsifier.step()
    assert sparsifier.get_mask("a").tolist() == [False, False, False, True]
    assert sparsifier.get_mask("b").tolist() == [False, True, True, True]


def test_zeros_are_planned_and_reported_as_the_built_in_ones():
    scores = there(2)
    data = {"w": values(1), "v": values(3)}
    sparsifier = scored(data, lambda *_: scores)
    scheduler = datasparse.DataScheduler(sparsifier, "sparsity_level", Linear(final=0.9, end=4))
    planned = scheduler.plan(5)
    for step in range(5):
        sparsifier.step()
        zeros = int((~sparsifier.get_mask("w")).sum())
        assert planned.zeros_least["w"][step] == planned.zeros_most["w"][step] == zeros
        scheduler.step()
    assert zeros > 0
    sparsifier.apply_mask()
    row = sparsifier.report()["w"]
    assert row.zeros == row.zeros_in_data == zeros


# --- what goes wrong ------------------------------------------------------------------------------


class StopError(Exception):
    pass


def fail(*_):
    raise StopError


WRONG = {
    "raises": (fail, StopError, None),
    "None": (lambda *_: None, TypeError, "scores of 'w' must be a NumPy array, .*got NoneType"),
    "a string": (lambda *_: "x", TypeError, "scores of 'w' must be a NumPy array, .*got str"),
    "a number": (lambda *_: 1.0, TypeError, "scores of 'w' must be .*got float"),
    "a list": (lambda _, data, __: data.tolist(), TypeError, "scores of 'w' must be .*got list"),
    "a generator": (lambda _, data, __: (x for x in data), TypeError, "scores of 'w'.*generator"),
    "another shape": (
        lambda _, data, __: data[:3],
        ValueError,
        r"scores of 'w' must have the shape of its data, \(12, 16\), got \(3, 16\)",
    ),
    "flat": (lambda _, data, __: data.reshape(-1), ValueError, r"shape of its data.*\(192,\)"),
    "integers": (
        lambda *_: np.ones((12, 16), np.int32),
        TypeError,
        r"scores of 'w' must be .*got int32; convert it with .astype\(np.float32\)",
    ),
    "integers of torch": (
        lambda *_: torch.ones((12, 16), dtype=torch.int64),
        TypeError,
        "scores of 'w' must be .*got torch.int64",
    ),
    "complex": (lambda *_: np.ones((12, 16), np.complex64), TypeError, "scores of 'w'.*complex"),
    "the mask": (lambda *_: np.ones((12, 16), bool), TypeError, "scores of 'w' must be .*got bool"),
    "a meta tensor": (
        lambda *_: torch.ones((12, 16), device="meta"),
        TypeError,
        "scores of 'w' must be a tensor with memory, got one on device 'meta'",
    ),
    "sparse": (lambda *_: torch.ones((12, 16)).to_sparse(), TypeError, "scores of 'w'.*dense"),
    "big-endian": (lambda *_: np.ones((12, 16), ">f4"), TypeError, "scores of 'w'.*byte order"),
}


# The pretended device has no sparse tensors.
@pytest.mark.parametrize(("get", "error", "message"), named(WRONG, ["sparse"]))
@pytest.mark.parametrize("monotone", [False, True])
def test_wrong_scores_leave_everything_as_it_was(get, error, message, monotone, observe, wrap):
    def of(name, data, config):
        sparsifier.state[name] = {"asked": True}
        return get(name, data, config) if name == "w" and broken else data

    broken = False
    sparsifier = scored({"v": wrap(values(1)), "w": wrap(values(2))}, of, monotone=monotone)
    sparsifier.step()
    sparsifier.state["v"] = {}
    scheduler = datasparse.DataScheduler(sparsifier, "sparsity_level", Linear(final=0.9, end=4))
    before = observe(sparsifier, scheduler)
    broken = True
    for _ in range(2):
        with pytest.raises(error, match=message):
            sparsifier.step()
        assert observe(sparsifier, scheduler) == before
    broken = False
    sparsifier.step()
    assert sparsifier.step_count == 2


def test_masks_that_are_written_to_before_it_raises_come_back(observe, wrap):
    def get(name, data, config):
        sparsifier.get_mask("a")[2:] = False
        return fail() if name == "b" else data

    sparsifier = scored({"a": wrap(values(1)), "b": wrap(values(2))}, get)
    before = observe(sparsifier)
    with pytest.raises(StopError):
        sparsifier.step()
    assert observe(sparsifier) == before


def test_nan_ranks_highest():
    scores = np.array([1.0, np.nan, 3.0, np.inf, np.nan, 0.0])
    sparsifier = scored([("w", np.ones(6))], lambda *_: placed(scores), sparsity_level=4 / 6)
    sparsifier.step()
    assert sparsifier.get_mask("w").tolist() == [False, True, False, False, True, False]


CHANGES = {
    "step": lambda s: s.step(),
    "add_data": lambda s: s.add_data("x", placed(np.ones(3))),
    "remove_data": lambda s: s.remove_data("w"),
    "squash_mask": lambda s: s.squash_mask(),
    "apply_mask": lambda s: s.apply_mask(),
    "update_mask": lambda s: s.update_mask("w", placed(np.ones((12, 16)))),
    "config": lambda s: s.data_groups["w"].update(sparsity_level=0.1),
    "defaults": lambda s: s.defaults.update(sparsity_level=0.1),
    "load": lambda s: s.load_state_dict(s.state_dict()),
    "enable": lambda s: setattr(s, "enable_mask_update", False),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("escapes", [True, False])
def test_changing_the_sparsifier_from_inside_is_refused(change, escapes, observe):
    def get(name, data, config):
        if escapes:
            change(sparsifier)
        with pytest.raises(RuntimeError, match=r"from inside get_scores\(\)"):
            change(sparsifier)
        return data

    sparsifier = scored([("w", values(1))], get)
    before = observe(sparsifier)
    if escapes:
        with pytest.raises(RuntimeError, match=r"from inside get_scores\(\)"):
            sparsifier.step()
        assert observe(sparsifier) == before
    else:
        sparsifier.step()
        assert sparsifier.step_count == 1
        assert observe(sparsifier)["config"] == before["config"]


def test_reading_from_inside_and_writing_states():
    def get(name, data, config):
        assert sparsifier.get_data(name) is arrays[name]
        assert sparsifier.data_groups[name] == config
        assert list(sparsifier.data_groups) == ["a", "b"]
        assert sparsifier.step_count == len(steps)
        assert sparsifier.report()["a"].zeros in (0, 96)
        seen = sparsifier.state[name].get("average", 0.0)
        sparsifier.state[name] = {"average": 0.9 * seen + float(abs(data).mean())}
        return abs(data)

    steps, arrays = [], {"a": there(1), "b": there(2)}
    sparsifier = scored(arrays, get)
    for _ in range(2):
        sparsifier.step()
        steps.append(sparsifier.state["a"]["average"])
    assert steps[1] == pytest.approx(1.9 * steps[0])


def test_another_thread_waits_for_the_step_as_it_does_for_others():
    inside, read = threading.Event(), []

    def get(name, data, config):
        if threading.current_thread() is not stepping:
            return data
        inside.set()
        assert read == []
        return abs(data)

    def other():
        inside.wait()
        assert sparsifier.get_scores("w", array) is array  # needs nothing of the sparsifier
        read.append(sparsifier.step_count)

    array = values(1)
    sparsifier = scored([("w", array)], get)
    stepping = threading.Thread(target=sparsifier.step)
    reader = threading.Thread(target=other)
    for thread in (reader, stepping):
        thread.start()
    for thread in (reader, stepping):
        thread.join()
    assert read in ([0], [1])
    np.testing.assert_array_equal(sparsifier.get_mask("w"), reference.mask(array, 0.5, (1, 1)))


def test_data_that_are_changed_meanwhile_are_ranked_as_they_are_then():
    """They are the user's: what is returned counts, when all groups have been asked."""

    def get(name, data, config):
        data[...] = changed
        return data if name == "same" else scores

    changed, scores = there(3), there(4)
    sparsifier = scored({"same": values(1), "other": values(2)}, get)
    sparsifier.step()
    for name, ranked in (("same", changed), ("other", scores)):
        np.testing.assert_array_equal(
            sparsifier.get_mask(name), reference.mask(as_numpy(ranked), 0.5, (1, 1))
        )
        np.testing.assert_array_equal(sparsifier.get_data(name), changed)


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda data: data[::-1], id="backwards", marks=pytest.mark.device("cpu")),
        pytest.param(lambda data: data.T.T, id="transposed twice"),
        pytest.param(lambda data: data[:1] + 0 * data, id="computed"),
    ],
)
def test_views_of_the_data_are_scores(view):
    array = values(1)
    sparsifier = scored([("w", array)], lambda _, data, __: view(data))
    sparsifier.step()
    np.testing.assert_array_equal(
        sparsifier.get_mask("w"), reference.mask(view(array), 0.5, (1, 1))
    )


def test_scores_may_change_their_dtype_from_step_to_step():
    array = values(1, (200, 200))
    sparsifier = scored([("w", array)], None)
    for step, dtype in enumerate([np.float32, np.float64, np.float16, np.float32]):
        scores = (values(2, (200, 200)) * 10.0**step).astype(dtype)
        made = placed(scores)
        sparsifier._get = lambda *_, made=made: made
        sparsifier.step()
        expected = reference.whole_block_mask_by_stable_sort(scores, 0.5)
        np.testing.assert_array_equal(sparsifier.get_mask("w"), expected)


# --- which override is called ---------------------------------------------------------------------


def test_an_update_mask_is_called_alone_and_ranks_what_it_passes():
    class Both(Scored):
        def update_mask(self, name, data, **config):
            assert share_memory(data, array)
            super().update_mask(name, data)

    array = there(1)
    sparsifier = Both([("w", array)], **HALF)
    sparsifier._get = fail
    sparsifier.step()
    np.testing.assert_array_equal(sparsifier.get_mask("w"), reference.mask(values(1), 0.5, (1, 1)))


def test_an_override_is_found_whenever_it_is_set(monkeypatch):
    array, scores = values(1), values(2)
    sparsifier = datasparse.DataNormSparsifier([("w", placed(array))], **HALF)
    sparsifier.step()
    monkeypatch.setattr(
        datasparse.DataNormSparsifier, "get_scores", lambda *_, **__: placed(scores)
    )
    sparsifier.step()
    np.testing.assert_array_equal(sparsifier.get_mask("w"), reference.mask(scores, 0.5, (1, 1)))
    monkeypatch.undo()
    sparsifier.step()
    np.testing.assert_array_equal(sparsifier.get_mask("w"), reference.mask(array, 0.5, (1, 1)))


def test_groups_that_are_not_renewed_are_not_asked_for():
    sparsifier = scored({"squashed": values(1)}, fail)
    sparsifier.add_data("frozen", there(2), update=False)
    sparsifier.squash_mask("squashed")
    sparsifier.step()
    sparsifier.add_data("w", there(3))
    sparsifier.enable_mask_update = False
    sparsifier.step()
    assert sparsifier.step_count == 2


def test_scores_survive_copies_and_resumed_states():
    array, scores = there(1), there(2)
    sparsifier = scored([("w", array)], None)
    Scored._get = lambda self, *_: scores
    try:
        sparsifier.__dict__.pop("_get")
        twin = copy.deepcopy(sparsifier)
        resumed = Scored([("w", array)], **HALF)
        sparsifier.step()
        resumed.load_state_dict(sparsifier.state_dict())
        for other in (twin, resumed):
            other.step()
            np.testing.assert_array_equal(other.get_mask("w"), sparsifier.get_mask("w"))
    finally:
        Scored._get = None


def test_a_sparsifier_that_scores_hold_is_collected():
    class Holder(np.ndarray):
        pass

    class Holding(datasparse.DataNormSparsifier):
        def get_scores(self, name, data, **config):
            scores = abs(data)
            if isinstance(scores, np.ndarray):
                scores = scores.view(Holder)
            scores.sparsifier = self
            return scores

    sparsifier = Holding([("w", there(1))], **HALF)
    sparsifier.step()
    gone = weakref.ref(sparsifier)
    del sparsifier
    gc.collect()
    assert gone() is None


# --- models ---------------------------------------------------------------------------------------


class Movement(datasparse.DataNormSparsifier):
    """By |weight * gradient|, as a model has them."""

    def get_scores(self, name, data, **config):
        self.seen = tuple(data.shape)
        return data * self.get_data(name).grad


def trained(model):
    generator = torch.Generator().manual_seed(1)
    model(torch.randn(5, *model_input(model), generator=generator)).square().sum().backward()


def model_input(model):
    return (3, 6, 6) if any(isinstance(m, nn.Conv2d) for m in model.modules()) else (8,)


MODELS = {
    "linear": lambda: nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)),
    "convolution": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 4, 2)),
    "wrapped": lambda: nn.DataParallel(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))),
}


# DataParallel scatters to CUDA alone.
@pytest.mark.parametrize("make", named(MODELS, ["wrapped"]))
@pytest.mark.parametrize("mode", ["in_place", "parametrize"])
def test_scores_go_with_models_in_the_tensors_own_layout(make, mode):
    torch.manual_seed(5)
    model = make()
    sparsifier = Movement(sparsity_level=0.5, sparse_block_shape=(1, 2))
    attachment = attach(model, sparsifier, mode=mode)
    trained(model)
    sparsifier.step()
    for name in sparsifier.data_groups:
        weight = sparsifier.get_data(name)
        scores = as_numpy(weight * weight.grad)
        if scores.ndim == 4:  # blocks lie along the inputs
            expected = reference.mask(scores.transpose(0, 2, 3, 1), 0.5, (1, 2))
            expected = expected.transpose(0, 3, 1, 2)
        else:
            expected = reference.mask(scores, 0.5, (1, 2))
        np.testing.assert_array_equal(sparsifier.get_mask(name), expected)
        assert sparsifier.seen == tuple(sparsifier.get_data(list(sparsifier.data_groups)[-1]).shape)
    attachment.apply()
    detach(model)


def test_the_weight_of_a_normed_layer_is_what_scores_are_made_of():
    torch.manual_seed(5)
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(8, 8)))
    seen = []
    sparsifier = scored({}, lambda _, data, __: seen.append(data) or 1 / data)
    attach(model, sparsifier)
    sparsifier.step()
    weight = model[0].weight.detach()
    torch.testing.assert_close(seen[0], weight)
    (name,) = sparsifier.data_groups
    expected = reference.mask(as_numpy(1 / seen[0]), 0.5, (1, 1))
    np.testing.assert_array_equal(sparsifier.get_mask(name), expected)


@pytest.mark.parametrize("error", [None, ZeroDivisionError()], ids=["returned", "raised"])
def test_an_interrupt_on_the_way_out_of_an_override_is_raised(monkeypatch, error):
    """Python notices Ctrl-C where it likes: in the end of torch.no_grad(), too."""
    leave = torch.no_grad.__exit__

    def interrupted(self, *raised):
        leave(self, *raised)
        raise KeyboardInterrupt

    def get(name, data, config):
        if error is not None:
            raise error
        return abs(data)

    sparsifier = scored({"w": torch.arange(4.0)}, get)
    monkeypatch.setattr(torch.no_grad, "__exit__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sparsifier.step()
    monkeypatch.undo()
    assert torch.is_grad_enabled()
    assert sparsifier.get_mask("w").all()
