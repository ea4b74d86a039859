"""The report: figures counted from the masks, for groups of any kind."""

import itertools
import json
from html.parser import HTMLParser

import datasparse
import numpy as np
import pytest
import torch
from datasparse import BaseDataScheduler, BaseDataSparsifier, DataNormSparsifier
from datasparse.regrowth import SET
from support import ON_DEVICES, as_numpy, placed

pytestmark = ON_DEVICES


@pytest.fixture
def sparsifier(rng):
    groups = {
        "fc": rng.standard_normal((8, 16)).astype(np.float32),
        "half": torch.from_numpy(rng.standard_normal(10)).half(),
        "empty": np.zeros((0, 3)),
    }
    sparsifier = DataNormSparsifier(groups, sparsity_level=0.5, sparse_block_shape=(1, 1))
    band = np.eye(4) + np.roll(np.eye(4), 1, axis=0)  # so that no column dies
    sparsifier.add_data(
        "2:4", band, sparsity_level=1.0, sparse_block_shape=(1, 4), zeros_per_block=2
    )
    sparsifier.step()
    return sparsifier


def test_figures_are_those_of_the_masks(sparsifier):
    report = sparsifier.report()
    assert len(report) == 4
    assert [group.name for group in report] == ["fc", "half", "empty", "2:4"]
    for group in report:
        mask = np.asarray(sparsifier.get_mask(group.name))
        assert group.shape == mask.shape
        assert group.elements == mask.size
        assert group.zeros == int((~mask).sum())
        assert group.sparsity == (group.zeros / group.elements if mask.size else 0.0)
        assert group.status == "active"
    assert [group.dtype for group in report] == ["float32", "float16", "float64", "float64"]
    fc = report["fc"]
    assert (fc.bytes_dense, fc.bytes_masked) == (8 * 16 * 4, 64 * 4 + 16)
    assert (fc.block, fc.zeros_per_block, fc.target) == ((1, 1), 1, 0.5)
    assert (report["2:4"].block, report["2:4"].target, report["2:4"].sparsity) == ((1, 4), 0.5, 0.5)


def test_it_counts_what_is_not_what_should_be(sparsifier):
    sparsifier.get_mask("fc")[...] = True
    sparsifier.get_mask("fc")[0, :3] = False
    sparsifier.get_mask("half").data = torch.zeros(10, dtype=torch.bool)
    report = sparsifier.report()
    assert (report["fc"].zeros, report["fc"].target) == (3, 0.5)
    assert report["half"].sparsity == 1.0


def test_a_report_is_of_its_moment(sparsifier):
    report = sparsifier.report()
    before = report.as_dict()
    sparsifier.get_mask("fc")[...] = True
    sparsifier.remove_data("half")
    assert report.as_dict() == before


def test_totals(sparsifier):
    report = sparsifier.report()
    total = report.total
    assert total.elements == sum(group.elements for group in report) == 128 + 10 + 16
    assert total.zeros == sum(group.zeros for group in report)
    assert total.sparsity == total.zeros / total.elements
    assert total.target == pytest.approx(0.5)
    assert total.bytes_dense == 128 * 4 + 10 * 2 + 16 * 8
    assert total.bytes_masked == sum(group.bytes_masked for group in report)


def test_squashed_and_waiting_groups_are_there(sparsifier, tmp_path):
    sparsifier.squash_mask("fc")
    datasparse.save(tmp_path / "x", sparsifier)
    squashed = sparsifier.report()["fc"]
    assert (squashed.status, squashed.dtype, squashed.bytes_dense) == ("squashed", None, None)
    assert squashed.zeros == 64

    resumed = DataNormSparsifier()
    datasparse.load(tmp_path / "x", resumed)
    report = resumed.report()
    statuses = {group.name: group.status for group in report}
    waiting = dict.fromkeys(("2:4", "empty", "half"), "awaiting data")
    assert statuses == {"fc": "squashed", **waiting}
    for group in report:
        assert group.zeros == sparsifier.report()[group.name].zeros
        assert group.target == sparsifier.report()[group.name].target
        assert group.bytes_dense is None
    assert report.total.bytes_dense == 0
    assert report.total.zeros == sparsifier.report().total.zeros
    assert "half (awaiting data)" in str(report)


