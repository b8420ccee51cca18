"""Compare arms of a study: python -m minigpt.compare PATH... --by KEY [--out DIR]; see --help."""

import argparse
import csv
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpt.cli.arguments import Parser, exit_code_of
from minigpt.errors import ConfigError
from minigpt.study.find import find
from minigpt.study.select import select
from minigpt.terminal import escape_line

if TYPE_CHECKING:
    from minigpt.compare.cost import Costs
    from minigpt.compare.document import Document
    from minigpt.compare.figures import Figure
    from minigpt.compare.groups import Group, Question, Sorted

DESCRIPTION = """\
Compare arms of a study and end in a verdict with an interval: better, equivalent within a margin, or undecided.

  python -m minigpt.compare outputs --by optim                    every group of comparable runs there is
  python -m minigpt.compare outputs --by optim --study muon_vs_adamw --baseline adamw --margin 0.005 --out report
  python -m minigpt.compare outputs --by optim.hidden.momentum --where model=tiny --where train.batch_size=16
  python -m minigpt.compare outputs --by data/tokenizer           other tokenizers: judged in bits per byte
  python -m minigpt.compare outputs --by schedule --axis schedule.warmup     warmup is tuned in each arm too
  python -m minigpt.compare outputs --status --study muon_vs_adamw           a running sweep, seen from outside

A study in three commands: tune on seeds 0, 1; confirm the best setting on seeds from 100 on; at two budgets or more.

  python train.py -m study=s optim=muon,adamw optim.lr_scale=0.25,0.5,1,2,4 seed=0,1
  python train.py -m study=s optim=muon  optim.lr_scale=BEST seed="range(100,108)" train.steps=300,600
  python train.py -m study=s optim=adamw optim.lr_scale=BEST seed="range(100,108)" train.steps=300,600
"""
EPILOG = """\
Runs are compared only if they are equal in all but KEY, learning rates, --axis keys, the seed and the budget; what
splits them is named. Each arm's setting is chosen on tuning seeds (below 100) and judged on confirmation seeds (100 and
above, or as declared in verdict.* of the study's experiment file), paired by seed. Fewer than 8 pairs are shown and
claim nothing. DIR gets report.html (opens offline), report.md, figures as PNG and results.csv (a row for each run).

Exit codes: 0 done; 2 bad arguments or nothing to compare; 6 DIR cannot be written.
"""


def parser() -> Parser:
    p = Parser("python -m minigpt.compare", DESCRIPTION, EPILOG)
    p.add_argument(
        "paths", metavar="PATH", type=Path, nargs="+", help="run folders, or folders that hold them"
    )
    p.add_argument(
        "--by",
        metavar="KEY",
        help="what sets the arms apart: a group (optim) or a key (optim.hidden.lr)",
    )
    p.add_argument("--study", help="only runs of this study")
    p.add_argument(
        "--where",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        nargs="+",
        help="only such runs",
    )
    p.add_argument(
        "--baseline",
        metavar="ARM",
        help="the arm to hold the others against (default: the first typed)",
    )
    p.add_argument(
        "--margin",
        type=float,
        help="smallest difference that matters, in the unit of the loss (default 0)",
    )
    p.add_argument(
        "--axis",
        metavar="KEY",
        action="append",
        default=[],
        help="a further key that each arm tunes",
    )
    p.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="write report.html, report.md, figures and results.csv here",
    )
    p.add_argument(
        "--status",
        action="store_true",
        help="show a sweep: done, running, failed, waiting, time left",
    )
    return p


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return exit_code_of(lambda: answer(parser().parse_args(arguments)))


def answer(options: argparse.Namespace) -> None:
    """The status of a sweep, or a comparison. Raises ConfigError for options that ask for
    neither.
    """
    if options.status:
        from minigpt.study import status

        print(
            status.status_text(status.sweeps(options.paths, options.study), options.by or "optim"),
            end="",
        )
        return
    if options.by is None:
        raise ConfigError("missing argument: --by (what sets the arms apart, e.g. --by optim)")
    if options.margin is not None and not 0 <= options.margin < float("inf"):
        raise ConfigError(f"out of range: --margin {options.margin} (a finite number, at least 0)")
    compare(options)


