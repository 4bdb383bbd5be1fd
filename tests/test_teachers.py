"Teachers in one table: what they say stays as it is, mixtures are votes, and noise is what was planted."

import json
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from icdrat.codes import icd
from icdrat.data.corpus import build, codes_among, to_level, united
from icdrat.data.exchange import BadLine, Notice, read_rationales, read_weighted, write_rationales
from icdrat.data.synth import synthesise
from icdrat.learning.student import NoLesson, lessons
from icdrat.learning.teachers import (
    QUALITIES,
    BadLessons,
    BadWeight,
    WrongTeacher,
    agreement_weights,
    as_rationales,
    consistency_weights,
    dictionary,
    grounding_weights,
    intersection,
    lesson_table,
    noisy,
    quality,
    read_lessons,
    union,
    vote,
    weighted,
    write_lessons,
)
from icdrat.rationale.llm.grounding import agreement
from icdrat.rationale.llm.store import Asked, Reply, gather
from icdrat.text import spans_to_mask, words
from icdrat.types import BadInput, Note, Rationale, RepeatedRationale, Span, SpanOutsideNote

SHARES = (0.1, 0.3, 0.6)


@pytest.fixture(scope="module")
def corpus():
    return synthesise(60, progress=False)


@pytest.fixture(scope="module")
def truth(corpus):
    return list(corpus.split("train").gold)


def named(rationales, source):
    return [replace(r, source=source) for r in rationales]


@pytest.fixture(scope="module")
def table(corpus, truth):
    notes = corpus.split("train").notes
    made = [named(noisy(truth, notes, s, np.random.default_rng(k)), f"m{k}") for k, s in enumerate(SHARES)]
    return lesson_table(sum(made, named(truth, "human")), corpus)


def marked(rationales, corpus):
    "The marked words by pair"
    offsets = {n.id: words(n.text) for n in corpus.notes}
    return {(r.note_id, r.code): spans_to_mask(r.spans, offsets[r.note_id]) for r in rationales}


# ---- one table ----


def test_a_table_gives_back_what_was_put_in(corpus, truth, table):
    assert as_rationales(table, "human") == named(truth, "human")
    assert len(as_rationales(table)) == 4 * len(truth) and (table.weight == 1).all()


def test_what_is_about_another_corpus_or_level_or_lies_outside_is_refused_in_one_line(corpus, truth):
    shorter = replace(truth[0], spans=[Span(0, 10**6)])
    cases = {
        (WrongTeacher, "another corpus"): [replace(r, note_id=f"x{r.note_id}") for r in truth],
        (WrongTeacher, "another level"): united(truth, 3),
        (WrongTeacher, "none of 1"): [replace(truth[0], code=icd("Z99.81"))],
        (SpanOutsideNote, "ends after"): [shorter],
        (RepeatedRationale, "answers twice"): [*truth, truth[0]],
    }
    for (kind, why), given in cases.items():
        with pytest.raises(kind, match=why) as e:
            lesson_table(given, corpus)
        assert "\n" not in str(e.value) and isinstance(e.value, BadInput)


def test_full_codes_are_no_lessons_for_categories_even_where_some_are_both(corpus, truth):
    coarse = to_level(corpus, 3)
    assert any(len(r.code.value) == 3 for r in truth), "some full codes are categories"
    with pytest.raises(WrongTeacher, match="united"):
        lesson_table(truth, coarse)
    assert as_rationales(lesson_table(united(truth, 3), coarse)) == united(truth, 3)
    assert list(coarse.split("train").gold) == united(truth, 3)


def test_one_wrong_teacher_among_many_is_named(corpus, truth):
    with pytest.raises(WrongTeacher, match="^b:"):
        lesson_table(named(truth, "a") + named(united(truth, 3), "b"), corpus)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1, "much", None, True])
def test_a_weight_that_is_no_number_from_0_is_refused(corpus, truth, weight):
    with pytest.raises(BadWeight, match=truth[0].note_id):
        lesson_table(truth[:1], corpus, [weight])
    with pytest.raises(BadWeight, match="2 weights for 1"):
        lesson_table(truth[:1], corpus, [1, 1])


def test_a_quote_that_is_not_in_the_note_never_teaches():
    note = Note("n", "Chest pain since Monday.")
    code = icd("R07.9")
    corpus = build("one", [dict(note_id="n", text=note.text, codes=[code], split="train")])
    said = json.dumps({"rationales": [{"code": "R07.9", "quotes": ["chest pain", "crushing", "left arm"]}]})
    asked = [Asked("n", (code,), Span(0, len(note)), 0, Reply("k", said))]
    found = gather([note], corpus.codes, asked)
    [row] = lesson_table(found.rationales, corpus).itertuples()
    assert row.spans == (Span(0, 10),)
    assert grounding_weights(found, [note]) == {("n", code): 1 / 3}
    nothing = gather([note], corpus.codes, [replace(asked[0], reply=Reply("k", said.replace("chest pain", "no")))])
    assert not lesson_table(nothing.rationales, corpus).spans[0]
    with pytest.raises(NoLesson):
        lessons(lesson_table(nothing.rationales, corpus), corpus, [code])


