"What is published is what is loaded, and what is damaged is named: file, line, remedy, never a word of a note."

import pytest

from icdrat.codes import UnknownCode, icd
from icdrat.data.codiesp import (
    KINDS,
    BadFile,
    BadLine,
    MissingFile,
    NoCodiEsp,
    ShiftedOffsets,
    article,
    check_references,
    codiesp,
)
from icdrat.data.corpus import carve
from icdrat.types import BadInput, Span

TEXT = "Varón con hemoptisis y disnea.\r\nEdema 🙂 maleolar, sin disnea hoy."
SECRETS = ("hemoptisis", "disnea", "Edema", "maleolar")
LINES = [
    ("hemoptisis", "r04.2", ["hemoptisis"]),
    ("disnea", "r06.00", ["disnea"]),
    ("edema", "r60.0", ["maleolar", "Edema"]),  # fragments out of reading order
]


def offsets(pieces):
    return ";".join(f"{TEXT.index(p)} {TEXT.index(p) + len(p)}" for p in pieces)


def publish(folder, split, note_id="X-1", extra=""):
    path = folder / split
    for texts, prefix in (("text_files", ""), ("text_files_en", "English: ")):
        (path / texts).mkdir(parents=True)
        (path / texts / f"{note_id}.txt").write_bytes((prefix + TEXT).encode())
    (path / f"{split}D.tsv").write_text("".join(f"{note_id}\t{code}\n" for _, code, _ in LINES))
    (path / f"{split}P.tsv").write_text(f"{note_id}\t0bjd\n")
    rows = [f"{note_id}\tDIAGNOSTICO\t{code}\t{' '.join(p)}\t{offsets(p)}\n" for _, code, p in LINES]
    rows.append(f"{note_id}\tPROCEDIMIENTO\t0bjd\thoy\t{offsets(['hoy'])}\n")
    (path / f"{split}X.tsv").write_bytes((extra + "".join(rows)).encode())


@pytest.fixture
def made(tmp_path):
    folder = tmp_path / "codiesp" / "final_dataset_v4_to_publish"
    publish(folder, "train", "X-1")
    publish(folder, "dev", "Y-1")
    return folder


def refused(error, match, folder, **kwargs):
    "The error is one line that names its place and quotes nothing"
    with pytest.raises(error, match=match) as caught:
        codiesp(folder, **kwargs)
    assert isinstance(caught.value, BadInput)
    assert "\n" not in str(caught.value)
    assert not any(word in str(caught.value) for word in SECRETS)


def edit(file, old, new):
    content = file.read_bytes()
    assert old in content
    file.write_bytes(content.replace(old, new, 1))


def test_every_folder_around_the_files_is_accepted(made, monkeypatch):
    for folder in (made, made.parent, made.parent.parent):
        assert len(codiesp(folder)) == 2
    monkeypatch.setenv("ICDRAT_DATA", str(made.parent.parent))
    assert len(codiesp()) == 2


def test_without_the_corpus_the_message_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.delenv("ICDRAT_DATA", raising=False)
    refused(NoCodiEsp, "ICDRAT_DATA is not set.*record 3837305", None)
    monkeypatch.setenv("ICDRAT_DATA", "")
    refused(NoCodiEsp, "ICDRAT_DATA is not set", None)
    refused(NoCodiEsp, "no folder train/ here.*ICDRAT_DATA", tmp_path)


def test_texts_come_in_character_for_character(made):
    assert codiesp(made).note("X-1").text == TEXT


def test_rationales_hold_all_fragments_sorted(made):
    [edema] = [r for r in codiesp(made).gold if r.code == icd("R60.0") and r.note_id == "X-1"]
    assert [TEXT[s.start : s.end] for s in edema.spans] == ["Edema", "maleolar"]
    assert (edema.source, edema.level) == ("human", "mention")


def test_empty_fragments_are_dropped_and_counted(made):
    edit(made / "dev" / "devX.tsv", b"\tmaleolar Edema\t", b"\tmaleolar Edema \t")
    edit(made / "dev" / "devX.tsv", offsets(["maleolar", "Edema"]).encode(), offsets(["maleolar", "Edema"]).encode() + b";5 5")
    [edema] = [r for r in codiesp(made).gold if r.code == icd("R60.0") and r.note_id == "Y-1"]
    assert len(edema) == 2
    report = check_references(made)["dev"]
    assert (report.empty, report.unordered, report.discontinuous, report.differing) == (1, 1, 1, 0)


