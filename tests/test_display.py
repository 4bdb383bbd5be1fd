"What travels shows itself: short, escaped, never a restricted character, and never hundreds of numbers."

import html
import re
from dataclasses import replace

import numpy as np
import pytest

from icdrat import display
from icdrat.codes import icd
from icdrat.coder.recipe import RECIPES
from icdrat.coder.training import fingerprint
from icdrat.data.corpus import build
from icdrat.display import GENERATION, ROOM, marked, passages, recall, remember, shaded
from icdrat.text import words
from icdrat.types import Code, Explanation, Note, Rationale, Span

CODE = icd("E11.9")
SECRET = "Quibblefarn has a xylocanary."
ALPHABET = list("abc  \n\t.é<>&\"'") + ["\r\n", "🙂", "👩‍⚕️", "</script>", "<script>alert(1)</script>", "&amp;", ". "]


def plain(shown):
    return html.unescape(re.sub(r"<[^>]*>", "", shown))


def marks(shown):
    return [html.unescape(m) for m in re.findall(r"<mark[^>]*>(.*?)</mark>", shown, re.S)]


def explanation(note, scores):
    offsets = words(note.text)
    return Explanation(note.id, CODE, offsets, np.resize(np.asarray(scores, float), len(offsets)), "attention")


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch):
    monkeypatch.setattr(display, "_young", {})
    monkeypatch.setattr(display, "_old", {})


@pytest.mark.parametrize("seed", range(30))
def test_whatever_is_shown_comes_back_as_the_text_and_runs_nothing(seed):
    rng = np.random.default_rng(seed)
    note = Note(f"<b>{seed}", "".join(rng.choice(ALPHABET, size=60)), corpus="<i>made up</i>")
    ends = np.unique(rng.integers(len(note), size=8))
    spans = [Span(int(a), int(b)) for a, b in zip(ends[::2], ends[1::2])]
    hard = Rationale(note.id, CODE, spans, "<img src=x>")
    shown = hard._repr_html_()
    assert marks(shown) == [note.text[s.start : s.end] for s in spans]
    for one in (shown, note._repr_html_(), explanation(note, rng.random(5))._repr_html_()):
        assert set(re.findall(r"<(\w+)", one)) <= {"div", "b", "span", "mark"}
        assert "<script" not in one and "<img" not in one


def test_a_table_escapes_its_cells_and_a_corpus_shows_its_splits():
    rows = [dict(note_id=str(i), text="Sepsis.", codes=[CODE], split="train" if i else "test") for i in range(3)]
    gold = [Rationale("1", CODE, [Span(0, 6)], "human"), Rationale("0", CODE, (), "human")]
    shown = build("<toy>", rows, gold)._repr_html_()
    cells = [plain(c) for c in re.findall(r"<td[^>]*>(.*?)</td>", shown)]
    assert cells == ["train", "2", "1", "1", "test", "1", "1", "1", "all", "3", "1", "2"]
    assert "&lt;toy&gt;" in shown and "<toy>" not in shown
    assert "&lt;b&gt;" in display.table(["<b>"], [["<b>"]])


def test_different_codes_are_counted_by_system_too():
    rows = [dict(note_id="a", text="x", codes=[Code("icd9cm", "250"), Code("icd10pcs", "250")], split="train")]
    assert ">2</td>" in build("toy", rows)._repr_html_()
    assert ">0</td>" in build("toy", [dict(rows[0], codes=[])])._repr_html_()


def test_a_restricted_note_never_shows_a_character_and_is_not_kept():
    note = Note("n1", SECRET, restricted=True)
    hard, soft = Rationale("n1", CODE, [Span(0, 11)], "human"), explanation(note, [0.5])
    for one in (note, hard, soft):
        assert not any(word in one._repr_html_() + repr(one) + str(one) for word in ("Quibble", "xylo"))
    assert recall("n1") is None and SECRET not in str(vars(display))


def test_an_open_text_is_forgotten_when_its_note_turns_out_to_be_restricted():
    note = Note("n1", SECRET)
    hard = Rationale("n1", CODE, [Span(0, 11)], "human")
    assert "Quibblefarn" in hard._repr_html_()
    replace(note, restricted=True)
    assert "Quibblefarn" not in hard._repr_html_() and "[0, 11)" in hard._repr_html_()


def test_a_restricted_corpus_shows_numbers_only():
    corpus = build("secret", [dict(note_id="n1", text=SECRET, codes=[CODE], split="test")], restricted=True)
    list(corpus.notes)
    assert "restricted" in corpus._repr_html_() and "Quibble" not in corpus._repr_html_() and recall("n1") is None


def test_without_its_note_an_answer_shows_offsets():
    hard = Rationale("nowhere", CODE, [Span(i, i + 1) for i in range(0, 100, 2)], "human")
    shown = plain(hard._repr_html_())
    assert "[0, 1), [2, 3)" in shown and shown.endswith("and 38 more")
    soft = Explanation("nowhere", CODE, np.array([[0, 4], [5, 9]]), np.array([0.1, 0.7]), "lime")
    assert "[5, 9) 0.7, [0, 4) 0.1" in plain(soft._repr_html_())


