"""Follow every link of a site on disk: to a file that exists, and to an anchor that the page has."""

from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Links(HTMLParser):
    """The targets (href, src) and anchors (id, name) of a page."""

    def __init__(self):
        super().__init__()
        self.targets, self.anchors = set(), set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in ("href", "src") and value:
                self.targets.add(value)
            elif name in ("id", "name") and value:
                self.anchors.add(value)


@cache
def read(page: Path) -> Links:
    """Return the links of a page."""
    found = Links()
    found.feed(page.read_text(encoding="utf-8"))
    return found


def dead(site: Path) -> list[str]:
    """Return "page: target" for every link that leads nowhere. Links to other machines are not followed."""
    wrong = []
    for page in sorted(site.rglob("*.html")):
        for target in sorted(read(page).targets):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            anchor = unquote(parts.fragment)
            missing = anchor and file.suffix == ".html" and file.exists() and anchor not in read(file).anchors
            if not file.exists() or missing:
                wrong.append(f"{page.relative_to(site)}: {target}")
    return wrong
