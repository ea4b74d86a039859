"""Pages of the repository's root, such as ARCHITECTURE.md, as pages of the site.

A page docs/project/NAME.md stands for one. Links into and out of docs/ are led to where the site
has their targets. Other files of the repository become downloads, which MyST sees to.
"""

import os
import re
from pathlib import Path

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
PAGES = {
    "ARCHITECTURE.md": "project/architecture",
    "CHANGELOG.md": "project/changelog",
    "CONTRIBUTING.md": "project/contributing",
    "README.md": "index",
}
SHOWN = {page: ROOT / name for name, page in PAGES.items() if page != "index"}
LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def relinked(text: str, read_from: Path, shown_at: str) -> str:
    """Markdown whose relative links are those of the page at `shown_at`."""
    code = [found.span() for found in CODE.finditer(text)]

    def new_link(link: re.Match[str]) -> str:
        if any(begin <= link.start() < end for begin, end in code):
            return link[0]
        target = (read_from.parent / link[1]).resolve()
        name = str(target.relative_to(ROOT))
        if name == "README.md":
            return "/index.md"  # the site's first page has other headings
        if name in PAGES:
            return f"/{PAGES[name]}.md{link[2] or ''}"
        return os.path.relpath(target, (DOCS / shown_at).parent) + (link[2] or "")

    return LINK.sub(new_link, text)


def read(app, docname, source):
    if docname in SHOWN:
        app.env.note_dependency(str(SHOWN[docname]))
        source[0] = relinked(SHOWN[docname].read_text(), SHOWN[docname], docname)
    elif (DOCS / f"{docname}.md").exists():
        source[0] = relinked(source[0], DOCS / f"{docname}.md", docname)


def setup(app):
    app.connect("source-read", read)
    return {"parallel_read_safe": True}
