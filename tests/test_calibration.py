"Calibration: counted the slow way, known miscalibration, and what temperature can and cannot do."

import matplotlib
import numpy as np
import pytest
from scipy.special import expit

from icdrat.bootstrap import bootstrap_weights
from icdrat.coder.calibration import (
    BINS,
    NoTemperature,
    UnknownBins,
    bin_edges,
    calibration_draws,
    calibration_intervals,
    calibration_scores,
    draw_reliability,
    ece_draws,
    in_bins,
    log_odds,
    reliability,
    temperature,
    wilson,
    with_temperature,
)
from icdrat.coder.scores import NotProbabilities, UnequalTables, auc_scores
from icdrat.types import Code, Score, card


def toy(seed, notes=50, codes=8, loud=1.0):
    "What a coder says, and truth drawn from the probability it should have said"
    rng = np.random.default_rng(seed)
    z = rng.uniform(-4, 1, codes) + 1.5 * rng.normal(size=(notes, codes))
    return expit(loud * z), rng.random((notes, codes)) < expit(z)


def slow_ece(p, y, edges):
    "The definition, bin by bin and pair by pair"
    total = 0.0
    for low, high in zip(edges, edges[1:]):
        here = (p > low) & (p <= high) | ((p == 0) & (low == 0))
        if here.any():
            total += here.sum() * abs(p[here].mean() - y[here].mean())
    return total / p.size


# bins


@pytest.mark.parametrize("seed", range(5))
def test_equal_mass_bins_hold_equally_many_up_to_one(seed):
    p, _ = toy(seed, notes=37)
    n = np.bincount(in_bins(p, bin_edges(p, 15, "equal_mass")).ravel(), minlength=15)
    assert len(n) == 15 and n.max() - n.min() <= 1


def test_equal_probabilities_are_never_parted():
    p = np.round(toy(0)[0], 1)
    for bins in BINS:
        place = in_bins(p, bin_edges(p, 7, bins))
        assert all(len(np.unique(place[p == v])) == 1 for v in np.unique(p))
        assert (np.diff(place.ravel()[np.argsort(p, axis=None)]) >= 0).all()


@pytest.mark.parametrize("bins", BINS)
def test_zero_and_one_have_a_bin(bins):
    p = np.array([[0.0, 0.0, 1.0, 1.0, 0.5]])
    edges = bin_edges(p, 4, bins)
    place = in_bins(p, edges)
    assert edges[0] == 0 and edges[-1] == 1 and (np.diff(edges[1:]) > 0).all()
    assert place.min() >= 0 and place.max() <= len(edges) - 2


def test_unknown_bins_are_refused():
    for mistake in (dict(bins="quantile"), dict(n_bins=0)):
        with pytest.raises(UnknownBins, match="equal_width or equal_mass"):
            bin_edges(np.array([0.5]), **mistake)


# the errors


@pytest.mark.parametrize("bins", BINS)
@pytest.mark.parametrize("seed", range(5))
def test_ece_is_what_its_definition_says(seed, bins):
    p, y = toy(seed, loud=2)
    found = {k: v[0] for k, v in ece_draws(p, y, np.ones((1, len(p))), 6, bins).items()}
    own = np.array([slow_ece(p[:, [j]], y[:, [j]], bin_edges(p[:, j], 6, bins)) for j in range(p.shape[1])])
    assert found["pooled"] == pytest.approx(slow_ece(p, y, bin_edges(p, 6, bins)))
    assert found["macro"] == pytest.approx(own.mean())
    assert found["weighted"] == pytest.approx((own * y.sum(0)).sum() / y.sum())


@pytest.mark.parametrize("seed", range(3))
def test_every_draw_is_that_of_the_drawn_notes(seed):
    p, y = toy(seed)
    weights = bootstrap_weights(len(p), 5, seed)
    draws = calibration_draws(p, y, weights, 6)
    for i, w in enumerate(weights):
        q, t = np.repeat(p, w, 0), np.repeat(y, w, 0)
        for bins, who in BINS.items():  # the bins are those of the whole table
            assert draws[f"{who}/ece_pooled"][i] == pytest.approx(slow_ece(q, t, bin_edges(p, 6, bins)))
            own = [slow_ece(q[:, [j]], t[:, [j]], bin_edges(p[:, j], 6, bins)) for j in range(p.shape[1])]
            assert draws[f"{who}/ece_macro"][i] == pytest.approx(np.mean(own))
        assert draws["brier/score"][i] == pytest.approx(((q - t) ** 2).mean())


def test_one_bin_asks_only_for_the_right_sum():
    p, y = toy(0, loud=3)
    for bins in BINS:
        assert ece_draws(p, y, np.ones((1, 50)), 1, bins)["pooled"][0] == pytest.approx(abs(p.mean() - y.mean()))


