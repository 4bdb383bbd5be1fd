"MIMIC made up in its published schema: texts to the byte, codes with dots, patients whole, every filter counted."

import csv
import gzip
import io
import os
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy.sparse import csr_array

from icdrat.data import mimic as M
from icdrat.data.corpus import SPLITS, BadShare, EmptyCorpus
from icdrat.data.exchange import BadLine, BrokenFile, ForeignFolder, MissingFile, load_corpus
from icdrat.types import BadInput, Code

NASTY = [
    "a\r\nb\n\n",
    ' "quoted", he said ""  ',
    "é\u2028x\u2029\x85\x0c\x1cz",
    "NULL",
    "NA",
    "nan",
    ",",
    '"',
    '""',
    "🙂\r\r\n",
    "\ufeffmark",
    "\t",
    "\\",
    "\\n",
    "x\r",
    "-",
    "0",
    "x" * 300_000,
]
DISCHARGE = "note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text"
COLUMNS = dict(id=pa.int64(), text=pa.large_string())


def table(file, header, rows, packed=True):
    "The published form: strings in quotes, numbers and nothings bare"
    out = io.StringIO(newline="")
    for row in rows:
        out.write(
            ",".join(
                "" if v is None else str(v) if isinstance(v, (int, np.integer)) else '"' + v.replace('"', '""') + '"'
                for v in row
            )
            + "\n"
        )
    data = (header + "\n" + out.getvalue()).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(data, 1) if packed else data)
    return file


def hospital(folder, notes, diagnoses, procedures=(), packed=True, admissions=None, titles=None):
    "notes: (id, patient, admission, type, seq, text); diagnoses, procedures: (patient, admission, seq, code, version)"
    end = ".csv.gz" if packed else ".csv"
    admissions = sorted({d[:2] for d in [*diagnoses, *procedures]}) if admissions is None else admissions
    titles = sorted({d[3:] for d in diagnoses}) if titles is None else titles
    for name, header, rows in [
        ("hosp/admissions", "subject_id,hadm_id,admittime,extra", [(*a, None, "x") for a in admissions]),
        ("hosp/diagnoses_icd", "subject_id,hadm_id,seq_num,icd_code,icd_version", diagnoses),
        (
            "hosp/procedures_icd",
            "subject_id,hadm_id,seq_num,chartdate,icd_code,icd_version",
            [(*p[:3], "2150-01-01", *p[3:]) for p in procedures],
        ),
        ("hosp/d_icd_diagnoses", "icd_code,icd_version,long_title", [(*t, f'The "title" of {t[0]}') for t in titles]),
        (
            "hosp/d_icd_procedures",
            "icd_code,icd_version,long_title",
            sorted({(*p[3:], "A procedure") for p in procedures}),
        ),
        ("note/discharge", DISCHARGE, [(*n[:5], None, None, n[5]) for n in notes]),
    ]:
        table(folder / (name + end), header, rows, packed)
    return folder


def many(n_patients=60, seed=0):
    "Patients with one to four admissions, a few codes each, nasty texts"
    rng = np.random.default_rng(seed)
    notes, diagnoses = [], []
    for p in range(1, n_patients + 1):
        for k in range(rng.integers(1, 5)):
            h = p * 10 + k
            notes.append((f"{p}-DS-{k}", p, h, "DS", k, f"Note {h}.\r\n" + NASTY[h % 17]))
            diagnoses += [
                (p, h, s + 1, c, 10)
                for s, c in enumerate(
                    rng.choice(
                        ["E119", "I10", "R110", "J45909", "Z9981"], 3, replace=False, p=[0.4, 0.3, 0.15, 0.1, 0.05]
                    )
                )
            ]
    return notes, diagnoses


def step(counts, name):
    return counts.set_index("step").loc[name]


@pytest.fixture
def small(tmp_path):
    return hospital(tmp_path / "mimic", *many())


# reading


@pytest.mark.parametrize("packed", [True, False])
def test_texts_come_through_to_the_byte(tmp_path, packed):
    file = table(tmp_path / "t.csv", "id,text", enumerate(NASTY), packed)
    assert [t for b in M.stream(file, COLUMNS) for t in b["text"].to_pylist()] == NASTY


