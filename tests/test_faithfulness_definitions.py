"Faithfulness by the definitions of EMC, ferret and NAOPC: the oracle cases, and laws over seeds."

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau

from icdrat.evaluation.faithfulness.curves import SHARES, curve_inquiry, top_masks
from icdrat.evaluation.faithfulness.emc import (
    NothingPredicted,
    emc_inquiry,
    emc_means,
    feature_scores,
    roberta_words,
    share_lost,
    stepwise_masks,
)
from icdrat.evaluation.faithfulness.inquiry import concluded, mean_inquiry
from icdrat.evaluation.faithfulness.eraser import decision_flip, rationale_inquiry
from icdrat.evaluation.faithfulness.ferret import decile_levels, ferret_inquiry, level_masks, tau_loo
from icdrat.evaluation.faithfulness.naopc import (
    area,
    beam_search,
    limit,
    naopc_inquiry,
    normalised_area,
    steps,
    subsets,
)


def random_answer(seed, n=8):
    "A probability for every set of hidden words"
    table = np.random.default_rng(seed).random(2**n)
    return lambda masks: table[masks @ 2 ** np.arange(n)]


# EMC


class ToyModel:
    "The model of the oracle's meta: a bag of tokens through a tanh, in single precision"

    def __init__(self, meta):
        toy = meta["toy_model"]
        self.W, self.b, self.ids = np.array(toy["W"], np.float32), np.array(toy["b"], np.float32), toy["ids"]

    def __call__(self, ids):
        logits = self.b + 2 * np.tanh(self.W[ids].sum(0) / 2)
        return 1 / (1 + np.exp(-logits))


class Document:
    "Tokens of one note, what can be hidden of it, and what it reads like then"

    def __init__(self, model, ids, attributions, feature_map=None, mask=None):
        ids, scores = np.array(ids), np.array(attributions, float)
        real = ids != model.ids["pad"]
        self.model, self.whole, self.ids = model, model(ids), ids[real]
        inner = np.arange(len(self.ids) - 2) if feature_map is None else np.array(feature_map)[real][1:-1] - 1
        self.scores = [feature_scores(s, inner) for s in scores[real][1:-1].T]
        self.inner, self.mask = inner, model.ids["mask"] if mask is None else mask

    def hidden(self, mask):
        return [self.ids[0], *np.where(mask[self.inner], self.mask, self.ids[1:-1]), self.ids[-1]]

    def answer(self, code):
        return lambda masks: np.array(
            [self.model(self.hidden(m))[code] if m.any() else self.whole[code] for m in masks]
        )


def emc_cases(oracle, pipeline):
    file = oracle("emc_faithfulness")
    cases = [c for c in file["cases"] if ("documents" in c) == pipeline]
    assert cases
    return ToyModel(file["meta"]), cases


def test_every_step_of_emc_reads_what_the_oracle_reads(oracle):
    model, cases = emc_cases(oracle, pipeline=False)
    for case in cases:
        document = Document(
            model,
            case["input_ids"],
            case["attributions_tokens_by_targets"],
            case["feature_map"],
            case["baseline_token_id"],
        )
        expected = case["expected"]
        np.testing.assert_allclose(document.whole[case["target_ids"]], expected["prob_full"], atol=1e-5)
        for k, code in enumerate(case["target_ids"]):
            masks = stepwise_masks(document.scores[k], case["descending"], case["step_size"], case["max_features"])
            assert [list(map(int, document.hidden(m))) for m in masks] == expected["perturbed_inputs"][str(code)], case[
                "name"
            ]
            deltas = document.whole[code] - np.array([model(document.hidden(m))[code] for m in masks])
            np.testing.assert_allclose(deltas, np.array(expected["delta_steps_by_targets"])[:, k], atol=1e-5)


BEGINS_A_WORD = (
    4,
    5,
    7,
    9,
    11,
    13,
    15,
)  # token ids of the toy vocabulary, which the file does not spell; the numbers of its cases leave no other choice


def toy_words(ids):
    special = {0: "<s>", 1: "<pad>", 2: "</s>", 3: "<mask>"}
    return roberta_words([special.get(i, "Ġw" if i in BEGINS_A_WORD else "x") for i in ids])


