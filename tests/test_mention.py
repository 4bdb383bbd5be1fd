"A name is found where it stands, the longest first, and nothing is found that is not a name."

import json
import random

import numpy as np
import pytest

from icdrat.codes import category, icd, parent
from icdrat.data.corpus import build
from icdrat.rationale.mention.lexicon import NoEvidence, NotTraining, names, reliable, tabular_lexicon, training_lexicon
from icdrat.rationale.mention.linker import (
    LINKS,
    Lexicon,
    Linker,
    LinkerCoder,
    Mention,
    NoCodesForNote,
    as_rationales,
    find,
    keys,
    lexicon,
    linked,
    mentions,
    names_something,
    term_of,
    write_mentions,
)
from icdrat.text import words
from icdrat.types import BadInput, Coder, Note, Rationale, Span

A, B, C = icd("E11.9"), icd("I10"), icd("R07.9")
FILLER = ["lorem", "ipsum", "dolor", "sit", "amet", "🙂", "0.5", "mg", "x"]


def link(text, terms, codes_of=None):
    return mentions([Note("n", text)], terms, codes_of, progress=False)


def found(text, terms, codes_of=None):
    return {r.code: [text[s.start : s.end] for s in r.spans] for r in link(text, terms, codes_of)}


@pytest.mark.parametrize("seed", range(25))
def test_a_planted_name_is_found_at_its_exact_place(seed):
    rng = random.Random(seed)
    spelt = rng.choice(
        ["Ménière disease", "MENIERE DISEASE", "menière-disease", "Ménière\r\n disease", "Meniere diseases"]
    )
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
    text = " ".join(rng.choices([*alphabet, "of", "-", "the"], k=60))
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
    got = {}
    for m in find([Note("n", text)], Linker(Lexicon("toy", terms)), progress=False):
        got.setdefault(m.code, set()).update(range(m.span.start, m.span.end))
    assert got == expected


def test_the_longest_name_wins():
    terms = lexicon("toy", [("chest", A), ("chest pain", B), ("chest pain at rest", C)])
    assert found("chest pain at rest, chest pain at night, chest", terms) == {
        C: ["chest pain at rest"],
        B: ["chest pain"],
        A: ["chest"],
    }


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
    assert [(r.code, len(r), r.source, r.level) for r in rationales] == [
        (A, 2, "toy", "mention"),
        (B, 0, "toy", "mention"),
    ]


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
    corpus = build(
        "toy", [dict(note_id="n", text=secret, codes=[A], split="test")], [Rationale("n", A, [Span(0, 10)], "human")]
    )
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
    marked = {
        (r.note_id, r.code): {c for s in r.spans for c in range(s.start, s.end)}
        for r in mentions(dev.notes, terms, dev.codes, progress=False)
    }
    gold = {(r.note_id, r.code): {c for s in r.spans for c in range(s.start, s.end)} for r in dev.gold}
    assert marked.keys() == gold.keys()
    hits = sum(len(marked[k] & gold[k]) for k in gold)
    assert hits / sum(map(len, marked.values())) > 0.8  # precision in characters
    assert hits / sum(map(len, gold.values())) > 0.45  # recall in characters


ALPHABET = ["ab", "cd", "ef", "gh", "of", "the", "-", ".", "AB", "cds"]


def plainly(text, lexicons, wanted):
    "Every lexicon's every name tried at every word: places, codes and sources, without a trie or a memory"
    ks, places = keys(text)
    i, found = 0, []
    while i < len(ks):
        best = None
        for n in range(len(ks) - i, 0, -1):
            start, end = int(places[i, 0]), int(places[i + n - 1, 1])
            fits = [(l, tuple(ks[i : i + n])) for l in lexicons if tuple(ks[i : i + n]) in l.terms]
            fits = [(l, t) for l, t in fits if t not in l.spelled or text[start:end] in l.spelled[t]]
            said = {}
            for l, t in fits:
                for c in dict.fromkeys(a for c in l.terms[t] for a in wanted(c)):
                    said.setdefault(c, []).append((l.name, l.meanings.get(t, 1)))
            if said:
                best = (
                    n,
                    [
                        (start, end, c, tuple(s for s, _ in whose), min(m for _, m in whose))
                        for c, whose in said.items()
                    ],
                )
                break
        found += best[1] if best else []
        i += best[0] if best else 1
    return found


def random_lexicons(rng, codes):
    def one(name):
        pairs = [(" ".join(rng.choices(ALPHABET[:4], k=rng.randint(1, 4))), rng.choice(codes)) for _ in range(8)]
        made = lexicon(name, pairs)
        spelled = {
            t: frozenset([" ".join(t).upper(), " ".join(t)][: rng.randint(1, 2)])
            for t in rng.sample(list(made.terms), 2)
        }
        return Lexicon(name, made.terms, spelled, {t: rng.randint(1, 4) for t in made.terms})

    return [one(n) for n in ("one", "two", "three")[: rng.randint(1, 3)]]


@pytest.mark.parametrize("seed", range(120))
def test_the_linker_agrees_with_trying_every_name_of_every_source(seed):
    rng = random.Random(seed)
    codes = [icd(c) for c in ("E11", "E11.2", "E11.21", "E11.9", "I10", "N08", "R07.9")]
    sources = random_lexicons(rng, codes)
    notes = [Note(f"n{i}", " ".join(rng.choices(ALPHABET, k=rng.randint(0, 50)))) for i in range(3)]
    link = rng.choice(LINKS)
    codes_of = (
        None
        if link != "ancestor" and rng.random() < 0.4
        else {n.id: rng.sample(codes, rng.randint(0, 4)) for n in notes}
    )
    expected = []
    for n in notes:
        asked = None if codes_of is None else frozenset(codes_of[n.id])
        expected += [(n.id, *row) for row in plainly(n.text, sources, lambda c: linked(c, asked, link))]
    got = [
        (m.note_id, m.span.start, m.span.end, m.code, m.sources, m.meanings)
        for m in find(notes, Linker(sources), codes_of, link=link, progress=False)
    ]
    assert got == expected


