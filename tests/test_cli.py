"The command line as a stranger meets it: a road that works, and mistakes that end in one line."

import gzip
import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import nbformat
import pytest

from icdrat.cli import main

ROOT = Path(__file__).resolve().parents[1]
SECRET = "canary words of a patient"


def icdrat(*words, cwd=ROOT, **env):
    "Run the command in this process, as the shell would: what it prints, and its exit status"
    out, err, back = io.StringIO(), io.StringIO(), os.getcwd()
    os.chdir(cwd)
    try:
        with patch.dict(os.environ, env), patch.object(sys, "argv", ["icdrat", *map(str, words)]), redirect_stdout(out), redirect_stderr(err):
            main()
        code = 0
    except SystemExit as e:
        code = e.code or 0
    finally:
        os.chdir(back)
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


@pytest.mark.parametrize("start", [["-c", "from icdrat.cli import main; main()"], ["-m", "icdrat.cli"]], ids=["as a command", "as a module"])
def test_it_runs_as_a_process_of_its_own(start):
    done = subprocess.run([sys.executable, *start, "train", "--corpus", "nowhere", "--out", "c"], cwd=ROOT, capture_output=True, text=True)
    ends_in_one_line(done, "nowhere")


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    "A corpus, mentions, a coder and its attention, made by the commands"
    folder = tmp_path_factory.mktemp("road")
    for words in (
        ["data", "synth", "--notes", 60, "--out", "corpus"],
        ["rationales", "mention", "--corpus", "corpus", "--out", "mention.jsonl"],
        ["train", "--corpus", "corpus", "--out", "coder", "--min-notes", 4, "--epochs", 2],
        ["rationales", "attention", "--corpus", "corpus", "--coder", "coder", "--out", "attention.jsonl"],
    ):
        done = icdrat(*words, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


def test_the_road_ends_in_scores_with_intervals_and_definitions(road):
    done = icdrat("evaluate", "plausibility", "--notes", "corpus/notes.jsonl", "--gold", "corpus/gold.jsonl", "--pred", "mention.jsonl", "--out", "s.json", cwd=road)
    assert done.returncode == 0, done.stderr
    found = json.loads((road / "s.json").read_text())
    assert {"token/f1", "character/f1", "eraser/iou_f1"} <= {s["metric"] for s in found["scores"]}
    for s in found["scores"]:
        assert s["low"] <= s["value"] <= s["high"] and s["definition"] and s["n_notes"] > 0
    assert "token/f1" in done.stdout


def test_pairs_that_nobody_answered_are_said_and_a_split_leaves_them_out(road):
    words = ["evaluate", "plausibility", "--notes", "corpus/notes.jsonl", "--gold", "corpus/gold.jsonl", "--pred", "mention.jsonl", "--draws", 50]
    everything, asked = icdrat(*words, "--out", "all.json", cwd=road), icdrat(*words, "--split", "test", "--out", "test.json", cwd=road)
    recall = {n: next(s["value"] for s in json.loads((road / f"{n}.json").read_text())["scores"] if s["metric"] == "token/recall") for n in ("all", "test")}
    assert "count as missed" in everything.stdout and "count as missed" not in asked.stdout
    assert recall["test"] > 2 * recall["all"] > 0


def test_a_training_has_its_log_and_curves_and_goes_on_from_its_checkpoints(road):
    words = ["train", "--corpus", "corpus", "--out", "other", "--min-notes", 4, "--epochs", 2, "--set", "filters=8", "--checkpoints", "night", "--log", "log.csv"]
    first, second = icdrat(*words, cwd=road), icdrat(*words, cwd=road)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert first.stdout.splitlines()[-1] == second.stdout.splitlines()[-1] and "of 2, validation micro F1" in first.stdout
    assert json.loads((road / "other" / "config.json").read_text())["hyperparameters"]["filters"] == 8
    assert (road / "log.csv").read_text().startswith("epoch,step,loss") and (road / "log.svg").is_file()
    assert "caml cannot be made with encoder" in icdrat(*words, "--encoder", "x", cwd=road).stderr
    done = icdrat(*words, "--lr", 0.1, cwd=road)
    assert done.returncode == 2 and "lr (0.003 there, 0.1 now)" in done.stderr


def test_faithfulness_stands_beside_its_random_control(road):
    words = ["evaluate", "faithfulness", "--coder", "coder", "--notes", "corpus/notes.jsonl", "--pred", "attention.jsonl", "--out", "f.json", "--random", 2, "--draws", 100]
    done = icdrat(*words, cwd=road)
    assert done.returncode == 0, done.stderr
    methods = {s["method"] for s in json.loads((road / "f.json").read_text())["scores"]}
    assert methods == {"attention", "random@attention", "whole_note", "empty"}


def test_the_page_needs_nothing_from_outside(road):
    sources = ["--source", "planted=corpus/gold.jsonl", "--source", "mention=mention.jsonl"]
    done = icdrat("view", "--notes", "corpus/notes.jsonl", *sources, "--out", "page.html", cwd=road)
    assert done.returncode == 0, done.stderr
    page = (road / "page.html").read_text()
    assert "http://" not in page and "https://" not in page and "<link" not in page


def test_rationales_that_are_the_gold_score_one(road):
    done = icdrat("evaluate", "plausibility", "--notes", "corpus/notes.jsonl", "--gold", "corpus/gold.jsonl", "--pred", "corpus/gold.jsonl", "--out", "one.json", cwd=road)
    assert done.returncode == 0, done.stderr
    assert all(s["value"] == s["low"] == s["high"] == 1 for s in json.loads((road / "one.json").read_text())["scores"])


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


EVALUATE = ["evaluate", "plausibility", "--notes", "notes.jsonl", "--gold", "gold.jsonl", "--pred", "pred.jsonl", "--out", "scores.json"]


def ends_in_one_line(done, *parts):
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("icdrat: "), done.stderr
    assert "Traceback" not in done.stderr and SECRET not in done.stderr + done.stdout
    for part in parts:
        assert part in done.stderr


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
    ends_in_one_line(icdrat(*[w.replace("notes.jsonl", "half.jsonl.gz") for w in EVALUATE], cwd=folder), "half.jsonl.gz", "cut off")


@pytest.mark.parametrize(
    "words, parts",
    [
        (["train", "--corpus", "nowhere", "--out", "c"], ["nowhere", "no notes.jsonl"]),
        (["train", "--corpus", "corpus", "--out", "c", "--architecture", "gru"], ["gru", "caml, multirescnn"]),
        (["train", "--corpus", "corpus", "--out", "c", "--set", "clip"], ["--set clip", "NAME=VALUE"]),
        (["train", "--corpus", "corpus", "--out", "c", "--set", "clip=-1"], ["clip is -1"]),
        (["data", "codiesp", "--folder", "nowhere", "--out", "c"], ["nowhere", "3837305"]),
        (["data", "synth", "--notes", 0, "--out", "c"], ["0"]),
        (["rationales", "attention", "--corpus", "nowhere", "--coder", "nowhere", "--out", "a.jsonl"], ["nowhere"]),
        (["evaluate", "faithfulness", "--coder", "nowhere", "--notes", "notes.jsonl", "--pred", "pred.jsonl", "--out", "s.json"], ["nowhere"]),
        (["view", "--notes", "notes.jsonl", "--source", "gold.jsonl", "--out", "p.html"], ["NAME=FILE"]),
        (["reproduce", "nowhere.ipynb"], ["nowhere.ipynb"]),
        (["reproduce", str(ROOT / "nbs/paper/fig1_curves.ipynb"), "-p", "result=x"], ["'result'", "results"]),
        (["data", "synth", "--notes", 10, "--out", "/proc/nowhere/corpus"], ["/proc"]),
    ],
)
def test_a_wrong_word_is_named_with_its_remedy(files, words, parts):
    ends_in_one_line(icdrat(*words, cwd=files()), *parts)


def test_codiesp_without_its_folder_says_how_to_get_it(tmp_path):
    ends_in_one_line(icdrat("data", "codiesp", "--out", "c", cwd=tmp_path, ICDRAT_DATA=""), "ICDRAT_DATA", "3837305")


def test_prompt_without_a_server_says_which_variable_is_missing(road):
    done = icdrat("rationales", "prompt", "--corpus", "corpus", "--out", "llm.jsonl", cwd=road, ICDRAT_LLM_URL="", ICDRAT_LLM_MODEL="")
    ends_in_one_line(done, "ICDRAT_LLM_URL")


def test_a_relative_data_folder_means_the_one_beside_the_command(tmp_path):
    cells = ["n = 1  # a number\nm = 2  # another", "import os; print(os.environ['ICDRAT_DATA'])"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells], metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}})
    notebook.cells[0].metadata["tags"] = ["parameters"]
    (tmp_path / "nbs").mkdir()
    nbformat.write(notebook, tmp_path / "nbs" / "toy.ipynb")
    done = icdrat("reproduce", "nbs/toy.ipynb", "--out", "toy.ipynb", cwd=tmp_path, ICDRAT_DATA="data")
    assert done.returncode == 0, done.stderr
    assert nbformat.read(tmp_path / "toy.ipynb", 4).cells[-1].outputs[0].text.strip() == str(tmp_path / "data")


