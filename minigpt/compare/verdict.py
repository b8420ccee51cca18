"""Two arms at one budget: paired by seed, with a word on the difference.

Without a declaration there are no claims: losses are lower, higher or alike.
"""

import math
from dataclasses import dataclass

from minigpt.compare import statistics
from minigpt.compare.evidence import Evidence
from minigpt.compare.rules import Rules
from minigpt.compare.statistics import Interval

MIN_PAIRS = 8  # fewer leave the spread itself too uncertain to claim anything


@dataclass(frozen=True)
class Pairs:
    """An arm beside the baseline at one budget. Differences are arm minus baseline."""

    arm: Evidence
    baseline: Evidence
    seeds: tuple[int, ...]  # common ones, with a finite loss on both sides
    interval: Interval | None  # of the differences; None without any
    correlation: float | None

    @property
    def diverged(self) -> bool:
        return bool(self.arm.diverged or self.baseline.diverged)

    @property
    def number(self) -> int:
        """How many seeds ended on both sides, also those that diverged on one."""
        diverged = {*self.arm.diverged, *self.baseline.diverged}
        common = self.arm.losses.keys() & self.baseline.losses.keys()
        return len(self.seeds) + len(diverged & common)


@dataclass(frozen=True)
class Comparison(Pairs):
    """Pairs with their verdict. Below 0 the arm is better."""

    p_holm: float  # of the verdict's claim, adjusted for the number of arms
    verdict: str  # lower, higher, alike, no difference or undecided
    why: str  # a clause
    missing: tuple[str, ...]  # what a claim still needs


def compare_arms(found: dict[str, Evidence], baseline: str, rules: Rules) -> tuple[Comparison, ...]:
    """Each arm against the baseline, with Holm's adjustment over the arms."""
    if baseline not in found:
        return ()
    pairs = [
        pair_up(arm, found[baseline], rules) for name, arm in found.items() if name != baseline
    ]
    intervals, margin = [pair.interval for pair in pairs], rules.margin
    beyond = statistics.holm([statistics.p_value(i, margin) if i else 1.0 for i in intervals])
    within = statistics.holm(
        [statistics.equivalence_p_value(i, margin) if i else 1.0 for i in intervals]
    )
    return tuple(_judged(*each, rules) for each in zip(pairs, beyond, within))


def pair_up(arm: Evidence, baseline: Evidence, rules: Rules) -> Pairs:
    """The interval of the differences by seed, and the correlation. Diverged seeds are left out."""
    seeds = tuple(
        seed
        for seed in sorted(arm.losses.keys() & baseline.losses.keys())
        if math.isfinite(arm.losses[seed]) and math.isfinite(baseline.losses[seed])
    )
    if not seeds:
        return Pairs(arm, baseline, seeds, None, None)
    a, b = [arm.losses[seed] for seed in seeds], [baseline.losses[seed] for seed in seeds]
    interval = statistics.t_interval([x - y for x, y in zip(a, b)], rules.confidence)
    # Subtracting equal numbers leaves rounding, which is neither spread nor difference.
    rounding = statistics.ROUNDING * max(map(abs, (*a, *b)))
    if interval.n > 1 and interval.sd <= rounding:
        mean = 0.0 if abs(interval.mean) <= rounding else interval.mean
        interval = Interval(mean, mean, mean, 0.0, interval.n)
    return Pairs(arm, baseline, seeds, interval, statistics.correlation(a, b))


def _judged(pairs: Pairs, beyond: float, within: float, rules: Rules) -> Comparison:
    missing = missing_for_a_claim(pairs, rules)
    verdict, why = _verdict(pairs, beyond, within, rules, claimable=not missing)
    return Comparison(
        **vars(pairs),
        p_holm=min(beyond, within) if verdict == "alike" else beyond,
        verdict=verdict,
        why=why,
        missing=missing,
    )


def _verdict(
    pairs: Pairs, beyond: float, within: float, rules: Rules, claimable: bool
) -> tuple[str, str]:
    """lower, higher, alike, no difference or undecided, and why.

    A diverged seed counts against its arm: it can be found higher, never lower or alike.
    beyond, within: adjusted p of a difference beyond and within the margin.
    """
    interval, margin = pairs.interval, rules.margin
    if interval is None:
        return _of_diverged(pairs, claimable)
    if interval.constant:
        if interval.mean == 0 and not pairs.diverged:
            return "no difference", f"all {interval.n} pairs are equal"
        if interval.mean != 0:
            alike = f"all {interval.n} pairs differ by exactly as much"
            return "undecided", f"{alike}: the seeds repeat one measurement"
    if not claimable:
        return "undecided", "too little for a claim"
    if beyond <= rules.alpha:
        beyond_what = f"the interval lies beyond {f'the margin of {margin:g}' if margin else '0'}"
        if interval.mean < 0 and not pairs.arm.diverged:
            return "lower", beyond_what
        if interval.mean > 0 and not pairs.baseline.diverged:
            return "higher", beyond_what
    if pairs.diverged:
        return "undecided", "diverged seeds count against their arm"
    if within <= rules.alpha:
        return "alike", f"the interval lies within the margin of {margin:g}"
    if interval.high < -margin or interval.low > margin:
        alone = "the interval alone would do"
        return "undecided", f"{alone}, but not after Holm's adjustment for several arms"
    return "undecided", f"the interval {'overlaps the margin' if margin else 'contains 0'}"


def _of_diverged(pairs: Pairs, claimable: bool) -> tuple[str, str]:
    """The verdict without a pair of finite losses."""
    arm, baseline = pairs.arm, pairs.baseline
    for side, other, word in ((arm, baseline, "higher"), (baseline, arm, "lower")):
        if claimable and len(side.diverged) == len(side.losses) and not other.diverged:
            return word, f"every seed of {side.arm} diverged"
    common = arm.losses.keys() & baseline.losses.keys()
    return "undecided", "every pair has a diverged run" if common else "no seed in common"


def missing_for_a_claim(pairs: Pairs, rules: Rules) -> tuple[str, ...]:
    """What a claim still needs, one clause each."""
    arm, baseline = pairs.arm, pairs.baseline
    missing = [
        f"confirmation seeds of {side.arm} at {side.label}, "
        "which was chosen on the very seeds shown here"
        for side in (arm, baseline)
        if side.kind == "tuning"
    ]
    number = pairs.number
    if number < MIN_PAIRS:
        missing.append(f"{MIN_PAIRS - number} more pairs of seeds: {number} of {MIN_PAIRS}")
        for side, other in ((arm, baseline), (baseline, arm)):
            if alone := sorted(side.losses.keys() - other.losses.keys()):
                seeds = ", ".join(map(str, alone))
                missing.append(
                    f"{other.arm} has no ended run of seed {seeds}, which {side.arm} has"
                )
    return tuple(missing)
