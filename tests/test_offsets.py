"Offsets point at the words that travel with them, are put right as a whole file, or are refused; what is read is said."

import json
import os
import random
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from icdrat.codes import icd
from icdrat.data.annotation import read_adjudication, read_brat, read_label_studio, write_brat
from icdrat.data.corpus import build
from icdrat.data.exchange import Notice, load_corpus, read_notes, read_rationales, save_corpus
from icdrat.data.foreign import foreign_rationales
from icdrat.data.offsets import COUNTS, OURS, ShiftedOffsets, Worded, at_words, fits, how_counted, in_characters
from icdrat.types import BadInput, Rationale, Span

TEXT = "Té 🙂🙂 before.\r\nquibblefarn asthma,\r\nhypertension today, type 2 diabetes."
CODES = {"asthma": "J45.909", "hypertension": "I10", "type 2 diabetes": "E11.9"}
NOTES = build("toy", [dict(note_id="n1", text=TEXT, codes=[icd(c) for c in CODES.values()], split="test")])
SECRETS = ("quibblefarn", "asthma", "hypertension", "diabetes")
OTHERS = [way for way in COUNTS if way != OURS]


def place(words, way=OURS):
    "Where the words stand, counted in some way"
    start = TEXT.index(words)
    return tuple(sum(COUNTS[way](TEXT)[:at]) for at in (start, start + len(words)))


def label_studio(folder, marks, **more):
    result = [
        dict(type="labels", from_name="mention", value=dict(start=a, end=b, labels=[CODES[w]]) | said)
        for w, (a, b), said in marks
    ]
    task = dict(id=9, data=dict(note_id="n1", text=TEXT), annotations=[dict(completed_by=1, result=result)]) | more
    (folder / "x.json").write_text(json.dumps([task]))
    return folder / "x.json"


def brat(folder, marks):
    write_brat(folder / "brat", NOTES)
    lines = [
        f"T{n}\t{CODES[w].replace('.', '_')} {a} {b}\t{said.get('text', '')}\n"
        for n, (w, (a, b), said) in enumerate(marks, 1)
    ]
    (folder / "brat/n1.ann").write_text("".join(lines))
    return folder / "brat"


def codiesp(folder, marks):
    lines = [f"n1\tDIAGNOSTICO\t{CODES[w].lower()}\t{said.get('text', '')}\t{a} {b}\n" for w, (a, b), said in marks]
    (folder / "x.tsv").write_text("".join(lines))
    return folder / "x.tsv"


def mdace(folder, marks):
    annotations = [
        dict(begin=a, end=b, code=CODES[w], code_system="ICD-10-CM", covered_text=said.get("text", ""))
        for w, (a, b), said in marks
    ]
    (folder / "x.json").write_text(json.dumps(dict(hadm_id=1, notes=[dict(note_id="n1", annotations=annotations)])))
    return folder / "x.json"


FORMS = [label_studio, brat, codiesp, mdace]
forms = pytest.mark.parametrize("form", FORMS, ids=lambda f: f.__name__)


def came(path):
    "The words at the places of each code, and what was said"
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        found = foreign_rationales(path, NOTES, source="ana").rationales
    said = [str(w.message) for w in heard if issubclass(w.category, Notice)]
    return {r.code.value: [TEXT[s.start : s.end] for s in r.spans] for r in found}, said


RIGHT = {code: [w] for w, code in CODES.items()}


@forms
@pytest.mark.parametrize("way", COUNTS)
def test_a_file_that_counts_in_one_way_comes_in_at_its_words_and_says_so(form, way, tmp_path):
    found, said = came(form(tmp_path, [(w, place(w, way), dict(text=w)) for w in CODES]))
    assert found == RIGHT
    assert [way in s and "3 of 3" in s for s in said] == ([] if way == OURS else [True])


@forms
@pytest.mark.parametrize("way", OTHERS)
def test_a_mark_without_words_follows_the_others_of_its_file(form, way, tmp_path):
    marks = [(w, place(w, way), dict(text=w) if w != "asthma" else {}) for w in CODES]
    assert came(form(tmp_path, marks))[0] == RIGHT


