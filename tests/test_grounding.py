"A quote is evidence only where the note says it; what is not found is counted and kept."

import json

import numpy as np
import pytest
from misbehaving import GOOD, NOTE, TEXT, A, B

from icdrat.data.vignettes import vignettes
from icdrat.rationale.llm.grounding import THRESHOLD, agreement, fuzzy, ground, locate, majority, place, plain
from icdrat.rationale.llm.prompt import Quote
from icdrat.text import sentences, words
from icdrat.types import Note, Span

NOTES = vignettes().split("train").notes


def text_of(spans, text=TEXT):
    return [text[s.start : s.end] for s in spans]


def passage(rng, text, low=3, high=12):
    at = words(text)
    i = rng.integers(len(at) - high)
    return text[at[i, 0] : at[i + rng.integers(low, high), 1]]


@pytest.mark.parametrize("seed", range(10))
def test_a_passage_is_found_where_it_stands(seed):
    rng = np.random.default_rng(seed)
    for note in NOTES[:4]:
        quote = passage(rng, note.text)
        at = note.text.index(quote)
        found, how = place(note.text, quote)
        assert (
            how == "exact"
            and any(s.start <= at < s.end for s in found)
            and set(text_of(found, note.text)) == {quote.strip()}
        )


@pytest.mark.parametrize("seed", range(10))
def test_case_white_space_and_quotation_marks_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    for note in NOTES[:4]:
        quote = passage(rng, note.text)
        changed = "“" + "  ".join(quote.upper().split()) + ".”"
        found, how = place(note.text, changed)
        assert how == "normalised" and set(map(plain, ("".join(t.split()) for t in text_of(found, note.text)))) >= {
            "".join(plain(quote).split()).strip("-.,;:*•'\"")
        }


@pytest.mark.parametrize("text", [TEXT, "İstanbul ﬁne ‘a’ – “b” ß", "e\u0301 ñ 🙂‑🙂"])
def test_normalising_moves_no_character(text):
    assert len(plain(text)) == len(text)


def test_accents_line_ends_and_emoji_keep_their_places():
    assert text_of(place(TEXT, "hemoptysis. T2DM")[0]) == ["hemoptysis.\r\nT2DM"]
    assert text_of(place(TEXT, "disnea nauseas")[0]) == ["Disnea náuseas"]
    assert place(TEXT, "worse ... náuseas")[1] == "normalised" and place(TEXT, "náuseas … worse") == ([], "")


@pytest.mark.parametrize(
    "quote", ["type 2 diabetes", "T2D", "  ", "", "...", '"', "T1DM", "2001 since T2DM", "\n", ".", ","]
)
def test_what_is_not_there_is_not_found(quote):
    assert place(TEXT, quote) == ([], "")


@pytest.mark.parametrize("seed", range(10))
def test_a_fuzzy_match_is_as_like_as_promised_with_the_same_numbers_and_whole_words(seed):
    from rapidfuzz import fuzz

    rng = np.random.default_rng(seed)
    for note in NOTES[:6]:
        letters = list(" ".join(passage(rng, note.text, 5).split()))
        for _ in range(3):
            letters[rng.integers(len(letters))] = rng.choice(list("aeorn19 "))
        quote = "".join(letters)
        found, how = place(note.text, quote)
        if how != "fuzzy":
            continue
        [s] = found
        seen = plain(note.text[s.start : s.end])
        borders = words(note.text)
        assert s.start in borders[:, 0] and s.end in borders[:, 1]
        assert fuzz.ratio(plain(quote).strip(" .,;:-*•'\""), seen) >= THRESHOLD
        assert [c for c in quote if c.isdigit()] == [c for c in seen if c.isdigit()]


@pytest.mark.parametrize(
    "text, quote, found",
    [
        ("blood glucose of 192 on arrival", "blood glucose of 182 on arrival", False),
        ("there was no chest pain at rest", "there was chest pain at rest", False),
        ("patient denies shortness of breath today", "patient shortness of breath today", False),
        ("no cough, no fever and no chills", "no cough, fever and no chills", False),
        ("worsening dyspnoea on exertion", "worsening dyspnea on exertion", True),
        ("hyperlipidaemia controlled by statins", "hyperlipidemia controlled by statins", True),
        ("T2DM", "T1DM", False),
    ],
)
def test_likeness_is_not_taken_for_truth(text, quote, found):
    assert (fuzzy(text, quote) is not None) == found


@pytest.mark.parametrize("seed", range(5))
def test_passages_of_other_notes_are_not_found(seed):
    rng = np.random.default_rng(seed)
    found = [fuzzy(NOTES[(k + 1) % 12].text, passage(rng, NOTES[k].text, 6)) for k in range(12)]
    assert sum(f is not None for f in found) <= 1  # stock phrases of discharge summaries


