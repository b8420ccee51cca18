"""One fit per arm: final loss over the budget, and what follows from it at equal cost.

loss(D) = E + A * D^-b, with E >= 0 and A >= 0, as Hoffmann et al. (2022), arXiv 2203.15556. The
arms share b: three budgets would otherwise determine three parameters without a check. With two
budgets E is 0, which is a line in log-log, and each arm has its own b.

Only end points of whole schedules count. Every figure has an interval from resampling seeds, which
stay paired: the same seeds are drawn for all arms and budgets.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from minigpt.compare.statistics import t_quantile

Floats = npt.NDArray[np.float64]
RESAMPLES = 1000
OUTSIDE = 1.5  # beyond the measured budgets by more than this factor only a bound is given
EXPONENTS = np.geomspace(0.02, 2.0, 400)  # b is the best of these, 1.2 % apart


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


def fit(arms: Sequence[str], budgets: Sequence[float], losses: Floats) -> Curves:
    """The curves of least squares.

    losses: (..., arms, budgets), mean final losses; budgets rise. Raises ValueError for fewer than
    two budgets.
    """
    if len(budgets) < 2:
        raise ValueError("a curve needs two budgets or more")
    scale = float(budgets[-1])
    x = np.log(np.asarray(budgets, dtype=float) / scale)
    if len(budgets) == 2:  # the line through two points; a loss that rises is level
        slope = np.log(losses[..., 0] / losses[..., 1]) / (x[1] - x[0])
        b = np.maximum(slope, 1e-9)
        A = np.where(slope > 0, losses[..., 1], losses.mean(axis=-1))
        return Curves(tuple(arms), np.zeros_like(A), A, b, scale)
    basis = np.exp(-EXPONENTS[:, None] * x)  # (exponents, budgets)
    spread = basis - basis.mean(axis=1, keepdims=True)
    A = np.maximum(0.0, losses @ (spread / (spread**2).sum(axis=1, keepdims=True)).T)
    E = losses.mean(axis=-1)[..., None] - A * basis.mean(axis=1)
    alone = losses @ (basis / (basis**2).sum(axis=1, keepdims=True)).T
    A, E = np.where(E < 0, alone, A), np.maximum(E, 0.0)
    fitted = E[..., None] + A[..., None] * basis  # (..., arms, exponents, budgets)
    error = ((fitted - losses[..., None, :]) ** 2).sum(axis=(-1, -3))  # (..., exponents)
    best = error.argmin(axis=-1)[..., None, None]
    E, A = (np.take_along_axis(values, best, axis=-1)[..., 0] for values in (E, A))
    return Curves(tuple(arms), E, A, np.broadcast_to(EXPONENTS[best[..., 0]], A.shape), scale)


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
        return fit(tuple(self.losses), self.budgets, self._stacked.mean(axis=-1))

    @property
    def _stacked(self) -> Floats:
        return np.stack(list(self.losses.values()))  # (arms, budgets, seeds)

    def estimate(self, figure: Callable[[Curves], Floats], confidence: float) -> Estimate:
        """A figure of the curves, with an interval.

        The standard error is that of a bootstrap over seeds (Efron 1979, Ann. Statist. 7), widened
        for their small number by n / (n - 1) and Student's t. Where a resample has no such figure
        the interval is open above.
        """
        value, n = float(figure(self.curves())), self._stacked.shape[-1]
        if n < 2 or not math.isfinite(value):
            return Estimate(value, -math.inf, math.inf)
        draws = np.random.default_rng(0).integers(0, n, (RESAMPLES, n))
        means = np.moveaxis(self._stacked[:, :, draws].mean(axis=-1), -1, 0)
        found = figure(fit(tuple(self.losses), self.budgets, means))
        finite = found[np.isfinite(found)]
        half = t_quantile(confidence, n - 1) * float(finite.std()) * math.sqrt(n / (n - 1))
        is_open = len(finite) < len(found)
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
