"The rules of the house: folders are the architecture, imports go one way, notebooks read like texts."

import ast
import builtins
import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT / "nbs"
RUN = sorted((NBS / "experiments").glob("*.ipynb")) + sorted((NBS / "paper").glob("*.ipynb"))
START = sorted((NBS / "start").glob("*.ipynb"))
OTHERS = {*RUN, *START}
LIBRARY = sorted(p for p in NBS.rglob("[0-9]*.ipynb") if p not in OTHERS and ".ipynb_checkpoints" not in p.parts)
BY_HAND = ("__init__.py", "_modidx.py")
MODULES = sorted(p for p in (ROOT / "icdrat").rglob("*.py") if p.name not in BY_HAND)

# each layer may import from itself and from those before it; the longest name that fits a module decides
LAYERS = [
    ("display", "waiting"),
    ("types",),
    ("resources", "codes", "text", "bootstrap"),
    ("data",),
    ("coder",),
    ("rationale.select", "rationale.attribution", "rationale.mention"),
    ("rationale.llm",),
    ("evaluation.cards",),
    ("evaluation.aggregate", "evaluation.groups", "evaluation.seeds"),
    ("evaluation.plausibility",),
    ("evaluation.faithfulness",),
    ("learning",),
    ("show",),
    ("front", "cli"),
]
HEIGHT = {room: height for height, rooms in enumerate(LAYERS) for room in rooms}
APART = [
    ("rationale.attribution", "rationale.mention"),
    ("rationale.select", "rationale.mention"),
    ("rationale.select", "rationale.attribution"),
]


def cells(notebook):
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def source(cell):
    return "".join(cell["source"])


def exported(notebook):
    return [
        source(c) for c in cells(notebook) if c["cell_type"] == "code" and re.search(r"^#\|\s*export", source(c), re.M)
    ]


def visible(notebook):
    "The code that a reader sees beside what is exported"
    return [c for c in cells(notebook) if c["cell_type"] == "code" and not source(c).startswith("#|")]


def lines_of_code(text):
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#|")]


def module_name(path):
    return ".".join(path.relative_to(ROOT / "icdrat").with_suffix("").parts)


def room_of(module):
    "The layer's name that a module lives under"
    fits = [room for room in HEIGHT if module == room or module.startswith(room + ".")]
    assert fits, f"{module} is in no layer; give it one in LAYERS"
    return max(fits, key=len)


def by_path(paths):
    return pytest.mark.parametrize("path", paths, ids=[str(p.relative_to(ROOT).with_suffix("")) for p in paths])


