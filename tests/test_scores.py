"Laws that every score of a coder obeys, and the numbers that two other projects' code gives."

import numpy as np
import pytest
from sklearn.metrics import f1_score, label_ranking_average_precision_score, roc_auc_score

from icdrat.bootstrap import BadLevel, bootstrap_weights
from icdrat.coder.scores import (
    BadThreshold,
    NoNoteWithCodes,
    NotProbabilities,
    UnequalTables,
    auc_draws,
    auc_scores,
    code_counts,
    code_scores,
    edin_scores,
    in_rank_order,
    list_scores,
    micro_curve,
    mullenbach_scores,
    predictions,
    prf_of_counts,
    score_draws,
    score_intervals,
    tune_threshold,
    tune_thresholds,
)
from icdrat.data.exchange import Notice
from icdrat.types import BadInput

MULLENBACH = dict(acc="accuracy", prec="precision", rec="recall")


def tables(seed, notes=30, codes=12):
    rng = np.random.default_rng(seed)
    truth = rng.random((notes, codes)) < 0.2
    truth[np.arange(notes), rng.integers(codes, size=notes)] = True  # every note has a code
    return np.clip(0.5 * truth + 0.7 * rng.random((notes, codes)), 0, 1), truth


def our_name(definition, name):
    "The name that a peer's number has here"
    if definition != "mullenbach":
        return name.replace("precision@recall", "r_precision")
    if "_at_" in name:
        stem, k = name.split("_at_")
        return f"{MULLENBACH.get(stem, stem)}@{k}"
    stem, _, average = name.partition("_")
    return f"{MULLENBACH.get(stem, stem)}_{average}"


def test_the_scores_are_those_of_both_peers(oracle):
    n_compared = 0
    for case in oracle("coding_metrics")["cases"]:
        if case["name"].startswith("ties"):
            continue  # the order of one library version
        p, truth = np.array(case["probabilities"]), np.array(case["targets"], bool)
        wanted = dict(edin="edin_only_codes_in_split", edin_all_codes="edin_all_codes", mullenbach="mullenbach")
        ours = code_scores(p, truth, case["threshold"], tuple(case["ks"]), tuple(wanted))
        for definition, key in wanted.items():
            if "error" in (expected := case["expected"][key]):
                continue
            for name, value in expected.items():
                got = ours[f"{definition}/{our_name(definition, name)}"]
                assert got == pytest.approx(float(value), abs=1e-6, nan_ok=True), (case["name"], definition, name)
                n_compared += 1
    assert n_compared > 300


def test_the_threshold_is_that_of_the_peer(oracle):
    for case in oracle("coding_metrics")["cases"]:
        p, truth = np.array(case["probabilities"]), np.array(case["targets"], bool)
        f1, threshold = case["expected"]["tuned_single_threshold__best_f1_and_boundary"]["micro"]
        assert tune_threshold(p, truth) == pytest.approx(threshold, abs=1e-6)
        assert micro_curve(p, truth)[1].max() == pytest.approx(f1, abs=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(2))
def test_the_curve_is_the_f1_at_each_threshold(seed, dtype):
    p, truth = tables(seed)
    p = np.round(p * 99).astype(dtype) / dtype(99)  # probabilities that stand on the grid itself
    thresholds, f1 = micro_curve(p, truth)
    slow = [f1_score(truth.ravel(), (p > float(t)).ravel(), zero_division=0) for t in thresholds]
    np.testing.assert_allclose(f1, slow)
    assert tune_threshold(p, truth) == thresholds[int(np.argmax(slow))]


def test_the_first_of_equally_good_thresholds_is_taken():
    assert tune_threshold(np.array([[0.2, 0.9]]), np.array([[False, True]])) == pytest.approx(20 / 99)


@pytest.mark.parametrize("seed", range(10))
def test_a_perfect_coder_has_one_everywhere(seed):
    _, truth = tables(seed)
    scores = code_scores(truth * 0.8 + 0.1, truth, 0.5, ks=(1,), definitions=("edin", "edin_all_codes", "mullenbach"))
    for name, value in scores.items():
        if "recall@" in name or "f1@" in name or not name.count("/"):
            continue
        assert value == pytest.approx(0 if "fpr" in name else 1), name


