"""What add_data() can say of a group besides its config: layout, keep_zeros and update."""

import copy
import itertools
import pickle
import warnings

import datasparse
import numpy as np
import pytest
import reference
import torch
from datasparse import BaseDataSparsifier, DataNormSparsifier, DataScheduler
from datasparse.schedules import Linear
from support import ON_DEVICES, placed

pytestmark = ON_DEVICES


def permuted_mask(data, layout, **config):
    """The mask by the rule, of a matrix that is made by hand."""
    viewed = np.ascontiguousarray(np.transpose(data, layout))
    return np.transpose(reference.mask(viewed, **config), np.argsort(layout))


def single(level=0.5, **more):
    return DataNormSparsifier(sparsity_level=level, sparse_block_shape=(1, 1), **more)


class Threshold(BaseDataSparsifier):
    """Keeps what is above 1, and remembers what it was called with."""

    def __init__(self, *args, **config):
        self.seen = []
        super().__init__(*args, **config)

    def update_mask(self, name, data, **config):
        self.seen.append(name)
        self.get_mask(name)[...] = data > 1


class Through(DataNormSparsifier):
    """Calls the built-in rule as a subclass does."""

    def update_mask(self, name, data, **config):
        self._shape = tuple(data.shape)
        super().update_mask(name, data, **config)


# --- layout ---------------------------------------------------------------------------------------

CONV = (0, 2, 3, 1)


@pytest.mark.parametrize("kind", [DataNormSparsifier, Through])
@pytest.mark.parametrize("block", [(1, 1), (1, 4), (2, 3), (-1, 2), (1, -1)], ids=str)
@pytest.mark.parametrize("shape", [(6, 8, 3, 3), (5, 7, 2, 1), (1, 4, 1, 1)], ids=str)
def test_blocks_are_cut_along_the_layout(rng, kind, block, shape, device):
    data = rng.standard_normal(shape).astype(np.float32)
    for layout in [*itertools.permutations(range(4))][:: 1 if device.name == "cpu" else 11]:
        sparsifier = kind(sparsity_level=0.45, sparse_block_shape=block)
        sparsifier.add_data("w", placed(data), layout=layout)
        sparsifier.step()
        expected = permuted_mask(data, layout, sparsity_level=0.45, sparse_block_shape=block)
        assert np.array_equal(sparsifier.get_mask("w"), expected), layout


@pytest.mark.parametrize("kind", [DataNormSparsifier, Through])
def test_a_pattern_lies_along_the_inputs_of_a_convolution(rng, kind):
    """2:4 in the order of memory leaves a third of the groups along the inputs without it."""
    weight = torch.nn.Parameter(torch.from_numpy(rng.standard_normal((8, 16, 3, 3))))
    sparsifier = kind(sparsity_level=1.0, sparse_block_shape=(1, 4), zeros_per_block=2)
    sparsifier.add_data("conv", weight, layout=CONV)
    sparsifier.step()
    mask = sparsifier.get_mask("conv")
    assert mask.shape == weight.shape
    groups = mask.permute(CONV).reshape(-1, 4)
    assert (groups.sum(dim=1) == 2).all()
    if kind is Through:
        assert sparsifier._shape == (8, 16, 3, 3)


def test_a_layout_is_read_back_and_kept(rng):
    data = rng.standard_normal((2, 3, 4))
    sparsifier = single()
    sparsifier.add_data("w", placed(data), layout=[np.int64(1), 2, 0])
    assert sparsifier.layout("w") == (1, 2, 0)
    sparsifier.add_data("w", placed(data))
    assert sparsifier.layout("w") == (1, 2, 0)
    sparsifier.add_data("w", placed(rng.standard_normal((4, 5, 6))), reuse_mask=False)
    assert sparsifier.layout("w") == (1, 2, 0)
    sparsifier.add_data("w", placed(rng.standard_normal((4, 5))), reuse_mask=False)
    assert sparsifier.layout("w") == ()
    for memory in ((0, 1), ()):
        sparsifier.add_data("w", placed(data[0]), reuse_mask=False, layout=(1, 0))
        sparsifier.add_data("w", placed(data[0]), layout=memory)
        assert sparsifier.layout("w") == ()
        assert sparsifier.state_dict()["data_groups"]["w"]["layout"] is None
    sparsifier.add_data("point", placed(np.zeros(())), layout=())
    assert sparsifier.layout("point") == ()


