"A teacher's file that cannot teach: one line, exit 2, nothing written."

import json

import pytest
from typer.testing import CliRunner

from icdrat.cli.app import one_line
from icdrat.cli.main import app
from icdrat.codes import descendants, icd
from icdrat.data.exchange import load_corpus
from icdrat.types import BadInput


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guides")
    assert CliRunner().invoke(app, ["data", "synth", "--notes", "80", "--out", str(folder / "corpus")]).exit_code == 0
    return folder


def rows(place):
    "The planted marks of training notes, as lines of a file"
    return [json.loads(line) for line in (place / "corpus/gold.jsonl").read_text().splitlines()]


def elsewhere(row):
    return row | dict(note_id="x" + row["note_id"])


def narrower(row):
    "The same for a code below it, where there is one"
    below = descendants(icd(row["code"]))
    return row | dict(code=below[-1].value if below else row["code"])


def outside(row):
    return row | dict(spans=[[10**6, 10**6 + 5]])


WRONG = {
    "for other notes": (elsewhere, "note"),
    "at another level": (narrower, "level"),
    "outside its note": (outside, "1000000"),
    "a weight that is no number": (lambda r: r | dict(weight="much"), "weight"),
    "a weight below zero": (lambda r: r | dict(weight=-1), "weight"),
    "a weight without end": (lambda r: r | dict(weight=float("inf")), "weight"),
    "of several teachers": (None, "teacher_a, teacher_b"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_guide_that_cannot_teach_is_refused_in_one_line(place, tmp_path, kind):
    change, says = WRONG[kind]
    given = rows(place)
    if change is None:
        given = [r | dict(source=s) for s in ("teacher_a", "teacher_b") for r in given]
    else:
        given = [change(r) for r in given]
    guide, out = tmp_path / "guide.jsonl", tmp_path / "coder"
    guide.write_text("".join(json.dumps(r) + "\n" for r in given))
    done = CliRunner().invoke(
        app, ["train", "--corpus", str(place / "corpus"), "--out", str(out), "--guide", str(guide), "--min-notes", "4"]
    )
    assert isinstance(done.exception, BadInput), done.output  # which the program ends with: one line, exit 2
    assert says in one_line(done.exception) and not out.exists(), one_line(done.exception)


def test_a_note_without_a_lesson_is_no_fault_and_weights_are_heard(place, tmp_path):
    some = [r | dict(weight=0.5 if k % 2 else 1) for k, r in enumerate(rows(place)) if k % 3]
    guide, out = tmp_path / "guide.jsonl", tmp_path / "coder"
    guide.write_text("".join(json.dumps(r) + "\n" for r in some))
    done = CliRunner().invoke(
        app,
        ["train", "--corpus", str(place / "corpus"), "--out", str(out), "--guide", str(guide)]
        + ["--min-notes", "4", "--epochs", "1"],
    )
    assert done.exit_code == 0, done.output
    assert load_corpus(place / "corpus").notes and (out / "config.json").is_file()
    assert "left out" not in done.output  # no weight is dropped in silence or aloud
