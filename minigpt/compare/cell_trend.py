"""The same question in several cells: is the effect the same, and what does it grow with?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtrc, stdtr

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

    Homogeneity is Cochran's Q (1954), Biometrics 10, against chi squared. Slopes are those of least
    squares over log2 of each key, weighted by 1 / standard error squared; their own error follows
    from the cells' errors, and Student's t has the degrees of freedom of all seeds together.
    """
    if len(effects) < 2 or any(effect.n < 2 or effect.sd == 0 for effect in effects):
        return None
    d = np.array([effect.mean for effect in effects])
    w = np.array([1 / effect.standard_error**2 for effect in effects])
    mean = float((w * d).sum() / w.sum())
    q = float((w * (d - mean) ** 2).sum())
    df = sum(effect.n - 1 for effect in effects)
    keys = [key for key in cells[0] if len({cell[key] for cell in cells}) > 1]
    return Trend(float(chdtrc(len(d) - 1, q)), _slopes(d, w, cells, keys, df, confidence))


def _slopes(
    d: "np.ndarray",
    w: "np.ndarray",
    cells: Sequence[Mapping[str, float]],
    keys: Sequence[str],
    df: int,
    confidence: float,
) -> tuple[Slope, ...]:
    if len(d) < len(keys) + 1 or not keys:
        return ()
    x = np.array([[1.0, *(math.log2(cell[key]) for key in keys)] for cell in cells])
    covariance = np.linalg.pinv(x.T @ (w[:, None] * x))
    coefficients = covariance @ (x.T @ (w * d))
    quantile = t_quantile(confidence, df)
    slopes = []
    for key, value, variance in zip(keys, coefficients[1:], np.diag(covariance)[1:]):
        error = math.sqrt(variance)
        p = 2 * float(stdtr(df, -abs(value) / error))
        slopes.append(
            Slope(
                key,
                float(value),
                float(value - quantile * error),
                float(value + quantile * error),
                p,
            )
        )
    return tuple(slopes)
