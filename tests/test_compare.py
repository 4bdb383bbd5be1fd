"Groups of codes make up the whole, and a paired difference is the difference of draws."

import numpy as np
import pandas as pd
import pytest

from icdrat.bootstrap import bootstrap_weights
from icdrat.coder.compare import (
    BANDS,
    BadBands,
    UnequalGroups,
    bands,
    chapters,
    group_intervals,
    imbalance,
    score_differences,
)
from icdrat.coder.scores import (
    NoNoteWithCodes,
    auc_scores,
    code_counts,
    code_scores,
    prf_of_counts,
    score_draws,
    score_intervals,
)
from icdrat.types import BadInput, Code

COLUMNS = ["value", "low", "high"]
ALL = ("edin", "mullenbach", "edin_all_codes")


def tables(seed, notes=60, codes=12):
    "The first code is in no note, the first five notes have no code"
    rng = np.random.default_rng(seed)
    truth = rng.random((notes, codes)) < np.linspace(0.02, 0.4, codes)
    truth[:, 0], truth[:5] = False, False
    return np.clip(0.5 * truth + 0.7 * rng.random((notes, codes)), 0, 1), truth


GROUPS = ["a"] * 4 + ["b"] * 5 + ["c"] * 3


# groups


@pytest.mark.parametrize("seed", range(5))
def test_one_group_of_all_codes_is_the_whole(seed):
    p, truth = tables(seed)
    part = group_intervals(p, truth, 0.5, ["all"] * 12, ALL, 200).set_index("metric")
    whole = score_intervals(p, truth, 0.5, definitions=ALL, n_draws=200).set_index("metric").loc[part.index]
    np.testing.assert_allclose(part[COLUMNS], whole[COLUMNS], atol=1e-12)
    assert (part.n_notes == whole.n_notes).all()


@pytest.mark.parametrize("seed", range(5))
def test_groups_make_up_the_macro_score(seed):
    p, truth = tables(seed)
    table = group_intervals(p, truth, 0.5, GROUPS, ALL, 20, areas=False).set_index(["metric", "group"])
    whole = code_scores(p, truth, 0.5, definitions=ALL)
    n_codes, n_present = pd.Series(GROUPS).value_counts(), pd.Series(truth.any(0)).groupby(GROUPS).sum()
    for definition, n in dict(edin=n_present, edin_all_codes=n_codes).items():
        for q in ("precision", "recall", "f1"):
            values = table.value[f"{definition}/{q}_macro"]
            assert (values * n[values.index]).sum() / n.sum() == pytest.approx(whole[f"{definition}/{q}_macro"])


@pytest.mark.parametrize("seed", range(5))
def test_a_group_is_scored_on_all_notes_that_have_any_code(seed):
    p, truth = tables(seed)
    table = group_intervals(p, truth, 0.4, GROUPS, n_draws=20, areas=False).set_index(["metric", "group"])
    coded, part = truth.any(1), np.array(GROUPS) == "b"
    by_hand = prf_of_counts(code_counts(p[coded][:, part], truth[coded][:, part], 0.4).sum(0))
    for q, value in zip(("precision", "recall", "f1"), by_hand):
        assert table.value[f"edin/{q}_micro", "b"] == pytest.approx(value)
    mullenbach = code_scores(p[:, part], truth[:, part], 0.4, definitions=("mullenbach",))
    assert table.value["mullenbach/f1_macro", "b"] == pytest.approx(mullenbach["mullenbach/f1_macro"])
    assert (table.n_pairs.xs("b", level="group") == truth[:, part].sum()).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_interval_of_a_group_is_that_of_drawn_notes(seed):
    p, truth = tables(seed)
    part, coded = np.array(GROUPS) == "a", truth.any(1)
    found = group_intervals(p, truth, 0.5, GROUPS, n_draws=15, seed=seed).set_index(["metric", "group"])
    f1, area = [], []
    for w in bootstrap_weights(len(p), 15, seed):
        drawn = np.repeat(np.arange(len(p)), w)
        area.append(auc_scores(p[drawn][:, part], truth[drawn][:, part])["auc_macro"])
        drawn = drawn[coded[drawn]]
        q, t = p[drawn][:, part], truth[drawn][:, part]
        per_code = prf_of_counts(
            np.stack([((q > 0.5) & t).sum(0), ((q > 0.5) & ~t).sum(0), ((q <= 0.5) & t).sum(0)], -1)
        )[:, 2]
        f1.append(per_code[t.any(0)].mean() if t.any() else np.nan)
    for metric, values in {"edin/f1_macro": f1, "edin/auc_macro": area}.items():
        np.testing.assert_allclose(
            found.loc[(metric, "a"), ["low", "high"]].astype(float), np.nanpercentile(values, [2.5, 97.5])
        )


def test_a_group_without_gold_has_no_score_and_does_no_harm():
    p, truth = tables(0)
    table = group_intervals(p, truth, 0.5, ["none"] + ["rest"] * 11, n_draws=20).set_index(["group", "metric"])
    assert table.loc["none"].loc[["edin/f1_micro", "edin/f1_macro", "edin/auc_macro"], COLUMNS].isna().all(axis=None)
    assert table.value["rest", "edin/f1_macro"] == pytest.approx(code_scores(p, truth, 0.5)["edin/f1_macro"])


