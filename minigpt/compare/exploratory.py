"""Arms compared on whatever runs there are, without a declaration."""

import argparse

from minigpt.compare import report
from minigpt.compare.cost import Costs, costs
from minigpt.compare.figures import Figure, figures
from minigpt.compare.groups import Group, Groups, group_runs, nearest_split
from minigpt.compare.judge import Result, judge
from minigpt.compare.question import Question
from minigpt.compare.report_html import html
from minigpt.compare.report_text import markdown, terminal_text
from minigpt.compare.results import csv_rows
from minigpt.compare.rules import Rules
from minigpt.compare.write_files import write_files
from minigpt.errors import ConfigError
from minigpt.study.find import find
from minigpt.study.select import select
from minigpt.study.values import csv_bytes


def compare(options: argparse.Namespace) -> None:
    """Read, group, judge and report.

    Raises ConfigError if no two arms can be compared, StorageError on a bad DIR.
    """
    found = find(options.paths)
    runs = select(found.runs, options.study, options.where)
    question = Question(options.by, tuple(options.axis))
    groups = group_runs(question, runs)
    others = [f"left out: {problem}" for problem in found.unreadable]
    judged: list[tuple[Result, Costs, list[Figure]]] = []
    rest = list(groups.single)
    for group in groups.several:
        result = judge(group, Rules(options.baseline, options.margin or 0.0))
        if result is None:
            rest.append(group)
            others.append(no_common_budget(group))
            continue
        prefix = f"group{len(judged) + 1}_" if len(groups.several) > 1 else ""
        drawn = figures(result, prefix) if options.out is not None else []
        judged.append((result, costs(result, found.runs), drawn))
    if not judged:
        raise nothing_to_compare(question, groups, others)
    title = f"{options.study or options.by}: {', '.join(judged[0][0].group.arms)}"
    document = report.compose(title, judged, groups, others)
    if options.out is not None:  # first, since stdout may be lost
        files = {f"{figure.name}.png": figure.png for *_, drawn in judged for figure in drawn}
        rows = csv_rows([result for result, *_ in judged], rest, found.runs)
        files["results.csv"] = csv_bytes(rows)
        files["report.md"] = markdown(document, options.out).encode()
        files["report.html"] = html(document, options.out).encode()
        write_files(options.out, files)
    print(terminal_text(document), end="")
    if options.out is not None:
        print(f"\n{options.out / 'report.html'}")


def no_common_budget(group: Group) -> str:
    """Why a group has no verdict."""
    budgets = "; ".join(
        f"{name}: {', '.join(f'{tokens:,}' for tokens in sorted(arm.budgets)) or 'none'} tokens"
        for name, arm in group.arms.items()
    )
    return f"no budget at which two arms have ended runs: {group.title} ({budgets})"


def nothing_to_compare(question: Question, groups: Groups, others: list[str]) -> ConfigError:
    """Why there is no group with two arms, in a line."""
    everything = [*groups.several, *groups.single]
    arms = sorted({name for group in everything for name in group.arms})
    why = "(no two arms have ended runs)"
    if len(arms) < 2:
        number = sum(len(group.runs) for group in everything)
        only = f"only {question.by}={arms[0]} in {number} runs" if arms else "no runs"
        why = f"{only} (run another arm, or compare another key)"
    elif keys := nearest_split(groups.single):
        why = (
            f"arms {', '.join(arms)} also differ in {'; '.join(keys)} "
            "(make them equal, or name what each arm tunes with --axis)"
        )
    colon = " " if why.startswith("(") else ": "
    return ConfigError(f"nothing to compare: --by {question.by}{colon}{why}", *others)
