"Offsets without text and text without offsets meet: nothing is lost in silence, nothing of a note is ever said."

import csv
import gzip
import json
import random

import pandas as pd
import pytest

from icdrat.data.corpus import EmptyCorpus
from icdrat.data.exchange import BadLine, MissingFile
from icdrat.data.mdace import (
    COLUMNS,
    UNUSABLE,
    BadChart,
    NoMDACE,
    WrongNotes,
    annotations,
    categories,
    charts,
    check,
    counts,
    fault,
    home,
    lengths,
    mdace,
    oddities,
    own,
    splits,
)
from icdrat.types import SYSTEMS, BadInput, Code, Span

HEADER = "ROW_ID SUBJECT_ID HADM_ID CHARTDATE CHARTTIME STORETIME CATEGORY DESCRIPTION CGID ISERROR TEXT".split()
TEXT = '\n Pt said "ouch", twice;\nhas asthma 🙂 and\r\ngout. Asthma, anew. Fin.\n '
SECRETS = ("ouch", "asthma", "gout", "Asthma", "anew", "Fin")


def a(words, code, code_system="ICD-10-CM", text=TEXT, **fields):
    begin = text.index(words)
    return (
        dict(begin=begin, end=begin + len(words), code=code, code_system=code_system, description="", type="Human")
        | fields
    )


def chart(hadm_id, *notes):
    return dict(
        hadm_id=hadm_id,
        comment="",
        notes=[dict(note_id=i, category=c, description="Report", annotations=m) for i, c, m in notes],
    )


def write(folder, charts, setting="Inpatient", system="ICD-10"):
    for c in charts:
        file = folder / "data" / setting / system / "1.0" / f"{c['hadm_id']}-{system}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(c))
    (folder / "splits" / setting).mkdir(parents=True, exist_ok=True)
    for split, c in zip(("train", "val", "test"), charts):
        for kind in ("ev", "code-ev"):
            (folder / "splits" / setting / f"MDace-{kind}-{split}.csv").write_text(f"{c['hadm_id']}\n")


def noteevents_file(file, texts, ending="\n"):
    "A NOTEEVENTS as MIMIC-III has it: quoted, line breaks and doubled quotes inside; packed when it ends in .gz"
    with (gzip.open if file.suffix == ".gz" else open)(file, "wt", newline="", encoding="utf-8") as f:
        out = csv.writer(f, lineterminator=ending, quoting=csv.QUOTE_NONNUMERIC)
        out.writerow(HEADER)
        for i, text in texts.items():
            out.writerow([int(i), 7, 1, "2100-01-01", "", "", "Report", "Report", "", "", text])
    return file


def made_texts(table, seed=0):
    "A text for every note of a table of annotations, of random words, on whose borders all spans lie"
    rng, texts = random.Random(seed), {}
    for note_id, t in table.groupby("note_id"):
        n = t.end.max() + rng.randrange(1, 50)
        chars = rng.choices('abcdeé", \n', k=n)
        for begin, end in zip(t.begin, t.end):
            chars[begin:end] = rng.choices("klmno", k=end - begin)
        for begin, end in zip(t.begin, t.end):  # after all spans are written, so that one may cut into another
            for at in (begin - 1, end):
                if at >= 0 and not ((t.begin <= at) & (at < t.end)).any():
                    chars[at] = " "
        texts[note_id] = "".join(chars)
    return texts


TEN = [
    chart(
        101,
        (
            11,
            "Discharge summary",
            [a("asthma", "J45.909"), a("Asthma", "J45.909"), a("gout", "M10.9"), a("ouch", "E860", "ICD-9-CM")],
        ),
        (12, "ECG", [a("twice", "93010", "CPT")]),
    ),
    chart(
        102,
        (
            21,
            "Physician",
            [
                a("gout", "M10.9"),
                a("gout", "M10.9"),
                a("has asthma", "J45.909"),
                a("asthma", "J45.909"),
                a("Fin", "T81.4XXA"),
            ],
        ),
    ),
    chart(103, (31, "Physician", [a("gout", "0BJ08ZZ", "ICD-10-PCS")])),
]
TEXTS = {11: TEXT, 12: TEXT, 21: TEXT, 31: TEXT, 99: "another chart's note"}


@pytest.fixture
def made(tmp_path):
    write(tmp_path / "mdace", TEN)
    return tmp_path / "mdace"


