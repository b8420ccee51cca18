"""The runs that judge an arm at a budget."""

import math
from dataclasses import dataclass

from minigpt.compare import statistics
from minigpt.compare.arms import Arm, Setting, ended_loss
from minigpt.compare.rules import Rules
from minigpt.compare.statistics import Interval
from minigpt.study.run import Run


@dataclass(frozen=True)
class Evidence:
    """The runs of an arm's setting at one budget, by seed.

    kind is "confirmation" (seeds that took no part in the choice), "one setting" (nothing was
    chosen, so any seed judges) or "tuning" (the seeds that chose: too good, never a claim).
    """

    arm: str
    budget: int
    setting: Setting
    label: str  # of the setting
    kind: str
    runs: dict[int, Run]
    losses: dict[int, float]  # infinite where it diverged
    interval: Interval | None  # of the finite losses

    @property
    def all_runs(self) -> tuple[Run, ...]:
        return tuple(self.runs.values())

    @property
    def diverged(self) -> tuple[int, ...]:
        """Seeds, in order."""
        return tuple(seed for seed, loss in self.losses.items() if math.isinf(loss))


def evidence_of(
    arm: Arm, setting: Setting, budget: int, rules: Rules, metric: str
) -> Evidence | None:
    """What judges a setting of an arm at a budget; None if no such run has ended."""
    runs = setting.runs.get(budget, {})
    confirming = {seed: run for seed, run in runs.items() if rules.confirms(seed)}
    kind = "confirmation" if confirming else "tuning" if len(arm.settings) > 1 else "one setting"
    runs = dict(sorted((confirming or runs).items()))
    if not runs:
        return None
    losses = {seed: ended_loss(run, metric) for seed, run in runs.items()}
    finite = [loss for loss in losses.values() if math.isfinite(loss)]
    interval = statistics.t_interval(finite, rules.confidence) if finite else None
    label = arm.describe(setting)
    return Evidence(arm.name, budget, setting, label, kind, runs, losses, interval)