@pytest.mark.parametrize(
    ("config", "shape", "target", "block"),
    [
        ({"sparse_block_shape": (-1, 1)}, (4, 6), 0.5, "allx1"),
        ({"sparse_block_shape": (-1, 1), "zeros_per_block": 2}, (4, 6), 0.25, "2 of allx1"),
        ({"sparse_block_shape": (1, -1), "zeros_per_block": 3}, (4, 2, 3), 0.25, "3 of 1xall"),
        ({"sparse_block_shape": (1, -1), "zeros_per_block": 3}, (6,), 0.25, "3 of 1xall"),
        ({"sparse_block_shape": (-1, -1)}, (), 0.5, "allxall"),
        ({"sparse_block_shape": (2, 2), "zeros_per_block": 0}, (4, 6), 0.0, "0 of 2x2"),
    ],
)
def test_the_target_is_the_share_of_zeros_that_is_asked_for(config, shape, target, block):
    sparsifier = DataNormSparsifier([("w", placed(np.ones(shape)))], sparsity_level=0.5, **config)
    report = sparsifier.report()
    assert report["w"].target == target
    assert f"  {block}  " in str(report)


class Threshold(BaseDataSparsifier):
    def update_mask(self, name, data, **config):
        self.get_mask(name)[...] = abs(data) > 0.5


@pytest.mark.parametrize(
    "config",
    [
        {"threshold": 0.5},
        {"sparsity_level": "high", "sparse_block_shape": "any", "zeros_per_block": -1},
        {"sparsity_level": True, "sparse_block_shape": (1, 2, 3), "zeros_per_block": 1.5},
        {"sparsity_level": 40, "sparse_block_shape": (0, 1), "zeros_per_block": None},
        {"sparsity_level": float("nan"), "sparse_block_shape": (1.0, 2.0)},
    ],
)
def test_configs_of_other_classes_have_no_target(config):
    sparsifier = Threshold([("rows", placed(np.array([0.1, -0.7, 0.4])))], **config)
    sparsifier.step()
    group = sparsifier.report()["rows"]
    assert (group.target, group.block, group.zeros) == (None, None, 2)
    assert sparsifier.report().total.target is None
    json.dumps(sparsifier.report().as_dict(), allow_nan=False)


def test_a_level_without_blocks_is_the_target():
    sparsifier = Threshold([("rows", placed(np.ones(3)))], sparsity_level=0.25)
    assert sparsifier.report()["rows"].target == 0.25


@pytest.mark.device("cpu")
def test_of_nothing():
    report = DataNormSparsifier().report()
    assert len(report) == 0
    assert report.as_dict()["groups"] == {}
    assert report.total.sparsity == 0.0
    assert str(report).splitlines()[-1].startswith("total")


def test_it_prints_as_a_table(sparsifier):
    sparsifier.get_mask("fc")[...] = True
    sparsifier.get_mask("fc")[::4, ::2] = False
    sparsifier.remove_data("half")
    sparsifier.apply_mask()
    assert (
        str(sparsifier.report())
        == """\
group  shape    dtype    block     target  actual  zeros  dense  masked
-----------------------------------------------------------------------
fc     (8, 16)  float32  1x1       50.00%  12.50%     16  512 B   464 B
empty  (0, 3)   float64  1x1       50.00%   0.00%      0    0 B     0 B
2:4    (4, 4)   float64  2 of 1x4  50.00%  50.00%      8  128 B    66 B
-----------------------------------------------------------------------
total                              50.00%  16.67%     24  640 B   530 B"""
    )
    assert repr(sparsifier.report()) == str(sparsifier.report())


def test_zeros_that_are_not_in_the_data_have_a_column(sparsifier):
    sparsifier.remove_data("half")
    sparsifier.apply_mask("2:4")
    sparsifier.squash_mask("empty")
    assert (
        str(sparsifier.report())
        == """\
group             shape    dtype    block     target  actual  in data  zeros  dense  masked
-------------------------------------------------------------------------------------------
fc                (8, 16)  float32  1x1       50.00%  50.00%    0.00%     64  512 B   272 B
empty (squashed)  (0, 3)            1x1       50.00%   0.00%               0
2:4               (4, 4)   float64  2 of 1x4  50.00%  50.00%   50.00%      8  128 B    66 B
-------------------------------------------------------------------------------------------
total                                         50.00%  50.00%    5.56%     72  640 B   338 B"""
    )
    sparsifier.apply_mask()
    assert "in data" not in str(sparsifier.report())
    assert sparsifier.report().total.zeros_in_data == 72


