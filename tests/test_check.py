"Results against those that are held: a planted change is found where it is, and nothing else is."

import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from icdrat.cli.main import app
from icdrat.show.compare import Unreadable, apart, cells_apart, compare_results, differences_in_print, words_apart
from icdrat.show.facts import OtherFacts, code_state, corpus_fingerprint, facts_of, run_facts, write_facts
from icdrat.show.report import cell, save_results, save_table

NAMES = ["attention", "mention", "llm", "human"]


def results(folder, f1=(0.5123, 0.4, 0.3, 0.2), n=(80, 80, 79, 1280), seed=0):
    "A table of numbers, and the table and the figure that are made of it"
    numbers = pd.DataFrame(dict(method=NAMES, n_notes=n, f1=f1))
    save_results(numbers, folder / "e0_toy.parquet", corpus="synth", seed=seed)
    rows = {"Method": NAMES, "Notes": [f"{k:,}" for k in n], "F1 ↑": [cell(v, v - 0.1, v + 0.1) for v in f1]}
    save_table(pd.DataFrame(rows), folder / "tab0_toy", "F1 of four.")
    (folder / "fig0_toy.svg").write_text(f"<svg>{f1}</svg>")
    return folder


@pytest.fixture
def held(tmp_path):
    return results(tmp_path / "held")


def places(found):
    return set(found.differences[["file", "row", "column"]].itertuples(index=False, name=None))


def check(*words):
    return CliRunner().invoke(app, ["reproduce", "--check", *map(str, words)])


# ---- two cells ----


@pytest.mark.parametrize("seed", range(5))
def test_a_number_is_as_far_away_as_it_was_moved_and_a_large_one_by_its_share(seed):
    value, step = np.random.default_rng(seed).random(2)
    assert apart(value + step, value) == pytest.approx(step)
    assert apart(1000 * (1 + value) * (1 + step), 1000 * (1 + value)) == pytest.approx(step)
    assert apart(math.nan, math.nan) == 0 and apart(math.nan, value) == apart(value, math.nan) == math.inf
    assert apart(math.inf, math.inf) == 0 and apart(math.inf, value) == math.inf


@pytest.mark.parametrize(
    "here, there, far",
    [
        ("0.512 [0.480, 0.541]", "0.512 [0.480, 0.541]", 0),
        ("0.512 [0.480, 0.541]", "0.512 [0.481, 0.544]", 0.003),
        ("-0.1", "0.1", 0.2),
        ("1,280 notes", "1,000 notes", 0.28),
        ("1e-3", "2e-3", 0.001),
        ("E11.8", "E11.9", math.inf),
        ("F1", "F2", math.inf),
        ("0.5", "**0.5**", math.inf),
        ("0.5 [0.4, 0.6]", "0.5", math.inf),
        ("–", "0.5", math.inf),
        ("", "0", math.inf),
        ("attention", "Attention", math.inf),
    ],
)
def test_a_printed_cell_is_as_far_as_its_farthest_number_and_words_are_the_same_or_not(here, there, far):
    assert words_apart(here, there) == pytest.approx(far)
    assert (words_apart(there, here) > 0) == (far > 0)


# ---- a planted change ----


def test_what_was_made_again_is_the_same(tmp_path, held):
    found = compare_results(results(tmp_path / "again"), held)
    assert found.differences.empty and (found.n_files, found.aside) == (5, 0)
    assert differences_in_print(found).startswith("the same: 5 files")


@pytest.mark.parametrize("row", range(4))
@pytest.mark.parametrize("tolerance, seen", [(0, True), (0.004, True), (0.006, False)])
def test_a_score_that_moved_is_named_by_file_row_and_column(tmp_path, held, row, tolerance, seen):
    f1 = [0.5123, 0.4, 0.3, 0.2]
    f1[row] += 0.005
    found = places(compare_results(results(tmp_path / "new", f1), held, tolerance))
    tables = {("e0_toy.parquet", row + 1, "f1"), ("tab0_toy.csv", row + 1, "F1 ↑")}
    assert (tables <= found) == seen and not any(n for f, n, _ in found if f.startswith("e0") and n != row + 1)
    assert ("fig0_toy.svg", 0, "bytes") in found if not tolerance else not any("svg" in f for f, *_ in found)


@pytest.mark.parametrize(
    "change, place",
    [
        (lambda t: t.assign(method=["attention", "mention", "LLM", "human"]), (3, "method")),
        (lambda t: t.assign(f1=[0.5123, None, 0.3, 0.2]), (2, "f1")),
        (lambda t: t.assign(n_notes=t.n_notes.astype(str)), (1, "n_notes")),
        (lambda t: t.iloc[:3], (0, "rows")),
        (lambda t: t.drop(columns="f1"), (0, "f1")),
        (lambda t: t.assign(more=1), (0, "more")),
        (lambda t: t.iloc[::-1].reset_index(drop=True), (1, "method")),
    ],
)
def test_no_tolerance_hides_what_is_no_number(held, change, place):
    table = pd.read_parquet(held / "e0_toy.parquet")
    found = {d[:2]: d[-1] for d in cells_apart(change(table), table, 1e6)}
    assert found[place] == math.inf


