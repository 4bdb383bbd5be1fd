"Definitions of other projects: every case that their own code has answered, and the same counts by slow loops."

import numpy as np
import pytest
from sklearn.metrics import auc

from icdrat.evaluation.plausibility.anatomy import CLASSES, WINDOW, gold_runs, match_classes, tokens_of
from icdrat.evaluation.cards import FIRST
from icdrat.evaluation.plausibility.codiesp import codiesp_codes, codiesp_x, covered, hull, reference_counts
from icdrat.evaluation.plausibility.distributions import answer_divergence, entropy_difference
from icdrat.evaluation.plausibility.emc import (
    CHOICES,
    WHOLE,
    BadRows,
    best_boundary,
    chosen_counts,
    curve_counts,
    divergence,
    emc_auprc,
    emc_prf,
    entropy,
    gold_mask,
    run_recall,
    scored,
    silent,
    top_counts,
    top_iou,
)
from icdrat.evaluation.plausibility.mdace import (
    MATCHINGS,
    Annotation,
    UnknownText,
    mdace_counts,
    mdace_prf,
    merged,
    tokens,
    trimmed,
)

# explainable medical coding


def rows_of(case):
    return scored([r["attributions"] for r in case["rows"]], [r["evidence_token_ids"] for r in case["rows"]])


def emc_numbers(case):
    "Our numbers under the names of the case, for every name there is"
    rows, boundary = rows_of(case), case["decision_boundary"]
    counts, silence = chosen_counts(rows, boundary), silent(rows, boundary).mean(0)
    hits, chosen = curve_counts(rows).sum(0)
    ours = dict(
        error_counts=np.stack([counts[:, 0], counts[:, 1] - counts[:, 0], counts[:, 3] - counts[:, 0]], 1),
        prf=emc_prf(counts.sum(0)),
        iou=top_iou(rows).mean(),
        auprc=emc_auprc(hits, chosen, gold_mask(rows).sum()),
        span_token_recall__span_recall=run_recall(rows, boundary).mean(0),
        kl_divergence_mean=divergence(rows).mean(),
        kl_divergence_rows=divergence(rows),
        sparsity=dict(entropy=entropy(rows).mean(), no_predictions=silence[0], attributions_sum_zero=silence[1]),
        best_decision_boundary=best_boundary(rows),
        average_number_of_predicted_tokens=counts[:, 1].mean(),
    )
    for name in case["expected"]:
        if name.startswith("precision_recall_at_"):
            found, k, _, marks = top_counts(rows, [int(name.rpartition("_")[2])]).sum(0)[0]
            ours[name] = [found / k, found / marks]
    return ours


def leaves(name, value):
    "Numbers under their paths; an error has none"
    if isinstance(value, dict):
        for k, v in value.items():
            if k != "error":
                yield from leaves(f"{name}/{k}", v)
    else:
        yield name, np.asarray(value, float)


def test_rankings_are_scored_as_explainable_medical_coding_scores_them(oracle):
    n_compared = 0
    for case in oracle("emc_plausibility")["cases"]:
        ours = dict(leaves("", emc_numbers(case)))
        for name, theirs in leaves("", case["expected"]):
            np.testing.assert_allclose(ours[name], theirs, rtol=0, atol=1e-6, err_msg=f"{case['name']}, {name}")
            n_compared += 1
    assert n_compared > 100


def random_rows(seed, n=8, ties=False):
    rng = np.random.default_rng(seed)
    scores = [rng.dirichlet(np.full(rng.integers(2, 30), 0.4)) for _ in range(n)]
    if ties:
        scores = [np.round(s, 1) for s in scores]
    gold = [np.sort(rng.choice(len(s), rng.integers(1, len(s) + 1), replace=False)) for s in scores]
    return scores, gold


