"Tables and figures that come out the same, and notebooks that run with what they declare."

import numpy as np
import pandas as pd
import pytest

from icdrat.show.report import cell, in_print, save_results, save_table, what_was_made


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
