"""How much of the baseline's budget an arm needs for the baseline's final loss: ratios with
intervals, or bounds.

Only end points of finished schedules count. A loss on the way of a longer run belongs to a learning
rate that has not come down yet, and a crossing there flatters whoever decays later (OPTIMIZERS:
"only annealed end points").
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from minigpt.compare import statistics
from minigpt.compare.statistics import Interval

if TYPE_CHECKING:
    from minigpt.study.run import Run


@dataclass(frozen=True)
class Ratio:
    """Budget of the arm over budget of the baseline at equal loss; below 1 the arm needs less.

    log: interval of the natural log of the ratio, None if it is not bracketed.  bound: then "above"
    (of at_most) or "below" (at_least); "about above" or "about below" where the losses at that
    budget cannot be told apart; "unclear" where a seed's loss does not fall with the budget; else
    empty.  at_least, at_most: the smallest and the largest
    ratio that was measured.  used: the arm's budgets (tokens) that bracket the loss, or the
        outermost.  n: seeds.
    """

    log: Interval | None
    bound: str
    at_least: float
    at_most: float
    used: tuple[int, ...]
    n: int


@dataclass(frozen=True)
class EqualLoss:
    """A ratio with what it is of. horizon: the baseline's budget in tokens."""

    arm: str
    baseline: str
    horizon: int
    ratio: Ratio
    runs: "list[Run]"


def budget_to_equal_loss(
    target: Mapping[int, float],
    horizon: int,
    curve: Mapping[int, Mapping[int, float]],
    confidence: float = 0.95,
) -> Ratio | None:
    """The budget at which the arm's end points equal the baseline's, relative to the baseline's.

    target: the baseline's final loss by seed, at `horizon` tokens.  curve: the arm's final loss by
    budget and seed. Between the two neighbouring budgets whose mean losses bracket the mean target,
    a seed's loss runs through its own two end points, along a parabola in the log of the budget
    whose bend is that of the mean losses (`bend`; a straight line with two budgets only, which
    overstates the need a little, since losses are convex). Each seed gives one log-ratio, and they
    get a t interval. A seed may cross a little outside the two budgets; the mean never does.
    Diverged seeds are left out. None if no seed is common.
    """
    gaps = {
        tokens: {
            seed: losses[seed] - target[seed]
            for seed in losses.keys() & target.keys()
            if _finite(losses, target, seed)
        }
        for tokens, losses in sorted(curve.items())
    }
    gaps = {tokens: gap for tokens, gap in gaps.items() if gap}
    if not gaps:
        return None
    budgets = list(gaps)
    at_least, at_most = budgets[0] / horizon, budgets[-1] / horizon
    mean = {tokens: math.fsum(gap.values()) / len(gap) for tokens, gap in gaps.items()}
    reached = next((index for index, tokens in enumerate(budgets) if mean[tokens] <= 0), None)
    # even the largest is too small, or already the smallest is enough
    if reached is None or reached == 0:
        last = budgets[-1] if reached is None else budgets[0]
        gap = statistics.t_interval(list(gaps[last].values()), confidence)
        told_apart = not gap.low <= 0 <= gap.high
        bound = ("" if told_apart else "about ") + ("above" if reached is None else "below")
        return Ratio(None, bound, at_least, at_most, (last,), gap.n)
    short, long = budgets[reached - 1], budgets[reached]
    width = math.log(long / short)
    bent = bend(
        {
            tokens: math.fsum(losses.values()) / len(losses)
            for tokens, losses in _complete(curve, target)
        },
        short,
    )
    logs = []
    for seed in sorted(gaps[short].keys() & gaps[long].keys()):
        fall = gaps[short][seed] - gaps[long][seed]
        if fall <= 0:  # a seed whose loss does not fall with the budget crosses nowhere
            return Ratio(None, "unclear", short / horizon, long / horizon, (short, long), 0)
        share = crossing(gaps[short][seed], fall, min(bent * width**2, 0.9 * fall))
        logs.append(math.log(short / horizon) + share * width)
    if not logs:
        return Ratio(None, "unclear", short / horizon, long / horizon, (short, long), 0)
    return Ratio(
        statistics.t_interval(logs, confidence), "", at_least, at_most, (short, long), len(logs)
    )


def crossing(gap: float, fall: float, bent: float) -> float:
    """Where in [0, 1] the curve gap - fall u + bent u (u - 1) is 0; also a little outside. 0 <=
    bent < fall.
    """
    steepness = fall + bent
    return 2 * gap / (steepness + math.sqrt(max(0.0, steepness**2 - 4 * bent * gap)))


def bend(means: Mapping[int, float], short: int) -> float:
    """Second divided difference of the mean loss in the log of the budget, next to the segment that
    begins at `short`: with the nearest budget before it, after it, or the mean of both; 0 without a
        third budget or for a concave curve.
    """
    budgets = sorted(means)
    if short not in means or budgets[-1] == short:
        return 0.0
    at = budgets.index(short)
    triples = [budgets[i : i + 3] for i in (at - 1, at) if i >= 0 and i + 3 <= len(budgets)]
    found = []
    for triple in triples:
        x0, x1, x2 = (math.log(tokens) for tokens in triple)
        y0, y1, y2 = (means[tokens] for tokens in triple)
        found.append(((y2 - y1) / (x2 - x1) - (y1 - y0) / (x1 - x0)) / (x2 - x0))
    return max(0.0, math.fsum(found) / len(found)) if found else 0.0


def _complete(
    curve: Mapping[int, Mapping[int, float]], target: Mapping[int, float]
) -> list[tuple[int, dict[int, float]]]:
    """The arm's losses of the seeds that every budget and the target have: only those means line
    up.
    """
    seeds = {
        seed
        for seed in target
        if all(seed in losses and math.isfinite(losses[seed]) for losses in curve.values())
    }
    return [
        (tokens, {seed: losses[seed] for seed in seeds})
        for tokens, losses in sorted(curve.items())
        if seeds
    ]


def _finite(losses: Mapping[int, float], target: Mapping[int, float], seed: int) -> bool:
    return math.isfinite(losses[seed]) and math.isfinite(target[seed])