@pytest.mark.parametrize("seed", range(10))
def test_the_order_of_notes_and_codes_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    p, truth = tables(seed)
    rows, columns = rng.permutation(len(p)), rng.permutation(p.shape[1])
    whole = code_scores(p, truth, 0.5)
    assert code_scores(p[rows][:, columns], truth[rows][:, columns], 0.5) == pytest.approx(whole)


@pytest.mark.parametrize("seed", range(10))
def test_a_code_that_never_occurs_changes_mullenbach_only(seed):
    p, truth = tables(seed)
    wider = np.c_[p, np.full(len(p), 0.9)], np.c_[truth, np.zeros(len(p), bool)]
    a, b = edin_scores(p, truth, 0.5), edin_scores(*wider, 0.5)
    for name in a:
        if not name.startswith("auc"):
            assert a[name] == b[name]
    assert mullenbach_scores(*wider, 0.5)["f1_macro"] < mullenbach_scores(p, truth, 0.5)["f1_macro"]


def test_a_note_without_codes_is_counted_and_left_out():
    p, truth = tables(0)
    more = np.r_[p, np.full((2, p.shape[1]), 0.9)], np.r_[truth, np.zeros((2, p.shape[1]), bool)]
    scores, before = code_scores(*more, 0.5), code_scores(p, truth, 0.5)
    assert (scores["notes"], scores["notes_without_codes"]) == (32, 2)
    assert scores["edin/f1_micro"] == before["edin/f1_micro"]
    assert scores["mullenbach/f1_micro"] < before["mullenbach/f1_micro"]


@pytest.mark.parametrize("seed", range(5))
def test_sums_of_counts_give_the_micro_scores(seed):
    p, truth = tables(seed)
    micro = prf_of_counts(code_counts(p, truth, 0.6).sum(0))
    ours = mullenbach_scores(p, truth, 0.6)
    assert micro == pytest.approx([ours["precision_micro"], ours["recall_micro"], ours["f1_micro"]])
    assert micro[2] == pytest.approx(f1_score(truth, p > 0.6, average="micro"))
    assert edin_scores(p, truth, 0.6, only_present=False)["f1_macro"] == pytest.approx(
        f1_score(truth, p > 0.6, average="macro", zero_division=0)
    )


@pytest.mark.parametrize("seed", range(5))
def test_map_is_label_ranking_average_precision(seed):
    p, truth = tables(seed)
    assert list_scores(in_rank_order(p, truth))[0] == pytest.approx(label_ranking_average_precision_score(truth, p))


def test_equal_probabilities_keep_the_order_of_the_codes():
    assert in_rank_order(np.full((1, 4), 0.5), np.array([[0, 1, 0, 1]], bool)).tolist() == [[False, True, False, True]]


def test_a_probability_on_the_threshold_is_not_a_prediction():
    assert code_counts(np.array([[0.5, 0.50001]]), np.ones((1, 2), bool), 0.5).tolist() == [[1, 0, 1]]


def test_an_area_that_does_not_exist_is_not_a_zero():
    assert np.isnan(list(auc_scores(np.array([[0.1, 0.2]]), np.array([[True, True]])).values())).all()


def test_a_code_that_every_note_has_is_left_out_of_the_macro_area():
    p, truth = np.array([[0.9, 0.9], [0.8, 0.1]]), np.array([[True, True], [True, False]])
    assert auc_scores(p, truth)["auc_macro"] == 1


def test_a_list_longer_than_the_codes_is_as_long_as_the_codes_or_no_list():
    p, truth = tables(0, codes=4)
    assert mullenbach_scores(p, truth, 0.5, ks=(9,))["precision@9"] == pytest.approx(truth.mean())
    assert "precision@9" not in edin_scores(p, truth, 0.5, ks=(9,))


def test_what_cannot_be_scored_is_refused():
    p, truth = tables(0)
    with pytest.raises(
        (UnequalTables, TypeError), match="30, ?11"
    ):  # a TypeError where shapes are checked on every call
        code_scores(p, truth[:, :11], 0.5)
    with pytest.raises(NotProbabilities):
        code_scores(np.where(truth, np.nan, p), truth, 0.5)
    with pytest.raises(NoNoteWithCodes, match="none of 30"):
        code_scores(p, np.zeros_like(truth), 0.5, definitions=("edin", "edin_all_codes"))


