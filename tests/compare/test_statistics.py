"""Known answers against scipy.stats, and the corners where formulas divide by zero."""

import math
import random

import pytest
from scipy import stats

from minigpt.compare import statistics


def sample(n: int, mean: float = 0.0, seed: int = 0) -> list[float]:
    draw = random.Random(seed)
    return [draw.gauss(mean, 1.0) for _ in range(n)]


@pytest.mark.parametrize("n", [2, 3, 8, 30])
@pytest.mark.parametrize("confidence", [0.95, 0.975])
def test_the_t_interval_is_scipys(n: int, confidence: float) -> None:
    x = sample(n, 0.3)
    found = statistics.t_interval(x, confidence)
    expected = stats.ttest_1samp(x, 0).confidence_interval(confidence)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-10)
    assert statistics.p_value(found) == pytest.approx(stats.ttest_1samp(x, 0).pvalue, rel=1e-10)


def test_the_interval_covers_as_often_as_it_says() -> None:
    hits = 0
    for seed in range(2000):
        found = statistics.t_interval(sample(5, 0.7, seed))
        hits += found.low <= 0.7 <= found.high
    assert hits / 2000 == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("margin", [0.1, 0.4, 1.0])
def test_p_values_and_the_interval_agree_about_the_margin(margin: float) -> None:
    for seed in range(200):
        found = statistics.t_interval(sample(8, 0.6, seed))
        beyond = found.low > margin or found.high < -margin
        within = -margin < found.low and found.high < margin
        assert (statistics.p_value(found, margin) <= 0.05) == beyond
        assert (statistics.equivalence_p_value(found, margin) <= 0.05) == within


def test_equivalence_is_schuirmanns_two_one_sided_tests() -> None:
    x, margin = sample(12, 0.1), 0.9
    lower = stats.ttest_1samp(x, -margin, alternative="greater").pvalue
    upper = stats.ttest_1samp(x, margin, alternative="less").pvalue
    found = statistics.equivalence_p_value(statistics.t_interval(x), margin)
    assert found == pytest.approx(2 * max(lower, upper), rel=1e-9)


def test_holm_by_hand() -> None:
    # sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1 = 0.04, 0.06, 0.06, 0.04 -> running maximum
    assert statistics.holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]
    assert statistics.holm([0.02]) == [0.02]


def test_correlation_is_pearsons() -> None:
    a, b = sample(9, seed=3), sample(9, seed=4)
    assert statistics.correlation(a, b) == pytest.approx(stats.pearsonr(a, b).statistic, rel=1e-10)
    assert statistics.correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None
    assert statistics.correlation([1.0, 2.0], [1.0, 2.0]) is None


def test_detectable_difference_has_a_power_of_eighty_percent() -> None:
    found = statistics.detectable_difference(sd=2.0, n=8)
    assert found is not None
    power = 1 - stats.nct.cdf(stats.t.ppf(0.975, 7), 7, found / (2 / math.sqrt(8)))
    assert power == pytest.approx(0.8, abs=1e-6)


def test_one_value_has_no_interval_and_no_claim() -> None:
    one = statistics.t_interval([3.0])
    assert (one.low, one.high) == (-math.inf, math.inf)
    assert statistics.p_value(one) == 1.0
    assert statistics.equivalence_p_value(one, 0.1) == 1.0


@pytest.mark.parametrize("value", [0.0, 0.1, -4.3])
def test_zero_variance_is_never_nan(value: float) -> None:
    found = statistics.t_interval([value] * 7)
    expected = (value, value, value, 0.0)
    assert (found.low, found.mean, found.high, found.sd) == pytest.approx(expected)
    assert found.constant
    assert statistics.p_value(found) == 1.0
    assert statistics.detectable_difference(found.sd, found.n) is None


def test_the_interval_of_a_ratio() -> None:
    """With equal bottoms it is the t interval of the quotients; else by hand."""
    tops = [3.0, 5.0, 4.0, 8.0]
    alike = statistics.t_interval([top / 2 for top in tops])
    found = statistics.ratio_interval(tops, [2.0] * 4)
    assert (found.mean, found.low, found.high) == pytest.approx((alike.mean, alike.low, alike.high))
    # 12 / 6 = 2; residuals 1 - 2, 4 - 2, 7 - 8: -1, 2, -1 over a mean of 2, with sd sqrt(3) / 2
    found = statistics.ratio_interval([1.0, 4.0, 7.0], [1.0, 1.0, 4.0])
    assert found.high - 2 == pytest.approx(4.302653 * math.sqrt(3) / 2 / math.sqrt(3), rel=1e-6)
