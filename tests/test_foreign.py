"Rationales of other programs come in to the character; what cannot come in is named by its line and never quoted."

import json
import random
from collections import Counter

import numpy as np
import pytest
from test_annotation import CODES, made, same
from test_mdace import TEN, made_texts, noteevents_file, write

from icdrat.codes import icd
from icdrat.data.annotation import write_brat, write_label_studio
from icdrat.data.codiesp import codiesp
from icdrat.data.codiesp import home as codiesp_home
from icdrat.data.corpus import build
from icdrat.data.eraser import tokens
from icdrat.data.exchange import read_explanations, write_explanations, write_rationales
from icdrat.data.foreign import FORMS, UnknownForm, foreign_rationales, form_of
from icdrat.data.mdace import annotations, mdace, own
from icdrat.data.mdace import home as mdace_home
from icdrat.text import merge_spans, words
from icdrat.types import BadInput, Explanation, Rationale, Span

TEXT = "Has xylocanary disease.\r\nT2DM 🙂\ton  metformin, quibblefarn náuseas."
SECRETS = ("xylocanary", "quibblefarn", "náuseas", "metformin")
NOTES = build(
    "toy",
    [
        dict(note_id="n1", text=TEXT, codes=[icd("E11.9"), icd("I10")], split="test"),
        dict(note_id="n2", text="HTN.", codes=[icd("I10")], split="test"),
    ],
)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("form", ["exchange", "labelstudio", "brat"])
def test_what_we_write_comes_in_unchanged_and_its_form_is_seen(seed, form, tmp_path):
    corpus, gold = made(seed)
    if form == "exchange":
        write_rationales(tmp_path / "x.jsonl", gold)
    else:
        (write_brat if form == "brat" else write_label_studio)(tmp_path / "x", corpus, gold)
    path = tmp_path / {"exchange": "x.jsonl", "labelstudio": "x/tasks.json", "brat": "x"}[form]
    came = foreign_rationales(path, corpus, source="ann", predictions=form == "labelstudio")
    assert came.form == form and came.skipped == [] and came.explanations == []
    same(came.rationales, gold)


@pytest.mark.parametrize("seed", range(20))
def test_explanations_come_in_unchanged(seed, tmp_path):
    rng = np.random.default_rng(seed)
    corpus, _ = made(seed)
    given = [
        Explanation(n.id, c, w := words(n.text), rng.normal(size=len(w)), "attention")
        for n in corpus.notes
        for c in CODES
    ]
    write_explanations(tmp_path / "soft.jsonl", given)
    came = foreign_rationales(tmp_path / "soft.jsonl", corpus)
    assert came.rationales == [] and [(e.note_id, e.code, e.method) for e in came.explanations] == [
        (e.note_id, e.code, e.method) for e in given
    ]
    for a, b in zip(came.explanations, read_explanations(tmp_path / "soft.jsonl"), strict=True):
        np.testing.assert_array_equal(a.scores, b.scores)
        np.testing.assert_array_equal(a.offsets, b.offsets)


@pytest.mark.parametrize("seed", range(20))
def test_tokens_of_eraser_are_the_pieces_of_split_and_their_stretches_come_in_as_characters(seed, tmp_path):
    dice = random.Random(seed)
    corpus, _ = made(seed)
    lines, expected = [], []
    for note in corpus.notes:
        pieces = note.text.split()
        assert [note.text[a:b] for a, b in tokens(note.text)] == pieces
        for code in CODES[:2]:
            pairs = [
                (a, dice.randrange(a + 1, len(pieces) + 1))
                for a in dice.sample(range(len(pieces)), dice.randrange(0, min(4, len(pieces))))
            ]
            scores = [dice.random() for _ in pieces]
            doc = dict(
                docid=note.id,
                hard_rationale_predictions=[dict(start_token=a, end_token=b) for a, b in pairs],
                soft_rationale_predictions=scores,
            )
            lines.append(dict(annotation_id=f"{note.id}__{code}", rationales=[doc], classification="yes"))
            expected.append((note, code, pairs, scores))
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    came = foreign_rationales(tmp_path / "m.jsonl", corpus)
    assert came.form == "eraser"
    for r, e, (note, code, pairs, scores) in zip(came.rationales, came.explanations, expected, strict=True):
        assert (r.note_id, r.code, r.source) == (note.id, code, "m") and list(e.scores) == scores
        marked = {i for a, b in pairs for i in range(a, b)}
        touched = [k for k, (a, b) in enumerate(e.offsets) if any(s.start < b and a < s.end for s in r.spans)]
        assert set(touched) == marked
        assert all(not note.text[s.start].isspace() and not note.text[s.end - 1].isspace() for s in r.spans)