@pytest.mark.parametrize("block", [400_000, 1 << 20])
def test_the_size_of_a_block_changes_nothing(tmp_path, monkeypatch, block):
    texts = [NASTY[i % len(NASTY)] * (1 + i % 3 * (i % len(NASTY) < 17)) for i in range(300)]
    file = table(tmp_path / "t.csv.gz", "id,text", enumerate(texts))
    monkeypatch.setattr(M, "_BLOCK", block)
    assert [t for b in M.stream(file, COLUMNS) for t in b["text"].to_pylist()] == texts


def test_a_block_may_end_inside_a_text(tmp_path, monkeypatch):
    texts = [f"{i}\n" + '\n",\r\n' * 2000 for i in range(60)]
    file = table(tmp_path / "t.csv.gz", "id,text", enumerate(texts))
    monkeypatch.setattr(M, "_BLOCK", 50_000)
    assert [t for b in M.stream(file, COLUMNS) for t in b["text"].to_pylist()] == texts


def test_columns_come_in_the_order_asked_for_and_headers_in_any_case(tmp_path):
    file = table(tmp_path / "t.csv", '"TEXT","OTHER","ID"', [("a", "b", 3)], packed=False)
    [batch] = M.stream(file, COLUMNS)
    assert batch.to_pydict() == dict(id=[3], text=["a"])


