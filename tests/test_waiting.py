"Whoever waits at a terminal is told what for; nobody else is."

import ast
import io
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from icdrat.waiting import doing, patience

ROOT = Path(__file__).resolve().parents[1]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def at_a_terminal():
    return patch.object(sys, "stderr", Terminal())


def test_a_line_is_there_at_once_and_gone_at_the_end():
    with at_a_terminal() as terminal, doing("reading corpus"):
        assert "reading corpus … 00:00" in terminal.getvalue()
    assert terminal.getvalue().split("\r")[-1].strip() == "" and "\n" not in terminal.getvalue()


def test_a_failure_takes_the_line_along():
    with pytest.raises(OSError), at_a_terminal() as terminal, doing("reading corpus"):
        raise OSError
    assert terminal.getvalue().split("\r")[-1].strip() == ""


def test_nothing_is_said_where_nobody_looks(capsys):
    with doing("reading corpus"):
        pass
    assert capsys.readouterr() == ("", "") and patience() == 2


def test_one_line_may_stand_within_another():
    with at_a_terminal() as terminal, doing("reading corpus"), doing("reading notes"):
        pass
    assert "reading corpus" in terminal.getvalue() and "reading notes" in terminal.getvalue()


def test_every_bar_of_the_package_waits_alike():
    "A bar is for whoever waits (`patience`), or only for a terminal (`disable=None`)"
    for path in (ROOT / "icdrat").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "tqdm":
                said = {k.arg: ast.unparse(k.value) for k in node.keywords}
                alike = said.get("delay") == "patience()" or said.get("disable") == "None"
                assert alike or path.name == "waiting.py", f"{path}:{node.lineno}"