# ---- mixtures ----


def test_a_vote_marks_the_words_that_enough_sources_mark(corpus, table):
    sources = list(table.source.unique())
    masks = [marked(as_rationales(table, s), corpus) for s in sources]
    for k in range(1, len(sources) + 1):
        found = marked(as_rationales(vote(table, corpus, k)), corpus)
        for pair, mask in found.items():
            np.testing.assert_array_equal(mask, sum(m[pair].astype(int) for m in masks) >= k)


def test_union_and_intersection_are_the_ends_of_the_vote(corpus, table):
    pairs = [(union, 1), (intersection, 4)]
    for mixed, k in pairs:
        assert list(mixed(table, corpus).spans) == list(vote(table, corpus, k).spans)
    two = ["m0", "m1"]
    assert list(intersection(table, corpus, two).spans) == list(vote(table, corpus, 2, two).spans)
    for k in (0, 5):
        with pytest.raises(BadLessons, match="ask for 1 to 4"):
            vote(table, corpus, k)
    with pytest.raises(BadLessons, match="no lesson of 'x'"):
        union(table, corpus, ["x", "m0"])


def test_a_source_that_was_not_asked_has_no_vote(corpus, truth):
    some = lesson_table(named(truth, "a") + named(truth[:1], "b"), corpus)
    both = intersection(some, corpus)
    assert sum(map(bool, both.spans)) == 1 and len(both) == len(truth)


# ---- weights ----


def test_agreement_is_1_with_oneself_symmetric_and_0_with_silence(corpus, truth, table):
    there = {(r.note_id, r.code): float(bool(r.spans)) for r in truth}
    assert agreement_weights(table, corpus, "human", "human") == there
    ab, ba = (agreement_weights(table, corpus, *p) for p in (("m0", "m1"), ("m1", "m0")))
    assert ab == ba and all(0 <= w <= 1 for w in ab.values())
    alone = lesson_table(named(truth, "a") + named(truth[:1], "b"), corpus)
    assert sum(agreement_weights(alone, corpus, "a", "b").values()) == 1


def test_consistency_is_the_mean_agreement_of_the_words_that_most_answers_mark():
    note, code = Note("n", "one two three"), icd("R07.9")
    e = agreement(note, code, [[Span(0, 7)], [Span(0, 3)], [Span(0, 3)]])
    assert consistency_weights([e]) == {("n", code): 1.0}
    assert consistency_weights([e], share=0.2)["n", code] == pytest.approx(2 / 3)
    assert consistency_weights([agreement(note, code, [[], []])]) == {("n", code): 0.0}


def test_weights_multiply_and_an_unknown_pair_gets_none(corpus, table):
    first = (table.note_id[0], table.code[0])
    once = weighted(table, "human", {first: 0.5}, "half")
    assert once.weight.sum() == 0.5 and set(once.source) == {"half"}
    assert weighted(once, "half", {first: 0.5}, "quarter").weight.sum() == 0.25
    with pytest.raises(BadLessons, match="no lesson of 'x'"):
        weighted(table, "x", {}, "y")


# ---- coverage and noise ----


def test_the_truth_covers_what_is_marked_and_is_not_noisy(corpus, table):
    q = quality(table, corpus, n_draws=50).set_index(["source", "metric"]).value
    train = corpus.split("train")
    assert (q["human"][["precision", "recall", "f1", "f1_all"]] == 1).all()
    assert q["human", "coverage"] == sum(bool(r.spans) for r in train.gold) / sum(map(len, train.codes.values()))
    f1 = [q[f"m{k}", "f1"] for k in range(3)]
    assert f1 == sorted(f1, reverse=True) and f1[0] < 1


def test_quality_looks_at_training_notes_and_at_the_codes_asked_for(corpus, table):
    everywhere = lesson_table(named(corpus.gold, "human"), corpus)
    of = lambda t, c=None: quality(t, corpus, c, n_draws=50).query("source == 'human'").reset_index(drop=True)  # noqa: E731
    pd.testing.assert_frame_equal(of(everywhere), of(table))
    code = next(iter(corpus.split("train").codes.values()))[0]
    few = of(table, [code])
    assert few.n_lessons[0] == sum(bool(r.spans) for r in corpus.split("train").gold if r.code == code)
    assert few.bare_notes[0] == few.n_notes[0] - few.n_lessons[0]


def test_equal_weights_change_no_noise_and_zero_weights_are_no_lessons(corpus, table):
    m1 = table[table.source == "m1"]
    plain, half = (quality(m1.assign(weight=w), corpus, n_draws=50) for w in (1.0, 0.5))
    pd.testing.assert_frame_equal(plain, half)
    none = quality(m1.assign(weight=0.0), corpus, n_draws=50).set_index("metric")
    assert none.value["coverage"] == 0 and none.value["f1_all"] == 0 and np.isnan(none.value["precision"])
    assert none.bare_notes["coverage"] == len(corpus.split("train"))


