"""Plans as tables, arrays and pictures."""

import numpy as np
import pytest
from datasparse import DataNormSparsifier, DataScheduler
from datasparse.plot import plot_plan
from datasparse.schedules import Linear, OneShot
from support import ON_DEVICES, placed

pytestmark = ON_DEVICES


@pytest.fixture
def plan():
    shapes = {"fc1": (4, 8), "fc2": (4, 8), "emb": (3, 6)}
    data = {name: placed(np.ones(shape)) for name, shape in shapes.items()}
    sparsifier = DataNormSparsifier(data, sparsity_level=0.5)
    schedule = {"fc*": Linear(end=4, every=2), "emb": OneShot(3)}
    return DataScheduler(sparsifier, "sparsity_level", schedule).plan(7)


def test_the_table_shows_every_change_of_different_groups(plan):
    assert str(plan).splitlines() == [
        "sparsity_level, steps 0 to 6",
        "step    fc1 and 1 more                    emb",
        "   0   0.0000  0 of 32        0.0000  0 of 18",
        "   2   0.2500  8 of 32        0.0000  0 of 18",
        "   3   0.2500  8 of 32  0.5000  6 to 12 of 18",
        "   4  0.5000  16 of 32  0.5000  6 to 12 of 18",
    ]


def test_a_long_table_is_cut_and_says_so(plan):
    assert len(plan.table(rows=2).splitlines()) == 5
    assert plan.table(rows=2).splitlines()[-1] == "... 2 more changes: table(rows=None)"
    assert plan.table(rows=None) == str(plan)


def test_many_different_groups_are_cut_and_say_so():
    data = {f"w{size}": placed(np.ones(size)) for size in range(1, 11)}
    scheduler = DataScheduler(DataNormSparsifier(data), "sparsity_level", Linear(end=2))
    assert str(scheduler.plan(3)).splitlines()[-1] == "... 4 more groups"


def test_arrays_have_a_row_per_step_and_group(plan):
    arrays = plan.arrays()
    assert {name: len(column) for name, column in arrays.items()} == dict.fromkeys(
        ["step", "group", "value", "zeros_least", "zeros_most"], 21
    )
    assert arrays["step"][:4].tolist() == [0, 0, 0, 1]
    assert arrays["group"][:4].tolist() == ["fc1", "fc2", "emb", "fc1"]
    assert arrays["value"][-3:].tolist() == [0.5, 0.5, 0.5]
    assert arrays["zeros_most"][-1] == 12


def test_shares_of_zeros(plan):
    least, most = plan.zero_shares()
    assert least[-1] == (16 + 16 + 6) / 82
    assert most[-1] == (16 + 16 + 12) / 82
    assert plan.zero_shares(["fc1"])[0].tolist() == [0, 0, 0.25, 0.25, 0.5, 0.5, 0.5]


@pytest.mark.parametrize("steps", [0, 1])
def test_short_plans(steps):
    scheduler = DataScheduler(
        DataNormSparsifier([("a", placed(np.ones(4)))]), "sparsity_level", Linear(end=4)
    )
    plan = scheduler.plan(steps)
    assert len(plan.arrays()["value"]) == steps
    assert str(plan).startswith("sparsity_level" if steps else "no steps")
    plot_plan(plan)


@pytest.mark.device("cpu")
def test_a_plan_of_no_groups():
    plan = DataScheduler(DataNormSparsifier(), "sparsity_level", Linear(end=4)).plan(3)
    assert all(len(column) == 0 for column in plan.arrays().values())
    assert str(plan)
    plot_plan(plan)


@pytest.mark.device("cpu")
def test_the_picture_has_a_line_per_different_group_and_a_panel_of_zeros(plan, tmp_path):
    figure = plot_plan(plan)
    values, zeros = figure.axes
    assert [text.get_text() for text in values.get_legend().get_texts()] == [
        "fc1 and 1 more",
        "emb",
    ]
    assert (values.get_ylabel(), zeros.get_ylabel()) == ("sparsity_level", "zeros")
    figure.savefig(tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.device("cpu")
def test_the_picture_leaves_pyplot_alone(run_python):
    script = """
import sys
import numpy as np
from datasparse import DataNormSparsifier, DataScheduler
from datasparse.plot import plot_plan
from datasparse.schedules import Linear

sparsifier = DataNormSparsifier([("a", np.ones(4))])
plan = DataScheduler(sparsifier, "sparsity_level", Linear(end=4)).plan(6)
assert "matplotlib" not in sys.modules
plot_plan(plan)
print("matplotlib.pyplot" in sys.modules)
"""
    assert run_python(script) == "False\n"