@pytest.mark.parametrize(
    "layout", [(0,), (0, 1, 2, 3), (0, 0, 1), (0, 1, 3), (-1, 0, 1), (0, 1, 2**70), (0,) * 40]
)
def test_a_layout_that_is_no_order_of_the_axes_is_refused(layout):
    sparsifier = single()
    sparsifier.add_data("w", placed(np.ones((2, 3, 4))), layout=(2, 0, 1))
    before = sparsifier.state_dict()
    with pytest.raises(ValueError, match=r"layout of 'w' must .* got \("):
        sparsifier.add_data("w", placed(np.ones((2, 3, 4))), layout=layout)
    assert sparsifier.state_dict() == before


@pytest.mark.parametrize("layout", ["012", 3, (0.0, 1.0, 2.0), (True, False, 2), ("0", 1, 2), {}])
def test_a_layout_of_another_kind_is_refused(layout):
    with pytest.raises(TypeError, match="layout of 'w' must be None or a tuple of int, got"):
        single().add_data("w", placed(np.ones((2, 3, 4))), layout=layout)


def test_a_whole_axis_is_one_of_the_layout():
    sparsifier = DataNormSparsifier(sparse_block_shape=(-1, 1))
    sparsifier.add_data("w", placed(np.ones((4, 6, 2))), layout=(1, 0, 2))
    assert sparsifier.data_groups["w"]["zeros_per_block"] == 6
    sparsifier.data_groups["w"]["sparse_block_shape"] = (1, -1)
    assert sparsifier.data_groups["w"]["zeros_per_block"] == 8
    with pytest.raises(ValueError, match="zeros_per_block of 'w'"):
        sparsifier.data_groups["w"]["zeros_per_block"] = 9
    sparsifier.add_data("w", placed(np.ones((4, 6, 2))), layout=(), zeros_per_block=12)
    with pytest.raises(ValueError, match="zeros_per_block of 'w'"):
        sparsifier.add_data("w", placed(np.ones((4, 6, 2))), layout=(1, 0, 2))
    assert sparsifier.layout("w") == ()
    copied = copy.deepcopy(sparsifier)
    assert copied.data_groups["w"]["zeros_per_block"] == 12


def test_a_plan_counts_the_blocks_of_the_layout(rng):
    data = rng.standard_normal((5, 6, 3))
    for layout in itertools.permutations(range(3)):
        sparsifier = DataNormSparsifier(sparse_block_shape=(2, 4))
        sparsifier.add_data("w", placed(data), layout=layout)
        plan = DataScheduler(sparsifier, "sparsity_level", Linear(final=1.0, end=10)).plan(11)
        for step, level in enumerate(plan.values["w"]):
            mask = permuted_mask(data, layout, sparsity_level=level, sparse_block_shape=(2, 4))
            least, most = plan.zeros_least["w"][step], plan.zeros_most["w"][step]
            assert least <= (~mask).sum() <= most


# --- zeros that stay ------------------------------------------------------------------------------

FINE_TUNED = np.array([3.0, 0.0, -0.0, 4.0, 1.0, 2.0, 0.0, 5.0], np.float32)
ZEROS = FINE_TUNED == 0


