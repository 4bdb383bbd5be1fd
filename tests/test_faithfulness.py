"Laws that every faithfulness number must obey, checked on coders whose answer is known."

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from icdrat.data.corpus import UnknownNote
from icdrat.evaluation.faithfulness.curves import SHARES, BadShares, aopc, curves, top_masks, word_scores
from icdrat.evaluation.faithfulness.eraser import (
    EmptyRationale,
    NoControl,
    comprehensiveness,
    control_masks,
    faithfulness,
    random_masks,
    random_rationales,
    run_lengths,
    sufficiency,
)
from icdrat.evaluation.faithfulness.inquiry import (
    OtherNote,
    Questions,
    ReservedName,
    ask,
    coverage,
    known,
    probability_lost,
)
from icdrat.text import blank, mark, mask_to_spans, spans_to_mask, words
from icdrat.types import (
    Code,
    CodeNotInVocabulary,
    Explanation,
    Note,
    Rationale,
    RepeatedRationale,
    Span,
    SpanOutsideNote,
    UnknownOperator,
)

CODES = [Code("icd10cm", v) for v in ("E11.9", "I10", "R11")]
NOTE = Note("n1", " ".join(f"w{i:02}" for i in range(40)))
OFFSETS = words(NOTE.text)
COMP, SUFF = "eraser/comprehensiveness@mask", "eraser/sufficiency@mask"


class WeightCoder:
    "p(code) = the weights of the words still in the note, added up and squashed; words without a weight are ignored"

    threshold = 0.5

    def __init__(self, weights, additive=False):
        self.weights, self.codes, self.additive = weights, list(weights), additive
        self.n_read, self.largest, self.operators = 0, 0, set()

    def __call__(self, texts, erased=None, operator="mask"):
        self.n_read, self.largest = self.n_read + len(texts), max(self.largest, len(texts))
        self.operators.add(operator)
        left = [set(blank(t, e).split()) for t, e in zip(texts, erased or [()] * len(texts))]
        logits = np.array(
            [[sum(w for word, w in row.items() if word in seen) for row in self.weights.values()] for seen in left]
        )
        return logits if self.additive else 1 / (1 + np.exp(-logits))


def random_coder(seed, additive=False, notes=(NOTE,)):
    rng = np.random.default_rng(seed)
    names = sorted({w for n in notes for w in n.text.split()})
    draw = rng.random if additive else rng.normal
    return WeightCoder(
        {c: {w: draw() / (40 if additive else 1) for w in rng.choice(names, 8, replace=False)} for c in CODES}, additive
    )


def of(mask, code=CODES[0], source="method", note=NOTE):
    return mark(note, code, mask_to_spans(np.asarray(mask, bool), words(note.text)), source)


def some_mask(rng, n=40):
    return np.isin(np.arange(n), rng.choice(n, rng.integers(1, 9), replace=False))


def some_rationales(seed, notes=(NOTE,), methods=("a", "b", "c")):
    rng = np.random.default_rng(seed)
    return [of(some_mask(rng), c, m, n) for n in notes for c in CODES for m in methods]


def by_key(table):
    return table.set_index(["note_id", "code", "method", "metric"])["value"]


# the oracle


def faith_cases(oracle):
    cases = [c for c in oracle("eraser_metrics")["cases"] if c["kind"].startswith("faith")]
    assert cases
    return cases


def of_class(instance, scores):
    return scores[instance["classification"]]


class ReplayCoder:
    "Gives the stored answers of one ERASER instance: whole, without the rationale, rationale alone"

    codes, threshold = CODES[:1], 0.5

    def __init__(self, instance):
        names = "classification_scores", "comprehensiveness_classification_scores", "sufficiency_classification_scores"
        self.whole, self.without, self.alone = (of_class(instance, instance[k]) for k in names)

    def __call__(self, texts, erased=None, operator="mask"):
        hidden = [spans_to_mask(e, OFFSETS) for e in erased]
        return np.array([[self.whole if not h.any() else self.without if h[0] else self.alone] for h in hidden])