@pytest.fixture
def lent(tmp_path):
    return noteevents_file(tmp_path / "NOTEEVENTS.csv", TEXTS)


def refused(error, match, call, *args, **kwargs):
    "The error is one line that names its place and quotes nothing"
    with pytest.raises(error, match=match) as caught:
        call(*args, **kwargs)
    assert isinstance(caught.value, BadInput)
    assert "\n" not in str(caught.value)
    assert not any(word in str(caught.value) for word in SECRETS)


def test_every_folder_around_the_files_is_accepted(made, monkeypatch):
    assert home(made) == home(made.parent) == made
    monkeypatch.setenv("ICDRAT_DATA", str(made.parent))
    assert home() == made


def test_without_the_corpus_the_message_says_how_to_get_it_and_the_notes(tmp_path, monkeypatch):
    monkeypatch.delenv("ICDRAT_DATA", raising=False)
    refused(NoMDACE, "ICDRAT_DATA is not set.*3mcloud/MDACE.*MIT.*MIMIC-III", home)
    refused(NoMDACE, "no folders data/ and splits/", annotations, tmp_path)
    write(tmp_path / "mdace", TEN)
    refused(MissingFile, "Profee", annotations, tmp_path, "Profee")
    refused(MissingFile, "ICD-9", annotations, tmp_path, "Inpatient", "ICD-9")
    refused(MissingFile, "no such file", mdace, tmp_path / "NOTEEVENTS.csv", tmp_path)
    refused(MissingFile, "folder", mdace, tmp_path, tmp_path)


def test_the_table_holds_every_annotation_as_published(made):
    table = annotations(made, "Inpatient", "ICD-10")
    assert tuple(table.columns) == COLUMNS
    assert len(table) == 11
    assert dict(zip(table.hadm_id, table.split)) == {"101": "train", "102": "validation", "103": "test"}
    assert set(table.code_system) <= set(SYSTEMS)


def test_a_chart_without_annotated_notes_does_not_pass_for_one_with(made):
    (made / "data/Inpatient/ICD-10/1.0/103-ICD-10.json").write_text(json.dumps(chart(103)))
    refused(
        BadChart,
        "1 charts of the splits have no annotation, the first is 103",
        annotations,
        made,
        "Inpatient",
        "ICD-10",
    )


