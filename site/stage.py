"""The notebooks as pages of a site, in _proc: `python site/stage.py PROFILE`

Library notebooks are taken with the outputs they were committed with; nothing is run or imported, and the
documentation of a function is its own signature with its comments. Experiments and paper notebooks are committed
without outputs, so the executed copies of a profile take their places. Numbers leave the names of files and links;
code that is exported is folded below what it documents.
"""

import ast
import json
import re
import shutil
import sys
from configparser import ConfigParser
from pathlib import Path, PurePosixPath
from posixpath import relpath

import yaml

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT / "nbs"
OUT = ROOT / "_proc"

SECTIONS = {  # folder -> the words of its section, in the order of the sidebar
    "start": "Start here",
    ".": "What travels",
    "data": "Corpora and annotation",
    "coder": "Coding models",
    "rationale": "Rationales",
    "rationale/mention": "Mentions: entity linking",
    "rationale/llm": "Quotes of language models",
    "rationale/attribution": "Attributions of coding models",
    "evaluation": "Evaluation",
    "evaluation/plausibility": "Plausibility: against experts",
    "evaluation/faithfulness": "Faithfulness: against the model",
    "learning": "Learning from rationales",
    "show": "Showing",
    "cli": "Command line",
    "results": "Results on open notes",
    "experiments": "Experiments",
    "paper": "Tables, figures and the page",
}

FOR_NEWCOMERS = ("glossary.ipynb", "governance.ipynb")  # they lie beside the front page


class CannotStage(Exception):
    "A notebook that cannot become a page; the message says which and why"


def source(cell: dict) -> str:
    return "".join(cell["source"])


