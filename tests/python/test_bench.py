"""The benchmarks run on tiny tensors and check their answers. No time is asserted."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    shutil.which("c++") is None, reason="the yardstick is compiled on the spot"
)

# Without `count`, `embedding` and `groups`, which compile the core (the long tier runs them), and
# `isa`, `memory` and `curve`, whose processes and peers take long: each has a test of its own.
SECTIONS = "rows,dtypes,hard,peers,schedulers,scores,threads,apply,layouts,monotone"


@pytest.fixture(autouse=True)
def bench(monkeypatch, threads):
    """The package `bench`, importable; the numbers of threads come back afterwards."""
    monkeypatch.syspath_prepend(str(ROOT))
    threads(1)
    import bench.__main__

    return bench


def run(*arguments):
    from bench.__main__ import main

    return main(["--largest", "4096", "--rounds", "2", "--threads", "1", *arguments])


def test_sections_run_and_every_answer_is_right(tmp_path, capsys):
    result = tmp_path / "result.json"
    assert run("--only", SECTIONS, "--json", str(result)) == 0
    output = capsys.readouterr().out
    assert "0 wrong answers" in output
    assert "WRONG" not in output
    contents = json.loads(result.read_text())
    assert {row["section"] for row in contents["rows"]} == set(SECTIONS.split(","))
    assert contents["machine"]["threads"] == 1
    steps = [row for row in contents["rows"] if row["what"].startswith(("step()", "bound"))]
    assert len(steps) > 100
    for row in steps:
        assert row["right"] is True or row["section"] == "schedulers", row


@pytest.mark.long
@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs CMake")
def test_sections_that_compile_the_core(capsys):
    assert run("--only", "groups,count,embedding") == 0
    output = capsys.readouterr().out
    assert "0 wrong answers" in output
    assert "from C" in output


def test_planted_inputs_know_the_sampling():
    from bench import adversary

    sources = "".join(
        (ROOT / "cpp/src" / name).read_text() for name in ("tiles/lane.hpp", "select/sampling.hpp")
    )
    for known in (
        f"run_length = {adversary.RUN};",
        f"{adversary.SHARE} * std::pow(static_cast<double>(n), 2.0 / 3.0)) / run_length;",
        f"second_sample = {adversary.SECOND};",
    ):
        assert known in sources


def test_a_wrong_mask_makes_it_fail(monkeypatch, capsys):
    from bench.step import ColdStep

    honest = ColdStep.run

    def flip_one(self, call):
        honest(self, call)
        mask = self.sparsifier.get_mask("w")
        mask[0, 0] = not mask[0, 0]

    monkeypatch.setattr(ColdStep, "run", flip_one)
    assert run("--only", "dtypes") == 1
    assert "**WRONG**" in capsys.readouterr().out


@pytest.mark.parametrize("block", [(1, 1), (1, 4), (4, 4)])
def test_no_fault_of_a_mask_goes_unseen(rng, block):
    from reference import whole_block_mask_by_stable_sort

    from bench import check
    from bench.cases import Case
    from bench.inputs import Input

    data = rng.integers(-3, 4, (32, 64)).astype(np.float32)  # ties everywhere
    data[3] = np.nan
    input_, case = Input("test", data, "float32"), Case(block, 0.4)
    mask = whole_block_mask_by_stable_sort(data, 0.4, block)
    assert check.fault(mask, input_, case, 0.4) is None
    assert "pruned, not" in check.fault(np.ones_like(mask), input_, case, 0.4)
    height, width = block
    blocks = mask[::height, ::width]
    kept, pruned = (np.argwhere(blocks == value) for value in (True, False))
    pairs = zip(rng.permutation(kept)[:40], rng.permutation(pruned), strict=False)
    for (r1, c1), (r2, c2) in pairs:
        wrong = blocks.copy()
        wrong[r1, c1], wrong[r2, c2] = False, True
        wrong = np.repeat(np.repeat(wrong, height, axis=0), width, axis=1)
        assert check.fault(wrong, input_, case, 0.4) is not None


def test_faults_within_blocks_are_seen():
    from bench import check
    from bench.cases import TWO_OF_FOUR
    from bench.inputs import Input

    data = np.tile(np.array([1, -2, 2, 3], np.float32), (4, 16))
    input_ = Input("test", data, "float32")

    def fault(*block):
        return check.fault(np.tile(np.array(block, bool), (4, 16)), input_, TWO_OF_FOUR, 1.0)

    assert fault(0, 0, 1, 1) is None  # of the equal ones the earlier goes
    assert "pruned before" in fault(0, 1, 0, 1)
    assert "pruned before" in fault(1, 0, 0, 1)
    assert "zeros" in fault(0, 1, 1, 1)


def test_compare_shows_both_files(tmp_path, capsys):
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    assert run("--only", "apply", "--json", str(before)) == 0
    assert run("--only", "apply,schedulers", "--json", str(after)) == 0
    capsys.readouterr()
    from bench.__main__ import main

    assert main(["compare", str(before), str(after)]) == 0
    output = capsys.readouterr().out
    assert "squash_mask()" in output
    assert "Only in after.json: schedulers" in output


def test_plot(tmp_path):
    result, png = tmp_path / "result.json", tmp_path / "curve.png"
    assert run("--only", "curve", "--json", str(result), "--plot", str(png)) == 0
    assert png.read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_and_instruction_sets_have_processes_of_their_own():
    from bench.cases import Case
    from bench.child import run_child

    arguments = ["Gaussian", "float32", 65536, [1, 1], 0.5, None, 1]
    assert run_child("bench.sections.memory", [json.dumps(arguments)]) >= 0
    options = {
        "rounds": 1, "threads": 1, "largest": 4096, "incumbent": False, "quick": True,
    }  # fmt: skip
    rows = run_child("bench.sections.isa", [json.dumps(options)], DATASPARSE_ISA="scalar")
    assert {row["isa"] for row in rows} == {"scalar"}
    assert Case((1, 1), 0.5).name in rows[0]["case"]


def test_unknown_sections_are_refused(capsys):
    with pytest.raises(SystemExit):
        run("--only", "row")
    assert "no section row" in capsys.readouterr().err


def test_a_device_is_measured_by_each_route_that_it_has(tmp_path, capsys):
    result = tmp_path / "result.json"
    assert run("--device", "cpu", "--json", str(result)) == 0
    assert "0 wrong answers" in capsys.readouterr().out
    rows = json.loads(result.read_text())["rows"]
    assert {row["section"] for row in rows} == {"device", "device_groups"}
    assert all(row["right"] for row in rows if row["what"] in ("operations", "step()"))
    assert {row["unit"] for row in rows if row["what"] == "operations"} == {"x bound"}


def test_a_wrong_mask_of_a_route_makes_it_fail(monkeypatch, capsys):
    from datasparse.torch.device import operations

    right = operations.compute
    monkeypatch.setattr(operations, "compute", lambda *given: [~mask for mask in right(*given)])
    assert run("--device", "cpu", "--only", "device_groups") == 1
    assert "**WRONG**" in capsys.readouterr().out


def test_sections_of_a_device_are_not_those_of_the_cpu(capsys):
    with pytest.raises(SystemExit):
        run("--device", "cpu", "--only", "rows")
    assert "no section rows" in capsys.readouterr().err


# Keys of a large model are few in small.
empties_layers = pytest.mark.filterwarnings("ignore:step.* pruned all weights of:UserWarning")


@empties_layers
def test_simulated_ranks_have_the_masks_of_one_machine():
    from bench.shards import MODELS, TENSORS, Sent, Simulation, move, weights_of

    for name, model in MODELS.items():
        shapes = model.shapes(300_000)
        assert len(shapes) == TENSORS
        assert 200_000 < sum(rows * columns for rows, columns in shapes) <= 300_000
        for is_pool in (True, False):
            weights = weights_of(shapes, torch.float32)
            sent = {}
            for ranks in (1, 3):
                simulation = Simulation([weight.clone() for weight in weights], ranks, is_pool)
                cold, right = simulation.step()
                assert right, name
                move(simulation.weights)
                hinted, right = simulation.step()
                assert right, name
                assert hinted.rounds <= cold.rounds
                assert cold.most <= 65536
                sent[ranks] = cold, hinted
            assert sent[1] == sent[3]  # however many they are
    assert Sent(1, 64 << 10, 64 << 10).seconds(1) == 0
    # Three collectives of two hops each, and 65,968 bytes there and back by halves.
    assert Sent(1, 65536, 65536).seconds(2) == pytest.approx(6 * 10e-6 + 65_968 / 10e9)


@empties_layers
@pytest.mark.full
def test_shards_are_measured(capsys):
    assert run("--only", "shards", "--quick") == 0
    output = capsys.readouterr().out
    assert "0 wrong answers" in output
    for what in ("2 ranks of gloo, measured", "8 ranks simulated", "one rank, cold"):
        assert what in output