def imports(path):
    "What a module takes from this package: module, names"
    package = ["icdrat", *path.relative_to(ROOT / "icdrat").parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            parts = package[: len(package) - node.level + 1] if node.level else []
            parts += (node.module or "").split(".") if node.module else []
            if parts[0] == "icdrat" and len(parts) > 1:
                yield ".".join(parts[1:]), [a.name for a in node.names]


# ---- folders ----


def test_every_module_has_its_notebook_at_the_same_path():
    numbered = {p.relative_to(NBS): p for p in LIBRARY}
    bare = [p.parent / re.sub(r"^\d\d_", "", p.name) for p in numbered]
    assert all(re.match(r"\d\d_", p.name) for p in numbered), "two digits give the reading order"
    assert sorted(p.with_suffix("").as_posix() for p in bare) == sorted(
        module_name(m).replace(".", "/") for m in MODULES
    )
    for p in numbered.values():
        [declared] = re.findall(r"^#\|\s*default_exp (\S+)", source(cells(p)[0]), re.M)
        assert declared.replace(".", "/") == (p.relative_to(NBS).parent / p.stem[3:]).as_posix()


def test_modules_are_what_the_notebooks_export(tmp_path):
    shutil.copytree(NBS, tmp_path / "nbs")
    shutil.copy(ROOT / "settings.ini", tmp_path)
    script = """
from pathlib import Path
from nbdev.export import nb_export
for nb in sorted(Path('nbs').rglob('[0-9]*.ipynb')):
    nb_export(str(nb), lib_path='icdrat')
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    made = {p.relative_to(tmp_path): p for p in (tmp_path / "icdrat").rglob("*.py") if p.name not in BY_HAND}
    assert sorted(made) == sorted(p.relative_to(ROOT) for p in MODULES), "run `make notebooks`"
    different = [str(name) for name, p in made.items() if p.read_text() != (ROOT / name).read_text()]
    assert not different, f"edit the notebook, then run `make notebooks`: {different}"


@by_path(MODULES)
def test_imports_go_one_way(path):
    room = room_of(module_name(path))
    for module, names in imports(path):
        other = room_of(module)
        assert HEIGHT[other] <= HEIGHT[room], f"{room} imports {other}, which stands above it"
        assert (room, other) not in APART and (other, room) not in APART, f"{room} and {other} are apart"
        assert "*" not in names, "name what you import"
        private = [n for n in names if n.startswith("_") and not n.startswith("__")]
        assert not private, f"{private[0]} is private to {module}; make it public or move the caller"


# ---- code ----


def named_for_others(path):
    "The lines of __all__, which nbdev writes and wraps as it likes"
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return range(node.lineno, node.end_lineno + 1)
    return ()


def test_every_line_is_read_by_the_oldest_python_is_short_and_every_import_is_used():
    words = [sys.executable, "-m", "ruff", "check", "--quiet", "--target-version", "py310", "--output-format", "json"]
    folders = ["icdrat", "tests", "benchmarks", "llm", "site"]
    done = subprocess.run([*words, *folders], cwd=ROOT, capture_output=True, text=True)
    found = []
    for fault in json.loads(done.stdout):
        path, row = Path(fault["filename"]), fault["location"]["row"]
        if fault["code"] != "E501" or path not in MODULES or row not in named_for_others(path):
            found.append(f"{path.relative_to(ROOT)}:{row}: {fault['message']}")
    assert not found, "\n".join(found)


@by_path(MODULES)
def test_a_docstring_explains_every_public_function(path):
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path.name}: {node.name} has no docstring"


# ---- notebooks ----


@by_path(LIBRARY)
def test_a_library_notebook_reads_like_a_text(path):
    code = exported(path)
    prose = sum(len(source(c).split()) for c in cells(path) if c["cell_type"] == "markdown")
    n_lines = sum(len(lines_of_code(c)) for c in code)
    assert len(cells(path)) <= 80
    assert max(len(c.splitlines()) for c in code) <= 41, "an exported cell is over 40 lines"
    assert prose / n_lines >= 3, f"{prose} words of prose for {n_lines} exported lines"
    assert path.stat().st_size < 300_000
    bare = [c for c in code if "import" in c.split("\n", 2)[1] and "\ndef " not in c and "\nclass " not in c]
    assert len(bare) <= 1, "one cell of imports"


@by_path(sorted(p for p in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts))
def test_what_a_notebook_says_on_the_error_stream_is_ours(path):
    "No warning of a library, with a path of the machine that ran it, and no bar"
    said = [o for c in cells(path) for o in c.get("outputs", []) if o.get("name") == "stderr"]
    assert all("".join(o["text"]).startswith("icdrat: ") for o in said)


@by_path(LIBRARY)
def test_a_library_notebook_shows_what_it_does(path):
    code = visible(path)
    shown = sum(bool(c["outputs"]) for c in code)
    assert shown >= 0.4 * len(code), f"{shown} of {len(code)} visible code cells show something; four of ten must"


@by_path(LIBRARY + RUN + sorted(NBS.rglob("index.ipynb")))
def test_no_line_of_a_notebook_s_code_is_long(path):
    code = [source(c) for c in cells(path) if c["cell_type"] == "code"]
    long = [line for c in code for line in c.splitlines() if len(line) > 120]
    assert not long, f"{len(long)} lines over 120 characters, the first: {long[0][:60]} …"


def names_of_star(node):
    module = importlib.import_module(node.module)
    return getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])


@by_path(sorted(p for p in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts))
def test_every_name_that_a_notebook_uses_is_bound_in_it(path):
    "A name that an import once brought is missed before the notebook is run"
    text = "\n".join(source(c) for c in cells(path) if c["cell_type"] == "code")
    plain = "\n".join(re.sub(r"^(\s*)[%!].*", r"\1pass", line) for line in text.splitlines())
    bound, used = {*dir(builtins), "get_ipython", "display", "__name__", "__file__"}, set()
    for node in ast.walk(ast.parse(plain)):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            bound.update(names_of_star(node))
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            bound.update((a.asname or a.name).split(".")[0] for a in node.names)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)):
            bound.add(node.name)
        elif isinstance(node, ast.MatchMapping):
            bound.add(node.rest)
    assert not used - bound


@by_path(LIBRARY)
def test_every_exported_function_is_used_in_the_open(path):
    shown = "\n".join(source(c) for c in visible(path))
    commands = r"^@.*\.command\((?:.|\n)*?\ndef \w+"  # commands are shown by their words
    rest = re.sub(commands, "", "\n".join(exported(path)), flags=re.M)
    for name in re.findall(r"^(?:def|class) ([a-z]\w+)", rest, re.M):
        assert re.search(rf"\b{name}\b", shown), f"{name} is exported but never shown"


@by_path(START)
def test_a_tutorial_exports_nothing_is_short_and_shows_what_its_reader_gets(path):
    code = visible(path)
    words = sum(len(source(c).split()) for c in cells(path) if c["cell_type"] == "markdown")
    assert not exported(path) and len(cells(path)) <= 40
    assert sum(bool(c["outputs"]) for c in code) >= 0.6 * len(code), "six of ten cells show something"
    assert words >= 150 and "](" in source(cells(path)[-1]) + source(cells(path)[-2]), "it ends with where to read on"


@by_path(RUN)
def test_a_run_notebook_declares_its_parameters_and_holds_no_output(path):
    tagged = [c for c in cells(path) if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1, "exactly one cell is tagged parameters"
    names = [line for line in source(tagged[0]).splitlines() if line.strip()]
    assert 2 <= len(names) <= 10
    assert all(re.fullmatch(r"\w+\s*=\s*[^#]+#.+", line) for line in names), "flat names, each with a comment"
    code = [c for c in cells(path) if c["cell_type"] == "code"]
    assert all(not c.get("outputs") and c.get("execution_count") is None for c in code)


# ---- what stands beside them ----


def test_the_readme_is_the_front_door():
    from readme import readme

    made = (ROOT / "README.md").read_text(encoding="utf-8")
    assert made == readme(), "README.md comes from nbs/index.ipynb; run `make notebooks`"


def test_no_result_on_the_front_page_is_typed():
    "Its numbers come from kept tables, or from what the page itself computes"
    words = "\n".join(source(c) for c in cells(NBS / "index.ipynb") if c["cell_type"] == "markdown")
    assert re.findall(r"(?<![\w.])[-+]?0?\.\d+\b", re.sub(r"```.*?```", "", words, flags=re.S)) == []


def test_the_profiles_run_every_experiment_and_paper_notebook():
    from icdrat.show.profiles import check_profiles, read_profiles, steps_of

    profiles = read_profiles(ROOT)
    check_profiles(profiles, ROOT)
    for name in ("smoke", "open/en"):
        assert sorted(s.stem for s in steps_of(profiles, name, ROOT)) == sorted(p.stem for p in RUN)


def test_committed_results_are_small_and_hold_no_text_of_notes():
    done = subprocess.run(["git", "ls-files", "results"], cwd=ROOT, capture_output=True, text=True)
    kept = done.stdout.split()
    kinds = (".csv", ".md", ".tex", ".svg")
    facts = [name for name in kept if re.fullmatch(r"results/open/\w+/facts/\w+\.json", name)]
    of = {"smoke": [], "open": []}
    for name in set(kept) - set(facts):
        of[Path(name).parts[1]].append(name)
        assert Path(name).suffix in kinds, name
    for profile, most in dict(smoke=300_000, open=1_500_000).items():
        assert sum((ROOT / name).stat().st_size for name in of[profile]) < most, profile
