"Laws of the interval that stands beside every number."

import numpy as np
import pytest

from icdrat.bootstrap import BadLevel, NothingToResample, bootstrap_weights, interval, mean, percentile_interval, ratio
from icdrat.types import BadInput


def test_a_ratio_without_a_whole_has_no_value():
    np.testing.assert_array_equal(ratio(np.array([1.0, 1.0, 0.0]), np.array([2.0, 0.0, 0.0])), [0.5, np.nan, np.nan])


def test_percentiles_are_interpolated_linearly():
    draws = np.array([0.3, 0.1, 0.2, 0.4])
    np.testing.assert_allclose(percentile_interval(draws), (0.1075, 0.3925))
    np.testing.assert_allclose(percentile_interval(draws, 0.5), (0.175, 0.325))


@pytest.mark.parametrize("n", [1, 2, 7, 300])
def test_every_resample_has_as_many_notes_as_there_are(n):
    weights = bootstrap_weights(n, 50, seed=3)
    assert weights.shape == (50, n) and (weights >= 0).all()
    np.testing.assert_array_equal(weights.sum(1), n)


@pytest.mark.parametrize("n_draws", [0, -1, 10**11])
def test_a_number_of_resamples_that_cannot_be_is_refused(n_draws):
    with pytest.raises(NothingToResample, match=f"{n_draws} resamples: there are from 1 to"):
        interval(np.ones((7, 2)), mean, n_draws)


def test_a_seed_names_its_resamples():
    first = bootstrap_weights(9, 20, 5)
    bootstrap_weights.cache_clear()
    np.testing.assert_array_equal(first, bootstrap_weights(9, 20, 5))
    assert (first != bootstrap_weights(9, 20, 6)).any()


def test_every_note_is_drawn_equally_often():
    share = bootstrap_weights(5, 20_000).mean(0)
    np.testing.assert_allclose(share, 1, atol=0.03)


@pytest.mark.parametrize("seed", range(5))
def test_a_matrix_product_is_the_bootstrap_done_by_hand(seed):
    rng = np.random.default_rng(seed)
    sums = rng.integers(1, 9, (6, 2)).astype(float)
    by_hand = []
    for weights in bootstrap_weights(6, 200, seed):
        drawn = [row for row, times in zip(sums, weights) for _ in range(times)]
        by_hand.append(sum(r[0] for r in drawn) / sum(r[1] for r in drawn))
    value, low, high = interval(sums, mean, 200, seed)
    assert value == pytest.approx(sums[:, 0].sum() / sums[:, 1].sum())
    np.testing.assert_allclose([low, high], np.percentile(by_hand, [2.5, 97.5]))


@pytest.mark.parametrize("value", [0.0, 0.3, -1.0])
def test_the_bootstrap_of_a_constant_is_the_constant(value):
    sizes = np.array([1.0, 5.0, 2.0, 1.0, 3.0])
    np.testing.assert_allclose(interval(np.stack([value * sizes, sizes], 1), mean), [value] * 3, atol=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_the_interval_of_symmetrical_data_contains_the_value(seed):
    x = np.random.default_rng(seed).normal(size=20)
    x = np.concatenate([x, -x])
    value, low, high = interval(np.stack([x, np.ones(40)], 1), mean, seed=seed)
    assert low < value < high
    assert low == pytest.approx(-high, abs=0.1)


def test_the_interval_is_as_wide_as_the_standard_error_says():
    x = np.random.default_rng(0).normal(size=400)
    _, low, high = interval(np.stack([x, np.ones(400)], 1), mean)
    assert (high - low) / 2 == pytest.approx(1.96 * x.std() / 20, rel=0.1)


def test_resamples_without_a_denominator_are_left_out():
    sums = np.array([[1.0, 2.0]] + [[0.0, 0.0]] * 4)  # four notes without a prediction
    assert interval(sums, mean) == (0.5, 0.5, 0.5)
    assert np.isnan(interval(np.zeros((5, 2)), mean)).all()


@pytest.mark.parametrize("n", range(1, 9))
def test_fewer_than_five_notes_have_a_value_and_no_interval(n):
    value, *ends = interval(np.stack([np.arange(n), np.ones(n)], 1), mean)
    assert value == pytest.approx((n - 1) / 2)
    assert np.isnan(ends).all() == (n < 5)


def test_a_higher_level_gives_a_wider_interval():
    sums = np.stack([np.random.default_rng(0).random(12), np.ones(12)], 1)
    narrow, wide = (interval(sums, mean, level=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_resamples_belong_to_no_one():
    with pytest.raises(ValueError, match="read-only"):
        bootstrap_weights(4)[0, 0] = 9


def test_mistakes_of_the_caller_are_named():
    with pytest.raises(NothingToResample):
        interval(np.zeros((0, 2)), mean)
    for level in (95.0, 0.0, 1.0):
        with pytest.raises(BadLevel, match="95 percent"):
            percentile_interval(np.zeros(3), level)
    for mistake in (NothingToResample, BadLevel):
        assert issubclass(mistake, BadInput)