def test_comprehensiveness_and_sufficiency_match_the_oracle(oracle):
    first = of(np.arange(40) < 3)
    for case in faith_cases(oracle):
        coders = [ReplayCoder(i) for i in case["instances"]]
        for name, f in dict(comprehensiveness=comprehensiveness, sufficiency=sufficiency).items():
            if case["expected"][name] is not None:
                assert np.mean([f(c, NOTE, first) for c in coders]) == pytest.approx(
                    case["expected"][name], abs=1e-6
                ), case["name"]


def test_the_aopc_matches_the_oracle(oracle):
    for case in faith_cases(oracle):
        shares = case["expected"]["aopc_thresholds"]
        if shares is None:
            continue
        table = pd.DataFrame(
            [
                dict(
                    note_id=i["annotation_id"],
                    code="E11.9",
                    method="m",
                    share=t["threshold"],
                    quantity=q,
                    value=probability_lost(
                        of_class(i, i["classification_scores"]), of_class(i, t[f"{q}_classification_scores"])
                    ),
                )
                for i in case["instances"]
                for t in i["thresholded_scores"]
                if t["threshold"] in shares
                for q in ("comprehensiveness", "sufficiency")
            ]
        )
        means = aopc(table, shares=tuple(shares)).groupby("metric")["value"].mean()
        points = table.groupby(["quantity", "share"])["value"].mean()
        for q in ("comprehensiveness", "sufficiency"):
            assert means[f"eraser/aopc_{q}@mask"] == pytest.approx(case["expected"][f"{q}_aopc"], abs=1e-6), case[
                "name"
            ]
            np.testing.assert_allclose(points[q].sort_index(), case["expected"][f"{q}_aopc_points"], atol=1e-6)


# one rationale


@pytest.mark.parametrize(
    "marked, comp, suff",
    [
        ((3, 7), 1.0, 0.0),  # the whole evidence
        ((3,), 0.5, 0.5),  # half of it
        ((0, 1), 0.0, 1.0),  # words the coder never reads
    ],
)
def test_a_score_is_the_probability_lost(marked, comp, suff):
    coder = WeightCoder({CODES[0]: {"w03": 0.5, "w07": 0.5}}, additive=True)
    rationale = of(np.isin(np.arange(40), marked))
    assert comprehensiveness(coder, NOTE, rationale) == pytest.approx(comp)
    assert sufficiency(coder, NOTE, rationale) == pytest.approx(suff)


def test_nothing_is_clipped():
    coder = WeightCoder({CODES[0]: {"w03": -2.0, "w07": 2.0}})
    against = of(np.arange(40) == 3)
    assert comprehensiveness(coder, NOTE, against) == pytest.approx(0.5 - 1 / (1 + np.exp(-2)))
    assert sufficiency(coder, NOTE, of(np.arange(40) == 7)) < 0


