"A file of a million lines is read in the same words as a file of one."

import json
import random

import numpy as np
import pytest

from icdrat.codes import icd
from icdrat.data.corpus import build
from icdrat.data.exchange import BadLine, read_rationales
from icdrat.data.foreign import foreign_rationales
from icdrat.evaluation.plausibility.definitions import all_plausibility, summarise_plausibility
from icdrat.text import merge_spans
from icdrat.types import BadInput, Code, Rationale, Span

TEXT = "T2DM on metformin, HTN. " * 8
VALUES = ["E11.9", "e119", " I10", "R11", "Z99.9X", "X99"]


def plain(row, source):
    "What a line says, step by step and without any memory"
    spans = sorted(Span(*pair) for pair in row["spans"])
    if any(b.start < a.end for a, b in zip(spans, spans[1:])):
        spans = merge_spans(spans)
    system = row.get("system", "icd10cm")
    code = Code(system, row["code"]) if row.get("unlisted") is True else icd(row["code"], system)
    return Rationale(row["note_id"], code, spans, row.get("source", source), row.get("level", "mention"))


def lines(seed, n=200):
    "Rows as people write them: any order, overlapping, other cases, other systems"
    rng, rows = random.Random(seed), {}
    for _ in range(n):
        row = dict(note_id=f"n{rng.randrange(20)}", code=rng.choice(VALUES[:4]), source=rng.choice("ab"))
        row["level"] = rng.choice(["mention", "sentence"])
        starts = [rng.randrange(90) for _ in range(rng.randrange(4))]
        row["spans"] = [[s, s + rng.randint(1, 20)] for s in starts]
        if rng.random() < 0.2:
            row["system"] = "icd9cm"
        if rng.random() < 0.1:
            row["unlisted"] = True
            row["code"] = "E99.99"
        said = plain(row, "x")
        rows.setdefault((said.note_id, said.code, said.source, said.level), row)
    return list(rows.values())


@pytest.fixture
def corpus():
    return build("toy", [dict(note_id=f"n{i}", text=TEXT, codes=[], split="test") for i in range(20)])


def written(rows, path):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("seed", range(8))
def test_both_readers_say_what_the_lines_say_one_by_one(seed, corpus, tmp_path):
    rows = lines(seed)
    file = written(rows, tmp_path / "x.jsonl")
    expected = [plain(row, "x") for row in rows]
    assert read_rationales(file, corpus.notes) == expected
    assert foreign_rationales(file, corpus).rationales == expected


@pytest.mark.parametrize(
    "change",
    [
        dict(spans=[[5, 3]]),
        dict(spans=[[9, 12], [5, 3], [4, 4]]),
        dict(spans=[[1, 2.0]]),
        dict(spans=[[True, 2]]),
        dict(spans=[[1, 2, 3]]),
        dict(spans=[1, 2]),
        dict(spans="1 2"),
        dict(spans=[[0, 9999]]),
        dict(code="X99.Q"),
        dict(code=119),
        dict(code=["E11.9"]),
        dict(code=""),
        dict(system=["icd10cm"]),
        dict(system="icd11"),
        dict(source=""),
        dict(source=" "),
        dict(source=7),
        dict(source="\ud83d"),
        dict(level="word"),
        dict(note_id=7),
        dict(note_id="nobody"),
    ],
    ids=str,
)
def test_a_mistake_has_the_line_in_which_it_stands_however_often_it_was_met(change, corpus, tmp_path):
    good = [dict(note_id=f"n{i}", code="E11.9", spans=[[0, 4]], source="a", level="mention") for i in range(3)]
    wrong = dict(good[0], note_id="n9") | change
    with pytest.raises(BadInput) as alone:
        read_rationales(written([wrong], tmp_path / "x.jsonl"), corpus.notes)
    with pytest.raises(BadInput) as third:
        read_rationales(written([*good, wrong], tmp_path / "x.jsonl"), corpus.notes)
    assert str(third.value) == str(alone.value).replace("line 1", "line 4") and "line 4" in str(third.value)
    with pytest.raises(BadInput, match="line 4"):
        foreign_rationales(tmp_path / "x.jsonl", corpus)


@pytest.mark.parametrize("read", [read_rationales, foreign_rationales])
def test_a_pair_that_comes_twice_is_named_with_both_lines(read, corpus, tmp_path):
    rows = [dict(note_id=f"n{i}", code="E11.9", spans=[], source="a") for i in (0, 1, 2, 1)]
    with pytest.raises(BadLine, match="line 4: n1, E11.9 was already given in line 2"):
        read(written(rows, tmp_path / "x.jsonl"), corpus.notes if read is read_rationales else corpus)


def test_notes_without_gold_change_no_number_of_those_with_gold():
    rng = random.Random(1)
    notes = [build("toy", [dict(note_id=f"n{i}", text=TEXT, codes=[], split="test") for i in range(20)]).notes[i]
             for i in range(20)]  # fmt: skip

    def found(source, ids):
        spans = lambda: [Span(s, s + rng.randint(1, 9)) for s in sorted(rng.sample(range(0, 150, 10), 3))]
        return [Rationale(n.id, icd(c), spans(), source) for n in ids for c in ("E11.9", "I10")]

    gold, predicted = found("human", notes[:8]), found("toy", notes)
    some = [r for r in predicted if r.note_id in {n.id for n in notes[:8]}]
    both = [
        summarise_plausibility(all_plausibility(ns, gold, rs, progress=False), n_draws=50)
        for ns, rs in ((notes, predicted), (notes[:8], some))
    ]
    np.testing.assert_array_equal(both[0]["metric"], both[1]["metric"])
    np.testing.assert_allclose(*(b[["value", "low", "high"]].to_numpy() for b in both), atol=1e-12)


def test_places_and_names_that_many_lines_share_are_one_object(corpus, tmp_path):
    rows = [dict(note_id="n1", code=c, spans=[[0, 4]], source="a") for c in ("E11.9", "I10")]
    one, other = foreign_rationales(written(rows, tmp_path / "x.jsonl"), corpus).rationales
    assert one.note_id is other.note_id and one.source is other.source and one.spans[0] is other.spans[0]
