"Laws of the uncertainty that stands beside every number, and the cases of an independent implementation."

import numpy as np
import pandas as pd
import pytest

from icdrat.bootstrap import mean
from icdrat.evaluation.cards import COUNTS
from icdrat.evaluation.aggregate import (
    MICRO,
    BadPValue,
    BadTable,
    NothingShared,
    UnequalNotes,
    UnknownMethod,
    approximate_randomisation,
    benjamini_hochberg,
    difference,
    effect_size,
    f1,
    p_value,
    precision,
    recall,
    summarise_counts,
    summarise_means,
)
from icdrat.types import BadInput


def long_table(seed, n_notes=12, methods=("a", "b")):
    "Up to four codes a note, a value for each method"
    rng = np.random.default_rng(seed)
    rows = [
        dict(note_id=f"n{i:02}", code=f"C{j}", method=m, metric="toy", value=rng.random())
        for i in range(n_notes)
        for j in range(rng.integers(1, 5))
        for m in methods
    ]
    return pd.DataFrame(rows)


def count_table(seed, n_notes=12, methods=("a", "b")):
    "Hits and totals for each method, hits never above totals"
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n_notes):
        for j in range(rng.integers(1, 4)):
            for m in methods:
                n_pred, n_gold = rng.integers(0, 9, 2)
                hits = rng.integers(0, min(n_pred, n_gold) + 1)
                rows.append((f"n{i:02}", f"C{j}", m, "toy/words", hits, n_pred, hits, n_gold))
    return pd.DataFrame(rows, columns=["note_id", "code", "method", "definition", *COUNTS])


def numbers(row):
    return row[["value", "low", "high"]].to_numpy(float)


def oracle_cases(oracle, kind):
    return [c for c in oracle("ice_stats")["cases"] if kind in c["kind"]]


# the oracle


def test_adjusted_p_values_match_the_oracle(oracle):
    cases = oracle_cases(oracle, "benjamini")
    assert cases
    for case in cases:
        adjusted = benjamini_hochberg(np.array(case["p_values"], float))
        np.testing.assert_allclose(adjusted, case["expected"]["adjusted"], atol=1e-6, err_msg=case["name"])
        np.testing.assert_array_equal(
            adjusted <= case["alpha"] + 1e-12, case["expected"]["rejected"], err_msg=case["name"]
        )


def test_randomisation_p_and_effect_match_the_oracle(oracle):
    cases = oracle_cases(oracle, "random")
    assert cases
    for case in cases:
        null, expected = np.array(case["null_scores"], float), case["expected"]
        assert p_value(case["observed"], null) == pytest.approx(expected["p_value"], abs=1e-6), case["name"]
        assert effect_size(case["observed"], null) == pytest.approx(float(expected["effect_size"]), abs=1e-5), case[
            "name"
        ]


def test_a_higher_level_gives_wider_intervals_in_a_table():
    table = long_table(0)
    narrow, wide = (numbers(summarise_means(table, level=level).loc[0]) for level in (0.5, 0.99))
    assert wide[1] < narrow[1] < narrow[2] < wide[2]


def test_mistakes_of_the_caller_are_named():
    for mistake in (BadTable, BadPValue, UnequalNotes, UnknownMethod, NothingShared):
        assert issubclass(mistake, BadInput)


# the statistics


def test_empty_sides_have_no_ratio_but_a_known_f1():
    nothing_predicted, nothing_gold, nothing = np.array([0.0, 0, 0, 4]), np.array([0.0, 3, 0, 0]), np.zeros(4)
    assert np.isnan(precision(nothing_predicted)) and recall(nothing_predicted) == 0 and f1(nothing_predicted) == 0
    assert precision(nothing_gold) == 0 and np.isnan(recall(nothing_gold)) and f1(nothing_gold) == 0
    assert np.isnan([f(nothing) for f in MICRO.values()]).all()


@pytest.mark.parametrize("seed", range(5))
def test_f1_is_the_harmonic_mean(seed):
    hits_pred, hits_gold = np.random.default_rng(seed).permutation(np.arange(1.0, 9.0))[:2]
    sums = np.array([hits_pred, 10.0, hits_gold, 12.0])
    assert precision(sums) == hits_pred / 10 and recall(sums) == hits_gold / 12
    assert f1(sums) == pytest.approx(2 / (1 / precision(sums) + 1 / recall(sums)))


# p-values


def test_p_is_never_zero_and_counts_ties():
    assert p_value(9.0, np.zeros(99)) == 1 / 100
    assert p_value(0.0, np.zeros(99)) == 1.0
    assert p_value(0.1 + 0.2, np.array([0.3])) == 1.0  # equal up to rounding
    assert p_value(1.0, np.array([np.nan, 0.0])) == 2 / 3  # an undefined swap counts against us


def test_an_effect_is_counted_in_standard_deviations_of_chance():
    chance = np.array([1.0, 3.0])
    assert effect_size(5.0, chance) == 3
    assert (effect_size(1.0, np.zeros(2)), effect_size(0.0, np.zeros(2))) == (np.inf, 0)