@pytest.mark.parametrize("wrong, brier", [(False, 0), (True, 1)])
def test_certainty_is_perfect_or_perfectly_wrong(wrong, brier):
    _, y = toy(0)
    scores = calibration_scores((y ^ wrong).astype(float), y)
    for name in ("guo/ece_pooled", "guo/ece_macro", "guo/ece_weighted", "naeini/ece_pooled", "brier/score"):
        assert scores[name] == pytest.approx(brier), name


def test_a_constant_at_the_base_rate_is_calibrated_and_knows_nothing():
    y = np.arange(40).reshape(10, 4) % 4 == 0
    scores = calibration_scores(np.full((10, 4), y.mean()), y)
    assert scores["guo/ece_pooled"] == pytest.approx(0) and scores["brier/score"] == pytest.approx(
        y.mean() * (1 - y.mean())
    )


@pytest.mark.parametrize("seed", range(5))
def test_pooling_never_shows_more_than_the_codes_do(seed):
    p, y = toy(seed, loud=1.5)  # with the same bins for all, errors of codes can only cancel
    found = ece_draws(p, y, bootstrap_weights(50, 20, seed).astype(float), 10, "equal_width")
    assert (found["pooled"] <= found["macro"] + 1e-12).all()


@pytest.mark.parametrize("seed", range(5))
def test_order_of_notes_and_codes_changes_nothing(seed):
    rng, (p, y) = np.random.default_rng(seed), toy(seed)
    rows, columns = rng.permutation(50), rng.permutation(8)
    assert calibration_scores(p[rows][:, columns], y[rows][:, columns]) == pytest.approx(calibration_scores(p, y))


def test_float32_counts_as_float64_does():
    p, y = toy(0, notes=400)
    assert calibration_scores(p.astype(np.float32), y) == pytest.approx(calibration_scores(p, y), abs=1e-3)


def test_every_number_has_a_card_and_is_better_low():
    p, y = toy(0)
    for name, value in calibration_scores(p, y).items():
        assert (
            Score(name, value, "n1", Code("icd10cm", "E11.9"), "coder")
            and card(name).higher_is_better is False
            and card(name).family == "coding"
        )


# intervals and the perfect coder


def test_a_coder_that_says_the_truth_is_as_good_as_a_perfect_one():
    honest, y = toy(0, notes=600)
    table = calibration_intervals(honest, y, n_draws=50).set_index("metric")
    assert (table.value < 1.4 * table.perfect).all() and (table.n_notes == 600).all()
    loud = calibration_intervals(toy(0, notes=600, loud=3)[0], y, n_draws=50).set_index("metric")
    assert (loud.value > 1.5 * loud.perfect).all()


def test_the_interval_is_that_of_the_bootstrap():
    p, y = toy(1)
    table = calibration_intervals(p, y, 6, n_draws=80, seed=4, level=0.9).set_index("metric")
    draws = calibration_draws(p, y, bootstrap_weights(50, 80, 4), 6)
    for metric, values in draws.items():
        np.testing.assert_allclose(table.loc[metric, ["low", "high"]].astype(float), np.percentile(values, [5, 95]))
    assert table.equals(calibration_intervals(p, y, 6, n_draws=80, seed=4, level=0.9).set_index("metric"))


# the diagram


@pytest.mark.parametrize("bins", BINS)
def test_the_diagram_holds_every_pair_and_gives_back_the_ece(bins):
    p, y = toy(2, loud=2)
    table = reliability(p, y, 9, bins, n_draws=50)
    assert table.n_pairs.sum() == p.size
    assert (table.probability > table.above - 1e-12).all() and (table.probability <= table.up_to).all()
    assert (table.low <= table.share).all() and (table.share <= table.high).all()
    ece = (table.n_pairs * (table.probability - table.share).abs()).sum() / p.size
    assert ece == pytest.approx(ece_draws(p, y, np.ones((1, 50)), 9, bins)["pooled"][0])


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_drawing_shows_what_is_in_the_table(n):
    matplotlib.use("agg")
    p, y = toy(0)
    table = reliability(p, y, 5, n_draws=20)
    names = ["a coder", "again", "a third"][:n]
    figure = draw_reliability({name: table for name in names}, {"again": "#123456"}, 5)
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert sorted(ax.get_title() for ax in panels) == sorted(names) and figure.get_figwidth() == 5
    for ax in panels:
        points, _, (bars,) = ax.containers[0]
        np.testing.assert_allclose(points.get_xydata(), table[["probability", "share"]])
        ends = np.array([s[:, 1] for s in bars.get_segments()])
        np.testing.assert_allclose(ends, table[["wilson_low", "wilson_high"]], atol=1e-9)
    below = next(ax for ax in figure.axes if ax.get_yscale() == "log" and ax.patches)
    assert [w.get_text().strip() for w in below.texts] == [f"{k:,}" for k in table.n_pairs]
    assert [b.get_height() for b in below.patches] == table.n_pairs.tolist()