def markdown(text: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def bare(path: PurePosixPath) -> PurePosixPath:
    "The path of a page: without the digits that give the reading order"
    return path.with_name(re.sub(r"^\d\d_", "", path.name))


def by_number(path: Path) -> list[list]:
    "To sort by: table 9 stands before table 10"
    return [[int(s) if s.isdigit() else s for s in re.split(r"(\d+)", part)] for part in path.parts]


def pages() -> list[Path]:
    "Every notebook that becomes a page, relative to nbs"
    found = [p.relative_to(NBS) for p in NBS.rglob("*.ipynb")]
    return sorted((p for p in found if not any(part[0] in "._" for part in p.parts)), key=by_number)


# ---- one page ----


def front_matter(facts: dict) -> dict:
    "What a page says of itself before it begins"
    text = yaml.safe_dump(facts, allow_unicode=True, width=1000, sort_keys=False)
    return {"cell_type": "raw", "metadata": {}, "source": f"---\n{text}---"}


def as_notebook(cells: list[dict]) -> dict:
    "Cells, numbered, as a notebook that is ready to be rendered"
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    numbered = [cell | {"id": f"{n:04d}"} for n, cell in enumerate(cells)]
    return {"cells": numbered, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}


def head(cells: list[dict], where: Path) -> list[dict]:
    "The title and the summary as front matter; what follows them in their cell stays"
    n = next((i for i, c in enumerate(cells) if c["cell_type"] == "markdown"), None)
    found = n is not None and re.match(r"# (.+)\n\s*> (.+)\n?", source(cells[n]))
    if not found:
        raise CannotStage(f"{where}: the first text cell begins with '# Title', an empty line and '> one-line summary'")
    rest = re.sub(r"\A\s*- skip_exec: true\s*", "", source(cells[n])[found.end() :]).strip()
    facts = {"title": found[1].strip(), "description": found[2].strip()}
    if where.parts[0] == "paper":
        facts |= {"page-layout": "full", "toc": False}  # tables are wide
    return [front_matter(facts), *cells[:n], *([markdown(rest)] if rest else []), *cells[n + 1 :]]


def signature(node: ast.AST, lines: list[str]) -> str:
    "A function without its body, a class with its fields: what a caller needs, with the comments on each parameter"
    first = node.decorator_list[0].lineno if node.decorator_list else node.lineno
    if isinstance(node, ast.ClassDef):
        fields = [n for n in node.body if isinstance(n, (ast.Assign, ast.AnnAssign))]
        last = max([n.end_lineno for n in fields], default=node.lineno)
    else:
        last = max(node.lineno, node.body[0].lineno - 1)
    text = "\n".join(lines[first - 1 : last])
    return re.sub(r'\n\s+"[^\n]*"(?=\n|$)', "", text)  # the docstring stands above


def documented(code: str) -> list[dict]:
    "Name, docstring and signature of each public function and class of an exported cell, then the cell itself, folded"
    lines, docs = code.splitlines(), []
    for node in ast.parse(code).body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        says = ast.get_docstring(node) or ""
        if isinstance(node, ast.ClassDef) and not any(
            isinstance(n, (ast.AnnAssign, ast.FunctionDef)) for n in node.body
        ):
            docs.append(f"#### `{node.name}`\n\n{says}")
        else:
            docs.append(f"### `{node.name}`\n\n{says}\n\n```python\n{signature(node, lines)}\n```")
    options = {"code-fold": "true", "code-summary": '"Source"' if docs else '"Imports and constants"'}
    words = "".join(f"#| {k}: {v}\n" for k, v in options.items())
    folded = {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": [], "source": words + code}
    return [*map(markdown, docs), folded]


def shown(cell: dict) -> list[dict]:
    "A code cell as readers see it"
    code = source(cell)
    directives = re.findall(r"^#\|\s*(\w+)", code, re.M)
    code = re.sub(r"^#\|.*\n?", "", code, flags=re.M).strip("\n")
    tags = cell["metadata"].get("tags", [])
    if {"hide", "default_exp"} & set(directives) or "injected-parameters" in tags or not code:
        return []
    if "export" in directives:
        return documented(code)
    outputs = [o for o in cell["outputs"] if o.get("name") != "stderr"]
    for o in outputs:
        if o["output_type"] == "error":
            raise CannotStage(f"a cell ends in {o['ename']}")
        o.pop("execution_count", None)
    options = re.findall(r"^#\|\s*(?:echo|output|include|code-fold|code-summary):.*\n?", source(cell), re.M)
    return [
        {
            "cell_type": "code",
            "metadata": {},
            "execution_count": None,
            "outputs": outputs,
            "source": "".join(options) + code,
        }
    ]


def relinked(text: str, here: PurePosixPath, lookup) -> str:
    "Links between notebooks without digits, and links from the names of functions to where they are explained"

    def link(found):
        return f"]({bare(PurePosixPath(found[1]))}{found[2] or ''})"

    up = relpath(".", here.parent.as_posix() or ".").removeprefix("./")
    text = re.sub(r"\]\((?:\.\./)+results/open/(\w+)(?:/\w+\.md)?\)", rf"]({up}/results/open_\1.ipynb)", text)
    text = re.sub(r"\]\((?:\.\./)+results/\w+/(\w+)\.md\)", rf"]({up}/paper/\1.ipynb)", text)
    text = re.sub(r"\((?:\.\./)+results/\w+/(\w+\.svg)\)", rf"({up}/results/\1)", text)
    text = re.sub(
        r"\]\((?:\.\./)+(?=(?:llm|benchmarks|results|icdrat|tests)/)", f"]({lookup.repository}/blob/main/", text
    )
    text = re.sub(r"\]\((?!https?:)([\w./]+\.ipynb)(#[^)]*)?\)", link, text)
    text = lookup.linkify(text) or text
    text = re.sub(r"\[(`_\w+`)\]\([^)]*\)", r"\1", text)  # what is private has no heading
    text = re.sub(r"^(#+ )\[(`\w+`)\]\([^)]*\)$", r"\1\2", text, flags=re.M)  # and a heading leads nowhere
    home = re.escape(lookup.home)
    local = lambda m: f"]({relpath(m[1], here.parent.as_posix() or '.')}"  # noqa: E731
    return re.sub(rf"\]\({home}/([\w./]+\.html)", local, text)


def page(path: Path, profile: str, lookup) -> dict:
    "One notebook, ready to be rendered"
    file = NBS / path
    if path.parts[0] in ("experiments", "paper"):
        file = ROOT / "runs" / profile / path.name
        if not file.is_file():
            raise CannotStage(f"{path}: it was not run yet; `make reproduce PROFILE={profile}` runs it")
    notebook = json.loads(file.read_text(encoding="utf-8"))
    cells = []
    for number, cell in enumerate(head(notebook["cells"], path)):
        try:
            cells += shown(cell) if cell["cell_type"] == "code" else [cell]
        except CannotStage as e:
            raise CannotStage(f"{path}, cell {number}: {e}") from None
    if path.parts[0] == "paper":
        first = next((n for n, c in enumerate(cells) if c["cell_type"] == "code"), len(cells))
        cells[first:first] = result(path, profile)
    here = bare(PurePosixPath(path.as_posix()))
    for cell in cells:
        if cell["cell_type"] == "markdown":
            cell["source"] = relinked(source(cell), here, lookup)
        for shown_text in (o["data"] for o in cell.get("outputs", []) if "text/markdown" in o.get("data", {})):
            shown_text["text/markdown"] = relinked("".join(shown_text["text/markdown"]), here, lookup)
    return as_notebook(cells)


def result(path: Path, profile: str) -> list[dict]:
    "What a paper notebook made, to stand above how it was made: a table, a figure, or a page of notes in a frame"
    made = ROOT / "results" / profile / path.stem
    said, whole = (made.with_name(f"{made.name}.{kind}") for kind in ("md", "html"))
    words = []
    if said.is_file():  # a table with its caption, or the caption of a figure and where it is
        words.append(said.read_text(encoding="utf-8").replace(f"]({made.name}.svg)", f"](../results/{made.name}.svg)"))
    if whole.is_file():
        name = f"{path.stem}_whole.html"
        shutil.copy(whole, (OUT / path).with_name(name))
        frame = f'<iframe class="whole" src="{name}" title="Notes with their evidence"></iframe>'
        words.append(f"[The page by itself]({name})\n\n```{{=html}}\n{frame}\n```")
    return [markdown("\n\n".join([*words, "## How it was made"]))] if words else []


# ---- the results that the repository holds of longer runs ----


def galleries() -> list[Path]:
    "Folders of kept results, such as results/open/es"
    return sorted({p.parent for p in (ROOT / "results" / "open").glob("*/*.md")})


def gallery(folder: Path) -> dict:
    "All tables and figures of a folder as one page, each below the title of the notebook that makes it"
    profile = folder.relative_to(ROOT / "results").as_posix()
    about = tomllib.loads((NBS / "profiles.toml").read_text(encoding="utf-8"))
    for part in profile.split("/"):
        about = about[part]
    says = f"Every table and figure of the profile {profile}, as kept."
    cells = [front_matter({"title": about["about"], "description": says, "toc": True})]
    command = f"`ICDRAT_DATA=/path/to/data make reproduce PROFILE={profile}` makes them again."
    cells.append(markdown(f"{command} `icdrat reproduce --profile {profile} --check` tells whether they are the same."))
    for said in sorted(folder.glob("*.md"), key=by_number):
        maker = NBS / "paper" / f"{said.stem}.ipynb"
        if not maker.is_file():  # the card of a corpus
            continue
        title = re.match(r"# (.+)", source(json.loads(maker.read_text(encoding="utf-8"))["cells"][0]))[1]
        text = said.read_text(encoding="utf-8").replace(f"]({said.stem}.svg)", f"]({profile}/{said.stem}.svg)")
        cells.append(markdown(f"## {title}\n\n[How it is made](../paper/{said.stem}.ipynb)\n\n{text}"))
    return as_notebook(cells)


def stage_galleries() -> list[PurePosixPath]:
    "Write the pages and the figures on them; their paths"
    made = []
    for folder in galleries():
        name = PurePosixPath("results") / f"{'_'.join(folder.relative_to(ROOT / 'results').parts)}.ipynb"
        to = OUT / "results" / folder.relative_to(ROOT / "results")
        to.mkdir(parents=True, exist_ok=True)
        for figure in folder.glob("*.svg"):
            shutil.copy(figure, to)
        (OUT / name).write_text(json.dumps(gallery(folder), ensure_ascii=False), encoding="utf-8")
        made.append(name)
    return made


# ---- the whole ----


class Lookup:
    "Links for names in backticks, as nbdev makes them"

    def __init__(self, settings):
        from nbdev.doclinks import NbdevLookup

        self.home = settings["doc_host"] + settings["doc_baseurl"]
        self.repository = settings["git_url"]
        self.linkify = NbdevLookup().linkify


def sidebar(staged: list[PurePosixPath]) -> list[dict]:
    "Sections by folder, each named in words, nested as the folders are"
    inside = {folder: {"section": words, "contents": []} for folder, words in SECTIONS.items()}
    for path in staged:
        if path.name != "index.ipynb":
            section = "start" if path.name in FOR_NEWCOMERS else path.parent.as_posix()
            inside[section]["contents"].append(bare(path).as_posix())
    inside["start"]["contents"].sort(key=lambda path: path in FOR_NEWCOMERS)  # after the tutorials
    top = []
    for folder, section in inside.items():
        if not (section["contents"] or any(f.startswith(f"{folder}/") for f in inside)):
            continue  # nothing of the kind is kept
        above = inside.get(folder.rpartition("/")[0]) if "/" in folder else None
        (above["contents"] if above else top).append(section)
    return [{"text": "Front page", "href": "index.ipynb"}, *top]


def config(settings, staged: list[PurePosixPath]) -> dict:
    "_quarto.yml of the root, with what settings.ini says and the sidebar"
    look = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    site = look["website"]
    site |= {"title": settings["title"], "description": settings["description"], "repo-url": settings["git_url"]}
    site |= {"site-url": settings["doc_host"] + settings["doc_baseurl"], "repo-branch": settings["branch"]}
    site["sidebar"] = {"style": "docked", "collapse-level": 1, "contents": sidebar(staged)}
    look["project"] = {
        "type": "website",
        "output-dir": "../_docs",
        "resources": ["paper/*_whole.html", "results/**/*.svg"],
    }
    return look


def stage(profile: str) -> int:
    "Write _proc anew; the number of pages"
    ini = ConfigParser(delimiters=["="])
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    settings, wrong = ini["DEFAULT"], []
    lookup = Lookup(settings)
    shutil.rmtree(OUT, ignore_errors=True)
    staged = [PurePosixPath(p.as_posix()) for p in pages()]
    for path in map(Path, staged):
        to = OUT / bare(PurePosixPath(path.as_posix()))
        to.parent.mkdir(parents=True, exist_ok=True)
        try:
            to.write_text(json.dumps(page(path, profile, lookup), ensure_ascii=False), encoding="utf-8")
        except CannotStage as e:
            wrong.append(str(e))
    if wrong:
        raise CannotStage("\n".join(wrong))
    shutil.copy(ROOT / "site" / "styles.css", OUT)
    (OUT / "results").mkdir()
    staged += stage_galleries()
    for figure in sorted((ROOT / "results" / profile).glob("*.svg")):
        shutil.copy(figure, OUT / "results")
    text = yaml.safe_dump(config(settings, staged), sort_keys=False, allow_unicode=True)
    (OUT / "_quarto.yml").write_text(text, encoding="utf-8")
    return len(staged)


if __name__ == "__main__":
    try:
        print(f"_proc: {stage(sys.argv[1])} pages")
    except CannotStage as e:
        sys.exit(str(e))
