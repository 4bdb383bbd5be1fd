"Every metric has a change that breaks it and a test that notices; `python tests/mutations.py` makes the changes."

import re

import pytest

from icdrat.evaluation.cards import cards
from mutations import ROOT, covers, listed

MUTATIONS = listed()


def test_every_card_belongs_to_a_mutation():
    without = [name for name in cards().name if not any(covers(m, name) for m in MUTATIONS)]
    assert not without, f"add a mutation for {without} to a tests/mutations*.toml"


def test_every_pattern_names_a_card():
    names = cards().name.tolist()
    idle = [
        (m["name"], p) for m in MUTATIONS for p in m["metrics"] if not any(covers(dict(metrics=[p]), n) for n in names)
    ]
    assert not idle


def test_names_are_given_once():
    names = [m["name"] for m in MUTATIONS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[m["name"] for m in MUTATIONS])
def test_a_mutation_changes_one_place_and_names_a_test_that_exists(mutation):
    text = (ROOT / mutation["module"]).read_text(encoding="utf-8")
    assert text.count(mutation["old"]) == 1, mutation["old"]
    assert mutation["new"] != mutation["old"] and "\n" not in mutation["old"] + mutation["new"]
    file, _, test = mutation["test"].partition("::")
    assert re.search(rf"^def {re.escape(test)}\(", (ROOT / file).read_text(encoding="utf-8"), re.M), mutation["test"]