@pytest.mark.parametrize("packed", ["NOTEEVENTS.csv", "NOTEEVENTS.csv.gz"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_texts_come_in_character_for_character(made, tmp_path, packed, ending):
    corpus = mdace(noteevents_file(tmp_path / packed, TEXTS, ending), made)
    assert [n.id for n in corpus.notes] == ["11", "12", "21", "31"]
    assert all(n.text == TEXT and n.restricted and n.corpus == "mdace" for n in corpus.notes)
    assert corpus.restricted
    assert corpus.splits == dict(train=2, validation=1, test=1)


def test_spans_of_one_code_in_one_note_are_one_merged_rationale(made, lent):
    corpus = mdace(lent, made)
    gold = {(r.note_id, r.code.value): [TEXT[s.start : s.end] for s in r.spans] for r in corpus.gold}
    assert gold == {
        ("11", "J45.909"): ["asthma", "Asthma"],
        ("11", "M10.9"): ["gout"],
        ("12", "93010"): ["twice"],
        ("21", "M10.9"): ["gout"],  # given twice
        ("21", "J45.909"): ["has asthma"],  # one within the other
        ("21", "T81.4XXA"): ["Fin"],  # not in the tabular list
        ("31", "0BJ08ZZ"): ["gout"],
    }
    assert {(r.source, r.level) for r in corpus.gold} == {("human", "mention")}
    assert {i: set(cs) for i, cs in corpus.codes.items()} == {
        n.id: {r.code for r in corpus.gold if r.note_id == n.id} for n in corpus.notes
    }


def test_oddities_are_named_by_id(made):
    odd = oddities(annotations(made, "Inpatient", "ICD-10"))
    assert sorted(zip(odd.kind, odd.note_id, odd.code)) == [
        ("foreign", "11", "E860"),
        ("overlapping", "21", "J45.909"),
        ("repeated", "21", "M10.9"),
        ("unknown", "21", "T81.4XXA"),
    ]


def test_neighbours_do_not_overlap(made):
    at = TEXT.index("gout")
    spoil(made, annotations=[dict(a("gout", "M10.9"), begin=b, end=e) for b, e in ((at, at + 2), (at + 2, at + 4))])
    table = annotations(made, "Inpatient", "ICD-10")
    assert "103" not in set(oddities(table).hadm_id)


def test_a_foreign_annotation_is_in_no_corpus_chart_or_count(made, lent):
    table = annotations(made, "Inpatient", "ICD-10")
    assert len(own(table)) == 10
    assert "icd9cm" not in {c.system for cs in mdace(lent, made).codes.values() for c in cs}
    assert "icd9cm" not in {c.system for x in charts(table).values() for c in x.codes}
    assert counts(table).annotations.sum() == categories(table).annotations.sum() == 10


def test_counts_know_pairs_and_merged_spans(made):
    [row] = counts(annotations(made, "Inpatient", "ICD-10"), ["setting", "system"]).to_dict("records")
    assert row == dict(
        setting="Inpatient",
        system="ICD-10",
        charts=3,
        notes=4,
        annotations=10,
        codes=5,
        pairs=7,
        spans=8,
        spans_per_pair=8 / 7,
    )


def test_shares_of_categories_sum_to_one(made):
    kinds = categories(annotations(made, "Inpatient", "ICD-10"))
    assert kinds.share_of_notes.sum() == pytest.approx(1)
    assert kinds.share_of_annotations.sum() == pytest.approx(1)
    assert lengths(annotations(made, "Inpatient", "ICD-10"), [0, 1]).iloc[0].tolist() == [3, 10]


def test_a_chart_has_the_codes_of_all_its_notes(made):
    first = charts(annotations(made, "Inpatient", "ICD-10"))["101"]
    assert first.note_ids == ("11", "12") and first.split == "train"
    assert first.codes == (Code("cpt", "93010"), Code("icd10cm", "J45.909"), Code("icd10cm", "M10.9"))


def test_two_revisions_are_not_one_set_of_charts(made):
    write(
        made,
        [
            chart(c, (n, "ECG", [a("gout", "93010", "CPT", type="MapType.EXACT"), a("twice", "93010", "CPT")]))
            for c, n in ((101, 12), (102, 21), (103, 31))
        ],
        system="ICD-9",
    )
    table = annotations(made, "Inpatient")
    assert set(table.system) == {"ICD-10", "ICD-9"} and "MapType.EXACT" in set(table.type)
    refused(BadInput, "2 pairs of setting and system", charts, table)
    assert len(oddities(table)) == 4  # the same span in two revisions is not repeated


def test_a_note_without_a_code_of_the_chosen_sort_stays(made, lent):
    diagnoses, procedures = (mdace(lent, made, codes=c) for c in ("diagnoses", "procedures"))
    assert len(diagnoses) == len(procedures) == 4
    assert diagnoses.codes["12"] == () and {c.system for cs in diagnoses.codes.values() for c in cs} == {"icd10cm"}
    assert {c.system for cs in procedures.codes.values() for c in cs} == {"cpt", "icd10pcs"}
    assert {r.code for r in diagnoses.gold} | {r.code for r in procedures.gold} == {
        r.code for r in mdace(lent, made).gold
    }


def test_categories_choose_notes(made, lent):
    assert mdace(lent, made, categories="Discharge summary").splits == dict(train=1)
    assert [n.id for n in mdace(lent, made, categories=["ECG", "Physician"]).notes] == ["12", "21", "31"]
    refused(
        BadInput,
        "'Letter'; there are Discharge summary, ECG, Physician",
        mdace,
        lent,
        made,
        categories=["ECG", "Letter"],
    )
    refused(BadInput, "no category is named", mdace, lent, made, categories=[])


@pytest.mark.parametrize("name", ["setting", "system", "codes"])
def test_an_unknown_choice_lists_the_known_ones(made, lent, name):
    refused(BadInput, f"{name} 'nothing': choose one of", mdace, lent, made, **{name: "nothing"})


@pytest.mark.parametrize("tolerance", [-0.1, 1, 7])
def test_a_tolerance_is_a_share(made, lent, tolerance):
    refused(BadInput, "tolerance", mdace, lent, made, tolerance=tolerance)


@pytest.mark.parametrize(
    "text, begin, end, found",
    [
        ("ab cd", 0, 2, ""),
        ("ab cd", 3, 5, ""),
        ("ab cd", 0, 5, ""),
        ("ab cd", 3, 6, "outside"),
        ("ab cd", 9, 12, "outside"),
        ("ab  cd", 2, 4, "blank"),
        ("ab cd", 2, 5, "white space"),
        ("ab cd", 0, 3, "white space"),
        ("ab cd", 1, 2, "cut word"),
        ("ab cd", 3, 4, "cut word"),
        ("é1,cd", 0, 2, ""),
        ("é1,cd", 0, 1, "cut word"),
        (" \n", 0, 1, "empty note"),
        ("", 0, 1, "empty note"),
        (None, 0, 1, "missing note"),
    ],
)
def test_the_fault_of_a_span(text, begin, end, found):
    assert fault(text, begin, end) == found


def test_check_names_faults_by_id_and_says_no_word(made, tmp_path):
    file = noteevents_file(tmp_path / "x.csv", {11: "x" + TEXT, 12: "", 21: TEXT[:40]})
    found = check(file, made, "Inpatient", "ICD-10")
    assert found.groupby(["note_id", "fault"]).size().to_dict() == {
        ("11", "white space"): 3,
        ("12", "empty note"): 1,
        ("21", "outside"): 3,
        ("31", "missing note"): 1,
    }
    assert "asthma" not in found.to_string()
    assert check(noteevents_file(tmp_path / "y.csv", TEXTS), made, "Inpatient", "ICD-10").empty


def test_notes_of_another_version_are_refused_by_id(made, tmp_path):
    file = noteevents_file(tmp_path / "x.csv", {11: TEXT, 12: TEXT, 21: TEXT[:40]})
    refused(
        WrongNotes,
        r"4 of 10 annotations do not fit \(3 outside, 1 missing note\), in 2 notes: 21, 31; ",
        mdace,
        file,
        made,
    )


def test_the_tolerance_is_reached_and_not_passed(made, tmp_path):
    file = noteevents_file(tmp_path / "x.csv", {11: TEXT, 12: TEXT, 21: TEXT[:40]})
    corpus = mdace(file, made, tolerance=0.4)
    assert [n.id for n in corpus.notes] == ["11", "12", "21"]  # note 31 is not in the file
    assert [str(r.code) for r in corpus.gold if r.note_id == "21"] == ["J45.909"]
    assert len(corpus.codes["21"]) == 1
    refused(WrongNotes, "4 of 10", mdace, file, made, tolerance=0.39)


def test_a_file_without_one_of_the_notes_gives_no_empty_corpus(made, tmp_path):
    file = noteevents_file(tmp_path / "x.csv", {99: TEXT})
    refused(WrongNotes, "10 of 10 annotations do not fit", mdace, file, made, tolerance=0.99)


def spoil(made, **change):
    "Change a field of the annotation, note or chart of 103"
    file = made / "data/Inpatient/ICD-10/1.0/103-ICD-10.json"
    c = json.loads(file.read_text())
    for place in (c["notes"][0]["annotations"][0], c["notes"][0], c):
        for k, v in change.items():
            if k in place:
                place[k] = v
                if v is ...:
                    del place[k]
    file.write_text(json.dumps(c))


@pytest.mark.parametrize(
    "field, value, match",
    [
        ("begin", ..., "note 31, annotation 1: this annotation has no field 'begin'"),
        ("begin", "0", "begin must be a whole number"),
        ("begin", True, "begin must be a whole number"),
        ("begin", 1.0, "begin must be a whole number"),
        ("begin", None, "begin must be a whole number"),
        ("begin", -1, "begin must be a whole number"),
        ("end", 2**31, "end must be a whole number"),
        ("end", 0, "begin .* is not before end 0"),
        ("end", TEXT.index("gout"), "is not before end"),
        ("code", 45, "code must be a string"),
        ("code", "", "code must be letters"),
        ("code", "asthma\ngout", "code must be letters"),
        ("code_system", "ICD-11", "code_system must be one of ICD-10-CM"),
        ("code_system", "icd10cm", "code_system must be one of"),
        ("type", ..., "no field 'type'"),
        ("annotations", {}, "note 1: annotations must be a list"),
        ("annotations", ["gout"], "note 31, annotation 1: the annotation must be an object"),
        ("note_id", "31", "note_id must be a whole number"),
        ("note_id", 21, "note 21 is already in 102-ICD-10.json"),
        ("category", None, "category must be a string"),
        ("notes", None, "notes must be a list"),
        ("notes", [[]], "must be an object"),
        ("hadm_id", 102, "chart 102 is already in 102-ICD-10.json"),
        ("hadm_id", 104, "1 charts are in no split, the first is 104"),
        ("hadm_id", ..., "no field 'hadm_id'"),
    ],
)
def test_a_wrong_field_is_named_by_file_and_place(made, field, value, match):
    spoil(made, **{field: value})
    refused(BadChart, match, annotations, made, "Inpatient", "ICD-10")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b'"gout"',
        b"gout",
        b"\xff\xfe",
        b'\xef\xbb\xbf{"hadm_id": 1}',
        b"[" * 100_000,
        b"1" * 5000,
        b'{"hadm_id": NaN, "notes": []}',
    ],
)
def test_what_is_no_chart_is_refused(made, content):
    (made / "data/Inpatient/ICD-10/1.0/103-ICD-10.json").write_bytes(content)
    refused(BadChart, "Inpatient/ICD-10/1.0/103-ICD-10.json", annotations, made, "Inpatient", "ICD-10")


