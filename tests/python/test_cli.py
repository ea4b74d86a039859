"""The command line, run as a user runs it: in a process of its own, but where imports cost most."""

import os
import subprocess
import sys
from importlib.metadata import entry_points

import datasparse
import pytest
from datasparse import cli


def python(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
    )


def run(*arguments, cwd=None):
    return python("-W", "error", "-m", "datasparse", *arguments, cwd=cwd)


def run_without(module, *arguments, cwd):
    """Runs the command where `import module` fails."""
    program = (
        f"import sys; sys.modules[{module!r}] = None\n"
        f"from datasparse.cli import main; sys.exit(main({list(arguments)!r}))"
    )
    return python("-c", program, cwd=cwd)


def test_version():
    done = run("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"datasparse {datasparse.__version__}\n"


def test_info_lists_every_fact_aligned():
    done = run("info")
    assert (done.returncode, done.stderr) == (0, "")
    facts = datasparse.runtime_info()
    lines = done.stdout.splitlines()
    assert lines.pop().startswith("devices  ")
    assert len(lines) == len(facts)
    columns = set()
    for line, (name, value) in zip(lines, facts.items(), strict=True):
        assert line.startswith(f"{name}  ")
        assert line.endswith(f"  {value}")
        columns.add(len(line) - len(str(value)))
    assert len(columns) == 1


def test_demo_shows_the_table_and_writes_the_plot(tmp_path):
    done = run("demo", "--seed", "5", "--epochs", "3", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "seed 5" in done.stdout
    assert "90.0% of 134,000 weights are zero" in done.stdout
    png = tmp_path / "datasparse-demo.png"
    assert png.name in done.stdout
    assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_demo_writes_the_plot_where_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo", "--epochs", "2", "--png", "curves.png"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_no_plot_needs_no_matplotlib(tmp_path):
    done = run_without("matplotlib", "demo", "--epochs", "2", "--no-plot", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "package"),
    [
        ("sklearn", "scikit-learn"),
        ("threadpoolctl", "threadpoolctl"),
        ("rich", "rich"),
        ("matplotlib", "matplotlib"),
    ],
)
def test_missing_extra_says_what_to_install(module, package, tmp_path):
    done = run_without(module, "demo", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"datasparse demo needs {package}: install with pip install 'datasparse[demo]'\n"
    )


def test_plot_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo", "--epochs", "2", "--png", "missing/curves.png"]) == 1
    printed = capsys.readouterr()
    assert "weights are zero" in printed.out
    assert printed.err.startswith("datasparse demo could not write the plot: ")
    assert "missing/curves.png" in printed.err
    assert len(printed.err.splitlines()) == 1


SCHEDULE = "Polynomial(final=0.9, begin=0, end=1000, every=100)"


def test_plan_shows_the_table_and_writes_the_plot(tmp_path):
    options = ["--steps", "1200", "--shape", "64x100", "--png", "plan.png"]
    done = run("plan", SCHEDULE, *options, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "sparsity_level, steps 0 to 1199"
    assert lines[-2].split() == ["1000", "0.9000", "5,760", "of", "6,400"]
    assert len(lines) == 2 + 11 + 1
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_plan_needs_no_matplotlib_without_a_plot(tmp_path):
    done = run_without("matplotlib", "plan", SCHEDULE, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("sparsity_level, steps 0 to 1100\n")


def test_who_has_read_enough_of_a_table_sees_no_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "datasparse", "plan", SCHEDULE]
    with os.fdopen(writer) as pipe:
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, timeout=120)
    assert (done.returncode, done.stderr) == (1, b"")


def test_plan_of_integers(capsys):
    schedule = "Linear(final=2, end=4)"
    options = ["--param", "zeros_per_block", "--level", "1", "--shape", "8x8"]
    assert cli.main(["plan", schedule, *options]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["3", "2", "32", "of", "64"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["Polynomial(final=0.9)"], "must be written Polynomial(*, initial=0.0, final=None,"),
        (["__import__('os')"], "expression must not hold"),
        (["Constant(1.5)"], "sparsity_level of 'tensor' must be in [0, 1], got 1.5"),
        (["Exponential(1.5)", "--steps", "5"], "step 2: sparsity_level of 'tensor' must be in"),
        (["Step('a', 1)"], "must not hold"),
        (["Constant()", "--level", "2"], "sparsity_level must be in [0, 1], got 2.0"),
        (["Constant()", "--block", "1x2x3"], "sparse_block_shape must be a tuple of two integers"),
    ],
)
def test_plan_that_cannot_be_is_one_line(arguments, complaint, capsys):
    assert cli.main(["plan", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("datasparse plan: ")
    assert complaint in printed.err
    assert len(printed.err.splitlines()) == 1


def test_plan_says_what_a_plot_needs(tmp_path):
    done = run_without("matplotlib", "plan", SCHEDULE, "--png", "plan.png", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'datasparse[plot]'" in done.stderr


def test_plan_whose_plot_cannot_be_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plan", SCHEDULE, "--png", "missing/plan.png"]) == 1
    assert capsys.readouterr().err.startswith("datasparse plan could not write the plot: ")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "COMMAND"),
        (["dance"], "dance"),
        (["demo", "--seed", "-1"], "argument --seed: must be at least 0, got -1"),
        (["demo", "--epochs", "1"], "argument --epochs: must be at least 2, got 1"),
        (["demo", "--epochs", "ten"], "argument --epochs: invalid integer value: 'ten'"),
        (["demo", "--png", "a.png", "--no-plot"], "not allowed with"),
        (["plan"], "SCHEDULE"),
        (["plan", "Constant()", "--steps", "0"], "argument --steps: must be at least 1, got 0"),
        (
            ["plan", "Constant()", "--shape", "0x4"],
            "argument --shape: must be lengths of 1 or more",
        ),
        (["plan", "Constant()", "--block", "4"], "argument --block: must be lengths of 1 or more"),
        (["plan", "Constant()", "--shape", "4xa"], "argument --shape: invalid axes value: '4xa'"),
        (["plan", "Constant()", "--param", "norm"], "argument --param: invalid choice: 'norm'"),
    ],
)
def test_wrong_arguments_are_named(arguments, complaint, capsys):
    with pytest.raises(SystemExit) as exit_info:
        cli.main(arguments)
    assert exit_info.value.code == 2
    assert complaint in capsys.readouterr().err


def test_info_loads_nothing_heavy():
    heavy = ["matplotlib", "rich", "sklearn", "torch"]
    done = python(
        "-c",
        "import sys; from datasparse.cli import main; main(['info'])\n"
        f"sys.exit(', '.join(sorted(set({heavy}) & set(sys.modules))))",
    )
    assert done.stderr.strip() == ""


def test_console_script_is_main():
    (script,) = entry_points(group="console_scripts", name="datasparse")
    assert script.load() is cli.main