@forms
def test_a_mark_that_no_way_explains_is_refused_by_its_address_or_counted(form, tmp_path):
    mixed = ["UTF-16 units", "UTF-8 bytes", OURS]
    path = form(tmp_path, [(w, place(w, way), dict(text=w)) for w, way in zip(CODES, mixed)])
    with pytest.raises(ShiftedOffsets, match="(line|annotation|region) 1: .*export again") as e:
        came(path)
    assert not any(s in str(e.value) for s in SECRETS)
    left = foreign_rationales(path, NOTES, skip_bad=True)
    assert left.reasons == dict(ShiftedOffsets=2) and [r.code.value for r in left.rationales] == ["E11.9"]
    assert not any(s in repr(left.skipped) for s in SECRETS)


@forms
def test_words_may_differ_in_white_space_only(form, tmp_path):
    over = "asthma,\r\nhypertension"
    marks = [("asthma", place(over), dict(text="asthma, hypertension"))]
    assert came(form(tmp_path, marks)) == ({"J45.909": [over]}, [])


def test_line_breaks_written_as_two_letters_are_white_space(tmp_path):
    over = "asthma,\r\nhypertension"
    path = label_studio(tmp_path, [("asthma", place(over), dict(text=r"asthma,\r\nhypertension"))])
    assert came(path) == ({"J45.909": [over]}, [])


def test_a_published_table_may_lack_a_full_stop_and_nothing_else(tmp_path):
    assert came(codiesp(tmp_path, [("asthma", place("asthma,"), dict(text="asthma"))]))[0] == {"J45.909": ["asthma,"]}
    with pytest.raises(ShiftedOffsets):
        came(codiesp(tmp_path, [("asthma", place("sthma,"), dict(text="asthma"))]))
    with pytest.raises(ShiftedOffsets):
        came(brat(tmp_path, [("asthma", place("asthma,"), dict(text="asthma"))]))


def test_the_readers_of_annotations_ask_the_same_question(tmp_path):
    marks = [(w, place(w, "UTF-16 units"), dict(text=w)) for w in CODES]
    for read in (
        lambda: read_label_studio(label_studio(tmp_path, marks), NOTES, "ana"),
        lambda: read_brat(brat(tmp_path, marks), NOTES, "ana"),
    ):
        with pytest.warns(Notice, match="UTF-16 units"):
            assert {r.code.value: [TEXT[s.start : s.end] for s in r.spans] for r in read()} == RIGHT


