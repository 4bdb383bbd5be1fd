"One note from a file or a pipe: its codes, their evidence, and mistakes that end in one line."

import json
import os
import re
import stat
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from test_classifier import made, saved
from test_cli import ROOT, SECRET, ends_in_one_line, icdrat
from test_networks import CODES, NETWORKS, random_coder

from icdrat.cli.predict import MOST, columns_shown, holding_half, one_note, quoted
from icdrat.coder.base import load_coder
from icdrat.data.exchange import read_rationales
from icdrat.rationale.attribution.explain import methods
from icdrat.rationale.select import Selection, write_selections
from icdrat.types import Explanation, Note, Rationale, Span

TEXT = "w1 w2, w3 w4.\r\nw5 w1 [bold]w6[/bold] w7 éw8 w9 😀 w2\n"


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    "A coder of random numbers and one note"
    folder = tmp_path_factory.mktemp("desk")
    random_coder("caml", 0).save_pretrained(folder / "coder")
    (folder / "note.txt").write_bytes(TEXT.encode())
    return folder


def predict(folder, *words, **env):
    return icdrat("predict", "--coder", "coder", *words, cwd=folder, **env)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_note_gets_the_codes_and_probabilities_of_every_kind_of_coder(name, tmp_path):
    random_coder(name, 0).save_pretrained(tmp_path / "coder")
    (tmp_path / "note.txt").write_bytes(TEXT.encode())
    words = ["--threshold", 0, "--out", "out.jsonl", "--page", "page.html", "note.txt"]
    done = predict(tmp_path, *words, COLUMNS="120")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").open()]
    p = dict(zip(map(str, CODES), load_coder(tmp_path / "coder")([TEXT])[0]))
    assert [row["code"] for row in rows] == sorted(p, key=lambda c: -p[c])
    for row in rows:
        assert row["probability"] == pytest.approx(p[row["code"]], abs=1e-6) and row["predicted"]
        assert f"{p[row['code']]:.3f}" in done.stdout and row["code"] in done.stdout
    page = (tmp_path / "page.html").read_text()
    assert all(c in page for c in p) and "https://" not in page


@pytest.mark.parametrize(
    "name, method", [("caml", "attention"), ("evidence", "evidence"), ("bert", "integrated_gradients")]
)
def test_without_a_method_a_coder_is_asked_as_it_can_be_asked(tmp_path, name, method):
    if name == "bert":
        saved(tmp_path / "coder", made(), problem_type="multi_label_classification")
    else:
        random_coder(name, 0).save_pretrained(tmp_path / "coder")
    (tmp_path / "note.txt").write_bytes(TEXT.encode())
    done = predict(tmp_path, "--threshold", 0, "--out", "out.jsonl", "note.txt")
    assert done.returncode == 0 and f"Evidence by {method}" in done.stdout, done.stderr
    assert {json.loads(line)["source"] for line in (tmp_path / "out.jsonl").open()} == {method}
    other = predict(tmp_path, "--set", "steps=3", "--out", "x.jsonl", "note.txt")
    ends_in_one_line(other, method, "no option steps")


def test_every_explainer_finds_evidence_that_any_other_command_can_read(desk):
    of_other_coders = {"attention_rollout", "evidence"}
    for method in set(methods()) - of_other_coders:
        done = predict(desk, "--threshold", 0, "--method", method, "--out", f"{method}.jsonl", "note.txt")
        assert done.returncode == 0, (method, done.stderr)
        found = read_rationales(desk / f"{method}.jsonl", [Note("note", TEXT)])
        assert {r.source for r in found} == {method} and len(found) == len(CODES) and any(map(len, found)), method
    for method in of_other_coders:
        ends_in_one_line(predict(desk, "--method", method, "note.txt"), f"{method} needs")


