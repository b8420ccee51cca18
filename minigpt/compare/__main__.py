"""Compare arms of a study: python -m minigpt.compare PATH... --by KEY [--out DIR]; see --help."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from minigpt.cli.arguments import Parser, exit_code_of
from minigpt.errors import ConfigError
from minigpt.study.find import find
from minigpt.study.select import select

if TYPE_CHECKING:
    from minigpt.compare.cost import Costs
    from minigpt.compare.figures import Figure
    from minigpt.compare.groups import Group, Groups
    from minigpt.compare.judge import Result
    from minigpt.compare.question import Question

DESCRIPTION = """\
Compare arms of a study and end in a verdict with an interval:
better, equivalent within a margin, or undecided.

  every group of comparable runs there is
    python -m minigpt.compare outputs --by optim
  one study, as files
    python -m minigpt.compare outputs --by optim --study muon_vs_adamw --margin 0.005 --out report
  some of the runs
    python -m minigpt.compare outputs --by optim.hidden.momentum \\
      --where model=tiny train.batch_size=16
  other tokenizers: judged in bits per byte
    python -m minigpt.compare outputs --by data/tokenizer
  warmup is tuned in each arm too
    python -m minigpt.compare outputs --by schedule --axis schedule.warmup
  a declared study: its verdict, or what it lacks
    python -m minigpt.compare outputs --study muon_vs_adamw
  a running sweep, seen from outside
    python -m minigpt.compare outputs --status --study muon_vs_adamw

A study in one command, declared in its experiment file, from tuning to its report:

  python train.py -m experiment=muon_vs_adamw
"""
EPILOG = """\
Runs are compared only if they are equal in all but KEY, learning rates, --axis keys, the seed and
the budget; what splits them is named. Each arm's setting is chosen on tuning seeds (below 100) and
judged on confirmation seeds (100 and above), paired by seed. Fewer than 8 pairs claim nothing.

DIR gets report.html (opens offline), report.md, figures as PNG and results.csv (a row for each
run).

Exit codes: 0 done; 1 a study that has not ended; 2 bad arguments or nothing to compare;
6 DIR cannot be written.
"""


def parser() -> Parser:
    p = Parser("python -m minigpt.compare", DESCRIPTION, EPILOG)

    def add(name: str, metavar: str, help: str, **how: object) -> None:
        p.add_argument(name, metavar=metavar, help=help, **how)  # type: ignore[arg-type]

    add("paths", "PATH", "run folders, or folders that hold them", type=Path, nargs="+")
    add("--by", "KEY", "what sets the arms apart: a group (optim) or a key (optim.hidden.lr)")
    add("--study", "STUDY", "only runs of this study")
    add("--where", "KEY=VALUE", "only such runs", action="extend", default=[], nargs="+")
    add("--baseline", "ARM", "the arm to hold the others against (default: the first typed)")
    add(
        "--margin",
        "MARGIN",
        "smallest difference that matters, in the unit of the loss (default 0)",
        type=float,
    )
    add("--axis", "KEY", "a further key that each arm tunes", action="append", default=[])
    add("--out", "DIR", "write report.html, report.md, figures and results.csv here", type=Path)
    status = "show a sweep: done, running, failed, waiting, time left"
    p.add_argument("--status", action="store_true", help=status)
    return p


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return exit_code_of(lambda: answer(parser().parse_args(arguments)))


def answer(options: argparse.Namespace) -> None:
    """The status of a sweep, or a comparison.

    Raises ConfigError for options that ask for neither.
    """
    if options.status:
        from minigpt.study.status import status_text, sweeps

        print(status_text(sweeps(options.paths, options.study), options.by or "optim"), end="")
        return
    if options.study is not None and options.by is None:
        from minigpt.study.recorded import declared_in

        if (declared := declared_in(options.paths, options.study)) is not None:
            from minigpt.compare.study_ends import report_again

            print(report_again(*declared, options.out), end="")
            return
    if options.by is None:
        raise ConfigError("missing argument: --by (what sets the arms apart, e.g. --by optim)")
    if options.margin is not None and not 0 <= options.margin < float("inf"):
        raise ConfigError(f"out of range: --margin {options.margin} (a finite number, at least 0)")
    compare(options)


def compare(options: argparse.Namespace) -> None:
    """Read, group, judge and report.

    Raises ConfigError if no two arms can be compared, StorageError on a bad DIR.
    """
    from minigpt.compare import report
    from minigpt.compare.cost import costs
    from minigpt.compare.figures import figures
    from minigpt.compare.groups import group_runs
    from minigpt.compare.judge import judge
    from minigpt.compare.question import Question
    from minigpt.compare.report_html import html
    from minigpt.compare.report_text import markdown, terminal_text
    from minigpt.compare.results import csv_bytes
    from minigpt.compare.rules import declared_rules
    from minigpt.compare.write_files import write_files

    found = find(options.paths)
    runs = select(found.runs, options.study, options.where)
    question = Question(options.by, tuple(options.axis))
    groups = group_runs(question, runs)
    others = [f"left out: {problem}" for problem in found.unreadable]
    judged: list[tuple[Result, Costs, list[Figure]]] = []
    rest = list(groups.single)
    for group in groups.several:
        result = judge(group, *declared_rules(group.runs, options.baseline, options.margin))
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
        files["results.csv"] = csv_bytes([result for result, *_ in judged], rest, found.runs)
        files["report.md"] = markdown(document, options.out).encode()
        files["report.html"] = html(document, options.out).encode()
        write_files(options.out, files)
    print(terminal_text(document), end="")
    if options.out is not None:
        print(f"\n{options.out / 'report.html'}")


def no_common_budget(group: "Group") -> str:
    """Why a group has no verdict."""
    budgets = "; ".join(
        f"{name}: {', '.join(f'{tokens:,}' for tokens in sorted(arm.budgets)) or 'none'} tokens"
        for name, arm in group.arms.items()
    )
    return f"no budget at which two arms have ended runs: {group.title} ({budgets})"


def nothing_to_compare(question: "Question", groups: "Groups", others: list[str]) -> ConfigError:
    """Why there is no group with two arms, in a line."""
    from minigpt.compare.groups import nearest_split

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


if __name__ == "__main__":
    sys.exit(main())
