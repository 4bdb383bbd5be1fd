"Whatever an option cannot be is refused before the first file is looked for."

import re
from typing import get_type_hints

import pytest
from commands import commands
from typer.testing import CliRunner

from icdrat.cli.app import app
from icdrat.cli.main import GROUPS
from icdrat.types import BadInput

# words of one's own, and names of files
ANYTHING = {"licence", "provenance", "encoder", "annotator", "profile", "note"}
NAMES_OF_OWN = {(("rationales", "prompt"), "source")}


def options_of_commands():
    "Every option that takes a number or one of a few words, with what it cannot be"
    for words, command in commands():
        for option in command.params:
            kind = str(get_type_hints(command.callback).get(option.name, bool))
            if re.search("Path|bool", kind) or option.name in ANYTHING or (words, option.name) in NAMES_OF_OWN:
                continue
            wrong = ["-1"] if "int" in kind else ["nan", "inf"] if "float" in kind else ["nonsense"]
            for value in wrong:
                named = f"{' '.join(words)} {option.opts[-1]} {value}"
                yield pytest.param(words, command, option.name, value, id=named)


def test_the_options_of_all_groups_are_asked():
    asked = [case.values for case in options_of_commands()]
    assert len(asked) > 60 and {module.__name__.split(".")[-1] for module in GROUPS} - {"main"} <= {
        word for words, *_ in asked for word in words
    }


@pytest.mark.parametrize("words, command, name, value", list(options_of_commands()))
def test_what_an_option_cannot_be_is_said_before_anything_is_read(tmp_path, words, command, name, value):
    given = []
    for option in command.params:
        named_by = option.opts[-1:] if option.opts[0].startswith("-") else []
        if option.name == name:
            given += [*named_by, value]
        elif option.required or option.name == "notebook":
            pairs = "a=" if option.name == "source" else ""
            given += [*named_by, f"{pairs}{tmp_path}/nowhere/{option.name}"]
    done = CliRunner().invoke(app, [*words, *given])
    refused = isinstance(done.exception, BadInput) or done.exit_code == 2
    said = f"{done.exception} {done.output}"
    assert refused and "nowhere" not in said, said
    assert re.search(rf"{value}|{name}", said), said
    assert not any(tmp_path.iterdir())