def test_zeros_stay_whatever_the_data_become(rng):
    data = placed(FINE_TUNED.copy())
    sparsifier = single(0.25)
    assert sparsifier.add_data("w", data, keep_zeros=True) is data
    assert np.array_equal(sparsifier.get_mask("w"), ~ZEROS)  # at once
    for _ in range(5):
        data[:] = placed(rng.standard_normal(8))
        sparsifier.step()
        by_rule = reference.mask(data, sparsity_level=0.25, sparse_block_shape=(1, 1))
        assert np.array_equal(sparsifier.get_mask("w"), by_rule & ~ZEROS)
        sparsifier.apply_mask()
        assert (data[ZEROS] == 0).all()


def test_zeros_stay_under_overrides_too():
    for kind, level in ((Threshold, {}), (Through, {"sparse_block_shape": (1, 1)})):
        data = placed(FINE_TUNED.copy())
        sparsifier = kind(**level)
        sparsifier.add_data("w", data, keep_zeros=True)
        data[:] = placed(9 + np.arange(8))
        sparsifier.step()
        expected = np.full(8, True) if kind is Threshold else np.arange(8) >= 4
        assert np.array_equal(sparsifier.get_mask("w"), expected & ~ZEROS)


def test_zeros_are_joined_to_a_mask_that_is_given_or_reused():
    given = np.array([1, 1, 0, 0, 1, 1, 1, 1], bool)
    sparsifier = single()
    returned = sparsifier.add_data("w", placed(FINE_TUNED), mask=given, keep_zeros=True)
    assert np.array_equal(sparsifier.get_mask("w"), given & ~ZEROS)
    assert np.array_equal(returned, np.where(given, FINE_TUNED, 0))

    sparsifier = single()
    sparsifier.add_data("w", placed(np.ones(8, np.float32)), mask=given)
    held = sparsifier.get_mask("w")
    sparsifier.add_data("w", placed(FINE_TUNED), keep_zeros=True)
    assert np.array_equal(sparsifier.get_mask("w"), given & ~ZEROS)
    assert np.array_equal(held, given & ~ZEROS)  # the same memory


def test_which_zeros_are_remembered():
    other = np.array([0, 1, 1, 1, 1, 1, 1, 1], np.float32)
    sparsifier = single(0.0)

    def kept():
        sparsifier.step()
        return ~sparsifier.get_mask("w")

    sparsifier.add_data("w", placed(FINE_TUNED), keep_zeros=True)
    sparsifier.add_data("w", placed(other))
    assert np.array_equal(kept(), ZEROS)  # None: as it was
    sparsifier.add_data("w", placed(other), reuse_mask=False)
    assert np.array_equal(~sparsifier.get_mask("w"), ZEROS)
    assert np.array_equal(kept(), ZEROS)
    sparsifier.add_data("w", placed(other), keep_zeros=True)
    assert np.array_equal(kept(), other == 0)  # those of the data then
    sparsifier.add_data("w", placed(other), keep_zeros=False)
    assert not kept().any()
    sparsifier.add_data("w", placed(other), keep_zeros=True)
    sparsifier.add_data("w", placed(np.ones(9)), reuse_mask=False)
    assert not kept().any()  # of another shape
    sparsifier.add_data("w", placed(FINE_TUNED), reuse_mask=False, keep_zeros=True)
    assert np.array_equal(kept(), ZEROS)
    sparsifier.squash_mask("w")
    sparsifier.add_data("w", placed(other))
    assert not kept().any()  # afresh


def test_a_call_that_is_refused_leaves_the_mask_as_it_was():
    sparsifier = single()
    sparsifier.add_data("w", placed(FINE_TUNED))
    held = sparsifier.get_mask("w")
    before = sparsifier.state_dict()
    with pytest.raises(ValueError, match="sparsity_level"):
        sparsifier.add_data(
            "w", placed(FINE_TUNED), keep_zeros=True, update=False, sparsity_level=1.5
        )
    with pytest.raises(ValueError, match="reuse_mask"):
        sparsifier.add_data("w", placed(np.zeros(9)), keep_zeros=True)
    assert sparsifier.state_dict() == before
    assert held.all()


