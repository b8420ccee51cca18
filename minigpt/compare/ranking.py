"""Several arms at once: their order, and which of them may be the best."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scipy.special import bdtrc, stdtr

from minigpt.compare.statistics import Interval, holm, t_interval


@dataclass(frozen=True)
class Ranked:
    """An arm in the order of mean losses. may_be_best: no other arm is shown to be better.

    p: of the strongest evidence that another arm is better, adjusted for their number.
    """

    arm: str
    loss: Interval
    may_be_best: bool
    p: float


def rank(
    losses: Mapping[str, Mapping[int, float]],
    alpha: float,
    gains: Mapping[str, float] | None = None,
) -> list[Ranked]:
    """The arms, best first. losses: arm -> final loss by seed; pairs are of common seeds.
    gains: arm -> what it would gain off the points of its grid, 0 for others.

    Multiple comparisons with the best, after Hsu (1984), Ann. Statist. 12, in its paired form: an
    arm is out if one of the others is better by a one-sided paired t test, adjusted by Holm over
    those others. The best arm is then out in at most `alpha` of all studies, however many arms
    there are. Another arm has to be better by more than this one may gain. An arm that diverged on
    a seed comes last. It is out if another one is shown to diverge less often, by a one-sided exact
    test of pairs (McNemar 1947): a seed that diverges by chance proves as little as a loss that is
    high by chance.
    """
    gains = gains or {}
    finite = {arm: all(map(math.isfinite, by_seed.values())) for arm, by_seed in losses.items()}
    ranked = []
    for arm, by_seed in losses.items():
        ended = [value for value in by_seed.values() if math.isfinite(value)]
        loss = t_interval(ended, 1 - alpha) if ended else Interval(math.inf, 0, math.inf, 0.0, 0)
        others = [
            _p_better(losses[other], by_seed, gains.get(arm, 0.0))
            for other in losses
            if other != arm
        ]
        p = min(holm(others), default=1.0)
        ranked.append(Ranked(arm, loss, p > alpha, p))
    return sorted(ranked, key=lambda one: (not finite[one.arm], one.loss.mean))


def _p_better(other: Mapping[int, float], arm: Mapping[int, float], gain: float) -> float:
    """One-sided p of `other` being no better than `arm`; of losses, or of how often they diverge if
    any did.

    gain: of the arm, off the points of its grid.
    """
    pairs = [(other[seed], arm[seed]) for seed in other if seed in arm]
    ended = [(math.isfinite(a), math.isfinite(b)) for a, b in pairs]
    if not all(a and b for a, b in ended):
        alone, uneven = sum(a and not b for a, b in ended), sum(a != b for a, b in ended)
        return float(bdtrc(alone - 1, uneven, 0.5)) if alone else 1.0
    if not pairs:
        return 1.0
    interval = t_interval([a - b for a, b in pairs])
    if interval.n < 2 or interval.constant:
        return 1.0
    return float(stdtr(interval.n - 1, (interval.mean + gain) / interval.standard_error))