def test_what_made_a_table_counts_too(tmp_path, held):
    found = compare_results(results(tmp_path / "new", seed=1), held, tolerance=1)
    assert places(found) == {("e0_toy.parquet", 0, "seed")}


def test_files_of_a_kind_that_is_not_held_are_counted_and_others_are_missed_or_too_many(tmp_path, held):
    new = results(tmp_path / "new")
    (held / "e0_toy.parquet").unlink()
    (new / "tab0_toy.md").rename(new / "tab0_other.md")
    (new / "facts").mkdir()
    (new / "facts" / "e0_toy.md").write_text("never compared")
    found = compare_results(new, held)
    assert places(found) == {("tab0_toy.md", 0, "file"), ("tab0_other.md", 0, "file")} and found.aside == 1
    assert compare_results(new, held, timed=["tab0_toy", "tab0_other"]).differences.empty


def test_a_thousand_differences_are_a_few_lines(tmp_path):
    for name, value in (("a", 0.0), ("b", 0.5)):
        save_results(pd.DataFrame(dict(x=np.full(1000, value))), tmp_path / name / "e0_toy.parquet")
    said = differences_in_print(compare_results(tmp_path / "a", tmp_path / "b"), most=5).splitlines()
    assert len(said) == 8 and said[-2] == "… and 995 more" and said[-1].startswith("1,000 differences in 1 file:")


@pytest.mark.parametrize("kind, data", [("parquet", b"PAR1"), ("csv", b""), ("csv", b"\xff\xfe"), ("md", b"\xff\xfe")])
def test_a_broken_result_is_named(tmp_path, held, kind, data):
    new = results(tmp_path / "new")
    name = {"parquet": "e0_toy"}.get(kind, "tab0_toy")
    (new / f"{name}.{kind}").write_bytes(data)
    with pytest.raises(Unreadable, match=f"{name}.{kind}: .* make it again"):
        compare_results(new, held)


# ---- the command ----


def test_the_command_is_green_then_red(tmp_path, held):
    new = results(tmp_path / "new")
    done = check("--results", new, "--against", held)
    assert done.exit_code == 0 and done.output.startswith("the same:")
    results(new, f1=(0.5123, 0.4, 0.31, 0.2))
    done = check("--results", new, "--against", held)
    assert done.exit_code == 1 and "tab0_toy.csv" in done.output and "0.01" in done.output
    assert check("--results", new, "--against", held, "--tolerance", 0.02).exit_code == 0
    for wrong, says in ((["--results", tmp_path / "no"], "no results there"), (["--against", tmp_path / "no"], "no: ")):
        done = check("--results", new, "--against", held, *wrong)
        assert says in str(done.exception)


# ---- facts ----


def test_facts_know_their_results_and_hold_neither_a_name_nor_a_word(tmp_path, held):
    notes = tmp_path / "corpus"
    notes.mkdir()
    (notes / "notes.jsonl").write_text('{"text": "Maria Secret"}\n')
    facts = run_facts("e0_toy", dict(seed=3, n_draws=20), 1.25, held, notes)
    kept = write_facts(held, facts)
    assert facts_of(held / "e0_toy.parquet") == facts and facts["seeds"] == {"seed": 3} and facts["seconds"] == 1.2
    assert "Secret" not in kept.read_text() and str(tmp_path) not in kept.read_text()
    results(held, f1=(0.1, 0.4, 0.3, 0.2))
    with pytest.raises(OtherFacts, match="e0_toy.parquet: .*changed or made again"):
        facts_of(held / "e0_toy.parquet")


def test_one_letter_makes_another_corpus(tmp_path):
    (tmp_path / "notes.jsonl").write_text("a")
    before = corpus_fingerprint(tmp_path)
    (tmp_path / "notes.jsonl").write_text("b")
    assert before != corpus_fingerprint(tmp_path) and corpus_fingerprint(tmp_path / "none") is None


def test_a_folder_inside_somebody_else_s_repository_has_no_commit(tmp_path):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "below").mkdir()
    assert code_state(tmp_path / "below") == dict(commit=None, changed=None)


def test_a_run_leaves_its_facts(tmp_path):
    import nbformat

    (tmp_path / "settings.ini").touch()
    (tmp_path / "nbs").mkdir()
    save = "from pathlib import Path; Path('..', results).mkdir(); Path('..', results, 'e0_toy.csv').write_text('a')"
    cells = [nbformat.v4.new_code_cell('seed = 3 # a seed\nresults = "r" # where to'), nbformat.v4.new_code_cell(save)]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "nbs" / "e0_toy.ipynb")
    words = ["reproduce", str(tmp_path / "nbs" / "e0_toy.ipynb"), "-p", "seed=4"]
    subprocess.run([sys.executable, "-m", "icdrat.cli.main", *words], check=True, capture_output=True)
    facts = facts_of(tmp_path / "r" / "e0_toy.csv")
    assert facts["parameters"] == dict(seed=4, results="r") and list(facts["files"]) == ["e0_toy.csv"]
