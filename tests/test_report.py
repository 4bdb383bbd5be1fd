"Tables and figures that come out the same, and notebooks that run with what they declare."

import nbformat
import numpy as np
import pandas as pd
import pytest

from icdrat.show.report import UndeclaredParameter, cell, check_parameters, declared_parameters, in_print, save_results
from icdrat.show.report import save_table, what_was_made


@pytest.mark.parametrize("seed", range(5))
def test_results_differing_in_the_ninth_digit_are_the_same_file(tmp_path, seed):
    value = np.random.default_rng(seed).random(500).round(6)
    for name, noise in (("a", 0), ("b", 1e-9)):
        save_results(pd.DataFrame(dict(method="x", value=value + noise)), tmp_path / f"{name}.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_negative_zero_is_a_zero():
    assert cell(-1e-9, -0.0, 0.2) == "0.000 [0.000, 0.200]"
    assert cell(-0.0004, -0.01, 0.2) == "0.000 [-0.010, 0.200]"


def test_the_three_forms_of_a_table_say_the_same(tmp_path):
    table = pd.DataFrame({"Method": ["A & B", "c_d"], "F1 ↑": ["0.5 [0.4, 0.6]", "–"]})
    csv, md, tex = save_table(table, tmp_path / "tab")
    assert pd.read_csv(csv).equals(table)
    assert md.read_text().splitlines()[2:] == ["| A & B | 0.5 [0.4, 0.6] |", "| c_d | – |"]
    assert r"A \& B & 0.5 [0.4, 0.6] \\" in tex.read_text() and r"c\_d & -- \\" in tex.read_text()


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
