"""One fit per arm: final loss over the budget, and what follows from it at equal cost.

loss(D) = E + A * D^-b, with E >= 0 and A >= 0, as Hoffmann et al. (2022), arXiv 2203.15556. Each
arm has its own b: with a common one the ratio of arms that fall differently is missed. Two budgets
do not tell how the curve bends: figures then cover all from a line in log-log (E = 0) to b = 1.

Only end points of whole schedules count. Every figure has an interval from resampling seeds, which
stay paired: the same seeds are drawn for all arms and budgets.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from minigpt.compare.statistics import t_quantile

Floats = npt.NDArray[np.float64]
RESAMPLES = 1000
OUTSIDE = 1.5  # beyond the measured budgets by more than this factor only a bound is given
EXPONENTS = np.geomspace(0.02, 2.0, 200)  # b is the best of these, 2.3 % apart
ROWS = 250  # fitted at once: they stay in the cache of a core
STEEPEST = 1.0  # b of the most bent curve through two budgets


@dataclass(frozen=True)
class Curves:
    """loss(D) = E + A * (D / scale)^-b of several arms, for one sample of seeds or for many.

    E, A, b: (..., arms).
    """

    arms: tuple[str, ...]
    E: Floats
    A: Floats
    b: Floats
    scale: float

    def loss(self, arm: str, budget: float) -> Floats:
        """(...): the loss of an arm at a budget."""
        at = self.arms.index(arm)
        power: Floats = (budget / self.scale) ** -self.b[..., at]
        return self.E[..., at] + self.A[..., at] * power

    def log_budget(self, arm: str, loss: Floats) -> Floats:
        """(...): the log of the budget at which an arm has a loss; infinite if it never has."""
        at = self.arms.index(arm)
        with np.errstate(divide="ignore", invalid="ignore"):
            power = (loss - self.E[..., at]) / self.A[..., at]
            log = math.log(self.scale) - np.log(power) / self.b[..., at]
        return np.where(power > 0, log, np.inf)


def fit(
    arms: Sequence[str], budgets: Sequence[float], losses: Floats, b: float | None = None
) -> Curves:
    """The curves of least squares.

    losses: (..., arms, budgets), mean final losses; budgets rise.  b: the exponent of a curve
    through two budgets; None is the line in log-log. Raises ValueError for fewer than two budgets.
    """
    if len(budgets) < 2:
        raise ValueError("a curve needs two budgets or more")
    scale = float(budgets[-1])
    x = np.log(np.asarray(budgets, dtype=float) / scale)
    if len(budgets) == 2:
        return Curves(tuple(arms), *_through_two(x[0], losses, b), scale)
    rows = losses.reshape(-1, len(budgets))
    parts = [_least_squares(x, rows[at : at + ROWS]) for at in range(0, len(rows), ROWS)]
    E, A, exponent = (np.concatenate(part).reshape(losses.shape[:-1]) for part in zip(*parts))
    return Curves(tuple(arms), E, A, exponent, scale)


def _through_two(x: float, losses: Floats, b: float | None) -> tuple[Floats, Floats, Floats]:
    """E, A and b of curves through losses at x < 0 and at 0; a loss that rises is level."""
    first, last = losses[..., 0], losses[..., 1]
    falls = first > last
    slope = np.log(np.where(falls, first / last, 1.0)) / -x
    E, A = np.zeros_like(last), np.where(falls, last, losses.mean(axis=-1))
    exponent = np.maximum(slope, 1e-9)
    if b is None:
        return E, A, exponent
    bent = (first - last) / (math.exp(-b * x) - 1)
    ok = falls & (bent <= last)
    return np.where(ok, last - bent, E), np.where(ok, bent, A), np.where(ok, b, exponent)


def _least_squares(x: Floats, losses: Floats) -> tuple[Floats, Floats, Floats]:
    """E, A and b of each row of losses, (rows, budgets)."""
    basis = np.exp(-EXPONENTS[:, None] * x)  # (exponents, budgets)
    spread = basis - basis.mean(axis=1, keepdims=True)
    mean = losses.mean(axis=1, keepdims=True)
    centred = losses - mean
    product = centred @ spread.T  # (rows, exponents)
    A = np.maximum(0.0, product / (spread**2).sum(axis=1))
    E = mean - A * basis.mean(axis=1)
    error = (centred**2).sum(axis=1, keepdims=True) - A * product
    some = np.flatnonzero((E < 0).any(axis=0))  # exponents at which a row needs the curve without E
    if len(some):
        without, is_below = basis[some], E[:, some] < 0
        size = (without**2).sum(axis=1)
        alone = losses @ without.T / size
        of_alone = (losses**2).sum(axis=1, keepdims=True) - alone**2 * size
        A[:, some] = np.where(is_below, alone, A[:, some])
        error[:, some] = np.where(is_below, of_alone, error[:, some])
        E[:, some] = np.maximum(E[:, some], 0.0)
    best = error.argmin(axis=1)
    row = np.arange(len(losses))
    return E[row, best], A[row, best], EXPONENTS[best]


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval.

    bound: `above` or `below` where it lies outside of what was measured; `value` is that bound.
    """

    value: float
    low: float
    high: float
    bound: str = ""


