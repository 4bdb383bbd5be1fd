"What goes out to annotators comes back unchanged, whatever the text holds; what cannot come back is refused."

import json
import random

import pytest

from icdrat.codes import icd
from icdrat.data.annotation import (
    BadExport,
    ChangedText,
    Contradiction,
    TwoSources,
    Undecided,
    adjudication,
    compare,
    label_studio_tasks,
    read_adjudication,
    read_brat,
    read_label_studio,
    trimmed,
    write_adjudication,
    write_brat,
    write_label_studio,
)
from icdrat.data.corpus import build
from icdrat.data.exchange import BrokenFile, MissingFile
from icdrat.types import LEVELS, BadInput, Code, Rationale, Span

CODES = [icd("E11.9"), icd("I10"), Code("icd10pcs", "0DTJ4ZZ")]
PIECES = [
    "T2DM",
    " ",
    "\r\n",
    "\n",
    "\t",
    "náuseas",
    "🙂",
    "👨‍👩‍👧",
    "e\u0301",
    "\u2028",
    "\x85",
    "  ",
    ".",
    "CHF",
    "<b>",
    "|",
]


def made(seed, source="ann"):
    "A corpus of three notes of odd characters and random rationales"
    dice = random.Random(seed)
    rows, gold = [], []
    for i in ("n/1", "n 2", "ñ.3"):
        text = "".join(dice.choices(PIECES, k=30)) + "x"
        rows.append(dict(note_id=i, text=text, codes=CODES, split="test"))
        for code in CODES:
            for level in LEVELS:
                if dice.random() < 0.7:
                    cuts = sorted(dice.sample(range(len(text) + 1), 2 * dice.randrange(0, 4)))
                    gold.append(Rationale(i, code, [Span(a, b) for a, b in zip(cuts[::2], cuts[1::2])], source, level))
    return build("odd", rows), gold


def same(a, b):
    assert sorted(map(repr, a)) == sorted(map(repr, b))


@pytest.mark.parametrize("seed", range(40))
def test_label_studio_gives_back_what_it_got(seed, tmp_path):
    corpus, gold = made(seed)
    write_label_studio(tmp_path / "ls", corpus, gold)
    same(read_label_studio(tmp_path / "ls" / "tasks.json", corpus, predictions=True), gold)


@pytest.mark.parametrize("seed", range(40))
def test_brat_gives_back_what_it_got(seed, tmp_path):
    corpus, gold = made(seed)
    write_brat(tmp_path / "brat", corpus, gold)
    same(read_brat(tmp_path / "brat", corpus, "ann"), gold)


def test_spans_that_touch_stay_apart(tmp_path):
    corpus, _ = made(0)
    gold = [Rationale("n/1", CODES[0], [Span(0, 2), Span(2, 4)], "ann")]
    write_brat(tmp_path / "brat", corpus, gold)
    same(read_brat(tmp_path / "brat", corpus, "ann"), gold)
    write_label_studio(tmp_path / "ls", corpus, gold)
    same(read_label_studio(tmp_path / "ls" / "tasks.json", corpus, predictions=True), gold)


def test_sources_stay_apart(tmp_path):
    corpus, gold = made(1)
    both = gold + made(1, "ben")[1]
    write_label_studio(tmp_path / "ls", corpus, both)
    same(read_label_studio(tmp_path / "ls" / "tasks.json", corpus, predictions=True), both)
    with pytest.raises(TwoSources):
        write_brat(tmp_path / "brat", corpus, both)
    assert not (tmp_path / "brat").exists()


def export(path, corpus, annotations, **data):
    [task] = [t for t in label_studio_tasks(corpus) if t["data"]["note_id"] == "n/1"]
    path.write_text(json.dumps([dict(id=5, data=task["data"] | data, annotations=annotations)]))
    return path


def region(start, end, label="E11.9", level="mention"):
    return dict(type="labels", from_name=level, value=dict(start=start, end=end, labels=[label]))


def test_a_slip_in_an_export_is_named(tmp_path):
    corpus, _ = made(2)
    file = tmp_path / "e.json"
    nothing = dict(type="choices", from_name="nothing", value=dict(choices=["E11.9"]))
    for error, annotations, data in [
        (Contradiction, [dict(completed_by=1, result=[region(0, 2), nothing])], {}),
        (Contradiction, [dict(completed_by=1, result=[]), dict(completed_by=1, result=[])], {}),
        (BadInput, [dict(completed_by=1, result=[region(0, 9999)])], {}),
        (BadInput, [dict(completed_by=1, result=[region(4, 2)])], {}),
        (BadExport, [dict(completed_by=1, result=[dict(from_name="mention", value={})])], {}),
        (ChangedText, [], dict(text="another")),
    ]:
        with pytest.raises(error, match="task 5") as caught:
            read_label_studio(export(file, corpus, annotations, **data), corpus)
        assert "T2DM" not in str(caught.value)


