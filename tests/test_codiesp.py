"What is published is what is loaded, and what is damaged is named: file, line, remedy, never a word of a note."

import gzip
import json
import re
from dataclasses import replace

import pytest

from icdrat.codes import UnknownCode, icd
from icdrat.data.codiesp import (
    KINDS,
    SILVER,
    BadFile,
    BadLine,
    MissingFile,
    NoCodiEsp,
    NotSpanish,
    ShiftedOffsets,
    all_negated,
    article,
    check_references,
    codiesp,
    negated,
    silver,
    without_negated,
)
from icdrat.data.corpus import build, carve
from icdrat.data.exchange import BrokenFile
from icdrat.text import fold
from icdrat.types import BadInput, Rationale, Span

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
    edit(
        made / "dev" / "devX.tsv",
        offsets(["maleolar", "Edema"]).encode(),
        offsets(["maleolar", "Edema"]).encode() + b";5 5",
    )
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
        (
            "trainX.tsv",
            b"X-1\tDIAGNOSTICO\tr60",
            b"X-8\tDIAGNOSTICO\tr60",
            MissingFile,
            "trainX.tsv, line 3: note 'X-8'",
        ),
        ("trainX.tsv", b"r06.00", b"i10", BadLine, "trainX.tsv, line 2: I10 is not among the codes"),
        ("trainX.tsv", b"10 20", b"20 10", BadLine, "trainX.tsv, line 1: .*backwards"),
        ("trainX.tsv", b"10 20", b"10 2000", BadLine, "trainX.tsv, line 1: a fragment ends at 2000"),
        ("trainX.tsv", b"10 20", b"10", BadLine, "trainX.tsv, line 1: the last column"),
        ("trainX.tsv", b"10 20", b"disnea", BadLine, "trainX.tsv, line 1: the last column"),
        ("trainX.tsv", b"hemoptisis", b"hemopt\xedsis", BadFile, "trainX.tsv: byte .* not UTF-8"),
        ("text_files/X-1.txt", "ó".encode(), b"\xf3", BadFile, "X-1.txt: byte 3 is not UTF-8"),
        ("text_files/X-1.txt", b"\r\n", b"\n\n\n", ShiftedOffsets, "trainX.tsv, line 3: .*in 1 of 3 lines"),
    ],
)
def test_damage_is_named_by_file_and_line(made, file, old, new, error, match):
    edit(made / "train" / file, old, new)
    refused(error, match, made)


def test_a_byte_order_mark_is_passed_over_and_a_table_of_bytes_is_put_right(made):
    right = codiesp(made)
    for file in made.rglob("*.t*"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes()) if file.is_file() else None
    assert codiesp(made).gold == right.gold and codiesp(made).note("X-1").text == TEXT
    table = made / "train/trainX.tsv"
    counted = re.sub(r"\b\d+\b(?=[ ;\n]|$)", lambda m: str(len(TEXT[: int(m[0])].encode())), table.read_text())
    table.write_text(counted)
    with pytest.warns(UserWarning, match="trainX.tsv: its offsets are counted in another way .UTF-8 bytes"):
        assert codiesp(made).gold == right.gold


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


def test_all_codes_are_diagnoses_and_procedures_together(made):
    both, parts = codiesp(made, codes="all"), [codiesp(made, codes=k) for k in KINDS]
    assert all(both.codes[n.id] == tuple(c for p in parts for c in p.codes[n.id]) for n in both.notes)
    assert sorted(r.code for r in both.gold) == sorted(r.code for p in parts for r in p.gold)


def test_by_article_no_article_is_in_two_splits_and_the_test_is_whole(real, data_folder):
    apart = codiesp(data_folder, by_article=True)
    train, test = ({article(n.id) for n in apart.split(s).notes} for s in ("train", "test"))
    assert (
        not train & test
        and apart.splits["test"] == real.splits["test"]
        and apart.splits["train"] < real.splits["train"]
    )
    assert {r.note_id for r in apart.gold} <= {n.id for n in apart.notes}


@pytest.mark.parametrize("quality", ["high", "mid", "low"])
def test_silver_spans_point_at_the_english_words_they_repeat(data_folder, quality):
    english = codiesp(data_folder, language="en", codes="all")
    found, differ = silver(english, data_folder / "codiesp" / SILVER, quality)
    assert found and {r.source for r in found} == {f"silver_{quality}"} and not differ


