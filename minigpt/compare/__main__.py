"""Compare arms of a study: python -m minigpt.compare PATH... --by KEY [--out DIR]; see --help."""

import argparse
import sys
from contextlib import suppress
from pathlib import Path

from minigpt.cli.arguments import Parser, exit_code_of
from minigpt.errors import CheckpointError, ConfigError

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

DIR gets report.html (opens offline), report.md, figures as PNG, results.csv (a row for each run)
and report.json (every figure that the report shows).

Exit codes: 0 done; 1 a study that has not ended; 2 bad arguments or nothing to compare;
6 DIR cannot be written.
"""


def parser() -> Parser:
    p = Parser("python -m minigpt.compare", DESCRIPTION, EPILOG)
    p.select_runs()
    add = p.add_argument
    add("--by", metavar="KEY",
        help="what sets the arms apart: a group (optim) or a key (optim.hidden.lr)")  # fmt: skip
    add("--study", metavar="STUDY", help="only runs of this study")
    add("--baseline", metavar="ARM",
        help="the arm to hold the others against (default: the first typed)")  # fmt: skip
    add("--margin", metavar="MARGIN", type=float,
        help="smallest difference that matters, in the unit of the loss (default 0)")  # fmt: skip
    add("--axis", metavar="KEY", action="append", default=[],
        help="a further key that each arm tunes")  # fmt: skip
    add("--out", metavar="DIR", type=Path,
        help="write the report, its figures and results.csv here")  # fmt: skip
    add("--figures", choices=("png", "svg", "pdf"), default="png",
        help="figures with editable text beside the PNGs (svg or pdf)")  # fmt: skip
    add("--status", action="store_true",
        help="show a sweep: done, running, failed, waiting, time left")  # fmt: skip
    return p


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return exit_code_of(lambda: answer(parser().parse_args(arguments)))


def answer(options: argparse.Namespace) -> None:
    """The status of a sweep, or a comparison.

    Raises ConfigError for options that ask for neither.
    """
    if options.status:
        print(status(options), end="")
        return
    if options.study is not None and options.by is None:
        from minigpt.study.recorded import declared_in

        if (declared := declared_in(options.paths, options.study)) is not None:
            from minigpt.compare.study_ends import report_again

            print(report_again(*declared, options.out, options.figures), end="")
            return
        raise ConfigError(
            f"not a declared study here: --study {options.study} (look in another folder, or "
            "compare its runs with --by)"
        )
    if options.by is None:
        raise ConfigError("missing argument: --by (what sets the arms apart, e.g. --by optim)")
    if options.margin is not None and not 0 <= options.margin < float("inf"):
        raise ConfigError(f"out of range: --margin {options.margin} (a finite number, at least 0)")
    from minigpt.compare.exploratory import compare

    compare(options)


def status(options: argparse.Namespace) -> str:
    """What a declared study has decided, then the jobs of sweeps."""
    from minigpt.study.decisions import declared_studies
    from minigpt.study.status import status_text, sweeps
    from minigpt.terminal import escape_line

    declared = declared_studies(options.paths, options.study)
    decided = "".join(f"{escape_line(x)}\n" for *_, lines in declared for x in (*lines, ""))
    asked = {}
    for output, declaration, _ in declared:
        from minigpt.compare import study_ends

        with suppress(CheckpointError):  # then its records tell
            planned = study_ends.asked(output, declaration)
            asked[output, declaration.study] = declaration.by, planned
    return decided + status_text(sweeps(options.paths, options.study, asked), options.by)


if __name__ == "__main__":
    sys.exit(main())
