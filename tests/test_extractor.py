"The extractor beside the coder: it learns from others' marks only, knows codes it never met, and comes back from disk."

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from icdrat.codes import icd
from icdrat.data.exchange import BrokenFile, MissingFile
from icdrat.data.outputs import ForeignFolder
from icdrat.data.synth import synthesise
from icdrat.learning import extractor as module
from icdrat.learning.extractor import (
    NotAnExtractor,
    extracted,
    features,
    learned,
    lineage,
    load_extractor,
    read,
    second_look,
    sums,
    train_extractor,
)
from icdrat.learning.student import NoLesson
from icdrat.learning.teachers import lesson_table
from icdrat.rationale.attribution.explain import NoCodesFor
from icdrat.rationale.select import choose, select
from icdrat.text import fold, slices, spans_to_mask, words
from icdrat.types import BadInput, Code, Note

TEXTS = ["", " ", "…", "No.", "Diabetes, diabetes — DIABETES!", "a\r\nb\r\nΔ👩‍⚕️ 5 mg", "x " * 300]


@pytest.fixture(scope="module")
def corpus():
    return synthesise(40, progress=False)


@pytest.fixture(scope="module")
def teacher(corpus):
    return [replace(r, source="teacher") for r in corpus.gold]


@pytest.fixture(scope="module")
def taught(corpus, teacher):
    return train_extractor(corpus, teacher, seed=0)


@pytest.fixture(scope="module")
def lessons_of(corpus, teacher):
    notes = list(corpus.split("train").notes)[:8]
    pages = [read(n.text) for n in notes]
    codes = [corpus.codes[n.id] for n in notes]
    marked = [
        {r.code: spans_to_mask(r.spans, p.offsets) for r in teacher if r.note_id == n.id} for n, p in zip(notes, pages)
    ]
    return pages, codes, marked


# ---- reading ----


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_is_read_word_by_word(text):
    page = read(text)
    n = len(words(text))
    np.testing.assert_array_equal(page.offsets, words(text))
    assert page.looks.shape == (len(module.LOOKS), n) and np.isfinite(page.looks).all()
    assert {len(g) for g in page.grams.values()} == {n} and page.phrases.shape[1] == n


def test_case_and_accents_make_no_difference_to_grams():
    one, other = read("Hipertensión ARTERIAL crónica"), read("hipertension arterial cronica")
    for kind in one.grams:
        np.testing.assert_array_equal(one.grams[kind], other.grams[kind])


def test_the_labels_of_a_code_grow_wider():
    assert lineage(icd("E11"))[:2] == ("icd10cm E11", "icd10cm E11")
    assert set(lineage(icd("E11.9"))) & set(lineage(icd("E13.9"))) == {"icd10cm E1…", "icd10cm E…", "…"}


# ---- a note does not learn from itself ----


@pytest.mark.parametrize("left_out", range(4))
def test_taking_a_note_out_is_the_same_as_never_having_had_it(lessons_of, left_out):
    whole = learned(*lessons_of)
    rest = learned(*([x for i, x in enumerate(of) if i != left_out] for of in lessons_of))
    page, codes, own = (of[left_out] for of in lessons_of)
    taken, names = features(whole, page, codes, own)
    never, same = features(rest, page, codes)
    assert names == same
    for k, name in enumerate(names):
        if "company" not in name:  # smoothed by the number of all notes
            np.testing.assert_allclose(taken[..., k], never[..., k], atol=1e-5, err_msg=name)


def test_marks_outside_the_training_notes_teach_nothing(corpus, teacher, taught):
    train = corpus.split("train").codes
    alone = train_extractor(corpus, [r for r in teacher if r.note_id in train], seed=0)
    note = corpus.split("test").notes[0]
    for a, b in zip(taught([note], corpus.codes), alone([note], corpus.codes), strict=True):
        np.testing.assert_array_equal(a.scores, b.scores)


# ---- trees ----


@pytest.mark.parametrize("seed", range(5))
def test_trees_as_numbers_say_what_scikit_learn_says(seed):
    rng = np.random.default_rng(seed)
    X = rng.integers(0, 20, (800, 6)).astype(np.float32) / 7
    y = X[:, 0] * X[:, 1] + rng.normal(size=800) > 2
    model = HistGradientBoostingClassifier(max_iter=12, early_stopping=False).fit(X, y)
    np.testing.assert_allclose(sums(module._as_numbers(model), X), model.decision_function(X), atol=1e-4)


# ---- scores ----


def test_scores_are_probabilities_for_every_word_and_pair(corpus, taught):
    test = corpus.split("test")
    found = taught(test.notes, test.codes)
    assert [(e.note_id, e.code) for e in found] == [(n.id, c) for n in test.notes for c in test.codes[n.id]]
    for e in found:
        assert e.method == "extractor" and len(e) == len(words(corpus.note(e.note_id).text))
        assert (0 <= e.scores).all() and (e.scores <= 1).all()


def test_planted_evidence_is_found_in_new_notes(corpus, teacher, taught):
    validation, test = corpus.split("validation"), corpus.split("test")
    gold = [r for r in teacher if r.note_id in validation.codes]
    rule = choose(taught(validation.notes, validation.codes), gold, validation.notes, ["score"])
    truth = {(r.note_id, r.code): r.spans for r in test.gold}
    hits = chosen = marked = 0
    for e in taught(test.notes, test.codes):
        if (e.note_id, e.code) not in truth:
            continue
        p = spans_to_mask(select(e, corpus.note(e.note_id), rule).spans, e.offsets)
        g = spans_to_mask(truth[e.note_id, e.code], e.offsets)
        hits, chosen, marked = hits + (p & g).sum(), chosen + p.sum(), marked + g.sum()
    assert rule.method == "extractor" and 2 * hits / (chosen + marked) > 0.6


