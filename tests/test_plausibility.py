"Laws that plausibility obeys, and the numbers that ERASER's own code gives."

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import precision_recall_fscore_support

from icdrat.data.corpus import UnknownNote
from icdrat.evaluation.cards import PRF, UnknownFamily, arrow, card, cards, with_arrow
from icdrat.evaluation.cards import COUNTS, metric_name
from icdrat.evaluation.plausibility.counts import (
    DEFINITIONS,
    NoRationale,
    SeveralAnnotators,
    eraser_iou_counts,
    eraser_iou_macro,
    eraser_macro,
    eraser_soft,
    in_words,
    iou,
    micro,
    one_to_one_counts,
    overlapping,
    plausibility,
    prf,
    soft_plausibility,
    soft_scores,
    span_counts,
    unit_counts,
)
from icdrat.types import RepeatedRationale
from icdrat.text import char_mask, mark, mask_to_spans, spans_to_mask, words
from icdrat.types import BadInput, Code, Explanation, Note, Rationale, Span, SpanOutsideNote

CODES = [Code("icd10cm", c) for c in ("E11.9", "I10", "R07.9")]
ALL = tuple(DEFINITIONS)
N_KEYS, N_UNITS = 6, 40


def chance(seed, n=15, shortest=1):
    "Random spans, overlapping ones included: key, start, end"
    rng = np.random.default_rng(seed)
    start = rng.integers(N_UNITS - 6, size=n)
    return np.c_[rng.integers(N_KEYS, size=n), start, start + rng.integers(shortest, 6, size=n)]


def masks(spans):
    "The same spans as one mask a key"
    return np.array(
        [char_mask([Span(int(s), int(e)) for k, s, e in spans if k == key and s < e], N_UNITS) for key in range(N_KEYS)]
    )


def note_and_rationales(seed, n_notes=4):
    "Notes with gold and predicted rationales at random words"
    rng = np.random.default_rng(seed)
    notes, gold, predicted = [], [], []
    for i in range(n_notes):
        text = " ".join(rng.choice(["náuseas", "T2DM", "on", "metformin.", "🙂", "BP", "120/80"], 30))
        notes.append(Note(f"n{i}", text))
        for code in CODES:
            for source, out in (("human", gold), ("toy", predicted)):
                spans = mask_to_spans(rng.random(len(words(text))) < 0.3, words(text))
                out.append(mark(notes[-1], code, spans, source))
    return notes, gold, predicted


def counts_of(table, definition):
    return table.loc[table.definition == definition, list(COUNTS)].to_numpy()


def test_hard_scores_are_those_of_eraser(oracle):
    n_compared = 0
    for case in oracle("eraser_metrics")["cases"]:
        if case["kind"] != "hard":
            continue
        keys = {
            k: i for i, k in enumerate(dict.fromkeys((s["ann_id"], s["docid"]) for s in case["truth"] + case["pred"]))
        }
        truth, pred = (
            np.array([(keys[s["ann_id"], s["docid"]], s["start"], s["end"]) for s in case[side]], np.int64).reshape(
                -1, 3
            )
            for side in ("truth", "pred")
        )
        got = {}
        for scores in case["expected"]["iou"]:
            counts = eraser_iou_counts(truth, pred, len(keys), scores["threshold"])
            got[scores["threshold"], "micro"] = prf(counts.sum(0)), scores["micro"]
            got[scores["threshold"], "macro"] = eraser_iou_macro(counts), scores["macro"]
        for name, count in dict(span_exact=span_counts, token=unit_counts).items():
            if "error" in (expected := case["expected"][name]):  # the peer divides by zero, we give 0
                continue
            counts = count(truth, pred, len(keys))
            got[name, "micro"] = prf(counts.sum(0)), expected["instance_micro"]
            got[name, "macro"] = eraser_macro(counts), expected["instance_macro"]
        for name, (ours, theirs) in got.items():
            np.testing.assert_allclose(
                ours, [theirs[q] for q in ("p", "r", "f1")], atol=1e-6, err_msg=f"{case['name']}, {name}"
            )
            n_compared += 1
    assert n_compared > 100


def test_soft_scores_are_those_of_eraser(oracle):
    for case in oracle("eraser_metrics")["cases"]:
        if case["kind"] == "soft":
            ours = eraser_soft([(np.array(d["scores"]), np.array(d["truth"], bool)) for d in case["documents"]])
            assert ours == pytest.approx(
                {k.removesuffix("_score"): float(v) for k, v in case["expected"].items()}, abs=1e-6, nan_ok=True
            ), case["name"]


