"The profile for MIMIC-IV runs from end to end on files made up in the published schema, so that nobody meets a slip."

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from encoder import tiny_encoder
from test_mimic import hospital
from typer.testing import CliRunner

from icdrat.cli.main import app
from icdrat.coder.recipe import BadRecipe
from icdrat.data.exchange import MissingFile
from icdrat.show.plan import command_of, plan
from icdrat.show.profiles import read_profiles

ROOT = Path(__file__).resolve().parents[1]
SIGNS = {
    "E119": "type 2 diabetes mellitus",
    "I10": "hypertension",
    "R110": "nausea",
    "J45909": "asthma",
    "N179": "acute kidney failure",
}
SECRET = "Maria Secret"


def made_up(folder, n_patients=100):
    "Admissions with a few codes each, whose signs stand in the text; two procedures"
    rng, notes, diagnoses, procedures = np.random.default_rng(0), [], [], []
    for p in range(1, n_patients + 1):
        codes = rng.choice(list(SIGNS), size=rng.integers(1, 4), replace=False)
        words = rng.permutation([*(SIGNS[c] for c in codes), *"patient was seen and walks home with plans".split()])
        notes.append((f"{p}-DS-1", p, 10 * p, "DS", 1, f"{SECRET}: {' '.join(words)}."))
        diagnoses += [(p, 10 * p, s + 1, c, 10) for s, c in enumerate(codes)]
        if p % 3 == 0:
            procedures.append((p, 10 * p, 1, "0DTJ4ZZ", 10))
    return hospital(folder, notes, diagnoses, procedures)


def reproduce(root, *words):
    env = {k: v for k, v in os.environ.items() if not k.startswith("ICDRAT_")}
    env |= dict(ICDRAT_DATA=str(root / "data"), OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    script = "import sys; sys.path[:] = filter(None, sys.path); from icdrat.cli.main import main; main()"
    words = [sys.executable, "-c", script, "reproduce", "--profile", "mimic", "--jobs", "2", *words]
    return subprocess.run(words, cwd=root, env=env, capture_output=True, text=True, timeout=1800)


TINY = [
    "epochs=1",
    "chunk=16",
    "precision=no",
    "e1_coder.min_notes=2",
    "e8_models.architectures=caml",
    "tab8_groups.bands=50 500",
    "tab8_groups.n_draws=20",
    "tab6_models.n_draws=20",
    "fig2_calibration.n_draws=20",
    "e6_corpora.n_draws=20",
]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    "A project with the notebooks and profiles of this one, and made-up MIMIC-IV in a folder with a blank"
    root = tmp_path_factory.mktemp("project")
    for folder in ("experiments", "paper"):
        shutil.copytree(ROOT / "nbs" / folder, root / "nbs" / folder)
    shutil.copy(ROOT / "nbs" / "profiles.toml", root / "nbs")
    shutil.copy(ROOT / "settings.ini", root)
    made_up(root / "data" / "my mimic")
    return root


def test_every_command_of_it_is_one_that_can_be_given(tmp_path, monkeypatch):
    "With nothing there, each stops at its missing corpus, and at nothing that is written wrongly"
    monkeypatch.chdir(tmp_path)
    steps = {p.step.name: command_of(p.step, ROOT)[3:] for p in plan(read_profiles(ROOT), "mimic", ROOT)}
    steps = {name: words for name, words in steps.items() if words[0] != "reproduce"}
    assert {"corpus", "card", "caml", "multirescnn", "laat", "plm_icd", "marks", "student"} <= set(steps)
    for name, words in steps.items():
        assert isinstance(CliRunner().invoke(app, words).exception, MissingFile), name
        if words[0] == "train":
            wrong = [*words, "--set", "projektion=2"]
            assert isinstance(CliRunner().invoke(app, wrong).exception, BadRecipe), "a slip is told first"


@pytest.mark.skipif("ICDRAT_LONG" not in os.environ, reason="three minutes of a core; ICDRAT_LONG=1 runs it")
def test_every_step_runs_and_then_there_is_nothing_left_to_do(project):
    given = [w for p in (f"folder={project}/data/my mimic", f"encoder={tiny_encoder()}", *TINY) for w in ("-p", p)]
    dry = reproduce(project, "--dry-run", *given)
    assert dry.returncode == 0 and "18 steps, 18 to run" in dry.stdout and "not there" not in dry.stdout, dry.stderr
    assert not (project / "runs").exists() and not (project / "results").exists(), "a dry run leaves nothing"
    done = reproduce(project, *given)
    assert done.returncode == 0, done.stderr[-3000:]
    assert SECRET not in done.stdout + done.stderr
    results = project / "results" / "mimic"
    for name in ("tab3_corpora.md", "tab6_models.md", "tab8_groups.md", "fig2_calibration.svg", "train_plm_icd.csv"):
        assert (results / name).is_file(), name
    assert not any(SECRET.encode() in p.read_bytes() for p in results.rglob("*") if p.is_file())
    private = [p for p in (project / "runs").rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]
    assert private and all(stat.S_IMODE(p.stat().st_mode) == 0o600 for p in private)
    facts = (results / "facts" / "plm_icd.json").read_text()
    assert "--architecture plm_icd" in facts and str(project) not in facts
    again = reproduce(project, "--dry-run", *given)
    assert "18 steps, nothing to run" in again.stdout, again.stdout


def test_what_is_not_there_is_said_before_anything_runs(project):
    for given, says in (([], "mimiciv: no such folder"), (["-p", "encoder=/nowhere"], "/nowhere: no such model")):
        done = reproduce(project, *given)
        assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr


def test_a_language_model_of_your_own_is_asked_where_there_is_one(monkeypatch):
    names = [p.step.name for p in plan(read_profiles(ROOT), "mimic", ROOT)]
    monkeypatch.setenv("ICDRAT_LLM_URL", "http://127.0.0.1:8000/v1")
    assert [p.step.name for p in plan(read_profiles(ROOT), "mimic", ROOT) if p.step.name not in names] == ["quotes"]


def test_a_training_is_spread_over_processes_by_accelerate():
    steps = {p.step.name: p.step for p in plan(read_profiles(ROOT), "mimic", ROOT, dict(processes=4))}
    words = command_of(steps["plm_icd"], ROOT)
    assert words[1:6] == ["-m", "accelerate.commands.launch", "--num_processes", "4", "-m"]
    assert "accelerate.commands.launch" not in command_of(steps["marks"], ROOT)
