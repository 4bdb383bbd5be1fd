"One test for all cards, and the table in which every definition stands beside the others."

import numpy as np
import pandas as pd
import pytest

from icdrat.coder.calibration import calibration_scores
from icdrat.coder.scores import DEFINITIONS as CODING
from icdrat.coder.scores import code_scores
from icdrat.data.corpus import UnknownNote
from icdrat.evaluation.plausibility.anatomy import CLASSES
from icdrat.evaluation.cards import KS, PRF, UnknownDefinition, arrow, card, cards, limits, with_arrow
from icdrat.evaluation.plausibility.codiesp import codiesp_x
from icdrat.evaluation.plausibility.definitions import (
    CHOSEN,
    HARD,
    RANKED,
    WHERE,
    all_plausibility,
    emc_boundaries,
    levels_met,
    measure,
    score_rows,
    summarise_plausibility,
)
from icdrat.evaluation.plausibility.emc import chosen_counts, curve_counts, emc_auprc, emc_prf, gold_mask
from icdrat.evaluation.plausibility.mdace import annotations, mdace_counts, mdace_prf
from icdrat.evaluation.cards import COUNTS
from icdrat.evaluation.plausibility.counts import (
    DEFINITIONS,
    NoRationale,
    eraser_iou_macro,
    eraser_macro,
    gold_spans,
    plausibility,
    ranking_areas,
    soft_plausibility,
    soft_scores,
)
from icdrat.types import RepeatedRationale
from icdrat.evaluation.faithfulness.sanity import most_moved, rank_agreement
from icdrat.evaluation.faithfulness.stream import all_faithfulness
from icdrat.text import mark, mask_to_spans, words
from icdrat.types import BadInput, Code, Explanation, Note, Rationale, Span

CODES = [Code("icd10cm", c) for c in ("E11.9", "I10", "R07.9")]
NAMES = cards().name.tolist()
VOCABULARY = ["náuseas", "T2DM", "on", "metformin.", "🙂", "BP", "120/80", "chest", "pain,"]


def corpus(seed, n_notes=6, n_words=60, often=0.15):
    "Notes, gold at random words, the same as a perfect answer and a random answer; scores to match"
    rng = np.random.default_rng(seed)
    notes, gold, predicted, explained = [], [], [], []
    for i in range(n_notes):
        text = " ".join(rng.choice(VOCABULARY, n_words))
        notes.append(Note(f"n{i}", text))
        places = words(text)
        for code in CODES:
            truth, guess = rng.random(len(places)) < 0.15, rng.random(len(places)) < often
            for mask, source, out in (
                (truth, "human", gold),
                (truth, "perfect", predicted),
                (guess, "chance", predicted),
            ):
                out.append(mark(notes[-1], code, mask_to_spans(mask, places), source))
            explained.append(Explanation(f"n{i}", code, places, truth.astype(float), "perfect"))
            explained.append(Explanation(f"n{i}", code, places, rng.gamma(0.3, size=len(places)), "chance"))
    return notes, gold, predicted, explained


class Cue:
    "A coder that reads one word"

    codes, threshold = CODES[:1], 0.5

    def __call__(self, texts, erased=None, operator="mask"):
        hidden = [any(s.start < 4 for s in e) for e in erased or [()] * len(texts)]
        return np.array([[0.1 if h else 0.9] for h in hidden])


def plausibility_values():
    "The metrics of a perfect and of a random answer"
    notes, gold, predicted, explained = corpus(0, n_words=120, often=0.02)
    table = all_plausibility(
        notes, gold, predicted, explained, boundaries=dict(perfect=0.0, chance=0.03), over="union", progress=False
    )
    found = summarise_plausibility(table, 20)
    return {m: found[found.method == m].set_index("metric").value.to_dict() for m in ("perfect", "chance")}


def coding_values():
    "The scores of a perfect and of a random coder"
    rng = np.random.default_rng(0)
    truth = rng.random((40, 120)) < 0.3
    run = lambda p: (
        {k: v for k, v in code_scores(p, truth, 0.5, KS, tuple(CODING)).items() if "/" in k}
        | calibration_scores(p, truth)
    )
    return dict(perfect=run(truth * 1.0), chance=run(rng.random((40, 120))))