@pytest.mark.parametrize("known, unknown", [("E11.9", "E11.8"), ("I10", "I16.9"), ("E11.9", "E13.9")])
def test_a_code_never_seen_backs_off_to_its_neighbours(corpus, taught, known, unknown):
    known, unknown = icd(known), icd(unknown)
    assert unknown not in {c for cs in corpus.codes.values() for c in cs}
    truth = [r for r in corpus.split("test").gold if r.code == known]
    assert truth
    inside, outside = [], []
    for r in truth:
        [e] = taught([corpus.note(r.note_id)], {r.note_id: [unknown]})
        there = spans_to_mask(r.spans, e.offsets)
        inside.append(e.scores[there].mean())
        outside.append(e.scores[~there].mean())
    assert np.mean(inside) > 3 * np.mean(outside)


@pytest.mark.parametrize("code", [icd("Z99.2"), Code("icd10cm", "X"), Code("icd10pcs", "0DTJ4ZZ")])
@pytest.mark.parametrize("text", TEXTS)
def test_any_code_can_be_asked_of_any_text(taught, code, text):
    [e] = taught([Note("n", text)], {"n": [code]})
    assert len(e) == len(words(text)) and np.isfinite(e.scores).all()


def test_nothing_asked_is_nothing_answered(corpus, taught):
    note = corpus.notes[0]
    assert taught([note], {note.id: []}) == []
    with pytest.raises(NoCodesFor, match=note.id):
        extracted(taught, [note], {})


def test_the_second_look_has_its_number_of_features(lessons_of):
    page = lessons_of[0][0]
    assert second_look(np.zeros((2, len(page.offsets)), np.float32), page).shape[2] == module.N_SECOND


# ---- folders ----


def test_a_reloaded_extractor_gives_equal_scores(corpus, taught, tmp_path):
    taught.save(tmp_path / "x")
    again = load_extractor(tmp_path / "x")
    again.save(tmp_path / "x")  # an extractor may replace an extractor
    test = corpus.split("test")
    for a, b in zip(taught(test.notes, test.codes), again(test.notes, test.codes), strict=True):
        np.testing.assert_array_equal(a.scores, b.scores)
    assert repr(again) == repr(taught)


def test_no_word_of_a_note_is_in_the_folder(corpus, taught, tmp_path):
    taught.save(tmp_path / "x")
    kept = b"".join(f.read_bytes() for f in (tmp_path / "x").iterdir()).lower()
    note = corpus.split("train").notes[0].text
    said = {w for w in slices(fold(note), words(note)) if len(w) > 7}
    assert len(said) > 10 and not [w for w in said if w.encode() in kept]


def cut_off(folder):
    file = folder / "extractor.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def other_features(folder):
    about = json.loads((folder / "extractor.json").read_text())
    (folder / "extractor.json").write_text(json.dumps(about | dict(features=about["features"][::-1])))


def fewer_labels(folder):
    about = json.loads((folder / "extractor.json").read_text())
    (folder / "extractor.json").write_text(json.dumps(about | dict(labels=about["labels"][:-1])))


def no_json(folder):
    (folder / "extractor.json").write_text("[1, 2")


def a_list(folder):
    (folder / "extractor.json").write_text("[]")


@pytest.mark.parametrize("harm", [cut_off, other_features, fewer_labels, no_json, a_list])
def test_a_changed_folder_is_refused_in_one_line(taught, tmp_path, harm):
    taught.save(tmp_path / "x")
    harm(tmp_path / "x")
    with pytest.raises(BrokenFile, match="train it again") as e:
        load_extractor(tmp_path / "x")
    assert "\n" not in str(e.value)


def test_what_is_no_extractor_is_refused(taught, tmp_path):
    with pytest.raises(MissingFile, match="no such folder"):
        load_extractor(tmp_path / "none")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(NotAnExtractor, match="extractor.json"):
        load_extractor(tmp_path / "other")
    with pytest.raises(ForeignFolder):
        taught.save(tmp_path / "other")
    assert (tmp_path / "other" / "letter.txt").read_text() == "dear"


# ---- who can teach ----


def test_a_table_of_lessons_teaches_as_its_rationales_do(corpus, teacher, taught):
    table = lesson_table(teacher, corpus)
    note = corpus.split("test").notes[0]
    for a, b in zip(train_extractor(corpus, table)([note], corpus.codes), taught([note], corpus.codes), strict=True):
        np.testing.assert_array_equal(a.scores, b.scores)


@pytest.mark.parametrize("kind", ["none", "other level", "one note", "validation only", "empty"])
def test_a_teacher_that_cannot_teach_is_refused_in_one_line(corpus, teacher, kind):
    train = corpus.split("train").codes
    given = dict(
        none=[],
        empty=[replace(r, spans=()) for r in teacher],
    )
    given["other level"] = [replace(r, code=icd(r.code.value[:3])) for r in teacher if "." in r.code.value]
    given["one note"] = [r for r in teacher if r.note_id == next(iter(train))]
    given["validation only"] = [r for r in teacher if r.note_id in corpus.split("validation").codes]
    with pytest.raises(NoLesson) as e:
        train_extractor(corpus, given[kind])
    assert isinstance(e.value, BadInput) and "\n" not in str(e.value)