def test_the_share_in_the_data_is_of_the_data_that_are_there(sparsifier):
    sparsifier.squash_mask(["2:4", "half"])
    sparsifier.get_data("fc")[0] = 0
    zeros = int((~sparsifier.get_mask("fc")[0]).sum())
    assert 0 < zeros < 64
    assert sparsifier.report()["fc"].zeros_in_data == zeros
    assert str(sparsifier.report()).splitlines()[-1].split()[3] == f"{zeros / 128:.2%}"


def test_what_has_no_weight_left_has_a_column(sparsifier):
    sparsifier.get_mask("fc")[:3] = False
    sparsifier.get_mask("fc")[:, 7] = False
    sparsifier.get_mask("2:4")[...] = False
    sparsifier.apply_mask()
    report = sparsifier.report()
    lines = str(report).splitlines()
    assert [line.split("  ")[-1].strip() for line in lines if line[0] != "-"] == [
        "dead", "3 rows, 1 channel", "12 B", "0 B", "all", "1 group, 7 rows, 5 channels"
    ]  # fmt: skip
    assert not any(line.endswith(" ") for line in lines)
    total = report.total
    assert (total.dead_groups, total.dead_rows, total.dead_channels) == (1, 7, 5)


FLOATS = ["float16", "float32", "float64", torch.bfloat16]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("view", ["plain", "transposed", "strided", "reversed", "broadcast"])
def test_zeros_in_data_of_any_kind_are_counted(rng, dtype, view):
    values = rng.choice([0.0, -0.0, 1e-7, 1.0], (6, 5, 7))
    data = torch.from_numpy(values).to(dtype) if dtype in FLOATS[3:] else values.astype(dtype)
    if view == "transposed":
        data = data.T if isinstance(data, np.ndarray) else data.permute(2, 1, 0)
    elif view == "strided":
        data = data[:, ::2, 1:]
    elif view == "reversed" and isinstance(data, np.ndarray):
        data = data[::-1, :, ::-1]
    elif view == "broadcast":
        data = np.broadcast_to(data[:1], (4, 5, 7)) if isinstance(data, np.ndarray) else (
            data[:1].expand(4, 5, 7)
        )  # fmt: skip
    shape = tuple(data.shape)
    mask = rng.random(shape) < 0.5
    sparsifier = DataNormSparsifier()
    sparsifier.add_data("w", data, mask=mask)
    as_float = data if isinstance(data, np.ndarray) else data.double().numpy()
    expected = int(((as_float == 0) & ~mask).sum())
    assert sparsifier.report()["w"].zeros_in_data == expected
    kept = DataNormSparsifier([("w", np.zeros(shape))])
    kept.add_data("w", data, keep_zeros=True)
    assert np.array_equal(np.asarray(kept.get_mask("w")), as_float != 0)


@pytest.mark.parametrize("shape", [(), (5,), (0, 3), (3, 0), (4, 6), (3, 4, 5), (2, 3, 1, 4)])
def test_dead_rows_and_channels_are_those_of_the_layout(rng, shape):
    for layout in itertools.permutations(range(len(shape))):
        mask = np.asarray(rng.random(shape) < 0.1)
        sparsifier = DataNormSparsifier()
        sparsifier.add_data("w", placed(np.ones(shape)), mask=mask, layout=layout)
        group = sparsifier.report()["w"]
        assert group.dead == (mask.size > 0 and not mask.any())
        if len(shape) < 2:
            assert (group.dead_rows, group.dead_channels) == (None, None)
            continue
        in_memory = layout == tuple(range(len(shape)))
        rows, channels = layout[0], 1 if in_memory else layout[-1]
        for axis, dead in ((rows, group.dead_rows), (channels, group.dead_channels)):
            others = tuple(set(range(len(shape))) - {axis})
            assert dead == (int((~mask.any(axis=others)).sum()) if mask.size else 0)


def test_data_of_another_shape_have_no_zeros_to_count():
    parameter = torch.nn.Parameter(torch.zeros(4))
    sparsifier = DataNormSparsifier([("w", parameter)])
    parameter.data = torch.zeros(5)
    assert sparsifier.report()["w"].zeros_in_data is None


def test_whole_axes_are_those_of_the_layout():
    sparsifier = DataNormSparsifier(sparse_block_shape=(-1, 1), zeros_per_block=2)
    sparsifier.add_data("w", placed(np.ones((4, 6, 2))), layout=(1, 2, 0))
    group = sparsifier.report()["w"]
    assert (group.block, group.block_elements, group.target) == ((-1, 1), 6, 0.5 * 2 / 6)


