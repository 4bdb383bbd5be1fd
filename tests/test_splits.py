"Published splits are read from either form, and what they lack is counted."

import gzip
import warnings

import pandas as pd
import pytest
from typer.testing import CliRunner

from icdrat.cli.main import app
from icdrat.data.corpus import EmptyCorpus
from icdrat.data.exchange import Notice, load_corpus
from icdrat.data.mimic import TwoEditions, summaries
from icdrat.data.splits import (
    BENCHMARKS,
    SharedAdmission,
    benchmark,
    beside,
    published_scores,
    published_splits,
    top_50,
)
from icdrat.types import BadInput, Code

PLACED = {10: "train", 11: "train", 12: "validation", 13: "test"}


def lists(folder, name="full", placed=PLACED, end="\n"):
    "As Mullenbach et al. publish them"
    folder.mkdir(parents=True, exist_ok=True)
    for split, ours in dict(train="train", dev="validation", test="test").items():
        ids = [i for i, s in placed.items() if s == ours]
        (folder / f"{split}_{name}_hadm_ids.csv").write_bytes("".join(f"{i}{end}" for i in ids).encode())
    return folder


def table(folder, stem, placed=PLACED, **more):
    "As Edin et al. publish them"
    folder.mkdir(parents=True, exist_ok=True)
    rows = dict(_id=list(placed), split=[s.replace("validation", "val") for s in placed.values()])
    pd.DataFrame(rows | more).to_feather(folder / f"{stem}.feather")
    return folder


def hospital(folder, packed=False, codes=("4019", "25000")):
    "A MIMIC-III of five admissions, one of them with an addendum at the end of the file"
    folder.mkdir(parents=True, exist_ok=True)
    hadm = [10, 11, 12, 13, 14]
    same = dict(CHARTDATE="", CHARTTIME="", STORETIME="", DESCRIPTION="", CGID="", ISERROR="")
    kinds = ["Discharge summary"] * 5 + ["Nursing", "Discharge summary"]
    notes = dict(ROW_ID=range(7), SUBJECT_ID=[1, 2, 3, 4, 5, 1, 1], HADM_ID=[*hadm, 10, 10], CATEGORY=kinds)
    notes |= same | dict(TEXT=[f"Secret {h}.\n" for h in hadm] + ["Slept.", 'Addendum, "seen".'])
    order = ["ROW_ID", "SUBJECT_ID", "HADM_ID", "CHARTDATE", "CHARTTIME", "STORETIME", "CATEGORY", "DESCRIPTION"]
    words = pd.DataFrame(notes)[[*order, "CGID", "ISERROR", "TEXT"]].to_csv(index=False).encode()
    (folder / f"NOTEEVENTS.csv{'.gz' * packed}").write_bytes(gzip.compress(words) if packed else words)
    rows = [(h, n, c) for h in hadm for n, c in enumerate(codes, 1)]
    billed = pd.DataFrame(rows, columns=["HADM_ID", "SEQ_NUM", "ICD9_CODE"]).assign(ROW_ID=1, SUBJECT_ID=1)
    billed.to_csv(folder / "DIAGNOSES_ICD.csv", index=False)
    billed.assign(ICD9_CODE="3893")[:1].to_csv(folder / "PROCEDURES_ICD.csv", index=False)
    return folder


# ---- reading ----


@pytest.mark.parametrize("name", BENCHMARKS)
def test_both_forms_say_the_same(tmp_path, name):
    assert published_splits(table(tmp_path / "deep/er", BENCHMARKS[name][3]).parents[0], name) == PLACED
    if name in ("full", "50"):
        assert published_splits(lists(tmp_path / "lists", name, end="\r\n"), name) == PLACED


def test_a_table_as_parquet_is_read_too(tmp_path):
    rows = pd.DataFrame(dict(_id=[1], split=["val"]))
    rows.to_parquet(tmp_path / "mimiciv_icd10_splits.parquet")
    assert published_splits(tmp_path, "icd10") == {1: "validation"}


def test_splits_that_lie_there_twice_are_not_chosen_among(tmp_path):
    lists(tmp_path / "a")
    table(tmp_path / "b", "mimiciii_full_splits")
    with pytest.raises(TwoEditions, match="name the folder of one"):
        published_splits(tmp_path, "full")


def test_an_admission_in_two_splits_is_refused(tmp_path):
    lists(tmp_path)
    (tmp_path / "test_full_hadm_ids.csv").write_text("13\n10\n")
    with pytest.raises(SharedAdmission, match="admission 10 is in train and in test"):
        published_splits(tmp_path, "full")


@pytest.mark.parametrize("words", ["10\nsecret note\n", "1.5\n", "-1\n", b"\xff\n", b"\x1f\x8bx"])
def test_a_list_of_something_else_is_refused_without_quoting_it(tmp_path, words):
    lists(tmp_path)
    (tmp_path / "dev_full_hadm_ids.csv").write_bytes(words if isinstance(words, bytes) else words.encode())
    with pytest.raises(BadInput, match="dev_full_hadm_ids.csv") as refused:
        published_splits(tmp_path, "full")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "spoil, why",
    [
        (lambda f: f.write_bytes(f.read_bytes()[:50]), "cannot be read"),
        (lambda f: pd.DataFrame(dict(_id=[1])).to_feather(f), "no column split"),
        (lambda f: pd.DataFrame(dict(_id=[1], split=["x"])).to_feather(f), "no admission in train"),
        (lambda f: pd.DataFrame(dict(_id=["a"], split=["val"])).to_feather(f), "no admission in train"),
        (lambda f: pd.DataFrame(dict(_id=[1, 1], split=["val", "test"])).to_feather(f), "admission 1 is in"),
        (lambda f: f.unlink(), "no mimiciii_clean_splits.feather beneath it"),
    ],
)
def test_a_table_of_something_else_is_refused(tmp_path, spoil, why):
    spoil(table(tmp_path, "mimiciii_clean_splits") / "mimiciii_clean_splits.feather")
    with pytest.raises(BadInput, match=why):
        published_splits(tmp_path, "clean")


