"""A sweep seen from outside: what is done, running, failed or waiting, and the best so far.

Only reads: the records of sweeps, run folders, and whether their locks are held. Without a record
there is nothing to wait for, and the runs that exist are shown.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from types import MappingProxyType
from typing import Any

from minigpt.errors import CheckpointError, ConfigError
from minigpt.files import records
from minigpt.files.reading import UnreadableError
from minigpt.study.find import read_run, run_folders, why_unreadable
from minigpt.study.outcome import own_overrides
from minigpt.study.record import folder_of, read_sweep, sweeps_in
from minigpt.study.run import Run
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


@dataclass(eq=False)
class JobStatus:
    """One job of a sweep."""

    name: str  # of its run folder, empty until known
    overrides: Sequence[str]
    run: Run | None  # None while it waits
    failure: dict[str, Any] | None
    unreadable: str = ""  # why its folder cannot be read
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

    @property
    def label_without_seed(self) -> str:
        """What sets its setting apart."""
        words = [word for word in self.label.split(" ") if not word.startswith("seed=")]
        return " ".join(words) or self.name


@dataclass
class SweepStatus:
    title: str
    jobs: list[JobStatus] = field(default_factory=list)


# of a declared study: its folder of runs and name -> what it asks for, and in which folder
Asked = Mapping[tuple[Path, str], Sequence[tuple[tuple[str, ...], str | None]]]


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
    for (output, name), planned in asked.items():
        jobs = [
            _job(output, folder, overrides, failed.get(output / (folder or "")))
            for overrides, folder in planned
        ]
        recorded |= {(output / job.name).resolve() for job in jobs if job.name}
        found.append(SweepStatus(f"{name}: what it asks for by now", jobs))
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


def status_text(found: Sequence[SweepStatus], by: str) -> str:
    """The lines for a terminal. by: the key whose values are the arms of `best so far`."""
    lines: list[str] = []
    for sweep in found:
        for job, own in zip(sweep.jobs, own_overrides([job.overrides for job in sweep.jobs])):
            job.label = " ".join(own) or job.name
        lines += [sweep.title, *_sweep_lines(sweep, by), ""]
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


def best_lines(ended: Sequence[JobStatus], by: str) -> list[str]:
    """The best setting of each arm: the lowest mean loss at one budget over the same seeds.

    The budget is the longest at which every arm has ended runs, else the longest of all; the seeds
    are those that every setting has there. A setting that diverged on one of them is never best.
    """
    arms: dict[str, dict[str, dict[int, JobStatus]]] = {}  # arm -> setting -> seed, at one budget
    budgets: dict[str, set[int]] = {}
    runs = {job: run for job in ended if (run := job.run) is not None}
    for run in runs.values():
        budgets.setdefault(run.arm(by), set()).add(run.budget_tokens or 0)
    if not budgets:
        return []
    budget = max(set.intersection(*budgets.values()) or set.union(*budgets.values()))
    for job, run in runs.items():
        if (run.budget_tokens or 0) == budget:
            settings = arms.setdefault(run.arm(by), {})
            settings.setdefault(_setting(run), {})[run.seed] = job
    seeds = set.intersection(*(set(found) for one in arms.values() for found in one.values()))
    if not seeds:
        return [f"  best so far  unknown: no seed that all settings have at {budget:,} tokens"]
    where = f"mean of {count(len(seeds), 'seed')} at {budget:,} tokens"
    lines = []
    for arm, one in sorted(arms.items()):
        means = {name: fmean(_loss(found[seed]) for seed in seeds) for name, found in one.items()}
        name = min(means, key=lambda setting: means[setting])
        if math.isfinite(means[name]):
            label = one[name][min(seeds)].label_without_seed
            lines.append(f"  best so far  {arm}: {means[name]:.4f}  {label}  ({where})")
    return lines


def _setting(run: Run) -> str:
    """Equal for runs that differ in seed and budget only."""
    identity = {k: v for k, v in run.record["identity"].items() if k not in ("seed", "budget")}
    return json.dumps(identity, sort_keys=True)


def _loss(job: JobStatus) -> float:
    """Infinite for a run that diverged."""
    assert job.run is not None
    loss = job.run.loss("val_loss")
    return math.inf if loss is None else loss


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