def of_article(folder, split, *note_ids):
    for note_id in note_ids:
        part = folder.parent / f"part-{note_id}"
        publish(part, split, note_id)
        for file in sorted((part / split).rglob("*.t*")):
            if not file.is_file():
                continue
            to = folder / split / file.relative_to(part / split)
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes((to.read_bytes() if to.exists() else b"") + file.read_bytes())


def test_an_article_in_several_splits_stays_in_the_last_only(tmp_path):
    folder = tmp_path / "made"
    of_article(folder, "train", "a-1", "b-1", "c-1", "d-1", "d-2")
    of_article(folder, "dev", "b-2", "c-2", "e-1")
    of_article(folder, "test", "c-3", "f-1")
    ids = {"a-1", "b-2", "c-3", "d-1", "d-2", "e-1", "f-1"}
    apart = codiesp(folder, report_on="test", by_article=True)
    assert {n.id for n in apart.notes} == {r.note_id for r in apart.gold} == ids
    assert apart.splits == dict(train=3, validation=2, test=2)
    assert codiesp(folder, report_on="test").splits == dict(train=5, validation=3, test=2)
    assert codiesp(folder, by_article=True).splits == dict(train=3, test=3)  # the official test is not read


def test_by_article_changes_nothing_where_no_article_is_shared(made):
    whole, apart = codiesp(made), codiesp(made, by_article=True)
    assert apart.table.equals(whole.table) and apart.gold == whole.gold


S = ("English: " + TEXT).index("disnea")
ROW = dict(id="X-1", type="D", code="R06.00", fragments=[[S, S + 6]], text="disnea", q="high")


def silver_of(made, *rows, quality="high"):
    file = made / SILVER
    lines = [r if isinstance(r, str) else json.dumps(r) for r in rows]
    file.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))
    return silver(codiesp(made, language="en"), file, quality)


def test_silver_lines_of_one_code_become_one_rationale(made):
    second = ("English: " + TEXT).rindex("disnea")
    [r], left_out = silver_of(made, ROW, dict(ROW, fragments=[[second, second + 6]]), dict(ROW, q="low"))
    assert r.spans == (Span(S, S + 6), Span(second, second + 6)) and r.source == "silver_high" and left_out == {}


def test_silver_of_another_note_code_or_quality_is_passed_over(made):
    foreign = [dict(ROW, id="Q-1"), dict(ROW, code="I10"), dict(ROW, q="mid"), dict(ROW, type="P", code="0bjd")]
    assert silver_of(made, *foreign) == ([], {})


@pytest.mark.parametrize(
    "wrong",
    [
        dict(fragments=[[S + 1, S + 7]]),
        dict(fragments=[[S, S]]),
        dict(fragments=[]),
        dict(fragments=[[S, S + 6], [9000, 9006]]),
        dict(fragments=[[-6, 0]]),
        dict(text="another"),
        dict(text=None),
        dict(fragments=[[len("English: " + TEXT) - 4, 9000]], text=TEXT[-4:]),
    ],
)
def test_silver_whose_offsets_do_not_fit_is_left_out_and_counted_or_refused(made, wrong):
    found, left_out = silver_of(made, *[ROW] * 39, dict(ROW, **wrong))
    assert left_out == {"X-1": 1} and found == silver_of(made, ROW)[0]
    with pytest.raises(ShiftedOffsets, match="in 2 of 39 lines") as caught:
        silver_of(made, *[ROW] * 37, *[dict(ROW, **wrong)] * 2)
    assert not any(word in str(caught.value) for word in SECRETS)


@pytest.mark.parametrize(
    "damaged, match",
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: a list where an object"),
        *[({k: v for k, v in ROW.items() if k != gone}, f"line 2: no field '{gone}'") for gone in ROW],
        *[
            (dict(ROW, **wrong), "line 2: id is a string, type is D or P and fragments are")
            for wrong in (
                dict(id=["X-1"]),
                dict(id=7),
                dict(type="Q"),
                dict(type=None),
                dict(type=["D"]),
                dict(fragments=None),
                dict(fragments=5),
                dict(fragments="1 2"),
                dict(fragments=[1, 2]),
                dict(fragments=[[1]]),
                dict(fragments=[[1, 2, 3]]),
                dict(fragments=[["1", "2"]]),
                dict(fragments=[[1.0, 2.0]]),
                dict(fragments=[[True, 2]]),
                dict(fragments={"disnea": 1}),
            )
        ],
    ],
)
def test_a_damaged_silver_line_is_named(made, damaged, match):
    with pytest.raises(BadLine, match=match) as caught:
        silver_of(made, ROW, damaged)
    assert not any(word in str(caught.value) for word in SECRETS)


