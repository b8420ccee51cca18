"""The setting that an arm is judged with, chosen on tuning seeds.

These take no part in judging: the best of several noisy values looks better than it is.
"""

import math
from collections import Counter
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from minigpt.compare.arms import Arm, Axis, Setting, ended_loss
from minigpt.compare.rules import Rules
from minigpt.compare.statistics import second_difference
from minigpt.study.run import Run
from minigpt.study.values import show


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


def along(arm: Arm, choice: Choice, axis: Axis) -> dict[Any, Score]:
    """The scores by the value of an axis, the other axes as they were chosen."""
    others = [other for other in arm.axes if other is not axis]
    return {
        axis.values[score.setting.key]: score
        for score in choice.scores
        if all(o.values[score.setting.key] == o.values[choice.setting.key] for o in others)
    }


def edges(arm: Arm, choice: Choice) -> list[tuple[str, str]]:
    """Axes on which the choice is the lowest or highest value tried: (`lr=0.04`, `upper`)."""
    found = []
    for axis in arm.axes:
        tried = {axis.values[score.setting.key] for score in choice.scores}
        numbers = [value for value in axis.numbers if value in tried]
        best = axis.values[choice.setting.key]
        if len(numbers) > 1 and best in (numbers[0], numbers[-1]):
            side = "lower" if best == numbers[0] else "upper"
            found.append((f"{axis.name}={show(best)}", side))
    return found


@dataclass(frozen=True)
class Curvature:
    """How fast the tuning loss rises around the chosen value of an axis."""

    per_doubling: float  # nats per squared doubling
    half_step: float  # half of the grid's wider step beside it, in doublings

    @property
    def hidden_loss(self) -> float:
        """What a value between two points of the grid may gain over the better one, at most."""
        return max(0.0, self.per_doubling) * self.half_step**2


def curvatures(arm: Arm, choice: Choice) -> list[Curvature]:
    """The bend of the tuning loss, for each axis of positive numbers with an interior choice.

    It is that of the parabola in log2 of the value through the chosen point and its two neighbours.
    The other axes stay where they were chosen.
    """
    found = []
    for axis in arm.axes:
        if not choice.scores or not axis.numbers or axis.numbers[0] <= 0:
            continue
        losses = {value: score.mean for value, score in along(arm, choice, axis).items()}
        at = sorted(losses).index(axis.values[choice.setting.key])
        beside = sorted(losses)[at - 1 : at + 2] if at else []
        if len(beside) == 3 and all(math.isfinite(losses[value]) for value in beside):
            x = [math.log2(value) for value in beside]
            bend = second_difference(x, [losses[value] for value in beside])
            found.append(Curvature(bend, max(x[2] - x[1], x[1] - x[0]) / 2))
    return found
