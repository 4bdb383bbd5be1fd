"Offsets survive everything: accents, line endings, emoji, odd spaces."

import re

import numpy as np
import pytest

from icdrat.text import (
    EmptyQuote,
    blank,
    char_mask,
    find_quote,
    fold,
    mark,
    mask_to_spans,
    merge_spans,
    readable,
    sentences,
    slices,
    spans_to_mask,
    words,
)
from icdrat.types import Code, Note, Span, SpanOutsideNote

CODE = Code("icd10cm", "E11.9")
PIECES = [
    "Paciente",
    "náuseas",
    "T2DM",
    "🙂",
    "👩‍⚕️",
    "\r\n",
    " ",
    "  ",
    "\u00a0",
    "...",
    "ﬁebre",
    "İ",
    "ß",
    "e\u0301",
    "0.5",
    "-",
    "Ñ",
    "\t",
    "中文",
]


def texts(n=50):
    rng = np.random.default_rng(0)
    return ["".join(rng.choice(PIECES, rng.integers(1, 30))) for _ in range(n)]


@pytest.mark.parametrize("text", texts())
def test_words_are_disjoint_in_order_and_miss_only_white_space(text):
    offsets = words(text)
    assert (offsets[1:, 0] >= offsets[:-1, 1]).all()
    assert blank(text, [Span(int(s), int(e)) for s, e in offsets]).strip() == ""


@pytest.mark.parametrize("text", texts())
def test_a_mask_of_words_survives_the_way_to_spans_and_back(text):
    offsets, rng = words(text), np.random.default_rng(len(text))
    for _ in range(20):
        mask = rng.random(len(offsets)) < 0.4
        np.testing.assert_array_equal(spans_to_mask(mask_to_spans(mask, offsets), offsets), mask)


@pytest.mark.parametrize("text", texts())
def test_folding_and_blanking_keep_the_length(text):
    assert len(fold(text)) == len(text)
    assert len(blank(text, [Span(0, len(text))])) == len(text)
    assert fold(fold(text)) == fold(text)


@pytest.mark.parametrize("text", texts())
def test_every_word_is_found_where_it_stands(text):
    for (s, e), w in zip(words(text), slices(text, words(text))):
        if w.isalnum():
            assert Span(int(s), int(e)) in find_quote(text, w)


def test_spans_touching_a_word_mark_it_and_touching_white_space_mark_nothing():
    text = "on metformin now"
    assert spans_to_mask([Span(5, 6)], words(text)).tolist() == [False, True, False]
    assert not spans_to_mask([Span(2, 3)], words(text)).any()


@pytest.mark.parametrize("seed", range(20))
def test_merged_spans_cover_the_same_characters_and_are_apart(seed):
    rng = np.random.default_rng(seed)
    spans = [Span(int(s), int(s + n)) for s, n in zip(rng.integers(0, 80, 12), rng.integers(1, 15, 12))]
    merged = merge_spans(spans)
    np.testing.assert_array_equal(char_mask(merged, 100), char_mask(spans, 100))
    assert all(a.end < b.start for a, b in zip(merged, merged[1:]))


def test_a_quote_is_found_up_to_case_accents_and_white_space_and_not_inside_a_word():
    text = "No presenta NÁUSEAS\r\ny vómitos. T2DM."
    [found] = find_quote(text, "náuseas y vomitos")
    assert text[found.start : found.end] == "NÁUSEAS\r\ny vómitos"
    assert find_quote(text, "DM") == [] and find_quote(text, "fiebre") == []
    assert len(find_quote("pain, PAIN, pain", "pain")) == 2, "exact places win over folded ones"


def test_a_quote_of_special_characters_is_taken_literally():
    assert find_quote("O2 sat 93% (RA)", "93% (RA)") == [Span(7, 15)]
    with pytest.raises(EmptyQuote):
        find_quote("text", " \n")


def test_a_mark_past_the_end_is_refused_without_a_word_of_the_note():
    with pytest.raises(SpanOutsideNote) as e:
        mark(Note("n1", "secret words"), CODE, [Span(0, 99)], "x")
    assert "secret" not in str(e.value) and "n1" in str(e.value)


HEADINGS = [
    "HPI:\n",
    "# CHF: ",
    "1. ",
    "- ",
    "Mr. ___ was seen by Dr. Smith. ",
    "Cr 2.4, K 5.1\n\n",
    "No chest pain.\n",
    "EF was 25%. LVEF 30%! ",
    "Given 1.5 L i.v. fluids, e.g. saline. ",
    "náuseas y vómitos\r\n",
    "a long line of prose that is wrapped at about seventy characters and goes\non in the next one. ",
]


@pytest.mark.parametrize("seed", range(30))
def test_sentences_part_a_text_without_losing_a_word(seed):
    rng = np.random.default_rng(seed)
    text = "".join(rng.choice(HEADINGS, 12))
    places = sentences(text)
    assert (places[1:, 0] >= places[:-1, 1]).all() and (places[:, 0] < places[:, 1]).all()
    gaps = zip([0, *places[:, 1]], [*places[:, 0], len(text)])
    assert not "".join(text[a:b] for a, b in gaps).strip()
    assert all(text[s:e] == text[s:e].strip() for s, e in places)


def test_an_abbreviation_and_a_decimal_end_no_sentence():
    text = "Seen by Dr. Smith vs. Mrs. Jones at 5 p.m. Monday. Cr 2.4. J. Doe agreed."
    assert [text[s:e] for s, e in sentences(text)] == [
        "Seen by Dr. Smith vs. Mrs. Jones at 5 p.m. Monday.",
        "Cr 2.4.",
        "J. Doe agreed.",
    ]


def test_wrapped_prose_is_one_sentence_and_a_list_is_many():
    prose = "He was treated with intravenous furosemide and his oxygen\nrequirement fell over the next three days."
    assert len(sentences(prose)) == 1
    assert len(sentences("Aspirin 81 mg daily\nMetoprolol 25 mg\nLisinopril 10 mg")) == 3
    assert len(sentences(prose.split("\n")[0] + "\n- and an item")) == 2
    assert sentences("").shape == sentences(" \n ").shape == (0, 2)


@pytest.mark.parametrize("seed", range(20))
def test_words_are_those_of_the_regular_expression(seed):
    rng = np.random.default_rng(seed)
    text = "".join(
        map(
            chr,
            rng.choice([9, 10, 13, 32, 45, 46, 48, 65, 95, 97, 160, 233, 769, 8217, 8232, 0x1F642, 0xD800, 0xBD], 200),
        )
    )
    assert [tuple(p) for p in words(text)] == [m.span() for m in re.finditer(r"\w+|[^\w\s]", text)]
    assert [tuple(p) for p in readable(text)] == [
        m.span() for m in re.finditer(r"\w+", text) if any(map(str.isalnum, m[0]))
    ]