def test_a_mark_before_the_header_is_no_part_of_it(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfid,text\n1,a\n")
    assert next(M.stream(tmp_path / "t.csv", COLUMNS)).to_pydict() == dict(id=[1], text=["a"])


SECRET = "patient Maria Secret"
GOOD = f'1,"{SECRET}"\n'.encode()
PACKED = gzip.compress(b"id,text\n" + GOOD * 1000, mtime=0)  # the same bytes in every process that names the tests


@pytest.mark.parametrize(
    "data, error, says",
    [
        (b"id,text\n" + GOOD + b'2,"Secret",3\n', BadLine, "row 3 .*3 columns instead of 2"),
        (b"id,text\n" + GOOD + b'Secret,"Secret"\n', BadLine, "row 3 .*column id holds what is not a number"),
        (b"id,text\n" + GOOD + b'2,"Secret \xe9"\n', BadLine, "row 3 .*column text holds bytes that are not UTF-8"),
        (b"id,text\n" + GOOD + b'2,"Secret', BrokenFile, "no line break"),
        (b"id,text\n" + GOOD + b'2,"Secret\n', BrokenFile, "inside quotation marks"),
        (b"id,text\n" + GOOD + b'2,"said ""Secret""\n', BrokenFile, "inside quotation marks"),
        (b"id,text\n" + b'2,"Secret' + b"x" * (20 << 20) + b'"\n', BrokenFile, "longer than 8 MB"),
        (GOOD, M.WrongColumns, "no column id, text"),
        (b"", M.WrongColumns, "no column id, text"),
        (b"\xff\xfei\x00d\x00", BrokenFile, "not UTF-8"),
        (PACKED[:-9], BrokenFile, "cut off"),
        (PACKED[:30], BrokenFile, "cut off"),
        (PACKED + b"Secret", BrokenFile, "damaged"),
        (b"\x1f\x8bSecret", BrokenFile, "damaged"),
    ],
)
def test_a_bad_file_is_named_and_never_quoted(tmp_path, data, error, says):
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(error, match=says) as e:
        list(M.stream(tmp_path / "t.csv", COLUMNS))
    assert "t.csv" in str(e.value)
    assert "Secret" not in "".join(traceback.format_exception(e.value))


def test_a_folder_or_nothing_where_a_file_should_be(tmp_path):
    for path in (tmp_path, tmp_path / "no.csv"):
        with pytest.raises(MissingFile, match="physionet.org"):
            list(M.stream(path, COLUMNS))


# finding


def test_the_tables_are_found_in_one_folder_in_two_and_unpacked_side_by_side(tmp_path):
    made = hospital(tmp_path / "all", *many(3))
    expected = M.tables(made)
    assert M.tables(made / "hosp", made / "note") == expected == M.tables(made, made)
    hospital(tmp_path / "apart/mimic-iv-3.1", *many(3))
    (tmp_path / "apart/mimic-iv-note-2.2").mkdir()
    (tmp_path / "apart/mimic-iv-3.1/note").rename(tmp_path / "apart/mimic-iv-note-2.2/note")
    assert M.tables(tmp_path / "apart")["discharge"].parent.parent.name == "mimic-iv-note-2.2"


def test_tables_that_no_system_needs_may_be_absent(small):
    for name in ("procedures_icd", "d_icd_procedures"):
        (small / f"hosp/{name}.csv.gz").unlink()
    assert set(M.tables(small, systems=["icd10cm"])) == {"admissions", "discharge", "diagnoses_icd", "d_icd_diagnoses"}
    with pytest.raises(MissingFile, match="hosp/procedures_icd.csv.gz.*physionet"):
        M.tables(small)


def test_two_editions_are_not_mixed(tmp_path):
    for year in ("2.2", "3.1"):
        hospital(tmp_path / year, *many(3))
    with pytest.raises(M.TwoEditions, match="name the folder of one"):
        M.tables(tmp_path)


# codes


@pytest.mark.parametrize(
    "bare, system, value",
    [
        ("E119", "icd10cm", "E11.9"),
        ("I10", "icd10cm", "I10"),
        ("e119 ", "icd10cm", "E11.9"),
        ("E8497", "icd9cm", "E849.7"),
        ("E849", "icd9cm", "E849"),
        ("V5861", "icd9cm", "V58.61"),
    ]
    + [
        ("V10", "icd9cm", "V10"),
        ("4019", "icd9cm", "401.9"),
        ("042", "icd9cm", "042"),
        ("0331", "icd9pcs", "03.31"),
        ("66", "icd9pcs", "66"),
        ("0DTJ4ZZ", "icd10pcs", "0DTJ4ZZ"),
    ],
)
def test_the_dot_goes_where_the_classification_has_it(bare, system, value):
    assert M.dotted(bare, system) == Code(system, value)


def codes_of(assigned, hadm):
    codes, _ = assigned.of(np.flatnonzero(assigned.hadm == hadm))
    return [assigned.codes[c] for c in codes]


def test_codes_keep_their_order_and_count_once(tmp_path):
    rows = [
        (1, 7, 3, "I10", 10),
        (1, 7, 1, "E119", 10),
        (1, 8, 1, "4019", 9),
        (1, 7, 2, "R110", 10),
        (1, 7, 4, "E119", 10),
    ]
    files = M.tables(hospital(tmp_path, [], rows, [(1, 7, 1, "0DTJ4ZZ", 10), (1, 8, 1, "0331", 9)]))
    assert [str(c) for c in codes_of(M.assigned(files, ["icd10cm"]), 7)] == ["E11.9", "R11.0", "I10"]
    every = M.assigned(files, list(M.SOURCES))
    assert [c.system for c in codes_of(every, 7)] == ["icd10cm"] * 3 + ["icd10pcs"]
    assert codes_of(every, 8) == [Code("icd9cm", "401.9"), Code("icd9pcs", "03.31")]
    assert M.assigned(files, ["icd9cm"]).hadm.tolist() == [8]


def test_leaving_codes_out_leaves_the_others_as_they_are(small):
    files = M.tables(small)
    whole = M.assigned(files, ["icd10cm"])
    for out in range(len(whole.codes)):
        part = whole.only(np.arange(len(whole.codes)) != out)
        assert all(codes_of(part, h) == [c for c in codes_of(whole, h) if c != whole.codes[out]] for h in whole.hadm)


def test_a_row_of_a_code_table_without_a_code_or_admission_is_refused(tmp_path):
    for n, row in enumerate([(1, 7, 1, "", 10), (1, None, 1, "I10", 10), (1, 7, 1, "I10", None)]):
        files = M.tables(hospital(tmp_path / str(n), [], [(1, 7, 1, "E119", 10), row], admissions=[(1, 7)], titles=[]))
        with pytest.raises(BrokenFile, match="diagnoses_icd"):
            M.assigned(files, ["icd10cm"])


# texts on disk


@pytest.mark.parametrize("seed", range(5))
def test_spooled_texts_come_back_in_any_order(tmp_path, monkeypatch, seed):
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(M, "_BLOCK", 400_000)
    notes = [(f"{i}", 1, int(rng.integers(1, 5)), "DS", i, NASTY[rng.integers(len(NASTY))]) for i in range(40)]
    file = hospital(tmp_path, notes, []) / "note/discharge.csv.gz"
    listed = M.spool(file, np.array([2, 3]), tmp_path / "texts")
    kept = [n[5] for n in notes if n[2] in (2, 3) and n[5].strip()]
    assert M.spooled(tmp_path / "texts", np.arange(len(kept))).to_pylist() == kept
    order = rng.permutation(len(kept))
    assert M.spooled(tmp_path / "texts", order).to_pylist() == [kept[i] for i in order]
    assert listed.place[listed.place >= 0].tolist() == list(range(len(kept))) and len(listed) == 40
    assert "text" not in listed


# the whole


def test_the_corpus_holds_what_was_published(small, tmp_path):
    notes, diagnoses = many()
    counts = M.mimiciv(small, tmp_path / "out", min_notes=1)
    corpus = load_corpus(tmp_path / "out")
    assert {n.id: n.text for n in corpus.notes} == {n[0]: n[5] for n in notes}
    by_stay = {h: tuple(M.dotted(d[3], "icd10cm") for d in diagnoses if d[1] == h) for h in {d[1] for d in diagnoses}}
    assert dict(corpus.codes) == {n[0]: by_stay[n[2]] for n in notes}
    assert corpus.restricted and corpus.language == "en" and corpus.name == "mimiciv"
    assert (counts.notes.iloc[:9] == len(notes)).all() and (counts.codes.iloc[:9] == len(diagnoses)).all()
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out/counts.csv"), counts)


def test_rows_stand_by_split_then_id_and_no_patient_is_in_two(small, tmp_path, monkeypatch):
    monkeypatch.setattr(M._write, "__defaults__", (7,))  # small batches
    M.mimiciv(small, tmp_path / "out", min_notes=1)
    corpus = load_corpus(tmp_path / "out")
    rows = list(zip(corpus.table["split"].to_pylist(), corpus.table["note_id"].to_pylist()))
    assert rows == sorted(rows, key=lambda r: (SPLITS.index(r[0]), r[1])) and set(s for s, _ in rows) == set(SPLITS)
    patients = {s: {i.split("-")[0] for t, i in rows if t == s} for s in SPLITS}
    assert sum(map(len, patients.values())) == len(set.union(*patients.values())) == 60
    assert {n.id: n.text for n in corpus.notes} == {n[0]: n[5] for n in many()[0]}


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(small, tmp_path):
    for name, seed in dict(a=0, b=0, c=1).items():
        M.mimiciv(small, tmp_path / name, min_notes=1, seed=seed)
    a, b, c = ((tmp_path / n / "notes.arrow").read_bytes() for n in "abc")
    assert a == b != c


def test_packed_or_not_makes_no_difference(tmp_path):
    for packed in (True, False):
        M.mimiciv(hospital(tmp_path / f"in{packed}", *many(), packed=packed), tmp_path / f"out{packed}", min_notes=1)
    assert (tmp_path / "outTrue/notes.arrow").read_bytes() == (tmp_path / "outFalse/notes.arrow").read_bytes()


def test_each_filter_takes_what_it_says_and_counts_it(tmp_path):
    notes, diagnoses = many(20)
    extra = [
        ("a", 1, None, "DS", 9, "no admission"),
        (notes[0][0], *notes[0][1:5], "the same id again"),
        ("b", 1, 10, "DS", 90, " \r\n\t\u2003"),
        ("c", 1, 9999, "DS", 9, "unknown admission"),
        ("d", 2, 10, "DS", 95, "another patient's admission"),
        ("e", 300, 301, "DS", 1, "only in ICD-9"),
        ("f", 1, 10, "AD", 99, "addendum"),
        ("g", 1, 10, "DS", 50, "the last word"),
        ("h", 1, 10, "DS", 40, "the last but one, below it in the file"),
        ("i", 400, 401, "DS", 1, "a rare code"),
    ]
    codes = [*diagnoses, (300, 301, 1, "4019", 9), (400, 401, 1, "A000", 10)]
    folder = hospital(tmp_path / "in", notes + extra, codes)
    counts = M.mimiciv(folder, tmp_path / "out", min_notes=2)
    lost = -counts.set_index("step").notes.diff()
    n = len(notes)
    assert step(counts, "published").notes == n + 10
    assert {k: lost[k] for k in M.FILTERS} == {
        "names its admission": 1,
        "first of its note id": 1,
        "has words": 1,
        "admission is in hosp": 2,
        "admission has wanted codes": 1,
        "is no addendum": 1,
        "is the last of its admission": 2,
    }
    assert (lost["codes in at least 2 notes"], lost["has a code left"]) == (0, 1)
    assert step(counts, "has a code left").notes == n
    before, after = step(counts, "is the last of its admission"), step(counts, "codes in at least 2 notes")
    assert (before.codes - after.codes, before.distinct_codes - after.distinct_codes) == (1, 1)
    ids = {x.id: x.text for x in load_corpus(tmp_path / "out").notes}
    assert ids["g"] == "the last word" and not set("abcdefhi") & set(ids) and "1-DS-0" not in ids
    of_splits = counts[counts.step.str.startswith("of these in ")]
    assert of_splits.notes.sum() == n and of_splits.patients.sum() == 20
    M.mimiciv(folder, tmp_path / "all", min_notes=2, all_notes=True)
    assert set("fgh") | {"1-DS-0"} <= {x.id for x in load_corpus(tmp_path / "all").notes}


def test_a_code_is_rare_below_its_minimum_of_notes_and_not_at_it(tmp_path):
    notes = [(f"{p}", p, p, "DS", 1, "x") for p in range(1, 21)]
    folder = hospital(
        tmp_path / "in",
        notes,
        [(p, p, 1, "I10", 10) for p in range(1, 21)]
        + [(p, p, 2, "E119", 10) for p in range(1, 11)]
        + [(p, p, 3, "R110", 10) for p in range(1, 10)],
    )
    M.mimiciv(folder, tmp_path / "out")
    vocabulary = pd.read_csv(tmp_path / "out/codes.csv")
    assert vocabulary.code.tolist() == ["E11.9", "I10"] and vocabulary.notes.tolist() == [10, 20]
    assert (vocabulary[list(SPLITS)].sum(axis=1) == vocabulary.notes).all()
    assert vocabulary.title[0] == 'The "title" of E119'
    M.mimiciv(folder, tmp_path / "most", min_notes=20)
    assert pd.read_csv(tmp_path / "most/codes.csv").code.tolist() == ["I10"]
    with pytest.raises(EmptyCorpus, match="none of 3 codes is in at least 21 notes"):
        M.mimiciv(folder, tmp_path / "none", min_notes=21)
    assert not (tmp_path / "none").exists()


def test_a_code_without_a_title_is_kept_and_counted(tmp_path):
    notes = [(f"{p}", p, p, "DS", 1, "x") for p in range(1, 11)]
    rows = [(p, p, 1, "I10", 10) for p in range(1, 11)] + [(1, 1, 2, "Q999", 10)]
    counts = M.mimiciv(hospital(tmp_path / "in", notes, rows, titles=[("I10", 10)]), tmp_path / "out", min_notes=1)
    line = step(counts, "of these with a code that has no title")
    assert (line.notes, line.codes, line.distinct_codes) == (1, 1, 1)
    assert Code("icd10cm", "Q99.9") in load_corpus(tmp_path / "out").codes["1"]


def test_notes_of_another_edition_are_refused(tmp_path):
    notes, diagnoses = many()
    folder = hospital(tmp_path / "in", [(n[0], n[1], n[2] + 5000, *n[3:]) for n in notes], diagnoses)
    with pytest.raises(M.MixedEditions, match=f"{len(notes)} of {len(notes)}"):
        M.mimiciv(folder, tmp_path / "out")


def test_only_the_owner_can_read_the_corpus_and_nothing_else_is_left(small, tmp_path):
    old = os.umask(0o022)
    try:
        M.mimiciv(small, tmp_path / "out/corpus", min_notes=1)
    finally:
        os.umask(old)
    assert sorted(p.name for p in (tmp_path / "out/corpus").glob("[!.]*")) == ["codes.csv", "counts.csv", "notes.arrow"]
    assert (tmp_path / "out/corpus").stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "out/corpus").glob("[!.]*")} == {0o600}
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["corpus"]


