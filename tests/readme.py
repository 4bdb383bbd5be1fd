"README.md is the front door, nbs/index.ipynb, as Markdown. Run this file to write it."

import html
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]


def words(shown: str) -> str:
    "A rationale as it is shown, with its marks in bold instead of colour"
    text = re.sub(r"<mark[^>]*>(.*?)</mark>", r"**\1**", shown, flags=re.S)
    parts = [html.unescape(re.sub(r"<[^>]+>", "", line)).strip() for line in text.split("</div>")]
    return "> " + "<br>".join(re.sub(r"\s*\n\s*", " ", part) for part in parts if part)


def table(shown: str) -> str:
    "A table of a notebook as one of Markdown"
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in re.findall(r"<tr.*?</tr>", shown, re.S)]
    rows = [[html.unescape(re.sub(r"<[^>]+>", "", cell)).strip() for cell in row] for row in rows if any(row)]
    names, body = rows[0], rows[1:]
    if body and not any(body[0][1:]):  # the name of the index has a row of its own
        names, body = [body[0][0], *names[1:]], body[1:]
    lines = [names, ["---"] * len(names), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_markdown(cell: dict) -> None:
    "What a page of Markdown cannot show becomes what it can: marks in bold, tables, code in a fold"
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        shown = data.pop("text/html", "")
        if "<mark" in shown:
            data["text/markdown"] = words(shown)
        elif "<table" in shown:
            data["text/markdown"] = table(shown)
    options = re.findall(r"^#\|\s*([\w-]+)(?::\s*(\S+))?", cell.source, re.M)
    cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M)
    if ("code-fold", "true") in options:
        cell.metadata["fold"] = True
    if ("echo", "false") in options:  # only what it says
        cell.source = ""


def readme() -> str:
    "The front door without the cells that are hidden on the site"
    notebook = nbformat.read(ROOT / "nbs" / "index.ipynb", 4)
    cells = [c for c in notebook.cells if not re.search(r"^#\|\s*(hide|default_exp)", c.source, re.M)]
    notebook.cells = []
    for cell in cells:
        as_markdown(cell) if cell.cell_type == "code" else None
        if not cell.metadata.pop("fold", False):
            notebook.cells.append(cell)
            continue
        folded = f"<details><summary>The code</summary>\n\n```python\n{cell.source}\n```\n\n</details>"
        notebook.cells.append(nbformat.v4.new_markdown_cell(folded))
        notebook.cells.append(nbformat.v4.new_code_cell("", outputs=cell.outputs))
    notebook.metadata["language_info"] = {"name": "python"}
    text, _ = MarkdownExporter(exclude_input=False).from_notebook_node(notebook)
    text = re.sub(r"```python\n\s*```\n?", "", text)
    text = re.sub(r"\((?!https?:)([\w./]+)\.ipynb\)", r"(nbs/\1.ipynb)", text)  # links between notebooks
    text = text.replace("](../", "](")  # this very checkout
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


if __name__ == "__main__":
    (ROOT / "README.md").write_text(readme(), encoding="utf-8")
