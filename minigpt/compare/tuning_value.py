"""What tuning buys: the best loss to expect after k trials, and how wide the good range is."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from minigpt.compare.statistics import second_difference
from minigpt.study.declaration import Setting


def expected_best(losses: Sequence[float]) -> list[float]:
    """The expected lowest loss of k = 1 .. n random trials, of which these were tried.

    Dodge et al. (2019), Show Your Work, arXiv 1909.03004: the minimum of k draws with replacement.
    A trial that diverged counts as the worst loss that did not.
    """
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite:
        return []
    ordered = sorted(min(loss, max(finite)) for loss in losses)
    n = len(ordered)
    # the minimum is at least the i-th of n if all k draws are
    at_least = [[((n - i) / n) ** k for i in range(n + 1)] for k in range(1, n + 1)]
    return [sum(loss * (p[i] - p[i + 1]) for i, loss in enumerate(ordered)) for p in at_least]


def trials(scores: Mapping[Setting, Mapping[int, float]]) -> list[float]:
    """The loss of each setting that was tried, over its tuning seeds."""
    return [fmean(by_seed.values()) for by_seed in scores.values()]


def good_range(
    scores: Mapping[Setting, float], best: Setting, key: str, margin: float
) -> tuple[float, float, float] | None:
    """The values of a key, others as in the best setting, that lose at most `margin`.

    Returns (lowest, highest, width in doublings), interpolated over log2 between neighbours; an end
    of the grid that is still good is the end of the range. None where a key is no size, or has one
    value.
    """
    line = along(scores, best, key)
    if len(line) < 2 or min(line) <= 0:
        return None
    x = sorted(line)
    start = x.index(float(dict(best)[key]))  # type: ignore[arg-type]
    limit = line[x[start]] + margin

    def end(step: int) -> float:
        at = start
        while 0 <= at + step < len(x) and line[x[at + step]] <= limit:
            at += step
        if not 0 <= at + step < len(x):
            return x[at]
        inner, outer = line[x[at]], line[x[at + step]]
        share = (limit - inner) / (outer - inner) if math.isfinite(outer) else 0.0
        return x[at] * (x[at + step] / x[at]) ** share

    low, high = end(-1), end(1)
    return low, high, math.log2(high / low)


def between_points(scores: Mapping[Setting, float], best: Setting) -> float:
    """How much lower the tuning loss may be between the points of a grid than at its best point.

    For each key the parabola in log2 through the best value and its neighbours, at its vertex; the
    gains add up. A value on an edge, or that is no size, or beside a run that diverged, counts 0.
    """
    gain = 0.0
    for key, value in best:
        line = along(scores, best, key)
        x = sorted(line)
        at = x.index(value) if isinstance(value, int | float) and value in x else 0
        if not 0 < at < len(x) - 1 or x[0] <= 0:
            continue
        left, middle, right = (math.log2(v) for v in x[at - 1 : at + 2])
        y = [line[v] for v in x[at - 1 : at + 2]]
        if not all(map(math.isfinite, y)):
            continue
        bend = second_difference((left, middle, right), y)
        slope = (y[1] - y[0]) / (middle - left) + bend * (middle - left)  # at the middle
        gain += slope**2 / (4 * bend) if bend > 0 else 0.0
    return gain


def along(scores: Mapping[Setting, float], best: Setting, key: str) -> dict[float, float]:
    """Value of a key -> score, other keys as in the best setting. Values that are no numbers are
    left out.
    """
    others = {name: value for name, value in best if name != key}
    line: dict[float, float] = {}
    for setting, score in scores.items():
        values = dict(setting)
        value = values.pop(key, None)
        if values == others and isinstance(value, int | float) and not isinstance(value, bool):
            line[float(value)] = score
    return line