def test_a_plan_knows_of_kept_zeros():
    sparsifier = single()
    sparsifier.add_data("w", placed(FINE_TUNED), keep_zeros=True)
    plan = DataScheduler(sparsifier, "sparsity_level", Linear(final=1.0, end=8)).plan(9)
    assert plan.zeros_least["w"].tolist() == [3, 3, 3, 3, 4, 5, 6, 7, 8]
    assert plan.zeros_most["w"].tolist() == [3, 4, 5, 6, 7, 8, 8, 8, 8]


@pytest.mark.parametrize("argument", ["keep_zeros", "update"])
@pytest.mark.parametrize("value", [0, 1, "yes", (), 1.0])
def test_flags_are_bools(argument, value):
    with pytest.raises(TypeError, match=f"{argument} of 'w' must be None or a bool, got"):
        single().add_data("w", placed(FINE_TUNED), **{argument: value})
    single().add_data("w", placed(FINE_TUNED), **{argument: np.bool_(True)})


# --- frozen masks ---------------------------------------------------------------------------------


def test_a_frozen_mask_stays_as_it_is(rng):
    data = {name: placed(rng.standard_normal(8)) for name in "ab"}
    sparsifier = single()
    sparsifier.add_data("a", data["a"], update=False, mask=np.arange(8) % 2)
    sparsifier.add_data("b", data["b"])
    assert sparsifier.frozen("a")
    assert not sparsifier.frozen("b")
    sparsifier.step()
    assert sparsifier.get_mask("a").tolist() == [False, True] * 4
    assert sparsifier.get_mask("b").sum() == 4
    sparsifier.apply_mask()
    assert (data["a"][::2] == 0).all()
    sparsifier.add_data("a", data["a"])
    assert sparsifier.frozen("a")  # None: as it was
    sparsifier.add_data("a", placed(np.arange(8.0)), update=True)
    sparsifier.step()
    assert sparsifier.get_mask("a").tolist() == [False] * 4 + [True] * 4


def test_overrides_are_not_asked_for_frozen_masks():
    sparsifier = Threshold()
    sparsifier.add_data("a", placed(np.arange(4.0)), update=False)
    sparsifier.add_data("b", placed(np.arange(4.0)))
    sparsifier.step()
    assert sparsifier.seen == ["b"]
    assert sparsifier.get_mask("a").all()


def test_frozen_data_are_not_looked_up():
    parameter = torch.nn.Parameter(torch.ones(4))
    sparsifier = single()
    sparsifier.add_data("w", parameter, update=False)
    parameter.data = torch.ones(5)
    sparsifier.step()
    sparsifier.add_data("w", torch.ones(4), update=True)
    sparsifier.step()


def test_a_sparse_checkpoint_can_be_frozen_from_the_start():
    data = placed(FINE_TUNED.copy())
    sparsifier = single(0.9)
    sparsifier.add_data("w", data, keep_zeros=True, update=False)
    data += 1
    sparsifier.step()
    sparsifier.apply_mask()
    assert np.array_equal(data == 0, ZEROS)
    plan = DataScheduler(sparsifier, "sparsity_level", Linear(final=0.9, end=2)).plan(3)
    assert plan.zeros_least["w"].tolist() == plan.zeros_most["w"].tolist() == [3, 3, 3]


def test_what_is_known_of_a_group_is_asked_by_its_name():
    sparsifier = single()
    sparsifier.add_data("w", placed(np.ones(4)))
    assert not sparsifier.squashed("w")
    sparsifier.squash_mask()
    assert sparsifier.squashed("w")
    for ask in (sparsifier.squashed, sparsifier.frozen, sparsifier.layout):
        with pytest.raises(datasparse.UnknownNameError, match="no data named 'v'"):
            ask("v")


# --- saving ---------------------------------------------------------------------------------------


