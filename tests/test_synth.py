"What the synthetic corpus promises: exact places, clean background, the same notes everywhere."

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from icdrat.codes import descendants, icd
from icdrat.data.synth import (
    APART,
    ASIDES,
    COLUMNS,
    COMPANIONS,
    CONDITIONS,
    FEWEST_CODES,
    PLACES,
    RANKING,
    ROLES,
    TABLES,
    BadTable,
    CodesOutOfRange,
    NoNotes,
    SeedOutOfRange,
    _apart,
    compose,
    conditions,
    forms,
    synthesise,
    table,
)

NOTES = 150


@pytest.fixture(scope="module")
def notes():
    return [compose(11, i) for i in range(NOTES)]


@pytest.fixture(scope="module")
def known():
    "For each code, its forms without regard to case"
    return {v: {f.casefold() for f in forms(c.code)} for v, c in CONDITIONS.items()}


@pytest.fixture(scope="module")
def patterns(known):
    "For each code, one pattern of all its forms"
    ways = {v: sorted(fs, key=len, reverse=True) for v, fs in known.items()}
    return {v: re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, fs))})(?!\w)") for v, fs in ways.items()}


def test_every_code_of_the_table_is_a_leaf_of_the_classification():
    assert all(icd(v) == c.code and not descendants(c.code) for v, c in CONDITIONS.items())


def test_no_form_belongs_to_two_codes(known):
    owners = Counter(f for fs in known.values() for f in fs)
    assert max(owners.values()) == 1


def test_the_tables_name_only_codes_that_there_are():
    assert sorted(RANKING) == sorted(CONDITIONS)
    assert all(c.kind in PLACES and c.names for c in CONDITIONS.values())
    assert {c.code.value for asides in ASIDES.values() for c, _ in asides} <= set(CONDITIONS)
    assert all(any(v.startswith(beginning) for v in CONDITIONS) for pair in APART for beginning in pair)
    assert {v for first, rest in COMPANIONS.items() for v in [first, *rest]} <= set(CONDITIONS)
    assert not [
        v
        for v, c in CONDITIONS.items()
        if c.kind in ("sequel", "status", "cause") and not any(v in rest for rest in COMPANIONS.values())
    ]


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("code     | rank", "code     | rang", "line 5: the first line names the columns"),
        ("A41.9 ", "A41.99", "line 7: 'A41.99' is not in ICD-10-CM"),
        ("| acute ", "| acut ", "line 7: kind 'acut'"),
        ("| acute   |     |", "| acute   | X   |", "line 7: sex 'X'"),
        ("| 23 ", "| 2x ", "line 7: rank '2x'"),
        ("| 23 ", "| 61 ", "line 8: rank 61 belongs to A41.9"),
        ("| 23 ", "| 81 ", "A41.9 has rank 81 of 80"),
        ("A04.72", "A41.9", "line 8: A41.9 stands in the table already"),
        (" | sepsis", " | | sepsis", "line 7: 11 cells for 10 columns"),
        ("sepsis; septicemia; septic picture", "", "line 7: a condition needs a name"),
        ("{3.1..5.9}", "{3.1..5.9", "line 7: a brace without its partner"),
        ("Vitals: T {", "T {", "line 7: sign 'T {101.8..103.4}, HR {112..134}'"),
    ],
)
def test_a_wrong_line_of_the_table_is_refused_with_its_number(tmp_path, old, new, said):
    text = (TABLES / "diseases.psv").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "wrong.psv").write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(BadTable, match=f"^wrong.psv.*{re.escape(said)}"):
        conditions(tmp_path / "wrong.psv")


def test_a_table_may_end_without_a_line_break_and_with_an_empty_cell(tmp_path):
    (tmp_path / "t.psv").write_text("# a remark\na | b\n\n1 | {x|y} |z\n2 |", encoding="utf-8")
    assert [row for _, row in table(tmp_path / "t.psv", "a b")] == [dict(a="1", b="{x|y} |z"), dict(a="2", b="")]


def test_the_table_is_read_as_it_is_written():
    rows = [row for _, row in table(TABLES / "diseases.psv", COLUMNS)]
    assert [row["code"] for row in rows] == list(CONDITIONS)
    assert all("; ".join(CONDITIONS[row["code"]].names) == row["names"] for row in rows)


def test_the_notes_are_those_that_the_results_were_computed_on():
    "Another word in a table is another corpus; whoever means that changes the digest too"
    digest = hashlib.sha256("".join(compose(0, i).text for i in range(100)).encode()).hexdigest()
    assert digest == "03810f695f45e985e43e35d11c5858e7439d46884e02d581a79c16d78e21d4f9"


def test_the_text_at_each_span_is_a_form_of_its_code(notes, known):
    for note in notes:
        for code, spans in note.evidence.items():
            assert all(note.text[s.start : s.end].casefold() in known[code.value] for s in spans)


def test_a_distractor_is_also_a_form_of_its_code(notes, known):
    for d, text in ((d, n.text) for n in notes for d in n.distractors):
        assert d.role in ROLES
        assert text[d.span.start : d.span.end].casefold() in known[d.code.value]


def test_evidence_and_distractors_never_overlap(notes):
    for note in notes:
        places = sorted([s for spans in note.evidence.values() for s in spans] + [d.span for d in note.distractors])
        assert all(a.end <= b.start for a, b in zip(places, places[1:]))


