"""The formulas of a comparison, each with its source. Plain numbers in and out, never NaN.

scipy.special loads in a tenth of the time of scipy.stats; the tests check one against the other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import nctdtrinc, stdtr, stdtrit

POWER = 0.8
ROUNDING = 1e-12  # a spread this small, relative to the values, is rounding and not variation


@dataclass(frozen=True)
class Interval:
    """A mean of n values with its two-sided t interval; infinitely wide for a single value."""

    mean: float
    low: float
    high: float
    sd: float  # of the values, n - 1 in the denominator; 0 where they vary by rounding only
    n: int

    @property
    def standard_error(self) -> float:
        return self.sd / math.sqrt(self.n)

    @property
    def constant(self) -> bool:
        """All values are equal: they do not tell how the next one would vary."""
        return self.n > 1 and self.sd == 0


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """mean -+ t(n-1) sd / sqrt(n): Student (1908), The probable error of a mean, Biometrika 6.

    Values must be finite. On paired differences this is the paired t interval.
    """
    x = np.asarray(values, dtype=float)
    n, mean = len(x), float(x.mean())
    if n == 1:
        return Interval(mean, -math.inf, math.inf, 0.0, 1)
    sd = float(x.std(ddof=1))
    if sd <= ROUNDING * float(np.abs(x).max()):
        return Interval(mean, mean, mean, 0.0, n)
    half = t_quantile(confidence, n - 1) * sd / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, sd, n)


def ratio_interval(
    tops: Sequence[float], bottoms: Sequence[float], confidence: float = 0.95
) -> Interval:
    """sum(tops) / sum(bottoms) over n draws of both: Cochran (1977), Sampling Techniques, 6.4."""
    above, below = np.asarray(tops, dtype=float), np.asarray(bottoms, dtype=float)
    ratio = float(above.sum() / below.sum())
    around = t_interval(((above - ratio * below) / below.mean()).tolist(), confidence)
    return Interval(ratio, ratio + around.low, ratio + around.high, around.sd, around.n)


def t_quantile(confidence: float, df: float) -> float:
    """The t below which (1 + confidence) / 2 of Student's distribution lies."""
    return float(stdtrit(df, (1 + confidence) / 2))


def p_value(interval: Interval, margin: float = 0.0) -> float:
    """Two-sided p of |true mean| <= margin: twice the tail of the t distribution at that margin.

    At margin 0 it is the p of Student's paired t test. It is at most 0.05 exactly where the 95 %
    interval lies beyond the margin. It is 1 for a single value, or values that do not vary.
    """
    if interval.n < 2 or interval.constant:
        return 1.0
    beyond = (abs(interval.mean) - margin) / interval.standard_error
    return min(1.0, 2 * float(stdtr(interval.n - 1, -beyond)))


def equivalence_p_value(interval: Interval, margin: float) -> float:
    """p of |true mean| >= margin, by two one-sided tests.

    Schuirmann (1987), J. Pharmacokinet. Biopharm. 15. It is doubled: at most 0.05 exactly where the
    95 % interval (not the usual 90 %) lies within the margin. So one interval serves all verdicts.
    """
    if margin <= 0 or interval.n < 2:
        return 1.0
    if interval.constant:
        return 0.0 if abs(interval.mean) < margin else 1.0
    inside = (margin - abs(interval.mean)) / interval.standard_error
    return min(1.0, 2 * float(stdtr(interval.n - 1, -inside)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p of several tests.

    Holm (1979), A simple sequentially rejective procedure, Scand. J. Statist. 6.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Pearson's correlation; None for fewer than three pairs, or a side that does not vary."""
    a, b = t_interval(x), t_interval(y)
    if a.n < 3 or a.sd == 0 or b.sd == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def detectable_difference(sd: float, n: int, confidence: float = 0.95) -> float | None:
    """The true difference that n pairs of this spread show in 8 of 10 studies.

    By the noncentral t distribution, e.g. Cohen (1988). None without a spread.
    """
    if n < 2 or sd == 0:
        return None
    return float(nctdtrinc(n - 1, 1 - POWER, t_quantile(confidence, n - 1))) * sd / math.sqrt(n)


def second_difference(x: Sequence[float], y: Sequence[float]) -> float:
    """The second divided difference of three points: the bend of the parabola through them."""
    first, second = ((y[i + 1] - y[i]) / (x[i + 1] - x[i]) for i in (0, 1))
    return (second - first) / (x[2] - x[0])