@pytest.fixture
def trained(rng):
    """Groups with everything, some steps later."""
    data = {
        "conv": rng.standard_normal((4, 8, 3, 3)).astype(np.float32),
        "sparse": FINE_TUNED.copy(),
        "still": rng.standard_normal((3, 5)),
        "plain": rng.standard_normal(9),
    }
    data = {name: placed(array) for name, array in data.items()}
    sparsifier = DataNormSparsifier(sparsity_level=0.5, sparse_block_shape=(1, 4))
    sparsifier.add_data("conv", data["conv"], layout=CONV)
    sparsifier.add_data("sparse", data["sparse"], keep_zeros=True, sparse_block_shape=(1, 1))
    sparsifier.add_data("still", data["still"], update=False, mask=np.eye(3, 5), layout=(1, 0))
    sparsifier.add_data("plain", data["plain"])
    sparsifier.step()
    return sparsifier


def train(sparsifier):
    """Other data, and a step: what it does depends on all that was saved."""
    rng = np.random.default_rng(11)
    for name in sparsifier.data_groups:
        data = sparsifier.get_data(name)
        data[...] = placed(rng.standard_normal(tuple(data.shape)))
    sparsifier.step()
    return sparsifier.state_dict()


def ones_like(data):
    return 0 * data + 1


def fresh(sparsifier):
    return DataNormSparsifier(
        [(name, ones_like(sparsifier.get_data(name))) for name in sparsifier.data_groups]
    )


def by_state_dict(sparsifier, folder):
    other = fresh(sparsifier)
    other.load_state_dict(sparsifier.state_dict())
    return other


def by_claiming(sparsifier, folder):
    other = DataNormSparsifier()
    other.load_state_dict(sparsifier.state_dict())
    for name in sparsifier.data_groups:
        other.add_data(name, ones_like(sparsifier.get_data(name)))
    return other


def by_torch(sparsifier, folder):
    torch.save(sparsifier.state_dict(), folder / "state")
    other = fresh(sparsifier)
    other.load_state_dict(torch.load(folder / "state"))
    return other


def by_checkpoint(sparsifier, folder):
    datasparse.save(folder / "x", sparsifier)
    other = fresh(sparsifier)
    datasparse.load(folder / "x", other)
    return other


