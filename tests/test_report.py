"Tables and figures that come out the same, and notebooks that run with what they declare."

import json
import re
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest

from icdrat.show.looks import METHODS, NEUTRAL, PALETTE, STYLE, TYPE, WIDTH, colours, in_print
from icdrat.show.report import NoCaption, UndeclaredParameter, cell, check_parameters, clear_best, decimals
from icdrat.show.report import declared_parameters, estimates, how_many, how_sure, of_corpus, read_results
from icdrat.show.report import save_figure, save_results, save_table, what_was_made

PAPER = sorted((Path(__file__).resolve().parents[1] / "nbs" / "paper").glob("*.ipynb"))


@pytest.mark.parametrize("seed", range(5))
def test_results_differing_in_the_ninth_digit_are_the_same_file(tmp_path, seed):
    value = np.random.default_rng(seed).random(500).round(6)
    for name, noise in (("a", 0), ("b", 1e-9)):
        save_results(pd.DataFrame(dict(method="x", value=value + noise)), tmp_path / f"{name}.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_negative_zero_is_a_zero():
    assert cell(-1e-9, -0.0, 0.2) == "0.000 [0.000, 0.200]"
    assert cell(-0.0004, -0.01, 0.2) == "0.000 [-0.010, 0.200]"
    assert cell(0.5, np.nan, np.nan) == "0.500", "too few notes for an interval"


def test_the_three_forms_of_a_table_say_the_same(tmp_path):
    table = pd.DataFrame({"Method": ["A & B", "c_d"], "F1 ↑": ["**0.5 [0.4, 0.6]**", "–"]})
    csv, md, tex = save_table(table, tmp_path / "tab7_toy", "F1 of\ntwo, 95 %.")
    assert pd.read_csv(csv).equals(table.replace(r"\*\*", "", regex=True))
    said, _, *rows = md.read_text().splitlines()
    assert said == "**Table 7.** F1 of two, 95 %." and rows[2:] == ["| A & B | **0.5 [0.4, 0.6]** |", "| c_d | – |"]
    tex = tex.read_text()
    assert r"\caption{F1 of two, 95 \%.}" in tex and r"\label{tab:tab7_toy}" in tex
    assert r"A \& B & \textbf{0.5 [0.4, 0.6]} \\" in tex and r"c\_d & -- \\" in tex


def test_results_remember_what_made_them(tmp_path):
    save_results(pd.DataFrame(dict(x=[1])), tmp_path / "e.parquet", corpus="synth", seed=3, weight=0.1)
    assert read_results(tmp_path / "e.parquet").attrs == dict(corpus="synth", seed=3, weight=0.1)


# ---- what a number may claim ----


@pytest.mark.parametrize("seed", range(20))
def test_no_decimal_is_printed_that_the_interval_swallows(seed):
    low, high = np.sort(np.random.default_rng(seed).random(2) ** 3)
    digits, reach = decimals(low, high), (high - low) / 2
    assert 0 <= digits <= 3
    assert 10.0**-digits >= reach / 35.5 or digits == 0, "the last digit is under a thirty-fifth of the reach"
    assert digits == 3 or 10.0**-digits <= reach, "a digit more would still be known"
    assert decimals(low, high, most=1) <= 1 and decimals(high, high) == 3


def toy(*rows):
    return pd.DataFrame(rows, columns=["value", "low", "high"], index=list("abcd")[: len(rows)], dtype=float)


def test_bold_is_what_is_better_from_end_to_end_and_nothing_else():
    apart = toy((0.9, 0.8, 0.95), (0.5, 0.4, 0.7), (0.1, 0.0, 0.2))
    assert clear_best(apart, True) == "a" and clear_best(apart, False) == "c"
    assert clear_best(apart, True, ["a"]) == "b" and clear_best(apart, True, ["a", "b"]) is None
    touching = toy((0.9, 0.7, 0.95), (0.5, 0.4, 0.7))
    assert clear_best(touching, True) is None
    assert clear_best(apart.iloc[:1], True) is None, "one alone is the best of nothing"
    assert "**" not in "".join(estimates(apart)) and estimates(apart, True)["a"].startswith("**")
    assert estimates(toy((np.nan, np.nan, np.nan), (0.5, 0.4, 0.6)), True).tolist()[0] == "–"


# ---- captions ----


def test_a_caption_is_required_and_says_what_it_rests_on(tmp_path):
    table = pd.DataFrame({"a": ["1"]})
    for stem, caption in (("tab1_x", ""), ("tab1_x", " \n"), ("other", "Words.")):
        with pytest.raises(NoCaption):
            save_table(table, tmp_path / stem, caption)
    assert not list(tmp_path.iterdir())
    assert how_many(1, 2000) == "1 test note, 2,000 pairs of a note and a code" and how_many(3, None) == "3 test notes"
    assert "1,000 resamples, seed 7" in how_sure(1000, 7) and how_sure(10, 0, 0.9).startswith("Brackets: 90%")
    assert "synthetic" in of_corpus(dict(corpus="synth")) and of_corpus(dict(corpus="x")) == "On the corpus x"


@pytest.mark.parametrize("path", [p for p in PAPER if not p.stem.startswith("page")], ids=lambda p: p.stem)
def test_a_caption_of_the_paper_holds_no_typed_number(path):
    cells = ["".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    [caption] = re.findall(r'caption = f"""(.*?)"""', "\n".join(cells), re.S)
    caption = " ".join(caption.split())
    typed = re.sub(r"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}", "", caption)
    typed = re.sub(r"et al\.\s\(?\d{4}|ICD-10-CM|F1|\bC[1-5]\b", "", typed)  # the claims have names
    assert not re.search(r"\d", typed), typed
    assert "how_sure(" in caption or "not estimates" in caption, "how were the intervals made?"


# ---- figures ----


def drawing():
    figure, ax = plt.subplots()
    ax.plot([0, 1], [0, 1], label="a")
    ax.set(xlabel="x", ylabel="y", title="t")
    ax.legend()
    return figure


def test_a_figure_has_the_same_bytes_each_time_and_its_caption_beside_it(tmp_path):
    matplotlib.use("agg")
    once, again = (save_figure(drawing(), tmp_path / f / "fig3_toy", "A line. It rises.") for f in "ab")
    assert [p.suffix for p in once] == [".svg", ".pdf", ".png", ".md", ".tex"]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(once, again))
    assert once[3].read_text() == "![A line.](fig3_toy.svg)\n\n**Figure 3.** A line. It rises.\n"
    assert r"\caption{A line. It rises.}" in once[4].read_text() and "{fig3_toy.pdf}" in once[4].read_text()


def test_all_letters_of_a_figure_have_one_size_and_every_figure_one_width():
    figure = drawing()
    ax = figure.axes[0]
    figure.canvas.draw()
    words = [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.get_xticklabels(), *ax.get_legend().get_texts()]
    assert {w.get_fontsize() for w in words} == {TYPE} and figure.get_figwidth() == WIDTH == STYLE["figure.figsize"][0]


def test_a_source_has_one_colour_under_all_its_names():
    for method, printed in METHODS.items():
        assert colours(method) == colours(printed) == colours(f"random@{method}") or method == "random"
        assert colours(method) in (*PALETTE, NEUTRAL)
    assert len({colours(m) for m in ("human", "attention", "student", "mention", "llm", "lime")}) == 6
    assert colours("mine") == colours("planted") == NEUTRAL


def test_a_control_is_named_after_what_it_controls():
    assert in_print("random@attention") == "Random like Attention" and in_print("mine") == "mine"


def test_what_was_made_is_said_by_kind(tmp_path):
    for name in ("tab1_methods.md", "fig1_curves.svg", "page1_notes.html", "e1_coder.parquet"):
        (tmp_path / name).touch()
    assert what_was_made(tmp_path).count("\n") == 4


# ---- what a notebook declares ----


@pytest.mark.parametrize(
    "text, names",
    [
        ('s = "a=b"', ["s"]),
        ("n = 1 # how many = 3", ["n"]),
        ("flag = x == 2  # odd", ["flag"]),
        ("n:int = 1 # typed", ["n"]),
        ("rows = [1,\n  2]\nlast = {'a': '='}", ["rows", "last"]),
        ("# nothing = here\nimport os", []),
    ],
)
def test_a_parameter_may_have_any_default_that_python_reads(text, names, tmp_path):
    cell = nbformat.v4.new_code_cell(text, metadata=dict(tags=["parameters"]))
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "n.ipynb")
    assert declared_parameters(tmp_path / "n.ipynb") == names
    with pytest.raises(UndeclaredParameter, match="unknown parameter 'other'"):
        check_parameters(tmp_path / "n.ipynb", dict(other=1))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cells": 3}', '{"cells": [{}]}', "\x00"])
def test_what_is_no_notebook_is_said_in_one_line(text, tmp_path):
    (tmp_path / "n.ipynb").write_text(text)
    with pytest.raises(UndeclaredParameter, match="n.ipynb: not a Jupyter notebook"):
        declared_parameters(tmp_path / "n.ipynb")
