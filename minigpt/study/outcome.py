"""What became of the jobs of a sweep: a table, and the exit code of each.

It stands in their run folders, so the table is the same whatever process ran a job.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from minigpt.checkpoint.layout import step_of, steps_on_disk
from minigpt.errors import BusyError, CheckpointError, NumericsError
from minigpt.files import records
from minigpt.files.lock import lock_is_held
from minigpt.run.source_digest import changed_modules
from minigpt.study.record import folder_of
from minigpt.terminal import duration, table


def outcome_table(jobs: Sequence[dict[str, Any]], output: Path) -> tuple[list[str], int]:
    """The table of these jobs, and the exit code of the first that failed, else 0."""
    outcomes = [outcome(job, output) for job in jobs]
    labels = own_overrides([job["overrides"] for job in jobs])
    rows = [("job", "state", "val loss", "time", "folder")]
    for own, (_, columns) in zip(labels, outcomes, strict=True):
        rows.append((" ".join(own) or "(no overrides)", *columns))
    return table(rows), next((code for code, _ in outcomes if code), 0)


def own_overrides(jobs: Sequence[Sequence[str]]) -> list[list[str]]:
    """The overrides of each job that not all of them have."""
    common = set.intersection(*map(set, jobs)) if len(jobs) > 1 else set()
    return [[override for override in job if override not in common] for job in jobs]


def outcome(job: dict[str, Any], output: Path) -> tuple[int, tuple[str, str, str, str]]:
    """Exit code of a job, and its state, validation loss, time of training and folder.

    Its run folder counts before what this sweep noted: another process may have gone on.
    """
    if job.get("done"):  # a job without a run folder
        return 0, ("done", "", "", "")
    folder = folder_of(output, job["folder"] or ".invalid")
    name = folder.name
    record, summary = _read(records.read_record, folder), records.summary_of(folder)
    if record is not None and summary is not None:
        loss = "" if summary["val_loss"] is None else f"{summary['val_loss']:.4f}"
        if records.worse_than_unigram(summary):
            loss += f" (worse than unigram: {summary['unigram_loss']:.4f})"
        columns = (loss, duration(summary["train_time_s"]), name)
        if summary["status"] == "finished":
            return 0, ("finished, code changed" if changed_modules(record) else "done", *columns)
        return NumericsError.exit_code, (summary["status"], *columns)
    if lock_is_held(folder):
        return BusyError.exit_code, ("running elsewhere", "", "", name)
    failed = _read(records.read_failure, folder) or job.get("failed")
    code = failed["exit_code"] if failed else 0
    if failed and code != BusyError.exit_code:  # who ran a busy one has left it since
        where = name if record else failed["error"].partition("\n")[0]
        return code, (f"failed ({code})", "", "", where)
    if record is None:
        return code, ("not started", "", "", job["folder"] or "")
    steps = steps_on_disk(folder / "checkpoints")
    step = step_of(steps[-1]) if steps else 0
    return code, (f"unfinished, saved at step {step}", "", "", name)


def _read(what: Callable[[Path], dict[str, Any] | None], folder: Path) -> dict[str, Any] | None:
    """A file of a run; None where it is missing, or damaged: then the job has said so."""
    try:
        return what(folder)
    except CheckpointError:
        return None