def test_words_of_roberta_match_the_oracle(oracle):
    examples = oracle("emc_faithfulness")["meta"]["word_map_examples"]
    assert examples
    for e in examples:
        assert roberta_words(e["tokens"]).tolist() == e["word_map"]


def test_emc_over_documents_matches_the_oracle(oracle):
    model, cases = emc_cases(oracle, pipeline=True)
    for case in cases:
        pairs = []
        for d in case["documents"]:
            document = Document(model, d["input_ids"], d["attributions"], toy_words(d["input_ids"]))
            for k, code in enumerate(d["targets"]):
                found = concluded(emc_inquiry(document.scores[k]), document.answer(code))
                pairs.append(
                    dict(
                        probability=document.whole[code],
                        **{q: found[f"emc/{q}"] for q in ("comprehensiveness", "sufficiency")},
                    )
                )
        if "error" in case["expected"]:
            with pytest.raises(NothingPredicted):
                emc_means(pd.DataFrame(pairs), case["decision_boundary"])
            continue
        means = emc_means(pd.DataFrame(pairs), case["decision_boundary"])
        for q, value in means.items():
            assert value == pytest.approx(case["expected"][q], abs=1e-5), case["name"]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [3, 60, 100, 101, 257])
def test_emc_goes_through_a_hundred_words_from_either_end(seed, n):
    scores = np.random.default_rng(seed).random(n)
    down, up = stepwise_masks(scores), stepwise_masks(scores, best_first=False)
    assert down.shape == up.shape == (50, n)
    assert down.sum(1).tolist() == [min(2 * i, n) for i in range(50)]
    assert up.sum(1).tolist() == [min(max(n - 100, 0) + 2 * i, n) for i in range(50)]
    for masks, sign in ((down, 1), (up, -1)):
        for m in masks[(masks.any(1)) & (~masks.all(1))]:
            assert (sign * scores[m]).min() > (sign * scores[~m]).max()


def test_a_share_of_nothing_is_undefined_and_only_sufficiency_is_clipped():
    assert np.isnan(share_lost(0.0, np.array([0.0, 0.2])))
    gain = lambda masks: np.where(masks.any(1), 0.9, 0.6)
    found = concluded(emc_inquiry(np.arange(4.0)), gain)
    assert found["emc/comprehensiveness"] == pytest.approx(-49 / 50 * 0.5) and found["emc/sufficiency"] == 0


@pytest.mark.parametrize("n", [1, 7, 250])
def test_without_a_most_all_words_are_gone_through(n):
    scores = np.random.default_rng(n).random(n)
    for best_first in (True, False):
        masks = stepwise_masks(scores, best_first, most=None)
        assert masks.sum(1).tolist() == list(range(0, n, 2))
    assert set(concluded(emc_inquiry(scores, most=None), lambda m: 1 - m.mean(1))) == {
        "emc/comprehensiveness",
        "emc/sufficiency",
    }


# ferret


@pytest.mark.parametrize("seed", range(8))
def test_ferret_is_the_mean_over_each_different_rationale(seed):
    rng, answer = np.random.default_rng(seed), random_answer(seed)
    scores = rng.normal(size=8).round(1)
    found, sets = concluded(ferret_inquiry(scores, at_once=3), answer), []
    for k in range(1, 9):
        best = {j for j in sorted(range(8), key=lambda j: (-scores[j], j))[:k] if scores[j] > 0}
        if not sets or best != sets[-1]:
            sets.append(best)
    masks = np.array([[j in s for j in range(8)] for s in sets])
    whole = answer(np.zeros((1, 8), bool))[0]
    assert found["ferret/aopc_comprehensiveness"] == pytest.approx(np.mean(whole - answer(masks)))
    assert found["ferret/aopc_sufficiency"] == pytest.approx(np.mean(whole - answer(~masks)))
    loo = whole - answer(np.eye(8, dtype=bool))
    assert found["ferret/taucorr_loo"] == pytest.approx(kendalltau(loo, scores)[0], nan_ok=True)


def test_negative_words_are_never_taken_and_levels_never_repeat():
    assert level_masks(np.array([0.2, -1.0, 0.0, 0.1])).tolist() == [
        [True, False, False, False],
        [True, False, False, True],
    ]
    assert level_masks(-np.ones(3)).tolist() == [[False] * 3]
    assert level_masks(np.arange(10.0), [2, 3, 50, 60]).sum(1).tolist() == [2, 3, 9]