def faithfulness_values():
    "Every measure where the rationale, and the top of the ranking, is the one word that is read, and another"
    text = "T2DM on metformin for years"
    note, places = Note("n", text), words(text)
    out = {}
    for name, word in dict(perfect=0, chance=1).items():
        scores = np.where(np.arange(len(places)) == word, 1.0, np.linspace(0, 0.1, len(places)))
        rationale, ranking = (
            mark(note, CODES[0], [Span(*map(int, places[word]))], "toy"),
            Explanation("n", CODES[0], places, scores, "toy"),
        )
        found = all_faithfulness(
            Cue(), [note], [rationale], [ranking], gold=dict(n=CODES[:1]), n_random=2, progress=False
        )
        out[name] = found.query("method == 'toy'").set_index("metric").value.to_dict()
    return out


def method_values():
    "A method that keeps still and looks at the coder, and one that moves and does not"
    rng = np.random.default_rng(0)
    before, hidden = rng.normal(size=20), rng.random((5, 20)) < 0.1
    moved = before + rng.normal(size=(5, 20))
    adebayo = [f"adebayo/{c}{s}" for c in ("weights", "labels") for s in ("", "_signed")]
    run = lambda versions, other: (
        {"yeh/max_sensitivity": most_moved(before, versions, hidden)}
        | {m: rank_agreement(before, other, m.endswith("signed")) for m in adebayo}
    )
    return dict(perfect=run(before[None].repeat(5, 0), rng.permutation(before)), chance=run(moved, before))


@pytest.fixture(scope="module")
def values():
    made = [plausibility_values(), coding_values(), faithfulness_values(), method_values()]
    return {m: {k: v for part in made for k, v in part[m].items()} for m in ("perfect", "chance")}


