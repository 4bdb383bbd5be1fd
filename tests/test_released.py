"The coders that come with the package: whole, with their cards, known by name wherever a coder is asked for."

import json
import subprocess
import sys

import pytest

from icdrat.coder.base import load_coder
from icdrat.learning.release import LIMITS
from icdrat.rationale.select import read_selections
from icdrat.resources import CODERS, coder_folder, resource

NAMES = sorted(p.name for p in resource(CODERS).iterdir() if p.is_dir())
NOTE = "Varón de 64 años con hipertensión arterial y diabetes mellitus tipo 2. Ingresa por fiebre y tos."


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_is_whole_and_its_card_says_what_it_is_not_for(name):
    folder = coder_folder(name)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert all(limit in card for limit in LIMITS)
    assert f"**Codes**: {len(load_coder(name).codes)}," in card
    assert len(read_selections(folder / "selections.json")) == 1
    assert sum(p.stat().st_size for p in folder.iterdir()) < 4_000_000


@pytest.mark.parametrize("name", NAMES)
def test_a_new_note_gets_codes_and_evidence_without_training(name, tmp_path):
    out = tmp_path / "codes.jsonl"
    words = ["predict", "-", "--coder", name, "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "icdrat.cli.main", *words],
        input=NOTE.encode(),
        capture_output=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()[-500:]
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    evidence = {r["code"]: [NOTE[a:b].lower() for a, b in r["spans"]] for r in rows}
    assert "I10" in evidence and any("hipertens" in words for words in evidence["I10"])


def test_a_folder_of_one_s_own_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAMES[0]).mkdir()
    assert coder_folder(NAMES[0]) == (tmp_path / NAMES[0]).relative_to(tmp_path)