def test_texts_on_their_way_are_closed_to_others_too(small, tmp_path, monkeypatch):
    seen = []
    inner = M.spooled
    monkeypatch.setattr(
        M, "spooled", lambda path, places: seen.append(path.parent.stat().st_mode & 0o777) or inner(path, places)
    )
    M.mimiciv(small, tmp_path / "corpus", min_notes=1)
    assert seen and set(seen) == {0o700}


def test_a_failure_leaves_what_was_there(small, tmp_path):
    M.mimiciv(small, tmp_path / "out", min_notes=1)
    before = (tmp_path / "out/notes.arrow").read_bytes()
    packed = (small / "note/discharge.csv.gz").read_bytes()
    (small / "note/discharge.csv.gz").write_bytes(packed[:-9])
    with pytest.raises(BrokenFile, match="discharge"):
        M.mimiciv(small, tmp_path / "out", min_notes=1)
    assert (tmp_path / "out/notes.arrow").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mimic", "out"]


def test_a_folder_of_something_else_is_not_replaced(small, tmp_path):
    with pytest.raises(ForeignFolder):
        M.mimiciv(small, small, min_notes=1)


def test_systems_are_checked(small, tmp_path):
    for wrong in ([], ["icd11"], "icd10cm"):
        with pytest.raises(BadInput, match="icd10cm"):
            M.mimiciv(small, tmp_path / "out", systems=wrong)