def test_a_stricter_threshold_finds_no_more():
    rng = np.random.default_rng(1)
    for _ in range(20):
        quote = passage(rng, NOTES[0].text, 5)[2:-3]
        found = [fuzzy(NOTES[0].text, quote, t) is not None for t in (60, 75, 90, 100)]
        assert found == sorted(found, reverse=True)


def test_everywhere_or_only_in_what_was_shown():
    piece = Span(0, TEXT.index("worse"))
    both = [Span(19, 23), Span(TEXT.rindex("T2DM"), TEXT.rindex("T2DM") + 4)]
    assert text_of(locate(NOTE, Quote("t2dm"), Span(0, 30))[0]) == ["T2DM", "T2DM"]
    assert locate(NOTE, Quote("T2DM"), Span(0, 30), everywhere=False)[0] == both[:1]
    assert locate(NOTE, Quote("Disnea"), piece) == ([], "", False)


def test_a_numbered_sentence_points_at_one_occurrence():
    text = "T2DM known. Stable. T2DM worse."
    note, whole = Note("n", text), Span(0, len(text))
    for n, (start, _) in enumerate(sentences(text).tolist(), 1):
        found, how, misplaced = locate(note, Quote("T2DM", n), whole, everywhere=False)
        assert (len(found), misplaced) == ((2, True) if n == 2 else (1, False))
        if n != 2:
            assert found[0].start == start
    for wrong in (0, -1, 99):
        assert locate(note, Quote("T2DM", wrong), whole, everywhere=False)[2]


def test_what_has_no_place_is_counted_and_kept():
    said = ["type 2 diabetes", "T2D", "  ", "T2DM"]
    found, counts, lost = ground(
        NOTE,
        [A, B],
        json.dumps({"rationales": [{"code": "E11.9", "quotes": said}, {"code": "R04.2", "quotes": ["blood"]}]}),
    )
    assert text_of(found[A]) == ["T2DM", "T2DM"] and not found.get(B)
    assert (counts["exact"], counts["ungrounded"]) == (1, 4)
    assert [(x.code, x.words) for x in lost] == [
        ("E11.9", "type 2 diabetes"),
        ("E11.9", "T2D"),
        ("E11.9", "  "),
        ("R04.2", "blood"),
    ]


def test_a_code_that_was_not_asked_is_counted_and_kept():
    found, counts, lost = ground(
        NOTE, [A], json.dumps({"rationales": [{"code": "I10", "quotes": ["T2DM"]}, {"code": "", "quotes": []}]})
    )
    assert found == {A: []} and counts["invented"] == 2 and counts["exact"] == 0
    assert [(x.code, x.words, x.why) for x in lost] == [("I10", "T2DM", "invented"), ("", "", "invented")]


def test_a_code_answered_twice_keeps_all_its_quotes():
    found, counts, _ = ground(
        NOTE,
        [A],
        json.dumps(
            {
                "rationales": [
                    {"code": c, "quotes": [q]} for c, q in (("E11.9", "worse"), ("E11.9", "T2DM"), ("e119", "Disnea"))
                ]
            }
        ),
    )
    assert set(text_of(found[A])) == {"T2DM", "worse", "Disnea"} and counts["exact"] == 3
    assert ground(NOTE, [A, B], GOOD)[1]["normalised"] == 1


def test_answers_that_agree_score_one_and_a_lone_one_its_share():
    both, one = place(TEXT, "T2DM")[0], place(TEXT, "T2DM worse")[0]
    soft = agreement(NOTE, A, [both, both, one, []])
    assert soft.scores.max() == 0.75 and len(soft) == len(words(TEXT))
    hard, scores = majority(soft, NOTE)
    assert text_of(hard.spans) == ["T2DM"] and scores == [0.75]
    assert set(majority(agreement(NOTE, A, [one] * 5), NOTE)[1]) == {1.0}
    assert majority(agreement(NOTE, A, [[], []]), NOTE)[0].spans == ()


def test_only_a_whole_answer_says_that_there_is_no_evidence():
    item = '{"code": "E11.9", "quotes": ["T2DM"]}'
    for whole in ('{"rationales": []}', f'{{"rationales": [{item}]}}'):
        assert set(ground(NOTE, [A, B], whole)[0]) == {A, B}
    for lost in (f'{{"rationales": [{item}, {{"code": "R04.2", "quo', f'{{"rationales": [{item}, "R04.2"]}}'):
        assert set(ground(NOTE, [A, B], lost)[0]) == {A}
    for none in ("I cannot help with that.", None, '{"rationales": [', '<think>{"rationales": []}'):
        assert ground(NOTE, [A, B], none)[0] == {}


def test_a_code_with_its_description_is_the_code():
    answer = {"rationales": [{"code": "E11.9: Type 2 diabetes mellitus", "quotes": ["T2DM"]}]}
    assert ground(NOTE, [A, B], json.dumps(answer))[1]["invented"] == 0