def test_a_span_with_its_exact_place_follows_the_folder(tmp_path):
    gold = [Rationale("n1", icd("I10"), [Span(*place("\r\nhypertension"))], "ana")]
    write_brat(tmp_path / "b", NOTES, gold)
    file = tmp_path / "b/n1.ann"
    assert "ExactSpan" in file.read_text()
    shift = {str(i): str(sum(COUNTS["CRLF as one"](TEXT)[:i])) for i in range(len(TEXT) + 1)}
    file.write_text(re.sub(r"\b\d+\b", lambda m: shift[m[0]], file.read_text()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        [r] = read_brat(tmp_path / "b", NOTES, "ana")
    assert TEXT[r.spans[0].start : r.spans[0].end].strip() == "hypertension"


def test_evidence_of_eraser_whose_words_are_other_tokens_is_refused(tmp_path):
    def line(start, text):
        evidence = dict(docid="n1", start_token=start, end_token=start + 1, text=text)
        (tmp_path / "x.jsonl").write_text(json.dumps(dict(annotation_id="n1:I10", evidences=[[evidence]])))
        return foreign_rationales(tmp_path / "x.jsonl", NOTES).rationales

    assert len(line(5, "hypertension")) == 1
    with pytest.raises(ShiftedOffsets, match="line 1: n1: .*from 3 on") as e:
        line(3, "hypertension")
    assert not any(s in str(e.value) for s in SECRETS)


@pytest.mark.parametrize("seed", range(30))
def test_every_place_of_a_text_comes_back_from_every_way_to_count(seed):
    dice = random.Random(seed)
    text = "".join(dice.choices(["a", "é", "🙂", "\r\n", "\n", "\r", "e\u0301", " "], k=30))
    a, b = sorted(dice.sample(range(len(text) + 1), 2))
    for way, sizes in COUNTS.items():
        sums = [sum(sizes(text)[:i]) for i in range(len(text) + 1)]
        [(start, end)] = in_characters(text, [(sums[a], sums[b])], way)
        assert (sums[start], sums[end]) == (sums[a], sums[b])
        assert text[start:end].replace("\r", "") == text[a:b].replace("\r", "")


def test_two_ways_to_different_places_decide_nothing():
    mark = Worded("here", "éaabééa🙂a", ((9, 10),), "a")
    fit = {way: in_characters(mark.text, mark.pieces, way) for way in OTHERS if fits(mark, way)}
    assert len(set(fit.values())) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert how_counted([mark], "x") == OURS
    with pytest.raises(ShiftedOffsets, match="^here: "):
        at_words(mark._replace(pieces=((1, 10**30),)))


# ---- one reader for each form ----


def task(**more):
    return dict(id=4, data=dict(note_id="n1", text=TEXT)) | more


PROPOSED = dict(
    model_version="gpt",
    result=[dict(type="labels", from_name="mention", value=dict(start=0, end=2, labels=["I10"]))],
)


def both_readers(path, **kw):
    yield lambda: read_label_studio(path, NOTES, "ana", **kw)
    yield lambda: foreign_rationales(path, NOTES, source="ana", **kw).rationales


@pytest.mark.parametrize("predictions", [[PROPOSED], [287]])
def test_what_a_model_proposed_is_never_an_annotation(predictions, tmp_path):
    bare = task(id=5, annotations=[], predictions=predictions)
    submitted = task(annotations=[dict(completed_by=1, result=[])], predictions=predictions)
    path = tmp_path / "x.json"
    path.write_text(json.dumps([bare, submitted]))
    for read in both_readers(path):
        with pytest.warns(Notice, match="1 of 2 tasks are not annotated, and the pre-annotations of 1 .*--predictions"):
            assert read() == []
    path.write_text(json.dumps([bare]))
    for read in both_readers(path):
        with pytest.raises(BadInput, match="1 of 1 tasks are not annotated"):
            read()


def test_proposals_are_read_where_they_are_asked_for(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps([task(annotations=[dict(completed_by=1, result=[])], predictions=[PROPOSED])]))
    for read in both_readers(path, predictions=True):
        assert [(r.source, r.code.value) for r in read()] == [("ana", "I10")]
    path.write_text(json.dumps([task(predictions=[287])]))
    for read in both_readers(path, predictions=True):
        with pytest.raises(BadInput, match="numbers only"):
            read()
    with pytest.raises(BadInput, match="are Label Studio's"):
        foreign_rationales(codiesp(tmp_path, []), NOTES, "codiesp", predictions=True)


def test_a_page_of_somebody_s_own_is_read_alike_and_other_regions_are_counted(tmp_path):
    a, b = place("asthma")
    own = dict(type="labels", from_name="my_tag", value=dict(start=a, end=b, labels=["J45.909"]))
    other = [dict(type=t, from_name="q", value={}) for t in ("choices", "choices", "rating")]
    (tmp_path / "x.json").write_text(json.dumps([task(annotations=[dict(completed_by=1, result=[own, *other])])]))
    for read in both_readers(tmp_path / "x.json"):
        with pytest.warns(Notice, match=r"3 regions were not read \(choices, rating\)"):
            assert [(r.level, r.spans) for r in read()] == [("mention", (Span(a, b),))]


@pytest.mark.parametrize("label", ["Diagnosis", "DIAGNOSTICO", "E11.97", "quibblefarn asthma"])
def test_a_label_that_is_no_code_is_refused_by_every_reader(label, tmp_path):
    region = dict(type="labels", from_name="mention", value=dict(start=0, end=2, labels=[label]))
    (tmp_path / "x.json").write_text(json.dumps([task(annotations=[dict(completed_by=1, result=[region])])]))
    for read in both_readers(tmp_path / "x.json"):
        with pytest.raises(BadInput, match="task 4, region 1"):
            read()
    write_brat(tmp_path / "b", NOTES)
    (tmp_path / "b/n1.ann").write_text(f"T1\t{label.replace('.', '_')} 0 2\tTé\n")
    for read in (lambda: read_brat(tmp_path / "b", NOTES, "ana"), lambda: foreign_rationales(tmp_path / "b", NOTES)):
        with pytest.raises(BadInput, match="n1.ann, line 1") as e:
            read()
        assert "quibblefarn" not in str(e.value)


def test_lines_of_brat_that_are_no_marks_are_counted(tmp_path):
    a, b = place("asthma")
    write_brat(tmp_path / "b", NOTES)
    lines = [f"T1\tJ45_909 {a} {b}\tasthma", "A1\tNegation T1", "#1\tAnnotatorNotes T1\tx", "R1\tOf Arg1:T1 Arg2:T1"]
    (tmp_path / "b/n1.ann").write_text("\n".join(lines))
    for read in (lambda: read_brat(tmp_path / "b", NOTES, "ana"), lambda: foreign_rationales(tmp_path / "b", NOTES)):
        with pytest.warns(Notice, match="3 lines that are no marks were not read"):
            read()


def test_an_adjudication_that_nobody_submitted_says_so(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps([task(annotations=[], predictions=[PROPOSED])]))
    with pytest.raises(BadInput, match="nobody has decided"):
        read_adjudication(tmp_path / "x.json", NOTES)


# ---- text that is not what it seems ----

GOLD = {"note_id": "n1", "code": "I10", "spans": [[0, 2]]}
NOTE = {"note_id": "n1", "text": TEXT, "codes": ["I10"]}


@forms
def test_a_byte_order_mark_is_passed_over(form, tmp_path):
    path = form(tmp_path, [(w, place(w), dict(text=w)) for w in CODES])
    for file in path.glob("n1.*") if path.is_dir() else [path]:
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert came(path) == (RIGHT, [])


def test_a_byte_order_mark_in_our_own_files_is_passed_over(tmp_path):
    save_corpus(NOTES, tmp_path / "c")
    (tmp_path / "c/gold.jsonl").write_text(json.dumps(GOLD))
    for file in (tmp_path / "c").glob("*.jsonl"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    corpus = load_corpus(tmp_path / "c")
    assert corpus.note("n1").text == TEXT and len(corpus.gold) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        dict(spans=""),
        dict(spans={}),
        dict(spans=[{}]),
        dict(spans=None),
        dict(source=3),
        dict(source=" "),
        dict(source="m\udc00"),
        dict(note_id="n\ud83d"),
    ],
)
def test_what_is_no_list_of_spans_and_no_name_is_refused_by_every_reader(wrong, tmp_path):
    (tmp_path / "x.jsonl").write_text(json.dumps(GOLD | wrong))
    for read in (read_rationales, lambda path: foreign_rationales(path, NOTES)):
        with pytest.raises(BadInput, match="x.jsonl, line 1"):
            read(tmp_path / "x.jsonl")


@pytest.mark.parametrize(
    "wrong", [dict(offsets=""), dict(scores={}), dict(scores=["1"]), dict(scores=[True]), dict(method=1)]
)
def test_what_is_no_list_of_scores_is_refused(wrong, tmp_path):
    soft = dict(note_id="n1", code="I10", offsets=[[0, 2]], scores=[0.5]) | wrong
    (tmp_path / "x.jsonl").write_text(json.dumps(soft))
    with pytest.raises(BadInput, match="x.jsonl, line 1"):
        foreign_rationales(tmp_path / "x.jsonl", NOTES)


@pytest.mark.parametrize(
    "wrong",
    [
        dict(corpus=5),
        dict(language=5),
        dict(restricted="false"),
        dict(codes="I10"),
        dict(codes={}),
        dict(text="T2DM \ud83d pain"),
        dict(note_id=7),
    ],
)
def test_a_note_with_a_field_of_another_kind_is_refused(wrong, tmp_path):
    (tmp_path / "x.jsonl").write_text(json.dumps(NOTE | wrong))
    with pytest.raises(BadInput, match="x.jsonl, line 1"):
        read_notes(tmp_path / "x.jsonl")


@pytest.mark.parametrize("field", ["rationales", "evidences", "docids", "hard", "soft"])
@pytest.mark.parametrize("junk", ["", {}, 0])
def test_a_field_of_eraser_that_is_no_list_says_nothing_about_evidence(field, junk, tmp_path):
    doc = dict(docid="n1") | ({f"{field}_rationale_predictions": junk} if field in ("hard", "soft") else {})
    row = {"docids": dict(evidences=[]), "evidences": dict(docids=["n1"])}.get(field, dict(rationales=[doc]))
    row = dict(row, annotation_id="n1:I10") | ({field: junk} if field not in ("hard", "soft") else {})
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    with pytest.raises(BadInput, match="x.jsonl, line 1"):
        foreign_rationales(tmp_path / "x.jsonl", NOTES, "eraser")


def test_half_a_character_is_refused_in_every_form_of_json(tmp_path):
    for write in (label_studio, mdace):
        path = write(tmp_path, [("asthma", place("asthma"), dict(text="\ud83d"))])
        with pytest.raises(BadInput, match="half of a character"):
            foreign_rationales(path, NOTES)


def test_an_empty_file_is_an_answer_and_says_so(tmp_path):
    (tmp_path / "x.out").write_text("\n")
    with pytest.warns(Notice, match="x.out: an empty file"):
        assert foreign_rationales(tmp_path / "x.out", NOTES).rationales == []


def icdrat(*words, folder, shell=None, **env):
    "What a command gives, started as a shell would"
    command = [sys.executable, "-m", "icdrat.cli.main", *map(str, words)]
    env = {k: v for k, v in os.environ.items() if k not in ("LC_ALL", "LANG", "PYTHONUTF8")} | env
    if shell:
        command = ["bash", "-c", shell.replace("icdrat", " ".join(command[:3]))]
    return subprocess.run(command, cwd=folder, capture_output=True, env=env, timeout=120)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "notes.jsonl").write_text(json.dumps(NOTE) + "\n")
    (tmp_path / "gold.jsonl").write_text(json.dumps(GOLD | dict(source="ánã")) + "\n")
    return tmp_path


