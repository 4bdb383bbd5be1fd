"What works from the top of the package, and what it costs to open the door."

import inspect
import re
import subprocess
import sys

import numpy as np
import pytest

import icdrat
from icdrat.codes import icd
from icdrat.data.corpus import build
from icdrat.data.exchange import MissingFile, save_corpus
from icdrat.data.synth import synthesise
from icdrat.front import (
    CORPORA,
    NAMES,
    explain,
    faithfulness,
    load_corpus,
    plausibility,
    select,
    show,
    together,
    train,
    validated,
)
from icdrat.types import BadInput, Explanation, Note, Rationale, Span

LARGE = {"numpy", "pyarrow", "pandas", "torch", "transformers", "IPython", "matplotlib", "scipy", "sklearn"}
SIGNS = ("sepsis", "gout", "asthma")


def loaded(line):
    "Which large libraries a line brings along in a fresh Python"
    script = f"{line}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return LARGE & set(done.stdout.split())


def test_opening_the_door_loads_nothing_large():
    assert loaded("import icdrat") == set()
    heavy = {"torch", "pandas", "transformers", "IPython"}
    assert not loaded("from icdrat import Note, Span, Code, Rationale, Explanation") & heavy
    assert not loaded("from icdrat import *") & heavy


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there_is_listed_and_says_what_it_is(name):
    assert name in dir(icdrat) and name in icdrat.__all__
    found = getattr(icdrat, name)
    assert callable(found) and (inspect.getdoc(found) or name == "show")
    space = {}
    exec(f"from icdrat import {name}", space)
    assert space[name] is found


def test_an_unknown_name_is_refused_with_those_that_are_there():
    with pytest.raises(AttributeError, match="no 'Notes'.*Note, Span, Code.*load_corpus"):
        icdrat.Notes
    with pytest.raises(ImportError, match="Notes"):
        exec("from icdrat import Notes")
    assert not hasattr(icdrat, "__wrapped__") and icdrat.__version__


IMPORTS = ("import icdrat", "import icdrat.show.view", "from icdrat.show import report", "import icdrat.front")


