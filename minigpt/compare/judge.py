"""From a group of runs to its verdicts: choose each arm's setting, judge it on other seeds."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from minigpt.compare.budget_to_equal_loss import Ratio, budget_to_equal_loss
from minigpt.compare.evidence import Evidence, evidence_of
from minigpt.compare.groups import Group
from minigpt.compare.rules import Rules
from minigpt.compare.tuning import Choice, choose_setting
from minigpt.compare.verdict import Comparison, compare_arms
from minigpt.errors import ConfigError
from minigpt.study.run import Run


@dataclass(frozen=True)
class AtBudget:
    """What is known at one budget."""

    evidence: dict[str, Evidence]  # by arm
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True)
class EqualLoss:
    """What of the baseline's budget (tokens) an arm needs for the baseline's loss."""

    arm: str
    budget: int
    ratio: Ratio
    runs: list[Run]


@dataclass
class Result:
    """A judged group."""

    group: Group
    rules: Rules
    baseline: str
    choices: dict[str, Choice]  # by arm, for the headline
    budgets: dict[int, AtBudget]  # by tokens
    headline: int  # the budget whose verdict counts
    equal_loss: list[EqualLoss]
    notes: Sequence[str] = field(default=())

    @property
    def at_headline(self) -> AtBudget:
        return self.budgets[self.headline]


def judge(group: Group, rules: Rules, notes: Sequence[str] = ()) -> Result | None:
    """Choose, confirm and compare. None if no two arms have ended runs at a common budget.

    Raises ConfigError if the baseline is not among the arms.
    """
    baseline = rules.baseline if rules.baseline is not None else group.first_typed
    if baseline not in group.arms:
        raise ConfigError(
            f"no such arm: --baseline {baseline} "
            f"(arms of {group.question.by}: {', '.join(group.arms)})"
        )
    metric = group.question.metric
    choices: dict[int, dict[str, Choice]] = {}
    found: dict[int, dict[str, Evidence]] = {}
    for budget in sorted({budget for arm in group.arms.values() for budget in arm.budgets}):
        chosen = {n: choose_setting(arm, budget, rules, metric) for n, arm in group.arms.items()}
        choices[budget] = {name: choice for name, choice in chosen.items() if choice is not None}
        for name, choice in choices[budget].items():
            evidence = evidence_of(group.arms[name], choice.setting, budget, rules, metric)
            if evidence is not None:
                found.setdefault(budget, {})[name] = evidence

    def weight(budget: int) -> tuple[int, int]:
        """The budget with most arms that could make a claim counts; of these the longest."""
        able = [e for e in found[budget].values() if e.kind != "tuning" and len(e.runs) > 1]
        return len(able), budget

    common = [budget for budget, arms in found.items() if baseline in arms and len(arms) > 1]
    if not common:
        return None
    headline = max(common, key=weight)
    return Result(
        group,
        rules,
        baseline,
        choices[headline],
        {b: AtBudget(arms, compare_arms(arms, baseline, rules)) for b, arms in found.items()},
        headline,
        _equal_loss(group, choices[headline], baseline, rules),
        notes,
    )


def _equal_loss(
    group: Group, choices: dict[str, Choice], baseline: str, rules: Rules
) -> list[EqualLoss]:
    """For each arm and each budget of the baseline, the budget with which the arm equals it."""

    def judging(name: str, choice: Choice) -> dict[int, Evidence]:
        found = (
            evidence_of(group.arms[name], choice.setting, budget, rules, group.question.metric)
            for budget in sorted(choice.setting.runs)
        )
        return {one.budget: one for one in found if one is not None and one.kind != "tuning"}

    curves = {name: judging(name, choice) for name, choice in choices.items()}
    targets = curves.pop(baseline, {})
    result = []
    for name, curve in curves.items():
        losses = {budget: evidence.losses for budget, evidence in curve.items()}
        for budget, target in reversed(targets.items()):
            ratio = budget_to_equal_loss(target.losses, budget, losses, rules.confidence)
            if ratio is not None:
                used = (run for tokens in ratio.used for run in curve[tokens].all_runs)
                result.append(EqualLoss(name, budget, ratio, [*target.all_runs, *used]))
    return result
