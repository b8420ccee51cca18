"""The figures that simulate.py draws from, measured on real runs: spread, correlation, bends.

    cd experiments/calibration
    python measure.py ../../outputs --study muon_vs_adamw > parameters.json

Needs a tuned and confirmed study with three learning rates or more in each arm, and two budgets or
more.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from statistics import fmean

import numpy as np

from minigpt.compare.groups import group_runs
from minigpt.compare.judge import Result, judge
from minigpt.compare.question import Question
from minigpt.compare.rules import Rules
from minigpt.compare.statistics import Interval
from minigpt.compare.tuning import curvatures
from minigpt.errors import ConfigError, MinigptError
from minigpt.study.find import find
from minigpt.study.select import select


def parameters(result: Result, source: str) -> dict[str, object]:
    """parameters.json of a judged group. Raises ConfigError for what the runs do not show."""
    new = next((c.arm.arm for c in result.at_headline.comparisons), "")
    spread = {
        name: pooled_sd(
            [found.interval for at in result.budgets.values() if (found := at.evidence.get(name))]
        )
        for name in (result.baseline, new)
    }
    bends = [
        c.per_doubling
        for name in result.choices
        for c in curvatures(result.group.arms[name], result.choices[name])
    ]
    correlations = [
        c.correlation
        for at in result.budgets.values()
        for c in at.comparisons
        if c.correlation is not None
    ]
    points = [
        (math.log2(budget / result.headline), found.interval.mean)
        for budget, at in result.budgets.items()
        if (found := at.evidence.get(result.baseline)) is not None and found.interval is not None
    ]
    lacking = {
        "two confirmation seeds of each arm": not all(spread.values()),
        "three learning rates around the best": not bends,
        "three pairs of seeds": not correlations,
        "two budgets of the baseline": len(points) < 2,
    }
    if any(lacking.values()):
        missing = [what for what, lacks in lacking.items() if lacks]
        raise ConfigError(
            f"too few runs: {source}: no {', no '.join(missing)} (run them; see the docstring)"
        )
    x, y = zip(*points)
    bend, slope, loss = np.polyfit(x, y, 2) if len(points) > 2 else (0.0, *np.polyfit(x, y, 1))
    return {
        "source": source,
        "seed_sd": round(spread[result.baseline], 6),
        "seed_sd_new": round(spread[new], 6),
        "seed_correlation": round(max(0.0, fmean(correlations)), 3),
        "curvature": round(max(0.0, fmean(bends)), 6),
        "loss_at_judged": round(float(loss), 4),
        "slope_per_doubling": round(float(slope), 5),
        "slope_flattening": round(2 * float(bend), 5),
    }


def pooled_sd(intervals: list[Interval | None]) -> float:
    """Standard deviation within budgets, pooled by degrees of freedom; 0 without two seeds."""
    several = [interval for interval in intervals if interval is not None and interval.n > 1]
    degrees = sum(interval.n - 1 for interval in several)
    squares = sum((interval.n - 1) * interval.sd**2 for interval in several)
    return math.sqrt(squares / degrees) if degrees else 0.0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path)
    parser.add_argument("--by", default="optim")
    parser.add_argument("--study")
    options = parser.parse_args()
    try:
        runs = select(find([options.path]).runs, options.study, [])
        groups = group_runs(Question(options.by), runs).several
        result = judge(groups[0], Rules()) if groups else None
        if result is None:
            why = "no two arms have ended runs at a common budget"
            raise ConfigError(f"nothing to measure: {options.path}: {why}")
        study, group = options.study or options.path.name, result.group
        source = f"{study}: {group.title}, {len(group.runs)} runs"
        print(json.dumps(parameters(result, source), indent=2))
    except MinigptError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
