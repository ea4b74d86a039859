"""The pages of docs/: each is in the site's table of contents, and every link leads somewhere."""

import importlib.util
import re
from pathlib import Path

import datasparse
import pytest
from datasparse import recipes

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# Pages that are shown by others, and folders of what makes the site.
NO_PAGES = ("_site/", "_static/", "gallery/", "gallery_pages/")
READ_ALONE = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")),
    *sorted(DOCS.glob("*.md")),
]
FENCED = re.compile(r"^(```+).*?^\1$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def pages():
    """The names of all pages, as a toctree has them."""
    files = [*DOCS.rglob("*.md"), *DOCS.rglob("*.rst")]
    names = {str(file.relative_to(DOCS).with_suffix("")) for file in files}
    return {name for name in names if not name.startswith(NO_PAGES)}


def toctree_of(page):
    """The pages that a page has in its toctrees."""
    file = next(file for ext in ("md", "rst") if (file := DOCS / f"{page}.{ext}").is_file())
    if file.suffix == ".md":
        bodies = re.findall(r"^```\{toctree\}\n(.*?)^```", file.read_text(), re.M | re.S)
    else:
        bodies = re.findall(r"^\.\. toctree::\n((?:   .*\n|\n)*)", file.read_text(), re.M)
    lines = [line.strip() for body in bodies for line in body.splitlines()]
    found = [line for line in lines if line and not line.startswith(":")]
    return [str((file.parent / name).relative_to(DOCS)) for name in found]


def anchors_of(file):
    """Of the headings of a page, as code hosts make them."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", file.read_text()), re.MULTILINE)
    words = (re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower() for heading in headings)
    return [re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in words]


def test_every_page_is_in_the_table_of_contents():
    reached, coming = set(), ["index"]
    while coming:
        page = coming.pop()
        if page in pages() and page not in reached:
            reached.add(page)
            coming += toctree_of(page)
    assert pages() - reached == set()


def test_no_page_is_twice_in_the_table_of_contents():
    entries = [entry for page in pages() for entry in toctree_of(page)]
    assert sorted(entries) == sorted(set(entries))


@pytest.mark.parametrize("page", READ_ALONE, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page):
    text = FENCED.sub("", page.read_text())
    for link in LINK.findall(re.sub(r"`[^`\n]*`", "`", text)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if target.parent == DOCS / "gallery_pages":
            target = DOCS / "gallery" / "README.rst"  # what the site makes its page of
        assert target.exists(), f"{link} leads nowhere"
        assert ROOT in target.parents, f"{link} leads out of the repository"
        assert not anchor or anchor in anchors_of(target), f"{link}: no such heading"


def test_only_what_is_compiled_has_its_signature_from_the_stub():
    """Two functions are called load()."""
    spec = importlib.util.spec_from_file_location("signatures", DOCS / "_site" / "signatures.py")
    signatures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(signatures)

    def shown(function, name):
        return signatures.take_from_stub(None, "function", name, function, None, "(x)", None)

    assert shown(recipes.load, "datasparse.recipes.load") is None
    assert shown(datasparse.load, "datasparse.load")[0].startswith("(path: str | bytes")


PROGRAMS = sorted((DOCS / "gallery").glob("*.py"))


@pytest.mark.parametrize(
    "program",
    [PROGRAMS[0], *(pytest.param(program, marks=pytest.mark.full) for program in PROGRAMS[1:])],
    ids=lambda program: program.stem,
)
def test_a_program_of_the_gallery_runs(program, run_file, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    run_file(program)