SCORE = "icdrat evaluate plausibility --definition token --draws 5 --out o.json"


@pytest.mark.parametrize(
    "shell",
    [
        f"{SCORE} --notes <(cat notes.jsonl) --gold <(cat gold.jsonl) --pred <(cat gold.jsonl)",
        f"cat notes.jsonl | {SCORE} --notes - --gold gold.jsonl --pred gold.jsonl",
        f"cat gold.jsonl | {SCORE} --notes notes.jsonl --gold gold.jsonl --pred /dev/stdin",
        f"{SCORE} --notes notes.jsonl --gold gold.jsonl --pred - < gold.jsonl",
        f"gzip -c notes.jsonl | {SCORE} --notes - --gold gold.jsonl --pred gold.jsonl",
    ],
)
def test_what_comes_through_a_pipe_is_read_like_a_file(shell, files):
    done = icdrat(folder=files, shell=shell)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads((files / "o.json").read_text(encoding="utf-8"))["n_gold"] == 1


def test_empty_predictions_end_in_two_lines_that_say_how_to_write_nothing(files):
    done = icdrat(folder=files, shell=f"{SCORE} --notes notes.jsonl --gold gold.jsonl --pred /dev/null")
    said = done.stderr.decode()
    assert done.returncode == 2 and "/dev/null: an empty file" in said and "empty spans" in said
    assert not (files / "o.json").exists()


