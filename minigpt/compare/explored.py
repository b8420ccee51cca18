"""Runs that nobody declared, as the study that they would have been: arms, budgets, seeds.

The same judge reads them. It claims nothing: losses ended lower, higher or alike.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from minigpt.compare.declared import MIN_PAIRS, CellRuling, judge
from minigpt.compare.groups import Group
from minigpt.compare.question import as_typed
from minigpt.compare.settings import settings
from minigpt.compare.study_findings import CellFindings, loss_of
from minigpt.study.conduct import Look
from minigpt.study.declaration import Declaration, Setting
from minigpt.study.run import Run
from minigpt.study.search import Search

FIRST_CONFIRMATION_SEED = 100
WORDS = {"better": "lower", "worse": "higher", "equivalent": "alike"}
Runs = dict[Setting, dict[int, dict[int, Run]]]  # of an arm: setting -> budget in tokens -> seed


@dataclass(frozen=True)
class Choice:
    """The setting of an arm. seeds: those that chose it, and should not judge it."""

    setting: Setting
    seeds: frozenset[int] = frozenset()
    scores: dict[Setting, float] = field(default_factory=dict)
    tuned: dict[Setting, dict[int, Run]] = field(default_factory=dict)  # the runs that chose
    at: int | None = None  # the budget at which they did
    overlooked: tuple[Setting, ...] = ()  # not tried on the seeds that others have in common


@dataclass(frozen=True)
class Plan:
    """What can be judged at a budget. pairs: arm -> seeds in common with the baseline."""

    budget: int
    choices: dict[str, Choice]
    pairs: dict[str, list[int]]
    reused: frozenset[str]  # arms whose pairs are of seeds that chose

    @property
    def weight(self) -> tuple[int, int, int, int]:
        """The budget with most arms that could be told apart counts; of these the longest."""
        fresh = [len(seeds) for arm, seeds in self.pairs.items() if arm not in self.reused]
        enough = (sum(pairs >= least for pairs in fresh) for least in (MIN_PAIRS, 2, 1))
        return (*enough, self.budget)  # type: ignore[return-value]


@dataclass(frozen=True)
class Explored:
    """A group of runs and what it says."""

    group: Group
    arms: dict[str, Runs]  # those with an ended run
    plan: Plan
    cell: CellFindings


def explore(
    group: Group, baseline: str, margin: float, everything: Sequence[Run]
) -> Explored | None:
    """Choose, pair and judge. None if no arm shares an ended seed and budget with the baseline.

    everything: all runs that were found, which may have shared the machine.
    """
    metric = group.question.metric
    arms = {arm: _by_setting(group, arm) for arm in group.arms if group.ended[arm]}
    budgets = sorted(set(group.ended[baseline].values()))
    plans = [_plan(arms, baseline, budget, metric) for budget in budgets]
    plan = max(plans, key=lambda plan: plan.weight, default=None)
    if plan is None or not plan.pairs:
        return None
    judged = _judged(plan, arms, baseline, budgets)
    choices = {arm: plan.choices[arm] for arm in judged}
    look = Look(
        tuple((key, as_typed(value)) for key, value in group.split.items()),
        max(map(len, plan.pairs.values())),
        {arm: choice.setting for arm, choice in choices.items()},
        {
            arm: {
                budget: {seed: loss_of(run, metric) for seed, run in by_seed.items()}
                for budget, by_seed in by_budget.items()
            }
            for arm, by_budget in judged.items()
        },
        {arm: choice.scores for arm, choice in choices.items()},
    )
    declaration = _declaration(group, baseline, margin, plan, look)
    cell = CellFindings(
        declaration,
        _said(judge(declaration, look, dict.fromkeys(plan.reused, "its seeds chose the settings"))),
        {
            arm: Search(chosen=choice.setting, scores=choice.scores)
            for arm, choice in choices.items()
        },
        judged,
        {arm: choice.tuned for arm, choice in choices.items()},
        everything,
        exploratory=True,
    )
    return Explored(group, arms, plan, cell)


def _by_setting(group: Group, arm: str) -> Runs:
    found: Runs = {}
    for run, setting in settings(group.question, list(group.ended[arm])).items():
        at = found.setdefault(setting, {}).setdefault(group.ended[arm][run], {})
        at.setdefault(run.seed, run)
    return found


def choose(runs: Runs, budget: int, metric: str) -> Choice:
    """The setting with the lowest mean loss on common tuning seeds: those below 100, or else all.

    It counts at this budget, else at the nearest tuned one below it, else above it. A setting
    that diverged comes last.
    """
    if len(runs) == 1:
        return Choice(next(iter(runs)))
    everywhere = [(b, by_seed) for found in runs.values() for b, by_seed in found.items()]
    every = frozenset(seed for _, by_seed in everywhere for seed in by_seed)
    seeds = frozenset(seed for seed in every if seed < FIRST_CONFIRMATION_SEED) or every
    tried = Counter(b for b, by_seed in everywhere if seeds & by_seed.keys())
    # a lone run at another budget is no tuning there
    tuned = [b for b, number in tried.items() if number > 1] or list(tried)
    at = max((b for b in tuned if b <= budget), default=min(tuned))
    grid = {setting: seeds & found.get(at, {}).keys() for setting, found in runs.items()}

    def worth(common: frozenset[int]) -> tuple[int, int, list[int]]:
        whole = sum(common <= found for found in grid.values())
        return len(common) * whole, len(common), sorted(common)

    common = max(grid.values(), key=worth)
    whole = {
        setting: {seed: runs[setting][at][seed] for seed in sorted(common)}
        for setting, found in grid.items()
        if common <= found
    }
    scores = {
        setting: fmean(loss_of(run, metric) for run in found.values())
        for setting, found in whole.items()
    }
    overlooked = tuple(setting for setting, found in grid.items() if found and not common <= found)
    best = min(scores, key=lambda setting: scores[setting])
    return Choice(best, seeds, scores, whole, at, overlooked)


def _plan(arms: dict[str, Runs], baseline: str, budget: int, metric: str) -> Plan:
    choices = {arm: choose(runs, budget, metric) for arm, runs in arms.items()}
    seeds = {arm: arms[arm][choices[arm].setting].get(budget, {}).keys() for arm in arms}
    pairs, reused = {}, set()
    for arm in arms:
        if arm != baseline and (both := seeds[arm] & seeds[baseline]):
            fresh = both - choices[arm].seeds - choices[baseline].seeds
            pairs[arm] = sorted(fresh or both)
            if not fresh:
                reused.add(arm)
    return Plan(budget, choices, pairs, frozenset(reused))


def _judged(
    plan: Plan, arms: dict[str, Runs], baseline: str, budgets: list[int]
) -> dict[str, dict[float, dict[int, Run]]]:
    """The pairs of each arm at each budget of the baseline, as they were chosen."""
    judged: dict[str, dict[float, dict[int, Run]]] = {
        arm: {} for arm in arms if arm == baseline or arm in plan.pairs
    }
    for budget in budgets:
        at = {arm: arms[arm][plan.choices[arm].setting].get(budget, {}) for arm in judged}
        for arm in plan.pairs:
            chose = plan.choices[arm].seeds | plan.choices[baseline].seeds
            for seed in sorted(at[arm].keys() & at[baseline].keys()):
                if seed not in chose or arm in plan.reused:
                    judged[arm].setdefault(budget, {})[seed] = at[arm][seed]
                    judged[baseline].setdefault(budget, {})[seed] = at[baseline][seed]
    return judged


def _declaration(group: Group, baseline: str, margin: float, plan: Plan, look: Look) -> Declaration:
    """What would have declared these runs."""
    tuning = {
        seed for scored in plan.choices.values() for by in scored.tuned.values() for seed in by
    }
    node: dict[str, Any] = {
        "question": ", ".join(group.arms),
        "by": group.question.by,
        "arms": list(look.losses),
        "baseline": baseline,
        "metric": group.question.metric,
        "margin": margin,
        "budgets": {"tokens": list(look.losses[baseline])},
        "primary": plan.budget,
        "tune": {
            "over": {}, "per_arm": {}, "method": "grid", "trials": 0, "rounds": 0, "extend": 0,
            "seeds": sorted(tuning), "budget": None,
        },
        "confirm": {
            "first_seed": min(map(min, plan.pairs.values())), "looks": [look.pairs],
        },
        "cells": {},
    }  # fmt: skip
    return Declaration("", node)


def _said(ruling: CellRuling) -> CellRuling:
    """Without the words of a claim."""
    findings = {
        arm: replace(found, word=WORDS.get(found.word, found.word))
        for arm, found in ruling.findings.items()
    }
    return replace(ruling, findings=findings)
