"What comes with the package is found from anywhere, and travels with it."

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from icdrat.resources import NoResource, resource

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(p.relative_to(ROOT / "icdrat").as_posix() for p in (ROOT / "icdrat" / "assets").rglob("*.*"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "The package as others install it, built from a copy"
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "icdrat", source / "icdrat", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "settings.ini", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    words = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(out)]
    subprocess.run([*words, str(source)], check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_a_wheel_holds_every_resource(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert FILES and {f"icdrat/{f}" for f in FILES} <= names


def test_prompts_records_and_vignettes_are_read_from_a_wheel_in_an_empty_folder(wheel, tmp_path):
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


def test_what_is_not_there_is_said_with_what_is():
    with pytest.raises(NoResource, match="quotes.txt"):
        resource("prompts/nothing.txt")
