"A corpus keeps its promises, in memory and in files."

import gzip
import json
import os
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from icdrat.codes import icd
from icdrat.data.corpus import (
    SCHEMA,
    EmptyCorpus,
    UnknownSplit,
    build,
    carve,
    code_matrix,
    codes_among,
    head,
    to_level,
    vocabulary,
)
from icdrat.data.exchange import (
    BadLine,
    BrokenFile,
    ForeignFolder,
    MissingFile,
    arrow_file,
    load_corpus,
    read_arrow,
    read_explanations,
    read_notes,
    read_rationales,
    save_corpus,
    whole_file,
    whole_folder,
    write_explanations,
    write_notes,
    write_rationales,
)
from icdrat.types import BadInput, Code, Explanation, Rationale, Span

TEXT = "T2DM 🙂 on metformin.\r\nNiega náuseas."


def corpus(n=40, **kw):
    rng = np.random.default_rng(0)
    values = ["E11.9", "E11.65", "I10", "A41.9", "J18.9"]
    rows = [
        dict(
            note_id=f"a{i // 2}-{i % 2}",
            text=TEXT,
            codes=[icd(v) for v in rng.choice(values, 2, replace=False)],
            split="train" if i % 4 else "test",
        )
        for i in range(n)
    ]
    gold = [Rationale(r["note_id"], r["codes"][0], (Span(0, 4), Span(10, 19)), "human") for r in rows]
    return build("toy", rows, gold, **kw)


def same(a, b):
    return a.table.equals(b.table) and a.gold == b.gold and (a.language, a.restricted) == (b.language, b.restricted)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_carving_moves_whole_groups_of_train_only(share):
    before, article = corpus(), lambda i: i.split("-")[0]
    after = carve(before, share, seed=3, group=article)
    assert after.splits["test"] == before.splits["test"]
    split = dict(zip(after.table["note_id"].to_pylist(), after.table["split"].to_pylist()))
    sides = {}
    for i, s in split.items():
        if s != "test":
            sides.setdefault(article(i), set()).add(s)
    assert all(len(s) == 1 for s in sides.values())
    assert same(after, carve(before, share, seed=3, group=article)), "the same seed carves the same notes"


def test_categories_gather_the_codes_below_them():
    threes = to_level(corpus(), 3)
    assert {c.value for c in vocabulary(threes)} == {"E11", "I10", "A41", "J18"}
    assert all(len(set(cs)) == len(cs) for cs in threes.codes.values())
    assert all(r.code in threes.codes[r.note_id] for r in threes.gold)


def test_the_matrix_says_what_the_notes_say():
    c = corpus()
    codes = vocabulary(c)
    matrix = code_matrix(c, codes)
    for row, cs in zip(matrix, c.codes.values()):
        assert {codes[j] for j in np.flatnonzero(row)} == set(cs)


def test_a_split_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(UnknownSplit, match="there are train, test"):
        corpus().split("validation")
    with pytest.raises(EmptyCorpus):
        head(corpus(), 0)


@pytest.mark.parametrize("language, restricted", [("en", False), ("es", False), ("en", True)])
def test_a_corpus_comes_back_from_its_folder_as_it_went(tmp_path, language, restricted):
    c = corpus(language=language, restricted=restricted)
    save_corpus(c, tmp_path / "toy")
    assert same(load_corpus(tmp_path / "toy"), c)
    if restricted:
        assert oct((tmp_path / "toy").stat().st_mode)[-3:] == "700"
        assert oct((tmp_path / "toy" / "notes.jsonl").stat().st_mode)[-3:] == "600"


def test_codes_of_other_systems_travel_with_their_system(tmp_path):
    pcs = Code("icd10pcs", "0DTJ4ZZ")
    c = build(
        "toy",
        [dict(note_id="n", text=TEXT, codes=[pcs, icd("I10")], split="test")],
        [Rationale("n", pcs, (Span(0, 4),), "human")],
    )
    save_corpus(c, tmp_path / "toy")
    assert same(load_corpus(tmp_path / "toy"), c)


def test_explanations_come_back_with_six_digits(tmp_path):
    soft = Explanation("n", icd("I10"), np.array([[0, 4], [5, 6]]), np.array([1 / 3, -2e-9]), "attention")
    write_explanations(tmp_path / "e.jsonl", [soft])
    [back] = read_explanations(tmp_path / "e.jsonl")
    np.testing.assert_allclose(back.scores, soft.scores, rtol=1e-5)
    np.testing.assert_array_equal(back.offsets, soft.offsets)


GOOD = '{"note_id": "a0-0", "code": "I10", "spans": [[0, 4]]}'


