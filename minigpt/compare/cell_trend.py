"""The same question in several cells: is the effect the same, and what does it grow with?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import fdtrc, stdtr

from minigpt.compare.statistics import Interval, t_quantile


@dataclass(frozen=True)
class Slope:
    """Change of an effect for each doubling of a cell's value."""

    key: str
    value: float
    low: float
    high: float
    p: float  # of no change


@dataclass(frozen=True)
class Trend:
    """homogeneity: p of one effect in all cells."""

    homogeneity: float
    slopes: tuple[Slope, ...]


def trend(
    effects: Sequence[Interval], cells: Sequence[Mapping[str, float]], confidence: float
) -> Trend | None:
    """How the effects of cells differ. None for fewer than two cells with a spread.

    effects: one a cell, with at least two values each.  cells: the numeric keys of each.

    Homogeneity is the test of Welch (1951), Biometrika 38, for means of unequal spread: Cochran's Q
    takes the spreads of few seeds for the true ones and finds differences too often. Slopes are
    those of least squares over log2 of each key. Their error follows from the cells' own errors,
    with the degrees of freedom of Satterthwaite (1946), Biometrics Bull. 2.
    """
    if len(effects) < 2 or any(effect.n < 2 or effect.sd == 0 for effect in effects):
        return None
    keys = [key for key in cells[0] if len({cell[key] for cell in cells}) > 1]
    return Trend(_homogeneity(effects), _slopes(effects, cells, keys, confidence))


def _homogeneity(effects: Sequence[Interval]) -> float:
    k = len(effects)
    d = np.array([effect.mean for effect in effects])
    w = np.array([1 / effect.standard_error**2 for effect in effects])
    df = np.array([effect.n - 1 for effect in effects])
    mean = (w * d).sum() / w.sum()
    q = float((w * (d - mean) ** 2).sum()) / (k - 1)
    uncertain = float(((1 - w / w.sum()) ** 2 / df).sum())
    f = q / (1 + 2 * (k - 2) / (k**2 - 1) * uncertain)
    return float(fdtrc(k - 1, (k**2 - 1) / (3 * uncertain), f))


def _slopes(
    effects: Sequence[Interval],
    cells: Sequence[Mapping[str, float]],
    keys: Sequence[str],
    confidence: float,
) -> tuple[Slope, ...]:
    if len(effects) < len(keys) + 1 or not keys:
        return ()
    x = np.array([[1.0, *(math.log2(cell[key]) for key in keys)] for cell in cells])
    d = np.array([effect.mean for effect in effects])
    slopes = []
    for key, share in zip(keys, np.linalg.pinv(x)[1:]):  # a slope is a sum of shares of effects
        value = float(share @ d)
        variances = [
            (one * effect.standard_error) ** 2 for one, effect in zip(share.tolist(), effects)
        ]
        variance = sum(variances)
        df = variance**2 / sum(v**2 / (effect.n - 1) for v, effect in zip(variances, effects))
        error = math.sqrt(variance)
        half = t_quantile(confidence, df) * error
        p = 2 * float(stdtr(df, -abs(value) / error))
        slopes.append(Slope(key, value, value - half, value + half, p))
    return tuple(slopes)