@pytest.mark.parametrize("seed", range(10))
def test_an_ignored_word_changes_nothing(seed):
    coder, rng = random_coder(seed), np.random.default_rng(seed)
    ignored = np.array([w not in coder.weights[CODES[0]] for w in NOTE.text.split()])
    mask = some_mask(rng) | ~ignored & (rng.random(40) < 0.5)
    padded = mask | ignored & (rng.random(40) < 0.5)
    for f in (comprehensiveness, sufficiency):
        assert f(coder, NOTE, of(mask)) == pytest.approx(f(coder, NOTE, of(padded)), abs=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_the_rest_of_the_note_swaps_the_two_measures(seed):
    coder, mask = random_coder(seed), some_mask(np.random.default_rng(seed))
    assert comprehensiveness(coder, NOTE, of(mask)) == sufficiency(coder, NOTE, of(~mask))


def test_a_word_is_erased_whole_and_its_neighbours_are_not():
    erased = []

    def coder(texts, spans, operator):
        erased.extend(spans)
        return np.zeros((len(texts), 1))

    coder.codes, coder.threshold = CODES[:1], 0.5
    half = Rationale("n1", CODES[0], (Span(5, 6), Span(8, 11)), "m")  # inside w01, and w02
    comprehensiveness(coder, NOTE, half)
    sufficiency(coder, NOTE, half)
    assert [tuple(map(lambda s: (s.start, s.end), e)) for e in erased] == [
        (),
        ((4, 11),),
        (),
        ((0, 3), (12, len(NOTE))),
    ]


@pytest.mark.parametrize("operator", ["mask", "delete"])
def test_the_operator_reaches_the_coder_and_the_name(operator):
    coder, rationale = random_coder(0), of(np.arange(40) < 3)
    comprehensiveness(coder, NOTE, rationale, operator)
    table = faithfulness(coder, [NOTE], [rationale], n_random=2, operator=operator)
    assert coder.operators == {operator}
    assert set(table["metric"]) == {f"eraser/comprehensiveness@{operator}", f"eraser/sufficiency@{operator}"}
    area = aopc(
        curves(
            coder, [NOTE], [Explanation("n1", CODES[0], OFFSETS, np.arange(40.0), "m")], n_random=2, operator=operator
        ),
        operator,
    )
    assert set(area["metric"]) == {f"eraser/aopc_comprehensiveness@{operator}", f"eraser/aopc_sufficiency@{operator}"}


def test_mistakes_of_the_caller_are_named():
    coder, rationale = random_coder(0), of(np.arange(40) < 3)
    with pytest.raises(EmptyRationale, match="n1, E11.9, method"):
        comprehensiveness(coder, NOTE, of(np.zeros(40)))
    with pytest.raises(OtherNote, match="'n2'"):
        sufficiency(coder, Note("n2", NOTE.text), rationale)
    with pytest.raises(SpanOutsideNote):
        comprehensiveness(coder, Note("n1", "short"), rationale)
    with pytest.raises(UnknownOperator, match="mask, delete"):
        comprehensiveness(coder, NOTE, rationale, "remove")
    for call in (comprehensiveness, sufficiency):
        with pytest.raises(CodeNotInVocabulary, match="A41.9"):
            call(coder, NOTE, of(np.arange(40) < 3, Code("icd10cm", "A41.9")))


# the control


@pytest.mark.parametrize("seed", range(10))
def test_a_random_rationale_has_the_runs_of_the_real_one(seed):
    mask = some_mask(np.random.default_rng(seed))
    for drawn in control_masks("n1", mask, 20, seed):
        assert run_lengths(drawn) == run_lengths(mask)


@pytest.mark.parametrize("lengths, n_words", [((1,), 4), ((1, 1), 5), ((1, 2), 6), ((2, 2, 1), 8)])
def test_every_placement_is_equally_likely(lengths, n_words):
    size = sum(lengths)
    possible = [
        m
        for c in combinations(range(n_words), size)
        if run_lengths(m := np.isin(np.arange(n_words), c)) == tuple(sorted(lengths))
    ]
    drawn = random_masks(lengths, n_words, 300 * len(possible), np.random.default_rng(0))
    _, times = np.unique(drawn, axis=0, return_counts=True)
    assert len(times) == len(possible)
    assert np.sum((times - 300) ** 2 / 300) < len(possible) - 1 + 5 * np.sqrt(2 * len(possible))  # chi squared


def test_the_control_of_the_whole_note_is_the_whole_note():
    coder = random_coder(0)
    table = by_key(faithfulness(coder, [NOTE], [of(np.ones(40))]))
    for metric in (COMP, SUFF):
        values = [table["n1", "E11.9", m, metric] for m in ("method", "random@method", "whole_note")]
        np.testing.assert_allclose(values, values[0], atol=1e-12)
    assert table["n1", "E11.9", "whole_note", SUFF] == 0


def test_a_control_depends_on_the_note_the_shape_and_the_seed():
    mask = np.isin(np.arange(40), (3, 7, 8))
    same_shape = np.isin(np.arange(40), (20, 21, 30))
    draws = control_masks("n1", mask)
    np.testing.assert_array_equal(draws, control_masks("n1", same_shape))
    assert len(draws) == 20
    for other in (control_masks("n2", mask), control_masks("n1", mask, seed=1)):
        assert (draws != other).any()
    with pytest.raises(NoControl):
        control_masks("n1", mask, 0)


def test_the_control_is_what_chance_expects():
    coder = WeightCoder({CODES[0]: {f"w{i:02}": 1 / 10 for i in range(10)}}, additive=True)
    table = by_key(faithfulness(coder, [NOTE], [of(np.arange(40) < 8)], n_random=3000))
    starts = np.arange(33)  # a run of eight has 33 places
    expected = np.mean([max(0, min(10, s + 8) - s) if s < 10 else 0 for s in starts]) / 10
    assert table["n1", "E11.9", "random@method", COMP] == pytest.approx(expected, abs=0.02)
    assert table["n1", "E11.9", "method", COMP] == pytest.approx(0.8)


# collecting


@pytest.mark.parametrize("seed", range(5))
def test_collected_equals_one_at_a_time(seed):
    notes = [NOTE, Note("n2", " ".join(f"w{i:02}" for i in range(25, 65)))]
    coder, rationales = random_coder(seed, notes=notes), some_rationales(seed, notes)
    table = by_key(faithfulness(coder, notes, rationales, n_random=4, seed=seed))
    for r in rationales:
        note = next(n for n in notes if n.id == r.note_id)
        for f, metric in ((comprehensiveness, COMP), (sufficiency, SUFF)):
            assert table[r.note_id, r.code.value, r.source, metric] == pytest.approx(f(coder, note, r), abs=1e-12)
            chance = np.mean([f(coder, note, c) for c in random_rationales(note, r, 4, seed)])
            assert table[r.note_id, r.code.value, f"random@{r.source}", metric] == pytest.approx(chance, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_order_batch_and_company_change_nothing(seed):
    notes = [NOTE, Note("n2", " ".join(f"w{i:02}" for i in range(25, 65)))]
    coder, rationales = random_coder(seed, notes=notes), some_rationales(seed, notes)
    table = faithfulness(coder, notes, rationales, n_random=3)
    mixed = [rationales[i] for i in np.random.default_rng(seed).permutation(len(rationales))]
    pd.testing.assert_frame_equal(table, faithfulness(coder, notes[::-1], mixed, n_random=3, batch_size=7))
    alone = by_key(faithfulness(coder, notes, rationales[4:5], n_random=3))
    np.testing.assert_array_equal(alone, by_key(table)[alone.index])


def test_each_question_is_asked_once_and_in_batches():
    coder = random_coder(0)
    twins = [of(np.isin(np.arange(40), (3, 7)), c, m) for c in CODES for m in "abcdef"]
    faithfulness(coder, [NOTE], twins, batch_size=16)
    assert (
        coder.n_read <= 2 + 2 + 2 * 20
    )  # nothing and everything hidden, the rationale and its rest, twenty controls and theirs
    assert coder.largest == 16


def test_questions_are_numbered_and_the_first_hides_nothing():
    questions, mask = Questions(NOTE), np.arange(40) == 3
    assert [questions(mask), questions(~mask), questions(mask), questions(mask & False)] == [1, 2, 1, 0]
    coder = random_coder(1)
    np.testing.assert_array_equal(questions.answers(coder), ask(coder, NOTE, [mask & False, mask, ~mask]))


@pytest.mark.parametrize("seed", range(5))
def test_the_whole_note_suffices_and_nothing_is_not_comprehensive(seed):
    table = by_key(faithfulness(random_coder(seed), [NOTE], some_rationales(seed), n_random=2))
    for code in CODES:
        whole, nothing = (table["n1", code.value, m] for m in ("whole_note", "empty"))
        assert whole[SUFF] == 0 and nothing[COMP] == 0
        assert whole[COMP] == nothing[SUFF]  # all that the note is worth


@pytest.mark.parametrize("seed", range(5))
def test_the_controls_stand_once_for_each_pair(seed):
    table = faithfulness(random_coder(seed), [NOTE], some_rationales(seed), n_random=2)
    assert not table.duplicated(["note_id", "code", "method", "metric"]).any()
    assert len(table) == len(CODES) * 2 * (2 * 3 + 2)


def test_rationales_without_words_are_left_out_and_counted():
    spaced = Note("n3", "a   b")
    rationales = [
        of(np.zeros(40)),
        of(np.arange(40) < 2, CODES[1]),
        Rationale("n3", CODES[0], (Span(2, 3),), "method"),
        of(np.arange(40) < 2, source="other"),
    ]
    table = faithfulness(random_coder(0), [NOTE, spaced], rationales, n_random=2)
    assert len(table.query("method == 'method'")) == 2  # one pair, two metrics
    assert len(table.query("method == 'empty'")) == 6  # the pairs are there all the same
    counted = coverage([NOTE, spaced], rationales).set_index("method")
    assert counted.loc["method"].tolist() == [3, 1, 2]
    assert counted.loc["other"].tolist() == [1, 1, 0]
    with pytest.raises(UnknownNote, match="'n3'"):
        coverage([NOTE], rationales)


def test_a_note_without_words_has_nothing_to_lose():
    blank_note = Note("n0", "  ")
    table = faithfulness(random_coder(0), [blank_note], [Rationale("n0", CODES[0], (), "m")])
    assert set(table["method"]) == {"whole_note", "empty"} and (table["value"] == 0).all()
    assert not len(faithfulness(random_coder(0), [NOTE], []))


def test_what_cannot_be_scored_is_refused_before_the_coder_is_asked():
    coder, rationale = random_coder(0), of(np.arange(40) < 3)
    unknown = of(np.arange(40) < 3, Code("icd10cm", "A41.9"))
    for mistake, rationales in (
        (UnknownNote, [Rationale("n9", CODES[0], (), "m")]),
        (RepeatedRationale, [rationale, rationale]),
        (ReservedName, [of(np.arange(40) < 3, source="whole_note")]),
        (ReservedName, random_rationales(NOTE, rationale, 1)),
        (CodeNotInVocabulary, [unknown]),
    ):
        with pytest.raises(mistake):
            faithfulness(coder, [NOTE], [rationale, *rationales])
    assert coder.n_read == 0
    assert known([rationale, unknown, unknown], coder) == ([rationale], {"A41.9": 2})


# rankings


@pytest.mark.parametrize("seed", range(20))
def test_no_ranking_beats_the_oracle(seed):
    coder, rng = random_coder(seed, additive=True), np.random.default_rng(seed)
    worth = np.array([coder.weights[CODES[0]].get(w, 0) for w in NOTE.text.split()])
    rank = {"oracle": worth, "chance": rng.random(40), "worst": -worth}
    table = curves(coder, [NOTE], [Explanation("n1", CODES[0], OFFSETS, s, m) for m, s in rank.items()])
    at = table.pivot(index=["quantity", "share"], columns="method", values="value")
    for other in ("chance", "random"):
        assert (at.loc["comprehensiveness", other] <= at.loc["comprehensiveness", "oracle"] + 1e-12).all()
        assert (at.loc["comprehensiveness", other] >= at.loc["comprehensiveness", "worst"] - 1e-12).all()
        assert (at.loc["sufficiency", other] >= at.loc["sufficiency", "oracle"] - 1e-12).all()


@pytest.mark.parametrize("seed", range(5))
def test_a_curve_is_made_of_hard_rationales(seed):
    coder, scores = random_coder(seed), np.random.default_rng(seed).random(40)
    table = curves(coder, [NOTE], [Explanation("n1", CODES[1], OFFSETS, scores, "m")]).query("method == 'm'")
    assert len(table) == 2 * len(SHARES)
    for row in table.itertuples():
        top = of(top_masks(scores, (row.share,))[0], CODES[1])
        f = dict(comprehensiveness=comprehensiveness, sufficiency=sufficiency)[row.quantity]
        assert row.value == pytest.approx(f(coder, NOTE, top), abs=1e-12)


def test_a_ranking_only_matters_through_its_order():
    coder, scores = random_coder(0), np.random.default_rng(0).random(40)
    tables = [curves(coder, [NOTE], [Explanation("n1", CODES[0], OFFSETS, s, "m")]) for s in (scores, 10 * scores - 3)]
    pd.testing.assert_frame_equal(*tables)


def test_order_and_company_do_not_change_a_curve():
    coder, rng = random_coder(0), np.random.default_rng(0)
    many = [Explanation("n1", c, OFFSETS, rng.random(40), m) for c in CODES for m in "ab"]
    table = curves(coder, [NOTE], many, n_random=3)
    pd.testing.assert_frame_equal(table, curves(coder, [NOTE], many[::-1], n_random=3, batch_size=5))
    alone = curves(coder, [NOTE], many[3:4], n_random=3)
    pd.testing.assert_frame_equal(alone, alone.merge(table))
    random = table.query("method == 'random'")
    assert len(random) == len(CODES) * 2 * len(SHARES)


def test_the_random_ranking_is_what_chance_expects():
    coder = WeightCoder(
        {CODES[0]: {f"w{i:02}": 1 / 40 for i in range(40)}}, additive=True
    )  # every word is worth the same
    table = curves(coder, [NOTE], [Explanation("n1", CODES[0], OFFSETS, np.zeros(40), "m")], shares=(0.1, 0.5, 1.0))
    for method in ("m", "random"):
        at = table[table["method"] == method].pivot(index="share", columns="quantity", values="value")
        np.testing.assert_allclose(at["comprehensiveness"], at.index)
        np.testing.assert_allclose(at["sufficiency"], 1 - at.index, atol=1e-12)


@pytest.mark.parametrize("cue", ["w00", "w20", "w39"])
def test_the_random_ranking_is_a_mean_over_draws_and_prefers_no_place(cue):
    coder = WeightCoder({CODES[0]: {cue: 1.0}}, additive=True)  # all or nothing
    table = curves(
        coder, [NOTE], [Explanation("n1", CODES[0], OFFSETS, np.zeros(40), "m")], shares=(0.25,), n_random=400
    )
    lost = table.query("method == 'random'").set_index("quantity")["value"]
    assert lost["comprehensiveness"] == pytest.approx(0.25, abs=0.08)
    assert lost["sufficiency"] == pytest.approx(0.75, abs=0.08)


@pytest.mark.parametrize("share, n_words", [(0.001, 1), (0.07, 7), (0.071, 8), (1.0, 100)])
def test_a_share_is_rounded_up_to_whole_words(share, n_words):
    assert top_masks(np.arange(100.0), (share,)).sum() == n_words  # 0.07 * 100 is a hair above 7 in floating point


def test_ties_are_taken_in_reading_order():
    scores = np.tile([0.0, 1.0], 100)  # the odd words are tied at the top
    np.testing.assert_array_equal(np.flatnonzero(top_masks(scores, (0.25,))[0]), np.arange(1, 100, 2))


def test_scores_of_other_words_are_added_up_on_the_words_of_the_note():
    offsets = words("metformin, a1c")  # metformin | , | a1c
    pieces = Explanation("n", CODES[0], np.array([[0, 3], [3, 9], [11, 14]]), np.array([0.5, 0.2, 0.3]), "m")
    np.testing.assert_allclose(word_scores(pieces, offsets), [0.7, 0, 0.3])
    chunks = Explanation("n", CODES[0], np.array([[0, 10], [11, 14]]), np.array([0.6, 0.4]), "m")
    np.testing.assert_allclose(word_scores(chunks, offsets), [0.6, 0.6, 0.4])
    own = Explanation("n", CODES[0], offsets, np.array([1.0, 2.0, 3.0]), "m")
    np.testing.assert_array_equal(word_scores(own, offsets), own.scores)


def test_the_aopc_is_the_mean_of_five_points():
    coder, scores = random_coder(0), np.arange(40.0)
    table = curves(coder, [NOTE], [Explanation("n1", CODES[0], OFFSETS, scores, "m")])
    area = aopc(table).set_index(["method", "metric"])["value"]
    points = table.query("method == 'm' and quantity == 'comprehensiveness'")["value"]
    assert SHARES == (0.01, 0.05, 0.1, 0.2, 0.5) and len(points) == 5
    assert area["m", "eraser/aopc_comprehensiveness@mask"] == pytest.approx(points.mean())


def test_rankings_that_cannot_be_scored_are_refused():
    coder, explanation = random_coder(0), Explanation("n1", CODES[0], OFFSETS, np.arange(40.0), "m")
    with pytest.raises(BadShares):
        curves(coder, [NOTE], [explanation], shares=(0.0, 0.5))
    with pytest.raises(NoControl):
        curves(coder, [NOTE], [explanation], n_random=0)
    with pytest.raises(ReservedName):
        curves(coder, [NOTE], [Explanation("n1", CODES[0], OFFSETS, np.arange(40.0), "random")])
    with pytest.raises(SpanOutsideNote, match="after the note's 5 characters"):
        curves(coder, [Note("n1", "short")], [explanation])
    with pytest.raises(BadShares, match="another number"):
        aopc(curves(coder, [NOTE], [explanation], shares=(0.5,), n_random=1))
