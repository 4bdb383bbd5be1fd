"The vignettes keep what their card promises: offsets, codes, levels, passes, traps."

import re

import pytest
import simple_icd_10_cm as tabular

from icdrat.codes import icd
from icdrat.data.card import markdown
from icdrat.data.vignettes import FOLDER, LICENCE, PROVENANCE, passes, traps, vignettes
from icdrat.types import LEVELS

CORPUS = vignettes()
TEXT = {n.id: n.text for n in CORPUS.notes}
ALL = {"adjudicated": CORPUS.gold, **{s: [r for r in passes() if r.source == s] for s in ("first", "second")}}


def characters(rationale):
    "What it marks, white space apart"
    text = TEXT[rationale.note_id]
    return {i for s in rationale.spans for i in range(s.start, s.end) if not text[i].isspace()}


def test_they_are_open_and_of_the_promised_size():
    assert len(CORPUS) >= 48 and not CORPUS.restricted and CORPUS.splits == dict(train=12, validation=12, test=28)
    assert all(500 <= len(t.split()) <= 900 for t in TEXT.values())
    assert all(6 <= len(cs) <= 15 and len(set(cs)) == len(cs) for cs in CORPUS.codes.values())


def test_every_code_is_in_the_list_and_can_be_billed():
    for codes in CORPUS.codes.values():
        for c in codes:
            assert icd(c.value) == c and not tabular.get_children(c.value), c


@pytest.mark.parametrize("source", ALL)
def test_every_code_is_answered_at_three_levels_and_every_span_is_whole_words(source):
    answers = {(r.note_id, r.code, r.level): r for r in ALL[source]}
    assert len(answers) == len(ALL[source]) and {r.source for r in ALL[source]} == {source}
    assert set(answers) == {(i, c, level) for i, cs in CORPUS.codes.items() for c in cs for level in LEVELS}
    for r in ALL[source]:
        text = TEXT[r.note_id]
        for s in r.spans:
            assert s.end <= len(text) and text[s.start : s.end].strip() == text[s.start : s.end]
            assert not re.match(r"\w\w", text[max(0, s.start - 1) : s.start + 1] if s.start else "") and not re.match(
                r"\w\w", text[s.end - 1 : s.end + 1]
            )
            assert r.level == "sentence" or (text[s.start] not in ".,;:-)" and text[s.end - 1] not in ".,;:-(")


@pytest.mark.parametrize("source", ALL)
def test_sentences_hold_mentions_and_contexts_which_do_not_meet(source):
    by = {(r.note_id, r.code, r.level): characters(r) for r in ALL[source]}
    for note_id, code, _ in by:
        mention, context, sentence = (by[note_id, code, level] for level in LEVELS)
        assert not mention & context and mention | context <= sentence


def test_the_adjudicator_chose_among_what_the_passes_had_marked():
    marked = {(r.note_id, r.code, s) for r in passes() for s in r.spans}
    gold = [(r.note_id, r.code, s) for r in CORPUS.gold if r.level != "sentence" for s in r.spans]
    # touching spans are joined, so a few are unions of what was marked
    assert sum(g not in marked for g in gold) < 0.01 * len(gold)


def test_what_both_passes_had_marked_stands():
    first, second, gold = (
        {(r.note_id, r.code, r.level): characters(r) for r in ALL[s]} for s in ("first", "second", "adjudicated")
    )
    spans = {k: set(r.spans) for r in passes() if r.source == "second" for k in [(r.note_id, r.code, r.level)]}
    for r in ALL["first"]:
        for s in spans[r.note_id, r.code, r.level] & set(r.spans) if r.level != "sentence" else ():
            assert (
                set(range(s.start, s.end)) - {i for i in range(s.start, s.end) if TEXT[r.note_id][i].isspace()}
                <= gold[r.note_id, r.code, r.level]
            )


def test_difficult_cases_are_there_on_purpose():
    gold = {(r.note_id, r.code, r.level): r for r in CORPUS.gold}
    keys = {k[:2] for k in gold}
    assert sum(not gold[k + ("sentence",)].spans for k in keys) >= 10, "codes without evidence"
    assert sum(not gold[k + ("mention",)].spans and bool(gold[k + ("sentence",)].spans) for k in keys) >= 20, (
        "implicit evidence"
    )
    kinds = [t.kind for t in traps()]
    for kind in ("negated", "family", "ruled_out", "historical", "hypothetical", "other_person"):
        assert kinds.count(kind) >= 6, kind


def test_a_trap_is_no_evidence():
    gold = {(r.note_id, r.code): r for r in CORPUS.gold if r.level == "mention"}
    for t in traps():
        assert t.code not in CORPUS.codes[t.note_id] and (t.note_id, t.code) not in gold
        assert all(s.end <= len(TEXT[t.note_id]) for s in t.spans)


def test_the_card_that_travels_with_them_is_counted_from_them():
    assert (FOLDER / "README.md").read_text(encoding="utf-8") == markdown(CORPUS, LICENCE, PROVENANCE)
    assert "No certified coder" in PROVENANCE