def test_no_form_stands_in_a_note_without_being_written_down(notes, patterns):
    for note in notes[:60]:
        places = [s for spans in note.evidence.values() for s in spans] + [d.span for d in note.distractors]
        for value, pattern in patterns.items():
            for m in pattern.finditer(note.text.casefold()):
                assert any(s.start <= m.start() and m.end() <= s.end for s in places), (value, m[0])


def test_a_code_has_at_most_three_places_and_now_and_then_none(notes):
    n_spans = Counter(len(spans) for note in notes for spans in note.evidence.values())
    assert set(n_spans) == {0, 1, 2, 3}
    assert 0.01 < n_spans[0] / n_spans.total() < 0.06
    assert all(note.evidence[note.codes[0]] for note in notes)


@pytest.mark.parametrize("n_codes", [FEWEST_CODES, 40, len(RANKING)])
def test_a_note_has_four_to_nine_codes_that_can_meet(n_codes):
    for i in range(60):
        codes = [c.value for c in compose(3, i, n_codes).codes]
        assert 4 <= len(codes) <= 9 and set(codes) <= set(RANKING[:n_codes])
        assert not any(_apart(a, b) for k, a in enumerate(codes) for b in codes[:k])
        assert CONDITIONS[codes[0]].complaints


def test_a_denied_or_excluded_condition_is_not_one_of_the_note_unless_it_is_a_former_episode(notes):
    for note in notes:
        for d in note.distractors:
            if d.role in ("negated", "ruled out") and d.code in note.codes:
                assert d.code == note.codes[0] and note.text[: d.span.start].endswith("prior episodes of ")


def test_every_role_occurs_and_some_distractors_name_a_code_of_their_note(notes):
    assert {d.role for n in notes for d in n.distractors} == set(ROLES)
    own = sum(d.code in n.codes for n in notes for d in n.distractors)
    assert 0 < own < sum(len(n.distractors) for n in notes) / 2


def test_notes_are_discharge_summaries_of_readable_length(notes):
    n_words = [len(n.text.split()) for n in notes]
    assert 150 < min(n_words) and np.mean(n_words) < 350
    for n in notes:
        heads = re.findall(r"(?m)^([A-Z][A-Za-z ]+):$", n.text)
        assert heads[2:4] == ["History of Present Illness", "Past Medical History"] and "Brief Hospital Course" in heads
        assert not re.search(r"[{}@|^~]|\n\n\n| ,|,,|\.\.", n.text), "a template shows through"


def test_a_larger_corpus_begins_with_the_smaller():
    small, large = synthesise(13, seed=5, progress=False), synthesise(40, seed=5, progress=False)
    assert large.table.slice(0, 13) == small.table
    assert large.gold[: len(small.gold)] == small.gold


def test_other_seeds_and_numbers_give_other_notes():
    assert len({compose(seed, i).text for seed in range(4) for i in range(25)}) == 100


def test_the_same_bytes_come_from_another_process_with_another_hash_seed():
    program = (
        "import hashlib; from icdrat.data.synth import compose; "
        "print(hashlib.sha256(''.join(compose(0, i).text for i in range(20)).encode()).hexdigest())"
    )
    env = {**os.environ, "PYTHONHASHSEED": "12345"}
    other = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert other == hashlib.sha256("".join(compose(0, i).text for i in range(20)).encode()).hexdigest()


@pytest.mark.parametrize("n_notes", [1, 2, 7, 20])
def test_a_corpus_has_the_size_asked_for_and_one_rationale_a_code(n_notes):
    corpus = synthesise(n_notes, seed=1, progress=False)
    assert len(corpus) == n_notes == len({n.id for n in corpus.notes})
    assert not corpus.restricted and corpus.language == "en"
    assert {(r.note_id, r.code) for r in corpus.gold} == {(i, c) for i, codes in corpus.codes.items() for c in codes}
    assert len({(r.note_id, r.code) for r in corpus.gold}) == len(corpus.gold)
    assert {(r.source, r.level) for r in corpus.gold} == {("planted", "mention")}


def test_splits_are_seven_one_two_of_ten():
    assert synthesise(40, progress=False).splits == dict(train=28, validation=4, test=8)
    assert set(synthesise(4, progress=False).splits) == {"train", "validation", "test"}


def test_ids_of_two_seeds_do_not_collide():
    assert not {n.id for n in synthesise(5, seed=1, progress=False).notes} & {
        n.id for n in synthesise(5, seed=2, progress=False).notes
    }


def test_codes_have_a_long_tail():
    counts = sorted(Counter(c for i in range(400) for c in compose(2, i).codes).values(), reverse=True)
    assert sum(counts[:10]) > 0.33 * sum(counts) and counts[-1] < counts[0] / 15
    rank, n = np.log(np.arange(5, 61)), np.log(counts[4:60])
    assert -2 < np.polyfit(rank, n, 1)[0] < -0.7


@pytest.mark.parametrize(
    "error, call",
    [
        (NoNotes, lambda: synthesise(0)),
        (NoNotes, lambda: synthesise(-3)),
        (CodesOutOfRange, lambda: synthesise(1, n_codes=FEWEST_CODES - 1)),
        (CodesOutOfRange, lambda: compose(0, 0, len(RANKING) + 1)),
        (SeedOutOfRange, lambda: synthesise(1, seed=-1)),
        (SeedOutOfRange, lambda: compose(2**32, 0)),
    ],
)
def test_bad_parameters_are_refused_by_name(error, call):
    with pytest.raises(error):
        call()
