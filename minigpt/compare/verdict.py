"""From runs to a verdict: choose each arm's setting, judge it on other seeds, pair by seed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from minigpt.compare import statistics
from minigpt.compare.budget_to_equal_loss import EqualLoss, budget_to_equal_loss
from minigpt.compare.groups import Group
from minigpt.compare.selection import Choice, Evidence, Rules, choose, evidence
from minigpt.compare.statistics import Interval
from minigpt.errors import ConfigError

MIN_PAIRS = 8  # fewer leave the spread itself too uncertain to claim anything


@dataclass(frozen=True)
class Comparison:
    """An arm held against the baseline at one budget. Differences are arm minus baseline: below 0
    the arm is better.

    seeds: of the pairs.  interval: of the finite differences, None without any.  p: two-sided, of
    no difference at all; p_holm: of the verdict's claim, adjusted for the number of arms.  verdict:
    better, worse, equivalent,
    no difference or undecided.  why: a clause.  missing: what a claim still needs.
    """

    arm: Evidence
    baseline: Evidence
    seeds: tuple[int, ...]
    interval: Interval | None
    correlation: float | None
    p: float
    p_holm: float
    verdict: str
    why: str
    pairs_needed: int | None
    detectable: float | None
    missing: tuple[str, ...]


@dataclass(frozen=True)
class AtHorizon:
    """Everything known at one budget."""

    horizon: int
    evidence: dict[str, Evidence]
    comparisons: tuple[Comparison, ...]


@dataclass
class Result:
    """The judged group. horizons: by budget.  headline: the one whose verdict counts.  baseline:
    the arm's name.
    """

    group: Group
    rules: Rules
    baseline: str
    choices: dict[str, Choice]
    horizons: dict[int, AtHorizon]
    headline: int
    equal_loss: list[EqualLoss] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def at_headline(self) -> AtHorizon:
        return self.horizons[self.headline]


def judge(group: Group, rules: Rules, notes: Sequence[str] = ()) -> Result | None:
    """Choose, confirm and compare. None if no two arms have ended runs at a common budget.

    Raises ConfigError if the baseline is not among the arms.
    """
    baseline = rules.baseline if rules.baseline is not None else group.first_typed
    if baseline not in group.arms:
        raise ConfigError(
            f"no such arm: --baseline {baseline} (arms of {group.question.by}: {', '.join(group.arms)})"
        )
    metric = group.question.metric
    budgets = sorted(
        {h for arm in group.arms.values() for s in arm.settings.values() for h in s.runs}
    )
    found: dict[int, dict[str, Evidence]] = {}
    for horizon in budgets:
        for name, arm in group.arms.items():
            choice = choose(arm, horizon, rules, metric)
            proof = evidence(arm, choice, horizon, rules, metric) if choice else None
            if proof is not None:
                found.setdefault(horizon, {})[name] = proof
    common = [h for h, arms in found.items() if baseline in arms and len(arms) > 1]
    if not common:
        return None
    headline = max(
        common,
        key=lambda h: (sum(e.kind != "tuning" and len(e.runs) > 1 for e in found[h].values()), h),
    )
    horizons = {h: AtHorizon(h, found[h], _compare_all(found[h], baseline, rules)) for h in found}
    choices = {name: choose(arm, headline, rules, metric) for name, arm in group.arms.items()}
    result = Result(
        group,
        rules,
        baseline,
        {name: c for name, c in choices.items() if c},
        horizons,
        headline,
        notes=list(notes),
    )
    result.equal_loss = _equal_loss(result, metric)
    return result


def _compare_all(found: dict[str, Evidence], baseline: str, rules: Rules) -> tuple[Comparison, ...]:
    """Each arm against the baseline, with Holm's adjustment over the arms."""
    if baseline not in found:
        return ()
    arms = [arm for name, arm in found.items() if name != baseline]
    pairs = [_paired(arm, found[baseline], rules) for arm in arms]
    claims = statistics.holm(
        [statistics.p_value(i, rules.margin) if i else 1.0 for _, i, _ in pairs]
    )
    alike = statistics.holm(
        [statistics.equivalence_p_value(i, rules.margin) if i else 1.0 for _, i, _ in pairs]
    )
    return tuple(
        _compare(arm, found[baseline], pair, claim, same, rules)
        for arm, pair, claim, same in zip(arms, pairs, claims, alike)
    )


def _paired(
    arm: Evidence, baseline: Evidence, rules: Rules
) -> tuple[tuple[int, ...], Interval | None, float | None]:
    """Common seeds with a finite loss on both sides, the interval of their differences, and the
    correlation.
    """
    seeds = tuple(
        seed
        for seed in sorted(arm.losses.keys() & baseline.losses.keys())
        if math.isfinite(arm.losses[seed]) and math.isfinite(baseline.losses[seed])
    )
    if not seeds:
        return seeds, None, None
    a, b = [arm.losses[seed] for seed in seeds], [baseline.losses[seed] for seed in seeds]
    differences = [x - y for x, y in zip(a, b)]
    interval = statistics.t_interval(differences, rules.confidence)
    # what is left of subtracting equal numbers
    if interval.sd <= statistics.ROUNDING * max(map(abs, (*a, *b))):
        mean = (
            0.0
            if abs(interval.mean) <= statistics.ROUNDING * max(map(abs, (*a, *b)))
            else interval.mean
        )
        if interval.n > 1:
            interval = Interval(mean, mean, mean, 0.0, interval.n)
    return seeds, interval, statistics.correlation(a, b)


