"""docs/first_hour.ipynb runs, cell by cell, as it would in Jupyter, and says what it prints."""

import ast
import contextlib
import io
import json
import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "first_hour.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]


def run_cell(source: str, namespace: dict[str, object]) -> tuple[list[str], object]:
    """The lines that a cell prints, and the value of its last expression, which Jupyter shows."""
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(ast.Module(body, []), str(NOTEBOOK), "exec"), namespace)
        value = last and eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), namespace)
    return printed.getvalue().splitlines(), value


def test_the_cells_run_in_order(tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="needs matplotlib")
    pyplot.switch_backend("agg")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    shown = []
    for cell in CELLS:
        if cell["cell_type"] != "code":
            continue
        source = "".join(cell["source"])
        printed, value = run_cell(source, namespace)
        # A comment behind a print says what it prints.
        expected = re.findall(r"^ *print\(.*\)  # (.*)$", source, re.MULTILINE)
        assert all(line in printed for line in expected)
        shown.append(value)

    assert len(pyplot.get_fignums()) == 2  # Jupyter shows them
    pyplot.close("all")
    dense, sparse, packed = (value for value in shown if isinstance(value, float))
    assert dense > 0.9
    assert abs(sparse - dense) < 0.05
    assert packed < 0.3
    for name in ("0.weight", "2.weight"):
        mask = namespace["attachment"].sparsifier.get_mask(name)
        assert not namespace["sparse"].get_parameter(name)[~mask].any()
    assert not any(tmp_path.iterdir())  # files lie in a folder of their own


def test_the_notebook_holds_no_outputs():
    code = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert code
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