# ---- corpora ----


@pytest.mark.parametrize("packed", [False, True])
def test_a_corpus_carries_the_published_splits_and_says_what_is_missing(tmp_path, packed):
    splits = lists(tmp_path / "splits", placed=PLACED | {99: "test"})
    with pytest.warns(Notice, match="1 of 5 admissions have no note here, and 1 of 5 notes are in no split"):
        counts = benchmark(hospital(tmp_path / "iii", packed), tmp_path / "out", splits, "full")
    corpus = load_corpus(tmp_path / "out")
    found = dict(zip(corpus.table["note_id"].to_pylist(), corpus.table["split"].to_pylist()))
    assert found == {str(i): s for i, s in PLACED.items()} and corpus.restricted
    assert corpus.note("10").text == 'Secret 10.\n Addendum, "seen".'
    assert corpus.codes["10"] == (Code("icd9cm", "401.9"), Code("icd9cm", "250.00"), Code("icd9pcs", "38.93"))
    assert counts.set_index("step").notes["is in a published split"] == 4


def test_nothing_is_said_where_nothing_is_missing(tmp_path):
    splits = lists(tmp_path / "splits", placed=PLACED | {14: "test"})
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        benchmark(hospital(tmp_path / "iii"), tmp_path / "out", splits, "full")


def test_the_fifty_are_the_published_ones_and_other_codes_go(tmp_path):
    assert len(top_50()) == 50 and {c.system for c in top_50()} == {"icd9cm", "icd9pcs"}
    iii = hospital(tmp_path / "iii", codes=("4019", "78039"))
    with pytest.warns(Notice):
        benchmark(iii, tmp_path / "out", lists(tmp_path / "splits", "50"), "50")
    codes = {str(c) for cs in load_corpus(tmp_path / "out").codes.values() for c in cs}
    assert codes == {"401.9", "38.93"}


def test_splits_of_another_mimic_are_refused_and_leave_nothing(tmp_path):
    splits = lists(tmp_path / "splits", placed={i + 1000: s for i, s in PLACED.items()})
    with pytest.raises(EmptyCorpus, match="none of 4 admissions of the splits is among 5 notes"):
        benchmark(hospital(tmp_path / "iii"), tmp_path / "out", splits, "full")
    assert not (tmp_path / "out").exists()


def test_addenda_are_joined_however_many_are_joined_at_once(tmp_path):
    import numpy as np

    from icdrat.data.mimic import spooled

    file = hospital(tmp_path / "iii") / "NOTEEVENTS.csv"
    read = []
    for at_once in (1, 2, 500):
        rows = summaries(file, np.array([10, 12, 14]), tmp_path / f"{at_once}.arrow", at_once)
        read.append((rows.hadm_id.tolist(), spooled(tmp_path / f"{at_once}.arrow", rows.place.to_numpy()).to_pylist()))
    assert read[0] == read[1] == read[2] and read[0][0] == [10, 12, 14]


@pytest.mark.parametrize(
    "words, why",
    [
        (["--splits", "x"], "give both, or neither"),
        (["--benchmark", "full"], "give both, or neither"),
        (["--splits", "x", "--benchmark", "mine"], "choose one of full"),
        (["--splits", "x", "--benchmark", "full", "--min-notes", "3"], "leave out --system"),
        (["--splits", "nowhere", "--benchmark", "full"], "beneath it"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(tmp_path, words, why):
    words = ["data", "mimic", "--folder", str(tmp_path), "--out", str(tmp_path / "out"), *words]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, BadInput) and why in str(done.exception), done.exception
    assert not (tmp_path / "out").exists()


# ---- scores ----


def test_every_published_score_names_its_paper_and_where_it_was_read():
    scores = published_scores()
    assert scores.notna().all().all() and (scores[["paper", "read_in"]].map(len) > 10).all().all()
    assert scores.value.between(0, 1).all() and not scores.duplicated(["split", "coder", "metric"]).any()
    assert set(scores.split) <= set(BENCHMARKS)
    for (_, definition), some in scores.groupby(["split", scores.metric.str.partition("/")[0]]):
        assert definition == ("edin" if (some.paper == "Edin et al. 2023").all() else "mullenbach")


def test_ours_stand_beside_theirs_in_their_columns():
    table = beside({"ours": {"edin/f1_micro": 0.5, "edin/other": 1.0}}, "icd10")
    assert table.loc["ours", "edin/f1_micro"] == 0.5 and table.loc["PLM-ICD (published)", "edin/f1_micro"] == 0.585
    assert "edin/other" not in table and table.loc["ours"].isna().sum() == table.shape[1] - 1
