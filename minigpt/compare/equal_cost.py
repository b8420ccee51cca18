"""Two arms at equal cost, from the losses that both have."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from minigpt.compare.budget_fit import Estimate, Measured, budget_ratio, difference_at_equal_cost


@dataclass(frozen=True)
class EqualCost:
    """An arm at equal cost."""

    what: str  # tokens, FLOPs or seconds
    ratio: Estimate  # of the baseline's cost at its primary budget, for the same loss
    difference: Estimate  # of losses where both spend the same


def shared_losses(
    losses: Mapping[str, Mapping[float, Mapping[int, float]]],
    tokens: Mapping[float, float],
    primary: float,
) -> Measured | None:
    """The budgets and seeds that all these arms have. None for one budget, or a diverged run.

    losses: arm -> budget -> seed.  tokens: of each budget.
    """
    shared = {
        budget: set.intersection(*(set(found.get(budget, ())) for found in losses.values()))
        for budget in tokens
    }
    seeds, budgets = shared[primary], {primary}
    for budget in sorted(shared, key=lambda one: -len(shared[one])):
        # one with few of the seeds is left out before it leaves no spread
        if len(seeds & shared[budget]) >= min(2, len(shared[primary])):
            seeds, budgets = seeds & shared[budget], budgets | {budget}
    in_order = sorted(budgets)
    found = {
        arm: np.array([[by_budget[b][s] for s in sorted(seeds)] for b in in_order])
        for arm, by_budget in losses.items()
    }
    positive = all((np.isfinite(loss) & (loss > 0)).all() for loss in found.values())
    if len(budgets) < 2 or not positive:  # a metric of one's own may be negative
        return None
    return Measured(tuple(tokens[budget] for budget in in_order), found)


def at_equal_cost(
    measured: Measured,
    arm: str,
    baseline: str,
    primary: float,
    what: str,
    cost: float,
    confidence: float,
) -> EqualCost:
    """cost: what a token of the arm costs, over what one of the baseline costs."""
    ratio = budget_ratio(measured, arm, baseline, primary, confidence)
    return EqualCost(
        what,
        Estimate(ratio.value * cost, ratio.low * cost, ratio.high * cost, ratio.bound),
        difference_at_equal_cost(measured, arm, baseline, primary, cost, confidence),
    )