def test_tau_counts_words_of_every_sign_and_needs_a_ranking():
    without = np.array([0.1, 0.3, 0.5, 0.9])
    assert tau_loo(-np.arange(4.0), 0.6, without) == 1 and tau_loo(np.arange(4.0), 0.6, without) == -1
    assert np.isnan(tau_loo(np.zeros(4), 0.6, without)) and np.isnan(tau_loo(np.ones(1), 0.6, without[:1]))


def test_words_that_do_nothing_are_tied_whatever_the_order_of_adding():
    scores, whole = np.arange(6.0), 0.7
    without = np.array([0.7, 0.7, 0.7, 0.7, 0.5, 0.3])
    noise = np.random.default_rng(0).normal(0, 1e-15, 6)
    assert tau_loo(scores, whole, without + noise) == tau_loo(scores, whole, without)
    assert np.isnan(tau_loo(scores, whole, np.full(6, 0.7) + noise))


@pytest.mark.parametrize("n", [1, 4, 10, 37])
def test_ten_shares_of_the_words_are_what_ferret_takes_by_default_today(n):
    rng, answer = np.random.default_rng(n), lambda masks: 0.9 - 0.5 * (masks @ np.linspace(0, 1, n)) / n
    scores, losses, before = rng.normal(size=n), [], None
    assert decile_levels(n) == sorted({int(p * n) for p in np.arange(0.1, 1.1, 0.1)} - {0})
    for share in np.arange(0.1, 1.1, 0.1):
        k = int(share * n)
        best = {j for j in np.argsort(-scores, kind="stable")[:k] if scores[j] > 0}
        if k and best != before:
            before = best
            losses.append(0.9 - answer(np.array([[j in best for j in range(n)]]))[0])
    found = concluded(ferret_inquiry(scores, levels=[1]), answer)
    assert found["ferret_deciles/aopc_comprehensiveness"] == pytest.approx(np.mean(losses))


# NAOPC


def test_naopc_matches_the_oracle(oracle):
    cases = oracle("naopc")["cases"]
    for case in cases:
        p, n, expected = np.array(case["prob_by_masked_subset_bitmask"]), case["n_words"], case["expected"]
        ours = dict(upper_limit=limit(p, floored=True), lower_limit=limit(p, highest=False))
        for k, v in ours.items():
            assert v == pytest.approx(expected[k], abs=1e-6), case["name"]
        sound = dict(upper_limit=limit(p), lower_limit=ours["lower_limit"])
        for k, v in sound.items():
            assert v == pytest.approx(case["independent_recomputation"][k], abs=1e-6), case["name"]
        answer = lambda masks: p[masks @ 2 ** np.arange(n)]
        for name, method in expected["methods"].items():
            scores = np.array(method["word_attributions"])
            for q, sign in dict(comprehensiveness=1, sufficiency=-1).items():
                published = method["published"][q]
                assert normalised_area(published, expected["lower_limit"], expected["upper_limit"]) == pytest.approx(
                    method["normalized"][q], abs=1e-6
                ), (case["name"], name)
                if method["tied_attributions"]:
                    continue
                value = area(p[0], answer(steps(np.argsort(-scores, kind="stable")[::sign])))
                assert value == pytest.approx(published, abs=5e-6), (
                    case["name"],
                    name,
                )  # theirs was computed in half precision
                whole = concluded(naopc_inquiry(scores), answer)[f"naopc/{q}"]
                assert whole == pytest.approx(
                    normalised_area(value, ours["lower_limit"], ours["upper_limit"]), abs=1e-9
                )


def test_the_beam_finds_what_the_oracles_beam_finds(oracle):
    for case in oracle("naopc")["cases"]:
        p, n, expected = np.array(case["prob_by_masked_subset_bitmask"]), case["n_words"], case["expected"]
        answer = lambda masks: p[masks @ 2 ** np.arange(n)]
        found = [concluded(beam_search(p[0], n, 5, highest), answer) for highest in (True, False)]
        assert found == pytest.approx([expected["beam5_upper"], expected["beam5_lower"]], abs=1e-5), case["name"]


