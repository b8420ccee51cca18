"""What of the baseline's budget an arm needs for the baseline's final loss: ratios, or bounds.

Only end points of finished schedules count. A loss on the way of a longer run belongs to a learning
rate that has not come down yet. A crossing there flatters whoever decays later.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from minigpt.compare import statistics
from minigpt.compare.statistics import Interval, second_difference


@dataclass(frozen=True)
class Ratio:
    """Budget of the arm over budget of the baseline at equal loss; below 1 the arm needs less.

    bound, where the loss is not bracketed: "above" (at_most) or "below" (at_least), "about above"
    or "about below" where the losses at that budget cannot be told apart, "unclear" where a seed's
    loss does not fall with the budget.
    """

    log: Interval | None  # of the natural log of the ratio; None if it is not bracketed
    bound: str  # empty if it is bracketed
    at_least: float  # the smallest and the largest ratio that was measured
    at_most: float
    used: tuple[int, ...]  # the arm's budgets (tokens) that bracket the loss, or the outermost
    n: int  # seeds


def budget_to_equal_loss(
    target: Mapping[int, float],
    budget: int,
    curve: Mapping[int, Mapping[int, float]],
    confidence: float = 0.95,
) -> Ratio | None:
    """The budget at which the arm's end points equal the baseline's, relative to the baseline's.

    target: the baseline's final loss by seed, at `budget` tokens.
    curve: the arm's final loss by budget and seed.

    The two neighbouring budgets whose mean losses bracket the mean target count. A seed's loss runs
    through its own two end points there, along a parabola in the log of the budget, with the bend
    of the mean losses (`bend`). With two budgets only it is a straight line, which overstates the
    need a little, since losses are convex. Each seed gives one log-ratio; they get a t interval. A
    seed may cross a little outside the two budgets; the mean never does. Diverged seeds are left
    out. None if no seed is common.
    """
    gaps = _gaps(target, curve)
    if not gaps:
        return None
    budgets = list(gaps)
    at_least, at_most = budgets[0] / budget, budgets[-1] / budget
    mean = {tokens: _mean(gap) for tokens, gap in gaps.items()}
    reached = next((index for index, tokens in enumerate(budgets) if mean[tokens] <= 0), None)
    if reached is None or reached == 0:  # the largest is too small, or the smallest is enough
        last = budgets[-1] if reached is None else budgets[0]
        gap = statistics.t_interval(list(gaps[last].values()), confidence)
        about = "about " if gap.low <= 0 <= gap.high else ""
        bound = about + ("above" if reached is None else "below")
        return Ratio(None, bound, at_least, at_most, (last,), gap.n)
    short, long = budgets[reached - 1], budgets[reached]
    width = math.log(long / short)
    bent = bend(_complete_means(curve, target), short)
    logs: list[float] = []
    for seed in sorted(gaps[short].keys() & gaps[long].keys()):
        fall = gaps[short][seed] - gaps[long][seed]
        if fall <= 0:  # it crosses nowhere
            logs.clear()
            break
        share = crossing(gaps[short][seed], fall, min(bent * width**2, 0.9 * fall))
        logs.append(math.log(short / budget) + share * width)
    if not logs:
        return Ratio(None, "unclear", short / budget, long / budget, (short, long), 0)
    log = statistics.t_interval(logs, confidence)
    return Ratio(log, "", at_least, at_most, (short, long), len(logs))


def _mean(by_seed: Mapping[int, float]) -> float:
    return math.fsum(by_seed.values()) / len(by_seed)


def _gaps(
    target: Mapping[int, float], curve: Mapping[int, Mapping[int, float]]
) -> dict[int, dict[int, float]]:
    """The arm's loss minus the target, by budget (ascending) and seed, where both are finite."""
    gaps = {
        tokens: {
            seed: losses[seed] - target[seed]
            for seed in losses.keys() & target.keys()
            if math.isfinite(losses[seed]) and math.isfinite(target[seed])
        }
        for tokens, losses in sorted(curve.items())
    }
    return {tokens: gap for tokens, gap in gaps.items() if gap}


def _complete_means(
    curve: Mapping[int, Mapping[int, float]], target: Mapping[int, float]
) -> dict[int, float]:
    """The arm's mean loss by budget, over seeds of every budget and the target.

    Only these means line up. Empty without such a seed.
    """
    seeds = [
        seed
        for seed in target
        if all(seed in losses and math.isfinite(losses[seed]) for losses in curve.values())
    ]
    return {t: _mean({s: losses[s] for s in seeds}) for t, losses in curve.items() if seeds}


def crossing(gap: float, fall: float, bent: float) -> float:
    """Where the curve gap - fall u + bent u (u - 1) is 0. Requires 0 <= bent < fall.

    u is 0 and 1 at the two budgets; it may lie a little outside.
    """
    steepness = fall + bent
    return 2 * gap / (steepness + math.sqrt(max(0.0, steepness**2 - 4 * bent * gap)))


def bend(means: Mapping[int, float], short: int) -> float:
    """Second divided difference of the mean loss in the log of the budget, at least 0.

    It is taken next to the segment that begins at `short`: with the nearest budget before it, the
    one after it, or the mean of both. It is 0 without a third budget.
    """
    budgets = sorted(means)
    if short not in means or budgets[-1] == short:
        return 0.0
    at = budgets.index(short)
    found = [
        second_difference([math.log(tokens) for tokens in triple], [means[t] for t in triple])
        for triple in (budgets[i : i + 3] for i in (at - 1, at) if i >= 0)
        if len(triple) == 3
    ]
    return max(0.0, math.fsum(found) / len(found)) if found else 0.0