def test_two_lines_of_one_code_become_one_rationale(made):
    second = TEXT.rindex("disnea")
    with (made / "dev" / "devX.tsv").open("a", newline="") as f:
        f.write(f"Y-1\tDIAGNOSTICO\tr06.00\tdisnea\t{second} {second + 6}\n")
    [r] = [r for r in codiesp(made).gold if r.code == icd("R06.00") and r.note_id == "Y-1"]
    assert r.spans[1] == Span(second, second + 6)


def test_procedures_are_another_classification(made):
    corpus = codiesp(made, codes="procedures")
    assert {c.system for cs in corpus.codes.values() for c in cs} == {"icd10pcs"}
    assert [r.code.value for r in corpus.gold] == ["0BJD", "0BJD"]


def test_the_translation_has_codes_and_no_spans(made):
    english = codiesp(made, language="en")
    assert english.note("X-1").text.startswith("English: ")
    assert english.codes == codiesp(made).codes
    assert english.gold == ()


def test_official_splits_are_mapped_by_what_is_reported(made):
    assert codiesp(made).splits == dict(train=1, test=1)
    refused(NoCodiEsp, "no folder test/", made, report_on="test")
    publish(made, "test", "Z-1")
    assert codiesp(made, report_on="test").splits == dict(train=1, validation=1, test=1)
    assert codiesp(made).splits == dict(train=1, test=1)


def test_a_note_in_two_splits_is_refused(made):
    publish(made, "test", "X-1")
    refused(BadInput, "'X-1'", made, report_on="test")


@pytest.mark.parametrize("name", ["language", "codes", "report_on"])
def test_an_unknown_choice_lists_the_known_ones(made, name):
    refused(BadInput, f"{name} 'nothing': choose one of", made, **{name: "nothing"})


@pytest.mark.parametrize("name", ["trainD.tsv", "devX.tsv"])
def test_a_missing_empty_or_cut_table_is_named(made, name):
    file = made / ("train" if name.startswith("train") else "dev") / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    refused(BadLine, f"{name}, line .*cut off", made)
    file.write_bytes(b"")
    refused(BadFile, f"{name}.*empty", made)
    file.unlink()
    refused(MissingFile, name, made)


def test_an_evidence_table_cut_within_a_line_is_refused_wherever_it_is_cut(made):
    file = made / "dev" / "devX.tsv"
    whole = file.read_bytes()
    for keep in range(len(whole)):
        if not whole[:keep].endswith(b"\n"):
            file.write_bytes(whole[:keep])
            with pytest.raises(BadInput, match=r"devX\.tsv"):
                codiesp(made)


def test_a_table_that_lost_whole_notes_is_refused(made):
    for texts in ("text_files", "text_files_en"):
        (made / "dev" / texts / "Y-2.txt").write_text("otra nota")
    refused(BadFile, "devD.tsv: 1 notes have no code, the first is 'Y-2'", made)
    with (made / "dev" / "devD.tsv").open("a") as f:
        f.write("Y-2\ti10\n")
    refused(BadFile, "devX.tsv: 1 coded notes have no evidence line", made)