def test_weighing_by_agreement_with_the_truth_makes_lessons_better(corpus, table):
    better = weighted(table, "m2", agreement_weights(table, corpus, "m2", "human"), "better")
    q = quality(pd.concat([table, better]), corpus, n_draws=50).set_index(["source", "metric"]).value
    assert q["better", "f1"] > q["m2", "f1"]


def test_without_expert_evidence_there_is_coverage_and_no_noise(corpus, table):
    bare = replace(corpus, gold=())
    q = quality(table, bare, n_draws=50).set_index(["source", "metric"]).value
    assert q["human", "coverage"] > 0 and q["human"][list(QUALITIES)[1:]].isna().all()


def test_a_dictionary_knows_a_note_from_the_others_only(corpus):
    train = corpus.split("train")
    codes = sorted({c for cs in train.codes.values() for c in cs})
    found = dictionary(corpus, codes, n_folds=len(train))
    assert len(found) == sum(map(len, codes_among(train, codes).values()))
    once = [c for c in codes if sum(c in cs for cs in train.codes.values()) == 1]
    assert once and not any(r.spans for r in found if r.code in once)
    with pytest.raises(BadLessons):
        dictionary(corpus, codes, n_folds=1)


# ---- noise ----


def test_noise_of_0_changes_nothing_and_of_1_every_span(corpus, truth):
    notes = corpus.split("train").notes
    assert noisy(truth, notes, 0, np.random.default_rng(0)) == truth
    wrong = noisy(truth, notes, 1, np.random.default_rng(0))
    kept = [s for a, b in zip(truth, wrong) for s in a.spans if s in b.spans]
    assert len(kept) < 0.05 * sum(map(len, truth))  # a span may be moved to where it was, or cannot be extended


@pytest.mark.parametrize("seed", range(3))
def test_noise_is_the_share_that_was_asked_for_and_the_same_for_one_seed(corpus, truth, seed):
    notes = corpus.split("train").notes
    twice = [noisy(truth, notes, 0.4, np.random.default_rng(seed)) for _ in range(2)]
    assert twice[0] == twice[1]
    assert [(r.note_id, r.code, r.source) for r in twice[0]] == [(r.note_id, r.code, r.source) for r in truth]
    kept = sum(s in b.spans for a, b in zip(truth, twice[0]) for s in a.spans)
    assert kept / sum(map(len, truth)) == pytest.approx(0.6, abs=0.12)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_of_noise_lies_between_0_and_1(corpus, truth, share):
    with pytest.raises(BadLessons):
        noisy(truth, corpus.notes, share, np.random.default_rng(0))


# ---- in files and in training ----


def test_weights_travel_in_the_lines_of_rationales(corpus, truth, tmp_path):
    given = lesson_table(truth, corpus, np.linspace(0, 2, len(truth)))
    write_lessons(tmp_path / "t.jsonl", given)
    pd.testing.assert_frame_equal(read_lessons(tmp_path / "t.jsonl", corpus), given)
    assert [w for _, w in read_weighted(tmp_path / "t.jsonl")] == list(given.weight)


def test_a_reader_of_rationales_is_told_of_weights_and_reads_lines_without_as_before(truth, tmp_path):
    write_rationales(tmp_path / "plain.jsonl", truth)
    assert "weight" not in (tmp_path / "plain.jsonl").read_text()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_rationales(tmp_path / "plain.jsonl") == truth
    write_rationales(tmp_path / "w.jsonl", truth, weights=[0.5] + [1] * (len(truth) - 1))
    with pytest.warns(Notice, match="weights of 1 rationales"):
        assert read_rationales(tmp_path / "w.jsonl") == truth


@pytest.mark.parametrize("said", ['"much"', "NaN", "Infinity", "-1", "null", "true", "[1]"])
def test_a_weight_in_a_file_that_is_no_number_is_a_bad_line(tmp_path, said):
    line = '{"note_id": "n", "code": "I10", "spans": [[0, 2]], "weight": %s}\n' % said
    (tmp_path / "t.jsonl").write_text(line)
    for read in (read_rationales, read_weighted):
        with pytest.raises(BadLine, match="line 1: weight"):
            read(tmp_path / "t.jsonl")


def test_lessons_of_one_source_teach_and_several_are_to_be_chosen_from(corpus, truth, table):
    codes = sorted({r.code for r in truth})
    one = table[table.source == "human"]
    assert lessons(one, corpus, codes) == lessons(named(truth, "human"), corpus, codes)
    assert len(lessons(one.assign(weight=[0.0] * 5 + [1.0] * (len(one) - 5)), corpus, codes)) < len(truth)
    with pytest.raises(NoLesson, match="human, m0, m1, m2"):
        lessons(table, corpus, codes)
    with pytest.raises(BadLessons, match="no column 'code'"):
        lessons(one.drop(columns="code"), corpus, codes)


def test_a_rationale_with_nothing_marked_is_a_row_and_no_lesson(corpus):
    i, codes = next(iter(corpus.split("train").codes.items()))
    table = lesson_table([Rationale(i, codes[0], (), "t")], corpus)
    q = quality(table, corpus, n_draws=50).set_index("metric")
    assert len(table) == 1 and q.value["coverage"] == 0 and q.n_lessons["coverage"] == 0