def test_a_file_and_a_pipe_give_the_same_answer(desk):
    words = ["predict", "--coder", "coder", "--threshold", "0", "--out", "piped.jsonl", "-"]
    done = subprocess.run(
        [sys.executable, "-m", "icdrat.cli.main", *words],
        cwd=desk,
        input=TEXT.encode(),
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert predict(desk, "--threshold", 0, "--out", "filed.jsonl", "note.txt").returncode == 0
    piped, filed = ([json.loads(line) for line in (desk / f"{n}.jsonl").open()] for n in ("piped", "filed"))
    assert {row.pop("note_id") for row in piped} == {"stdin"} and {row.pop("note_id") for row in filed} == {"note"}
    assert piped == filed


def test_the_file_of_the_answer_holds_no_text_and_the_page_is_for_its_owner(desk):
    text = TEXT + SECRET
    (desk / "secret.txt").write_text(text)
    done = predict(desk, "--threshold", 0, "--out", "s.jsonl", "--page", "s.html", "secret.txt")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (desk / "s.jsonl").open()]
    assert set().union(*rows) == {"note_id", "code", "spans", "source", "level", "probability", "predicted"}
    assert all(0 <= a < b <= len(text) for row in rows for a, b in row["spans"])
    assert "patient" in (desk / "s.html").read_text() and stat.S_IMODE((desk / "s.html").stat().st_mode) == 0o600


def test_brackets_and_control_characters_of_a_note_are_shown_as_they_are_and_move_nothing(desk):
    assert "[bold]" in predict(desk, "--threshold", 0, "--cut", -1, "note.txt", COLUMNS="300").stdout
    note = Note("n", "a\x1b[31m red\r\nline  a\x1b[31m red")
    said = quoted(Rationale("n", CODES[0], (Span(0, 16), Span(18, 27)), "mine"), note)
    assert not any(unicodedata.category(c) == "Cc" for c in said)
    again = Note("n", "dm and dm")
    assert quoted(Rationale("n", CODES[0], (Span(0, 2), Span(7, 9)), "mine"), again) == '"dm" (2 times)'


def test_a_code_is_predicted_above_its_own_threshold_and_the_most_probable_come_first():
    rng = np.random.default_rng(0)
    for _ in range(100):
        p, limit = rng.random(6), rng.random(6)
        for threshold in (limit[0], limit.tolist()):
            above = {i for i in range(6) if p[i] > (threshold if np.isscalar(threshold) else threshold[i])}
            shown, predicted = columns_shown(p, threshold, 2)
            assert predicted == bool(above) and list(p[shown]) == sorted(p[shown], reverse=True)
            assert set(shown) == (above or set(np.argsort(-p)[:2]))


def test_codes_that_are_only_the_most_probable_are_never_said_to_be_predicted(desk):
    none = predict(desk, "--threshold", 1, "--out", "none.jsonl", "--page", "none.html", "note.txt")
    assert none.returncode == 0 and "none of 3 codes above the threshold" in none.stdout, none.stderr
    assert (desk / "none.jsonl").read_text() == "" and not (desk / "none.html").exists()
    assert "none.html: not written" in none.stdout
    some = predict(desk, "--threshold", 1, "--top", 2, "--out", "some.jsonl", "note.txt")
    rows = [json.loads(line) for line in (desk / "some.jsonl").open()]
    assert "shown are the 2 most probable" in some.stdout and [r["predicted"] for r in rows] == [False, False]


def test_the_rule_is_the_fewest_words_that_hold_half_of_the_score():
    rng = np.random.default_rng(0)
    for n in (1, 2, 5, 40):
        scores = rng.dirichlet(np.full(n, 0.3))
        places = np.stack([np.arange(n) * 2, np.arange(n) * 2 + 1], 1)
        rule = holding_half(Explanation("n", CODES[0], places, scores, "mine"))
        highest = np.sort(scores)[::-1]
        assert rule.rule == "top_k" and 1 <= rule.value <= MOST
        assert highest[: rule.value - 1].sum() < 0.5
        assert rule.value == MOST or highest[: rule.value].sum() >= 0.5 - 1e-9