@pytest.mark.parametrize("seed", range(60))
def test_keys_and_words_count_alike_on_any_characters(seed):
    rng = random.Random(seed)
    pool = "aZ9_-–/'’ \t\r\n.;é\u0301ñß½²Ⅷ١🙂\u200b\u00a0\u2028\x1c\x85œæ中"
    text = "".join(rng.choices(pool, k=80))
    ks, places = keys(text)
    assert len(ks) == len(places) <= len(words(text))
    assert {tuple(p) for p in places.tolist()} <= {tuple(p) for p in words(text).tolist()}
    for k, (s, e) in zip(ks, places.tolist()):
        assert term_of(text[s:e]) == (k,)


@pytest.mark.parametrize(
    "one, other",
    [
        ("Oedema", "edema"),
        ("ANAEMIA", "anemia"),
        ("haemorrhoids", "hemorrhoid"),
        ("Fracture of the wrist", "fracture, wrist".replace(",", "")),
        ("Crohn’s", "crohn's"),
    ],
)
def test_spellings_of_one_name_meet(one, other):
    assert term_of(one) == term_of(other)


def test_the_end_of_a_match_is_its_last_word_not_a_word_that_is_passed_over():
    [m] = find(
        [Note("n", "fracture of the femur of the left leg")],
        Linker(lexicon("toy", [("fracture femur", A)])),
        progress=False,
    )
    assert (m.span.start, m.span.end) == (0, 21)
    [m] = find([Note("n", "fracture of the")], Linker(lexicon("toy", [("fracture", A)])), progress=False)
    assert (m.span.start, m.span.end) == (0, 8)


def test_linking_never_goes_down():
    up, down = icd("E11"), icd("E11.21")
    for how in ("full", "ancestor"):
        assert linked(up, frozenset([down]), how) == ()
    assert linked(down, frozenset([up]), "ancestor") == (up,)
    assert linked(down, frozenset([up]), "category") == linked(up, frozenset([down]), "category")[:0] + (up,)


@pytest.mark.parametrize("seed", range(20))
def test_the_nearest_ancestor_is_the_first_on_the_way_up(seed):
    rng = random.Random(seed)
    code = icd(rng.choice(["S72.001A", "E11.3219", "I10", "Z3A.01"]))
    way = [code]
    while (above := parent(way[-1])) is not None:
        way.append(above)
    asked = frozenset(rng.sample(way, rng.randint(1, len(way))) + [icd("R05")])
    assert linked(code, asked, "ancestor") == (next(c for c in way if c in asked),)
    assert category(code) == way[-1]


def test_asking_for_more_codes_never_makes_a_match_shorter():
    terms = lexicon("toy", [("chest", A), ("chest pain", B), ("chest pain at rest", C)])
    text = "chest pain at rest"
    lengths = [
        max(len(m.span) for m in find([Note("n", text)], Linker(terms), {"n": asked}, progress=False))
        for asked in ([A], [A, B], [A, B, C])
    ]
    assert lengths == sorted(lengths)


def test_two_sources_share_a_place_and_keep_their_names():
    both = [lexicon("x", [("gout", A)]), lexicon("y", [("Gout", A), ("gout", B), ("acute gout", B)])]
    found = find([Note("n", "gout. acute gout")], Linker(both), progress=False)
    assert [(m.span.start, m.code, m.sources) for m in found] == [(0, A, ("x", "y")), (0, B, ("y",)), (6, B, ("y",))]
    [one, other] = as_rationales(found, [Note("n", "gout. acute gout")])
    assert (one.source, len(one), len(other)) == ("mention", 1, 2)


def test_a_linker_is_a_coder_and_its_mentions_are_all_its_reasons():
    terms, text = lexicon("toy", [("chest pain", A), ("gout", B)]), "Gout. chest pain, chest pain and more"
    coder = LinkerCoder(Linker(terms), [B, A, C])
    assert isinstance(coder, Coder)
    assert coder([text, ""]).tolist() == [[1, 1, 0], [0, 0, 0]]
    for r in mentions([Note("n", text)], terms, progress=False):
        for how in ("mask", "delete"):
            left = coder([text], [r.spans], how)[0]
            assert left[coder.codes.index(r.code)] == 0 and left.sum() == 1, "only its own code loses its reason"
    assert np.array_equal(LinkerCoder(Linker(terms), [A], keep=lambda notes, found: [])([text]), [[0]])


def test_mentions_travel_as_lines_without_text(tmp_path):
    found = [Mention("n", Span(3, 7), A, ("mention_index", "mention_doid"), 2, ("negated",))]
    write_mentions(tmp_path / "m.jsonl", found)
    [line] = (tmp_path / "m.jsonl").read_text().splitlines()
    assert json.loads(line) == dict(
        note_id="n",
        span=[3, 7],
        code="E11.9",
        system="icd10cm",
        sources=["mention_index", "mention_doid"],
        meanings=2,
        context=["negated"],
    )


def test_the_codes_of_one_note_do_not_leak_into_the_next():
    terms = lexicon("toy", [("gout", A), ("gout", B)])
    notes = [Note("a", "gout"), Note("b", "gout"), Note("c", "gout")]
    found = find(notes, Linker(terms), {"a": [A], "b": [B], "c": []}, progress=False)
    assert [(m.note_id, m.code) for m in found] == [("a", A), ("b", B)]


def test_function_words_alone_are_no_name():
    assert not names_something(()) and not names_something(("on", "left", "3"))