@pytest.mark.parametrize("seed", range(20))
def test_units_are_counted_as_masks_count_them(seed):
    gold, predicted = chance(seed, shortest=0), chance(seed + 1000, shortest=0)
    g, p = masks(gold), masks(predicted)
    np.testing.assert_array_equal(
        unit_counts(gold, predicted, N_KEYS), np.stack([(g & p).sum(1), p.sum(1), (g & p).sum(1), g.sum(1)], 1)
    )
    by_sklearn = precision_recall_fscore_support(g.ravel(), p.ravel(), average="binary", zero_division=0)[:3]
    assert prf(unit_counts(gold, predicted, N_KEYS).sum(0)) == pytest.approx(by_sklearn)
    np.testing.assert_allclose(
        iou(unit_counts(gold, predicted, N_KEYS)), [(a & b).sum() / max((a | b).sum(), 1) for a, b in zip(g, p)]
    )


@pytest.mark.parametrize("seed", range(20))
def test_every_overlap_is_found_and_measured(seed):
    gold, predicted = chance(seed, shortest=0), chance(seed + 1000, shortest=0)
    slow = {}
    for i, (k, s, e) in enumerate(predicted):
        for j, (l, t, f) in enumerate(gold):
            if k == l and (shared := set(range(s, e)) & set(range(t, f))):
                slow[i, j] = len(shared) / len(set(range(s, e)) | set(range(t, f)))
    p, g, share = overlapping(gold, predicted)
    assert dict(zip(zip(p.tolist(), g.tolist()), share.tolist())) == slow


@pytest.mark.parametrize("count", [unit_counts, span_counts, eraser_iou_counts, one_to_one_counts])
@pytest.mark.parametrize("seed", range(10))
def test_a_perfect_prediction_has_one_everywhere(count, seed):
    counts = count(chance(seed), chance(seed), N_KEYS)
    assert prf(counts.sum(0)) == pytest.approx([1, 1, 1])
    assert eraser_macro(counts) == pytest.approx([1, 1, 1])
    assert eraser_iou_macro(counts) == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("count", [unit_counts, span_counts, one_to_one_counts])
@pytest.mark.parametrize("seed", range(10))
def test_swapping_the_sides_swaps_precision_and_recall(count, seed):
    p, r, f1 = prf(count(chance(seed), chance(seed + 1), N_KEYS).sum(0))
    assert prf(count(chance(seed + 1), chance(seed), N_KEYS).sum(0)) == pytest.approx([r, p, f1])


@pytest.mark.parametrize("count", list(DEFINITIONS.values()), ids=ALL)
def test_the_order_and_the_repetition_of_spans_change_nothing(count):
    gold, predicted = chance(0), chance(1)
    again = np.r_[gold[::-1], gold[:5]], np.r_[predicted[3:], predicted[:3], predicted]
    np.testing.assert_array_equal(count[1](gold, predicted, N_KEYS), count[1](*again, N_KEYS))


@pytest.mark.parametrize("count", list(DEFINITIONS.values()), ids=ALL)
def test_an_empty_side_counts_nothing(count):
    none, spans = np.zeros((0, 3), int), chance(0)
    assert not count[1](none, none, N_KEYS).any()
    assert not count[1](none, spans, N_KEYS)[:, [0, 2, 3]].any()
    assert not count[1](spans, none, N_KEYS)[:, [0, 1, 2]].any()
    assert count[1](none, none, 0).shape == (0, 4)


@pytest.mark.parametrize("count", list(DEFINITIONS.values()), ids=ALL)
def test_spans_of_different_keys_never_meet(count):
    one, other = np.array([[0, 0, 40]]), np.array([[1, 0, 40]])
    assert count[1](one, other, 2).tolist()[0][0] == 0
    assert count[1](one, other, 2)[1, 0] == 0


def test_a_span_split_in_two_changes_no_units():
    gold, whole, halves = np.array([[0, 2, 9]]), np.array([[0, 1, 7]]), np.array([[0, 1, 4], [0, 4, 7]])
    np.testing.assert_array_equal(unit_counts(gold, whole, 1), unit_counts(gold, halves, 1))
    assert span_counts(gold, whole, 1)[0, 1] != span_counts(gold, halves, 1)[0, 1]


def test_two_predictions_on_one_gold_span_count_twice_for_eraser_only():
    gold, predicted = np.array([[0, 0, 4]]), np.array([[0, 0, 2], [0, 2, 4]])
    assert prf(eraser_iou_counts(gold, predicted, 1)[0])[1] == 2
    assert prf(one_to_one_counts(gold, predicted, 1)[0]).tolist() == pytest.approx([0.5, 1, 2 / 3])


