"A name is found where it stands, the longest first, and nothing is found that is not a name."

import random

import pytest

from icdrat.codes import icd
from icdrat.data.corpus import build
from icdrat.rationale.mention import (
    Lexicon,
    NoCodesForNote,
    NoEvidence,
    NotTraining,
    keys,
    lexicon,
    mentions,
    names,
    reliable,
    tabular_lexicon,
    training_lexicon,
)
from icdrat.types import BadInput, Note, Rationale, Span

A, B, C = icd("E11.9"), icd("I10"), icd("R07.9")
FILLER = ["lorem", "ipsum", "dolor", "sit", "amet", "🙂", "0.5", "mg", "x"]


def link(text, terms, codes_of=None):
    return mentions([Note("n", text)], terms, codes_of, progress=False)


def found(text, terms, codes_of=None):
    return {r.code: [text[s.start : s.end] for s in r.spans] for r in link(text, terms, codes_of)}


@pytest.mark.parametrize("seed", range(25))
def test_a_planted_name_is_found_at_its_exact_place(seed):
    rng = random.Random(seed)
    spelt = rng.choice(["Ménière disease", "MENIERE DISEASE", "menière-disease", "Ménière\r\n disease", "Meniere diseases"])
    before = " ".join(rng.choices(FILLER, k=rng.randrange(8)))
    after = " ".join(rng.choices(FILLER, k=rng.randrange(8)))
    opening, closing = rng.choice([("(", ")"), ("", "."), ("«", "»"), ("", ","), ("- ", ";"), ("", "")])
    text = f"{before} {opening}{spelt}{closing} {after}"
    start = text.index(spelt)
    [r] = link(text, lexicon("toy", [("Meniere disease", A)]))
    assert r.spans == (Span(start, start + len(spelt)),)


@pytest.mark.parametrize("seed", range(25))
def test_the_trie_agrees_with_trying_every_name_at_every_word(seed):
    rng = random.Random(seed)
    alphabet = ["ab", "cd", "ef"]
    terms = {tuple(rng.choices(alphabet, k=rng.randint(1, 4))): (rng.choice([A, B, C]),) for _ in range(6)}
    text = " ".join(rng.choices(alphabet, k=40))
    ks, places = keys(text)
    expected, i = {}, 0
    while i < len(ks):
        fits = [t for t in terms if tuple(ks[i : i + len(t)]) == t]
        if not fits:
            i += 1
            continue
        t = max(fits, key=len)
        for code in terms[t]:
            expected.setdefault(code, set()).update(range(places[i, 0], places[i + len(t) - 1, 1]))
        i += len(t)
    got = {r.code: {c for s in r.spans for c in range(s.start, s.end)} for r in link(text, Lexicon("toy", terms))}
    assert got.keys() == expected.keys()
    for code in got:  # touching spans are merged, the space between two matches is not
        assert {c for c in got[code] if text[c] != " "} == {c for c in expected[code] if text[c] != " "}


def test_the_longest_name_wins():
    terms = lexicon("toy", [("chest", A), ("chest pain", B), ("chest pain at rest", C)])
    assert found("chest pain at rest, chest pain at night, chest", terms) == {C: ["chest pain at rest"], B: ["chest pain"], A: ["chest"]}


def test_only_names_of_asked_codes_compete():
    terms = lexicon("toy", [("chest pain", A), ("pain", B)])
    assert found("chest pain", terms, {"n": [B]}) == {B: ["pain"]}
    assert found("chest pain", terms, {"n": [A, B]}) == {A: ["chest pain"], B: []}


@pytest.mark.parametrize("text", ["cart", "scar", "ca1", "c a", "ca_x"])
def test_names_stop_at_word_borders(text):
    assert link(text, lexicon("toy", [("ca", A)])) == []


@pytest.mark.parametrize("text", ["pain. Chest", "chest. Pain", "chest: pain", "chest, pain"])
def test_no_name_is_found_across_punctuation(text):
    assert link(text, lexicon("toy", [("chest pain", A), ("pain chest", B)])) == []


def test_an_empty_lexicon_finds_nothing():
    assert link("chest pain", Lexicon("empty")) == []
    assert found("chest pain", Lexicon("empty"), {"n": [A]}) == {A: []}
    assert link("", lexicon("toy", [("chest pain", A)])) == []


def test_the_order_of_notes_does_not_matter():
    terms = lexicon("toy", [("chest pain", A), ("diabetes", B)])
    notes = [Note(f"n{i}", t) for i, t in enumerate(["chest pain", "diabetes. chest pain", "", "diabetes"])]
    forth, back = mentions(notes, terms, progress=False), mentions(notes[::-1], terms, progress=False)
    assert len(forth) == 4 and sorted(map(repr, forth)) == sorted(map(repr, back))