def below_its_best(name):
    "Metrics that a perfect answer does not bring to their best value, by definition"
    return (
        "@" in name
        and "/aopc" not in name
        and card(name).family != "faithfulness"
        or name in ("emc/auprc", "emc/kl_divergence")
        or card(name).family in ("faithfulness", "method")
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_card_keeps_its_word(name, values):
    c = card(name)
    assert c.bounds[0] < c.bounds[1] and c.source and arrow(name) in ("↑", "↓", "")
    assert with_arrow(name).startswith(name) and (c.operator == "" or name.endswith(f"@{c.operator}"))
    low, high = limits(name)
    assert (low is None or low <= c.bounds[0]) and (high is None or high >= c.bounds[1])
    perfect, chance = values["perfect"][name], values["chance"][name]
    for value in (perfect, chance):
        assert c.bounds[0] - 1e-9 <= value <= c.bounds[1] + 1e-9
    if c.higher_is_better is not None:
        better, best = (perfect - chance, c.bounds[1]) if c.higher_is_better else (chance - perfect, c.bounds[0])
        assert better > 0 or name in ("anatomy/empty",), "a perfect answer is better than a random one"
        if not below_its_best(name) and np.isfinite(best):
            assert perfect == pytest.approx(1 if "eraser/iou" in name else best, abs=2e-5)


def test_every_number_has_a_card_and_every_card_a_number(values):
    for found in values.values():
        assert set(NAMES) == set(found)


def test_every_definition_is_on_the_list():
    assert set(DEFINITIONS) <= set(HARD) and len({*HARD, *RANKED, *CHOSEN}) == len(HARD) + len(RANKED) + len(CHOSEN)
    named = [m for d in (*HARD, *RANKED, *CHOSEN) for m in measure(d).statistics]
    assert sorted(named) == sorted(cards("plausibility").name)


# the table


def value(found, metric, method="chance"):
    return found[(found.metric == metric) & (found.method == method) & (found.level == "any")].value.item()


@pytest.mark.parametrize("seed", range(3))
def test_the_counts_are_those_of_each_definition_alone(seed):
    notes, gold, predicted, _ = corpus(seed)
    table = all_plausibility(notes, gold, predicted, progress=False)
    alone = plausibility(notes, gold, predicted, tuple(DEFINITIONS), progress=False)
    keys = ["note_id", "code", "method", "definition"]
    ours = table[table.definition.isin(DEFINITIONS)].astype({k: str for k in keys}).sort_values(keys)
    np.testing.assert_array_equal(
        ours[[*keys, *COUNTS, "no_gold"]].to_numpy(), alone.sort_values(keys)[[*keys, *COUNTS, "no_gold"]].to_numpy()
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_summary_gives_the_published_averages(seed):
    notes, gold, predicted, explained = corpus(seed)
    predicted = predicted[:-4]  # some pairs have gold and no answer
    table = all_plausibility(
        notes, gold, predicted, explained, boundaries=dict(perfect=0.0, chance=0.02), over="union", progress=False
    )
    found = summarise_plausibility(table, 20)
    counts = lambda d: table.loc[(table.definition == d) & (table.method == "chance"), list(COUNTS)].to_numpy()
    for d, macro in {"eraser/span": eraser_macro, "eraser/token": eraser_macro, "eraser/iou": eraser_iou_macro}.items():
        assert [value(found, f"{d}_{q}_macro") for q in PRF] == pytest.approx(macro(counts(d)).tolist())
    rows = score_rows([e for e in explained if e.method == "chance"], gold_spans(gold, {n.id: n for n in notes}))[1]
    hits, chosen = curve_counts(rows).sum(0)
    assert value(found, "emc/auprc") == pytest.approx(emc_auprc(hits, chosen, gold_mask(rows).sum()))
    assert [value(found, f"emc/{q}") for q in PRF] == pytest.approx(emc_prf(chosen_counts(rows, 0.02).sum(0)))
    mine, texts = [r for r in predicted if r.source == "chance"], {n.id: n.text for n in notes}
    total = sum(
        np.array(
            [
                c
                for n in notes
                for c in mdace_counts(
                    *(annotations([r for r in rs if r.note_id == n.id]) for rs in (gold, mine)), texts
                )["mdace/token_anywhere"].values()
            ]
        )
    )
    assert [value(found, f"mdace/token_anywhere_{q}") for q in PRF] == pytest.approx(mdace_prf(total))
    flat = lambda rs: [(r.note_id, str(r.code), s.start, s.end) for r in rs for s in r.spans]
    assert [value(found, f"codiesp/reference_{q}") for q in PRF] == pytest.approx(
        [codiesp_x(flat(gold), flat(mine))[q] for q in PRF]
    )
    assert sum(value(found, f"anatomy/{c}") for c in CLASSES) == pytest.approx(1)
    soft = soft_plausibility(notes, gold, explained)
    assert value(found, "eraser/roc_auc") == pytest.approx(soft[soft.method == "chance"].roc_auc.mean())


def test_an_interval_holds_its_value_and_stays_in_bounds():
    notes, gold, predicted, explained = corpus(1, n_notes=10)
    found = summarise_plausibility(
        all_plausibility(notes, gold, predicted, explained, boundaries=dict(perfect=0.0, chance=0.02), progress=False),
        300,
    )
    for row in found.dropna(subset="value").itertuples():
        low, high = card(row.metric).bounds
        assert low - 1e-9 <= row.low <= row.high <= high + 1e-9
        assert row.low - 1e-9 <= row.value <= row.high + 1e-9 or "iou" in row.metric


def test_the_order_of_everything_changes_nothing():
    notes, gold, predicted, explained = corpus(2)
    make = lambda flip: summarise_plausibility(
        all_plausibility(
            *(list(x)[::flip] for x in (notes, gold, predicted, explained)),
            boundaries=dict(chance=0.02),
            per_level=True,
            progress=False,
        ),
        20,
    )
    plain, turned = (make(flip).sort_values(["method", "level", "metric"], ignore_index=True) for flip in (1, -1))
    pd.testing.assert_frame_equal(plain, turned, rtol=1e-9)


def test_a_pair_without_evidence_is_set_aside_in_every_definition():
    note = Note("n", "T2DM on metformin")
    gold = [mark(note, CODES[0], [Span(0, 4)], "human"), Rationale("n", CODES[1], (), "human")]
    predicted = [mark(note, c, [Span(0, 4)], "toy") for c in CODES]
    explained = [Explanation("n", c, words(note.text), np.array([1.0, 0, 0]), "toy") for c in CODES]
    table = all_plausibility([note], gold, predicted, explained, boundaries=dict(toy=0.0), progress=False)
    assert set(table.definition) == {*HARD, *RANKED, *CHOSEN}
    assert (table.groupby("definition", observed=True).no_gold.sum() == 1).all()
    assert not table.loc[table.no_gold, list(COUNTS)].to_numpy().any()
    found = summarise_plausibility(table, 10)
    for metric in (
        "character/f1",
        "token/f1",
        "span_exact/f1",
        "eraser/auprc",
        "emc/f1",
        "anatomy/exact",
        "codiesp/reference_f1",
        "emc/precision@1",
    ):
        assert value(found, metric, "toy") == pytest.approx(1)
    assert set(found.n_no_gold) == {1}
    union = all_plausibility([note], gold, predicted, over="union", progress=False)
    assert (
        set(union.query("definition == 'codiesp/reference'").n_pred) == {1}
        and len(union.query("definition == 'mdace/token'")) == 3
    )


def test_levels_meet_like_with_like_where_the_method_has_them():
    note = Note("n", "T2DM on metformin. Chest pain.")
    both = lambda source: [
        mark(note, CODES[0], [Span(0, 4)], source),
        mark(note, CODES[0], [Span(0, 17)], source, "sentence"),
    ]
    table = all_plausibility(
        [note],
        both("human"),
        both("two") + [mark(note, CODES[0], [Span(0, 4)], "one")],
        definitions=["character"],
        per_level=True,
        progress=False,
    )
    rows = {(r.method, r.level, r.predicted_level): (r.hits_pred, r.n_pred, r.n_gold) for r in table.itertuples()}
    assert rows["two", "mention", "mention"] == (4, 4, 4) and rows["two", "sentence", "sentence"] == (17, 17, 17)
    assert rows["one", "sentence", "any"] == (4, 4, 17) and rows["one", "any", "any"] == (4, 4, 17)
    assert levels_met(both("human"), both("two"), "mention", "sentence") == [("mention", "sentence")]


def test_notes_of_one_admission_share_their_texts():
    notes = [Note("n1", "sepsis"), Note("n2", "Sepsis")]
    gold, predicted = ([mark(n, CODES[0], [Span(0, 6)], source)] for n, source in zip(notes, ("human", "toy")))
    hits = lambda **k: all_plausibility(
        notes, gold, predicted, definitions=["mdace/token_anywhere"], over="union", progress=False, **k
    ).hits_pred.sum()
    assert hits() == 0 and hits(admissions=dict(n1="a", n2="a")) == 1


def test_only_what_is_asked_for_is_there():
    notes, gold, predicted, explained = corpus(0, 2)
    table = all_plausibility(notes, gold, predicted, explained, ["token", "emc/iou"], progress=False)
    assert set(table.definition) == {"token", "emc/iou"} and list(table) == [*WHERE, *COUNTS, "no_gold"]
    assert not set(all_plausibility(notes, gold, predicted, explained, progress=False).definition) & set(CHOSEN)
    assert set(all_plausibility(notes, gold, (), explained, progress=False).definition) == set(RANKED)


def test_the_boundary_is_that_of_the_best_f1():
    notes, gold, _, explained = corpus(3)
    found = emc_boundaries(notes, gold, explained)
    assert set(found) == {"perfect", "chance"}
    rows = score_rows([e for e in explained if e.method == "chance"], gold_spans(gold, {n.id: n for n in notes}))[1]
    f1 = [emc_prf(chosen_counts(rows, b).sum(0))[2] for b in np.linspace(0, 0.1, 101)]
    assert found["chance"] == np.linspace(0, 0.1, 101)[int(np.argmax(f1))]


def test_what_cannot_be_scored_is_refused():
    notes, gold, predicted, explained = corpus(0, 1)
    for error, message, change in [
        (UnknownDefinition, "'f1'", dict(definitions=["f1"])),
        (BadInput, "'both'", dict(over="both")),
        (BadInput, "'phrase'", dict(level="phrase")),
        (UnknownNote, "n0", dict(notes=[])),
        (RepeatedRationale, "twice", dict(explanations=explained * 2)),
        (NoRationale, "predicted", dict(predicted=[], explanations=[])),
    ]:
        with pytest.raises(error, match=message):
            all_plausibility(
                **{
                    **dict(notes=notes, gold=gold, predicted=predicted, explanations=explained, progress=False),
                    **change,
                }
            )
    lost = [Explanation("m", CODES[0], np.zeros((1, 2), int), np.ones(1), "toy")]
    with pytest.raises(UnknownNote, match="toy.*m, E11.9"):
        all_plausibility(notes, gold, predicted, lost, progress=False)


@pytest.mark.parametrize("levels", [3, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_areas_of_many_rankings_are_those_of_each(seed, levels):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 25, 50)
    key = np.repeat(np.arange(50), lengths)
    scores, truth = (
        rng.integers(0, levels, len(key)) / levels,
        rng.random(len(key)) < rng.choice([0.0, 0.3, 1.0], 50)[key],
    )
    mixed = rng.permutation(len(key))
    slow = np.array([soft_scores(scores[key == k], truth[key == k]) for k in range(50)])
    np.testing.assert_allclose(ranking_areas(scores[mixed], truth[mixed], key[mixed], 50), slow, atol=1e-12)
    assert ranking_areas(np.zeros(0), np.zeros(0, bool), np.zeros(0, int), 0).shape == (0, 3)