@dataclass(frozen=True)
class Measured:
    """Final losses at several budgets. losses: arm -> (budgets, seeds), the same seeds everywhere,
    all of them finite. Budgets rise.
    """

    budgets: tuple[float, ...]
    losses: Mapping[str, Floats]

    def curves(self) -> Curves:
        return self._fitted[0][0]

    @cached_property
    def _fitted(self) -> list[tuple[Curves, Curves]]:
        """The curves of all seeds and of resampled ones. Two budgets have the least and the most
        bent ones.
        """
        arms, losses = tuple(self.losses), np.stack(list(self.losses.values()))
        resampled = np.moveaxis(losses @ _weights(losses.shape[-1]).T, -1, 0)
        bends = (None,) if len(self.budgets) > 2 else (None, STEEPEST)
        return [
            (
                fit(arms, self.budgets, losses.mean(axis=-1), b),
                fit(arms, self.budgets, resampled, b),
            )
            for b in bends
        ]

    def estimate(self, figure: Callable[[Curves], Floats], confidence: float) -> Estimate:
        """A figure of the curves, with an interval.

        The standard error is that of a bootstrap over seeds (Efron 1979, Ann. Statist. 7), widened
        for their small number by n / (n - 1) and Student's t. Where a resample has no such figure
        the interval is open above.
        """
        n = next(iter(self.losses.values())).shape[-1]
        found = [
            _estimate(figure(all_), figure(some), n, confidence) for all_, some in self._fitted
        ]
        low, high = min(one.low for one in found), max(one.high for one in found)
        return Estimate(found[0].value, low, high)


@lru_cache
def _weights(n: int) -> Floats:
    """(RESAMPLES, n): the share of each seed in each resample."""
    draws = np.random.default_rng(0).integers(0, n, (RESAMPLES, n))
    return np.stack([np.bincount(draw, minlength=n) for draw in draws]) / n


def _estimate(all_: Floats, resampled: Floats, n: int, confidence: float) -> Estimate:
    value = float(all_)
    if n < 2 or not math.isfinite(value):
        return Estimate(value, -math.inf, math.inf)
    finite = resampled[np.isfinite(resampled)]
    half = t_quantile(confidence, n - 1) * float(finite.std()) * math.sqrt(n / (n - 1))
    is_open = len(finite) < len(resampled)
    return Estimate(value, value - half, math.inf if is_open else value + half)


def budget_ratio(
    measured: Measured, arm: str, baseline: str, primary: float, confidence: float
) -> Estimate:
    """What of the primary budget an arm needs for the baseline's loss there; below 1 it needs less.

    Outside of the measured budgets by more than OUTSIDE only a bound.
    """

    def log_ratio(curves: Curves) -> Floats:
        return curves.log_budget(arm, curves.loss(baseline, primary)) - math.log(primary)

    found = measured.estimate(log_ratio, confidence)
    least, most = measured.budgets[0] / OUTSIDE / primary, measured.budgets[-1] * OUTSIDE / primary
    value, low, high = (_exp(one) for one in (found.value, found.low, found.high))
    if value > most:
        return Estimate(most, most, math.inf, "above")
    if value < least:
        return Estimate(least, 0.0, least, "below")
    return Estimate(value, low if low >= least else 0.0, high if high <= most else math.inf)


def difference_at_equal_cost(
    measured: Measured, arm: str, baseline: str, primary: float, cost: float, confidence: float
) -> Estimate:
    """Loss of an arm minus the baseline's at the primary budget, where both spend the same.

    cost: what a token of the arm costs, over what one of the baseline costs (FLOPs, or seconds).
    Outside of the measured budgets by more than OUTSIDE only a bound: what holds at that end.
    """
    affordable = primary / cost
    least, most = measured.budgets[0] / OUTSIDE, measured.budgets[-1] * OUTSIDE
    at = min(max(affordable, least), most)

    def difference(curves: Curves) -> Floats:
        return curves.loss(arm, at) - curves.loss(baseline, primary)

    found = measured.estimate(difference, confidence)
    if affordable < least:
        return Estimate(found.value, found.low, math.inf, "above")
    if affordable > most:
        return Estimate(found.value, -math.inf, found.high, "below")
    return found


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