def test_half_is_enough_and_less_is_not():
    gold = np.array([[0, 0, 4]])
    for count in (eraser_iou_counts, one_to_one_counts):
        assert count(gold, np.array([[0, 0, 2]]), 1)[0, 0] == 1
        assert count(gold, np.array([[0, 0, 1]]), 1)[0, 0] == 0


def test_a_matching_is_as_large_as_it_can_be():
    gold = np.array([[0, 0, 4], [0, 4, 8]])
    predicted = np.array([[0, 0, 8], [0, 2, 4]])  # the first could take either gold span, the second only the first
    assert one_to_one_counts(gold, predicted, 1)[0, 0] == 2


@pytest.mark.parametrize("seed", range(20))
def test_one_to_one_lies_between_exact_and_eraser(seed):
    gold, predicted = chance(seed), chance(seed + 1000)
    exact, eraser = span_counts(gold, predicted, N_KEYS), eraser_iou_counts(gold, predicted, N_KEYS)
    single = one_to_one_counts(gold, predicted, N_KEYS)
    assert (exact <= single).all() and (single <= eraser).all()
    assert (single[:, 2] <= single[:, 3]).all()
    np.testing.assert_array_equal(one_to_one_counts(gold, predicted, N_KEYS, threshold=1.0), exact)


@pytest.mark.parametrize("count", [eraser_iou_counts, one_to_one_counts])
@pytest.mark.parametrize("seed", range(10))
def test_a_higher_threshold_never_adds_a_hit(count, seed):
    hits = [count(chance(seed), chance(seed + 1), N_KEYS, threshold=t)[:, 0] for t in np.linspace(0, 1, 11)]
    assert (np.diff(hits, axis=0) <= 0).all()


def test_without_an_overlap_there_is_no_hit_above_zero():
    gold, predicted = np.array([[0, 0, 4]]), np.array([[0, 4, 8]])
    assert eraser_iou_counts(gold, predicted, 1, threshold=1e-9)[0, 0] == 0
    assert one_to_one_counts(gold, predicted, 1, threshold=0.0)[0, 0] == 0


@pytest.mark.parametrize("count", [eraser_iou_counts, span_counts])
def test_an_empty_span_is_a_prediction_that_hits_nothing(count):
    assert count(np.array([[0, 0, 5]]), np.array([[0, 3, 3]]), 1).tolist() == [[0, 1, 0, 1]]


def test_the_two_macro_averages_differ_as_written():
    counts = np.array([[1, 1, 1, 2], [0, 3, 0, 0], [0, 0, 0, 4], [0, 0, 0, 5], [0, 0, 0, 0]])
    assert eraser_macro(counts) == pytest.approx([1 / 4, 0.5 / 4, (2 / 3) / 4])  # four keys that a side has
    assert eraser_iou_macro(counts) == pytest.approx([1 / 2, 0.5 / 3, 1 / 4])  # two with predictions, three with gold


@pytest.mark.parametrize("seed", range(5))
def test_words_are_those_that_a_mask_marks(seed):
    rng = np.random.default_rng(seed)
    texts = ["", "ab  cd, é🙂x", "  T2DM\r\n on metformin "]
    which = rng.integers(1, 3, size=40)
    spans = np.array([(k, *np.sort(rng.choice(len(texts[n]) + 1, 2, replace=False))) for k, n in enumerate(which)])
    for (k, first, last), (_, s, e), n in zip(in_words(spans, which, [words(t) for t in texts]), spans, which):
        assert np.flatnonzero(spans_to_mask([Span(int(s), int(e))], words(texts[n]))).tolist() == list(
            range(first, last)
        )


@pytest.mark.parametrize("seed", range(5))
def test_the_table_holds_what_the_masks_of_each_pair_give(seed):
    notes, gold, predicted = note_and_rationales(seed)
    table = plausibility(notes, gold, predicted, ALL, progress=False)
    assert (
        len(table) == len(gold) * len(ALL) and not table.duplicated(["note_id", "code", "method", "definition"]).any()
    )
    by_id = {n.id: n for n in notes}
    for unit in ("character", "token"):
        rows = table[table.definition == unit].set_index(["note_id", "code"])
        for g, p in zip(gold, predicted):
            text = by_id[g.note_id].text
            mask = (
                (lambda spans: char_mask(spans, len(text)))
                if unit == "character"
                else (lambda spans: spans_to_mask(spans, words(text)))
            )
            a, b = mask(g.spans), mask(p.spans)
            assert rows.loc[(g.note_id, str(g.code)), list(COUNTS)].tolist() == [
                (a & b).sum(),
                b.sum(),
                (a & b).sum(),
                a.sum(),
            ]