@pytest.mark.parametrize("first", IMPORTS)
def test_show_is_the_room_and_the_verb_whatever_was_imported_first(first):
    script = f"""
{first}
from icdrat import show, Note, Rationale, Span, Code
import icdrat, icdrat.show.view as view
note = Note('n', 'Sepsis.')
made = show(note, human=[Rationale('n', Code('icd10cm', 'A41.9'), [Span(0, 6)], 'human')])
assert '<mark' in made.data and view.show is not show and icdrat.show.view is view
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.fixture(scope="module")
def corpus():
    "Notes that name one of three conditions, with the name marked"
    rng, rows, gold = np.random.default_rng(0), [], []
    codes = dict(zip(SIGNS, map(icd, ("A41.9", "M10.9", "J45.909"))))
    for i in range(90):
        sign, split = SIGNS[i % 3], ("train", "train", "train", "validation", "test")[i // 3 % 5]
        filler = " ".join(rng.choice(["patient", "with", "walks", "home", "today"], size=8))
        text = f"{filler} {sign} {filler}."
        rows.append(dict(note_id=f"n{i}", text=text, codes=[codes[sign]], split=split))
        gold.append(Rationale(f"n{i}", codes[sign], [Span(text.index(sign), text.index(sign) + len(sign))], "human"))
    return build("signs", rows, gold)


@pytest.fixture(scope="module")
def coder(corpus):
    return train(corpus, min_notes=3, epochs=25, progress=False)


def test_a_corpus_is_found_by_name_and_by_folder(tmp_path, corpus):
    assert load_corpus("synth", n_notes=20, seed=3).table.equals(synthesise(20, seed=3).table)
    threes = load_corpus("vignettes", level=3)
    assert len(threes) == len(load_corpus("vignettes")) == 52
    assert not any("." in c.value for codes in threes.codes.values() for c in codes)
    save_corpus(corpus, tmp_path / "signs")
    assert load_corpus(tmp_path / "signs").table.equals(corpus.table)
    with pytest.raises(BadInput, match="takes no seed"):
        load_corpus(tmp_path / "signs", seed=3)
    with pytest.raises(MissingFile, match=", ".join(CORPORA)):
        load_corpus("mimic")
    with pytest.raises(MissingFile, match="no notes.jsonl"):
        load_corpus(tmp_path)


def test_codiesp_is_found_by_name(data_folder):
    spanish, english = (load_corpus(name, folder=data_folder / "codiesp") for name in ("codiesp", "codiesp_en"))
    assert len(spanish) == len(english) == 750 and english.language == "en" and english.gold
    assert together(spanish)("S0004-1") == "S0004"
    split = dict(zip(*(validated(spanish).table[c].to_pylist() for c in ("note_id", "split"))))
    sides = {}
    for i, s in split.items():
        if s != "test":
            sides.setdefault(together(spanish)(i), set()).add(s)
    assert all(len(s) == 1 for s in sides.values())


def test_validation_notes_are_set_apart_where_there_are_none_and_always_the_same(corpus):
    bare = corpus.split("train")
    assert validated(corpus) is corpus
    assert validated(bare).splits == dict(train=43, validation=11)
    assert validated(bare).table.equals(validated(bare).table)


def test_a_coder_learns_what_it_is_given(corpus, coder):
    probabilities = coder([n.text for n in corpus.notes])
    likeliest = [coder.codes[p.argmax()] for p in probabilities]
    assert np.mean([code in corpus.codes[n.id] for code, n in zip(likeliest, corpus.notes)]) > 0.9
    with pytest.raises(BadInput, match="no recipe for 'camel'"):
        train(corpus, "camel", min_notes=3)
    with pytest.raises(BadInput, match="at least 1000 notes"):
        train(corpus, min_notes=1000)


def test_a_corpus_is_explained_by_its_codes_and_a_note_by_those_that_are_predicted(corpus, coder):
    test = corpus.split("test")
    asked = {(e.note_id, e.code) for e in explain(coder, test, progress=False)}
    assert asked == {(i, c) for i, codes in test.codes.items() for c in codes}
    note = Note("mine", "Gout, and asthma too.")
    said = [c for c, yes in zip(coder.codes, coder([note.text])[0] > coder.threshold) if yes]
    assert [e.code for e in explain(coder, note)] == said == [e.code for e in explain(coder, [note])]
    with pytest.raises(BadInput, match="no method 'attenton'"):
        explain(coder, note, "attenton")


def test_the_cut_is_chosen_on_validation_notes_and_the_others_are_answered(corpus, coder):
    soft = explain(coder, corpus, progress=False) + explain(coder, corpus, "attingrad", progress=False)
    hard = select(soft, corpus)
    validation = corpus.split("validation").codes
    others = [n.id for n in corpus.notes if n.id not in validation]
    assert {(r.note_id, r.source) for r in hard} == {(i, m) for i in others for m in ("attention", "attingrad")}
    with pytest.raises(BadInput, match="gold"):
        select([e for e in soft if e.note_id not in validation], corpus)


def test_both_tables_hold_a_value_with_its_interval_in_every_cell(corpus, coder):
    test = corpus.split("test")
    hard = select(explain(coder, corpus, progress=False), corpus)
    plausible = plausibility(test, corpus.gold, hard, n_draws=50)
    faithful = faithfulness(coder, test, [*hard, *corpus.gold], n_random=2, n_draws=50, progress=False)
    assert list(plausible.index) == ["attention"] and plausible["pairs"].tolist() == [18]
    assert set(faithful.index) == {"attention", "human", "random@attention", "random@human", "whole_note", "empty"}
    for table in (plausible, faithful):
        cells = table.drop(columns="pairs").to_numpy().ravel()
        assert all(s == "–" or re.fullmatch(r"-?\d\.\d{3} \[-?\d\.\d{3}, -?\d\.\d{3}\]", s) for s in cells)
    assert plausibility(test, corpus.gold, corpus.gold, n_draws=50).loc["human", "token/f1 ↑"].startswith("1.000")
    assert plausibility(list(test.notes), test.gold, hard, codes=[icd("A41.9")], n_draws=50)["pairs"].tolist() == [6]


def test_codes_that_the_coder_does_not_know_are_left_out_of_faithfulness(corpus, coder):
    test = corpus.split("test")
    other = Rationale(test.notes[0].id, icd("Z79.4"), [Span(0, 7)], "human")
    table = faithfulness(coder, test, [other, *test.gold], n_random=1, n_draws=20, progress=False)
    assert table.loc["human", "pairs"] == len(test.gold)


def test_show_takes_whole_lists_and_shows_one_note(corpus, coder):
    note = corpus.notes[4]
    soft = explain(coder, corpus, progress=False)
    [own] = [e for e in soft if e.note_id == note.id]
    gold = [r for r in corpus.gold if r.note_id == note.id]
    whole, alone = show(note, human=corpus.gold, scores=soft).data, show(note, human=gold, scores=own).data
    assert whole == alone == icdrat.show(note, human=corpus.gold, scores=soft).data
    assert isinstance(own, Explanation) and whole.count('<div class="text"') == 2
    with pytest.raises(BadInput, match="0 sources"):
        show(note)