@pytest.mark.parametrize("terminal", ["ascii", "cp1252", "latin-1"])
def test_a_terminal_of_another_encoding_gets_lines_and_files_stay_utf_8(terminal, files):
    coded = dict(PYTHONIOENCODING=terminal, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    done = icdrat(folder=files, shell=f"{SCORE} --notes notes.jsonl --gold gold.jsonl --pred gold.jsonl", **coded)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
    found = json.loads((files / "o.json").read_bytes().decode("utf-8"))
    assert {row["method"] for row in found["scores"]} == {"ánã"}


def test_the_command_says_in_one_line_what_was_mended_and_reads_proposals_when_asked(files):
    save_corpus(NOTES, files / "corpus")
    label_studio(files, [(w, place(w, "UTF-16 units"), dict(text=w)) for w in CODES], predictions=[PROPOSED])
    read = ("annotate", "import", "--corpus", "corpus", "--file", "x.json", "--annotator", "ana", "--out", "a.jsonl")
    done = icdrat(*read, folder=files)
    assert done.returncode == 0 and done.stderr.decode().splitlines()[0].startswith("icdrat: x.json: its offsets")
    assert len(read_rationales(files / "a.jsonl", NOTES.notes)) == 3
    assert icdrat(*read, "--predictions", folder=files).returncode == 0
    assert [r.code.value for r in read_rationales(files / "a.jsonl", NOTES.notes)] == ["I10"]
    seen = icdrat(
        "view", "--notes", "corpus", "--source", "m=x.json", "--predictions", "m", "--out", "p.html", folder=files
    )
    assert seen.returncode == 0 and Path(files / "p.html").exists(), seen.stderr
    wrong = icdrat(
        "view", "--notes", "corpus", "--source", "m=x.json", "--predictions", "k", "--out", "p.html", folder=files
    )
    assert wrong.returncode == 2 and b"no --source has this name" in wrong.stderr