@pytest.mark.parametrize("seed", range(6))
def test_the_limits_are_those_of_all_orders(seed):
    answer, n = random_answer(seed, 5), 5
    p = answer(subsets(n))
    areas = [area(p[0], answer(steps(np.array(o)))) for o in permutations(range(n))]
    assert [limit(p), limit(p, highest=False)] == pytest.approx([max(areas), min(areas)])
    partial = [sum(p[0] - answer(steps(np.array(o)))[:-1]) for o in permutations(range(n))]
    assert limit(p, floored=True) == pytest.approx((max(0, *partial) + p[0] - p[-1]) / n)
    for width, highest in ((120, True), (120, False)):
        assert concluded(beam_search(p[0], n, width, highest), answer) == pytest.approx(
            max(areas) if highest else min(areas)
        )


@pytest.mark.parametrize("seed", range(6))
def test_no_ranking_leaves_its_limits(seed):
    answer, rng = random_answer(seed), np.random.default_rng(seed)
    for _ in range(5):
        found = concluded(naopc_inquiry(rng.normal(size=8)), answer)
        assert all(-1e-12 <= found[f"naopc_unfloored/{q}"] <= 1 + 1e-12 for q in ("comprehensiveness", "sufficiency"))


def test_the_floor_is_only_under_the_authors_limit():
    rising = np.array([0.1, 0.3, 0.2, 0.6])  # whatever is hidden, the code becomes more probable
    found = concluded(naopc_inquiry(np.array([0.0, 1.0])), lambda masks: rising[masks @ [1, 2]])
    assert found["naopc_unfloored/comprehensiveness"] == 1  # there is no better order
    assert found["naopc/comprehensiveness"] == pytest.approx((-0.3 + 0.35) / (-0.25 + 0.35))


def test_naopc_is_0_where_no_order_is_better_and_undefined_for_long_notes():
    flat = lambda masks: np.full(len(masks), 0.4)
    assert set(concluded(naopc_inquiry(np.arange(6.0)), flat).values()) == {0.0}
    assert np.isnan(list(concluded(naopc_inquiry(np.arange(30.0), most=29), flat).values())).all()


# what all have in common


@pytest.mark.parametrize("inquiry", [emc_inquiry, ferret_inquiry, naopc_inquiry, curve_inquiry])
@pytest.mark.parametrize("seed", range(4))
def test_a_ranking_only_matters_through_its_order(inquiry, seed):
    scores, answer = np.random.default_rng(seed).random(8), random_answer(seed)
    first, second = (concluded(inquiry(s), answer) for s in (scores, 3 * scores))
    assert first == pytest.approx(second, nan_ok=True)


@pytest.mark.parametrize("inquiry", [emc_inquiry, ferret_inquiry, naopc_inquiry, curve_inquiry])
def test_a_coder_that_reads_nothing_loses_nothing(inquiry):
    found = concluded(inquiry(np.arange(8.0)), lambda masks: np.full(len(masks), 0.7))
    assert all(v == 0 or np.isnan(v) for v in found.values())


def test_a_decision_turns_when_a_given_code_is_no_longer_given():
    assert decision_flip(0.8, 0.5, 0.5) == 1 and decision_flip(0.8, 0.51, 0.5) == 0
    assert np.isnan(decision_flip(0.5, 0.1, 0.5))
    worth = np.array([0.3, 0.2, 0.1, 0.0])
    answer = lambda masks: 0.3 + ~masks @ worth
    assert concluded(rationale_inquiry(np.array([1, 0, 0, 0], bool), 0.65), answer)["eraser/decision_flip"] == 1
    assert concluded(curve_inquiry(worth, 0.5), answer)["eraser/aopc_decision_flip"] == 1 / 5  # only half of the words
    assert SHARES[-1] == 0.5 and top_masks(worth)[-1].sum() == 2


def test_a_drawn_control_is_a_mean():
    answer = random_answer(0)
    draws = np.random.default_rng(0).random((3, 8))
    each = [concluded(emc_inquiry(s), answer) for s in draws]
    mean = concluded(mean_inquiry(emc_inquiry(s) for s in draws), answer)
    assert mean == pytest.approx({k: np.mean([f[k] for f in each]) for k in mean})