def test_each_definition_counts_in_its_own_unit():
    note = Note("n", "metformin on it")
    gold, predicted = [mark(note, CODES[0], [Span(0, 9)], "human")], [mark(note, CODES[0], [Span(0, 12)], "toy")]
    table = plausibility([note], gold, predicted, ALL, progress=False)
    row = {d: counts_of(table, d)[0].tolist() for d in ALL}
    assert row["character"] == [9, 12, 9, 9]
    assert row["token"] == row["eraser/token"] == [1, 2, 1, 1]
    assert row["eraser/iou"] == row["eraser_one_to_one/iou"] == [1, 1, 1, 1]  # one word of two is enough
    assert row["span_exact"] == row["eraser/span"] == [0, 1, 0, 1]
    assert row["span_relaxed"] == [1, 1, 1, 1]


def test_a_span_that_cuts_a_word_is_exact_in_words_and_not_in_characters():
    note = Note("n", "metformin")
    table = plausibility(
        [note],
        [mark(note, CODES[0], [Span(0, 9)], "human")],
        [mark(note, CODES[0], [Span(8, 9)], "toy")],
        ALL,
        progress=False,
    )
    assert counts_of(table, "eraser/span")[0, 0] == 1
    assert counts_of(table, "span_exact")[0, 0] == 0
    assert counts_of(table, "span_relaxed")[0, 0] == 1  # one shared character is enough


def test_character_scores_do_not_depend_on_the_words():
    spans = [[Span(0, 3), Span(8, 12)], [Span(2, 10)]]
    tables = []
    for text in ("T2DM on metformin", "T2DMXonXmetformin"):
        note = Note("n", text)
        gold, predicted = (mark(note, CODES[0], s, source) for s, source in zip(spans, ("human", "toy")))
        tables.append(plausibility([note], [gold], [predicted], ALL, progress=False))
    for definition, same in dict(character=True, span_relaxed=True, token=False).items():
        assert np.array_equal(*(counts_of(t, definition) for t in tables)) == same


def test_a_pair_without_gold_is_set_aside_and_over_the_union_a_false_alarm():
    note = Note("n", "T2DM on metformin")
    gold = [mark(note, CODES[0], [Span(0, 4)], "human"), Rationale("n", CODES[1], (), "human")]
    predicted = [mark(note, c, [Span(0, 4)], "toy") for c in CODES]  # the last was never asked for
    over_gold = plausibility([note], gold, predicted, ("character",), progress=False)
    assert over_gold.no_gold.tolist() == [False, True]
    assert counts_of(over_gold, "character").tolist() == [[4, 4, 4, 4], [0, 0, 0, 0]]
    assert micro(over_gold)[["precision", "recall", "f1", "pairs", "no_gold"]].values.tolist() == [[1, 1, 1, 2, 1]]
    union = plausibility([note], gold, predicted, ("character",), over="union", progress=False)
    assert counts_of(union, "character").tolist() == [[4, 4, 4, 4], [0, 4, 0, 0], [0, 4, 0, 0]]
    assert union.no_gold.tolist() == [False, True, True]


def test_a_pair_that_the_method_left_out_is_a_miss():
    note = Note("n", "T2DM on metformin")
    gold = [mark(note, c, [Span(0, 4)], "human") for c in CODES]
    table = plausibility([note], gold, [mark(note, CODES[0], [Span(0, 4)], "toy")], ("character",), progress=False)
    assert micro(table).recall.tolist() == pytest.approx([1 / 3])


def test_methods_do_not_mix():
    notes, gold, predicted = note_and_rationales(0)
    other = [Rationale(r.note_id, r.code, r.spans, "copy of human") for r in gold]
    both = plausibility(notes, gold, predicted + other, ALL, progress=False)
    pd.testing.assert_frame_equal(
        both[both.method == "toy"].reset_index(drop=True), plausibility(notes, gold, predicted, ALL, progress=False)
    )
    assert (micro(both).query("method == 'copy of human'").f1 == 1).all()


def test_a_level_is_chosen_or_all_are_joined():
    note = Note("n", "T2DM on metformin")
    gold = [mark(note, CODES[0], [Span(0, 4)], "human"), mark(note, CODES[0], [Span(0, 17)], "human", "sentence")]
    predicted = [mark(note, CODES[0], [Span(0, 4)], "toy")]
    n_gold = lambda level, d: counts_of(plausibility([note], gold, predicted, ALL, level=level, progress=False), d)[
        0, 3
    ]
    assert [n_gold(x, "character") for x in ("mention", "sentence", "any")] == [4, 17, 17]
    assert n_gold("any", "span_exact") == 1
    with pytest.raises(NoRationale, match="toy.*sentence"):
        plausibility([note], gold, predicted, predicted_level="sentence", progress=False)


