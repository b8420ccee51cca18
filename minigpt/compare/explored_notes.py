"""Doubts about runs that nobody declared: what was not judged, and what does not match."""

from collections.abc import Iterable

from minigpt.compare.aligned import blocked_arms, facts_of
from minigpt.compare.explored import Explored
from minigpt.study.planned import label
from minigpt.study.run import Run
from minigpt.terminal import few


def doubts(found: Explored) -> list[str]:
    """One sentence each."""
    return [
        *_arms_left_out(found),
        *_unpaired(found),
        *_choices(found),
        *_budgets(found),
        *_unlike(found),
        *_unended(found),
        *found.group.duplicates,
    ]


def _arms_left_out(found: Explored) -> Iterable[str]:
    baseline, at = found.cell.baseline, found.plan.budget
    for arm in found.group.arms:
        if arm in found.cell.judged:
            continue
        if arm not in found.arms:
            yield f"{arm}: not judged: none of its runs has ended"
        else:
            setting = found.plan.choices[arm].setting
            chosen = f"{label(setting)}, which its tuning chose, has" if setting else "it has"
            lacks = f"no ended seed in common with {baseline} at {at:,} tokens"
            yield f"{arm}: not judged: {chosen} {lacks}"


def _unpaired(found: Explored) -> Iterable[str]:
    """Seeds of the chosen settings at the judged budget that only one side has."""
    plan, baseline = found.plan, found.cell.baseline

    def seeds(arm: str) -> set[int]:
        choice = plan.choices[arm]
        at = found.arms[arm][choice.setting].get(plan.budget, {})
        return set(at) if plan.reused else set(at) - choice.seeds

    for arm in plan.pairs:
        for side, other in ((arm, baseline), (baseline, arm)):
            if alone := sorted(seeds(side) - seeds(other) - set(plan.pairs[arm])):
                shown = ", ".join(map(str, alone))
                yield f"{other} has no ended run of seed {shown}, which {side} has: not judged"


def _choices(found: Explored) -> Iterable[str]:
    plan, choices = found.plan, {arm: found.plan.choices[arm] for arm in found.cell.judged}
    for arm in sorted(plan.reused):
        yield (
            f"{arm} against {found.cell.baseline}: chosen on the very seeds shown here, "
            "which flatters (run the chosen settings on seeds from 100 on)"
        )
    if not any(choice.scores for choice in choices.values()):
        yield (
            "untuned: one setting for each arm, so this compares these settings and not the arms "
            "at their best"
        )
    keys = {arm: {key for key, _ in choice.setting} for arm, choice in choices.items()}
    everywhere = set().union(*keys.values())
    for arm, choice in choices.items():
        if choice.at not in (None, plan.budget):
            yield f"{arm}: tuned at {choice.at:,} tokens, judged at {plan.budget:,}"
        if choice.overlooked:
            settings = few(label(setting) for setting in choice.overlooked)
            seeds = ", ".join(map(str, next(iter(choice.tuned.values()))))
            yield f"{arm}: not chosen from, since not tried on seeds {seeds}: {settings}"
        if keys[arm] and any(keys[arm] < other for other in keys.values()):
            lacking = ", ".join(sorted(everywhere - keys[arm]))
            yield f"{arm}: not tuned over {lacking}, which another arm was"


def _budgets(found: Explored) -> Iterable[str]:
    if len(found.cell.declaration.budgets) == 1:
        yield (
            "one budget: a difference at a single budget says little about longer runs "
            "(add another train.steps=)"
        )
    others: dict[int, list[str]] = {}
    for arm, runs in found.group.ended.items():
        for tokens in sorted(set(runs.values()) - set(found.cell.declaration.budgets)):
            others.setdefault(tokens, []).append(arm)
    if others:
        shown = "; ".join(f"{tokens:,} tokens ({', '.join(a)})" for tokens, a in others.items())
        yield f"budgets without a pair of the settings shown here: {shown}"


def _unlike(found: Explored) -> Iterable[str]:
    """Code, torch, device, precision that differ between the judged runs, with the arm or not."""
    cell = found.cell
    judged = {arm: cell.judged_runs(arm) for arm in cell.judged}
    aligned = blocked_arms(cell.declaration, judged)
    yield from (f"{arm}: {why}: either may be the cause" for arm, why in aligned.items())
    values: dict[str, dict[str, list[Run]]] = {}
    for run in (run for runs in judged.values() for run in runs):
        for name, value in facts_of(run, cell.declaration.metric).items():
            values.setdefault(name, {}).setdefault(value, []).append(run)
    differ = {
        name if "code" in name else f"{name} ({', '.join(sorted(by_value))})": by_value
        for name, by_value in values.items()
        if len(by_value) > 1 and name != cell.declaration.by
    }
    if differ:
        fewest = min((runs for by_value in differ.values() for runs in by_value.values()), key=len)
        yield f"judged runs differ in {few(differ)}; one side: {few(run.name for run in fewest)}"


def _unended(found: Explored) -> Iterable[str]:
    for arm, unended in found.group.unended.items():
        for status in ("failed", "unfinished", "running"):
            if runs := [run for run in unended if run.status == status]:
                yield f"{arm}: {len(runs)} {status}: {few(run.name for run in runs)}"
