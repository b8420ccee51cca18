"""The setting that an arm is judged with, chosen on tuning seeds.

These take no part in judging: the best of several noisy values looks better than it is.
"""

import math
from collections import Counter
from dataclasses import dataclass
from statistics import fmean

from minigpt.compare.arms import Arm, Setting, ended_loss
from minigpt.compare.rules import Rules
from minigpt.study.run import Run


@dataclass(frozen=True)
class Score:
    """A setting on the tuning seeds."""

    setting: Setting
    mean: float  # infinite if a seed diverged
    seeds: tuple[int, ...]
    diverged: int
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Choice:
    """The setting that an arm is judged with."""

    setting: Setting
    scores: tuple[Score, ...] = ()  # best first
    budget: int | None = None  # at which it was tuned; None if nothing was tuned


def choose_setting(arm: Arm, budget: int, rules: Rules, metric: str) -> Choice | None:
    """The setting with the lowest mean loss over the tuning seeds.

    It counts at this budget, else at the nearest tuned one below it, else above it.
    A setting that diverged on a tuning seed comes last.
    Without tuning seeds it is the setting with most confirmation runs, if it is unique, else None.
    """
    settings = list(arm.settings.values())
    if len(settings) == 1:
        return Choice(settings[0])
    tried = Counter(
        tokens for s in settings for tokens, seeds in s.runs.items() if any(map(rules.tunes, seeds))
    )
    # A lone run at another budget is no tuning there.
    tuned = [tokens for tokens, number in tried.items() if number > 1] or list(tried)
    if not tuned:
        counts = sorted(((len(s.runs.get(budget, {})), s.key, s) for s in settings), reverse=True)
        return Choice(counts[0][2]) if counts[0][0] > counts[1][0] else None
    at = max((tokens for tokens in tuned if tokens <= budget), default=min(tuned))
    scores = []
    for setting in settings:
        runs = {seed: run for seed, run in setting.runs.get(at, {}).items() if rules.tunes(seed)}
        if not runs:
            continue
        losses = [ended_loss(run, metric) for run in runs.values()]
        diverged = sum(map(math.isinf, losses))
        seeds = tuple(sorted(runs))
        scores.append(Score(setting, fmean(losses), seeds, diverged, tuple(runs.values())))
    scores.sort(key=lambda score: (score.mean, score.setting.key))
    return Choice(scores[0].setting, tuple(scores), at)


@dataclass(frozen=True)
class Curvature:
    """How fast the tuning loss rises around the chosen value of an axis."""

    axis: str
    per_doubling: float  # nats per squared doubling
    half_step: float  # half of the grid's wider step beside it, in doublings

    @property
    def hidden_loss(self) -> float:
        """What a value between two points of the grid may gain over the better one, at most."""
        return max(0.0, self.per_doubling) * self.half_step**2


def curvatures(arm: Arm, choice: Choice) -> list[Curvature]:
    """The bend of the tuning loss, for each axis of positive numbers with an interior choice.

    It is that of the parabola in log2 of the value through the chosen point and its two neighbours
    (second divided difference). The other axes stay where they were chosen.
    """
    found = []
    for axis in arm.axes:
        if not choice.scores or not axis.numbers or axis.numbers[0] <= 0:
            continue
        others = [other for other in arm.axes if other is not axis]
        line = sorted(
            (math.log2(axis.values[score.setting.key]), score.mean)
            for score in choice.scores
            if all(o.values[score.setting.key] == o.values[choice.setting.key] for o in others)
        )
        chosen = math.log2(axis.values[choice.setting.key])
        at = [x for x, _ in line].index(chosen)
        beside = line[at - 1 : at + 2] if at else []
        if len(beside) < 3 or not all(math.isfinite(loss) for _, loss in beside):
            continue
        (x0, y0), (x1, y1), (x2, y2) = beside
        second = ((y2 - y1) / (x2 - x1) - (y1 - y0) / (x1 - x0)) / (x2 - x0)
        found.append(Curvature(axis.name, second, max(x2 - x1, x1 - x0) / 2))
    return found