def test_a_skipped_annotation_says_nothing(tmp_path):
    corpus, _ = made(2)
    assert (
        read_label_studio(
            export(tmp_path / "e.json", corpus, [dict(completed_by=1, was_cancelled=True, result=[region(0, 2)])]),
            corpus,
        )
        == []
    )


@pytest.mark.parametrize(
    "content, error",
    [(b"[{", BrokenFile), (b"\xff", BrokenFile), (b"{}", BadExport), (b"[1]", BadExport), (b"", BrokenFile)],
)
def test_what_is_no_export_is_refused(content, error, tmp_path):
    (tmp_path / "e.json").write_bytes(content)
    with pytest.raises(error):
        read_label_studio(tmp_path / "e.json", made(0)[0])
    with pytest.raises(MissingFile):
        read_label_studio(tmp_path, made(0)[0])


@pytest.mark.parametrize("line", ["T1", "T1\ticd10cm-I10\tx", "T1\ticd10cm-I10 5 2\tx", "T1\ticd10cm-I10 a b\tx", "\t"])
def test_a_line_that_is_not_brats_is_named(line, tmp_path):
    corpus, gold = made(3)
    write_brat(tmp_path / "b", corpus, gold)
    (tmp_path / "b" / "n%2F1.ann").write_text(line + "\n")
    if line.strip():
        with pytest.raises(BadExport, match="line 1"):
            read_brat(tmp_path / "b", corpus, "ann")


def test_a_text_with_converted_line_endings_is_refused(tmp_path):
    corpus, gold = made(3)
    write_brat(tmp_path / "b", corpus, gold)
    file = tmp_path / "b" / "n%2F1.txt"
    file.write_bytes(file.read_bytes() + b"\r\n")
    with pytest.raises(ChangedText):
        read_brat(tmp_path / "b", corpus, "ann")


@pytest.mark.parametrize("write", [write_label_studio, write_brat])
def test_restricted_notes_are_for_their_owner_only(write, tmp_path):
    corpus, gold = made(4)
    write(
        tmp_path / "out",
        build(
            "odd", [dict(note_id=n.id, text=n.text, codes=CODES, split="test") for n in corpus.notes], restricted=True
        ),
        gold,
    )
    assert (tmp_path / "out").stat().st_mode & 0o77 == 0
    for file in (tmp_path / "out").iterdir():
        assert file.name == ".gitignore" or file.stat().st_mode & 0o77 == 0


def test_blanks_and_punctuation_at_the_ends_are_no_dispute():
    text = " (CHF), EF 25%. "
    assert trimmed(text, Span(0, 7)) == Span(2, 5)
    assert trimmed(text, Span(7, 16)) == Span(8, 14)
    assert trimmed(text, Span(0, 1)) == Span(0, 1)


@pytest.mark.parametrize("seed", range(20))
def test_nobody_disagrees_with_themselves(seed):
    corpus, gold = made(seed)
    settled, tasks = adjudication(corpus, gold, gold)
    assert tasks == [] and {(r.note_id, r.code, r.level) for r in settled} == {
        (r.note_id, r.code, r.level) for r in gold
    }


@pytest.mark.parametrize("seed", range(20))
def test_comparison_is_symmetric_and_adjudication_settles_everything(seed, tmp_path):
    corpus, first = made(seed)
    second = [Rationale(r.note_id, r.code, r.spans[1:], "ben", r.level) for r in first]
    for a, b in zip(compare(corpus, first, second), compare(corpus, second, first)):
        assert (a.agreed, a.first, a.second) == (b.agreed, b.second, b.first)
    settled = write_adjudication(tmp_path / "adj", corpus, first, second)
    tasks = json.loads((tmp_path / "adj" / "tasks.json").read_text())
    done = tmp_path / "done.json"
    for t in tasks:
        t["annotations"] = [dict(completed_by=9, result=t["predictions"][0]["result"])]
    done.write_text(json.dumps(tasks))
    if tasks:
        with pytest.raises(Undecided):
            read_adjudication(done, corpus)
    for t in tasks:
        for r in t["annotations"][0]["result"]:
            if r["from_name"] == "verdict":
                r["value"]["choices"] = ["keep"]
    done.write_text(json.dumps(tasks))
    gold = settled + read_adjudication(done, corpus)
    assert sorted((r.note_id, r.code, r.level) for r in gold) == sorted((r.note_id, r.code, r.level) for r in first)
    assert {r.source for r in gold} <= {"adjudicated"}


@pytest.mark.parametrize("swap", [False, True])
def test_an_overlooked_region_of_either_annotator_is_refused(swap, tmp_path):
    corpus, _ = made(5)
    both = [[Rationale("n/1", CODES[0], [Span(len(corpus.note("n/1")) - 1, len(corpus.note("n/1")))], "ann")], []]
    _, [task] = adjudication(corpus, *(both[::-1] if swap else both))
    task["annotations"] = [dict(completed_by=9, result=task["predictions"][0]["result"])]
    (tmp_path / "done.json").write_text(json.dumps([task]))
    with pytest.raises(Undecided):
        read_adjudication(tmp_path / "done.json", corpus)