@pytest.mark.parametrize("boundary", [0.0, 0.03, 0.1, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_choices_are_counted_as_sets_count_them(seed, boundary):
    scores, gold = random_rows(seed, ties=seed % 2)
    for found, s, g in zip(chosen_counts(scored(scores, gold), boundary).tolist(), scores, gold):
        chosen = set(np.flatnonzero(s > boundary))
        assert found == [len(chosen & set(g)), len(chosen), len(chosen & set(g)), len(g)]


@pytest.mark.parametrize("seed", range(5))
def test_all_boundaries_at_once_are_each_boundary(seed):
    rows = scored(*random_rows(seed, ties=seed % 2))
    for grid in (WHOLE, CHOICES):
        curve = curve_counts(rows, grid)
        for i in range(0, 101, 10):
            np.testing.assert_array_equal(curve[:, :, i], chosen_counts(rows, grid[i])[:, :2])
    hits, chosen = curve_counts(rows).sum(0)
    p, r, _ = emc_prf(np.stack([hits, chosen, hits, np.full(101, gold_mask(rows).sum())], 1)).T
    assert emc_auprc(hits, chosen, gold_mask(rows).sum()) == pytest.approx(auc(r, p))


@pytest.mark.parametrize("seed", range(5))
def test_the_first_k_are_those_that_sorting_gives(seed):
    scores, gold = random_rows(seed, ties=seed % 2)
    found, iou = top_counts(scored(scores, gold)), top_iou(scored(scores, gold))
    for i, (s, g) in enumerate(zip(scores, gold)):
        upwards = np.argsort(s, kind="stable")
        for j, k in enumerate(FIRST):
            hits = len(set(upwards[-k:]) & set(g))
            assert found[i, j].tolist() == [hits, k, hits, len(g)]
        top = set(upwards[-len(g) :])
        assert iou[i] == len(top & set(g)) / len(top | set(g))


@pytest.mark.parametrize("seed", range(5))
def test_a_row_does_not_depend_on_its_company(seed):
    scores, gold = random_rows(seed)
    together, alone = scored(scores, gold), [scored([s], [g]) for s, g in zip(scores, gold)]
    for f in (
        divergence,
        entropy,
        top_iou,
        lambda r: run_recall(r, 0.1),
        lambda r: silent(r, 0.3),
        top_counts,
        curve_counts,
    ):
        np.testing.assert_allclose(f(together), np.concatenate([f(a) for a in alone]), atol=1e-12)


def test_even_evidence_on_the_gold_tokens_has_no_divergence_and_a_perfect_iou():
    rows = scored([[0.5, 0, 0.5, 0]], [[0, 2]])
    assert divergence(rows)[0] == pytest.approx(0) and top_iou(rows)[0] == 1
    assert divergence(scored([[0.25] * 4], [[0, 2]]))[0] > 0


def test_a_score_on_the_boundary_is_not_chosen():
    assert chosen_counts(scored([[0.5, 0.5]], [[0]]), 0.5)[0, 1] == 0


def test_gold_tokens_outside_their_row_are_refused():
    with pytest.raises(BadRows, match="row 1: token 5"):
        scored([[0.1], [0.2, 0.3]], [[0], [5]])
    with pytest.raises(BadRows, match="1 rows of scores"):
        scored([[0.1]], [])
    assert len(scored([], [])) == 0


# MDACE


def annotations_of(rows):
    return [Annotation(r["note_id"], r["begin"], r["end"], r["code"], r["system"]) for r in rows]


PEER = dict(
    span_exact_match="mdace/span",
    span_position_independent="mdace/span_anywhere",
    token_exact_match="mdace/token",
    token_position_independent="mdace/token_anywhere",
)


def test_evidence_is_matched_as_mdace_matches_it(oracle):
    n_compared = 0
    for case in oracle("mdace_metrics")["cases"]:
        texts = {int(k): v for k, v in case["notes"].items()}
        gold, predicted = annotations_of(case["gold"]), annotations_of(case["pred"])
        counts = mdace_counts(gold, predicted, texts, case["trim"], case["merge_adjacent"])
        for theirs, ours in PEER.items():
            expected, total = (
                case["expected"]["rates"][theirs],
                np.array(list(counts[ours].values()) or [(0,) * 4]).sum(0),
            )
            hits, n_pred, _, n_gold = total
            assert (
                dict(tp=hits, fp=n_pred - hits, fn=n_gold - hits, n_pred=n_pred, n_actual=n_gold).items()
                <= expected.items()
            ), (case["name"], ours)
            np.testing.assert_allclose(
                mdace_prf(total),
                [expected[q] for q in ("precision", "recall", "f1")],
                rtol=0,
                atol=1e-9,
                err_msg=case["name"],
            )
            n_compared += 1
        for side, name in ((gold, "gold_after_cleanup"), (predicted, "pred_after_cleanup")):
            tidy = merged(side, texts) if case["merge_adjacent"] else side
            tidy = [trimmed(a, texts[a.note_id]) for a in tidy] if case["trim"] else tidy
            assert [list(a[:4]) for a in tidy] == case["expected"][name], case["name"]
    assert n_compared >= 60


def test_words_are_those_of_mdace(oracle):
    for example in oracle("mdace_metrics")["meta"]["tokenize_examples"]:
        assert [[at, at + len(w), w] for at, w in tokens(example["text"])] == example["tokens"]


def test_the_same_words_in_another_note_are_found_anywhere_only():
    texts = {"n1": "sepsis", "n2": "Sepsis"}
    gold, predicted = ([Annotation(n, 0, 6, "A41.9", "icd10cm")] for n in texts)
    hits = {name: list(c.values())[0][0] for name, c in mdace_counts(gold, predicted, texts).items()}
    assert hits == {"mdace/span": 0, "mdace/span_anywhere": 1, "mdace/token": 0, "mdace/token_anywhere": 1}


def test_the_code_and_its_system_are_part_of_every_key():
    texts = {"n1": "sepsis"}
    gold = [Annotation("n1", 0, 6, "A41.9", "icd10cm")]
    for other in (gold[0]._replace(code="R65.20"), gold[0]._replace(system="icd9cm")):
        for counts in mdace_counts(gold, [other], texts).values():
            assert sum(c[0] for c in counts.values()) == 0 and sum(c[1] for c in counts.values()) == 1
    with pytest.raises(UnknownText, match="n1"):
        mdace_counts(gold, gold, {})


def test_a_perfect_prediction_is_a_hair_below_one_in_every_matching():
    texts = {"n1": "acute sepsis, sepsis"}
    marked = [Annotation("n1", 0, 12, "A41.9", "icd10cm"), Annotation("n1", 14, 20, "A41.9", "icd10cm")]
    for name in MATCHINGS:
        p, r, f1 = mdace_prf(mdace_counts(marked, marked, texts, merge=False)[name]["A41.9", "icd10cm"])
        assert 1 - 2e-6 < f1 < min(p, r) < 1


# CodiEsp


def place(pos):
    return hull(tuple(map(int, piece.split())) for piece in pos.split(";"))


def same_scores(ours, theirs, case):
    for name, value in theirs.items():
        if isinstance(value, dict):
            for note, v in value.items():
                assert ours[name].get(note, np.nan) == pytest.approx(float(v), abs=1e-6, nan_ok=True), (
                    case["name"],
                    name,
                    note,
                )
        elif name != "error":
            assert ours[name] == pytest.approx(float(value), abs=1e-6, nan_ok=True), (case["name"], name)


def test_references_are_scored_as_codiesp_scores_them(oracle):
    for case in oracle("codiesp_x")["cases"]:
        ours = codiesp_x(
            *([(r["doc"], r["code"], *place(r["pos"])) for r in case[side]] for side in ("gold", "pred")),
            set(case["valid_codes"]),
        )
        same_scores(ours, case["expected"], case)


def test_lists_of_codes_are_scored_as_codiesp_scores_them(oracle):
    for case in oracle("codiesp_dp")["cases"]:
        ours = codiesp_codes(case["gold"], case["pred_ranked"], set(case["valid_codes"]))
        same_scores(ours, case["expected"].get("prf", {}), case)
        if isinstance(theirs := case["expected"].get("map"), (int, float, str)):
            assert ours["map"] == pytest.approx(float(theirs), abs=1e-6), case["name"]


def random_spans(seed, n=40, n_keys=6):
    rng = np.random.default_rng(seed)
    start = rng.integers(0, 60, n)
    return np.c_[rng.integers(0, n_keys, n), start, start + rng.integers(1, 20, n)]


@pytest.mark.parametrize("seed", range(10))
def test_a_covered_place_is_found_as_loops_find_it(seed):
    gold, predicted = random_spans(seed, 12), random_spans(seed + 100)
    slow = [
        any(k == a == b and 0 <= s - t <= 10 and 0 <= f - e <= 10 for a, s, e in gold for b, t, f in predicted)
        for k in range(6)
    ]
    np.testing.assert_array_equal(covered(gold, predicted, 6), slow)


@pytest.mark.parametrize("side", [0, 1])
def test_ten_characters_are_not_too_far_and_eleven_are(side):
    gold = np.array([[0, 100, 120]])
    reach = lambda n: gold + (np.array([[0, -n, 0]]) if side == 0 else np.array([[0, 0, n]]))
    assert [bool(covered(gold, reach(n), 1)[0]) for n in (-1, 0, 10, 11)] == [False, True, True, False]


def test_every_gold_place_covers_itself_and_nothing_covers_without_a_prediction():
    gold, none = random_spans(0), np.zeros((0, 3), int)
    assert (reference_counts(gold, gold, 6) == 1).all()
    assert reference_counts(gold, none, 6).tolist() == [[0, 0, 0, 1]] * 6
    assert not reference_counts(none, none, 6).any()


def test_a_run_without_predictions_has_no_precision():
    empty = codiesp_x([("d", "a", 1, 2)], [])
    assert np.isnan(empty["precision"]) and empty["recall"] == 0
    assert codiesp_codes([("d", "a")], [])["map"] == 0


def test_a_note_that_only_the_run_knows_lowers_the_mean_average_precision():
    alone, more = (codiesp_codes([("d", "a")], [("d", "a"), *extra])["map"] for extra in ((), [("e", "a")]))
    assert (alone, more) == (1, 0.5)


# the anatomy of evidence


def as_rows(lists):
    return np.array([(k, t) for k, ids in enumerate(lists) for t in ids], np.int64).reshape(-1, 2)


def test_matches_are_classed_as_the_anatomy_of_evidence_classes_them(oracle):
    cases = oracle("anatomy_match")["cases"]
    found = match_classes(
        as_rows([c["gold_token_ids"] for c in cases]), as_rows([c["pred_token_ids"] for c in cases]), len(cases)
    )
    for case, code in zip(cases, found):
        assert (code, CLASSES[code]) == (case["expected"]["code"], case["expected"]["label"]), case["name"]


def slow_class(gold, predicted):
    "The definition, token by token"
    if not predicted:
        return 0
    gold, predicted = sorted(gold), sorted(predicted)
    if gold == predicted:
        return 1
    if not set(gold) & set(predicted):
        return 4
    runs, jump = [], None
    for t in gold:
        if t - gold.index(t) != jump:
            runs.append([])
            jump = t - gold.index(t)
        runs[-1].append(t)
    near = all(any(r[0] - WINDOW <= t <= r[-1] + WINDOW for r in runs) for t in predicted)
    return 2 if near and all(any(r[0] <= t <= r[-1] for t in predicted) for r in runs) else 3


@pytest.mark.parametrize("seed", range(30))
def test_all_keys_at_once_are_classed_like_each(seed):
    rng = np.random.default_rng(seed)
    draw = lambda: [rng.integers(0, 60, rng.integers(0, 7)).tolist() for _ in range(40)]
    gold, predicted = draw(), draw()
    predicted[:10] = [list(rng.permutation(g)) for g in gold[:10]]
    predicted[10:30] = [
        g[: rng.integers(0, 5)] + [int(t) for t in rng.integers(0, 60, rng.integers(0, 2))] for g in gold[10:30]
    ]
    assert match_classes(as_rows(gold), as_rows(predicted), 40).tolist() == [
        slow_class(g, p) for g, p in zip(gold, predicted)
    ]


def test_tokens_of_spans_are_listed_once():
    assert tokens_of(np.array([[1, 4, 6], [1, 5, 7], [0, 2, 3], [0, 9, 9]])).tolist() == [
        [0, 2],
        [1, 4],
        [1, 5],
        [1, 6],
    ]
    assert gold_runs(np.zeros((0, 2), int)).shape == (0, 3)


# ERASER's whole distributions


def test_entropies_and_divergences_are_those_of_eraser(oracle):
    n_compared = 0
    for case in oracle("eraser_metrics")["cases"]:
        if not case["kind"].startswith("faith"):
            continue
        answer = lambda key: np.array([list(i[key].values()) for i in case["instances"]])
        for side in ("comprehensiveness", "sufficiency"):
            for what, of in dict(entropy=entropy_difference, kl=answer_divergence).items():
                if (theirs := case["expected"].get(f"{side}_{what}")) is not None:
                    ours = of(answer("classification_scores"), answer(f"{side}_classification_scores")).mean()
                    assert ours == pytest.approx(float(theirs), abs=1e-6), (case["name"], side, what)
                    n_compared += 1
    assert n_compared