def test_every_asked_code_gets_one_rationale():
    rationales = link("chest pain, chest pain", lexicon("toy", [("chest pain", A)]), {"n": [A, B, A]})
    assert [(r.code, len(r), r.source, r.level) for r in rationales] == [(A, 2, "toy", "mention"), (B, 0, "toy", "mention")]


def test_names_that_say_nothing_are_left_out():
    assert len(lexicon("toy", [(t, A) for t in ("of the", "12", "x", "3 x", "left", "derecha", "-", "")])) == 0
    assert len(lexicon("toy", [("left arm", A), ("T2", A)])) == 2


def test_names_of_the_tabular_list_are_written_as_notes_write_them():
    assert names("Anemia, unspecified") == ["Anemia"]
    assert names("Human immunodeficiency virus [HIV] disease") == ["Human immunodeficiency virus disease", "HIV"]
    assert "kidney failure" in names("Acute kidney failure, unspecified")
    assert names("Unspecified") == names("NOS") == names("") == []
    assert len(lexicon("toy", [(n, A) for n in names("Other and unspecified")])) == 0


def test_a_category_is_named_by_its_descendants():
    whole = tabular_lexicon([icd("R06.00")], level=3)
    assert whole.terms[("wheezing",)] == (icd("R06"),)
    assert ("wheezing",) not in tabular_lexicon([icd("R06.00")]).terms
    assert whole.name == "mention_tabular"


def toy_corpus(split="train", marked=True):
    texts = ["Crushing pain in the chest.", "Pain in the knee, pain in the hip."]
    rows = [dict(note_id=f"n{i}", text=t, codes=[A], split=s) for i, (t, s) in enumerate(zip(texts, ("train", split)))]
    gold = [Rationale("n0", A, [Span(0, 8), Span(9, 13)], "human")] if marked else []
    return build("toy", rows, gold)


def test_a_learned_lexicon_drops_names_that_are_everywhere():
    assert set(training_lexicon(toy_corpus(), 0).terms) == {("crushing",), ("pain",)}
    assert set(training_lexicon(toy_corpus(), 1 / 3).terms) == {("crushing",), ("pain",)}
    assert set(training_lexicon(toy_corpus(), 0.34).terms) == {("crushing",)}
    assert training_lexicon(toy_corpus()).name == "mention_training"


def test_a_higher_reliability_never_adds_a_name():
    corpus = toy_corpus()
    everything = lexicon("toy", [(w, c) for w in "crushing pain chest knee hip".split() for c in (A, B)])
    sizes = [len(reliable(everything, corpus, s)) for s in (0, 0.1, 0.4, 1)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == 5


def test_a_lexicon_is_learned_from_training_notes_only():
    for split in ("validation", "test"):
        with pytest.raises(NotTraining, match=f"notes of {split}"):
            training_lexicon(toy_corpus(split))
    with pytest.raises(NoEvidence, match="tabular_lexicon"):
        training_lexicon(toy_corpus(marked=False))


def test_errors_and_displays_show_no_text():
    secret = "hemoptysis"
    corpus = build("toy", [dict(note_id="n", text=secret, codes=[A], split="test")], [Rationale("n", A, [Span(0, 10)], "human")])
    for call in (lambda: training_lexicon(corpus), lambda: mentions(corpus.notes, Lexicon("toy"), {}, progress=False)):
        with pytest.raises(BadInput) as caught:
            call()
        assert secret not in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(NoCodesForNote, match="^n: "):
        mentions(corpus.notes, Lexicon("toy"), {}, progress=False)
    assert secret not in repr(lexicon("toy", [(secret, A)]))


def test_training_names_find_most_evidence_of_unseen_case_reports(data_folder):
    from icdrat.data.codiesp import codiesp
    from icdrat.data.corpus import to_level

    corpus = to_level(codiesp(data_folder), 3)
    dev = corpus.split("test")
    terms = training_lexicon(corpus.split("train"))
    marked = {(r.note_id, r.code): {c for s in r.spans for c in range(s.start, s.end)} for r in mentions(dev.notes, terms, dev.codes, progress=False)}
    gold = {(r.note_id, r.code): {c for s in r.spans for c in range(s.start, s.end)} for r in dev.gold}
    assert marked.keys() == gold.keys()
    hits = sum(len(marked[k] & gold[k]) for k in gold)
    assert hits / sum(map(len, marked.values())) > 0.8  # precision in characters
    assert hits / sum(map(len, gold.values())) > 0.45  # recall in characters