def test_thresholds_per_code_follow_their_codes():
    p, truth = tables(0)
    thresholds = np.linspace(0.2, 0.8, 12)
    part = np.array(GROUPS) == "c"
    table = group_intervals(p, truth, thresholds, GROUPS, n_draws=5, areas=False).set_index(["metric", "group"])
    by_hand = code_scores(p[:, part], truth[:, part], thresholds[part], definitions=("mullenbach",))
    assert table.value["mullenbach/f1_micro", "c"] == pytest.approx(by_hand["mullenbach/f1_micro"])


def test_groups_that_do_not_fit_are_refused():
    p, truth = tables(0)
    with pytest.raises(UnequalGroups, match="3 groups for 12 codes"):
        group_intervals(p, truth, 0.5, ["a"] * 3)
    with pytest.raises(BadInput, match="no definition 'scikit'"):
        group_intervals(p, truth, 0.5, GROUPS, ("scikit",))


# what the groups are


def test_a_band_ends_with_its_last_number():
    n = np.array([0, 1, 10, 11, 50, 51, 100, 101, 500, 501, 9999])
    assert list(bands(n)) == ["0"] + ["1-10"] * 2 + ["11-50"] * 2 + ["51-100"] * 2 + ["101-500"] * 2 + [">500"] * 2
    assert bands(n).ordered and len(bands(n).categories) == len(BANDS) + 2


@pytest.mark.parametrize("ends", [(), (5, 5), (10, 5), (0, 5), (-1,)])
def test_borders_that_do_not_increase_are_refused(ends):
    with pytest.raises(BadBands):
        bands(np.array([1]), ends)


def test_chapters_come_in_their_order_and_other_systems_after_them():
    codes = [
        Code("icd9cm", "401.9"),
        Code("icd10cm", "Z79"),
        Code("icd10cm", "E11.9"),
        Code("icd10cm", "A41.9"),
        Code("icd10cm", "I10"),
    ]
    assert list(chapters(codes)) == ["icd9cm", "21", "4", "1", "9"]
    assert list(chapters(codes).categories) == ["1", "4", "9", "21", "icd9cm"]


# imbalance


@pytest.mark.parametrize("m", [1, 2, 7])
def test_equal_codes_are_not_imbalanced(m):
    found = imbalance(np.ones((30, m), bool))
    assert found["gini"] == pytest.approx(0) and found["ratio"] == 1 and found["codes_per_note"] == m
    assert found["entropy"] == pytest.approx(1 if m > 1 else 0)


def test_one_code_with_everything_is_as_unequal_as_can_be():
    truth = np.zeros((30, 5), bool)
    truth[:, 2] = True
    found = imbalance(truth)
    assert found["gini"] == pytest.approx(4 / 5) and found["entropy"] == 0 and found["codes_without_notes"] == 4


@pytest.mark.parametrize("seed", range(5))
def test_gini_is_the_mean_difference_of_all_pairs_of_codes(seed):
    _, truth = tables(seed)
    n = truth.sum(0).astype(float)
    slow = np.abs(n[:, None] - n).mean() / (2 * n.mean())
    found = imbalance(truth, few=8)
    assert found["gini"] == pytest.approx(slow)
    assert found["share_of_rare_codes"] == np.mean(n < 8)
    assert (found["commonest"], found["rarest"]) == (n.max(), n[n > 0].min())
    order = np.random.default_rng(seed).permutation(12)
    assert imbalance(truth[:, order], few=8) == pytest.approx(found)


def test_no_code_no_imbalance():
    with pytest.raises(NoNoteWithCodes):
        imbalance(np.zeros((3, 2), bool))


# two coders


@pytest.mark.parametrize("seed", range(5))
def test_a_difference_is_the_difference_in_every_draw(seed):
    (p, truth), (other, _) = tables(seed), tables(seed + 100)
    found = score_differences(p, other, truth, 0.5, 0.6, n_draws=100, seed=seed).set_index("metric")
    a, b = code_scores(p, truth, 0.5), code_scores(other, truth, 0.6)
    weights = bootstrap_weights(len(p), 100, seed)
    da, db = score_draws(p, truth, 0.5, weights), score_draws(other, truth, 0.6, weights)
    for metric, row in found.iterrows():
        assert row.value == pytest.approx(a[metric] - b[metric])
        np.testing.assert_allclose([row.low, row.high], np.percentile(da[metric] - db[metric], [2.5, 97.5]), atol=1e-12)


def test_a_coder_never_differs_from_itself():
    p, truth = tables(0)
    same = score_differences(p, p, truth, 0.5, 0.5, n_draws=50)
    assert (same[COLUMNS] == 0).all(axis=None)


def test_turned_around_the_sign_turns():
    (p, truth), (other, _) = tables(1), tables(101)
    there, back = (
        score_differences(*x, n_draws=100)[COLUMNS].to_numpy()
        for x in ((p, other, truth, 0.5, 0.6), (other, p, truth, 0.6, 0.5))
    )
    np.testing.assert_allclose(there, -back[:, [0, 2, 1]], atol=1e-12)


def test_pairing_narrows_the_interval_of_coders_that_err_alike():
    p, truth = tables(0, notes=150)
    close = np.clip(p + 0.05 * np.random.default_rng(0).normal(size=p.shape), 0, 1)
    paired = (
        score_differences(p, close, truth, 0.5, 0.5, definitions=("edin",)).set_index("metric").loc["edin/f1_micro"]
    )
    alone = score_intervals(p, truth, 0.5, definitions=("edin",)).set_index("metric").loc["edin/f1_micro"]
    assert paired.high - paired.low < alone.high - alone.low