def test_an_empty_file_of_notes_is_refused(small, tmp_path):
    table(small / "note/discharge.csv.gz", DISCHARGE, [])
    with pytest.raises(EmptyCorpus, match="not a single note"):
        M.mimiciv(small, tmp_path / "out", min_notes=1)


def test_no_text_is_printed(small, tmp_path):
    script = (
        f"from icdrat.data.mimic import mimiciv; print(mimiciv({str(small)!r}, {str(tmp_path / 'out')!r}, min_notes=1))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(M.__file__).parents[2]
    )
    assert done.returncode == 0 and "Note " not in done.stdout + done.stderr
    for name in ("codes.csv", "counts.csv"):
        assert "Note " not in (tmp_path / "out" / name).read_text()


# splits


def patients_and_codes(seed, n_patients=400, n_codes=120):
    rng = np.random.default_rng(seed)
    groups = np.sort(np.concatenate([np.arange(n_patients), rng.integers(0, n_patients, n_patients)]))
    p = 1 / np.arange(2, n_codes + 2)
    return groups, [list(rng.choice(n_codes, rng.integers(1, 9), replace=False, p=p / p.sum())) for _ in groups]


@pytest.mark.parametrize("seed", range(8))
def test_groups_stay_whole_sizes_come_near_and_every_code_is_in_train(seed):
    groups, codes = patients_and_codes(seed)
    split = M.stratify(groups, codes, (0.7, 0.1, 0.2), seed)
    assert all(len(set(split[groups == g])) == 1 for g in set(groups))
    assert np.abs(np.bincount(split, minlength=3) / len(split) - [0.7, 0.1, 0.2]).max() < 0.03
    assert {c for cs, s in zip(codes, split) for c in cs} == {c for cs, s in zip(codes, split) if s == 0 for c in cs}