def test_a_definition_without_a_value_is_said_and_does_not_take_the_others_with_it():
    p, truth = tables(0)
    bare = np.zeros_like(truth)
    with pytest.warns(Notice, match="edin has no value.*none of 30"):
        found = code_scores(p, bare, 0.5)
    assert found.keys() == code_scores(p, truth, 0.5).keys()
    undefined = [v for q, v in found.items() if q.startswith("edin/")]
    assert undefined and np.isnan(undefined).all()
    alone = mullenbach_scores(p, bare, 0.5)
    assert found["mullenbach/f1_micro"] == pytest.approx(alone["f1_micro"], nan_ok=True)
    with pytest.warns(Notice):
        table = score_intervals(p, bare, 0.5, n_draws=20).set_index("metric")
    assert table.loc["edin/f1_micro"].isna()[["value", "low", "high"]].all()
    assert table.loc["mullenbach/accuracy_micro", "value"] == 0


# one threshold, or one for each code


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_threshold_for_every_code_is_one_threshold(dtype):
    p, truth = tables(0)
    p = np.round(p, 1).astype(dtype)  # many probabilities stand on the threshold itself
    for threshold in (0.3, 0.7):
        assert (predictions(p, np.full(12, threshold)) == predictions(p, threshold)).all()
        assert code_scores(p, truth, np.full(12, threshold)) == code_scores(p, truth, threshold)


def test_a_threshold_is_compared_in_the_precision_of_the_probabilities():
    on_it = np.array([[0.3, 0.7]], np.float32)  # as float64 the first is a hair above 0.3
    assert not predictions(on_it, 0.3)[0, 0] and not predictions(on_it, np.array([0.3, 0.7])).any()


@pytest.mark.parametrize("seed", range(5))
def test_each_code_gets_its_own_best_threshold(seed):
    p, truth = tables(seed, notes=40)
    grid = np.linspace(0, 1, 100)
    for j, found in enumerate(tune_thresholds(p, truth, min_notes=1)):
        slow = [2 * (truth[:, j] & (p[:, j] > t)).sum() / ((p[:, j] > t).sum() + truth[:, j].sum()) for t in grid]
        assert truth[:, j].any() and found == grid[int(np.argmax(slow))]


@pytest.mark.parametrize("seed", range(5))
def test_thresholds_per_code_are_never_worse_on_their_own_notes(seed):
    p, truth = tables(seed)
    macro = [
        edin_scores(p, truth, t)["f1_macro"]
        for t in (tune_threshold(p, truth), tune_thresholds(p, truth, 5), tune_thresholds(p, truth, 1))
    ]
    assert macro == sorted(macro)


def test_a_code_with_few_notes_keeps_the_common_threshold():
    p, truth = tables(0)
    few = truth.sum(0) < 6
    found = tune_thresholds(p, truth, min_notes=6)
    assert few.any() and not few.all()
    assert (found[few] == tune_threshold(p, truth)).all() and (found[~few] == tune_thresholds(p, truth, 1)[~few]).all()


def test_thresholds_that_do_not_fit_are_refused():
    p, truth = tables(0)
    with pytest.raises((BadThreshold, TypeError), match="12"):
        code_scores(p, truth, np.full(11, 0.5))


# intervals

ALL = ("edin", "mullenbach", "edin_all_codes")


def rough(seed, notes=40, codes=9):
    "Tables with ties, a code in no note, a code in every note, and notes without a code"
    rng = np.random.default_rng(seed)
    truth = rng.random((notes, codes)) < 0.15
    truth[:, 0], truth[:6], truth[6:, 1] = False, False, True
    return np.round(np.clip(0.4 * truth + 0.7 * rng.random((notes, codes)), 0, 1), 1), truth


@pytest.mark.parametrize("seed", range(5))
def test_the_value_is_the_plain_score(seed):
    p, truth = rough(seed)
    table = score_intervals(p, truth, 0.5, definitions=ALL, n_draws=20)
    plain = code_scores(p, truth, 0.5, definitions=ALL)
    assert dict(zip(table.metric, table.value)) == {k: v for k, v in plain.items() if "/" in k}
    once = score_draws(p, truth, 0.5, np.ones((1, len(p))), definitions=ALL)
    assert {k: v[0] for k, v in once.items()} == pytest.approx({k: plain[k] for k in once}, abs=1e-12)


