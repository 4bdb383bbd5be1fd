"The counts of a data card add up, and what is undefined is never zero."

import numpy as np
import pytest

from icdrat.codes import icd
from icdrat.data.card import card, deciles, markdown, named
from icdrat.data.corpus import build
from icdrat.data.synth import synthesise
from icdrat.types import Code, Rationale, Span


@pytest.fixture(scope="module")
def corpus():
    return synthesise(30, progress=False)


def test_splits_add_up(corpus):
    wide = card(corpus).pivot_table(index=["level", "count"], columns="split", values="value", sort=False)
    for row in [("-", "notes"), ("-", "words"), ("-", "codes"), ("mention", "spans"), ("mention", "rationales")]:
        assert wide.loc[row].drop("all").sum() == wide.loc[row, "all"]


def test_every_span_begins_in_one_tenth(corpus):
    assert deciles(corpus, "mention").sum() == sum(len(r) for r in corpus.gold)


def test_a_code_without_description_has_no_overlap():
    gold = [Rationale("n", Code("icd10pcs", "0DTJ4ZZ"), [Span(0, 3)], "a")]
    corpus = build("p", [dict(note_id="n", text="Cut it.", codes=[gold[0].code], split="test")], gold)
    assert np.isnan(named(corpus.note("n"), gold[0]))
    counts = card(corpus).query("split == 'all'").set_index("count")["value"]
    assert np.isnan(counts["share of words in the description"])
    assert counts["share of codes with evidence"] == 1


def test_empty_rationales_are_counted_and_give_no_numbers():
    gold = [Rationale("n", icd("I10"), [], "a", "context")]
    corpus = build("e", [dict(note_id="n", text="Pt well.", codes=[icd("I10")], split="test")], gold)
    counts = card(corpus).query("split == 'all' and level == 'context'").set_index("count")["value"]
    assert counts["without spans"] == 1 and counts["spans"] == 0 and np.isnan(counts["words per span"])
    assert "–" in markdown(corpus, "open", "invented")


def test_the_page_holds_no_text_of_notes(corpus):
    page = markdown(corpus, "open", "composed")
    assert not any(line in page for n in corpus.notes for line in n.text.splitlines() if len(line) > 12)


def test_the_last_character_is_in_the_last_tenth():
    gold = [Rationale("n", icd("I10"), [Span(0, 1), Span(9, 10), Span(10, 11), Span(99, 100)], "a")]
    corpus = build("d", [dict(note_id="n", text="x" * 100, codes=[icd("I10")], split="test")], gold)
    assert deciles(corpus, "mention").tolist() == [2, 1, 0, 0, 0, 0, 0, 0, 0, 1]