# the interval of a share


@pytest.mark.parametrize("seed", range(10))
def test_wilson_holds_the_shares_that_would_not_have_surprised(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 400))
    hits = int(rng.integers(0, n + 1))
    low, high = wilson(hits, n)
    assert 0 <= low <= hits / n <= high <= 1 and high > low
    for end in {float(low), float(high)} - {0.0, 1.0}:  # at its ends the share is 1.96 deviations away
        assert abs(hits / n - end) == pytest.approx(1.959964 * (end * (1 - end) / n) ** 0.5, rel=1e-5)


def test_wilson_mirrors_narrows_and_widens():
    hits, n = np.array([0, 3, 10]), np.array([10, 10, 10])
    (low, high), (mirrored_low, mirrored_high) = wilson(hits, n), wilson(n - hits, n)
    np.testing.assert_allclose([1 - high, 1 - low], [mirrored_low, mirrored_high], atol=1e-12)
    assert (np.subtract(*wilson(hits, n)[::-1]) > np.subtract(*wilson(10 * hits, 10 * n)[::-1])).all()
    assert (np.subtract(*wilson(hits, n, 0.99)[::-1]) > np.subtract(*wilson(hits, n, 0.9)[::-1])).all()


def test_a_bin_in_which_all_are_right_is_not_certain():
    p, y = np.full((6, 1), 0.9), np.ones((6, 1), bool)
    [row] = reliability(p, y, 5, n_draws=50).itertuples()
    assert (
        (row.low, row.high) == (1, 1)
        and row.wilson_low == pytest.approx(6 / (6 + 1.959964**2))
        and row.wilson_high == 1
    )


# temperature


@pytest.mark.parametrize("loud", [0.5, 1.0, 2.0, 4.0])
def test_the_temperature_undoes_a_known_loudness(loud):
    assert temperature(*toy(0, notes=4000, loud=loud)) == pytest.approx(loud, rel=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_temperature_has_a_higher_likelihood(seed):
    p, y = toy(seed, loud=2)
    nll = lambda t: -np.log(np.where(y, with_temperature(p, t), 1 - with_temperature(p, t))).mean()
    best = temperature(p, y)
    assert all(nll(best) <= nll(best * k) for k in (0.5, 0.9, 0.99, 1.01, 1.1, 2))


@pytest.mark.parametrize("seed", range(5))
def test_fitted_on_validation_it_helps_on_other_notes(seed):
    (p, y), (q, t) = (toy(s, notes=400, loud=2.5) for s in (seed, seed + 50))
    z = np.random.default_rng(seed)  # the same codes on both sides
    order = z.permutation(400)
    p, y, q, t = p[order[:200]], y[order[:200]], p[order[200:]], y[order[200:]]
    before, after = calibration_scores(q, t), calibration_scores(with_temperature(q, temperature(p, y)), t)
    assert all(after[k] < before[k] for k in ("guo/ece_pooled", "naeini/ece_pooled", "guo/ece_weighted", "brier/score"))


@pytest.mark.parametrize("t", [0.7, 1.0, 5.0])
def test_a_temperature_keeps_the_order_and_the_half(t):
    p, y = toy(0)
    moved = with_temperature(p, t)
    assert (np.argsort(moved, axis=None) == np.argsort(p, axis=None)).all()
    assert ((moved > 0.5) == (p > 0.5)).all()
    assert auc_scores(moved, y) == auc_scores(p, y)
    np.testing.assert_allclose(with_temperature(moved, 1 / t), p, atol=1e-5)


def test_certain_probabilities_have_finite_log_odds():
    assert np.isfinite(log_odds(np.array([0.0, 1.0]))).all() and log_odds(0.5) == 0
    np.testing.assert_allclose(log_odds(np.array([0.2])), -log_odds(np.array([0.8])))


def test_what_cannot_be_calibrated_is_refused():
    p, y = toy(0)
    with pytest.raises(NoTemperature, match="every pair is right"):
        temperature(np.where(y, 0.9, 0.2), y)
    with pytest.raises(NoTemperature, match="one half"):
        temperature(1 - p, y)
    for t in (0.0, -1.0, float("nan")):
        with pytest.raises(NoTemperature, match="above 0"):
            with_temperature(p, t)
    with pytest.raises((UnequalTables, TypeError)):
        calibration_scores(p, y[:, :3])
    with pytest.raises(NotProbabilities):
        temperature(3 * p, y)
