"What is given away is whole: the wheel holds every module and asset, and runs the README's Python without a clone."

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(p.relative_to(ROOT / "icdrat").as_posix() for p in (ROOT / "icdrat" / "assets").rglob("*.*"))


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    "A wheel and a source archive, built from what git holds"
    place = tmp_path_factory.mktemp("package")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, listed):
        if name.startswith(("tests/", "runs/")) or not (ROOT / name).is_file():
            continue
        (place / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, place / "clone" / name)
    setup = [sys.executable, "setup.py", "-q"]
    for kind in ("sdist", "bdist_wheel"):
        done = subprocess.run([*setup, kind, "-d", place], cwd=place / "clone", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    [wheel], [archive] = place.glob("*.whl"), place.glob("*.tar.gz")
    return wheel, archive


def test_modules_assets_and_version_are_in_the_wheel(given):
    wheel, _ = given
    names = set(zipfile.ZipFile(wheel).namelist())
    kept = [p for p in (ROOT / "icdrat").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert {p.relative_to(ROOT).as_posix() for p in kept} <= names
    version = re.search(r"^version = (\S+)", (ROOT / "settings.ini").read_text(), re.M)[1]
    assert wheel.name.split("-")[1] == version
    for file, form in (("CITATION.cff", "version: {}\n"), ("CHANGELOG.md", "## {}\n"), ("icdrat/__init__.py", '"{}"')):
        assert form.format(version) in (ROOT / file).read_text(encoding="utf-8"), file


def test_a_wheel_holds_every_resource(given):
    wheel, _ = given
    names = set(zipfile.ZipFile(wheel).namelist())
    assert FILES and {f"icdrat/{f}" for f in FILES} <= names


def test_prompts_records_and_vignettes_are_read_from_a_wheel_in_an_empty_folder(given, tmp_path):
    wheel, _ = given
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    script = """
import icdrat, pathlib
from icdrat.data.vignettes import vignettes
from icdrat.rationale.llm.prompt import load_prompt
from icdrat.rationale.llm.record import record_file
assert pathlib.Path(icdrat.__file__).parent == pathlib.Path('site/icdrat').resolve(), icdrat.__file__
print(load_prompt('quotes').version, len(vignettes()), record_file('vignettes', 'few_shot', 'answers').is_file())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={"PYTHONPATH": "site"}, capture_output=True, text=True
    )
    assert done.stdout.split()[1:] == ["52", "True"], done.stderr


def test_the_source_archive_builds_the_same_package(given):
    wheel, archive = given
    with tarfile.open(archive) as tar:
        held = {name.partition("/")[2] for name in tar.getnames()}
    assert {n for n in zipfile.ZipFile(wheel).namelist() if n.startswith("icdrat/")} <= held
    assert {"settings.ini", "README.md", "LICENSE", "CITATION.cff", "nbs/profiles.toml", "nbs/index.ipynb"} <= held


def test_the_readme_runs_from_the_wheel(given, tmp_path):
    wheel, _ = given
    with zipfile.ZipFile(wheel) as held:
        held.extractall(tmp_path / "installed")
    cells = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    assert cells
    (tmp_path / "readme.py").write_text("\n".join(cells) + "\nimport icdrat; print(icdrat.__file__)", encoding="utf-8")
    where = dict(os.environ, PYTHONPATH=str(tmp_path / "installed"), OMP_NUM_THREADS="1")
    done = subprocess.run([sys.executable, "readme.py"], cwd=tmp_path, env=where, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(str(tmp_path / "installed")), "it is not the installed one that ran"