def test_a_chart_cut_anywhere_is_refused(made):
    file = made / "data/Inpatient/ICD-10/1.0/103-ICD-10.json"
    whole = file.read_bytes()
    for n in range(len(whole)):
        file.write_bytes(whole[:n])
        with pytest.raises(BadChart):
            annotations(made, "Inpatient", "ICD-10")


def test_a_folder_with_the_name_of_a_chart_is_refused(made):
    (made / "data/Inpatient/ICD-10/1.0/104-ICD-10.json").mkdir()
    refused(BadChart, "104-ICD-10.json: cannot be read", annotations, made, "Inpatient", "ICD-10")


def test_a_copied_chart_and_a_lost_chart_are_named(made):
    folder = made / "data/Inpatient/ICD-10/1.0"
    (folder / "copy.json").write_bytes((folder / "101-ICD-10.json").read_bytes())
    refused(BadChart, "copy.json: chart 101 is already in 101-ICD-10.json", annotations, made, "Inpatient", "ICD-10")
    (folder / "copy.json").unlink()
    (folder / "102-ICD-10.json").unlink()
    refused(
        BadChart,
        "1 charts of the splits have no annotation, the first is 102",
        annotations,
        made,
        "Inpatient",
        "ICD-10",
    )


@pytest.mark.parametrize("content", [b"hadm_id\n101\n", b"101,102\n", b"101\n\n", b"\xff\n", b"101.0\n", b"-101\n"])
def test_a_list_of_charts_holds_numbers_alone(made, content):
    (made / "splits/Inpatient/MDace-ev-train.csv").write_bytes(content)
    refused(BadLine, "Inpatient/MDace-ev-train.csv, line [12]", splits, made)