def test_what_cannot_be_scored_is_refused():
    note = Note("n", "T2DM")
    gold, toy = [mark(note, CODES[0], [Span(0, 4)], "human")], [mark(note, CODES[0], [Span(0, 4)], "toy")]
    for error, message, args in [
        (RepeatedRationale, "n, E11.9: toy", ([note], gold, toy * 2)),
        (UnknownNote, "toy: a rationale for m", ([note], gold, [Rationale("m", CODES[0], (), "toy")])),
        (UnknownNote, "human: a rationale for m", ([note], [Rationale("m", CODES[0], (), "human")], toy)),
        (SeveralAnnotators, "human and second", ([note], gold + [mark(note, CODES[0], [Span(0, 2)], "second")], toy)),
        (SpanOutsideNote, "n, E11.9", ([note], gold, [Rationale("n", CODES[0], (Span(0, 5),), "toy")])),
        (NoRationale, "no gold", ([note], [], toy)),
        (NoRationale, "predicted", ([note], gold, [])),
        (BadInput, "no definition 'f1'", ([note], gold, toy, ("f1",))),
        ((BadInput, TypeError), "'both'", ([note], gold, toy, ("token",), "both")),
    ]:
        with pytest.raises(error, match=message):
            plausibility(*args, progress=False)


def test_a_ranking_is_scored_and_a_pair_without_gold_set_aside():
    note = Note("n", "T2DM on metformin")
    offsets = words(note.text)
    gold = [mark(note, CODES[0], [Span(0, 2)], "human"), Rationale("n", CODES[1], (), "human")]
    explain = lambda code, *scores: Explanation("n", code, offsets, np.array(scores, float), "toy")
    table = soft_plausibility(
        [note], gold, [explain(CODES[0], 3, 1, 2), explain(CODES[1], 3, 1, 2), explain(CODES[2], 3, 1, 2)]
    )
    assert table.code.tolist() == ["E11.9", "I10"] and table.no_gold.tolist() == [False, True]
    assert table.auprc[0] == table.roc_auc[0] == 1 and np.isnan(table.auprc[1])
    with pytest.raises(RepeatedRationale, match="n, E11.9"):
        soft_plausibility([note], gold, [explain(CODES[0], 1, 2, 3)] * 2)


@pytest.mark.parametrize("seed", range(5))
def test_soft_scores_depend_on_the_ranking_alone(seed):
    rng = np.random.default_rng(seed)
    scores, truth = rng.random(20), rng.random(20) < 0.4
    truth[0] = True
    assert soft_scores(scores, truth) == pytest.approx(soft_scores(10 * scores - 3, truth))


def test_a_ranking_of_nothing_but_gold_has_no_roc_curve():
    auprc, precision, roc = soft_scores(np.array([0.2, 0.1]), np.array([True, True]))
    assert auprc == 1 and np.isnan(precision) and np.isnan(roc)


def test_every_definition_has_its_cards_and_directions():
    for definition in DEFINITIONS:
        assert {card(metric_name(definition, q)).family for q in PRF} == {"plausibility"}
    assert arrow("eraser/sufficiency@mask") == "↓" and with_arrow("character/f1") == "character/f1 ↑"
    assert set(cards().family) == {"plausibility", "faithfulness", "coding", "method"}
    with pytest.raises(UnknownFamily):
        cards("fidelity")


@pytest.mark.parametrize("seed", range(10))
def test_scores_stay_inside_the_bounds_on_their_cards(seed):
    for definition, (_, count) in DEFINITIONS.items():
        for quantity, value in zip(PRF, prf(count(chance(seed), chance(seed + 1, 40), N_KEYS).sum(0))):
            low, high = card(metric_name(definition, quantity)).bounds
            assert low <= value <= high


def test_spans_of_white_space_touch_no_word_and_never_hit():
    note = Note("n", "a  b c")
    code = Code("icd10cm", "E11")
    gap, word = [Span(1, 3)], [Span(3, 4)]
    for spans, hits in ((gap, 0), (word, 1), (gap + word, 1)):
        sides = [Rationale("n", code, tuple(spans), source) for source in ("human", "toy")]
        for definition in ("eraser/span", "eraser/iou", "eraser_one_to_one/iou"):
            row = plausibility([note], sides[:1], sides[1:], (definition,), progress=False).iloc[0]
            assert (row.hits_pred, row.hits_gold, row.n_pred, row.n_gold) == (hits, hits, len(spans), len(spans))