@pytest.mark.parametrize("code", ["R06.0Z", 7, None, ["R06.00"]])
def test_an_unknown_silver_code_is_named(made, code):
    with pytest.raises(UnknownCode, match=r"spans_en_projected\.jsonl\.gz, line 2"):
        silver_of(made, ROW, dict(ROW, code=code))


def test_a_silver_file_that_is_cut_off_missing_or_a_folder_is_refused(made):
    english, file = codiesp(made, language="en"), made / SILVER
    silver_of(made, *[dict(ROW, id=f"Q-{i}") for i in range(50)])
    whole = file.read_bytes()
    for damaged in (whole[:-9], whole[:40], b"no gzip", whole[:60] + b"\x00\xff\x00" + whole[63:]):
        file.write_bytes(damaged)
        with pytest.raises(BrokenFile, match="cut off or damaged"):
            silver(english, file)
    file.unlink()
    with pytest.raises(MissingFile, match="no such file"):
        silver(english, file)
    file.mkdir()
    with pytest.raises(MissingFile, match="folder"):
        silver(english, file)


def marked(*sentences, language="es", system="icd10cm"):
    "A corpus of one note; [brackets] mark the evidence, one code a mention"
    parts = re.split(r"[\[\]]", " ".join(sentences))
    codes = [
        icd(c, system)
        for c in (["r50.9", "r05", "r11.0", "i10", "j18.9", "m54.5"] if system == "icd10cm" else ["0bjd", "3e0"])
    ]
    gold, at = [], 0
    for i, part in enumerate(parts):
        if i % 2:
            gold.append(Rationale("n", codes[i // 2], [Span(at, at + len(part))], "human"))
        at += len(part)
    return build(
        "made", [dict(note_id="n", text="".join(parts), codes=[r.code for r in gold], split="train")], gold, language
    )


def flags(*sentences):
    "The mentions in brackets that are flagged"
    corpus = marked(*sentences)
    text = corpus.note("n").text
    return [text[s.start : s.end] for r in negated(corpus) for s in r.spans]


@pytest.mark.parametrize(
    "sentence",
    [
        "Sin [fiebre].",
        "No refiere [tos].",
        "No se le había visto [pálido].",
        "Nunca [fiebre] ni [tos].",
        "Tampoco tiene [tos].",
        "Niega [tos], [mareo] y [fiebre].",
        "Sin [fiebre], [vómitos] ni [tos].",
        "En ningún momento tuvo [tos].",
        "Ausencia de [edemas] y [soplos].",
        "Libre de [dolor].",
        "Ausencia de masas (TC con contraste) y [adenopatías].",
        "Serología de [sífilis], [hepatitis] y VIH negativa.",
        "Se descarta [neumonía] o [embolia].",
        "Radiografía para descartar [neumonía].",
        "Test negativo para [hepatitis].",
        "No hay signos compatibles con [artritis].",
        "[Hepatitis], [sífilis] y [VIH] negativos.",
        "Serología de [VIH]: negativa.",
        "Se pensó en una [neumonía] que fue descartada.",
        "[Fiebre] ausente.",
    ],
)
def test_a_denied_mention_is_flagged(sentence):
    every = re.findall(r"\[(.*?)\]", sentence)
    assert flags(sentence) == every
    for shouted in (sentence.upper(), fold(sentence)):
        assert len(flags(shouted)) == len(every)


@pytest.mark.parametrize(
    "sentence",
    [
        "[Fiebre] y [tos].",
        "Sin duda [fiebre].",
        "No sólo [fiebre].",
        "Sin cambios en la [tos].",
        "Sin antecedentes médicos de interés, [fumador].",
        "No se pudo descartar una [neumonía].",
        "Sin poder descartar [neumonía].",
        "Niño sin mareo, con [fiebre].",
        "No fuma; [tos] seca.",
        "No come pero tiene [fiebre].",
        "Niega mareo aunque [tose].",
        "Sin alergias que consulta por [tos].",
        "Sin mareo, [vómitos] y [tos].",
        "Ausencia de soplos (no ronca) con [edemas].",
        "Niño (sin mareo) y [tos].",
        "Desaparición de la [fiebre].",
        "[Linfoma no Hodgkin].",
        "[Ausencia de un riñón].",
        "[Sepsis] por estafilococo coagulasa negativo.",
        "[Fiebre], VIH negativo.",
        "[Fiebre] y urocultivos negativos.",
        "[Fiebre]; resultados negativos.",
        "Sin aquellas viejas molestias nocturnas tan habituales entonces durante años [tos].",
    ],
)
def test_an_affirmed_mention_is_not_flagged(sentence):
    assert flags(sentence) == []


def test_a_denial_ends_with_its_sentence():
    assert flags("Sin fiebre.", "[Tos] seca.", "Ambos negativos.") == []
    for before in ("", "No duerme.", "Tose mucho."):
        assert flags(before, "Sin [fiebre] hoy.", "[Tos].") == ["fiebre"]


def test_denied_and_kept_spans_are_the_gold_and_nothing_is_cut_twice():
    corpus = marked("Sin [fiebre].", "Con [tos] seca.", "No refiere [náuseas] ni [mareo].")
    denied, kept = negated(corpus), without_negated(corpus)
    assert {r.source for r in denied} == {"human_negated"} and {r.source for r in kept.gold} == {"human"}
    assert sorted(s for rs in (denied, kept.gold) for r in rs for s in r.spans) == sorted(
        s for r in corpus.gold for s in r.spans
    )
    assert len(kept.gold) == 1 and negated(kept) == [] and without_negated(kept).gold == kept.gold


def test_codes_stay_unless_all_their_evidence_is_denied_and_dropping_was_asked_for():
    corpus = marked("Sin [fiebre].", "Con [tos] seca.")
    tos = corpus.gold[1]
    both = replace(corpus, gold=(replace(corpus.gold[0], spans=corpus.gold[0].spans + tos.spans), tos))
    assert all_negated(corpus) == {("n", icd("R50.9"))} and all_negated(both) == set()
    assert without_negated(corpus).codes == corpus.codes
    assert without_negated(corpus, drop_codes=True).codes == {"n": (icd("R05"),)}
    assert without_negated(both, drop_codes=True).codes == both.codes
    assert without_negated(both).gold[0].spans == tos.spans
    assert without_negated(marked("Sin [fiebre]."), drop_codes=True).codes == {"n": ()}


def test_procedures_are_never_flagged():
    corpus = marked("Sin [broncoscopia].", system="icd10pcs")
    assert negated(corpus) == [] and without_negated(corpus, drop_codes=True).codes == corpus.codes


def test_a_rule_for_spanish_refuses_other_languages():
    for f in (negated, without_negated, all_negated):
        with pytest.raises(NotSpanish, match="the language is 'en'"):
            f(marked("No [fever].", language="en"))


def test_spans_of_white_space_or_across_sentences_do_no_harm():
    text = "  Sin fiebre. Tos.  "
    spans = [Span(0, 1), Span(6, 16), Span(18, 20)]
    corpus = build(
        "made",
        [dict(note_id="n", text=text, codes=[icd("R05")], split="train")],
        [Rationale("n", icd("R05"), spans, "human")],
        "es",
    )
    assert [s for r in negated(corpus) for s in r.spans] == [Span(6, 16)]
    corpus = build(
        "made",
        [dict(note_id="n", text="  Fiebre sin tos", codes=[icd("R50.9")], split="train")],
        [Rationale("n", icd("R50.9"), [Span(1, 8)], "human")],
        "es",
    )
    assert negated(corpus) == []


def test_about_one_published_diagnosis_span_in_ten_is_denied(real):
    count = {s: (sum(map(len, negated(real.split(s)))), sum(map(len, real.split(s).gold))) for s in real.splits}
    assert count == dict(train=(724, 8123), test=(444, 3862))
    assert len(without_negated(real).gold) == len(real.gold) - len(all_negated(real)) == 8316 - 800
