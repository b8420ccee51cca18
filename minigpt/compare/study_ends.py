"""A declared study as the command line wants it: how a look is judged, what is told.

See `cli.study.Ends`.
"""

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from minigpt.compare import study_plan
from minigpt.compare.declared import judge_runs
from minigpt.compare.study_findings import findings
from minigpt.compare.study_report import write_report
from minigpt.study.conduct import Conclusion, Unfinished, conduct
from minigpt.study.decisions import asked_elsewhere
from minigpt.study.declaration import Declaration
from minigpt.study.declaration_file import study_folder
from minigpt.study.journal import Journal, read_decisions, refuse_another
from minigpt.study.launched import LaunchedRuns
from minigpt.study.recorded import RecordedRuns
from minigpt.terminal import on_stdout

judge = judge_runs


def report(runs: LaunchedRuns, conclusion: Conclusion, journal: Journal) -> None:
    """The verdict on stdout, and the whole report in the folder of the study."""
    found = findings(
        runs.declaration,
        conclusion,
        runs,
        journal.content,
        asked_elsewhere(journal.folder.parent.parent, runs.declaration),
    )
    out = journal.folder / "report"
    print(on_stdout(write_report(found, out)))
    print(f"report            {out / 'report.html'}")


def report_again(
    output: Path,
    declaration: Declaration,
    content: dict[str, Any],
    out: Path | None,
    figures: str = "png",
) -> str:
    """What a terminal shows of a study that has ended; its report in `out`, if there is one.

    content: of the file that holds the declaration.  figures: their kind: png, or svg or pdf
    beside it.
    Raises Unfinished, which names the runs that are missing, and CheckpointError if they decide
    otherwise than the journal says.
    """
    folder = study_folder(output, declaration.study)
    known = partial(refuse_another, folder, read_decisions(folder))
    runs = RecordedRuns(declaration, output)
    conclusion = conduct(declaration, runs, partial(judge, runs), known)
    elsewhere = asked_elsewhere(output, declaration)
    found = findings(declaration, conclusion, runs, content, elsewhere)
    return on_stdout(write_report(found, out, figures))


def asked(output: Path, declaration: Declaration) -> list[tuple[tuple[str, ...], str | None]]:
    """The runs that a study asks for, as far as those that have ended tell, with their folders."""
    runs = RecordedRuns(declaration, output)
    with suppress(Unfinished):
        conduct(declaration, runs, partial(judge, runs), lambda entry: None)
    return [(tuple(run.overrides(declaration)), folder) for run, folder in runs.asked.items()]


def describe(runs: LaunchedRuns, output: Path, side_by_side: int) -> None:
    """What a study would run, cost and detect."""
    print(on_stdout(study_plan.describe(runs, output, side_by_side)))