@pytest.mark.device("cpu")
@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (125_000, "125.0 kB"), (10**9, "1.0 GB"),
     (5 * 10**15, "5000.0 TB"), (None, "")],
)  # fmt: skip
def test_bytes_are_readable(count, text):
    from datasparse.report import bytes_text

    assert bytes_text(count) == text


class Cells(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.cells = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.cells.append(data)


def test_notebooks_show_a_table():
    name = "<script>alert(1)</script>&"
    sparsifier = DataNormSparsifier([(name, placed(np.ones(4)))])
    parser = Cells()
    parser.feed(sparsifier.report()._repr_html_())
    assert set(parser.tags) == {"table", "thead", "tbody", "tfoot", "tr", "th", "td"}
    assert name in parser.cells
    assert parser.tags.count("tr") == 3


def test_a_dict_of_plain_data(sparsifier):
    figures = sparsifier.report().as_dict()
    assert set(figures) == {"groups", "pools", "total"}
    assert figures["groups"]["fc"] == {
        "status": "active", "shape": (8, 16), "dtype": "float32", "block": (1, 1),
        "block_elements": 1, "zeros_per_block": 1, "target": 0.5, "sparsity": 0.5,
        "elements": 128, "zeros": 64, "zeros_in_data": 0, "dead": False, "dead_rows": 0,
        "dead_channels": 0,
        "bytes_dense": 512, "bytes_masked": 272, "pool": None, "ever_active": None,
    }  # fmt: skip
    json.dumps(figures)


class Writer:
    def __init__(self):
        self.scalars = []

    def add_scalar(self, tag, scalar_value, global_step=None):
        self.scalars.append((tag, scalar_value, global_step))


def test_it_writes_scalars(sparsifier):
    writer = Writer()
    report = sparsifier.report()
    report.write(writer, 7)
    expected = []
    for name, entry in [*((group.name, group) for group in report), ("total", report.total)]:
        expected.append((f"sparsity/{name}", entry.sparsity, 7))
        expected.append((f"sparsity_target/{name}", entry.target, 7))
    assert writer.scalars == expected


@pytest.mark.device("cpu")  # an override's mask without weights is warned of there alone
def test_a_group_may_be_called_total():
    sparsifier = Threshold({"total": placed(np.ones(4)), "more": placed(np.zeros(4))})
    with pytest.warns(UserWarning, match="all weights of 'more', 4 of 4"):
        sparsifier.step()
    writer = Writer()
    sparsifier.report().write(writer, 1, prefix="s")
    assert writer.scalars == [("s/total", 0.0, 1), ("s/more", 1.0, 1)]


def test_from_inside_an_override():
    class Curious(Threshold):
        def update_mask(self, name, data, **config):
            super().update_mask(name, data, **config)
            seen.append(self.report()[name].zeros)

    seen = []
    Curious([("rows", placed(np.array([0.1, -0.7, 0.4])))]).step()
    assert seen == [2]


def test_a_scheduler_changes_the_target():
    class Rising(BaseDataScheduler):
        def get_schedule_param(self):
            return dict.fromkeys(self.base_param, 0.25 * (1 + self.last_epoch))

    sparsifier = DataNormSparsifier([("w", placed(np.arange(8.0)))], sparse_block_shape=(1, 1))
    scheduler = Rising(sparsifier, "sparsity_level")
    for target in (0.25, 0.5, 0.75):
        sparsifier.step()
        group = sparsifier.report()["w"]
        assert (group.target, group.sparsity) == (target, target)
        scheduler.step()


def test_what_was_ever_active_is_counted_where_masks_move():
    data = {"a": placed(np.ones(10)), "b": placed(np.ones(30))}
    moving = SET(data, sparsity_level=0.5, drop_fraction=1.0)
    assert moving.report().total.ever_active is None
    assert "ever active" not in str(moving.report())
    seen = {"a": np.zeros(10, bool), "b": np.zeros(30, bool)}
    for _ in range(3):
        moving.step()
        for name, active in seen.items():
            active |= as_numpy(moving.get_mask(name))
    report = moving.report()
    counts = {name: int(active.sum()) for name, active in seen.items()}
    assert {group.name: group.ever_active for group in report} == counts
    assert report.total.ever_active == sum(counts.values())
    assert f"{sum(counts.values()) / 40:.2%}" in str(report).splitlines()[-1]
    assert report.as_dict()["groups"]["a"]["ever_active"] == counts["a"]
    assert DataNormSparsifier({"a": placed(np.ones(4))}).report()["a"].ever_active is None
