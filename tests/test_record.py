"The record of a real model's answers: replayed to the letter, dated, and without a word of other people's notes."

import json

import pytest

from icdrat.data.codiesp import codiesp
from icdrat.data.corpus import head
from icdrat.data.exchange import read_lines
from icdrat.data.vignettes import vignettes
from icdrat.rationale.llm.prompt import load_prompt
from icdrat.rationale.llm.record import (
    FIRST,
    RECORDS,
    TEACHER,
    WAYS,
    record_facts,
    record_file,
    recorded,
    replayed,
    teacher_manner,
)
from icdrat.rationale.llm.server import plan
from icdrat.types import check_inside

PLACES = {
    "note_id",
    "code",
    "system",
    "spans",
    "source",
    "level",
    "model",
    "prompt",
    "prompt_sha256",
    "date",
    "asked_with",
}


@pytest.mark.parametrize("way", WAYS)
def test_every_question_about_the_vignettes_has_its_answer(way):
    notes, found = replayed(way, vignettes())
    assert len(notes) == FIRST["vignettes"]
    assert (
        found.grounding.unanswered == 0
        and found.grounding.requests == 0
        and found.grounding.questions == len(found.asked) > 80
    )
    told, kept = record_facts("vignettes", way)
    assert (kept.exact, kept.ungrounded, kept.questions) == (
        found.grounding.exact,
        found.grounding.ungrounded,
        found.grounding.questions,
    )


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_was_one_of_the_phrases_that_were_allowed(way):
    corpus = vignettes()
    notes = head(corpus.split("test"), FIRST["vignettes"])
    made = plan(notes.notes, notes.codes, TEACHER, teacher_manner(way, corpus.split("train")))
    content = {
        row["key"]: row["content"]
        for _, row in read_lines(record_file("vignettes", way, "answers"), ["key", "content"])
    }
    whole = 0
    for name, body in made.bodies.items():
        try:
            said = json.loads(content[name])["quotes"]
        except ValueError:
            continue  # it broke off at the longest answer
        whole += 1
        assert set(said) <= set(body["response_format"]["schema"]["properties"]["quotes"]["items"]["enum"]), name
    assert whole > 0.9 * len(made.bodies)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("corpus", ["vignettes", "codiesp_en"])
def test_a_record_says_who_was_asked_with_what_and_when(corpus, way):
    told, grounding = record_facts(corpus, way)
    assert (
        told["model"] == TEACHER.model
        and told["prompt_sha256"] == load_prompt("quotes").sha256
        and told["date"] >= "2026"
    )
    assert told["asked_with"]["n_shots"] == WAYS[way] and grounding.questions > 80 and grounding.seconds > 0


@pytest.mark.parametrize("way", WAYS)
def test_the_record_of_other_peoples_notes_has_places_and_no_text(way):
    rows = [row for _, row in read_lines(record_file("codiesp_en", way, "offsets"), ["note_id"])]
    assert len({r["note_id"] for r in rows}) >= 100
    assert all(set(r) <= PLACES and all(isinstance(x, int) for s in r["spans"] for x in s) for r in rows)
    assert {r["source"] for r in rows} == {f"llm_{way}"}


@pytest.mark.parametrize("way", WAYS)
def test_its_places_lie_inside_the_notes_of_dev(way, data_folder):
    notes = {n.id: n for n in codiesp(data_folder / "codiesp", language="en").split("test").notes}
    for r in recorded("codiesp_en", way):
        check_inside(r, notes[r.note_id])


def test_nothing_else_is_in_the_folder_of_records():
    names = {
        f"{c}.{w}.{k}"
        for w in WAYS
        for c, k in (
            ("vignettes", "answers.jsonl.gz"),
            ("vignettes", "json"),
            ("codiesp_en", "offsets.jsonl.gz"),
            ("codiesp_en", "json"),
        )
    }
    assert {f.name for f in RECORDS.iterdir()} == names