def test_the_latest_text_that_contains_the_offsets_is_used():
    Note("n1", "Known diabetes, on metformin.")
    hard = Rationale("n1", CODE, [Span(6, 14)], "human")
    assert marks(hard._repr_html_()) == ["diabetes"]
    Note("n1", "Sugar: diabetes.")
    assert marks(hard._repr_html_()) == [" diabete"]  # two texts under one id: the later one
    Note("n1", "Short.")
    assert marks(hard._repr_html_()) == [] and "[6, 14)" in hard._repr_html_()
    assert "[0, 2)" in Rationale("empty", CODE, [Span(0, 2)], "human")._repr_html_() and Note("empty", "")._repr_html_()


def test_no_more_than_two_generations_of_texts_are_kept_and_the_last_are():
    for i in range(5 * GENERATION):
        remember(f"n{i}", "text")
    kept = [i for i in range(5 * GENERATION) if recall(f"n{i}")]
    assert GENERATION <= len(kept) <= 2 * GENERATION and kept == list(range(5 * GENERATION))[-len(kept) :]


def test_an_empty_rationale_and_scores_that_are_nowhere_positive_say_so():
    note = Note("n1", "Known diabetes.")
    assert "no evidence is marked" in Rationale("n1", CODE, (), "human")._repr_html_()
    for scores in ([0], [-1], [-0.5, 0]):
        shown = explanation(note, scores)._repr_html_()
        assert "no score is above 0" in shown and not marks(shown)
    nothing = Explanation("n1", CODE, np.zeros((0, 2), int), np.zeros(0), "attention")
    assert "no score is above 0" in nothing._repr_html_()
    assert repr(nothing) == "Explanation('n1', E11.9, attention, 0 words)"


def test_the_highest_scores_are_the_most_shaded_and_negative_ones_are_not():
    note = Note("n1", "Known diabetes, on metformin 🙂.")
    soft = explanation(note, [0, 0.9, 0.05, 0, 0.5, -0.9])
    tints = re.findall(r"(\d+)%,transparent\)\" title=\"([\d.]+)\">(\w+)", soft._repr_html_())
    assert tints == [("42", "0.9", "diabetes"), ("26", "0.5", "metformin")]
    assert "🙂" in soft._repr_html_()


@pytest.mark.parametrize("dark", [False, True])
def test_letters_keep_their_colour_so_marks_can_be_read_in_the_dark(dark):
    note = Note("n1", "Known diabetes.")
    for one in (Rationale("n1", CODE, [Span(6, 14)], "human"), explanation(note, [1, 2])):
        styles = re.findall(r'style="([^"]*)"', one._repr_html_())
        colours = [v for s in styles for v in re.findall(r"(?:^|;)color:([^;]+)", s)]
        assert set(colours) == {"inherit"}
        assert all("transparent" in s for s in styles if "background" in s)


def test_a_repr_is_one_short_line_without_a_word_of_the_note():
    note = Note("n1", SECRET * 300)
    spans = [Span(i, i + 5) for i in range(0, 4000, 10)]
    hard, soft = Rationale("n1", CODE, spans, "human", "context"), explanation(note, np.arange(900) / 900)
    assert repr(hard) == "Rationale('n1', E11.9, 400 spans, 2,000 characters, human, context)"
    one = Rationale("n1", CODE, [Span(0, 1)], "llm")
    assert repr(one) == "Rationale('n1', E11.9, 1 span, 1 character, llm, mention)"
    assert repr(soft).startswith("Explanation('n1', E11.9, attention, 1,500 words, highest [")
    for one in (note, hard, soft):
        assert len(repr(one)) < 160 and "\n" not in repr(one) and "Quibble" not in repr(one)


def test_a_display_is_short_however_long_the_note_and_its_evidence():
    note = Note("n1", "Sepsis on day one. " * 3000)
    many = [Span(i, i + 6) for i in range(0, 50000, 19)]
    whole = Rationale("n1", CODE, [Span(0, len(note))], "whole_note")
    for one in (note, Rationale("n1", CODE, many, "human"), whole, explanation(note, [0.5])):
        assert len(plain(one._repr_html_())) < ROOM + 200


@pytest.mark.parametrize("seed", range(20))
def test_passages_hold_their_places_and_stay_apart(seed):
    rng = np.random.default_rng(seed)
    text = "".join(rng.choice(ALPHABET, size=300))
    ends = np.unique(rng.integers(len(text), size=10)).tolist()
    places = list(zip(ends[::2], ends[1::2]))
    found = passages(text, places, 30)
    assert all(any(a <= start and end <= b for a, b in found) for start, end in places)
    assert all(b < c for (_, b), (c, _) in zip(found, found[1:]))


def test_places_that_overlap_or_lie_outside_do_not_break_a_display():
    assert plain(marked("abc def", [(0, 5), (3, 99)])) == "abc def"
    assert marks(shaded("abc def", [(0, 3), (0, 3), (4, 7)], [1, 1, 1])) == ["abc", "def"]


def test_two_guides_that_look_alike_are_two_trainings():
    "A short repr must not decide what a checkpoint belongs to"
    rows = [dict(note_id="a", text="Sepsis and shock.", codes=[CODE], split="train")]
    corpus = build("toy", rows)
    guides = [[Rationale("a", CODE, [Span(at, at + 3)], "human")] for at in (0, 3)]
    assert repr(guides[0]) == repr(guides[1])
    first, second = (fingerprint(corpus, corpus, [CODE], RECIPES["caml"], guide) for guide in guides)
    assert first["guide"] != second["guide"]