@pytest.mark.parametrize(
    "file, old, new, error, match",
    [
        ("trainD.tsv", b"\tr04.2", b" r04.2", BadLine, "trainD.tsv, line 1: 1 columns instead of 2"),
        ("trainD.tsv", b"r06.00", b"r06.0z", UnknownCode, "trainD.tsv, line 2: 'r06.0z' is not in ICD-10-CM"),
        ("trainD.tsv", b"X-1\tr60", b"X-7\tr60", MissingFile, "trainD.tsv, line 3: note 'X-7' has no text"),
        ("trainX.tsv", b"\themoptisis\t", b"\themo\tptisis\t", BadLine, "trainX.tsv, line 1: 6 columns instead of 5"),
        ("trainX.tsv", b"DIAGNOSTICO\tr06", b"DIAGNOSIS\tr06", BadLine, "trainX.tsv, line 2: the second column"),
        ("trainX.tsv", b"X-1\tDIAGNOSTICO\tr60", b"X-8\tDIAGNOSTICO\tr60", MissingFile, "trainX.tsv, line 3: note 'X-8'"),
        ("trainX.tsv", b"r06.00", b"i10", BadLine, "trainX.tsv, line 2: I10 is not among the codes"),
        ("trainX.tsv", b"10 20", b"20 10", BadLine, "trainX.tsv, line 1: .*backwards"),
        ("trainX.tsv", b"10 20", b"10 2000", BadLine, "trainX.tsv, line 1: a fragment ends at 2000"),
        ("trainX.tsv", b"10 20", b"10", BadLine, "trainX.tsv, line 1: the last column"),
        ("trainX.tsv", b"10 20", b"disnea", BadLine, "trainX.tsv, line 1: the last column"),
        ("trainX.tsv", b"hemoptisis", b"hemopt\xedsis", BadFile, "trainX.tsv: byte .* not UTF-8"),
        ("text_files/X-1.txt", "ó".encode(), b"\xf3", BadFile, "X-1.txt: byte 3 is not UTF-8"),
        ("text_files/X-1.txt", b"Var", b"\xef\xbb\xbfVar", BadFile, "X-1.txt: .*byte-order mark"),
        ("text_files/X-1.txt", b"\r\n", b"\n\n\n", ShiftedOffsets, "trainX.tsv: in 1 of 3 lines"),
    ],
)
def test_damage_is_named_by_file_and_line(made, file, old, new, error, match):
    edit(made / "train" / file, old, new)
    refused(error, match, made)


def test_lost_texts_are_named(made):
    (made / "train" / "text_files" / "X-1.txt").write_bytes(b"")
    refused(BadFile, "X-1.txt: the file is empty", made)
    (made / "train" / "text_files" / "X-1.txt").write_bytes(TEXT.encode()[:30])
    refused(BadLine, "trainX.tsv, line 3: a fragment ends at", made)
    (made / "train" / "text_files" / "X-1.txt").unlink()
    refused(MissingFile, "text_files: no text files", made)


def test_an_article_is_the_id_without_its_last_part():
    assert article("S0004-06142005000700014-1") == article("S0004-06142005000700014-2") == "S0004-06142005000700014"
    assert article("alone") == "alone"


def test_evidence_shows_no_words_of_a_note(made):
    from icdrat.data.codiesp import _codes, _notes, evidence

    notes = _notes(made / "dev", "es")
    shown = repr(evidence(made / "dev", "diagnoses", notes, _codes(made / "dev", "diagnoses", notes)))
    assert not any(word in shown for word in SECRETS)


@pytest.fixture(scope="module")
def real(data_folder):
    return codiesp(data_folder)


def test_the_published_corpus_has_its_published_size(real):
    assert real.splits == dict(train=500, test=250)
    assert len({c for cs in real.codes.values() for c in cs}) > 2000
    assert len(real.gold) == sum(map(len, real.codes.values())) == 8316  # every code has evidence
    assert not real.restricted


@pytest.mark.parametrize("kind, lines", [("diagnoses", (7209, 3431)), ("procedures", (1972, 1046))])
def test_published_offsets_point_at_the_published_words(data_folder, kind, lines):
    reports = check_references(data_folder, kind)
    assert tuple(reports[s].lines for s in ("train", "dev")) == lines
    assert all(r.agreement > 0.998 for r in reports.values())


def test_all_published_lines_together_agree_in_999_of_1000(data_folder):
    reports = [r for kind in KINDS for r in check_references(data_folder, kind).values()]
    assert sum(r.lines for r in reports) == 13_658
    assert sum(r.differing for r in reports) <= 13
    assert sum(r.empty for r in reports) == 4


def test_carved_validation_notes_share_no_article_with_train(real):
    carved = carve(real, 0.1, seed=0, group=article)
    train, validation = ({article(n.id) for n in carved.split(s).notes} for s in ("train", "validation"))
    assert validation and not train & validation


def test_the_published_translation_has_the_same_notes_and_codes(real, data_folder):
    english = codiesp(data_folder, language="en")
    assert english.codes == real.codes and not english.gold
