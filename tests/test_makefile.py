"What a person sets for `make` is a value: it is never run, never broken by its characters and never written down."

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NASTY = [
    "/data/o'brien notes",
    "/x'; touch PWNED; echo '",
    '/x"; touch PWNED; echo "',
    "/x`touch PWNED`$(touch PWNED)",
    "/data/$HOME/x",
    "/data/with space/é",
    "/x\\",
    "-n",
    "%s%n",
]

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="no make on this machine")


@pytest.fixture
def make(tmp_path):
    "Run make in a copy of the Makefile whose set-up is done"
    shutil.copy(ROOT / "Makefile", tmp_path)
    for path in (".venv/bin", "nbs/experiments", "nbs/paper", "icdrat"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / ".venv" / "ready").touch()

    def run(*words, **env):
        return subprocess.run(
            ["make", *words], cwd=tmp_path, env=os.environ | env, capture_output=True, text=True, timeout=60
        )

    run.folder = tmp_path
    return run


def parameters(make, **env):
    done = make("runs/smoke/parameters", **env)
    assert done.returncode == 0, done.stderr
    return (make.folder / "runs/smoke/parameters").read_text()


@pytest.mark.parametrize("name", ["ICDRAT_DATA", "ICDRAT_LLM_URL", "ICDRAT_LLM_MODEL"])
@pytest.mark.parametrize("value", NASTY)
def test_no_value_of_the_environment_is_run_or_breaks_the_build(make, name, value):
    assert parameters(make, **{name: value}) != parameters(make, **{name: "/x"})
    assert not list(make.folder.glob("PWNED*"))


def test_a_key_in_an_address_is_not_written_down_and_still_counts_as_a_change(make):
    first, second = (
        parameters(make, ICDRAT_LLM_URL=f"http://127.0.0.1/v1?api_key={k}") for k in ("SECRET1", "SECRET2")
    )
    assert "SECRET" not in first + second and first != second


def test_the_same_values_change_nothing(make):
    parameters(make, ICDRAT_DATA="/data")
    before = (make.folder / "runs/smoke/parameters").stat().st_mtime_ns
    parameters(make, ICDRAT_DATA="/data")
    assert (make.folder / "runs/smoke/parameters").stat().st_mtime_ns == before


@pytest.mark.parametrize("profile", ["%", "smok", "smoke codiesp", "", "smoke/../x", "'; touch PWNED; '"])
def test_a_profile_that_is_none_is_refused_with_those_there_are(make, profile):
    done = make("-n", f"PROFILE={profile}")
    assert done.returncode == 2 and "choose one of: smoke" in done.stderr
    assert not list(make.folder.glob("PWNED*"))


def test_a_model_file_may_have_a_blank_in_its_name(make):
    (make.folder / "data/llm").mkdir(parents=True)
    (make.folder / "data/llm/server").touch()
    python = make.folder / ".venv/bin/python"
    python.write_text('#!/bin/sh\nfor w in "$@"; do echo "<$w>"; done\n')
    python.chmod(0o755)
    done = make("-o", "data/llm/server", "llm", GGUF="/a b/$HOME/x.gguf")
    assert "</a b/$HOME/x.gguf>" in done.stdout, done.stdout + done.stderr
