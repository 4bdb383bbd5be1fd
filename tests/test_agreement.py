"Laws of agreement between annotators, and what the libraries say about the same decisions."

from itertools import combinations

import krippendorff
import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from icdrat.codes import icd
from icdrat.data.agreement import AnsweredTwice, OneAnnotator, agreement, span_hits
from icdrat.data.corpus import build
from icdrat.text import mask_to_spans, spans_to_mask, words
from icdrat.types import LEVELS, BadInput, Rationale, Span

CODES = [icd("I10"), icd("R11.0")]
TEXT = " ".join(
    f"w{i}" for i in range(60)
)  # one word apart, so that each marked word is a span of its own or part of a run
PLACES = words(TEXT)


def notes(n=8):
    return build("made", [dict(note_id=f"n{i}", text=TEXT, codes=CODES, split="test") for i in range(n)])


def marked(source, seed, n=8, share=0.3, level="mention"):
    rng = np.random.default_rng(seed)
    return [
        Rationale(f"n{i}", c, mask_to_spans(rng.random(60) < share, PLACES), source, level)
        for i in range(n)
        for c in CODES
    ]


def decisions(rationales):
    return np.concatenate([spans_to_mask(r.spans, PLACES) for r in rationales]).astype(float)


def values(table, level="mention"):
    return table[table["level"] == level].set_index("metric")["value"]


@pytest.mark.parametrize("seed", range(5))
def test_kappa_and_alpha_are_those_of_the_libraries(seed):
    a, b = marked("a", seed), marked("b", seed + 100, share=0.5)
    found, x, y = values(agreement(notes(), a + b, n_draws=10)), decisions(a), decisions(b)
    assert found["token/kappa"] == pytest.approx(cohen_kappa_score(x, y))
    assert found["token/alpha"] == pytest.approx(krippendorff.alpha(np.stack([x, y]), level_of_measurement="nominal"))


@pytest.mark.parametrize("seed", range(5))
def test_a_note_that_an_annotator_did_not_read_is_missing(seed):
    a, b, c = marked("a", seed), marked("b", seed + 1), marked("c", seed + 2, n=3)
    x, y, z = decisions(a), decisions(b), np.full(8 * 2 * 60, np.nan)
    z[: 3 * 2 * 60] = decisions(c)
    found = values(agreement(notes(), a + b + c, n_draws=10))
    assert found["token/alpha"] == pytest.approx(
        krippendorff.alpha(np.stack([x, y, z]), level_of_measurement="nominal")
    )
    both = [(p, q) for p, q in combinations((x, y, z), 2)]
    light = [cohen_kappa_score(*(v[~np.isnan(p + q)] for v in (p, q))) for p, q in both]
    assert found["token/kappa"] == pytest.approx(np.mean(light))


def test_identical_annotators_agree_fully():
    table = agreement(notes(), marked("a", 0) + marked("b", 0), n_draws=50)
    rows = table[
        table["level"].isin(["mention", "any"]) & ~table["metric"].isin(["has_evidence/kappa", "has_evidence/alpha"])
    ]
    np.testing.assert_allclose(rows[["value", "low", "high"]].to_numpy(), 1)


def test_independent_annotators_agree_by_chance_only():
    found = values(agreement(notes(60), marked("a", 1, 60) + marked("b", 2, 60), n_draws=10))
    assert abs(found["token/kappa"]) < 0.05 and abs(found["token/alpha"]) < 0.05
    assert found["token/f1"] == pytest.approx(0.3, abs=0.05)


def test_neither_the_names_nor_the_order_matter():
    plain = agreement(notes(), marked("a", 3) + marked("b", 4), n_draws=50)
    swapped = agreement(notes(), marked("b", 3) + marked("a", 4), n_draws=50)
    shuffled = agreement(notes(), (marked("a", 3) + marked("b", 4))[::-1], n_draws=50)
    for other in (swapped, shuffled):
        np.testing.assert_allclose(plain[["value", "low", "high"]], other[["value", "low", "high"]])


def test_what_is_undefined_is_nan_and_never_zero():
    table = agreement(notes(), marked("a", 0) + marked("b", 1), n_draws=10)
    silent = table[(table["level"] == "sentence") & ~table["metric"].str.startswith("has_evidence")]
    assert silent[["value", "low", "high"]].isna().all(axis=None)
    assert list(dict.fromkeys(table["level"])) == [*LEVELS, "any"]
    assert list(table.columns) == ["level", "metric", "value", "low", "high", "n_notes", "n_pairs"]


def test_an_answer_without_spans_is_an_answer():
    empty = [Rationale(f"n{i}", c, (), "b") for i in range(8) for c in CODES]
    found = values(agreement(notes(), marked("a", 0) + empty, n_draws=10))
    assert found["token/f1"] == 0 and found["has_evidence/raw"] == 0
    read = values(agreement(notes(), marked("a", 0), dict(b=[f"n{i}" for i in range(8)]), n_draws=10))
    assert read["token/f1"] == 0


def test_levels_are_kept_apart_and_joined_in_any():
    table = agreement(notes(), marked("a", 0) + marked("b", 0, level="context"), n_draws=10)
    assert values(table)["token/f1"] == 0 and values(table, "any")["token/f1"] == 1


@pytest.mark.parametrize("seed", range(20))
def test_spans_are_matched_as_often_as_they_can_be(seed):
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    rng = np.random.default_rng(seed)
    cuts = [np.sort(rng.choice(60, 12, replace=False)) for _ in "ab"]
    a, b = ([Span(int(s), int(e)) for s, e in c.reshape(-1, 2)] for c in cuts)
    touch = csr_array(np.array([[x.start < y.end and y.start < x.end for y in b] for x in a], int))
    assert span_hits(a, b)[1] == (maximum_bipartite_matching(touch) >= 0).sum() == span_hits(b, a)[1]


def test_mistakes_of_the_caller_are_named():
    for match, error, rationales, kwargs in (
        ("no note was read by two", OneAnnotator, marked("a", 0), {}),
        ("sources none", OneAnnotator, [], {}),
        ("gives two rationales", AnsweredTwice, marked("a", 0) * 2, {}),
        ("choose one of marked, coded", BadInput, marked("a", 0) + marked("b", 0), dict(which="all")),
        ("no note has the id", BadInput, marked("a", 0, 9) + marked("b", 0, 9), {}),
    ):
        with pytest.raises(error, match=match):
            agreement(notes(), rationales, **kwargs)
