"""What tuning buys: the best loss to expect after k trials, how wide the good range is, and what
lies off the points of a grid.
"""

import math
from collections.abc import Mapping, Sequence

from minigpt.compare.statistics import second_difference
from minigpt.study.declaration import Setting
from minigpt.study.search import LEAST_RATIO
from minigpt.study.values import is_number


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


def gain_off_grid(scores: Mapping[Setting, float], best: Setting) -> float:
    """How much lower the tuning loss may be than at the best point of a grid, off its points.

    For each key the parabola in log2 through the best value and its neighbours, at its vertex; the
    gains add up. On an edge it goes through the last three points (two: a line). If it still falls
    there, it counts as falling on at that slope for as far as the grid is wide: losses that bend up
    gain no more. A value that is no size, or beside a run that diverged, counts 0.
    """
    gain = 0.0
    for key, value in best:
        line = along(scores, best, key)
        x = sorted(line)
        if len(x) < 2 or x[0] <= 0 or not isinstance(value, int | float) or value not in x:
            continue
        is_edge = value in (x[0], x[-1])
        if value == x[0]:
            x.reverse()  # an edge comes last
        at = x.index(value)
        near = x[-3:] if is_edge else x[at - 1 : at + 2]
        y = [line[v] for v in near]
        if not all(map(math.isfinite, y)):
            continue
        step = abs(math.log2(value / x[at - 1]))
        off = [math.copysign(1.0, value - x[at - 1]) * math.log2(v / value) for v in near]
        bend = max(0.0, second_difference(off, y)) if len(y) > 2 else 0.0
        slope = (line[value] - line[x[at - 1]]) / step + bend * step  # at the best value
        if is_edge and slope < 0:
            grows = step >= math.log2(LEAST_RATIO)
            gain -= slope * abs(math.log2(x[-1] / x[0])) * grows
        elif bend > 0:
            gain += slope**2 / (4 * bend)
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
        if values == others and is_number(value):
            line[float(value)] = score
    return line
