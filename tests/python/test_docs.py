"""What is written is run: samples of the README and of docs/, and examples in docstrings."""

import contextlib
import doctest
import io
import json
import os
import re
import traceback
from pathlib import Path

import datasparse
import datasparse.distributions
import datasparse.files
import datasparse.quantization
import datasparse.recipes
import datasparse.regrowth
import datasparse.schedules
import datasparse.scores
import datasparse.shards
import datasparse.torch
import numpy as np
import pytest
import torch
from datasparse import _core

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CLASSES = [value for value in vars(_core).values() if isinstance(value, type)]
FUNCTIONS = [
    getattr(datasparse, name) for name in ("block_mask", "load", "require_known_keys", "save")
]
DOCUMENTED = [
    *FUNCTIONS,
    *CLASSES,
    datasparse.distributions.erk,
    datasparse.distributions.uniform,
    datasparse.recipes.loads,
    datasparse.files.inspect,
    datasparse.files.load_packed,
    datasparse.schedules,
    datasparse.schedules.parse,
    datasparse.scores,
    datasparse.shards.write_masks,
    datasparse.torch.attach,
    datasparse.torch.calibrate,
    datasparse.torch.prune_at_init,
    datasparse.quantization.post_training_sparse_quantize,
]
NAMES = {
    **vars(datasparse.schedules),
    **vars(datasparse.regrowth),
    **{name: getattr(datasparse, name) for name in datasparse.__all__},
    **vars(datasparse.scores),
    "loads": datasparse.recipes.loads,
    "ShardParts": _core.ShardParts,
    "write_masks": datasparse.shards.write_masks,
    "np": np,
    "calibrate": datasparse.torch.calibrate,
    "prune_at_init": datasparse.torch.prune_at_init,
    **{"torch": torch, "attach": datasparse.torch.attach, "detach": datasparse.torch.detach},
    "post_training_sparse_quantize": datasparse.quantization.post_training_sparse_quantize,
}


def python_samples(page: Path) -> list[tuple[str, str]]:
    """Each sample, and the block of text below it, which is what it prints, where there is one."""
    sample = r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?"
    return re.findall(sample, page.read_text(), re.MULTILINE | re.DOTALL)


def run_samples(page: Path) -> None:
    """In the order of the page, in one namespace; what they print is what the page says."""
    namespace: dict[str, object] = {}
    for sample, text in python_samples(page):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(sample, str(page), "exec"), namespace)
        # A comment behind a print says what it prints.
        expected = re.findall(r"^ *print\(.*\)  # (.*)$", sample, re.MULTILINE)
        assert printed.getvalue().splitlines() == (text.splitlines() if text else expected)


# In a process of their own: JAX warns of every os.fork() from then on. It is one for all of them,
# since most of its time goes into imports.
WITH_JAX = [page for page in PAGES if "import jax" in page.read_text()]


def print_failures(folder: Path) -> None:
    """What went wrong on each of these pages, in JSON; each is run in a folder of its own."""
    failures = {}
    for page in WITH_JAX:
        (folder / page.name).mkdir()
        os.chdir(folder / page.name)
        try:
            run_samples(page)
        except Exception:
            failures[page.name] = traceback.format_exc()
    print(json.dumps(failures))


@pytest.fixture(scope="module")
def failures_with_jax(tmp_path_factory, run_python):
    folder = tmp_path_factory.mktemp("with_jax")
    return json.loads(
        run_python(
            f"import pathlib, test_docs\ntest_docs.print_failures(pathlib.Path({str(folder)!r}))"
        )
    )


@pytest.mark.parametrize("page", WITH_JAX, ids=lambda page: page.name)
def test_samples_of_a_page_with_jax_run_in_order(page, failures_with_jax):
    assert page.name not in failures_with_jax, failures_with_jax[page.name]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page not in WITH_JAX], ids=lambda page: page.name
)
def test_samples_of_a_page_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_samples(page)


def test_the_readme_has_samples():
    assert python_samples(ROOT / "README.md")


@pytest.mark.parametrize("documented", DOCUMENTED, ids=lambda documented: documented.__name__)
def test_docstring_examples(documented, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some write files
    finder = doctest.DocTestFinder(recurse=False)
    for test in finder.find(documented, documented.__name__, module=False, globs=NAMES):
        result = doctest.DocTestRunner(verbose=False).run(test)
        assert result.failed == 0


def test_every_public_method_is_documented():
    for cls in CLASSES:
        for name, member in vars(cls).items():
            if not name.startswith("_"):
                assert member.__doc__, f"{cls.__name__}.{name} has no docstring"