@pytest.mark.parametrize("n", [3, 5, 8])
def test_randomisation_finds_the_share_of_extreme_arrangements(n):
    a, b = np.stack([np.arange(n) + 1.0, np.ones(n)], 1), np.stack([np.zeros(n), np.ones(n)], 1)
    assert approximate_randomisation(a, b, mean) == pytest.approx(2 / 2**n, abs=0.012)


def test_randomisation_agrees_with_all_arrangements():
    rng = np.random.default_rng(4)
    a, b = (np.stack([rng.random(7), np.ones(7)], 1) for _ in "ab")
    swaps = (np.arange(2**7)[:, None] >> np.arange(7)) % 2
    apart = np.abs(((1 - 2 * swaps) * (a - b)[:, 0]).mean(1))
    exact = (apart >= apart[0] - 1e-12).mean()
    assert approximate_randomisation(a, b, mean, 20_000) == pytest.approx(exact, abs=0.015)


def test_under_the_null_p_is_small_as_often_as_it_should_be():
    rng = np.random.default_rng(0)
    p = [
        approximate_randomisation(*(np.stack([rng.normal(size=15), np.ones(15)], 1) for _ in "ab"), mean, 200, seed)
        for seed in range(300)
    ]
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.05)


def test_randomisation_refuses_other_notes():
    with pytest.raises((UnequalNotes, TypeError)):  # the second when shapes are checked
        approximate_randomisation(np.ones((3, 2)), np.ones((2, 2)), mean)


@pytest.mark.parametrize("seed", range(10))
def test_adjusting_never_lowers_a_p_and_keeps_the_order(seed):
    p = np.random.default_rng(seed).random(9)
    adjusted = benjamini_hochberg(p)
    assert (adjusted >= p - 1e-12).all() and adjusted.max() <= 1
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()
    assert adjusted.max() == pytest.approx(p.max())
    order = np.random.default_rng(seed).permutation(9)
    np.testing.assert_array_equal(benjamini_hochberg(p[order]), adjusted[order])


def test_a_p_that_is_none_is_refused():
    with pytest.raises(BadPValue, match="1 of 2"):
        benjamini_hochberg(np.array([0.2, np.nan]))
    assert len(benjamini_hochberg(np.zeros(0))) == 0


# tables


@pytest.mark.parametrize("seed", range(5))
def test_the_summary_of_means_is_the_mean_over_pairs(seed):
    table = long_table(seed)
    summary = summarise_means(table).set_index("method")
    for method, rows in table.groupby("method"):
        assert summary.loc[method, "value"] == pytest.approx(rows["value"].mean())
        assert summary.loc[method, "n_pairs"] == len(rows)
        assert summary.loc[method, "n_notes"] == rows["note_id"].nunique()


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_rows_changes_nothing(seed):
    for table, summarise in ((long_table(seed), summarise_means), (count_table(seed), summarise_counts)):
        plain = summarise(table).sort_values(["method", "metric"], ignore_index=True)
        mixed = summarise(table.sample(frac=1, random_state=seed)).sort_values(["method", "metric"], ignore_index=True)
        pd.testing.assert_frame_equal(plain, mixed)


def test_other_methods_and_other_metrics_change_nothing():
    table = long_table(0, methods=("a", "b", "c"))
    table = pd.concat([table, table.assign(metric="other", value=0.0)])
    alone = summarise_means(table[(table["method"] == "b") & (table["metric"] == "toy")])
    among = summarise_means(table).query("method == 'b' and metric == 'toy'")
    np.testing.assert_array_equal(numbers(alone.iloc[0]), numbers(among.iloc[0]))


def test_methods_with_the_same_notes_meet_the_same_resamples():
    table = long_table(2, methods=("a",))
    shifted = pd.concat([table, table.assign(method="b", value=table["value"] + 1)])
    a, b = (numbers(row) for _, row in summarise_means(shifted).iterrows())
    np.testing.assert_allclose(b - a, 1)


def test_an_undefined_pair_is_left_out_and_not_a_zero():
    table = long_table(1, methods=("a",))
    extra = pd.DataFrame([dict(note_id="x", code="C", method="a", metric="toy", value=np.nan)])
    pd.testing.assert_frame_equal(summarise_means(table), summarise_means(pd.concat([table, extra])))
    nothing = summarise_means(extra)
    assert np.isnan(numbers(nothing.loc[0])).all() and nothing.loc[0, "n_pairs"] == 0


@pytest.mark.parametrize("seed", range(5))
def test_counts_are_added_up_before_they_are_divided(seed):
    table = count_table(seed)
    summary = summarise_counts(table).set_index(["method", "metric"])["value"]
    for method, rows in table.groupby("method"):
        hits_pred, n_pred, hits_gold, n_gold = rows[list(COUNTS)].sum()
        assert summary[method, "toy/words_precision"] == pytest.approx(hits_pred / n_pred)
        assert summary[method, "toy/words_recall"] == pytest.approx(hits_gold / n_gold)
        assert summary[method, "toy/words_f1"] == pytest.approx(2 * hits_pred / (n_pred + n_gold))