@pytest.mark.parametrize("seed", range(8))
def test_codes_are_nearer_their_shares_than_by_chance(seed):
    groups, codes = patients_and_codes(seed)
    chance = np.random.default_rng(seed).choice(3, groups.max() + 1, p=[0.75, 0.1, 0.15])[groups]

    def error(split):
        n = np.zeros((120, 3))
        for cs, s in zip(codes, split):
            n[cs, s] += 1
        return np.abs(n - n.sum(axis=1, keepdims=True) * [0.75, 0.1, 0.15]).mean()

    assert error(M.stratify(groups, codes, seed=seed)) < 0.75 * error(chance)


def test_a_split_is_decided_by_its_seed():
    groups, codes = patients_and_codes(0)
    a, b, c = (M.stratify(groups, codes, seed=s) for s in (3, 3, 4))
    assert (a == b).all() and (a != c).any()


def test_lists_and_a_matrix_say_the_same():
    groups, codes = patients_and_codes(1)
    place = {c: j for j, c in enumerate(dict.fromkeys(c for cs in codes for c in cs))}
    matrix = csr_array(
        (np.ones(sum(map(len, codes)), int), [place[c] for cs in codes for c in cs], np.cumsum([0, *map(len, codes)])),
        (len(codes), len(place)),
    )
    assert (M.stratify(groups, codes) == M.stratify(groups, matrix)).all()


