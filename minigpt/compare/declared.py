"""The judge of a declared study: what a look says of each arm, by the declaration alone.

Pairs of seeds at the primary budget, a t interval of their differences, the margin that was
declared, Holm's adjustment over the declared arms, and an equal share of the 5 % for each declared
look (Bonferroni). Seeds that diverged are results: an exact test of pairs judges them.

A grid has only some values, and the best ones of two arms lie elsewhere between its points. So a
claim has to hold in the case that is worst for it: the arm that it disfavours gains what the tuning
losses say of values between the points of its grid or beyond its edge, and the other one nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from scipy.special import bdtr

from minigpt.compare import statistics
from minigpt.compare.aligned import blocked_arms
from minigpt.compare.statistics import Interval
from minigpt.compare.tuning_value import gain_off_grid
from minigpt.study.conduct import Look
from minigpt.study.declaration import Declaration
from minigpt.study.planned import PlannedRun
from minigpt.study.run import Run
from minigpt.terminal import count

ALPHA = 0.05
MIN_PAIRS = 8  # fewer leave the spread itself too uncertain to claim anything


class Ended(Protocol):
    """Where the ended runs of a study are read."""

    def read(self, planned: PlannedRun) -> Run: ...


@dataclass(frozen=True)
class Finding:
    """An arm against the baseline. Differences are arm minus baseline: below 0 it is better.

    word: better, worse, equivalent, no difference or undecided.
    p: of the claim, adjusted for the number of arms.
    diverged: seeds on which the arm, and the baseline, diverged and the other did not.
    """

    arm: str
    word: str
    why: str
    pairs: int
    interval: Interval | None  # of the differences; None without a pair of finite losses
    correlation: float | None
    p: float
    diverged: tuple[int, int]


@dataclass(frozen=True)
class CellRuling:
    """What a look says of a cell."""

    look: Look
    confidence: float
    findings: dict[str, Finding]  # by arm, without the baseline

    @property
    def words(self) -> dict[str, str]:
        return {arm: finding.word for arm, finding in self.findings.items()}

    @property
    def decided(self) -> bool:
        return "undecided" not in self.words.values()

    def entry(self) -> dict[str, Any]:
        """For the journal."""
        return {"verdicts": {arm: _entry(found) for arm, found in self.findings.items()}}


def _entry(found: Finding) -> dict[str, Any]:
    entry: dict[str, Any] = {"word": found.word, "why": found.why}
    if found.interval is not None:
        entry["difference"] = round(found.interval.mean, 6)
        if found.interval.n > 1:
            entry["interval"] = [round(found.interval.low, 6), round(found.interval.high, 6)]
            entry["spread"] = round(found.interval.sd, 6)
    return entry


def judge(
    declaration: Declaration, look: Look, blocked: Mapping[str, str] | None = None
) -> CellRuling:
    """Judge every declared arm against the baseline at the primary budget.

    blocked: arm -> why no claim about it is allowed.
    """
    alpha, margin = ALPHA / len(declaration.looks), declaration.margin
    at = {arm: by_budget[declaration.primary] for arm, by_budget in look.losses.items()}
    gain = dict.fromkeys(at, 0.0) | gains(look)
    pairs = {
        arm: _Pairs(
            losses, at[declaration.baseline], 1 - alpha, (gain[arm], gain[declaration.baseline])
        )
        for arm, losses in at.items()
        if arm != declaration.baseline
    }
    # an arm with fewer pairs than others claims nothing, and costs the others nothing
    counted = [arm for arm, pair in pairs.items() if pair.number >= MIN_PAIRS] or list(pairs)
    adjusted = {
        name: dict.fromkeys(pairs, 1.0)
        | dict(zip(counted, statistics.holm([test(pairs[arm], margin) for arm in counted])))
        for name, test in (
            ("beyond", _Pairs.beyond), ("within", _Pairs.within), ("uneven", _Pairs.uneven),
        )
    }  # fmt: skip
    findings = {}
    for arm, pair in pairs.items():
        p = {name: values[arm] for name, values in adjusted.items()}
        word, why, of_claim = _word(pair, p, margin, alpha)
        if word in ("better", "worse", "equivalent") and arm in (blocked or {}):
            word, why = "undecided", f"no claim: {(blocked or {})[arm]}"
        findings[arm] = Finding(
            arm, word, why, pair.number, pair.interval, pair.correlation, of_claim, pair.diverged
        )
    return CellRuling(look, 1 - alpha, findings)


def gains(look: Look) -> dict[str, float]:
    """What each arm would gain off the points of its grid, by its tuning losses."""
    return {arm: gain_off_grid(scores, look.chosen[arm]) for arm, scores in look.scores.items()}


def judge_runs(runs: Ended, declaration: Declaration, look: Look) -> CellRuling:
    """The same for runs on disk, where an arm may differ in more than its name."""
    seeds = declaration.seeds(look.pairs)
    judged = {
        arm: [
            runs.read(PlannedRun(look.cell, arm, setting, declaration.primary, seed))
            for seed in seeds
        ]
        for arm, setting in look.chosen.items()
    }
    return judge(declaration, look, blocked_arms(declaration, judged))


class _Pairs:
    """The losses of an arm and of the baseline, paired by common seeds.

    gains: what the arm, and the baseline, would gain off the points of its grid.
    """

    def __init__(
        self,
        arm: Mapping[int, float],
        baseline: Mapping[int, float],
        confidence: float,
        gains: tuple[float, float],
    ) -> None:
        seeds = sorted(arm.keys() & baseline.keys())
        self.number = len(seeds)
        ended = [s for s in seeds if math.isfinite(arm[s]) and math.isfinite(baseline[s])]
        self.diverged = (
            sum(math.isinf(arm[s]) and math.isfinite(baseline[s]) for s in seeds),
            sum(math.isfinite(arm[s]) and math.isinf(baseline[s]) for s in seeds),
        )
        self.any_diverged = len(ended) < len(seeds)
        a, b = [arm[s] for s in ended], [baseline[s] for s in ended]
        self.interval = differences(a, b, confidence) if ended else None
        self.correlation = statistics.correlation(a, b) if ended else None
        self.lowest = _moved(self.interval, -gains[0]) if self.interval else None
        self.highest = _moved(self.interval, gains[1]) if self.interval else None

    @property
    def least(self) -> Interval | None:
        """The difference in the case that is worst for a claim: the other arm gains, this not."""
        is_lower = self.interval is not None and self.interval.mean < 0
        return self.highest if is_lower else self.lowest

    def beyond(self, margin: float) -> float:
        """p of a difference within the margin, as chosen or off the grid."""
        if self.interval is None or self.least is None or self.interval.mean * self.least.mean < 0:
            return 1.0
        return statistics.p_value(self.least, margin)

    def within(self, margin: float) -> float:
        """p of a difference beyond the margin, as chosen or off the grid."""
        if self.lowest is None or self.highest is None:
            return 1.0
        both = (self.lowest, self.highest)
        return max(statistics.equivalence_p_value(one, margin) for one in both)

    def uneven(self, margin: float) -> float:
        """p of arms that diverge equally often: McNemar's exact test.

        McNemar (1947), Psychometrika 12: of the pairs in which one side diverged, half on each.
        """
        total = sum(self.diverged)
        return min(1.0, 2 * float(bdtr(min(self.diverged), total, 0.5)))


def _moved(interval: Interval, by: float) -> Interval:
    mean, low, high = (one + by for one in (interval.mean, interval.low, interval.high))
    return Interval(mean, low, high, interval.sd, interval.n)


def differences(arm: Sequence[float], baseline: Sequence[float], confidence: float) -> Interval:
    """The t interval of paired differences; those that differ by rounding only are equal."""
    found = statistics.t_interval([x - y for x, y in zip(arm, baseline, strict=True)], confidence)
    rounding = statistics.ROUNDING * max(map(abs, (*arm, *baseline)))
    if found.n > 1 and found.sd <= rounding:
        mean = 0.0 if abs(found.mean) <= rounding else found.mean
        return Interval(mean, mean, mean, 0.0, found.n)
    return found


def _word(
    pairs: _Pairs, p: dict[str, float], margin: float, alpha: float
) -> tuple[str, str, float]:
    """The verdict, why, and the p of its claim."""
    interval, (arm, baseline) = pairs.interval, pairs.diverged
    if p["uneven"] <= alpha:
        word = "worse" if arm > baseline else "better"
        why = f"it diverged on {arm} seeds where the baseline did not, the baseline on {baseline}"
        return word, why, p["uneven"]
    if pairs.any_diverged:
        return "undecided", "seeds diverged, not unevenly enough for a claim", p["uneven"]
    assert interval is not None
    if interval.constant and interval.mean == 0:
        return (
            "no difference",
            f"all {interval.n} pairs are equal: this key does not reach the run",
            1.0,
        )
    if interval.constant:
        return "undecided", f"all {interval.n} pairs differ by exactly as much", 1.0
    if pairs.number < MIN_PAIRS:
        why = f"{count(pairs.number, 'pair')}, of {MIN_PAIRS} that a claim needs"
        return "undecided", why, p["beyond"]
    if p["beyond"] <= alpha:
        word = "better" if interval.mean < 0 else "worse"
        return word, f"the interval lies beyond {_of_margin(margin)}", p["beyond"]
    if p["within"] <= alpha:
        return "equivalent", f"the interval lies within {_of_margin(margin)}", p["within"]
    is_beyond = interval.low > margin or interval.high < -margin
    is_within = -margin < interval.low and interval.high < margin
    if not is_beyond and not is_within:
        return "undecided", f"the interval reaches over {_of_margin(margin)}", p["beyond"]
    alone = pairs.beyond(margin) if is_beyond else pairs.within(margin)
    if alone <= alpha:
        why = "the interval alone would do, but not after Holm's adjustment for several arms"
    else:
        assert pairs.lowest is not None
        assert pairs.highest is not None
        why = (
            "it holds of the chosen values, but off the points of their grids the difference may "
            f"be {pairs.lowest.mean:+.4f} to {pairs.highest.mean:+.4f} (give finer or wider grids)"
        )
    return "undecided", why, p["beyond"]


def _of_margin(margin: float) -> str:
    return f"the margin of {margin:g}" if margin else "0"