@pytest.mark.parametrize(
    "line, why",
    [
        ('{"note_id": "a0-0", "code": "I10"', "not JSON"),
        ("[1, 2]", "a list where an object"),
        ('{"note_id": "a0-0", "spans": [[0, 4]]}', "no field 'code'"),
        ('{"note_id": "zz", "code": "I10", "spans": [[0, 4]]}', "no note has the id 'zz'"),
        ('{"note_id": "a0-0", "code": "Q999999", "spans": [[0, 4]]}', "not in ICD-10-CM"),
        ('{"note_id": "a0-0", "code": 10, "spans": [[0, 4]]}', "wrong type"),
        ('{"note_id": "a0-0", "code": "I10", "spans": [[4, 4]]}', "0 <= start < end"),
        ('{"note_id": "a0-0", "code": "J18.9", "spans": [[0, 400]]}', "ends after"),
        ('{"note_id": "a0-0", "code": "I10", "spans": [[0, "4"]]}', "wrong type"),
        ('{"note_id": "a0-0", "code": "I10", "spans": [[0, 1, 2]]}', "wrong type"),
        ('{"note_id": "a0-0", "code": "I10", "spans": [[false, true]]}', "wrong type"),
        ('{"note_id": "a0-0", "code": "I10", "spans": null}', "wrong type"),
        ('{"note_id": "a0-0", "code": "I10", "spans": [[0, 4]], "level": "word"}', "level 'word'"),
        ('{"note_id": "a0-0", "code": "I10", "spans": [[0, 4]], "system": "icd11"}', "'icd11' is not a code system"),
        (GOOD, "already given in line 1"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path, line, why):
    file = tmp_path / "pred.jsonl"
    file.write_text(GOOD + "\n\n" + line + "\n")
    with pytest.raises(BadLine) as e:
        read_rationales(file, corpus().notes)
    assert f"{file}, line 3: " in str(e.value) and why in str(e.value)
    assert "metformin" not in str(e.value)


def test_overlapping_foreign_spans_are_sorted_and_merged_touching_ones_are_kept_apart(tmp_path):
    (tmp_path / "p.jsonl").write_text(
        '{"note_id": "a0-0", "code": "I10", "spans": [[5, 9], [0, 4], [3, 4]]}\n'
        '{"note_id": "a0-0", "code": "J18.9", "spans": [[0, 4], [4, 6]]}\n'
    )
    merged, apart = read_rationales(tmp_path / "p.jsonl", corpus().notes)
    assert merged.spans == (Span(0, 4), Span(5, 9))
    assert apart.spans == (Span(0, 4), Span(4, 6))


def test_half_a_gz_and_a_missing_file_and_another_encoding_are_named(tmp_path):
    write_notes(tmp_path / "notes.jsonl", corpus())
    whole = gzip.compress((tmp_path / "notes.jsonl").read_bytes())
    (tmp_path / "whole.jsonl.gz").write_bytes(whole)
    assert len(read_notes(tmp_path / "whole.jsonl.gz")) == 40
    for size in (5, len(whole) // 2, len(whole) - 4):
        (tmp_path / "half.jsonl.gz").write_bytes(whole[:size])
        with pytest.raises(BrokenFile, match="half.jsonl.gz.*cut off"):
            read_notes(tmp_path / "half.jsonl.gz")
    (tmp_path / "latin.jsonl").write_bytes('{"note_id": "n", "text": "náuseas"}'.encode("latin-1"))
    with pytest.raises(BrokenFile, match="not UTF-8"):
        read_notes(tmp_path / "latin.jsonl")
    with pytest.raises(MissingFile, match="no such file"):
        read_notes(tmp_path / "nothing.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(EmptyCorpus):
        read_notes(tmp_path / "empty.jsonl")


def test_one_restricted_line_makes_the_corpus_restricted(tmp_path):
    (tmp_path / "n.jsonl").write_text(
        '{"note_id": "a", "text": "x y"}\n{"note_id": "b", "text": "z", "restricted": true}\n'
    )
    assert read_notes(tmp_path / "n.jsonl").restricted


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    (tmp_path / "f.jsonl").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("old")
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "f.jsonl") as part:
        part.write_text("half")
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "folder", holds="a") as part:
        (part / "a").write_text("half")
        raise KeyboardInterrupt
    assert (tmp_path / "f.jsonl").read_text() == "old" and (tmp_path / "folder" / "a").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["f.jsonl", "folder"]


def test_a_folder_that_is_not_ours_is_never_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ForeignFolder, match="holds no notes.jsonl"):
        save_corpus(corpus(), tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_rationales_come_back_as_they_went(tmp_path):
    c = corpus()
    write_rationales(tmp_path / "g.jsonl", c.gold)
    assert tuple(read_rationales(tmp_path / "g.jsonl", c.notes)) == c.gold
    assert set(json.loads((tmp_path / "g.jsonl").read_text().splitlines()[0])) == {
        "note_id",
        "code",
        "spans",
        "source",
        "level",
    }


@pytest.mark.parametrize("value", ["", "E", "E11.", "11.9", "e11 9", "A00-A09", "4", "ZZZ", "E11.9.9.9.9"])
def test_only_codes_are_codes(value):
    try:
        code = icd(value)
    except BadInput:
        return
    assert code == icd("E11"), f"{value!r} was taken for {code}"


@pytest.mark.parametrize("restricted", [False, True])
def test_an_arrow_folder_holds_the_same_corpus(tmp_path, restricted):
    c = corpus(restricted=restricted, language="es")
    save_corpus(c, tmp_path / "toy")
    save_corpus(c, tmp_path / "toy", arrow=True)
    assert same(load_corpus(tmp_path / "toy"), c)
    assert sorted(p.name for p in (tmp_path / "toy").iterdir()) == [".gitignore"] * restricted + [
        "gold.jsonl",
        "notes.arrow",
    ]
    if restricted:
        assert oct((tmp_path / "toy" / "notes.arrow").stat().st_mode)[-3:] == "600"


def test_an_arrow_file_that_is_not_a_corpus_is_refused(tmp_path):
    for content in (b"", b"ARROW1\0\0", b"note_id,text\n"):
        (tmp_path / "notes.arrow").write_bytes(content)
        with pytest.raises(BrokenFile, match="notes.arrow"):
            load_corpus(tmp_path)
    with (
        pa.OSFile(str(tmp_path / "notes.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, pa.schema([("a", pa.int64())])) as file,
    ):
        file.write(pa.table({"a": [1]}))
    with pytest.raises(BrokenFile, match="its columns must be"):
        load_corpus(tmp_path)


def test_an_arrow_file_that_forgot_whether_it_is_restricted_is(tmp_path):
    c = corpus()
    with (
        pa.OSFile(str(tmp_path / "notes.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, SCHEMA.with_metadata({"name": "toy"})) as file,
    ):
        file.write(c.table)
    assert load_corpus(tmp_path).restricted


def test_an_arrow_file_may_be_written_in_batches_and_is_mapped_not_read(tmp_path):
    c = corpus()
    with arrow_file(tmp_path / "notes.arrow", "toy") as file:
        for at in range(0, len(c), 7):
            file.write(c.table.slice(at, 7))
    before = pa.total_allocated_bytes()
    read = read_arrow(tmp_path / "notes.arrow")
    assert pa.total_allocated_bytes() - before < 1000
    assert read.table.equals(c.table) and read.codes == c.codes
    assert [n.text for n in read.notes] == [n.text for n in c.notes]


def test_notes_are_a_sequence():
    c = corpus()
    notes = list(c.notes)
    assert (
        c.notes[0] == notes[0]
        and c.notes[-1] == notes[-1]
        and c.notes[3:9:2] == notes[3:9:2]
        and c.notes[::-1] == notes[::-1]
    )
    assert all(c.note(n.id) == n for n in notes)
    with pytest.raises(IndexError):
        c.notes[len(notes)]


def test_codes_survive_notes_without_any_and_slices():
    rows = [
        dict(note_id=str(i), text="x", codes=[icd(v) for v in vs], split="train")
        for i, vs in enumerate([[], ["I10"], [], ["E11.9", "I10"], []])
    ]
    c = build("toy", rows)
    assert {i: [x.value for x in cs] for i, cs in c.codes.items()} == {
        "0": [],
        "1": ["I10"],
        "2": [],
        "3": ["E11.9", "I10"],
        "4": [],
    }
    part = replace(c, table=c.table.slice(2, 2))
    assert {i: len(cs) for i, cs in part.codes.items()} == {"2": 0, "3": 2}
    assert codes_among(part, [icd("I10")]) == {"2": [], "3": [icd("I10")]}


def test_a_code_of_an_earlier_year_travels_and_has_a_category(tmp_path):
    old, cpt = Code("icd10cm", "T81.4XXA"), Code("cpt", "99213")
    c = build(
        "toy",
        [dict(note_id="a", text=TEXT, codes=[old, cpt, icd("I10")], split="test")],
        [Rationale("a", old, (Span(0, 4),), "human")],
    )
    for arrow in (False, True):
        save_corpus(c, tmp_path / "toy", arrow)
        assert same(load_corpus(tmp_path / "toy"), c)
    assert to_level(c, 3).gold[0].code == icd("T81")
    (tmp_path / "pred.jsonl").write_text('{"note_id": "a", "code": "T81.4XXA", "spans": [[0, 4]]}\n')
    with pytest.raises(BadLine, match="T81.4XXA"):
        read_rationales(tmp_path / "pred.jsonl")
