"""The lines that scripts/mutate is to break are there, each once, and would be changed."""

from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")

ROOT = Path(__file__).resolve().parents[2]
MUTATIONS = tomllib.loads((ROOT / "tests" / "mutations.toml").read_text())["mutation"]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation["why"])
def test_a_line_to_be_broken_is_there(mutation):
    assert (ROOT / mutation["file"]).read_text().count(mutation["old"]) == 1
    assert mutation["new"] != mutation["old"]