def test_the_rule_is_said_and_the_one_given_by_hand_goes_before_the_one_kept_with_the_coder(desk):
    kept = desk / "coder" / "selections.json"
    write_selections(kept, [Selection("attention", "top_k", 1)])
    try:
        said = {w: predict(desk, "--threshold", 0, *w.split(), "note.txt").stdout for w in ("", "--cut .03")}
        other = predict(desk, "--threshold", 0, "--method", "attgrad", "note.txt").stdout
        assert "Evidence by attention: top_k 1" in said[""] and "Evidence by attention: cut 0.03" in said["--cut .03"]
        assert "Evidence by attgrad: the highest words that together hold half" in other
    finally:
        kept.unlink()


@pytest.mark.parametrize(
    "name, content, part",
    [
        ("empty.txt", b"", "no word in it"),
        ("blank.txt", b" \n\t--\n", "no word in it"),
        ("photo.txt", b"\x89PNG\r\n\x1a\n\x00" + SECRET.encode(), "not UTF-8 at byte 0"),
        ("wide.txt", SECRET.encode("utf-16"), "not UTF-8 at byte 0"),
        ("zero.txt", SECRET.encode() + b"\x00", "is zero"),
        ("notes.jsonl", b'{"note_id": "n", "text": "canary"}', "one note as plain text"),
        ("note.txt.gz", b"\x1f\x8b", "one note as plain text"),
        ("nowhere.txt", None, "no such file"),
    ],
)
def test_a_file_that_is_no_note_ends_in_one_line(desk, tmp_path, name, content, part):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = predict(desk, "--out", tmp_path / "x.jsonl", "--page", tmp_path / "x.html", tmp_path / name)
    ends_in_one_line(done, name, part)
    assert not (tmp_path / "x.jsonl").exists() and not (tmp_path / "x.html").exists()


@pytest.mark.parametrize(
    "words, part",
    [
        ("--coder nowhere note.txt", "no such folder"),
        ("--coder . note.txt", "no config.json"),
        ("--coder coder .", "this is a folder"),
        ("--coder coder --method magic note.txt", "no method 'magic'"),
        ("--coder coder --method lime --set magic=1 note.txt", "no option magic"),
        ("--coder coder --set steps note.txt", "NAME=VALUE"),
        ("--coder coder --threshold 40 note.txt", "[0, 1]"),
        ("--coder coder --threshold nan note.txt", "[0, 1]"),
        ("--coder coder --top -1 note.txt", "0 or more"),
        ("--coder coder --cut nan note.txt", "a cut is a finite number"),
        ("--coder coder --out coder note.txt", "coder"),
        ("--coder coder --out nowhere/deep/../x --page nowhere/x note.txt", "x"),
    ],
)
def test_a_wrong_word_ends_in_one_line_before_anything_is_written(desk, words, part):
    before = {p: p.stat().st_mtime_ns for p in desk.rglob("*")}
    ends_in_one_line(icdrat("predict", *words.split(), cwd=desk), part)
    assert {p: p.stat().st_mtime_ns for p in desk.rglob("*")} == before


def test_a_byte_order_mark_is_no_part_of_a_note_and_line_ends_are(tmp_path):
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbfa\r\nb")
    assert one_note(str(tmp_path / "bom.txt")) == Note("bom", "a\r\nb")


def test_a_file_name_that_is_no_text_does_not_spoil_the_answer(desk):
    name = os.fsdecode(b"caf\xe9.txt")
    (desk / name).write_bytes(TEXT.encode())
    done = predict(desk, name, "--threshold", "0", "--out", "named.jsonl", "--page", "named.html")
    assert done.returncode == 0, done.stderr
    assert {json.loads(line)["note_id"] for line in (desk / "named.jsonl").open(encoding="utf-8")} == {"caf?"}


def test_help_says_the_rule_and_has_an_example(desk):
    said = re.sub(r"\s+", " ", icdrat("predict", "--help", cwd=desk).stdout)
    assert "hold half of the score" in said and "Example: icdrat predict --coder coder" in said