def test_gold_of_eraser_joins_its_groups_and_an_empty_line_is_an_answer(tmp_path):
    evidence = [
        [dict(docid="n1", start_token=2, end_token=3, text="disease.")],
        [dict(docid="n1", start_token=3, end_token=5, text="T2DM 🙂")],
    ]
    rows = [
        dict(annotation_id="1", query="E11.9", classification="yes", evidences=evidence, docids=["n1"]),
        dict(annotation_id="n2:I10", query="?", classification="no", evidences=[], docids=["n2"]),
    ]
    (tmp_path / "gold.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    first, second = foreign_rationales(tmp_path / "gold.jsonl", NOTES, source="human").rationales
    assert [TEXT[s.start : s.end].split() for s in first.spans] == [["disease."], ["T2DM", "🙂"]] and second.spans == ()


def test_the_gold_of_codiesp_comes_in_as_its_own_reader_gives_it(data_folder):
    for split, name in (("train", "train"), ("dev", "test")):
        corpus = codiesp(data_folder / "codiesp", codes="all")
        came = foreign_rationales(
            codiesp_home(data_folder / "codiesp") / split / f"{split}X.tsv", corpus, source="human"
        )
        ids = set(corpus.split(name).codes)
        same(came.rationales, [r for r in corpus.gold if r.note_id in ids])
        assert came.form == "codiesp" and came.skipped == []


def test_the_charts_of_mdace_come_in_as_its_own_reader_gives_them(data_folder, tmp_path):
    table = annotations(data_folder / "mdace", "Inpatient", "ICD-10")
    texts = {int(i): t for i, t in made_texts(table).items()}
    corpus = mdace(noteevents_file(tmp_path / "NOTEEVENTS.csv.gz", texts), data_folder / "mdace")
    came = foreign_rationales(
        mdace_home(data_folder / "mdace") / "data/Inpatient/ICD-10/1.0", corpus, source="human", skip_bad=True
    )
    ours = {(s, c) for s, c in zip(own(table).code_system, own(table).code)}
    same([r for r in came.rationales if (r.code.system, r.code.value) in ours], corpus.gold)
    assert came.form == "mdace" and set(came.reasons) <= {"UnknownNote"}


def test_one_chart_and_a_folder_of_charts_are_read(tmp_path):
    write(tmp_path / "mdace", TEN)
    text = "x" * 80
    corpus = build("toy", [dict(note_id=str(i), text=text, codes=[], split="test") for i in (11, 12, 21, 31)])
    folder = tmp_path / "mdace/data/Inpatient/ICD-10/1.0"
    both = foreign_rationales(folder, corpus, source="m").rationales
    each = [
        r for file in sorted(folder.glob("*.json")) for r in foreign_rationales(file, corpus, source="m").rationales
    ]
    assert both == each and len(both) > 5


GOOD = {"note_id": "n1", "code": "E11.9", "spans": [[25, 29]]}
ERASER = {
    "annotation_id": "n1:E11.9",
    "rationales": [{"docid": "n1", "hard_rationale_predictions": [{"start_token": 0, "end_token": 2}]}],
}
SOFT = {"note_id": "n1", "code": "E11.9", "offsets": [[0, 3], [4, 9]], "scores": [1, 0]}


@pytest.mark.parametrize(
    "form, line, why",
    [
        ("exchange", GOOD | dict(spans=[[0, 999]]), "ends after"),
        ("exchange", GOOD | dict(code="E11.97"), "'E11.97' is not in ICD-10-CM"),
        ("exchange", GOOD | dict(code=SECRETS[0]), "is no code"),
        ("exchange", GOOD | dict(note_id="n9"), "'n9'"),
        ("exchange", GOOD | dict(spans="all"), "wrong type"),
        ("exchange", GOOD | dict(spans=[[1.5, 2]]), "wrong type"),
        ("exchange", GOOD | dict(spans=[[3, 3]]), "start < end"),
        ("exchange", {k: v for k, v in GOOD.items() if k != "spans"}, "needs the one or the others"),
        ("exchange", GOOD | dict(level=SECRETS[1]), "level is not one of"),
        ("exchange", GOOD | dict(system=SECRETS[1]), "classification is not"),
        ("exchange", GOOD | dict(code=TEXT, unlisted=True), "is no code"),
        ("exchange", GOOD | dict(source=3), "wrong type"),
        ("exchange", GOOD | dict(note_id=["n1"]), "wrong type"),
        ("exchange", SOFT | dict(scores=[1]), "2 words but 1 scores"),
        ("exchange", SOFT | dict(scores=[float("nan"), 1]), "finite"),
        ("exchange", SOFT | dict(offsets=[[0, 3], [0, 9]]), "word 1 begins before"),
        ("exchange", SOFT | dict(offsets=[[0, 3], [4, 999]]), "ends at 999"),
        ("exchange", SOFT | dict(offsets=[[0, 0], [4, 9]]), "word 0 has no character"),
        ("exchange", SOFT | dict(offsets=[[0, 3], [4, 10**30]]), "wrong type"),
        ("eraser", ERASER | dict(annotation_id="n1"), "DOCID:CODE"),
        ("eraser", ERASER | dict(annotation_id="n1", query=TEXT), "DOCID:CODE"),
        (
            "eraser",
            {"annotation_id": "n1:E11.9", "rationales": [{"docid": "n9", "hard_rationale_predictions": []}]},
            "'n9'",
        ),
        (
            "eraser",
            {
                "annotation_id": "n1:E11.9",
                "rationales": [{"docid": "n1", "hard_rationale_predictions": [{"start_token": 5, "end_token": 99}]}],
            },
            "tokens [5, 99)",
        ),
        ("eraser", {"annotation_id": "n1:E11.9"}, "'evidences'"),
        (
            "eraser",
            {"annotation_id": "n1:E11.9", "rationales": [{"docid": "n1", "soft_rationale_predictions": [1]}]},
            "1 scores for a note",
        ),
        ("eraser", {"annotation_id": "n1:E11.9", "rationales": 3}, "wrong type"),
        ("codiesp", f"n1\tDIAGNOSTICO\te11.9\t{TEXT[4:14]}", "column 3"),
        ("codiesp", f"n1\tDIAGNOSTICO\t{TEXT[4:14]}\te11.9\t0 4", "is no code"),
        ("codiesp", f"n1\tDIAGNOSTICO\te11.9\tx\t{TEXT[4:14]}", "must hold offsets"),
        ("codiesp", "n1\tDIAGNOSTICO\te11.9\tx\t9 4", "start < end"),
        ("codiesp", "n1\tDIAGNOSTICO\te11.9\tx\t4 4", "start < end"),
        ("codiesp", f"{TEXT[4:14]}", "1 columns"),
    ],
)
def test_a_wrong_line_is_named_with_its_remedy_and_counted_when_it_may_be_left_out(form, line, why, tmp_path):
    good = {
        "exchange": json.dumps(GOOD | dict(code="I10")),
        "eraser": json.dumps(ERASER | dict(annotation_id="n1:I10")),
        "codiesp": "n1\t0 3\tDIAGNOSTICO\ti10",
    }[form]
    path = tmp_path / ("x.tsv" if form == "codiesp" else "x.jsonl")
    path.write_text(f"{good}\n\n{line if isinstance(line, str) else json.dumps(line)}\n")
    with pytest.raises(BadInput) as e:
        foreign_rationales(path, NOTES, form)
    assert f"{path}, line 3" in str(e.value) and why in str(e.value)
    came = foreign_rationales(path, NOTES, form, skip_bad=True)
    assert (
        len(came.rationales) == 1
        and [s.where for s in came.skipped] == [f"{path}, line 3"]
        and came.reasons == {type(e.value).__name__: 1}
    )
    assert not any(s in str(e.value) + repr(came.skipped) for s in SECRETS)


def spoilt(rng, x):
    "The same JSON with one thing in it replaced by what does not belong there"
    junk = rng.choice([None, 3, -1, 10**30, 2.5, "quibblefarn", [], {}, [[]], True, "🙂", float("nan")])
    if isinstance(x, dict) and x and rng.random() < 0.9:
        key = rng.choice(list(x))
        return {k: v for k, v in x.items() if k != key} if rng.random() < 0.2 else x | {key: spoilt(rng, x[key])}
    if isinstance(x, list) and x and rng.random() < 0.9:
        i = rng.randrange(len(x))
        return x[:i] + [spoilt(rng, x[i])] + x[i + 1 :]
    return junk


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("form", ["exchange", "soft", "eraser", "mdace", "labelstudio"])
def test_whatever_stands_in_a_file_it_ends_in_one_sentence_without_a_word_of_the_note(form, seed, tmp_path):
    rng = random.Random(seed)
    if form == "labelstudio":
        write_label_studio(
            tmp_path / "ls",
            NOTES,
            [Rationale("n1", icd("E11.9"), [Span(0, 3)], "ann"), Rationale("n1", icd("I10"), [], "ann")],
        )
        rows = json.loads((tmp_path / "ls/tasks.json").read_text())
    else:
        chart = dict(
            hadm_id=1,
            notes=[
                dict(
                    note_id="n1", category="x", annotations=[dict(begin=0, end=3, code="I10", code_system="ICD-10-CM")]
                )
            ],
        )
        rows = [dict(exchange=GOOD, soft=SOFT, eraser=ERASER, mdace=chart)[form]]
    rows, name = (
        spoilt(rng, rows) if form == "labelstudio" else [spoilt(rng, rows[0])],
        form if form in FORMS else "exchange",
    )
    path = tmp_path / "x.json"
    path.write_text(json.dumps(rows if form == "labelstudio" else rows[0]))
    for skip in (True, False):
        try:
            came = foreign_rationales(path, NOTES, name, skip_bad=skip, predictions=form == "labelstudio")
            assert not any(s in repr(came.skipped) for s in ("xylocanary", "náuseas"))
        except BadInput as e:
            assert not any(s in str(e) for s in ("xylocanary", "náuseas"))


@pytest.mark.parametrize("seed", range(20))
def test_a_line_of_brat_that_cannot_be_read_costs_that_line_only(seed, tmp_path):
    dice = random.Random(seed)
    spans = [Span(0, 3), Span(4, 9), Span(25, 29)]
    write_brat(tmp_path / "b", NOTES, [Rationale("n1", icd("E11.9"), spans, "ann")])
    file = tmp_path / "b/n1.ann"
    lines = file.read_text().splitlines()
    lines.insert(
        dice.randrange(len(lines)),
        dice.choice(
            [
                "T9",
                "T9\tE11_9 a b\tx",
                "T9\tquibble farn 1 2\tx",
                "T9\tE11_97 0 3\tx",
                "T9\tE11_9 0 9999\tx",
                "A9\tLevel",
                "\tx\t",
                "T9\tE11_9 0 3;\tx",
            ]
        ),
    )
    file.write_text("\n".join(lines))
    came = foreign_rationales(tmp_path / "b", NOTES, skip_bad=True)
    assert len(came.skipped) == 1 and str(file) + ", line" in came.skipped[0].where
    assert [list(r.spans) for r in came.rationales] == [spans]
    with pytest.raises(BadInput, match="n1.ann, line"):
        foreign_rationales(tmp_path / "b", NOTES)


def test_marks_of_one_pair_are_joined_and_never_overlap(tmp_path):
    rng = random.Random(0)
    pairs = [sorted(rng.sample(range(len(TEXT)), 2)) for _ in range(30)]
    (tmp_path / "x.tsv").write_text("".join(f"n1\t{a} {b}\tDIAGNOSTICO\te11.9\n" for a, b in pairs))
    [r] = foreign_rationales(tmp_path / "x.tsv", NOTES).rationales
    assert list(r.spans) == merge_spans(Span(*p) for p in pairs)


def test_a_mark_and_a_tick_for_the_same_code_contradict_each_other(tmp_path):
    write_label_studio(tmp_path / "ls", NOTES, [Rationale("n1", icd("E11.9"), [Span(0, 3)], "ann")])
    tasks = json.loads((tmp_path / "ls/tasks.json").read_text())
    tasks[0]["predictions"][0]["result"].append(
        dict(type="choices", from_name="nothing", value=dict(choices=["E11.9"]))
    )
    (tmp_path / "x.json").write_text(json.dumps(tasks))
    with pytest.raises(BadInput, match="region 2: n1, E11.9 is marked"):
        foreign_rationales(tmp_path / "x.json", NOTES, predictions=True)
    assert foreign_rationales(tmp_path / "x.json", NOTES, skip_bad=True, predictions=True).reasons == {
        "Contradiction": 1
    }


def test_a_changed_text_is_refused_whole(tmp_path):
    other = build("toy", [dict(note_id="n1", text=TEXT + " ", codes=[], split="test")])
    write_label_studio(tmp_path / "ls", NOTES, [Rationale("n1", icd("E11.9"), [Span(0, 3)], "ann")])
    write_brat(tmp_path / "b", NOTES, [Rationale("n1", icd("E11.9"), [Span(0, 3)], "ann")])
    for path in (tmp_path / "ls/tasks.json", tmp_path / "b"):
        came = foreign_rationales(path, other, skip_bad=True, predictions=path.suffix == ".json")
        assert Counter(came.reasons) == {"ChangedText": 1, "UnknownNote": 1}


@pytest.mark.parametrize("name, content", [("x.txt", "words"), ("x.ann", "T1\tE11_9 0 3\tx"), ("x.json", "{}")])
def test_a_form_that_cannot_be_told_must_be_named(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(UnknownForm):
        form_of(tmp_path / name)
    with pytest.raises(UnknownForm, match="choose auto or one of"):
        foreign_rationales(tmp_path / name, NOTES, "conll")


def test_a_broken_first_line_does_not_hide_the_form(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"note_id": "n1", "co\n' + json.dumps(GOOD) + "\n")
    assert form_of(tmp_path / "x.jsonl") == "exchange"
    (tmp_path / "empty.jsonl").write_text("")
    assert foreign_rationales(tmp_path / "empty.jsonl", NOTES).rationales == []