def test_a_corpus_is_never_written_over_a_stranger_s_folder(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    ends_in_one_line(icdrat("data", "synth", "--notes", 10, "--out", "home", cwd=tmp_path), "home", "holds no notes.jsonl")
    assert (tmp_path / "home" / "thesis.txt").exists()


@pytest.mark.parametrize("words", [[], ["data"], ["data", "codiesp"], ["train"], ["rationales"], ["rationales", "prompt"], ["evaluate"], ["evaluate", "faithfulness"], ["view"], ["reproduce"]])
def test_help_has_an_example_that_can_be_copied(words):
    done = icdrat(*words, "--help")
    assert done.returncode == 0 and "Example:\n    icdrat" in done.stdout.replace("ICDRAT_LLM_URL=http://127.0.0.1:8000/v1 ICDRAT_LLM_MODEL=qwen ", "")


def test_a_method_is_compared_with_one_level_of_the_gold(tmp_path):
    assert icdrat("data", "vignettes", "--out", "v", cwd=tmp_path).returncode == 0
    assert icdrat("rationales", "mention", "--corpus", "v", "--out", "m.jsonl", cwd=tmp_path).returncode == 0
    words = ["evaluate", "plausibility", "--notes", "v", "--gold", "v/gold.jsonl", "--pred", "m.jsonl", "--split", "test", "--draws", 20, "--out", "s.json"]
    recall = {}
    for level in ("mention", "sentence", "any"):
        done = icdrat(*words, "--gold-level", level, cwd=tmp_path)
        assert done.returncode == 0 and ("--gold-level" in done.stdout) == (level == "any")
        found = json.loads((tmp_path / "s.json").read_text())
        recall[level] = {s["metric"]: s["value"] for s in found["scores"]}["character/recall"]
        assert found["gold_level"] == level
    assert recall["mention"] > 3 * recall["sentence"] and recall["any"] == pytest.approx(recall["sentence"], rel=0.01)
    (tmp_path / "one.jsonl").write_text("".join(line for line in (tmp_path / "v/gold.jsonl").open() if '"mention"' in line))
    done = icdrat(*[w if w != "v/gold.jsonl" else "one.jsonl" for w in words], "--gold-level", "context", cwd=tmp_path)
    ends_in_one_line(done, "there are mention")