@pytest.mark.parametrize("threshold", [0.5, np.linspace(0.2, 0.8, 9)])
@pytest.mark.parametrize("seed", range(4))
def test_every_draw_is_the_score_of_the_drawn_notes(seed, threshold):
    p, truth = rough(seed)
    weights = bootstrap_weights(len(p), 6, seed)
    draws = score_draws(p, truth, threshold, weights, definitions=ALL)
    present = truth.any(0)
    of_present = threshold if np.isscalar(threshold) else threshold[present]
    for i, w in enumerate(weights):
        drawn = np.repeat(np.arange(len(p)), w)
        slow = code_scores(p[drawn], truth[drawn], threshold, definitions=ALL)
        # the codes that edin lists are those of the split; its macro averages run over those of the draw
        listed = code_scores(
            p[drawn][:, present], truth[drawn][:, present], of_present, definitions=("edin_all_codes",)
        )
        slow |= {
            k.replace("edin_all_codes", "edin"): v
            for k, v in listed.items()
            if k.startswith("edin_all_codes") and "macro" not in k and "auc" not in k
        }
        for name, values in draws.items():
            assert values[i] == pytest.approx(slow[name], abs=1e-9, nan_ok=True), name


@pytest.mark.parametrize("seed", range(5))
def test_areas_in_draws_are_those_of_scikit_learn(seed):
    p, truth = rough(seed)
    weights = bootstrap_weights(len(p), 8, seed)
    found = auc_draws(p, truth, weights.astype(float))
    for i, w in enumerate(weights):
        y, q = np.repeat(truth, w, 0), np.repeat(p, w, 0)
        assert found["auc_micro"][i] == pytest.approx(roc_auc_score(y.ravel(), q.ravel()))
        per_code = [roc_auc_score(y[:, j], q[:, j]) for j in range(y.shape[1]) if 0 < y[:, j].sum() < len(y)]
        assert found["auc_macro"][i] == pytest.approx(np.mean(per_code))


def test_a_draw_without_codes_has_no_score():
    p, truth = np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([[True, False], [False, False]])
    draws = score_draws(p, truth, 0.5, np.array([[1, 1], [0, 2]]), definitions=("edin",), ks=(1,))
    assert draws["edin/f1_micro"][0] == 1 and draws["edin/map"][0] == 1
    assert all(np.isnan(v[1]) for v in draws.values())


def test_notes_that_all_say_the_same_leave_no_doubt():
    p, truth = (np.repeat(x, 30, 0) for x in ([[0.9, 0.8, 0.1]], [[True, False, False]]))
    table = score_intervals(p, truth, 0.5, ks=(1,)).set_index("metric").drop(["edin/auc_macro", "mullenbach/auc_macro"])
    np.testing.assert_allclose(table.low, table.value, atol=1e-12)
    np.testing.assert_allclose(table.high, table.value, atol=1e-12)


def test_an_interval_holds_its_value_and_names_its_notes():
    p, truth = tables(0, notes=200)
    truth[:20] = False
    table = score_intervals(p, truth, 0.5).set_index("metric").dropna()
    assert (table.low <= table.value + 1e-12).all() and (table.value <= table.high + 1e-12).all()
    assert (
        table.n_notes["edin/f1_micro"] == 180
        and table.n_notes["edin/auc_micro"] == table.n_notes["mullenbach/f1_micro"] == 200
    )


def test_seed_level_and_draws_reach_the_bootstrap():
    p, truth = tables(0)
    make = lambda **k: score_intervals(
        p, truth, 0.5, definitions=("edin",), n_draws=k.pop("n_draws", 300), **k
    ).set_index("metric")
    assert make().equals(make()) and not make().equals(make(seed=1))
    wide, narrow = make(level=0.99), make(level=0.5)
    assert ((wide.high - wide.low) >= (narrow.high - narrow.low)).all()
    assert list(make(areas=False).index) == [m for m in make().index if "auc" not in m]
    with pytest.raises(BadLevel, match="95 percent"):
        make(level=95.0)


def test_what_has_no_interval_is_refused():
    p, truth = tables(0)
    with pytest.raises(NoNoteWithCodes):
        score_intervals(p, np.zeros_like(truth), 0.5, definitions=("edin",))
    with pytest.raises(BadInput, match="edin_all_codes"):
        score_intervals(p, truth, 0.5, definitions=("scikit",))
