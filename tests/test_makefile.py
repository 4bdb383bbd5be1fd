"What a person sets for `make` is a value: it is never run, never broken by its characters and never written down."

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from icdrat.show.plan import keep_run, rests_on
from icdrat.show.profiles import profile_names, read_profiles, steps_of

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
SET = ["ICDRAT_DATA", "ICDRAT_LLM_URL", "ICDRAT_LLM_MODEL"]
WORDS = '#!/bin/sh\nfor w in "$@"; do printf "<%s>\\n" "$w"; done\n'
TOLD = "".join(f'printf "%s\\n" "${name}"\n' for name in SET)

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="no make on this machine")


@pytest.fixture
def make(tmp_path):
    "Run make in a copy of the Makefile whose set-up is done, and whose programs say with which words they were called"
    shutil.copy(ROOT / "Makefile", tmp_path)
    for path in (".venv/bin", "nbs", "icdrat"):
        (tmp_path / path).mkdir(parents=True)
    shutil.copy(ROOT / "nbs" / "profiles.toml", tmp_path / "nbs")
    (tmp_path / ".venv" / "ready").touch()
    for name, body in dict(icdrat=WORDS + TOLD, python=WORDS).items():
        (tmp_path / ".venv" / "bin" / name).write_text(body)
        (tmp_path / ".venv" / "bin" / name).chmod(0o755)

    def run(*words, **env):
        clean = {k: v for k, v in os.environ.items() if k not in (*SET, "MAKEFLAGS", "MAKELEVEL")}
        words = ["make", "-o", ".venv/ready", *words]
        return subprocess.run(words, cwd=tmp_path, env=clean | env, capture_output=True, text=True, timeout=60)

    run.folder = tmp_path
    return run


def called(done):
    "The words of the command that make has called, and what it found in its environment"
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    return [line[1:-1] for line in lines[:-3]], lines[-3:]


# ---- what a person sets ----


@pytest.mark.parametrize("name", SET)
@pytest.mark.parametrize("value", NASTY)
def test_no_value_of_the_environment_is_run_or_breaks_the_build(make, name, value):
    words, told = called(make("reproduce", **{name: value}))
    assert words == ["reproduce", "--profile", "smoke"] and told[SET.index(name)] == value
    assert not list(make.folder.rglob("PWNED*"))
    assert value not in make("-n", "reproduce", **{name: value}).stdout.split("\n")


def kept(monkeypatch, tmp_path, **env):
    "What is kept of a step that was run with these values set"
    for name in SET:
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    profiles = read_profiles(ROOT)
    step = steps_of(profiles, "smoke", ROOT)[0]
    keep_run(step, rests_on(step, profiles, ROOT) | dict(after={}), tmp_path)
    [file] = tmp_path.rglob("*.json")
    return file.read_text()


@pytest.mark.parametrize("name", SET)
@pytest.mark.parametrize("value", NASTY)
def test_every_value_counts_as_a_change(monkeypatch, tmp_path, name, value):
    assert kept(monkeypatch, tmp_path, **{name: value}) != kept(monkeypatch, tmp_path, **{name: "/x"})


def test_a_key_in_an_address_is_not_written_down_and_still_counts_as_a_change(monkeypatch, tmp_path):
    first, second = (
        kept(monkeypatch, tmp_path, ICDRAT_LLM_URL=f"http://127.0.0.1/v1?api_key={k}") for k in ("SECRET1", "SECRET2")
    )
    assert "SECRET" not in first + second and first != second


def test_the_same_values_change_nothing(monkeypatch, tmp_path):
    first, second = (json.loads(kept(monkeypatch, tmp_path, ICDRAT_DATA="/data")) for _ in range(2))
    assert first == second


# ---- profiles ----


NONE = ["%", "smok", "smoke open", "", "smoke/../x", "'; touch PWNED; '", "needs", "open/"]


@pytest.mark.parametrize("profile", NONE)
@pytest.mark.parametrize("goal", ["reproduce", "clean"])
def test_a_profile_that_is_none_is_refused_with_those_there_are(make, profile, goal):
    done = make("-n", goal, f"PROFILE={profile}")
    assert done.returncode == 2 and "choose one of: smoke" in done.stderr
    assert not list(make.folder.glob("PWNED*"))


def test_make_reads_the_names_of_the_profiles_from_their_file(make):
    names = profile_names(read_profiles(ROOT))
    assert f"choose one of: {' '.join(names)}." in make("PROFILE=none").stderr
    for name in names:
        assert called(make(f"PROFILE={name}"))[0] == ["reproduce", "--profile", name]


@pytest.mark.parametrize(
    "words, more",
    [
        ((), []),
        (("DRY=1",), ["--dry-run"]),
        (("-j3",), ["--jobs", "3"]),
        (("-j",), ["--jobs", "0"]),
        (("-j", "2", "DRY=yes"), ["--dry-run", "--jobs", "2"]),
    ],
)
def test_what_make_is_told_about_the_run_it_hands_on(make, words, more):
    assert called(make("reproduce", *words))[0] == ["reproduce", "--profile", "smoke", *more]


def test_results_are_checked_by_a_word(make):
    assert called(make("check-results"))[0] == ["reproduce", "--profile", "smoke", "--check"]


def test_a_model_file_may_have_a_blank_in_its_name(make):
    (make.folder / "data/llm").mkdir(parents=True)
    (make.folder / "data/llm/server").touch()
    done = make("-o", "data/llm/server", "llm", GGUF="/a b/$HOME/x.gguf")
    assert "</a b/$HOME/x.gguf>" in done.stdout, done.stdout + done.stderr
