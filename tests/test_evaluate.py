"What a person sees of scores: the first of them, in plain words, with intervals where there are notes enough."

import json
import re

import pytest

import icdrat.cli.main  # noqa: F401  every command
from icdrat.cli.app import ROAD, run_command
from icdrat.data.corpus import build
from icdrat.data.exchange import save_corpus, write_rationales
from icdrat.evaluation.cards import HEADLINES, TERMS, headlines, terms
from icdrat.codes import icd
from icdrat.text import find_quote, mark
from icdrat.types import CARDS, Note

TEXT = "T2DM on metformin. HTN, on lisinopril."
PAIRS = {"E11.9": ("T2DM", "T2DM on metformin"), "I10": ("HTN", "HTN")}


@pytest.fixture
def scored(tmp_path, monkeypatch):
    "Score `n` notes; what was printed, and the scores in the file"
    monkeypatch.chdir(tmp_path)

    def score(n, *more):
        notes = [Note(f"n{i}", TEXT) for i in range(n)]

        def said(k, source):
            return [mark(x, icd(c), find_quote(TEXT, quotes[k]), source) for x in notes for c, quotes in PAIRS.items()]

        rows = [dict(note_id=x.id, text=TEXT, codes=[], split="test") for x in notes]
        save_corpus(build("toy", rows, said(0, "human")), "corpus")
        write_rationales("pred.jsonl", said(1, "toy"))
        words = "evaluate plausibility --notes corpus --gold corpus/gold.jsonl --pred pred.jsonl --out s.json"
        shown = run_command(words, "--draws 50", *more)
        return shown, json.loads((tmp_path / "s.json").read_text())["scores"]

    return score


def metrics_in(shown):
    return re.findall(r"^  (\w+/[\w@]+)", shown, re.M)


def test_six_to_ten_scores_are_printed_and_a_line_says_how_to_see_the_rest(scored):
    shown, scores = scored(6)
    printed = metrics_in(shown)
    assert 6 <= len(printed) <= 10 and printed == headlines(s["metric"] for s in scores)
    assert f"s.json: {len(scores)} scores, {len(scores) - len(printed)} of which are not shown here; --all" in shown


@pytest.mark.parametrize("asked", ["--all", "--definition mdace/token"])
def test_who_asks_for_scores_sees_them(scored, asked):
    shown, scores = scored(6, asked)
    assert metrics_in(shown) == [s["metric"] for s in scores] and "not shown" not in shown


def test_every_name_in_the_table_is_explained_below_it_and_no_other(scored):
    shown, _ = scored(6)
    names = {"pair", *(m.partition("/")[0] for m in metrics_in(shown))}
    assert set(re.findall(r"^(\w+): (?!.*scores)", shown, re.M)) == names


@pytest.mark.parametrize("n", [1, 4, 5])
def test_fewer_than_five_notes_have_no_interval_and_a_reason(scored, n):
    shown, scores = scored(n)
    few = n < 5
    assert all((s["low"] is None) == (s["high"] is None) == few for s in scores if s["value"] is not None)
    assert all(("fewer than five notes" in s.get("note", "")) == few for s in scores if s["value"] is not None)
    assert shown.count("fewer than five notes") == few
    assert "nan" not in shown


def test_every_definition_on_a_card_has_a_phrase_and_every_headline_a_card():
    assert {name.partition("/")[0] for name in CARDS} <= set(TERMS)
    assert set(HEADLINES) <= set(CARDS)
    assert all(len(line) <= 130 and "\n" not in line for line in terms(TERMS))


def test_help_says_what_an_option_takes_in_capitals():
    for command in ROAD:
        shown = run_command(command, "--help")
        assert not re.search(r"^  -\S+ <", shown, re.M), command
    shown = run_command("rationales mention --help")
    assert "--source TEXT" in shown and "--out PATH" in shown and "[full|category|ancestor]" in shown


def test_help_lists_every_command_whole_and_in_the_order_of_the_road():
    for group in ("", "data", "rationales", "evaluate", "annotate"):
        shown = run_command(group, "--help").split("Commands:")[1].split("Example:")[0]
        assert "..." not in shown, group
    assert re.findall(r"^  (\w+) ", run_command("--help").split("Commands:")[1], re.M)[: len(ROAD)] == list(ROAD)


def test_the_profiles_that_there_are_are_those_that_help_names():
    from icdrat.show.profiles import profile_names, read_profiles
    from icdrat.show.report import project_root

    shown = " ".join(run_command("reproduce --help").split())
    assert all(re.search(rf"(?<!\w){name}\b", shown) for name in profile_names(read_profiles(project_root())))