def compare(options: argparse.Namespace) -> None:
    """Read, sort, judge and report. Raises ConfigError if no two arms can be compared, StorageError
    on a bad DIR.
    """
    from minigpt.compare import cost, figures, report_text, results
    from minigpt.compare.groups import Question, sort_runs
    from minigpt.compare.report import report as compose_report
    from minigpt.compare.selection import declared_rules
    from minigpt.compare.verdict import Result, judge

    found = find(options.paths)
    where = [condition for conditions in options.where for condition in conditions]
    runs = select(found.runs, options.study, where)
    question = Question(options.by, tuple(options.axis))
    ordered = sort_runs(question, runs)
    others = [f"left out: {problem}" for problem in found.unreadable]
    judged: list[tuple[Result, Costs, list[Figure]]] = []
    rest = list(ordered.single)
    for group in ordered.groups:
        rules, notes = declared_rules(group.runs, options.baseline, options.margin)
        result = judge(group, rules, notes)
        if result is None:
            rest.append(group)
            others.append(
                f"no budget at which two arms have ended runs: {group.title} ({_budgets(group)})"
            )
            continue
        times = cost.costs(result, found.runs)
        prefix = f"group{len(judged) + 1}_" if len(ordered.groups) > 1 else ""
        judged.append(
            (result, times, figures.figures(result, times, prefix) if options.out else [])
        )
    if not judged:
        raise nothing_to_compare(question, ordered, others)
    title = f"{options.study or options.by}: {', '.join(judged[0][0].group.arms)}"
    report = compose_report(title, judged, ordered, others)
    if options.out is not None:  # first, since stdout may be lost
        rows = results.csv_rows([result for result, *_ in judged], rest, found.runs)
        write(options.out, report, [figure for *_, drawn in judged for figure in drawn], rows)
    print(report_text.text(report), end="")
    if options.out is not None:
        print(f"\n{options.out / 'report.html'}")


def _budgets(group: "Group") -> str:
    ended = {
        name: sorted({h for s in arm.settings.values() for h in s.runs})
        for name, arm in group.arms.items()
    }
    return "; ".join(
        f"{name}: {', '.join(f'{h:,}' for h in found) or 'none'} tokens"
        for name, found in ended.items()
    )


def nothing_to_compare(question: "Question", ordered: "Sorted", others: list[str]) -> ConfigError:
    """Why there is no group with two arms, in a line."""
    from minigpt.compare.groups import nearest_split

    arms = sorted({name for group in (*ordered.groups, *ordered.single) for name in group.arms})
    if len(arms) < 2:
        only = (
            f"only {question.by}={arms[0]} in {sum(len(g.runs) for g in ordered.single)} runs"
            if arms
            else "no runs"
        )
        return ConfigError(
            f"nothing to compare: --by {question.by}: {only} (run another arm, or compare another key)",
            *others,
        )
    if keys := nearest_split(question, ordered.single):
        return ConfigError(
            f"nothing to compare: --by {question.by}: arms {', '.join(arms)} also differ in {'; '.join(keys)} "
            "(make them equal, or name what each arm tunes with --axis)",
            *others,
        )
    return ConfigError(
        f"nothing to compare: --by {question.by} (no two arms have ended runs)", *others
    )


def write(out: Path, report: "Document", drawn: "list[Figure]", rows: list[dict[str, Any]]) -> None:
    """The files of a report. Raises StorageError."""
    from minigpt.compare.report_html import html
    from minigpt.compare.report_markdown import markdown
    from minigpt.compare.written import write_files

    table = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(table, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {k: escape_line(v) if isinstance(v, str) else v for k, v in row.items()} for row in rows
    )
    files = {f"{figure.name}.png": figure.png for figure in drawn}
    files |= {
        "results.csv": table.getvalue().encode(),
        "report.md": markdown(report, out).encode(),
        "report.html": html(report, out).encode(),
    }
    write_files(out, files)


if __name__ == "__main__":
    sys.exit(main())