WAYS = [
    by_state_dict, by_claiming, by_torch, by_checkpoint,
    lambda sparsifier, folder: copy.deepcopy(sparsifier),
    lambda sparsifier, folder: pickle.loads(pickle.dumps(sparsifier)),
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_all_of_it_comes_back(trained, tmp_path, way):
    other = way(trained, tmp_path)
    assert other.layout("conv") == CONV
    assert other.layout("still") == (1, 0)
    assert other.frozen("still")
    assert not other.frozen("conv")
    assert other.state_dict() == trained.state_dict()
    assert train(other) == train(trained)
    assert not other.get_mask("sparse")[ZEROS].any()
    assert np.array_equal(other.get_mask("still"), np.eye(3, 5))


def test_loading_replaces_what_was_said_here(trained):
    other = fresh(trained)
    shape = trained.get_data("plain").shape
    other.add_data("plain", placed(np.zeros(shape)), keep_zeros=True, update=False)
    other.load_state_dict(trained.state_dict())
    assert not other.frozen("plain")
    assert train(other) == train(trained)


def test_a_state_of_version_1_has_none_of_it(trained):
    state = trained.state_dict()
    assert state["version"] == 2
    assert state["data_groups"]["conv"]["layout"] == CONV
    assert (
        state["data_groups"]["sparse"]["kept_zeros"]
        == np.packbits(ZEROS, bitorder="little").tobytes()
    )
    assert state["data_groups"]["still"]["update"] is False
    old = dict(state, version=1)
    for group in old["data_groups"].values():
        for key in ("layout", "kept_zeros", "update"):
            del group[key]
    other = fresh(trained)
    for name in other.data_groups:
        data = other.get_data(name)
        other.add_data(name, data, layout=range_back(data.ndim), keep_zeros=True, update=False)
    other.load_state_dict(old)
    for name, group in other.state_dict()["data_groups"].items():
        assert (group["layout"], group["kept_zeros"], group["update"]) == (None, None, True)
        assert np.array_equal(other.get_mask(name), trained.get_mask(name))


def range_back(axes):
    return tuple(reversed(range(axes)))


# --- dead groups ----------------------------------------------------------------------------------


def test_a_group_without_a_weight_is_warned_of_once():
    sparsifier = single(0.99)
    sparsifier.add_data("fc", placed(np.ones(40)))
    sparsifier.add_data("wide", placed(np.ones(400)))
    with pytest.warns(UserWarning, match="pruned") as caught:
        sparsifier.step()
    assert [str(warning.message) for warning in caught] == [
        "step() pruned all weights of 'fc', 40 of 40: lower its sparsity_level, or set min_kept=1"
    ]
    assert caught[0].filename == __file__
    sparsifier.step()  # warnings are errors here
    sparsifier.add_data("fc", placed(np.ones(40)))
    sparsifier.step()
    with pytest.warns(UserWarning, match="all weights of 'fc', 40 of 40"):
        copy.deepcopy(sparsifier).step()
    sparsifier.data_groups["fc"]["min_kept"] = 1
    other = copy.deepcopy(sparsifier)
    other.step()
    assert other.get_mask("fc").sum() == 1


@pytest.mark.parametrize("level", [1.0, 1])
def test_what_was_asked_for_is_not_warned_of(level):
    sparsifier = single(level)
    sparsifier.add_data("all", placed(np.ones(40)))
    sparsifier.add_data("empty", placed(np.ones((0, 3))))
    sparsifier.add_data(
        "frozen", placed(np.ones(4)), mask=np.zeros(4), update=False, sparsity_level=0.5
    )
    sparsifier.step()
    sparsifier.enable_mask_update = False
    sparsifier.data_groups["all"]["sparsity_level"] = 0.5
    sparsifier.step()


def test_it_is_said_why_where_that_is_known(device):
    sparsifier = single(0.5)
    sparsifier.add_data("new", placed(np.zeros(40)), keep_zeros=True)
    with pytest.warns(
        UserWarning, match="weights of 'new', 40 of 40: keep_zeros=True found them all zero"
    ):
        sparsifier.step()
    rows = Threshold([("rows", placed(np.zeros(3)))])
    if device.name != "cpu":  # nobody looks at a mask there
        rows.step()
        return
    with pytest.warns(UserWarning, match="weights of 'rows', 3 of 3: let update_mask"):
        rows.step()


def test_a_step_is_complete_where_warnings_are_errors():
    sparsifier = single(0.99)
    sparsifier.add_data("a", placed(np.ones(40)))
    sparsifier.add_data("b", placed(np.ones(40)))
    sparsifier.add_data("c", placed(np.arange(400.0)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in "ab":  # the next one comes at the next step
            with pytest.raises(UserWarning, match=f"of '{name}'"):
                sparsifier.step()
        sparsifier.step()
    assert sparsifier.step_count == 3
    assert not sparsifier.get_mask("a").any()
    assert sparsifier.get_mask("c").sum() == 4


# --- names ----------------------------------------------------------------------------------------


def test_names_that_come_twice_are_one(rng):
    data = {str(index): placed(rng.standard_normal(4)) for index in range(50)}
    sparsifier = DataNormSparsifier(data, sparse_block_shape=(1, 1))
    sparsifier.step()
    names = [*map(str, range(40)), *map(str, range(20, 40))]
    sparsifier.apply_mask(names)
    assert [int((data[str(index)] == 0).sum()) for index in range(50)] == [2] * 40 + [0] * 10
    sparsifier.squash_mask(names)
    assert [sparsifier.squashed(str(index)) for index in range(50)] == [True] * 40 + [False] * 10
