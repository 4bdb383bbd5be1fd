"README.md is the front door, nbs/index.ipynb, as Markdown. Run this file to write it."

import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]


def readme() -> str:
    "The front door without the cells that are hidden on the site"
    notebook = nbformat.read(ROOT / "nbs" / "index.ipynb", 4)
    notebook.cells = [c for c in notebook.cells if not re.search(r"^#\|\s*(hide|default_exp)", c.source, re.M)]
    for c in notebook.cells:
        c.source = re.sub(r"^#\|.*\n?", "", c.source, flags=re.M)
    notebook.metadata["language_info"] = {"name": "python"}
    text, _ = MarkdownExporter().from_notebook_node(notebook)
    text = re.sub(r"\(([\w./]+)\.ipynb\)", r"(nbs/\1.ipynb)", text)  # links between notebooks
    text = re.sub(
        r"https://(raw\.githubusercontent\.com/icdrat/icdrat/main|github\.com/icdrat/icdrat/blob/main)/", "", text
    )  # this very checkout
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


if __name__ == "__main__":
    (ROOT / "README.md").write_text(readme(), encoding="utf-8")
