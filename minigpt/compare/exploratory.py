"""Arms compared on whatever runs there are, without a declaration."""

import argparse
from dataclasses import replace

from minigpt.compare.explored import Explored, explore
from minigpt.compare.explored_notes import doubts
from minigpt.compare.groups import Group, Groups, group_runs, nearest_split
from minigpt.compare.question import Question
from minigpt.compare.study_findings import Findings
from minigpt.compare.study_report import write_report
from minigpt.errors import ConfigError
from minigpt.study.declaration import Declaration
from minigpt.study.find import find
from minigpt.study.select import select
from minigpt.terminal import count, few, on_stdout


def compare(options: argparse.Namespace) -> None:
    """Read, group, judge and report.

    Raises ConfigError if no two arms can be compared, StorageError on a bad DIR.
    """
    found = find(options.paths)
    runs = select(found.runs, options.study, options.where)
    question = Question(options.by, tuple(options.axis))
    groups = group_runs(question, runs)
    why_not = [f"left out: {problem}" for problem in found.unreadable]
    missing = [name for name, of in found.missing.items() if options.study in (None, of)]
    if missing:
        why_not.append(
            f"in records of sweeps, but not here (not begun, or deleted): {few(missing)}"
        )
    explored: list[Explored] = []
    for group in groups.several:
        one = explore(
            group, baseline_of(group, options.baseline), options.margin or 0.0, found.runs
        )
        if one is None:
            why_not.append(nothing_in_common(group, groups.first))
        else:
            explored.append(one)
    if not explored:
        raise nothing_to_compare(question, groups, why_not)
    cells = [replace(one.cell, doubts=doubts(one)) for one in explored]
    used = {run for cell in cells for run in cell.runs}
    declaration = cells[0].declaration
    told = Findings(
        Declaration(options.study or options.by, declaration.node),
        cells,
        "",
        None,
        [*_others(groups), *why_not],
        (),
        [run for run in runs if run not in used],
    )
    # files first, since stdout may be lost
    print(on_stdout(write_report(told, options.out, options.figures)), end="")
    if options.out is not None:
        print(f"\n{options.out / 'report.html'}")


def _others(groups: Groups) -> list[str]:
    """What there is beside the groups of several arms."""
    if len(groups.several) + len(groups.single) == 1:
        return []
    keys = ", ".join(groups.split_keys) or "none"
    first = groups.first
    return [
        f"runs that differ in these keys are not mixed: {keys} "
        "(below: in which a group is not as the first)",
        *(
            f"{count(len(one.runs), 'run')} of one arm only: {one.title(first)}"
            for one in groups.single
        ),
    ]


def baseline_of(group: Group, name: str | None) -> str:
    """The baseline's name. Raises ConfigError if it is not among the arms."""
    if name is not None and name not in group.arms:
        raise ConfigError(
            f"no such arm: --baseline {name} (arms of {group.question.by}: {', '.join(group.arms)})"
        )
    return name if name is not None else group.first_typed


def nothing_in_common(group: Group, first: Group) -> str:
    """Why a group has no verdict."""
    shown = []
    for arm, ended in group.ended.items():
        seeds: dict[int, set[int]] = {}
        for run, tokens in ended.items():
            seeds.setdefault(tokens, set()).add(run.seed)
        at = (f"{t:,} tokens on {', '.join(map(str, sorted(s)))}" for t, s in sorted(seeds.items()))
        shown.append(f"{arm}: {'; '.join(at) or 'none ended'}")
    return (
        f"no seed and budget that two arms have ended: {group.title(first)} ({' | '.join(shown)})"
    )


def nothing_to_compare(question: Question, groups: Groups, others: list[str]) -> ConfigError:
    """Why there is no group with two arms, in a line."""
    everything = [*groups.several, *groups.single]
    arms = sorted({name for group in everything for name in group.arms})
    why = " (no two arms have ended runs)"
    if len(arms) < 2:
        number = sum(len(group.runs) for group in everything)
        only = f"only {question.by}={arms[0]} in {number} runs" if arms else "no runs"
        why = f": {only} (run another arm, or compare another key)"
    elif keys := nearest_split(groups.single):
        why = (
            f": arms {', '.join(arms)} also differ in {'; '.join(keys)} "
            "(make them equal, or name what each arm tunes with --axis)"
        )
    return ConfigError(f"nothing to compare: --by {question.by}{why}", *others)