def test_the_rarest_code_is_dealt_first_to_whom_lacks_it_most():
    # by hand: four single notes have both codes, eight only the common one; half, a quarter, a quarter
    split = M.stratify(range(12), [["rare", "common"]] * 4 + [["common"]] * 8, (0.5, 0.25, 0.25))
    assert np.bincount(split[:4]).tolist() == [2, 1, 1] and np.bincount(split[4:]).tolist() == [4, 2, 2]


def test_equal_lack_goes_to_the_split_with_most_room():
    # two notes a code: one goes to train, and validation and test lack the other equally
    split = M.stratify(range(80), [[i // 2] for i in range(80)], (0.4, 0.3, 0.3))
    assert np.bincount(split).tolist() == [40, 20, 20]


def test_a_code_that_a_note_names_twice_counts_once():
    groups, codes = patients_and_codes(2)
    assert (M.stratify(groups, codes) == M.stratify(groups, [[*cs, *cs[:2]] for cs in codes])).all()


def test_a_code_of_one_patient_is_in_train_whatever_else_that_patient_has():
    for seed in range(20):
        groups, codes = patients_and_codes(seed, 30, 12)
        codes = [[*cs, f"only {g}"] for g, cs in zip(groups, codes)]
        assert set(M.stratify(groups, codes, seed=seed)) == {0}  # every patient has a code of their own


def test_notes_without_codes_are_shared_out_by_size():
    split = M.stratify(range(200), [[]] * 200, (0.5, 0.3, 0.2))
    assert np.bincount(split).tolist() == [100, 60, 40]


@pytest.mark.parametrize("shares", [(0.8, 0.2), (0.8, 0.2, 0), (0.5, 0.5, 0.5), (1.2, -0.1, -0.1)])
def test_shares_are_three_and_add_up(shares):
    with pytest.raises(BadShare):
        M.stratify(range(9), [["a"]] * 9, shares)


def test_two_patients_cannot_be_parted_in_three():
    with pytest.raises(EmptyCorpus, match="2 groups"):
        M.stratify([1, 1, 2], [["a"]] * 3)


# MIMIC-III


def test_wanted_rows_of_noteevents_come_untouched(tmp_path):
    header = "ROW_ID,SUBJECT_ID,HADM_ID,CHARTDATE,CHARTTIME,STORETIME,CATEGORY,DESCRIPTION,CGID,ISERROR,TEXT"
    rows = [(i, 7, None, "2101-01-01", None, None, "Nursing", "Report", None, None, t) for i, t in enumerate(NASTY)]
    for packed in (True, False):
        file = table(tmp_path / "NOTEEVENTS.csv", header, rows, packed)
        assert M.noteevents(file, range(-5, 500)) == dict(enumerate(NASTY))
        assert M.noteevents(file, {3, 12345}) == {3: NASTY[3]}
        assert M.noteevents(file, []) == {}


def test_codes_of_mimic_iii_have_dots_and_order(tmp_path):
    header = "ROW_ID,SUBJECT_ID,HADM_ID,SEQ_NUM,ICD9_CODE"
    table(
        tmp_path / "DIAGNOSES_ICD.csv.gz",
        header,
        [(1, 1, 5, 2, "4019"), (2, 1, 5, 1, "V5861"), (3, 1, 5, 3, "4019"), (4, 1, 6, None, "")],
    )
    with pytest.raises(MissingFile, match="PROCEDURES_ICD"):
        M.codes_iii(tmp_path)
    table(tmp_path / "PROCEDURES_ICD.csv", header, [(1, 1, 5, 1, "0331")], packed=False)
    assert M.codes_iii(tmp_path) == {5: (Code("icd9cm", "V58.61"), Code("icd9cm", "401.9"), Code("icd9pcs", "03.31"))}


def test_the_made_tables_are_read_by_others_as_they_are_by_us(tmp_path):
    "The oracle of the fixture: Python's own csv module"
    file = table(tmp_path / "t.csv", "id,text", enumerate(NASTY), packed=False)
    csv.field_size_limit(1 << 20)
    with open(file, newline="", encoding="utf-8") as f:
        assert [r[1] for r in list(csv.reader(f))[1:]] == NASTY
