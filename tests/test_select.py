"The step from scores to spans: the cut of an independent implementation, and laws over seeds."

import json

import numpy as np
import pytest

from icdrat.data.corpus import UnknownNote
from icdrat.data.exchange import BrokenFile, MissingFile
from icdrat.evaluation.faithfulness.curves import SHARES, top_masks
from icdrat.rationale.select import (
    CUTS,
    RULES,
    SHARES_TRIED,
    BadSelection,
    NegativeSum,
    NothingToTune,
    OtherMethod,
    Selection,
    SeveralMethods,
    UnknownSign,
    best_cut,
    choose,
    evidence_words,
    exact_cut,
    gold_by_row,
    gold_rows,
    parts_of_sum,
    prf_at_cuts,
    prf_at_sizes,
    read_selections,
    select,
    write_selections,
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
        chosen, truth = (
            prf_at_cuts(*gold_rows(explanations, rationales), np.array([c]))[0, 2]
            for c in (best_cut(explanations, rationales), case["expected"]["best_decision_boundary"])
        )
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
    other = [
        Explanation(e.note_id, e.code, e.offsets, e.scores * k, e.method) for k, e in enumerate(explanations[::-1], 1)
    ]
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
    np.testing.assert_array_equal(
        spans_to_mask(rationale.spans, explanation.offsets), explanation.scores / explanation.scores.sum() > cut
    )
    assert (rationale.note_id, rationale.code, rationale.source) == ("n1", CODE, "m")


@pytest.mark.parametrize("seed", range(5))
def test_a_higher_cut_never_selects_more(seed):
    explanation = explain(np.random.default_rng(seed).random(30))
    masks = [
        spans_to_mask(select(explanation, note_of(30), c).spans, explanation.offsets) for c in np.linspace(0, 0.1, 20)
    ]
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


# rules


@pytest.mark.parametrize("seed", range(10))
def test_the_top_words_are_those_that_faithfulness_erases(seed):
    scores = np.random.default_rng(seed).integers(1, 9, 37).astype(float)  # with ties
    for share, mask in zip(SHARES, top_masks(scores, SHARES)):
        np.testing.assert_array_equal(evidence_words(scores, "top_share", share), mask)
        np.testing.assert_array_equal(evidence_words(scores, "top_k", int(mask.sum())), mask)


@pytest.mark.parametrize("share, n", [(0.001, 1), (0.07, 7), (0.071, 8), (1.0, 100)])
def test_a_share_is_rounded_up_to_whole_words(share, n):
    assert evidence_words(np.arange(1.0, 101), "top_share", share).sum() == n


def test_a_word_without_weight_is_never_among_the_top():
    assert evidence_words(np.array([0, 0.5, 0, 0.5]), "top_k", 4).tolist() == [False, True, False, True]
    assert not evidence_words(np.zeros(5), "top_share", 1.0).any()


@pytest.mark.parametrize("rule, value", [("cut", 0.03), ("top_k", 6), ("top_share", 0.2)])
@pytest.mark.parametrize("seed", range(5))
def test_neighbours_make_one_span_and_the_words_are_kept(seed, rule, value):
    explanation = explain(np.random.default_rng(seed).gamma(0.5, size=30))
    rationale = select(explanation, note_of(30), Selection("m", rule, value))
    chosen = evidence_words(parts_of_sum(explanation), rule, value)
    np.testing.assert_array_equal(spans_to_mask(rationale.spans, explanation.offsets), chosen)
    assert len(rationale) == (np.diff(np.r_[0, chosen.astype(int)]) == 1).sum()


@pytest.mark.parametrize("cut", [0.0, 0.05, np.float64(0.05), 0])
def test_a_number_is_a_cut(cut):
    explanation = explain([0, 1, 3, 40])
    assert select(explanation, note_of(4), cut) == select(explanation, note_of(4), Selection("m", "cut", float(cut)))


# choosing


def f1_of(selection, explanations, gold):
    "Counted over masks, the slow way"
    rows = gold_by_row(explanations, gold, sign=selection.sign)
    masks = [(evidence_words(p, selection.rule, selection.value), g) for _, p, g in rows]
    hits, n, m = (sum(x.sum() for x in side) for side in zip(*((a & b, a, b) for a, b in masks)))
    return 2 * hits / (n + m)


@pytest.mark.parametrize("rule", ["top_k", "top_share"])
@pytest.mark.parametrize("seed", range(5))
def test_one_count_gives_the_f1_of_every_size(seed, rule):
    explanations, gold = validation(seed)
    explanations = [
        Explanation(e.note_id, e.code, e.offsets, np.where(e.scores < 0.05, 0, e.scores), e.method)
        for e in explanations
    ]
    values, prf = prf_at_sizes(gold_by_row(explanations, gold), rule)
    assert len(values) == (100 if rule == "top_share" else max(map(len, explanations)))
    for value, found in list(zip(values, prf))[::7]:
        assert found[2] == pytest.approx(f1_of(Selection("m", rule, value), explanations, gold), abs=1e-9)


def test_shares_are_swept_as_they_are_selected():
    explanations, gold = (
        [explain(np.arange(100.0, 0, -1))],
        [marked(np.arange(100) < 100)],
    )  # all is gold: recall counts the words
    values, prf = prf_at_sizes(gold_by_row(explanations, gold), "top_share")
    np.testing.assert_allclose(
        prf[:, 1] * 100, [evidence_words(explanations[0].scores, "top_share", q).sum() for q in values], atol=1e-6
    )
    np.testing.assert_allclose(prf[:, 1], values, atol=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_no_rule_and_value_is_better_than_the_chosen_one(seed):
    explanations, gold = validation(seed)
    best = choose(explanations, gold)
    assert best.f1 == pytest.approx(f1_of(best, explanations, gold), abs=1e-9)
    others = (
        [("cut", c) for c in CUTS] + [("top_k", k) for k in range(1, 30)] + [("top_share", q) for q in SHARES_TRIED]
    )
    for rule, value in others:
        assert f1_of(Selection("m", rule, value), explanations, gold) <= best.f1 + 1e-9
        assert f1_of(Selection("m", rule, value), explanations, gold) <= choose(explanations, gold, rules=rule).f1 + (
            1e-9 if rule == best.rule else 1
        )


@pytest.mark.parametrize("seed", range(5))
def test_each_rule_alone_takes_the_first_of_its_best(seed):
    explanations, gold = validation(seed)
    assert choose(explanations, gold, rules="cut").value == exact_cut(explanations, gold)
    for rule in ("top_k", "top_share"):
        values, prf = prf_at_sizes(gold_by_row(explanations, gold), rule)
        assert choose(explanations, gold, rules=[rule]).value == values[prf[:, 2].argmax()]
    chosen = {rule: choose(explanations, gold, rules=[rule]) for rule in RULES}
    assert choose(explanations, gold).f1 == max(s.f1 for rule, s in chosen.items() if rule != "score")
    assert choose(explanations, gold, rules=RULES).f1 == max(s.f1 for s in chosen.values())


def test_of_equal_rules_the_first_wins():
    explanations, gold = [explain([1, 1, 8, 10])], [marked([0, 0, 1, 1])]
    for rules in (("cut", "top_k"), ("top_k", "cut"), ("top_share", "top_k")):
        assert choose(explanations, gold, rules=rules).rule == rules[0]
    assert choose(explanations, gold, rules="top_k").value == 2


def test_a_selection_says_what_it_was_chosen_on():
    explanations, gold = validation(0)
    chosen = choose(explanations + [explain([1, 2], "x")], gold, chosen_on="synth, validation")
    assert chosen.method == "m" and chosen.chosen_on == "synth, validation: 12 explanations, 12 notes"


# signs


def test_a_sign_is_read_as_it_was_said():
    explanation = explain([3, -5, 1])
    np.testing.assert_allclose(parts_of_sum(explanation, "positive"), [0.75, 0, 0.25])
    np.testing.assert_allclose(parts_of_sum(explanation, "size"), [3 / 9, 5 / 9, 1 / 9])
    note, pick = (
        note_of(3),
        lambda sign: [s.start // 3 for s in select(explanation, note, Selection("m", "top_k", 1, sign)).spans],
    )
    assert pick("positive") == [0] and pick("size") == [1]
    with pytest.raises(NegativeSum, match="sign='positive'"):
        pick(None)
    with pytest.raises(NegativeSum):
        select(explanation, note, 0.1)


@pytest.mark.parametrize("sign", [None, "positive", "size"])
def test_scores_without_negatives_do_not_depend_on_the_sign(sign):
    explanations, gold = validation(0)
    assert exact_cut(explanations, gold, sign=sign) == exact_cut(explanations, gold)
    assert best_cut(explanations, gold, sign=sign) == best_cut(explanations, gold)
    assert choose(explanations, gold, sign=sign).sign == sign


@pytest.mark.parametrize("sign", ["positive", "size"])
@pytest.mark.parametrize("seed", range(3))
def test_signed_scores_are_chosen_and_selected_by_the_same_sign(seed, sign):
    explanations, gold = validation(seed)
    rng = np.random.default_rng(seed)
    signed = [
        Explanation(e.note_id, e.code, e.offsets, e.scores * rng.choice([-1, 1], len(e)), e.method)
        for e in explanations
    ]
    read = [
        Explanation(e.note_id, e.code, e.offsets, np.abs(e.scores) if sign == "size" else e.scores.clip(0), e.method)
        for e in signed
    ]
    chosen, plain = choose(signed, gold, sign=sign), choose(read, gold)
    assert (chosen.rule, chosen.value, chosen.f1) == (plain.rule, plain.value, plain.f1)
    for a, b in zip(signed, read):
        assert select(a, note_of(len(a), a.note_id), chosen) == select(b, note_of(len(a), a.note_id), plain)


# slips


@pytest.mark.parametrize(
    "rule, value, says",
    [
        ("top_k", 0, "whole number"),
        ("top_k", 2.5, "whole number"),
        ("top_share", 0, "0, 1"),
        ("top_share", 5, "write .05"),
        ("cut", float("nan"), "finite"),
        ("threshold", 1, "cut, top_k, top_share"),
    ],
)
def test_a_value_that_does_not_fit_its_rule_is_refused(rule, value, says):
    with pytest.raises(BadSelection, match=says):
        Selection("m", rule, value)


def test_slips_in_choosing_and_selecting_are_named():
    explanations, gold = validation(0)
    with pytest.raises(OtherMethod, match="chosen for 'lime'"):
        select(explanations[0], note_of(len(explanations[0]), "n0"), Selection("lime", "cut", 0.1))
    for rules in ([], ["threshold"], "threshold"):
        with pytest.raises(BadSelection, match="choose from cut"):
            choose(explanations, gold, rules=rules)
    with pytest.raises(UnknownSign, match="positive, size"):
        choose(explanations, gold, sign="absolute")
    with pytest.raises(UnknownSign):
        Selection("m", "cut", 0.1, "absolute")
    with pytest.raises(NothingToTune):
        choose(explanations, [])
    with pytest.raises(SeveralMethods):
        choose([*explanations, explain([1, 2], method="other")], gold)


# the file


def test_selections_come_back_as_they_went(tmp_path):
    explanations, gold = validation(0)
    kept = [
        choose(explanations, gold),
        Selection("lime", "top_k", 5, "positive"),
        Selection("añ", "cut", np.nextafter(0, -1)),
    ]
    write_selections(tmp_path / "deep" / "selections.json", kept)
    assert read_selections(tmp_path / "deep" / "selections.json") == {s.method: s for s in kept}
    write_selections(tmp_path / "none.json", [])
    assert read_selections(tmp_path / "none.json") == {}


def test_two_selections_for_one_method_leave_the_file_as_it_was(tmp_path):
    path = tmp_path / "selections.json"
    write_selections(path, [Selection("m", "top_k", 3)])
    with pytest.raises(BadSelection, match="two selections for 'm'"):
        write_selections(path, [Selection("m", "top_k", 4), Selection("m", "cut", 0.1)])
    assert read_selections(path)["m"].value == 3
    assert [p.name for p in tmp_path.iterdir()] == ["selections.json"]


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "not JSON"),
        ('{"m": {"rule": "cut"', "not JSON"),
        ('{"note_id": "n1"}\n{"note_id": "n2"}', "not JSON"),
        ("[]", "a list where"),
        ('{"m": 3}', "not a selection"),
        ('{"m": {"rule": "cut"}}', "not a selection"),
        ('{"m": {"rule": "cut", "value": 0.1, "colour": "red"}}', "not a selection"),
        ('{"m": {"rule": "cut", "value": "0.1"}}', "value has the wrong type"),
        ('{"m": {"rule": "cut", "value": true}}', "value has the wrong type"),
        ('{"m": {"rule": "cut", "value": 0.1, "f1": "good"}}', "f1 has the wrong type"),
        ('{"m": {"rule": "cut", "value": NaN}}', "finite"),
        ('{"m": {"rule": "top_k", "value": 0}}', "whole number"),
        ('{"m": {"rule": "words", "value": 1}}', "not one of cut"),
        ('{"m": {"rule": "cut", "value": 1, "sign": "absolute"}}', "positive, size"),
    ],
)
def test_a_file_that_is_something_else_is_refused_by_name(tmp_path, text, says):
    path = tmp_path / "selections.json"
    path.write_text(text)
    with pytest.raises(BrokenFile, match="selections.json.*" + says):
        read_selections(path)


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path):
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(MissingFile):
            read_selections(path)
    (tmp_path / "latin.json").write_bytes(b'{"m\xe9": 1}')
    with pytest.raises(BrokenFile):
        read_selections(tmp_path / "latin.json")


def test_the_file_is_plain_json_by_method(tmp_path):
    write_selections(tmp_path / "s.json", [Selection("lime", "top_k", 5, "positive", "here", 0.5)])
    assert json.loads((tmp_path / "s.json").read_text()) == {
        "lime": dict(rule="top_k", value=5, sign="positive", chosen_on="here", f1=0.5)
    }


def test_a_score_means_the_same_in_every_note_and_a_part_of_the_sum_does_not():
    "Much evidence in one note, none in another: no cut of parts can say both."
    much, none = explain([0.9, 0.9, 0.9, 0.1], "n1"), explain([0.1, 0.1, 0.1, 0.1], "n2")
    gold = [marked([1, 1, 1, 0], "n1"), marked([1, 0, 0, 0], "n2")]
    by_score = choose([much, none], gold, rules=["score"])
    assert by_score.rule == "score" and 0.1 <= by_score.value < 0.9
    chosen = [evidence_words(e.scores, by_score.rule, by_score.value).tolist() for e in (much, none)]
    assert chosen == [[True, True, True, False], [False] * 4]


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(BadSelection, match="a score is a finite number"):
        Selection("evidence", "score", float("nan"))
