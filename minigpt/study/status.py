"""A sweep seen from outside: what is done, running, failed or waiting, and the best so far.

Only reads: the records of sweeps, run folders, and whether their locks are held. Without a record
there is nothing to wait for, and the runs that exist are shown.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any

from minigpt.errors import CheckpointError, ConfigError
from minigpt.files import records
from minigpt.files.reading import UnreadableError
from minigpt.study.find import read_run, run_folders, why_unreadable
from minigpt.study.job_status import CHANGED, JobStatus, best_lines, swept_group
from minigpt.study.outcome import own_overrides
from minigpt.study.record import folder_of, read_sweep, sweeps_in
from minigpt.study.run import Run
from minigpt.terminal import count, duration, escape_line

STATES = ("done", CHANGED, "diverged", "running", "failed", "unreadable", "interrupted", "waiting")


@dataclass
class SweepStatus:
    title: str
    jobs: list[JobStatus] = field(default_factory=list)
    by: str | None = None  # the key whose values are the arms, where that was declared


# of a declared study: its folder of runs and name -> its `by`, what it asks for in which folder
Asked = Mapping[tuple[Path, str], tuple[str, Sequence[tuple[tuple[str, ...], str | None]]]]


def sweeps(
    paths: Sequence[Path], study: str | None, asked: Asked = MappingProxyType({})
) -> list[SweepStatus]:
    """The recorded sweeps under the paths, then, as one more, the runs outside of them.

    asked: of each declared study, whose records tell only why jobs failed.
    Raises ConfigError if there is nothing at all.
    """
    found: list[SweepStatus] = []
    recorded: set[Path] = set()
    failed: dict[Path, dict[str, Any] | None] = {}
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"no such folder: {path} (give the folder of runs, e.g. outputs)")
        for file in sweeps_in(path):
            try:
                record = read_sweep(file)
            except UnreadableError as error:
                what = "not a record of a sweep that this minigpt reads"
                found.append(SweepStatus(f"{file.name}: {what}: {error.why}"))
                continue
            pairs = [
                (_job(path, job["folder"], job["overrides"], job["failed"]), job)
                for job in record["jobs"]
            ]
            recorded |= {(path / job.name).resolve() for job, _ in pairs if job.name}
            if (path.resolve(), record["study"]) in asked:
                for job in record["jobs"]:
                    failed[path.resolve() / (job["folder"] or "")] = job["failed"]
                continue
            jobs = [job for job, noted in pairs if study in (None, noted["study"])]
            if jobs or study in (None, record["study"]):
                title = f"{record['study'] or file.stem}  ({' '.join(record['command'])})"
                found.append(SweepStatus(title, jobs))
    for (output, name), (by, planned) in asked.items():
        jobs = [
            _job(output, folder, overrides, failed.get(output / (folder or "")))
            for overrides, folder in planned
        ]
        recorded |= {(output / job.name).resolve() for job in jobs if job.name}
        found.append(SweepStatus(f"{name}: what it asks for by now", jobs, by))
    folders = [folder for path in paths for folder in run_folders(path)]
    rest = [folder for folder in folders if folder.resolve() not in recorded]
    jobs = [_job(folder.parent, folder.name, (), None) for folder in rest]
    if study is not None:
        jobs = [job for job in jobs if job.run is not None and study in job.run.studies]
    if jobs:
        found.append(SweepStatus("runs outside recorded sweeps" if found else "runs", jobs))
    if not found:
        what = f"of study {study}" if study else "no runs and no sweeps"
        raise ConfigError(
            f"nothing to show: {', '.join(map(str, paths))}: {what} "
            "(start one: python train.py -m ...)"
        )
    return found


def _job(
    output: Path, name: str | None, overrides: Sequence[str], failure: dict[str, Any] | None
) -> JobStatus:
    """name: of the run folder, None until the job is composed. failure: as the record has it."""
    if name is None:
        return JobStatus("", overrides, None, failure)
    folder, run, unreadable = folder_of(output, name), None, ""
    try:
        failure = records.read_failure(folder) or failure
        run = read_run(folder) if os.path.lexists(folder / "run.json") else None
    except CheckpointError as error:
        unreadable = why_unreadable(error)
    if run is not None and not overrides:
        overrides = run.record.get("overrides", ())
    return JobStatus(folder.name, overrides, run, failure, unreadable)


def status_text(found: Sequence[SweepStatus], by: str | None) -> str:
    """The lines for a terminal. by: the key whose values are the arms of `best so far`; None: the
    one that was declared, or the group that was swept.
    """
    lines: list[str] = []
    for sweep in found:
        for job, own in zip(sweep.jobs, own_overrides([job.overrides for job in sweep.jobs])):
            job.label = " ".join(own) or job.name
        arms = by or sweep.by or swept_group(sweep.jobs)
        lines += [sweep.title, *_sweep_lines(sweep, arms), ""]
    return "\n".join(map(escape_line, lines)).rstrip() + "\n"


def _sweep_lines(sweep: SweepStatus, by: str) -> list[str]:
    counts = {state: [job for job in sweep.jobs if job.state == state] for state in STATES}
    shown = ", ".join(f"{len(jobs)} {state}" for state, jobs in counts.items() if jobs)
    lines = [f"  {count(len(sweep.jobs), 'job')}: {shown or 'none'}"]
    if counts["waiting"] or counts["running"]:
        left, parallel = seconds_left(sweep.jobs), max(1, len(counts["running"]))
        about = "unknown until a job has finished"
        if left is not None:
            about = f"about {duration(round(left / parallel))} with {parallel} at a time"
        lines.append(f"  time left: {about}")
    for job in counts["running"]:
        lines.append(f"  running      {job.label}  {progress(job.run)}")
    for state in ("failed", "unreadable", "diverged", "interrupted"):
        for job in counts[state]:
            lines.append(f"  {state:<11}  {job.label}  {reason(job)}".rstrip())
    for job in counts[CHANGED]:
        assert job.run is not None
        modules = ", ".join(name.replace(".", "/") + ".py" for name in job.run.changed_code)
        lines.append(f"  {CHANGED}  {job.label}  loss {job.run.loss('val_loss'):.4f}  ({modules})")
    ended = [*counts["done"], *counts[CHANGED], *counts["diverged"]]
    return lines + best_lines(ended, by)


def progress(run: Run | None) -> str:
    """`step 120 of 600, loss 4.9123` of a run on its way."""
    rows = run.rows if run is not None else []
    if run is None or not rows:
        return "starting"
    shown = f"step {rows[-1]['step']:,}"
    if steps := (run.budget_tokens or 0) // run.tokens_per_step:
        shown += f" of {steps:,}"
    losses = [row["train/loss"] for row in rows if row.get("train/loss") is not None]
    return shown + (f", loss {losses[-1]:.4f}" if losses else "")


def reason(job: JobStatus) -> str:
    """Why a job is not done."""
    if job.unreadable:
        return job.unreadable
    if job.failure is not None and job.state == "failed":
        error = "; ".join(job.failure["error"].splitlines())
        return f"{error} (exit code {job.failure['exit_code']})"
    if job.run is not None and job.state == "diverged" and job.run.summary is not None:
        return f"at step {job.run.summary.get('step')}"
    return progress(job.run) if job.state == "interrupted" else ""


def seconds_left(jobs: Sequence[JobStatus]) -> float | None:
    """Work that is left, in seconds of one job at a time; None before any job has finished.

    A job takes the median of finished ones that differ only in the seed, else the median of all.
    """
    took: dict[tuple[str, ...], list[float]] = {}
    for job in jobs:
        if job.run is not None and job.run.summary is not None and job.run.status == "finished":
            took.setdefault(job.kind, []).append(
                job.run.own_share * sum(job.run.summary["seconds"].values())
            )
    if not took:
        return None
    everything = [seconds for values in took.values() for seconds in values]
    left = 0.0
    for job in jobs:
        expected = median(took.get(job.kind, everything))
        if job.state in ("waiting", "interrupted"):
            left += expected
        elif job.state == "running":
            rows, tokens = (job.run.rows, job.run.budget_tokens) if job.run else ([], None)
            done = min(1.0, rows[-1]["tokens"] / tokens) if rows and tokens else 0.0
            left += expected * (1 - done)
    return left