def test_a_chart_is_in_one_split(made):
    (made / "splits/Inpatient/MDace-ev-test.csv").write_text("103\n102\n")
    refused(BadLine, "MDace-ev-test.csv: chart 102 is already in validation", splits, made)
    (made / "splits/Inpatient/MDace-ev-test.csv").unlink()
    refused(MissingFile, "MDace-ev-test.csv", splits, made)


def test_only_the_asked_kind_of_lists_is_read(made):
    (made / "splits/Inpatient/MDace-code-ev-train.csv").write_text("101\n500\n")
    assert splits(made, whole=True) == splits(made) | {"500": "train"}


def test_a_folder_of_the_other_revision_gives_no_corpus(made, lent):
    write(
        made, [chart(c, (n, "ECG", [a("gout", "M10.9")])) for c, n in ((101, 11), (102, 21), (103, 31))], system="ICD-9"
    )
    refused(EmptyCorpus, "no notes", mdace, lent, made, system="ICD-9")


@pytest.mark.parametrize("seed", range(3))
def test_made_texts_fit_their_annotations(made, tmp_path, seed):
    table = annotations(made, "Inpatient", "ICD-10")
    file = noteevents_file(tmp_path / "NOTEEVENTS.csv.gz", made_texts(table, seed))
    assert not set(check(file, made, "Inpatient", "ICD-10").fault) & set(UNUSABLE)


# the published files


@pytest.fixture(scope="module")
def published(data_folder):
    if not (data_folder / "mdace").is_dir():
        pytest.skip("no mdace/ among the corpora")
    return data_folder / "mdace"


@pytest.fixture(scope="module")
def table(published):
    return annotations(published)


