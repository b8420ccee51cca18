"""What an arm is judged by: the setting chosen on tuning seeds, and the runs that judge it.

The seeds that choose take no part in judging, since the best of several noisy values looks better
than it is. An arm with a single setting chose nothing, so any of its seeds may judge.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from minigpt.compare import statistics
from minigpt.compare.groups import Arm, Setting
from minigpt.compare.statistics import Interval
from minigpt.study.run import Run

FIRST_CONFIRMATION_SEED = 100
ALPHA = 0.05


@dataclass(frozen=True)
class Rules:
    """What was declared before the runs: margin in the unit of the loss, seeds, and when the
    verdict may be read.

    With several declared looks each one spends an equal share of the 5 % (Bonferroni), so that
    looking early is free of charge for the error rate and is paid for in width.
    """

    baseline: str | None = None
    margin: float = 0.0
    tuning_seeds: tuple[int, ...] | None = None
    confirmation_seeds: tuple[int, ...] | None = None
    looks: tuple[int, ...] = ()

    @property
    def alpha(self) -> float:
        return ALPHA / max(1, len(self.looks))

    @property
    def confidence(self) -> float:
        return 1 - self.alpha

    @property
    def read_at(self) -> tuple[int, ...]:
        """The numbers of pairs at which the verdict may be read; empty if nothing was declared.
        Declared seeds without looks are read once, when all of them are there."""
        return self.looks or ((len(self.confirmation_seeds),) if self.confirmation_seeds else ())

    def confirms(self, seed: int) -> bool:
        """Whether a seed judges."""
        if self.confirmation_seeds is not None:
            return seed in self.confirmation_seeds
        if self.tuning_seeds is not None and seed in self.tuning_seeds:
            return False
        return seed >= FIRST_CONFIRMATION_SEED

    def tunes(self, seed: int) -> bool:
        """Whether a seed chooses."""
        return (
            seed in self.tuning_seeds if self.tuning_seeds is not None else not self.confirms(seed)
        )


def declared_rules(
    runs: Sequence[Run], baseline: str | None, margin: float | None
) -> tuple[Rules, list[str]]:
    """The `verdict` declaration of the runs, with what the command line says instead; and what is
    odd about it.

    Where runs declare different things the oldest one counts: a declaration that changes on the way
    is none.
    """
    found = [run.config.get("verdict") or {} for run in runs]
    found = [node for node in found if any(value is not None for value in node.values())]
    first: dict[str, Any] = found[0] if found else {}
    notes = []
    if len({json.dumps(node, sort_keys=True) for node in found}) > 1:
        notes.append("the runs declare different verdict.* values; those of the oldest run count")
    for key, given in (("baseline", baseline), ("margin", margin)):
        if given is not None and first.get(key) is not None and first[key] != given:
            notes.append(f"--{key} {given} replaces the declared verdict.{key}={first[key]}")
    seeds = {
        key: tuple(first[key]) if first.get(key) else None
        for key in ("tuning_seeds", "confirmation_seeds")
    }
    return Rules(
        baseline=baseline if baseline is not None else first.get("baseline"),
        margin=float(margin if margin is not None else first.get("margin") or 0.0),
        tuning_seeds=seeds["tuning_seeds"],
        confirmation_seeds=seeds["confirmation_seeds"],
        looks=tuple(first.get("looks") or ()),
    ), notes


@dataclass(frozen=True)
class Score:
    """A setting on the tuning seeds. mean: infinite if one of them diverged."""

    setting: Setting
    mean: float
    seeds: tuple[int, ...]
    diverged: int
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Choice:
    """The setting that an arm is judged with. horizon: the budget it was tuned at, None if nothing
    was tuned.
    """

    setting: Setting
    scores: tuple[Score, ...]  # best first
    horizon: int | None


def choose(arm: Arm, horizon: int, rules: Rules, metric: str) -> Choice | None:
    """The setting with the lowest mean loss over the tuning seeds, at this budget or the nearest
    tuned one below it (else above it). A setting that diverged on a tuning seed comes last. None
    for an arm with nothing to choose by.
    """
    settings = list(arm.settings.values())
    if len(settings) == 1:
        return Choice(settings[0], (), None)
    tried = Counter(
        h for s in settings for h, seeds in s.runs.items() if any(map(rules.tunes, seeds))
    )
    # A lone run at another budget is no tuning there.
    tuned = [h for h, count in tried.items() if count > 1] or list(tried)
    if not tuned:
        # Several settings and no seed to choose by: the one with most confirmation runs was meant,
        # if it is unique.
        counts = sorted(((len(s.runs.get(horizon, {})), s.key, s) for s in settings), reverse=True)
        return Choice(counts[0][2], (), None) if counts[0][0] > counts[1][0] else None
    at = max((h for h in tuned if h <= horizon), default=min(tuned))
    scores = []
    for setting in settings:
        runs = {seed: run for seed, run in setting.runs.get(at, {}).items() if rules.tunes(seed)}
        losses = [_loss(run, metric) for run in runs.values()]
        if losses:
            diverged = sum(math.isinf(loss) for loss in losses)
            scores.append(
                Score(setting, fmean(losses), tuple(sorted(runs)), diverged, tuple(runs.values()))
            )
    scores.sort(key=lambda score: (score.mean, score.setting.key))
    return Choice(scores[0].setting, tuple(scores), at)


def _loss(run: Run, metric: str) -> float:
    loss = run.loss(metric)
    assert loss is not None, f"{run.name} has not ended"
    return loss


@dataclass(frozen=True)
class Evidence:
    """The runs that judge an arm at a budget.

    kind: "confirmation" (seeds that took no part in the choice), "one setting" (nothing was chosen)
        or "tuning" (the
    seeds that chose: too good, never a claim).  losses: by seed, infinite where it diverged.
        label: of the setting.
    """

    arm: str
    horizon: int
    setting: Setting
    label: str
    kind: str
    runs: dict[int, Run]
    losses: dict[int, float]
    interval: Interval | None  # of the finite losses

    @property
    def diverged(self) -> tuple[int, ...]:
        return tuple(seed for seed, loss in sorted(self.losses.items()) if math.isinf(loss))


def evidence(arm: Arm, choice: Choice, horizon: int, rules: Rules, metric: str) -> Evidence | None:
    """What judges the chosen setting of an arm at a budget; None if no such run has ended."""
    runs = choice.setting.runs.get(horizon, {})
    confirming = {seed: run for seed, run in runs.items() if rules.confirms(seed)}
    kind = "confirmation" if confirming else "tuning" if len(arm.settings) > 1 else "one setting"
    runs = dict(sorted((confirming or runs).items()))
    if not runs:
        return None
    losses = {seed: _loss(run, metric) for seed, run in runs.items()}
    finite = [loss for loss in losses.values() if math.isfinite(loss)]
    interval = statistics.t_interval(finite, rules.confidence) if finite else None
    return Evidence(
        arm.name,
        horizon,
        choice.setting,
        arm.describe(choice.setting),
        kind,
        runs,
        losses,
        interval,
    )


@dataclass(frozen=True)
class Curvature:
    """How fast the tuning loss rises around the chosen value of an axis.

    per_doubling: nats per squared doubling.  half_step: half of the grid's wider step beside it, in
        doublings.
    """

    axis: str
    per_doubling: float
    half_step: float

    @property
    def hidden_loss(self) -> float:
        """What the best value between two points of the grid may gain over the better of them, at
        most about.
        """
        return max(0.0, self.per_doubling) * self.half_step**2


def curvatures(arm: Arm, choice: Choice) -> list[Curvature]:
    """The parabola in log2 of the value through the chosen point and its two neighbours (second
    divided difference), for every axis of positive numbers on which the choice is interior; the
    other axes stay where they were chosen."""
    found = []
    for axis in arm.axes:
        if not axis.numbers or axis.numbers[0] <= 0:
            continue
        others = [other for other in arm.axes if other is not axis]
        line = sorted(
            (axis.values[score.setting.key], score.mean)
            for score in choice.scores
            if all(o.values[score.setting.key] == o.values[choice.setting.key] for o in others)
        )
        at = (
            [value for value, _ in line].index(axis.values[choice.setting.key])
            if choice.scores
            else 0
        )
        if not 0 < at < len(line) - 1 or not all(
            math.isfinite(loss) for _, loss in line[at - 1 : at + 2]
        ):
            continue
        (x0, y0), (x1, y1), (x2, y2) = (
            (math.log2(value), loss) for value, loss in line[at - 1 : at + 2]
        )
        second = ((y2 - y1) / (x2 - x1) - (y1 - y0) / (x1 - x0)) / (x2 - x0)
        found.append(Curvature(axis.name, second, max(x2 - x1, x1 - x0) / 2))
    return found
