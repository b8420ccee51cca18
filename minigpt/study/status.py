"""A sweep seen from outside: what is done, running, failed or waiting, the best so far, and when it
may end.

Only reads: the record of a sweep (`<output_dir>/sweeps/*.json`, written when it starts), run
folders, and the kernel's word on their locks. Without a record there is nothing to wait for, and
the runs that exist are shown.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from minigpt import records
from minigpt.errors import CheckpointError, ConfigError
from minigpt.reading import UnreadableError
from minigpt.study.find import read_run, run_folders, why_unreadable
from minigpt.study.record import folder_of, read_sweep, sweeps_in
from minigpt.study.run import Run
from minigpt.study.values import show
from minigpt.terminal import count, duration, escape_line

CHANGED = "finished (code changed)"
STATES = ("done", CHANGED, "diverged", "running", "failed", "unreadable", "interrupted", "waiting")
STATE_OF = {
    "finished": "done",
    "diverged": "diverged",
    "running": "running",
    "failed": "failed",
    "unfinished": "interrupted",
}


@dataclass
class JobStatus:
    """One job of a sweep. name: of its run folder, empty until known.  run: None while it waits.

    unreadable: why its folder cannot be read.
    """

    name: str
    overrides: tuple[str, ...]
    run: Run | None
    failure: dict[str, Any] | None
    unreadable: str = ""
    label: str = ""

    @property
    def state(self) -> str:
        if self.unreadable:
            return "unreadable"
        if self.run is not None:
            changed = self.run.status == "finished" and self.run.changed_code
            return CHANGED if changed else STATE_OF[self.run.status]
        return "waiting" if self.failure is None else "failed"

    @property
    def kind(self) -> tuple[str, ...]:
        """Jobs that differ in nothing but the seed take as long as each other."""
        return tuple(override for override in self.overrides if not override.startswith("seed="))


@dataclass
class SweepStatus:
    title: str
    jobs: list[JobStatus] = field(default_factory=list)


def sweeps(paths: Sequence[Path], study: str | None) -> list[SweepStatus]:
    """The recorded sweeps under the paths, then, as one more, the runs that belong to none of them.

    Raises ConfigError if there is nothing at all.
    """
    found, recorded = [], set()
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"no such folder: {path} (give the folder of runs, e.g. outputs)")
        for file in sweeps_in(path):
            try:
                record = read_sweep(file)
            except UnreadableError as error:
                found.append(
                    SweepStatus(
                        f"{file.name}: not a record of a sweep that this minigpt reads: {error.why}"
                    )
                )
                continue
            jobs = [_job(path, job.folder, job.overrides, job.failed) for job in record.jobs]
            recorded |= {(path / job.name).resolve() for job in jobs if job.name}
            jobs = [
                job
                for job, typed in zip(jobs, record.jobs, strict=True)
                if study in (None, typed.study)
            ]
            if jobs or study in (None, record.study):
                found.append(
                    SweepStatus(f"{record.study or file.stem}  ({' '.join(record.command)})", jobs)
                )
    rest = [
        folder for path in paths for folder in run_folders(path) if folder.resolve() not in recorded
    ]
    jobs = [_job(folder.parent, folder.name, (), None) for folder in rest]
    jobs = [
        job for job in jobs if study is None or (job.run is not None and study in job.run.studies)
    ]
    if jobs:
        found.append(SweepStatus("runs outside recorded sweeps" if found else "runs", jobs))
    if not found:
        what = f"of study {study}" if study else "no runs and no sweeps"
        raise ConfigError(
            f"nothing to show: {', '.join(map(str, paths))}: {what} (start one: python train.py -m ...)"
        )
    return found


def _job(
    output: Path, name: str | None, overrides: tuple[str, ...], failure: dict[str, Any] | None
) -> JobStatus:
    """name: of the run folder, None until the job has been composed.  failure: as the record of the
    sweep has it.
    """
    if name is None:
        return JobStatus("", overrides, None, failure)
    folder, run, unreadable = folder_of(output, name), None, ""
    try:
        failure = records.read_failure(folder) or failure
        run = read_run(folder) if os.path.lexists(folder / "run.json") else None
    except CheckpointError as error:
        unreadable = why_unreadable(error)
    if run is not None and not overrides:
        overrides = tuple(run.record.get("overrides", ()))
    return JobStatus(folder.name, overrides, run, failure, unreadable)


def status_text(found: Sequence[SweepStatus], by: str) -> str:
    """The lines for a terminal. by: the key whose values are the arms of `best so far`."""
    lines: list[str] = []
    for sweep in found:
        _shorten(sweep.jobs)
        lines += [sweep.title, *_sweep_lines(sweep, by), ""]
    return "\n".join(map(escape_line, lines)).rstrip() + "\n"


def _shorten(jobs: Sequence[JobStatus]) -> None:
    """Call jobs by the overrides that not all of them have."""
    common = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    for job in jobs:
        job.label = (
            " ".join(override for override in job.overrides if override not in common) or job.name
        )


def _sweep_lines(sweep: SweepStatus, by: str) -> list[str]:
    counts = {state: [job for job in sweep.jobs if job.state == state] for state in STATES}
    shown = ", ".join(f"{len(jobs)} {state}" for state, jobs in counts.items() if jobs)
    lines = [f"  {count(len(sweep.jobs), 'job')}: {shown or 'none'}"]
    estimate = seconds_left(sweep.jobs)
    if counts["waiting"] or counts["running"]:
        parallel = max(1, len(counts["running"]))
        lines.append(
            "  time left: unknown until a job has finished"
            if estimate is None
            else f"  time left: about {duration(round(estimate / parallel))} with {parallel} at a time"
        )
    for job in counts["running"]:
        lines.append(f"  running      {job.label}  {progress(job.run)}")
    for job in [
        *counts["failed"],
        *counts["unreadable"],
        *counts["diverged"],
        *counts["interrupted"],
    ]:
        lines.append(f"  {job.state:<11}  {job.label}  {reason(job)}".rstrip())
    for job in counts[CHANGED]:
        assert job.run is not None
        modules = ", ".join(name.replace(".", "/") + ".py" for name in job.run.changed_code)
        lines.append(f"  {CHANGED}  {job.label}  loss {job.run.loss('val_loss'):.4f}  ({modules})")
    for arm, job, loss in best([*counts["done"], *counts[CHANGED]], by):
        lines.append(f"  best so far  {arm}: {loss:.4f}  {job.label}  ({job.name})")
    return lines


def progress(run: Run | None) -> str:
    """`step 120 of 600, loss 4.9123` of a run on its way."""
    rows = run.rows if run is not None else []
    if run is None or not rows:
        return "starting"
    steps = run.budget_tokens // run.tokens_per_step if run.budget_tokens is not None else None
    losses = [row["train/loss"] for row in rows if row.get("train/loss") is not None]
    total = f" of {steps:,}" if steps else ""
    return f"step {rows[-1]['step']:,}{total}" + (f", loss {losses[-1]:.4f}" if losses else "")


def reason(job: JobStatus) -> str:
    """Why a job is not done."""
    if job.unreadable:
        return job.unreadable
    if job.failure is not None and job.state == "failed":
        return (
            f"{'; '.join(job.failure['error'].splitlines())} (exit code {job.failure['exit_code']})"
        )
    if job.run is not None and job.state == "diverged" and job.run.summary is not None:
        return f"at step {job.run.summary.get('step')}"
    return progress(job.run) if job.state == "interrupted" else ""


def best(done: Sequence[JobStatus], by: str) -> list[tuple[str, JobStatus, float]]:
    """The lowest final loss of each arm."""
    arms: dict[str, tuple[JobStatus, float]] = {}
    for job in done:
        assert job.run is not None
        loss = job.run.loss("val_loss")
        try:
            arm = show(job.run.value(by))
        except KeyError:
            arm = "null"
        if loss is not None and (arm not in arms or loss < arms[arm][1]):
            arms[arm] = (job, loss)
    return [(arm, job, loss) for arm, (job, loss) in sorted(arms.items())]


def seconds_left(jobs: Sequence[JobStatus]) -> float | None:
    """Work that is left, in seconds of one job at a time; None before any job has finished.

    A job takes as long as finished ones that differ only in the seed took, else as long as the
    median of all.
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
    expected: Callable[[JobStatus], float] = lambda job: median(took.get(job.kind, everything))
    left = 0.0
    for job in jobs:
        if job.state in ("waiting", "interrupted"):
            left += expected(job)
        elif job.state == "running":
            left += expected(job) * (1 - _share_done(job.run))
    return left


def _share_done(run: Run | None) -> float:
    if run is None or not run.rows or not run.budget_tokens:
        return 0.0
    return min(1.0, run.rows[-1]["tokens"] / run.budget_tokens)