def test_the_published_files_have_the_published_size(table):
    sizes = counts(table, ["setting", "system"]).set_index(["setting", "system"])[
        ["charts", "notes", "annotations", "codes", "pairs"]
    ]
    assert {k: tuple(v) for k, v in sizes.T.to_dict("list").items()} == {
        ("Inpatient", "ICD-10"): (302, 603, 3934, 1022, 3592),
        ("Inpatient", "ICD-9"): (302, 604, 3934, 918, 3543),
        ("Profee", "ICD-10"): (52, 588, 5563, 734, 3963),
        ("Profee", "ICD-9"): (52, 588, 5563, 652, 3881),
    }
    by_split = counts(table).set_index(["setting", "system", "split"]).charts
    assert by_split["Inpatient", "ICD-10"].to_dict() == dict(train=181, validation=60, test=61)
    assert by_split["Profee", "ICD-9"].to_dict() == dict(train=31, validation=10, test=11)


def test_the_published_oddities_are_known(table):
    odd = oddities(table)
    assert sorted(odd[odd.kind == "foreign"].code) == ["E860", "E861"]
    assert sorted(odd[odd.kind == "unknown"].code) == ["T81.4XXA", "V29.49XA", "V29.9XXA"]
    assert len(odd[odd.kind == "repeated"]) == 1
    assert odd[odd.kind == "overlapping"].groupby(["setting", "system"]).size().to_dict() == {
        ("Inpatient", "ICD-9"): 2,
        ("Profee", "ICD-9"): 1,
    }


def test_published_icd_codes_carry_their_dots(table):
    for system, shape in dict(
        icd10cm=r"[A-Z]\d[A-Z0-9](\..+)?",
        icd9cm=r"(\d{3}|V\d\d|E\d{3})(\..+)?",
        icd9pcs=r"\d\d\.\d{1,2}",
        icd10pcs=r"[A-Z0-9]{7}",
        cpt=r"\d{5}",
    ).items():
        codes = own(table).query("code_system == @system").code
        assert codes.str.fullmatch(shape).all(), system


def test_the_settings_share_charts_but_not_splits(published):
    inpatient, profee = splits(published), splits(published, "Profee")
    assert profee.keys() <= inpatient.keys()
    crossed = [(inpatient[i], profee[i]) for i in profee]
    assert (crossed.count(("test", "train")), crossed.count(("train", "test"))) == (8, 7)
    for setting, ids in (("Inpatient", inpatient), ("Profee", profee)):
        whole = splits(published, setting, whole=True)
        assert len(whole) == 52_722 and all(whole[i] == s for i, s in ids.items())


@pytest.mark.parametrize(
    "setting, system, packed",
    [("Inpatient", "ICD-10", ".csv.gz"), ("Inpatient", "ICD-9", ".csv"), ("Profee", "ICD-9", ".csv.gz")],
)
def test_the_published_offsets_and_made_notes_become_a_corpus(published, table, tmp_path, setting, system, packed):
    mine = table[(table.setting == setting) & (table.system == system)]
    file = noteevents_file(tmp_path / f"NOTEEVENTS{packed}", made_texts(mine))
    corpus = mdace(file, published, setting, system, tolerance=0)
    assert len(corpus) == own(mine).note_id.nunique() and corpus.restricted
    assert set(check(file, published, setting, system).fault) <= {"cut word"}  # where one span lies within another
    [size] = counts(mine, ["setting", "system"]).to_dict("records")
    assert len(corpus.gold) == size["pairs"] and sum(map(len, corpus.gold)) == size["spans"]
    assert sum(len(cs) for cs in corpus.codes.values()) == size["pairs"]


def test_discharge_summaries_hold_most_inpatient_evidence_and_little_of_the_other(table):
    share = (
        categories(table)
        .query("category == 'Discharge summary' and system == 'ICD-10'")
        .set_index("setting")
        .share_of_annotations
    )
    assert share["Inpatient"] == pytest.approx(0.873, abs=0.001) and share["Profee"] == pytest.approx(0.285, abs=0.001)
    assert lengths(pd.concat([table[table.system == "ICD-10"]]), [0.5, 0.99]).values.tolist() == [[13, 63], [12, 48]]


def test_spans_are_half_open(made, lent):
    [r] = [r for r in mdace(lent, made).gold if r.note_id == "31"]
    assert r.spans == (Span(TEXT.index("gout"), TEXT.index("gout") + 4),)
