"The record of a real model's answers: replayed to the letter, dated, and without a word of other people's notes."

import json

import pytest

from icdrat.data.codiesp import codiesp
from icdrat.data.corpus import head, to_level, united
from icdrat.data.exchange import MissingFile, read_lines, read_rationales
from icdrat.data.vignettes import vignettes
from icdrat.rationale.llm.prompt import Manner, load_prompt
from icdrat.rationale.llm.record import (
    FIRST,
    RECORDS,
    TEACHER,
    WAYS,
    NoRecord,
    OtherNotes,
    keep_record,
    record_facts,
    record_file,
    recorded,
    replayed,
    teacher_manner,
)
from icdrat.rationale.llm.server import Server, batch, facts, plan, quoted
from icdrat.rationale.llm.store import Store, read_batch
from icdrat.types import BadInput, Note, SpanOutsideNote, check_inside

LARGE = dict(large_zero_shot=0, large_few_shot=5)

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
    names |= {f"codiesp.{w}.{k}" for w in LARGE for k in ("offsets.jsonl.gz", "json")}
    assert {f.name for f in RECORDS.iterdir()} == names


# ---- the large model ----


@pytest.mark.parametrize("way", LARGE)
def test_the_large_model_s_record_has_places_no_text_and_says_what_it_cannot_say(way):
    rows = [row for _, row in read_lines(record_file("codiesp", way, "offsets"), ["note_id", "model", "date"])]
    assert all(set(r) <= PLACES and all(isinstance(x, int) for s in r["spans"] for x in s) for r in rows)
    assert {r["source"] for r in rows} == {f"llm_{way}"} and {r["level"] for r in rows} == {"mention"}
    told, grounding = record_facts("codiesp", way)
    assert told["asked_with"]["n_shots"] == LARGE[way] and told["prompt_sha256"] == load_prompt("quotes").sha256
    assert (told["licence"], told["language"]) == ("CC BY 4.0", "es")
    assert len(told["limits"]) >= 4 and told["asked_how"] and told["date"] >= "2026"
    assert (grounding.asked, grounding.without_evidence) == (len(rows), sum(not r["spans"] for r in rows))
    assert grounding.notes == len({r["note_id"] for r in rows})


@pytest.mark.parametrize("way", LARGE)
def test_the_package_and_the_source_point_to_the_same_places(way, data_folder):
    source = data_folder / "codiesp_llm" / f"{way.removeprefix('large_')}.offsets.jsonl.gz"
    if not source.is_file():
        pytest.skip("no codiesp_llm beside codiesp")
    places = [[(r.note_id, r.code, r.spans) for r in rs] for rs in (recorded("codiesp", way), read_rationales(source))]
    assert places[0] == places[1]


@pytest.mark.parametrize("way", LARGE)
def test_the_large_model_s_places_are_about_codes_of_their_notes_at_any_level(way, data_folder):
    notes = codiesp(data_folder / "codiesp")
    found = recorded("codiesp", way, notes.notes)
    assert all(r.code in notes.codes[r.note_id] for r in found)
    coarse, dev = to_level(notes, 3), notes.split("test")
    threes = recorded("codiesp", way, dev.notes, level=3)
    assert all(r.code in coarse.codes[r.note_id] for r in threes)
    assert {r.note_id for r in threes} <= set(dev.codes)
    assert threes == united([r for r in found if r.note_id in dev.codes], 3)


def refused(kind, why, *asked, **options):
    "One line, and no word of a note"
    with pytest.raises(kind, match=why) as e:
        recorded(*asked, **options)
    assert isinstance(e.value, BadInput) and "\n" not in str(e.value)


def test_a_stranger_is_told_what_is_wrong_in_one_line(tmp_path):
    first = recorded("codiesp", "large_few_shot")[0].note_id
    refused(OtherNotes, "none of its notes", "codiesp", "large_few_shot", vignettes().notes)
    refused(OtherNotes, "in 'en'", "codiesp", "large_few_shot", [Note(first, "x" * 10**5)])
    refused(SpanOutsideNote, first, "codiesp", "large_few_shot", [Note(first, "corta", language="es")])
    refused(NoRecord, "there are codiesp.large_few_shot", "codiesp", "huge")
    refused(NoRecord, "there are none", "codiesp", "large_few_shot", folder=tmp_path)
    refused(BadInput, "level 4", "codiesp", "large_few_shot", level=4)
    with pytest.raises(MissingFile, match="keep_record"):
        record_facts("codiesp", "huge")


# ---- a record of any model ----


@pytest.fixture
def asked_by_batch(tmp_path):
    "A run over two vignettes whose answers came back as a batch: first the folder, then what `quoted` needs"
    notes, server, manner = head(vignettes().split("test"), 2), Server("http://127.0.0.1/v1", "any"), Manner()
    batch(tmp_path / "q.jsonl", notes.notes, notes.codes, server, manner)
    lines = []
    for q, _, key in plan(notes.notes, notes.codes, server, manner).asked:
        said = [dict(code=c.value, quotes=[notes.note(q.note_id).text[:12].strip(), "nowhere at all"]) for c in q.codes]
        message = dict(role="assistant", content=json.dumps(dict(rationales=said)))
        body = dict(choices=[dict(message=message, finish_reason="stop")])
        lines.append(json.dumps(dict(custom_id=key, response=dict(status_code=200, body=body))))
    (tmp_path / "r.jsonl").write_text("\n".join(lines))
    return notes, server, manner


def run(tmp_path, notes, server, manner):
    with Store(tmp_path / "answers") as kept:
        return quoted(notes.notes, notes.codes, server, manner, kept, offline=True, progress=False)


def test_what_comes_back_from_a_batch_becomes_a_record_that_is_read_like_ours(tmp_path, asked_by_batch):
    notes, server, manner = asked_by_batch
    with Store(tmp_path / "answers") as kept:
        read_batch(tmp_path / "r.jsonl", kept)
    found = run(tmp_path, *asked_by_batch)
    about = facts(found, server, manner)
    files = keep_record(tmp_path, "mine", "zero", found, about, licence="CC0")
    again = recorded("mine", "zero", notes.notes, folder=tmp_path)
    assert [(r.note_id, r.code, r.spans) for r in again] == [(r.note_id, r.code, r.spans) for r in found.rationales]
    assert {r.source for r in again} == {"llm_zero"}
    told, grounding = record_facts("mine", "zero", tmp_path)
    assert told == about | dict(licence="CC0")
    assert grounding.ungrounded == found.grounding.ungrounded == sum(map(len, notes.codes.values()))
    first = [f.read_bytes() for f in files]
    keep_record(tmp_path, "mine", "zero", found, about, licence="CC0")
    assert [f.read_bytes() for f in files] == first


def test_an_unfinished_run_or_a_name_that_is_a_path_leaves_no_record(tmp_path, asked_by_batch):
    (tmp_path / "half.jsonl").write_text((tmp_path / "r.jsonl").read_text().splitlines()[0])
    with Store(tmp_path / "answers") as kept:
        read_batch(tmp_path / "half.jsonl", kept)
    found = run(tmp_path, *asked_by_batch)
    before = set(tmp_path.iterdir())
    with pytest.raises(BadInput, match="no answer yet"):
        keep_record(tmp_path, "mine", "zero", found, {})
    with pytest.raises(BadInput, match="letters"):
        keep_record(tmp_path, "../mine", "zero", found, {})
    assert set(tmp_path.iterdir()) == before
