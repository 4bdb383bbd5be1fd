"""Is the site in _docs whole? `python site/check.py`

Every link and anchor leads somewhere, every page has a title and a one-line summary, no page shows an error, every name
that a module exports stands on its page, and the search knows every page.
"""

import ast
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "_docs"
ERRORS = ("cell-output-error", "Traceback (most recent call last)")


class Page(HTMLParser):
    "What a page links to, which anchors it has, its title, its summary and its words"

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.anchors, self.title, self.summary, self.words, self._in = set(), set(), "", "", [], None
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors |= {attrs[k] for k in ("id", "name") if attrs.get(k)}
        self.links |= {attrs[k] for k in ("href", "src") if attrs.get(k)}
        if tag == "meta" and attrs.get("name") == "description":
            self.summary = attrs.get("content") or ""
        self._in = tag if tag in ("title", "script", "style") else self._in

    def handle_endtag(self, tag):
        self._in = None if tag == self._in else self._in

    def handle_data(self, data):
        if self._in == "title":
            self.title += data
        elif self._in is None:
            self.words.append(data)


def broken(path: Path, found: Page, pages: dict[Path, Page]) -> list[str]:
    "The links of a page that lead nowhere"
    wrong = []
    for link in sorted(found.links):
        parts = urlsplit(link)
        if parts.scheme or parts.netloc or link.startswith(("#quarto", "data:")):
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        target = target / "index.html" if target.is_dir() else target
        if not target.is_file():
            wrong.append(f"links to {link}, and there is no such file")
        elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
            wrong.append(f"links to {link}, and that page has no such heading")
    return wrong


def exported(module: Path) -> list[str]:
    "The names in a module's __all__"
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return ast.literal_eval(node.value)
    return []


def undocumented(pages: dict[Path, Page]) -> list[str]:
    "Exported names that do not stand on the page of their module"
    wrong = []
    for module in sorted((ROOT / "icdrat").rglob("*.py")):
        name = module.relative_to(ROOT / "icdrat").with_suffix("")
        names, page = exported(module), pages.get(DOCS / f"{name}.html")
        if names and page is None:
            wrong.append(f"{name}: the module has no page")
        words = set(re.findall(r"\w+", " ".join(page.words))) if page else set()
        wrong += [
            f"{name}: {n} is exported and its page does not speak of it" for n in names if page and n not in words
        ]
    return wrong


def problems() -> list[str]:
    "Everything that is wrong with the site, a line each"
    alone = [p for p in DOCS.rglob("*.html") if p.stem.endswith("_whole")]  # pages of notes, made by a notebook
    pages = {p: Page(p) for p in sorted(DOCS.rglob("*.html")) if p not in alone and "site_libs" not in p.parts}
    if not pages:
        return [f"{DOCS.name}: there is no site; make site builds it"]
    wrong = []
    for path, found in pages.items():
        said = broken(path, found, pages)
        said += [f"shows an error: {e}" for e in ERRORS if e in found.text]
        said += ["has no title"] * (not found.title.strip()) + ["has no one-line summary"] * (not found.summary.strip())
        wrong += [f"{path.relative_to(DOCS)}: {s}" for s in said]
    known = (DOCS / "search.json").read_text(encoding="utf-8") if (DOCS / "search.json").is_file() else "[]"
    hits = {entry["href"].partition("#")[0] for entry in json.loads(known)}
    lost = sorted(set(p.relative_to(DOCS).as_posix() for p in pages) - hits - {"404.html"})
    return wrong + undocumented(pages) + [f"{p}: the search does not know it" for p in lost]


if __name__ == "__main__":
    found = problems()
    print("\n".join(found) or f"_docs: {len(list(DOCS.rglob('*.html')))} pages, every link leads somewhere")
    sys.exit(bool(found))
