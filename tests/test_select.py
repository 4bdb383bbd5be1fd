"The step from scores to spans: the cut of an independent implementation, and laws over seeds."

import numpy as np
import pytest

from icdrat.data.corpus import UnknownNote
from icdrat.rationale.select import (
    CUTS,
    NegativeSum,
    NothingToTune,
    SeveralMethods,
    best_cut,
    exact_cut,
    gold_rows,
    parts_of_sum,
    prf_at_cuts,
    select,
)
from icdrat.text import mark, mask_to_spans, spans_to_mask, words
from icdrat.types import Code, Explanation, Note, Rationale, Span, SpanOutsideNote

CODE, OTHER = Code("icd10cm", "E11.9"), Code("icd10cm", "I10")


def note_of(n_words, id="n1"):
    return Note(id, " ".join(f"w{i}" for i in range(n_words)))


def explain(scores, id="n1", code=CODE, method="m"):
    return Explanation(id, code, words(note_of(len(scores), id).text), np.asarray(scores, float), method)


def marked(mask, id="n1", code=CODE):
    note = note_of(len(mask), id)
    return mark(note, code, mask_to_spans(np.asarray(mask, bool), words(note.text)), "human")


def validation(seed, n=12):
    "Explanations whose gold words tend to have more weight, and their gold"
    rng, explanations, gold = np.random.default_rng(seed), [], []
    for i in range(n):
        size = rng.integers(5, 60)
        mask = np.arange(size) // 2 == rng.integers(size // 2)
        explanations.append(explain(rng.gamma(0.5, size=size) * np.where(mask, 8, 1), f"n{i}"))
        gold.append(marked(mask, f"n{i}"))
    return explanations, gold


# the oracle


def rows_of(case):
    scores = [np.array(r["attributions"], float) for r in case["rows"]]
    return scores, [np.isin(np.arange(len(s)), r["evidence_token_ids"]) for s, r in zip(scores, case["rows"])]


def test_precision_recall_and_f1_match_the_oracle(oracle):
    for case in oracle("emc_plausibility")["cases"]:
        scores, gold = map(np.concatenate, rows_of(case))
        [found] = prf_at_cuts(scores, gold, np.array([case["decision_boundary"]], float))
        np.testing.assert_allclose(found, case["expected"]["prf"], atol=1e-9, err_msg=case["name"])


def test_the_best_cut_matches_the_oracle(oracle):
    for case in oracle("emc_plausibility")["cases"]:
        scores, gold = map(np.concatenate, rows_of(case))
        best = CUTS[prf_at_cuts(scores, gold, CUTS)[:, 2].argmax()]
        assert best == pytest.approx(case["expected"]["best_decision_boundary"], abs=1e-9), case["name"]


def test_the_best_cut_of_explanations_matches_the_oracle(oracle):
    for case in oracle("emc_plausibility")["cases"]:
        scores, gold = rows_of(case)
        if any(not g.any() for g in gold):
            continue
        explanations = [explain(s, f"n{i}") for i, s in enumerate(scores)]
        rationales = [marked(g, f"n{i}") for i, g in enumerate(gold)]
        chosen, truth = (prf_at_cuts(*gold_rows(explanations, rationales), np.array([c]))[0, 2] for c in (best_cut(explanations, rationales), case["expected"]["best_decision_boundary"]))
        assert chosen >= truth - 1e-9, case["name"]  # dividing by a rounded sum may move a score across a cut


# counting