def _compare(
    arm: Evidence,
    baseline: Evidence,
    pair: tuple[tuple[int, ...], Interval | None, float | None],
    claim: float,
    alike: float,
    rules: Rules,
) -> Comparison:
    seeds, interval, correlation = pair
    missing = _missing(arm, baseline, seeds, rules)
    verdict, why = _verdict(arm, baseline, interval, claim, alike, rules, claimable=not missing)
    needed = detectable = None
    if interval is not None:
        detectable = statistics.detectable_difference(interval.sd, interval.n, rules.confidence)
        if verdict == "undecided" and not arm.diverged and not baseline.diverged:
            needed = statistics.pairs_to_decide(interval, rules.margin, MIN_PAIRS, rules.confidence)
    return Comparison(
        arm=arm,
        baseline=baseline,
        seeds=seeds,
        interval=interval,
        correlation=correlation,
        p=statistics.p_value(interval) if interval else 1.0,
        p_holm=min(claim, alike) if verdict == "equivalent" else claim,
        verdict=verdict,
        why=why,
        pairs_needed=needed,
        detectable=detectable,
        missing=missing,
    )


def _verdict(
    arm: Evidence,
    baseline: Evidence,
    interval: Interval | None,
    claim: float,
    alike: float,
    rules: Rules,
    claimable: bool,
) -> tuple[str, str]:
    """better, worse, equivalent, no difference or undecided, and why.

    A diverged seed counts against its arm: that arm can be found worse, and never better or
        equivalent.
    """
    if interval is None:
        both = arm.losses.keys() & baseline.losses.keys()
        for side, other, word in ((arm, baseline, "worse"), (baseline, arm, "better")):
            if claimable and len(side.diverged) == len(side.losses) and not other.diverged:
                return word, f"every seed of {side.arm} diverged"
        return "undecided", "every pair has a diverged run" if both else "no seed in common"
    if interval.constant:
        if interval.mean == 0 and not arm.diverged and not baseline.diverged:
            return "no difference", f"all {interval.n} pairs are equal"
        if interval.mean != 0:
            return (
                "undecided",
                f"all {interval.n} pairs differ by exactly as much: the seeds repeat one measurement",
            )
    if not claimable:
        return "undecided", "too little for a claim"
    better = claim <= rules.alpha and interval.mean < 0
    worse = claim <= rules.alpha and interval.mean > 0
    if (better and not arm.diverged) or (worse and not baseline.diverged):
        beyond = f"beyond the margin of {rules.margin:g}" if rules.margin else "beyond 0"
        return ("better" if better else "worse"), f"the interval lies {beyond}"
    if arm.diverged or baseline.diverged:
        return "undecided", "diverged seeds count against their arm"
    if alike <= rules.alpha:
        return "equivalent", f"the interval lies within the margin of {rules.margin:g}"
    if interval.high < -rules.margin or interval.low > rules.margin:
        return (
            "undecided",
            "the interval alone would do, but not after Holm's adjustment for several arms",
        )
    inside = "overlaps the margin" if rules.margin else "contains 0"
    return "undecided", f"the interval {inside}"


def _missing(
    arm: Evidence, baseline: Evidence, seeds: tuple[int, ...], rules: Rules
) -> tuple[str, ...]:
    """What a claim still needs, one clause each."""
    missing = []
    for side in (arm, baseline):
        if side.kind == "tuning":
            missing.append(
                f"confirmation seeds of {side.arm} at {side.label}, which was chosen on the very seeds shown here"
            )
    pairs = len(seeds) + len(
        {*arm.diverged, *baseline.diverged} & arm.losses.keys() & baseline.losses.keys()
    )
    if pairs < MIN_PAIRS:
        missing.append(f"{MIN_PAIRS - pairs} more pairs of seeds: {pairs} of {MIN_PAIRS}")
    for side, other in ((arm, baseline), (baseline, arm)):
        if (alone := sorted(side.losses.keys() - other.losses.keys())) and pairs < MIN_PAIRS:
            seeds_alone = ", ".join(map(str, alone))
            missing.append(
                f"{other.arm} has no ended run of seed {seeds_alone}, which {side.arm} has"
            )
    if rules.read_at and pairs not in rules.read_at and pairs >= MIN_PAIRS:
        declared = ", ".join(map(str, rules.read_at))
        missing.append(
            f"a declared look: there are {pairs} pairs, and the verdict was to be read at {declared}"
        )
    return tuple(missing)


def _equal_loss(result: Result, metric: str) -> list[EqualLoss]:
    """For every budget of the baseline, the budget with which each other arm, at its headline
    setting, equals it.
    """

    def judging(name: str) -> dict[int, Evidence]:
        arm, choice = result.group.arms[name], result.choices[name]
        proofs = [
            evidence(arm, choice, horizon, result.rules, metric)
            for horizon in sorted(choice.setting.runs)
        ]
        return {
            proof.horizon: proof for proof in proofs if proof is not None and proof.kind != "tuning"
        }

    found = []
    targets = judging(result.baseline) if result.baseline in result.choices else {}
    for name in result.choices.keys() - {result.baseline} if targets else ():
        curve = judging(name)
        losses = {horizon: proof.losses for horizon, proof in curve.items()}
        for horizon, target in targets.items():
            ratio = budget_to_equal_loss(target.losses, horizon, losses, result.rules.confidence)
            if ratio is not None:
                runs = [
                    *target.runs.values(),
                    *(run for used in ratio.used for run in curve[used].runs.values()),
                ]
                found.append(EqualLoss(name, result.baseline, horizon, ratio, runs))
    return sorted(found, key=lambda one: (list(result.group.arms).index(one.arm), -one.horizon))
