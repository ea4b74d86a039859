"""Checks the links of a built site: python docs/_site/check_links.py build/site

Every link and picture within the site leads to a file, and every fragment to an element. Addresses
outside are looked at, not asked for: an https address of a host, without spaces.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

HOST = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+")


class Page(HTMLParser):
    """The links and the ids of one page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.ids = {"", "top"}
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("href", "src") and value is not None:
                self.links.add(value)
            elif name == "id" or (tag == "a" and name == "name"):
                self.ids.add(value)


def fault_of(link: str, path: Path, site: Path, pages: dict[Path, Page]) -> str | None:
    """What is wrong with a link of the page at `path`. None where nothing is."""
    parts = urlsplit(link)
    if parts.scheme in ("http", "https"):
        if parts.scheme != "https" or not HOST.fullmatch(parts.netloc) or re.search(r"\s", link):
            return "is no https address of a host"
        return None
    if parts.scheme == "data":
        return None
    if parts.scheme or parts.netloc:
        return "has a scheme that this site has no use for"
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if site not in (target, *target.parents):
        return "leads out of the site"
    if not target.is_file():
        return "leads to no file"
    if parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
        return "leads to no element of its page"
    return None


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    site = Path(sys.argv[1]).resolve()
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    faults, links, outside = [], 0, set()
    for path, page in pages.items():
        for link in sorted(page.links):
            links += 1
            if link.startswith("http"):
                outside.add(link)
            if fault := fault_of(link, path, site, pages):
                faults.append(f"{path.relative_to(site)}: {link} {fault}")
    print(f"{links} links of {len(pages)} pages checked.")
    print(f"{len(outside)} addresses outside were looked at, and not asked for.")
    if faults or not pages:
        sys.exit("\n".join(faults) or f"{site} has no pages")


if __name__ == "__main__":
    main()