@pytest.mark.parametrize("seed", range(10))
def test_one_sort_counts_what_a_loop_counts(seed):
    rng = np.random.default_rng(seed)
    scores, gold = rng.integers(0, 12, 50) / 12, rng.random(50) < 0.3  # with ties, on and off the cuts
    cuts = np.concatenate([np.linspace(-0.1, 1.1, 25), scores[:5]])
    for cut, found in zip(cuts, prf_at_cuts(scores, gold, cuts)):
        chosen = scores > cut
        hits = (chosen & gold).sum()
        p, r = hits / max(chosen.sum(), 1), hits / gold.sum()
        np.testing.assert_allclose(found, [p, r, 2 * p * r / (p + r) if hits else 0], atol=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_the_exact_cut_is_never_worse_than_a_grid(seed):
    explanations, gold = validation(seed)
    rows = gold_rows(explanations, gold)
    for grid in (CUTS, np.linspace(0, 1, 1001), np.random.default_rng(seed).random(50)):
        cuts = np.array([exact_cut(explanations, gold), best_cut(explanations, gold, cuts=np.sort(grid))])
        exact, best = prf_at_cuts(*rows, cuts)[:, 2]
        assert exact >= best


@pytest.mark.parametrize("seed", range(5))
def test_the_best_cut_is_the_first_of_the_best(seed):
    explanations, gold = validation(seed)
    f1 = prf_at_cuts(*gold_rows(explanations, gold), CUTS)[:, 2]
    place = np.flatnonzero(CUTS == best_cut(explanations, gold))[0]
    assert (f1[:place] < f1[place]).all() and (f1[place:] <= f1[place]).all()


def test_a_perfect_ranking_is_cut_between_gold_and_the_rest():
    explanations, gold = [explain([1, 1, 8, 10])], [marked([0, 0, 1, 1])]
    assert exact_cut(explanations, gold) == pytest.approx(1 / 20)
    assert best_cut(explanations, gold) == pytest.approx(0.05, abs=2e-3)


def test_when_all_is_gold_all_is_selected():
    explanations, gold = [explain([1, 2, 3])], [marked([1, 1, 1])]
    assert len(select(explanations[0], note_of(3), exact_cut(explanations, gold)).spans[0]) == len(note_of(3))


@pytest.mark.parametrize("seed", range(5))
def test_order_and_scale_change_nothing(seed):
    explanations, gold = validation(seed)
    other = [Explanation(e.note_id, e.code, e.offsets, e.scores * k, e.method) for k, e in enumerate(explanations[::-1], 1)]
    for cut in (best_cut, exact_cut):
        assert cut(other, gold[::-1]) == pytest.approx(cut(explanations, gold), abs=1e-9)


# rows


def test_rows_without_gold_words_are_left_out():
    explanations, gold = validation(0)
    extra = [explain([5, 1], "x"), explain([5, 1], "y"), explain([5, 1], "n1", OTHER)]
    silent = [Rationale("x", CODE, (), "human"), marked([1, 1], "z")]  # an empty answer, and one nobody explained
    assert best_cut(explanations + extra, gold + silent) == best_cut(explanations, gold)
    np.testing.assert_array_equal(gold_rows(explanations + extra, gold + silent)[1], gold_rows(explanations, gold)[1])


def test_all_gold_of_a_pair_counts_together():
    halves = [marked([1, 0, 0, 0]), marked([0, 0, 1, 0])]
    np.testing.assert_array_equal(gold_rows([explain([1, 1, 1, 1])], halves)[1], [True, False, True, False])


def test_parts_sum_to_one_and_zeros_stay_zero():
    np.testing.assert_allclose(parts_of_sum(explain([1, 3])), [0.25, 0.75])
    np.testing.assert_array_equal(parts_of_sum(explain([0, 0])), [0, 0])
    np.testing.assert_allclose(parts_of_sum(explain([3, -1])), [1.5, -0.5])


def test_mistakes_of_the_caller_are_named():
    explanation, gold = explain([1, 2]), marked([1, 0])
    with pytest.raises(NegativeSum, match="n1, E11.9, m"):
        best_cut([explain([1, -3])], [gold])
    with pytest.raises(SeveralMethods, match="m, other"):
        best_cut([explanation, explain([1, 2], method="other")], [gold])
    with pytest.raises(NothingToTune, match="none of 1 explanations"):
        exact_cut([explanation], [marked([1, 0], code=OTHER)])
    with pytest.raises(NothingToTune):
        exact_cut([], [])
    short = Note("n1", "w0")
    with pytest.raises(SpanOutsideNote, match="another edition"):
        best_cut([explanation], [marked([1, 0])], [short])
    with pytest.raises(SpanOutsideNote):
        best_cut([explanation], [marked([0, 1])], [short])
    with pytest.raises(UnknownNote, match="'n2'"):
        select(explanation, note_of(2, "n2"), 0.1)
    with pytest.raises(SpanOutsideNote):
        select(explanation, short, 0.1)


# spans


@pytest.mark.parametrize("seed", range(10))
def test_exactly_the_words_above_the_cut_are_selected(seed):
    rng = np.random.default_rng(seed)
    explanation, cut = explain(rng.random(30)), rng.random() / 20
    rationale = select(explanation, note_of(30), cut)
    np.testing.assert_array_equal(spans_to_mask(rationale.spans, explanation.offsets), explanation.scores / explanation.scores.sum() > cut)
    assert (rationale.note_id, rationale.code, rationale.source) == ("n1", CODE, "m")


@pytest.mark.parametrize("seed", range(5))
def test_a_higher_cut_never_selects_more(seed):
    explanation = explain(np.random.default_rng(seed).random(30))
    masks = [spans_to_mask(select(explanation, note_of(30), c).spans, explanation.offsets) for c in np.linspace(0, 0.1, 20)]
    assert all((low | ~high).all() for low, high in zip(masks, masks[1:]))


def test_the_comparison_is_strict():
    explanation = explain([0, 1, 3])
    assert select(explanation, note_of(3), 0.0).spans == (Span(3, 8),)  # a word without weight is not above 0
    assert not select(explanation, note_of(3), parts_of_sum(explanation).max()).spans


def test_lone_punctuation_is_no_evidence():
    note = Note("n1", "T2DM , A1c 9 % . HTN")
    explanation = Explanation("n1", CODE, words(note.text), np.array([0, 1, 0, 1, 1, 1, 0.0]), "m")
    assert [note.text[s.start : s.end] for s in select(explanation, note, 0.1).spans] == ["9 % ."]
    comma = Explanation("n1", CODE, words(note.text), np.array([0, 1, 0, 0, 0, 0, 0.0]), "m")
    assert select(comma, note, 0.1, source="student") == Rationale("n1", CODE, (), "student")


def test_letters_of_any_alphabet_are_evidence():
    note = Note("n1", "náuseas é 糖尿病 -")
    explanation = Explanation("n1", CODE, words(note.text), np.array([0, 1, 0, 1.0]), "m")
    assert select(explanation, note, 0.1).spans == (Span(8, 9),)
