"The rules of the house: modules come from notebooks, imports go one way, notebooks read like texts."

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))
RUN = sorted((ROOT / "nbs" / "experiments").glob("*.ipynb")) + sorted((ROOT / "nbs" / "paper").glob("*.ipynb"))
MODULES = sorted(p for p in (ROOT / "icdrat").rglob("*.py") if p.name not in ("__init__.py", "_modidx.py"))

# each layer may import from those before it
LAYERS = [("types",), ("codes", "text", "bootstrap"), ("data",), ("coder",), ("rationale",), ("evaluation",), ("learning",), ("report",), ("marks", "view", "page"), ("cli",)]
HEIGHT = {room: height for height, rooms in enumerate(LAYERS) for room in rooms}


def cells(notebook):
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def source(cell):
    return "".join(cell["source"])


def exported(notebook):
    return [source(c) for c in cells(notebook) if c["cell_type"] == "code" and re.search(r"^#\|\s*export", source(c), re.M)]


def lines_of_code(text):
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#|")]


def by_name(paths):
    return pytest.mark.parametrize("path", paths, ids=[p.stem for p in paths])


def test_modules_are_what_the_notebooks_export(tmp_path):
    shutil.copytree(ROOT / "nbs", tmp_path / "nbs")
    shutil.copy(ROOT / "settings.ini", tmp_path)
    script = "from pathlib import Path; from nbdev.export import nb_export\nfor nb in sorted(Path('nbs').glob('[0-9]*.ipynb')): nb_export(str(nb), lib_path='icdrat')"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    made = {p.relative_to(tmp_path): p for p in (tmp_path / "icdrat").rglob("*.py") if p.name not in ("__init__.py", "_modidx.py")}
    assert sorted(made) == sorted(p.relative_to(ROOT) for p in MODULES), "a module without a notebook, or a notebook without its module; run `make notebooks`"
    different = [str(name) for name, p in made.items() if p.read_text() != (ROOT / name).read_text()]
    assert not different, f"edit the notebook, then run `make notebooks`: {different}"


def test_every_line_is_read_by_the_oldest_python_and_every_import_is_used():
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--quiet", "--target-version", "py310", "icdrat", "tests", "benchmarks", "llm"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readme_is_the_front_door():
    from readme import readme

    assert (ROOT / "README.md").read_text(encoding="utf-8") == readme(), "README.md comes from nbs/index.ipynb; run `make notebooks`"


@by_name(MODULES)
def test_imports_go_one_way(path):
    room = path.relative_to(ROOT / "icdrat").parts[0].removesuffix(".py")
    package = ["icdrat", *path.relative_to(ROOT / "icdrat").parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        parts = (package[: len(package) - node.level + 1] if node.level else []) + (node.module or "").split(".")
        if parts[0] == "icdrat" and len(parts) > 1:
            assert HEIGHT[parts[1]] <= HEIGHT[room], f"{room} imports {parts[1]}, which stands above it"
        assert all(a.name != "*" for a in node.names), "name what you import"


@by_name(LIBRARY)
def test_a_library_notebook_reads_like_a_text(path):
    code = exported(path)
    prose = sum(len(source(c).split()) for c in cells(path) if c["cell_type"] == "markdown")
    n_lines = sum(len(lines_of_code(c)) for c in code)
    assert len(cells(path)) <= 80
    assert max(len(c.splitlines()) for c in code) <= 41, "an exported cell is over 40 lines"
    assert prose / n_lines >= 2, f"{prose} words of prose for {n_lines} exported lines"
    assert path.stat().st_size < 300_000
    assert sum("import" in c.split("\n", 2)[1] and "\ndef " not in c and "\nclass " not in c for c in code) <= 1, "one cell of imports"


@by_name(LIBRARY)
def test_every_exported_function_is_used_in_the_open(path):
    shown = "\n".join(source(c) for c in cells(path) if c["cell_type"] == "code" and not source(c).startswith("#|"))
    rest = re.sub(r"^@.*\.command\(.*\ndef \w+", "", "\n".join(exported(path)), flags=re.M)  # commands are shown by their words
    for name in re.findall(r"^(?:def|class) ([a-z]\w+)", rest, re.M):
        assert re.search(rf"\b{name}\b", shown), f"{name} is exported but never shown"


@by_name(RUN)
def test_a_run_notebook_declares_its_parameters_and_holds_no_output(path):
    tagged = [c for c in cells(path) if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1, "exactly one cell is tagged parameters"
    names = [line for line in source(tagged[0]).splitlines() if line.strip()]
    assert 2 <= len(names) <= 10
    assert all(re.fullmatch(r"\w+\s*=\s*[^#]+#.+", line) for line in names), "flat names, each with a comment"
    assert all(not c.get("outputs") and c.get("execution_count") is None for c in cells(path) if c["cell_type"] == "code")


def test_the_makefile_runs_every_experiment_and_paper_notebook():
    make = (ROOT / "Makefile").read_text()
    listed = re.search(r"^EXPERIMENTS := (.*)$", make, re.M)[1].split() + re.search(r"^PAPER\s+:= (.*)$", make, re.M)[1].split()
    assert sorted(listed) == sorted(p.stem for p in RUN)


def test_committed_results_are_small_and_hold_no_text_of_notes():
    kept = subprocess.run(["git", "ls-files", "results"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert all(name.startswith("results/smoke/") and Path(name).suffix in (".csv", ".md", ".tex", ".svg") for name in kept)
    assert sum((ROOT / name).stat().st_size for name in kept) < 200_000


def test_a_docstring_explains_every_public_function():
    for path in MODULES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path.name}: {node.name} has no docstring"