def test_a_pair_that_nobody_marked_is_not_counted():
    table = count_table(0)
    nobody = pd.DataFrame(
        [(i, "none", m, "toy/words", 0, 0, 0, 0) for i in ("n00", "x") for m in "ab"], columns=table.columns
    )
    pd.testing.assert_frame_equal(summarise_counts(table), summarise_counts(pd.concat([table, nobody])))
    assert difference(pd.concat([table, nobody]), "a", "b", "toy/words_f1", n_swaps=10).loc[0, "n_notes"] == 12
    assert summarise_counts(nobody)["n_pairs"].eq(0).all() and summarise_counts(nobody)["value"].isna().all()


@pytest.mark.parametrize("seed", range(5))
def test_an_interval_of_counts_stays_inside_its_bounds(seed):
    summary = summarise_counts(count_table(seed))
    assert (summary["low"] <= summary["value"]).all() and (summary["value"] <= summary["high"]).all()
    assert summary["low"].min() >= 0 and summary["high"].max() <= 1


def test_a_doubled_row_and_a_missing_column_are_refused():
    table = long_table(0)
    with pytest.raises(BadTable, match="n00, C0, a, toy"):
        summarise_means(pd.concat([table, table[:1]]))
    with pytest.raises(BadTable, match="no column value"):
        summarise_means(table.drop(columns="value"))
    with pytest.raises(BadTable, match="no column definition"):
        summarise_counts(count_table(0).drop(columns="definition"))
    with pytest.raises(BadTable, match="no rows"):
        summarise_means(table[:0])


# differences


@pytest.mark.parametrize("table, metric", [(long_table(3), "toy"), (count_table(3), "toy/words_f1")])
def test_a_method_does_not_differ_from_itself(table, metric):
    row = difference(table, "a", "a", metric, n_swaps=100).loc[0]
    np.testing.assert_array_equal(numbers(row), 0)
    assert row["p"] == 1


@pytest.mark.parametrize("table, metric", [(long_table(3), "toy"), (count_table(3), "toy/words_recall")])
def test_turning_a_difference_round_changes_only_its_sign(table, metric):
    ab, ba = (difference(table, *pair, metric, n_swaps=500).loc[0] for pair in ("ab", "ba"))
    np.testing.assert_allclose(numbers(ab), -numbers(ba)[[0, 2, 1]], atol=1e-12)
    assert ab["p"] == pytest.approx(ba["p"])


@pytest.mark.parametrize(
    "table, summarise, metric",
    [(long_table(5), summarise_means, "toy"), (count_table(5), summarise_counts, "toy/words_precision")],
)
def test_on_the_same_pairs_the_difference_is_that_of_the_summaries(table, summarise, metric):
    value = summarise(table).query("metric == @metric").set_index("method")["value"]
    row = difference(table, "a", "b", metric, n_swaps=100).loc[0]
    assert row["value"] == pytest.approx(value["a"] - value["b"])
    assert row["n_notes"] == 12


def test_a_constant_gain_is_certain_even_on_hard_notes():
    table = long_table(6, methods=("b",))
    gain = pd.concat([table, table.assign(method="a", value=table["value"] + 0.1)])
    row = difference(gain, "a", "b", "toy").loc[0]
    np.testing.assert_allclose(numbers(row), 0.1)
    assert row["p"] < 0.01


def test_means_are_compared_on_the_pairs_that_both_have():
    table = long_table(7)
    lonely = pd.DataFrame(
        [
            dict(note_id="n00", code="only a", method="a", metric="toy", value=99.0),
            dict(note_id="x", code="C", method="b", metric="toy", value=-99.0),
        ]
    )
    plain, mixed = (difference(t, "a", "b", "toy", n_swaps=100) for t in (table, pd.concat([table, lonely])))
    pd.testing.assert_frame_equal(plain, mixed)


def test_counts_are_compared_on_the_notes_that_both_have():
    table = count_table(8)
    missed = pd.DataFrame(
        [("n00", "only a", "a", "toy/words", 0, 0, 0, 50), ("x", "C", "b", "toy/words", 9, 9, 9, 9)],
        columns=table.columns,
    )
    plain, mixed = (
        difference(t, "a", "b", "toy/words_recall", n_swaps=100).loc[0] for t in (table, pd.concat([table, missed]))
    )
    assert mixed["value"] < plain["value"] and mixed["n_notes"] == plain["n_notes"]


def test_what_cannot_be_compared_is_named():
    table = long_table(0)
    with pytest.raises(UnknownMethod, match="there are a, b and toy"):
        difference(table, "a", "c", "toy")
    with pytest.raises(UnknownMethod, match="toy/words_precision"):
        difference(count_table(0), "a", "b", "toy/words")
    with pytest.raises(NothingShared):
        difference(table[(table["method"] == "a") ^ (table["note_id"] < "n06")], "a", "b", "toy")
