"The command line as a stranger meets it: a road that works, and mistakes that end in one line."

import gzip
import io
import json
import os
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import nbformat
import numpy as np
import pytest
from misbehaving import completion, llm  # noqa: F401  a loopback server that plays replies

from icdrat.cli.app import one_line, settings
from icdrat.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
SECRET = "canary words of a patient"


FIG1 = str(ROOT / "nbs/paper/fig1_curves.ipynb")


def icdrat(*words, cwd=ROOT, **env):
    "Run the command in this process, as the shell would: what it prints, and its exit status"
    out, err, back = io.StringIO(), io.StringIO(), os.getcwd()
    os.chdir(cwd)
    try:
        with (
            patch.dict(os.environ, env),
            patch.object(sys, "argv", ["icdrat", *map(str, words)]),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            main()
        code = 0
    except SystemExit as e:
        code = e.code or 0
    finally:
        os.chdir(back)
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


@pytest.mark.parametrize(
    "start",
    [["-c", "from icdrat.cli.main import main; main()"], ["-m", "icdrat.cli.main"]],
    ids=["as a command", "as a module"],
)
def test_it_runs_as_a_process_of_its_own(start):
    done = subprocess.run(
        [sys.executable, *start, "train", "--corpus", "nowhere", "--out", "c"], cwd=ROOT, capture_output=True, text=True
    )
    ends_in_one_line(done, "nowhere")


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    "A corpus, mentions, a coder and its attention, made by the commands"
    folder = tmp_path_factory.mktemp("road")
    for words in (
        ["data", "synth", "--notes", 60, "--out", "corpus"],
        ["rationales", "mention", "--corpus", "corpus", "--out", "mention.jsonl"],
        ["train", "--corpus", "corpus", "--out", "coder", "--min-notes", 4, "--epochs", 2],
        ["rationales", "attribution", "--corpus", "corpus", "--coder", "coder", "--out", "attention.jsonl"],
    ):
        done = icdrat(*words, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


def test_the_road_ends_in_scores_with_intervals_and_definitions(road):
    done = icdrat(
        "evaluate",
        "plausibility",
        "--notes",
        "corpus/notes.jsonl",
        "--gold",
        "corpus/gold.jsonl",
        "--pred",
        "mention.jsonl",
        "--out",
        "s.json",
        cwd=road,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((road / "s.json").read_text())
    assert {"token/f1", "character/f1", "eraser/iou_f1"} <= {s["metric"] for s in found["scores"]}
    for s in found["scores"]:
        assert s["low"] <= s["value"] <= s["high"] and s["definition"] and s["n_notes"] > 0
    assert "token/f1" in done.stdout


def test_pairs_that_nobody_answered_are_said_and_a_split_leaves_them_out(road):
    words = [
        "evaluate",
        "plausibility",
        "--notes",
        "corpus/notes.jsonl",
        "--gold",
        "corpus/gold.jsonl",
        "--pred",
        "mention.jsonl",
        "--draws",
        50,
    ]
    everything, asked = (
        icdrat(*words, "--out", "all.json", cwd=road),
        icdrat(*words, "--split", "test", "--out", "test.json", cwd=road),
    )
    recall = {
        n: next(
            s["value"] for s in json.loads((road / f"{n}.json").read_text())["scores"] if s["metric"] == "token/recall"
        )
        for n in ("all", "test")
    }
    assert "count as missed" in everything.stdout and "count as missed" not in asked.stdout
    assert recall["test"] > 2 * recall["all"] > 0


def test_a_training_has_its_log_and_curves_and_goes_on_from_its_checkpoints(road):
    words = [
        "train",
        "--corpus",
        "corpus",
        "--out",
        "other",
        "--min-notes",
        4,
        "--epochs",
        2,
        "--set",
        "filters=8",
        "--checkpoints",
        "night",
        "--log",
        "log.csv",
    ]
    first, second = icdrat(*words, cwd=road), icdrat(*words, cwd=road)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert (
        first.stdout.splitlines()[-1] == second.stdout.splitlines()[-1] and "of 2, validation micro F1" in first.stdout
    )
    assert json.loads((road / "other" / "config.json").read_text())["hyperparameters"]["filters"] == 8
    assert (road / "log.csv").read_text().startswith("epoch,step,loss") and (road / "log.svg").is_file()
    assert "caml cannot be made with encoder" in icdrat(*words, "--encoder", "x", cwd=road).stderr
    done = icdrat(*words, "--lr", 0.1, cwd=road)
    assert done.returncode == 2 and "lr (0.003 there, 0.1 now)" in done.stderr


def test_faithfulness_stands_beside_its_random_control(road):
    words = [
        "evaluate",
        "faithfulness",
        "--coder",
        "coder",
        "--notes",
        "corpus/notes.jsonl",
        "--pred",
        "attention.jsonl",
        "--out",
        "f.json",
        "--random",
        2,
        "--draws",
        100,
    ]
    done = icdrat(*words, cwd=road)
    assert done.returncode == 0, done.stderr
    methods = {s["method"] for s in json.loads((road / "f.json").read_text())["scores"]}
    assert methods == {"attention", "random@attention", "whole_note", "empty"}


def test_all_definitions_of_faithfulness_are_one_word(road):
    from icdrat.types import CARDS

    few = (soft(road) / "soft.jsonl").read_text().splitlines(True)[:2]
    hard = [
        json.dumps({k: row[k] for k in ("note_id", "code")} | dict(spans=row["offsets"][:3], source="gradient")) + "\n"
        for row in map(json.loads, few)
    ]
    (road / "two.jsonl").write_text("".join(few + hard))
    done = icdrat(
        "evaluate",
        "faithfulness",
        "--coder",
        "coder",
        "--notes",
        "corpus",
        "--pred",
        "two.jsonl",
        "--definition",
        "all",
        "--over",
        "gold",
        "--operator",
        "both",
        "--random",
        1,
        "--draws",
        20,
        "--out",
        "every.json",
        cwd=road,
    )
    assert done.returncode == 0, done.stderr
    found = {s["metric"] for s in json.loads((road / "every.json").read_text())["scores"] if s["method"] == "gradient"}
    missing = {m for m, c in CARDS.items() if c.family == "faithfulness"} - found
    assert not missing, missing


def test_the_page_needs_nothing_from_outside(road):
    sources = ["--source", "planted=corpus/gold.jsonl", "--source", "mention=mention.jsonl"]
    done = icdrat("view", "--notes", "corpus/notes.jsonl", *sources, "--out", "page.html", cwd=road)
    assert done.returncode == 0, done.stderr
    page = (road / "page.html").read_text()
    assert "http://" not in page and "https://" not in page and "<link" not in page


def listed(page):
    "The notes of a page, in the order of its list"
    return re.findall(r'data-entry="\{&quot;id&quot;: &quot;([^&]+)', page.read_text())


def test_the_page_opens_on_notes_that_all_sources_speak_of_and_a_split_chooses_among_them(road):
    words = ["view", "--notes", "corpus", "--source", "gold=corpus/gold.jsonl", "--source", "coder=attention.jsonl"]
    rows = [json.loads(line) for line in (road / "corpus/notes.jsonl").open()]
    gold, asked = (
        {json.loads(line)["note_id"] for line in (road / f).open()} for f in ("corpus/gold.jsonl", "attention.jsonl")
    )
    both = [row["note_id"] for row in rows if row["note_id"] in gold & asked]
    one = [row["note_id"] for row in rows if row["note_id"] in gold ^ asked]
    assert both and one
    done = icdrat(*words, "--first", len(both) + 1, "--out", "both.html", cwd=road)
    assert done.returncode == 0, done.stderr
    assert listed(road / "both.html") == both + one[:1]
    assert f"{len(both) + 1} notes of the {len(both + one)} with evidence" in done.stdout
    assert f"all of which speak of {len(both)}\n" in done.stdout
    done = icdrat(*words, "--split", "train", "--out", "train.html", cwd=road)
    assert done.returncode == 0, done.stderr
    of_train = [row["note_id"] for row in rows if row["split"] == "train" and row["note_id"] in gold]
    assert sorted(listed(road / "train.html")) == sorted(of_train)
    ends_in_one_line(icdrat(*words, "--split", "dev", "--out", "no.html", cwd=road), "--split dev", "train")
    alone = ["view", "--notes", "corpus", "--source", "coder=attention.jsonl", "--split", "train"]
    ends_in_one_line(icdrat(*alone, "--out", "no.html", cwd=road), "no source speaks of a note of its train split")
    assert not (road / "no.html").exists()


def test_rationales_that_are_the_gold_score_one(road):
    done = icdrat(
        "evaluate",
        "plausibility",
        "--notes",
        "corpus/notes.jsonl",
        "--gold",
        "corpus/gold.jsonl",
        "--pred",
        "corpus/gold.jsonl",
        "--out",
        "one.json",
        cwd=road,
    )
    assert done.returncode == 0, done.stderr
    scores = {s["metric"]: s for s in json.loads((road / "one.json").read_text())["scores"]}
    assert all(
        [s["value"], s["low"], s["high"]] == pytest.approx([1, 1, 1], abs=1e-5)
        for m, s in scores.items()
        if "f1" in m or m == "anatomy/exact"
    )  # MDACE adds a millionth below the line
    assert {"character/f1", "eraser/iou_f1_macro", "mdace/token_f1", "anatomy/exact"} <= set(scores)


NOTES = json.dumps({"note_id": "n1", "text": SECRET, "codes": ["I10"], "split": "test"})
GOLD = '{"note_id": "n1", "code": "I10", "spans": [[0, 6]]}'


@pytest.fixture
def files(tmp_path):
    def write(**contents):
        for name, content in {"notes": NOTES, "gold": GOLD, "pred": GOLD, **contents}.items():
            if isinstance(content, bytes):
                (tmp_path / f"{name}.jsonl.gz").write_bytes(content)
            elif content is not None:
                (tmp_path / f"{name}.jsonl").write_text(content)
        return tmp_path

    return write


EVALUATE = [
    "evaluate",
    "plausibility",
    "--notes",
    "notes.jsonl",
    "--gold",
    "gold.jsonl",
    "--pred",
    "pred.jsonl",
    "--out",
    "scores.json",
]


def ends_in_one_line(done, *parts):
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("icdrat: "), done.stderr
    assert "Traceback" not in done.stderr and SECRET not in done.stderr + done.stdout
    for part in parts:
        assert part in done.stderr


FORMS = dict(
    eraser=(
        '{"annotation_id": "n1:I10", "rationales": [{"docid": "n1", "hard_rationale_predictions": '
        '[{"start_token": 0, "end_token": 1}]}]}'
    ),
    codiesp="n1\t0 6\tDIAGNOSTICO\ti10",
    mdace=json.dumps(
        dict(
            hadm_id=1,
            notes=[dict(note_id="n1", annotations=[dict(begin=0, end=6, code="I10", code_system="ICD-10-CM")])],
        )
    ),
    labelstudio=json.dumps(
        [
            dict(
                data=dict(note_id="n1", text=SECRET),
                annotations=[
                    dict(
                        completed_by=1,
                        result=[dict(type="labels", from_name="mention", value=dict(start=0, end=6, labels=["I10"]))],
                    )
                ],
            )
        ]
    ),
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("named", [True, False])
def test_rationales_made_elsewhere_are_scored_and_shown_in_the_form_they_have(files, form, named):
    folder = files(pred=FORMS[form])
    done = icdrat(*EVALUATE, "--draws", 20, *(["--form", form] if named else []), cwd=folder)
    assert done.returncode == 0 and SECRET not in done.stdout, done.stderr
    found = json.loads((folder / "scores.json").read_text())
    assert (
        found["form"] == form
        and found["gold_form"] == "exchange"
        and {s["metric"]: s["value"] for s in found["scores"]}["character/f1"] == 1
    )
    done = icdrat(
        "view",
        "--notes",
        "notes.jsonl",
        "--source",
        "gold=gold.jsonl",
        "--source",
        "mine=pred.jsonl",
        "--reference",
        "mine",
        "--level",
        "mention",
        "--out",
        "p.html",
        cwd=folder,
    )
    assert done.returncode == 0 and '<section class="first" data-source="mine"' in (folder / "p.html").read_text(), (
        done.stderr
    )


def test_wrong_lines_are_left_out_when_that_is_asked_for_and_counted(files):
    folder = files(
        pred=GOLD + "\n" + GOLD.replace("I10", "E11.97") + "\n{\n" + GOLD.replace("6]", "6000]").replace("I10", "E11.9")
    )
    done = icdrat(*EVALUATE, "--skip-bad", "--draws", 20, cwd=folder)
    assert (
        done.returncode == 0
        and "3 lines left out" in done.stdout
        and "line 2" in done.stdout
        and SECRET not in done.stdout
    )
    assert json.loads((folder / "scores.json").read_text())["skipped"] == {
        "UnknownCode": 1,
        "BadLine": 1,
        "SpanOutsideNote": 1,
    }
    ends_in_one_line(icdrat(*EVALUATE, cwd=folder), "line 2", "E11.97")
    ends_in_one_line(icdrat(*EVALUATE, "--form", "conll", cwd=folder), "conll", "eraser")


def test_scores_are_ranked_asked_about_and_shown(road):
    done = icdrat(
        "evaluate",
        "plausibility",
        "--notes",
        "corpus",
        "--gold",
        "corpus/gold.jsonl",
        "--pred",
        "soft.jsonl",
        "--out",
        "soft.json",
        "--draws",
        20,
        "--split",
        "test",
        cwd=soft(road),
    )
    assert done.returncode == 0 and "eraser/auprc" in done.stdout, done.stderr
    done = icdrat(
        "evaluate",
        "faithfulness",
        "--coder",
        "coder",
        "--notes",
        "corpus",
        "--pred",
        "soft.jsonl",
        "--out",
        "fs.json",
        "--random",
        1,
        "--draws",
        20,
        "--definition",
        "eraser",
        cwd=road,
    )
    assert done.returncode == 0, done.stderr
    assert any(
        s["metric"].startswith("eraser/aopc_comprehensiveness") and s["method"] == "gradient"
        for s in json.loads((road / "fs.json").read_text())["scores"]
    )
    done = icdrat(
        "view",
        "--notes",
        "corpus",
        "--source",
        "planted=corpus/gold.jsonl",
        "--source",
        "soft=soft.jsonl",
        "--worst",
        3,
        "--out",
        "soft.html",
        cwd=road,
    )
    assert done.returncode == 0 and "3 notes" in done.stdout and " scored 0." in (road / "soft.html").read_text(), (
        done.stderr
    )


SCORED = ["evaluate", "plausibility", "--notes", "corpus", "--gold", "corpus/gold.jsonl", "--draws", 20]


def test_scores_of_validation_notes_set_the_boundary_of_the_words_that_are_chosen(road):
    done = icdrat(
        "rationales",
        "attribution",
        "--corpus",
        "corpus",
        "--coder",
        "coder",
        "--method",
        "input_x_gradient",
        "--scores",
        "both.jsonl",
        "--out",
        "gradient.jsonl",
        cwd=road,
    )
    assert done.returncode == 0, done.stderr
    done = icdrat(*SCORED, "--pred", "both.jsonl", "--split", "test", "--out", "both.json", cwd=road)
    assert done.returncode == 0 and "without emc" not in done.stdout, done.stderr
    found = json.loads((road / "both.json").read_text())
    assert list(found["emc_boundaries"]) == ["input_x_gradient"] and {"emc/f1", "emc/span_recall", "emc/n_chosen"} <= {
        s["metric"] for s in found["scores"]
    }
    from icdrat.data.exchange import load_corpus, read_explanations
    from icdrat.evaluation.plausibility.definitions import emc_boundaries

    tuning = load_corpus(road / "corpus").split("validation")
    assert found["emc_boundaries"] == emc_boundaries(
        tuning.notes, tuning.gold, [e for e in read_explanations(road / "both.jsonl") if e.note_id in tuning.codes]
    )


def test_without_validation_scores_nothing_is_chosen_and_that_is_said(road):
    words = [*SCORED, "--pred", "soft.jsonl", "--out", "none.json"]
    done = icdrat(*words, "--split", "test", cwd=soft(road))
    assert done.returncode == 0 and "gradient: without emc/token" in done.stdout and "--scores" in done.stdout
    found = json.loads((road / "none.json").read_text())
    assert (
        not found["emc_boundaries"]
        and "emc/f1" not in {s["metric"] for s in found["scores"]}
        and "emc/auprc" in {s["metric"] for s in found["scores"]}
    )
    assert "--split test" in icdrat(*words, cwd=road).stdout
    ends_in_one_line(
        icdrat(*words, "--split", "test", "--definition", "emc/token", cwd=road), "emc/token", "soft.jsonl"
    )


def test_an_explainer_is_named_and_its_options_are_its_own(road):
    words = ["rationales", "attribution", "--corpus", "corpus", "--coder", "coder", "--out", "x.jsonl"]
    ends_in_one_line(icdrat(*words, "--method", "magic", cwd=road), "magic", "kernel_shap")
    ends_in_one_line(icdrat(*words, "--set", "n_steps=3", cwd=road), "n_steps")
    done = icdrat(*words, "--method", "lime", "--set", "most=5", "--cut", 0.01, cwd=road)
    assert done.returncode == 0 and "cut 0.01;" in done.stdout, done.stderr
    assert {json.loads(line)["source"] for line in (road / "x.jsonl").read_text().splitlines()} == {"lime"}


def test_a_student_is_cut_on_its_teacher_and_no_human_mark_is_looked_at(road):
    words = ["rationales", "student", "--corpus", "corpus", "--coder", "coder"]
    assert icdrat(
        "rationales", "mention", "--corpus", "corpus", "--split", "validation", "--out", "held.jsonl", cwd=road
    )
    done = icdrat(*words, "--teacher", "held.jsonl", "--out", "taught.jsonl", cwd=road)
    assert done.returncode == 0 and "chosen on the marks of held.jsonl" in done.stdout, done.stderr
    assert {json.loads(line)["source"] for line in (road / "taught.jsonl").read_text().splitlines()} == {"student"}
    human = icdrat(*words, "--out", "human.jsonl", cwd=road)
    assert human.returncode == 0 and "chosen on human marks" in human.stdout
    ends_in_one_line(icdrat(*words, "--teacher", "nowhere.jsonl", "--out", "never.jsonl", cwd=road), "nowhere.jsonl")
    (road / "other.jsonl").write_text("")
    ends_in_one_line(icdrat(*words, "--teacher", "other.jsonl", "--out", "never.jsonl", cwd=road), "other.jsonl")
    assert not (road / "never.jsonl").exists()


def soft(road):
    "Made-up scores for the pairs of two test notes"
    from icdrat.data.exchange import load_corpus, write_explanations
    from icdrat.text import words
    from icdrat.types import Explanation

    corpus = load_corpus(road / "corpus").split("test")
    places = {n.id: words(n.text) for n in corpus.notes[:4]}
    write_explanations(
        road / "soft.jsonl",
        [
            Explanation(i, c, w, (np.arange(len(w)) * 37 % 101 + 1) / 200, "gradient")
            for i, w in places.items()
            for c in corpus.codes[i]
        ],
    )
    return road


def test_the_cards_are_listed():
    done = icdrat("evaluate", "list")
    assert done.returncode == 0 and all(
        n in done.stdout for n in ("eraser/iou_f1", "eraser/comprehensiveness@mask", "edin/f1_macro")
    )
    ends_in_one_line(icdrat("evaluate", "list", "--family", "beauty"), "beauty", "faithfulness")


@pytest.mark.parametrize(
    "contents, parts",
    [
        (dict(notes=None), ["notes.jsonl", "no such file"]),
        (dict(notes=""), ["not a single", "notes"][1:]),
        (dict(notes=NOTES + "\n" + NOTES), ["'n1'", "unique"]),
        (dict(notes=NOTES[:-9]), ["notes.jsonl, line 1", "not JSON"]),
        (dict(gold=GOLD.replace("6", "600")), ["gold.jsonl, line 1", "n1", "ends after"]),
        (dict(pred=GOLD + "\n" + GOLD.replace("I10", "E11.97")), ["pred.jsonl, line 2", "'E11.97'", "E11.9"]),
        (dict(pred=GOLD.replace("n1", "n2")), ["pred.jsonl, line 1", "'n2'"]),
        (dict(pred=GOLD.replace("[[0, 6]]", '"all"')), ["pred.jsonl, line 1", "spans"]),
    ],
)
def test_bad_input_ends_in_one_line_and_status_2(files, contents, parts):
    folder = files(**contents)
    ends_in_one_line(icdrat(*EVALUATE, cwd=folder), *parts)
    assert not (folder / "scores.json").exists() and not [p for p in folder.iterdir() if p.name.startswith(".")]


def test_half_a_gz_ends_in_one_line(files):
    folder = files(half=gzip.compress(NOTES.encode())[:-6])
    ends_in_one_line(
        icdrat(*[w.replace("notes.jsonl", "half.jsonl.gz") for w in EVALUATE], cwd=folder), "half.jsonl.gz", "cut off"
    )


@pytest.mark.parametrize(
    "words, parts",
    [
        (["train", "--corpus", "nowhere", "--out", "c"], ["nowhere", "no notes.jsonl"]),
        (["train", "--corpus", "corpus", "--out", "c", "--architecture", "gru"], ["gru", "caml, multirescnn"]),
        (["train", "--corpus", "corpus", "--out", "c", "--set", "clip"], ["--set clip", "NAME=VALUE"]),
        (["train", "--corpus", "corpus", "--out", "c", "--set", "clip=-1"], ["clip is -1"]),
        (["data", "codiesp", "--folder", "nowhere", "--out", "c"], ["nowhere", "3837305"]),
        (["data", "synth", "--notes", 0, "--out", "c"], ["0"]),
        (["rationales", "attribution", "--corpus", "nowhere", "--coder", "nowhere", "--out", "a.jsonl"], ["nowhere"]),
        (
            [
                "evaluate",
                "faithfulness",
                "--coder",
                "nowhere",
                "--notes",
                "notes.jsonl",
                "--pred",
                "pred.jsonl",
                "--out",
                "s.json",
            ],
            ["nowhere"],
        ),
        (["view", "--notes", "notes.jsonl", "--source", "gold.jsonl", "--out", "p.html"], ["NAME=FILE"]),
        (
            [*"view --notes notes.jsonl --source a=gold.jsonl --source a=gold.jsonl --out p.html".split()],
            ["--source a=", "two files have this name"],
        ),
        (["reproduce", "nowhere.ipynb"], ["nowhere.ipynb"]),
        (["reproduce", FIG1, "--out", FIG1], ["is read by the same command"]),
        (["reproduce", FIG1, "-p", "results=\udcff"], ["-p results: not UTF-8"]),
        (["reproduce", FIG1, "-p", "result=x"], ["'result'", "results"]),
        (["data", "synth", "--notes", 10, "--out", "/proc/nowhere/corpus"], ["/proc"]),
    ],
)
def test_a_wrong_word_is_named_with_its_remedy(files, words, parts):
    ends_in_one_line(icdrat(*words, cwd=files()), *parts)


@pytest.mark.parametrize(
    "typed, meant",
    [
        ("3", 3),
        (".5", 0.5),
        ("-.5", -0.5),
        ("true", True),
        ("...", "..."),
        (".", "."),
        ("1" * 5000, "1" * 5000),
        ("[" * 99_999, "[" * 99_999),
    ],
    ids=lambda x: str(x)[:9],
)
def test_a_value_is_a_number_where_it_reads_like_one(typed, meant):
    assert settings([f"a={typed}"], "--set") == dict(a=meant)


def test_a_word_that_is_not_utf_8_ends_in_one_line_and_writes_nothing(road, tmp_path):
    words = ["data", "card", "--corpus", "corpus", "--licence", "\udcff", "--out", tmp_path / "card.md"]
    ends_in_one_line(icdrat(*words, cwd=road), "not UTF-8")
    assert not list(tmp_path.iterdir())


def test_a_failure_of_the_system_is_told_without_its_number():
    assert one_line(OSError(28, "No space left on device")) == "icdrat: No space left on device"
    assert one_line(OSError(28, "No space left on device", "a.json")) == "icdrat: a.json: No space left on device"


def test_codiesp_without_its_folder_says_how_to_get_it(tmp_path):
    ends_in_one_line(icdrat("data", "codiesp", "--out", "c", cwd=tmp_path, ICDRAT_DATA=""), "ICDRAT_DATA", "3837305")


def test_prompt_without_a_server_says_which_variable_is_missing(road):
    done = icdrat(
        "rationales",
        "prompt",
        "--corpus",
        "corpus",
        "--out",
        "llm.jsonl",
        cwd=road,
        ICDRAT_LLM_URL="",
        ICDRAT_LLM_MODEL="",
    )
    ends_in_one_line(done, "ICDRAT_LLM_URL")


QUOTE = json.dumps({"rationales": [], "quotes": ["patient"]})
PROMPT = ["rationales", "prompt", "--corpus", "corpus", "--split", "validation"]


def asked(road, llm, *words, url=None):  # noqa: F811
    return icdrat(*PROMPT, *words, cwd=road, ICDRAT_LLM_URL=url or llm.url, ICDRAT_LLM_MODEL="m")


def test_a_run_goes_on_where_it_stopped_and_is_repeated_without_a_server(road, llm):  # noqa: F811
    llm.script(completion(QUOTE, tokens=(3000, 500)))
    part = asked(road, llm, "--out", "a.jsonl", "--budget", 6000, "--concurrency", 1)
    assert part.returncode == 0 and "left out because a question about them has no answer yet" in part.stdout, (
        part.stderr
    )
    n = len(llm.requests)
    whole = asked(road, llm, "--out", "a.jsonl", "--concurrency", 2, "--record", "r.jsonl", "--answers", "w.jsonl")
    assert whole.returncode == 0 and f"{n} replayed" in whole.stdout and "left out" not in whole.stdout
    n, first = len(llm.requests), (road / "a.jsonl").read_text()
    for words in (["--offline"], ["--offline", "--store", "w.jsonl"]):
        again = icdrat(
            *PROMPT,
            "--out",
            "again.jsonl",
            *words,
            *([] if "--store" in words else ["--store", "a.answers"]),
            cwd=road,
            ICDRAT_LLM_URL="",
            ICDRAT_LLM_MODEL="m",
        )
        assert again.returncode == 0 and (road / "again.jsonl").read_text() == first, again.stderr
    assert len(llm.requests) == n
    rows = [json.loads(line) for line in (road / "r.jsonl").read_text().splitlines()]
    assert [{k: r[k] for k in ("note_id", "code", "spans", "source", "level")} for r in rows] == [
        {k: r[k] for k in ("note_id", "code", "spans", "source", "level")} for r in map(json.loads, first.splitlines())
    ]
    assert all(r["model"] == "m" and r["prompt_sha256"] for r in rows)


def test_a_batch_goes_out_and_comes_in(road, llm, tmp_path):  # noqa: F811
    words = [
        "--out",
        "b.jsonl",
        "--one-code",
        "--window",
        4,
        "--shots",
        2,
        "--choose",
        "code",
        "--names",
        "training",
        "--skip",
        "--level",
        "mention",
    ]
    out = asked(road, llm, *words, "--batch-out", tmp_path / "b.jsonl")
    assert out.returncode == 0 and "questions without an answer" in out.stdout and llm.requests == [], out.stderr
    rows = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert all(len(r["body"]["messages"]) == 6 for r in rows)
    (tmp_path / "r.jsonl").write_text(
        "".join(
            json.dumps(dict(custom_id=r["custom_id"], response=dict(status_code=200, body=completion(QUOTE)))) + "\n"
            for r in rows
        )
    )
    back = asked(road, llm, *words, "--batch-in", tmp_path / "r.jsonl", "--source", "llm_few")
    assert back.returncode == 0 and f"{len(rows)} kept" in back.stdout and "left out" not in back.stdout, back.stderr
    assert llm.requests == [] and all(
        json.loads(line)["source"] == "llm_few" for line in (road / "b.jsonl").read_text().splitlines()
    )


def test_several_answers_give_scores(road, llm):  # noqa: F811
    llm.script(QUOTE)
    done = asked(
        road, llm, "--out", "s.jsonl", "--samples", 3, "--scores", "scores.jsonl", "--here", "--prompt", "numbered"
    )
    assert done.returncode == 0, done.stderr
    assert len((road / "scores.jsonl").read_text().splitlines()) == len((road / "s.jsonl").read_text().splitlines())
    assert {r["seed"] for r in llm.requests} == {0, 1, 2} and "[1] " in llm.requests[0]["messages"][-1]["content"]


@pytest.mark.parametrize(
    "words, part",
    [
        (["--prompt", "quote"], "there are codes_first, codes_first_2, numbered"),
        (["--level", "word"], "mention, context, sentence"),
        (["--choose", "best", "--shots", 1], "fixed, random, code, similar"),
        (["--names", "all"], "tabular, training"),
        (["--scores", "s.jsonl"], "--samples 5"),
        (["--samples", 0], "--samples 0: a number of answers, 1 or more"),
        (["--concurrency", 0], "1 or more"),
        (["--budget", 3], "budget of 3 tokens"),
        (["--offline", "--store", "nowhere.answers"], "no such store"),
        (["--batch-in", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--store", "corpus"], "is no store"),
        (["--examples", "nowhere", "--shots", 1], "nowhere"),
    ],
)
def test_a_wrong_option_of_prompt_is_named(road, llm, words, part):  # noqa: F811
    ends_in_one_line(asked(road, llm, "--out", "wrong.jsonl", *words), part)
    assert not (road / "wrong.jsonl").exists() and llm.requests == []


def test_a_relative_data_folder_means_the_one_beside_the_command(tmp_path):
    cells = ["n = 1  # a number\nm = 2  # another", "import os; print(os.environ['ICDRAT_DATA'])"]
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(c) for c in cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}},
    )
    notebook.cells[0].metadata["tags"] = ["parameters"]
    (tmp_path / "nbs").mkdir()
    nbformat.write(notebook, tmp_path / "nbs" / "toy.ipynb")
    done = icdrat("reproduce", "nbs/toy.ipynb", "--out", "toy.ipynb", cwd=tmp_path, ICDRAT_DATA="data")
    assert done.returncode == 0, done.stderr
    assert nbformat.read(tmp_path / "toy.ipynb", 4).cells[-1].outputs[0].text.strip() == str(tmp_path / "data")


def test_a_corpus_is_never_written_over_a_stranger_s_folder(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    ends_in_one_line(
        icdrat("data", "synth", "--notes", 10, "--out", "home", cwd=tmp_path), "home", "holds no notes.jsonl"
    )
    assert (tmp_path / "home" / "thesis.txt").exists()


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["data"],
        ["data", "codiesp"],
        ["train"],
        ["predict"],
        ["rationales"],
        ["rationales", "prompt"],
        ["evaluate"],
        ["evaluate", "faithfulness"],
        ["evaluate", "list"],
        ["view"],
        ["reproduce"],
    ],
)
def test_help_has_an_example_that_can_be_copied(words):
    done = icdrat(*words, "--help")
    assert done.returncode == 0 and "Example:\n    icdrat" in done.stdout.replace(
        "ICDRAT_LLM_URL=http://127.0.0.1:8000/v1 ICDRAT_LLM_MODEL=qwen ", ""
    )


def test_mentions_take_their_sources_and_their_context_from_the_command(road):
    words = [
        "rationales",
        "mention",
        "--corpus",
        "corpus",
        "--source",
        "tabular",
        "--source",
        "training",
        "--places",
        "places.jsonl",
    ]
    assert icdrat(*words, "--out", "all.jsonl", cwd=road).returncode == 0
    places = [json.loads(line) for line in (road / "places.jsonl").open()]
    assert {s for p in places for s in p["sources"]} == {"mention_tabular", "mention_training"}
    assert set(places[0]) == {"note_id", "span", "code", "system", "sources", "meanings", "context"}
    assert icdrat(*words, "--drop", "negated", "--drop", "historical", "--out", "few.jsonl", cwd=road).returncode == 0
    n_spans = {f: sum(len(json.loads(line)["spans"]) for line in (road / f).open()) for f in ("all.jsonl", "few.jsonl")}
    dropped = sum(bool({"negated", "historical"} & set(p["context"])) for p in places)
    assert (n_spans["few.jsonl"] < n_spans["all.jsonl"]) == (dropped > 0)
    assert {json.loads(line)["source"] for line in (road / "all.jsonl").open()} == {"mention"}
    assert (
        icdrat(
            "rationales",
            "mention",
            "--corpus",
            "corpus",
            "--source",
            "training",
            "--open",
            "--link",
            "category",
            "--out",
            "open.jsonl",
            cwd=road,
        ).returncode
        == 0
    )
    opened = [json.loads(line) for line in (road / "open.jsonl").open()]
    assert (
        {r["source"] for r in opened} == {"mention_training"}
        and all(r["spans"] for r in opened)
        and all(len(r["code"]) == 3 for r in opened)
    )
    ends_in_one_line(icdrat(*words, "--source", "icd11", "--out", "x.jsonl", cwd=road), "choose one of tabular")
    ends_in_one_line(
        icdrat(
            "rationales",
            "mention",
            "--corpus",
            "corpus",
            "--source",
            "index",
            "--out",
            "x.jsonl",
            cwd=road,
            ICDRAT_DATA="nowhere",
        ),
        "leave the source out",
    )


def test_a_method_is_compared_with_one_level_of_the_gold(tmp_path):
    assert icdrat("data", "vignettes", "--out", "v", cwd=tmp_path).returncode == 0
    assert icdrat("rationales", "mention", "--corpus", "v", "--out", "m.jsonl", cwd=tmp_path).returncode == 0
    words = [
        "evaluate",
        "plausibility",
        "--notes",
        "v",
        "--gold",
        "v/gold.jsonl",
        "--pred",
        "m.jsonl",
        "--split",
        "test",
        "--draws",
        20,
        "--out",
        "s.json",
    ]
    recall = {}
    for level in ("mention", "sentence", "any"):
        done = icdrat(*words, "--gold-level", level, cwd=tmp_path)
        assert done.returncode == 0 and ("--gold-level" in done.stdout) == (level == "any")
        found = json.loads((tmp_path / "s.json").read_text())
        recall[level] = {s["metric"]: s["value"] for s in found["scores"]}["character/recall"]
        assert found["gold_level"] == level
    assert recall["mention"] > 3 * recall["sentence"] and recall["any"] == pytest.approx(recall["sentence"], rel=0.01)
    (tmp_path / "one.jsonl").write_text(
        "".join(line for line in (tmp_path / "v/gold.jsonl").open() if '"mention"' in line)
    )
    done = icdrat(*[w if w != "v/gold.jsonl" else "one.jsonl" for w in words], "--gold-level", "context", cwd=tmp_path)
    ends_in_one_line(done, "there are mention")


def test_every_module_of_the_command_line_has_a_command_and_no_command_comes_from_elsewhere():
    from commands import commands
    from icdrat.cli.main import GROUPS

    assert {command.callback.__module__ for _, command in commands()} == {module.__name__ for module in GROUPS}
