"What a profile runs: its graph is that of the notebooks, a slip is one line, and what is run is what was said."

import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import typer

from icdrat.cli.main import app
from icdrat.show import plan as P
from icdrat.show.facts import corpus_fingerprint, facts_file, run_facts, write_facts
from icdrat.show.plan import Planned, StepFailed, not_there, plan, plan_in_print, run_plan, together
from icdrat.rationale.llm.record import record_facts
from icdrat.show.profiles import (
    BadProfile,
    Step,
    check_profiles,
    notebooks,
    profile_names,
    read_profiles,
    room_files,
    settings_of,
    steps_of,
)

ROOT = Path(__file__).resolve().parents[1]
PROFILES = read_profiles(ROOT)
NEEDS = PROFILES["needs"]
FILES = notebooks(ROOT)


# ---- the profiles of this project ----


def code_of(name):
    cells = json.loads((ROOT / "nbs" / FILES[name]).read_text())["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")


def before(name):
    "All notebooks that run before one"
    direct = [n for n in NEEDS[name] if n in FILES]
    return {*direct, *(n for d in direct for n in before(d))}


@pytest.mark.parametrize("name", FILES)
def test_a_notebook_imports_from_its_rooms_or_from_those_of_the_notebooks_before_it(name):
    rooms = {e for n in (name, *before(name)) for e in NEEDS[n] if e not in FILES}
    there = room_files(PROFILES, [*rooms, "report"], ROOT)
    for node in ast.walk(ast.parse(code_of(name))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("icdrat."):
            file = node.module.removeprefix("icdrat.").replace(".", "/")
            assert f"{file}.py" in there or f"{file}/__init__.py" in there, f"{name} imports {node.module}"


@pytest.mark.parametrize("name", FILES)
def test_a_notebook_reads_the_results_of_notebooks_before_it_only(name):
    for read in re.findall(r"read_results\(root/results/f?'(\w+?)\.parquet'", code_of(name)):
        makers = {n for n in (name, *before(name)) if n.partition("_")[0] == read.partition("_")[0]}
        assert makers, f"{name} reads {read}"


@pytest.mark.parametrize("name", profile_names(PROFILES))
def test_a_profile_can_be_planned_by_anybody(name, monkeypatch, tmp_path):
    monkeypatch.delenv("ICDRAT_DATA", raising=False)
    check_profiles(PROFILES, ROOT)
    planned = plan(PROFILES, name, ROOT)
    names = [p.step.name for p in planned]
    assert all(set(p.step.after) <= set(names[:i]) for i, p in enumerate(planned)), "each after those before it"
    assert plan_in_print(name, planned, 2).splitlines()[-1].startswith(f"{name}: {len(names)} steps")
    assert all(t.get("about") for t in settings_of(PROFILES, name).values())


def test_the_parts_of_open_run_nothing_twice_and_leave_nothing_out():
    steps = steps_of(PROFILES, "open", ROOT)
    assert {s.stem for s in steps} == set(FILES)
    assert len({(s.runs, s.stem) for s in steps}) == len(steps)
    of = {s.name: s.parameters for s in steps}
    assert of["es/e1_coder"]["corpus"] == "codiesp" and of["en/e1_coder"]["corpus"] == "codiesp_en"
    assert of["es/e11_students"]["seeds"] == of["en/e11_students"]["seeds"] == "0 1 2 3 4"


@pytest.mark.parametrize("part", ["es", "en"])
def test_the_teachers_of_open_are_on_record_for_its_corpus(part):
    of = {s.stem: s.parameters for s in steps_of(PROFILES, f"open/{part}", ROOT)}
    students = [of["e11_students"].get("students", ""), of["e12_lessons"]["others"], of["e13_coders"]["coders"]]
    named = " ".join([of["e11_students"]["teachers"], of["e12_lessons"].get("teacher", ""), *students])
    for way in set(re.findall(r"\bllm_(\w+)", named)):
        record_facts(of["e1_coder"]["corpus"], way)  # or it is told that there is none
    assert bool(re.search("llm_", named)) == (part == "es")


@pytest.mark.parametrize("name", profile_names(PROFILES))
def test_every_command_of_a_profile_is_one_with_its_options(name, monkeypatch):
    monkeypatch.setenv("ICDRAT_LLM_URL", "http://127.0.0.1:8000/v1")
    top = typer.main.get_command(app)
    for step in steps_of(PROFILES, name, ROOT, None if name != "mimic" else dict(folder="a b", encoder="minilm")):
        words, command = list(step.words), top
        while hasattr(command, "commands") and words:
            command = command.commands[words.pop(0)]
        if step.words:
            command.make_context(step.name, words)  # reads the words, and runs nothing


# ---- a tiny project ----

TOY = """
[rooms]
data = ["*.py"]
[needs]
e1_a = ["data"]
e2_b = ["e1_a"]
e3_c = ["e1_a"]
tab1_d = ["e2_b", "e3_c"]
[toy]
about = "four"
[both]
about = "eight"
parts = ["one", "two"]
reads = ["{data}/x"]
given.word = "{data}/word"
e1_a.text = "{word}"
[both.one]
[both.two]
e2_b.n = 3
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    "A project whose notebooks are run by a program that is quick, and says when it began and ended"
    monkeypatch.delenv("ICDRAT_DATA", raising=False)
    (tmp_path / "icdrat").mkdir()
    (tmp_path / "icdrat" / "text.py").write_text("a = 1")
    (tmp_path / "settings.ini").touch()
    for name in ("experiments/e1_a", "experiments/e2_b", "experiments/e3_c", "paper/tab1_d"):
        path = tmp_path / "nbs" / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        declared = 'n = 1 # how many\ntext = "" # a text\nshare = 0.5 # of it\nruns = "" # w\nresults = "" # w'
        cell = nbformat.v4.new_code_cell(declared, metadata=dict(tags=["parameters"]))
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    (tmp_path / "nbs" / "profiles.toml").write_text(TOY)
    (tmp_path / "fails").mkdir()
    (tmp_path / "log").touch()
    script = tmp_path / "step.py"
    script.write_text(
        "import sys, time\nfrom pathlib import Path\nroot, name, runs, results = Path(sys.argv[1]), *sys.argv[2:]\n"
        "def say(what):\n    with open(root/'log', 'a') as f: f.write(f'{what} {name}\\n')\n"
        "say('begin'); time.sleep(.3 if not (root/'slow').exists() else 60)\n"
        "if (root/'fails'/name).exists(): sys.exit(2)\n"
        "for f in (root/runs/f'{name}.ipynb', root/results/f'{name}.csv'):\n"
        "    f.parent.mkdir(parents=True, exist_ok=True); f.write_text('x')\n"
        "facts = root/results/'facts'/f'{name}.json'; facts.parent.mkdir(exist_ok=True)\n"
        'facts.write_text(\'{"files": {"%s.csv": ""}, "seconds": %r}\' % (name, time.time()))\nsay(\'end\')\n'
    )
    command = lambda s, root: [sys.executable, str(script), str(root), s.stem, s.runs, s.results]  # noqa: E731
    monkeypatch.setattr(P, "command_of", command)
    return tmp_path


def planned(root, name="toy", given=None):
    return plan(read_profiles(root), name, root, given)


def run(root, jobs=2, name="toy"):
    found = planned(root, name)
    (root / "log").write_text("")
    try:
        run_plan(found, read_profiles(root), root, jobs)
    finally:
        log = (root / "log").read_text().split("\n")[:-1]
    return log


def left(root, name="toy"):
    return [p.step.name for p in planned(root, name) if p.why]


def test_what_was_said_is_what_is_run_each_after_those_before_it_and_then_nothing(toy):
    assert left(toy) == ["e1_a", "e2_b", "e3_c", "tab1_d"]
    log = run(toy)
    assert log[:2] == ["begin e1_a", "end e1_a"] and log[-2:] == ["begin tab1_d", "end tab1_d"]
    assert {*log[2:4]} == {"begin e2_b", "begin e3_c"}, "side by side"
    assert left(toy) == [] and run(toy) == []


def test_one_at_a_time_is_one_at_a_time(toy):
    log = run(toy, jobs=1)
    assert all(a.split()[1] == b.split()[1] for a, b in zip(log[::2], log[1::2]))


def test_a_change_runs_what_rests_on_it_and_nothing_else(toy):
    run(toy)
    text = (toy / "nbs" / "profiles.toml").read_text()
    (toy / "nbs" / "profiles.toml").write_text(text.replace('about = "four"', 'about = "four"\ne2_b.n = 2'))
    assert left(toy) == ["e2_b", "tab1_d"]
    (toy / "nbs" / "profiles.toml").write_text(text)
    (toy / "icdrat" / "text.py").touch()
    assert left(toy) == [], "the time of a file is no change"
    (toy / "icdrat" / "text.py").write_text("a = 2")
    assert left(toy) == ["e1_a", "e2_b", "e3_c", "tab1_d"]
    (toy / "icdrat" / "text.py").write_text("a = 1")
    (toy / "results" / "toy" / "e3_c.csv").unlink()
    assert left(toy) == ["e3_c", "tab1_d"]
    assert {w.split()[1] for w in run(toy)} == {"e3_c", "tab1_d"}


def test_a_run_by_hand_is_not_taken_for_that_of_the_profile(toy):
    run(toy)
    write_facts(toy / "results" / "toy", run_facts("e2_b", dict(n=99), 1.0, toy / "results" / "toy"))
    assert left(toy) == ["e2_b", "tab1_d"]


@pytest.mark.parametrize("broken", ["", "{", "[]", '{"run": 3}'])
def test_a_broken_record_is_none(toy, broken):
    run(toy)
    (toy / "runs" / "toy" / "made" / "e3_c.json").write_text(broken)
    assert left(toy) == ["e3_c", "tab1_d"]
    facts_file(toy / "results" / "toy", "e2_b").write_text(broken)
    assert left(toy) == ["e2_b", "e3_c", "tab1_d"]


def test_after_a_failure_the_rest_is_kept_and_the_next_run_goes_on(toy):
    (toy / "fails" / "e2_b").touch()
    with pytest.raises(StepFailed, match="e2_b failed"):
        run(toy)
    log = (toy / "log").read_text()
    assert "end e3_c" in log and "tab1_d" not in log, "what ran was waited for, nothing else was begun"
    (toy / "fails" / "e2_b").unlink()
    assert {w.split()[1] for w in run(toy)} == {"e2_b", "tab1_d"}


def test_a_run_that_is_stopped_takes_its_processes_along(toy, tmp_path):
    (toy / "slow").touch()
    script = (
        "import sys; from icdrat.show import plan as P; from icdrat.show.profiles import read_profiles\n"
        "import signal; signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))\n"
        f"root = {str(toy)!r}\n"
        f"P.command_of = lambda s, r: [sys.executable, root+'/step.py', root, s.stem, s.runs, s.results]\n"
        "profiles = read_profiles(root); P.run_plan(P.plan(profiles, 'toy', root), profiles, root, 2)\n"
    )
    outer = subprocess.Popen([sys.executable, "-c", script], cwd=toy / "nbs")
    for _ in range(200):
        if (toy / "log").read_text():
            break
        time.sleep(0.05)
    asked = ["ps", "-o", "pid=", "--ppid", str(outer.pid)]
    below = subprocess.run(asked, capture_output=True, text=True).stdout.split()
    outer.send_signal(signal.SIGTERM)
    assert outer.wait(20) == 1 and below
    for pid in map(int, below):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_parts_have_folders_of_their_own_and_a_part_is_a_profile(toy):
    steps = {s.name: s for s in steps_of(read_profiles(toy), "both", toy)}
    assert len(steps) == 8 and steps["two/e2_b"].parameters == dict(n=3) and steps["one/e2_b"].parameters == {}
    assert steps["two/tab1_d"].after == ("two/e2_b", "two/e3_c") and steps["two/e1_a"].runs == "runs/both/two"
    assert [s.name for s in steps_of(read_profiles(toy), "both/two", toy)][0] == "e1_a"


def test_what_was_not_given_stops_a_run_and_no_dry_one(toy, monkeypatch):
    profiles = read_profiles(toy)
    assert not_there(profiles, "both", toy) == ["{data}/x: set ICDRAT_DATA to the folder that stands for {data}"]
    with pytest.raises(BadProfile, match=r"\{data\}/word: a word in braces was not given"):
        run_plan(plan(profiles, "both", toy), profiles, toy)
    monkeypatch.setenv("ICDRAT_DATA", str(toy))
    assert not_there(profiles, "both", toy) == [f"{toy}/x: no such folder"]
    of = {s.name: s.parameters for s in steps_of(profiles, "both", toy, {"word": "mine", "e1_a.n": 7})}
    assert of["one/e1_a"] == dict(text="mine", n=7)


@pytest.mark.parametrize("seed", range(5))
def test_side_by_side_takes_no_longer_than_one_after_another_and_no_shorter_than_the_longest_chain(seed):
    import numpy as np

    rng, rows = np.random.default_rng(seed), []
    for i in range(12):
        after = tuple(f"s{j}" for j in range(i) if rng.random() < 0.2)
        rows.append(Planned(Step(f"s{i}", "x", (), after), "why", float(rng.integers(1, 100))))
    chain = {}
    for step, _, seconds in rows:
        chain[step.name] = seconds + max([chain[a] for a in step.after], default=0)
    times = [together(rows, jobs) for jobs in (1, 2, 12)]
    assert times[0] == sum(r.seconds for r in rows) and times[2] == max(chain.values()) <= times[1] <= times[0]


# ---- slips ----


@pytest.mark.parametrize(
    "old, new, says",
    [
        ("[toy]", "[toy", "at line"),
        ("[rooms]", "[room]", "no table [rooms]"),
        ('e2_b = ["e1_a"]', 'e2_b = ["e1_x"]', "e2_b needs 'e1_x'"),
        ('e2_b = ["e1_a"]', "", "e2_b has no line under [needs]"),
        ('e2_b = ["e1_a"]', 'e2_b = ["e1_a"]\ne9_z = []', "[needs] has e9_z"),
        ('e1_a = ["data"]', 'e1_a = ["tab1_d"]', "in a circle: "),
        ('data = ["*.py"]', 'data = ["more"]\nmore = ["data"]', "in a circle: "),
        ("e2_b.n = 3", "e9_z.n = 3", "there is no 'e9_z'"),
        ("e2_b.n = 3", "e2_b.m = 3", "unknown parameter 'm'; there are n, text, share"),
        ("e2_b.n = 3", "e2_b.n = 3.5", "it is a whole number"),
        ("e2_b.n = 3", 'e2_b.n = "3"', "it is a whole number"),
        ("e2_b.n = 3", "e2_b.text = 3", "it is text"),
        ("e2_b.n = 3", 'e2_b.share = "x"', "it is a number"),
        ("e2_b.n = 3", 'e2_b.runs = "x"', "unknown parameter 'runs'"),
        ("e2_b.n = 3", "e2_b = 3", "write e2_b.PARAMETER = VALUE"),
        ('reads = ["{data}/x"]', 'reads = "x"', "both.reads"),
        ('about = "eight"', 'about = "eight"\nwithout = ["e9_z"]', "no notebook 'e9_z'"),
        ('about = "eight"', 'about = "eight"\nwithout = ["e2_b"]', "both/one runs tab1_d, which needs e2_b"),
        ('parts = ["one", "two"]', 'parts = ["one", "two", "three"]', "no table [both.three]"),
        ('about = "eight"', 'about = "eight"\nsteps.x.runs = "data"', "both/one.steps.x has no `run`"),
        ('about = "eight"', 'about = "eight"\nsteps.x.run = "data"\nsteps.x.need = []', "'need' is not known"),
        ('about = "eight"', 'about = "eight"\nsteps.x.run = "a"\nsteps.x.before = ["e9"]', "steps.x needs 'e9'"),
    ],
)
def test_a_slip_in_the_file_is_one_line(toy, old, new, says):
    assert TOY.count(old) == 1
    (toy / "nbs" / "profiles.toml").write_text(TOY.replace(old, new))
    with pytest.raises(BadProfile) as refused:
        profiles = read_profiles(toy)
        check_profiles(profiles, toy)
        steps_of(profiles, "both", toy)
    assert says in str(refused.value) and "\n" not in str(refused.value)


def test_a_number_may_be_whole_where_any_is_meant(toy):
    (toy / "nbs" / "profiles.toml").write_text(TOY.replace("e2_b.n = 3", "e2_b.share = 1"))
    check_profiles(read_profiles(toy), toy)


def test_a_command_leaves_facts_too_with_the_fingerprint_of_its_corpus(toy):
    card = 'steps.card.run = "data card --corpus {runs}/c --out {results}/card.csv"\nsteps.card.before = ["e1_a"]'
    (toy / "nbs" / "profiles.toml").write_text(TOY.replace('about = "four"', f'about = "four"\n{card}'))
    (toy / "runs" / "toy" / "c").mkdir(parents=True)
    (toy / "runs" / "toy" / "c" / "notes.jsonl").write_text("{}")
    assert run(toy)[:2] == ["begin card", "end card"] and left(toy) == []
    facts = json.loads(facts_file(toy / "results" / "toy", "card").read_text())
    assert facts["corpus"] == corpus_fingerprint(toy / "runs" / "toy" / "c")
    assert facts["parameters"]["command"].startswith("data card --corpus runs/toy/c")
    (toy / "results" / "toy" / "card.csv").unlink()
    assert left(toy)[0] == "card"
