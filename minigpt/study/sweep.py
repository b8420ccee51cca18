"""The jobs of a multirun: checked and recorded before the first starts, what became of each, a
table at the end.

What became of a job stands in its run folder, so that the table is the same whatever process ran
the job. Finished jobs answer without Hydra, which takes two tenths of a second for each; the others
are left to it.
"""

import multiprocessing
import os
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from minigpt import durable, interrupt, records
from minigpt.checkpoint.layout import step_of, steps_on_disk
from minigpt.config.composed import choices_of, typed_of
from minigpt.config.plan import Plan
from minigpt.errors import (
    BusyError,
    CheckpointError,
    ConfigError,
    MinigptError,
    NumericsError,
    Stopped,
    StorageError,
)
from minigpt.lock import lock_is_held
from minigpt.reading import UnreadableError, read_bytes
from minigpt.run.answer import answer, print_outcome
from minigpt.run.record import FAILED, failure, read_summary
from minigpt.run.source_digest import changed_modules
from minigpt.study.jobs import Compose, jobs_of, plans, refuse_changes
from minigpt.study.record import changing, folder_of, path_of, read_sweep
from minigpt.terminal import duration, escape_line, table

Job = Callable[[DictConfig], Any]
Report = Callable[[MinigptError], None]


class JobFailed(MinigptError):
    """A job of a sweep failed; its process has reported why. Its exit code is that of the
    failure.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Sweep:
    """The task that Hydra calls for each job: a failure lets the others run, a stop signal ends the
    sweep.

    arrive: what a process has to set up before it can run a job; called in each worker of a
        parallel launcher.
    report: how the error of a job is shown.
    """

    def __init__(self, job: Job, arrive: Callable[[], None], report: Report) -> None:
        self.job, self.arrive, self.report = job, arrive, report
        self.record: Path | None = None
        self.jobs: list[dict[str, Any]] = []
        self.output = Path()
        # overrides of the jobs that Hydra has to launch; None: all
        self.left: list[list[str]] | None = None
        self.in_worker = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In a worker: Hydra composes the job there, so the resolvers must be known before the
        first call.
        """
        self.__dict__.update(state)
        self.in_worker = True
        self.arrive()

    def begin(
        self, cfg: DictConfig, arguments: list[str], overrides: list[str], compose: Compose
    ) -> bool:
        """Check every job, write the record and let the finished jobs answer. True if nothing is
        left to do.

        cfg: the first job's configuration. Raises CheckpointError if code or tokens changed since a
        job began, StorageError, and ConfigError without a Slurm.
        """
        if "Slurm" in cfg.hydra.launcher._target_ and shutil.which("sbatch") is None:
            raise ConfigError(
                "no Slurm here: hydra/launcher=slurm: no sbatch on PATH (start it on a login node)"
            )
        refuse_foreign(Path(cfg.hydra.sweep.dir) / "multirun.yaml")
        jobs = jobs_of(cfg, overrides)
        self.jobs = [{"overrides": job, "folder": None} for job in jobs]
        if "train" not in cfg or cfg.dry_run:
            return False  # generate.py, preprocess.py, or a run that leaves no trace
        self.output = Path(cfg.output_dir).expanduser()
        planned = list(plans(cfg, jobs, compose))
        for job, plan in zip(self.jobs, planned, strict=True):
            if plan is not None:
                job |= {"folder": plan.folder.name, "study": plan.study}
        refuse_changes([plan for plan in planned if plan is not None])
        self._write_record(
            cfg.get("study") or choices_of(cfg, cfg.hydra).get("experiment"), arguments
        )
        if jobs:
            self.left = [job for job, plan in zip(jobs, planned, strict=True) if not _answers(plan)]
        return self.left == []

    def _write_record(self, study: str | None, arguments: list[str]) -> None:
        record = path_of(self.output, study, arguments)
        with durable.writing(record), changing(record, study, arguments) as jobs:
            jobs[:] = self.jobs
        self.record = record

    def __call__(self, cfg: DictConfig) -> Any:
        """One job. Raises JobFailed; SystemExit for a stop signal, which ends the sweep."""
        from hydra.core.hydra_config import HydraConfig

        # it came when the job before was done
        if (stop := interrupt.requested()) and not self.in_worker:
            raise SystemExit(Stopped(stop).exit_code)
        hydra = HydraConfig.get()
        overrides, folder = typed_of(hydra), Path(hydra.runtime.output_dir)
        known = [job["overrides"] for job in self.jobs]
        number = known.index(overrides) if overrides in known else hydra.job.num
        if self.in_worker:
            interrupt.install()
            if interrupt.requested():
                # the sweep ends; this worker takes what is left in the queue and lets it be
                return None
        has_folder = self.record is not None and folder.name != ".invalid"
        self._note(number, {"overrides": overrides, "folder": folder.name if has_folder else None})
        try:
            with _quiet() if self.in_worker and multiprocessing.parent_process() else nullcontext():
                result = self.job(cfg)
            if self.record is None:
                self._note(number, {"done": True})
            return result
        except Stopped as stop:
            if not self.in_worker:
                self.report(stop)
                raise SystemExit(stop.exit_code) from None
            interrupt.hand_on()  # under Slurm to submitit, which requeues the job and exits
            return None
        except BusyError as error:
            print(f"running elsewhere: {error}", file=sys.stderr)
            self._note(number, {"failed": failure(error)})
        except MinigptError as error:
            self.report(error)
            self._failed(number, folder, error)
        except Exception as error:
            traceback.print_exc()
            self._failed(number, folder, error)
        finally:
            with suppress(OSError):  # Hydra made the job's folder before the job could refuse
                folder.rmdir()

    def _failed(self, number: int, folder: Path, error: Exception) -> None:
        # that one has a summary
        if not (folder / FAILED).is_file() and not isinstance(error, NumericsError):
            self._note(number, {"failed": failure(error)})
        raise JobFailed(str(error), failure(error)["exit_code"]) from None

    def _note(self, number: int, facts: dict[str, Any]) -> None:
        """Add what is known of a job to the record, which other processes may be doing too."""
        _add(self.jobs, number, facts)
        if self.record is None:
            return
        try:
            known = read_sweep(self.record)
            with changing(self.record, known.study, list(known.command)) as jobs:
                _add(jobs, number, facts)
        except (OSError, UnreadableError) as error:
            print(
                f"warning: cannot write the record of the sweep: {self.record}: {error}",
                file=sys.stderr,
            )

    def finish(self) -> int:
        """Print the table of a sweep; returns its exit code: that of the first job that failed,
        else 0.
        """
        if self.record is not None:  # other processes may know more
            with suppress(UnreadableError):
                jobs = [asdict(job) for job in read_sweep(self.record).jobs]
                own = [*self.jobs, *({} for _ in jobs)]
                self.jobs = [
                    {**job, "failed": job["failed"] or mine.get("failed")}
                    for job, mine in zip(jobs, own)
                ]
        if not self.jobs:
            return 0
        outcomes = [outcome(job, self.output) for job in self.jobs]
        rows = [
            (" ".join(names), *columns)
            for names, (_, columns) in zip(_distinguishing(self.jobs), outcomes, strict=True)
        ]
        rows.insert(0, ("job", "state", "val loss", "time", "folder"))
        print(file=sys.stderr)
        for line in table(rows):
            print(escape_line(line), file=sys.stderr)
        if self.record is not None:
            print(f"record: {self.record}", file=sys.stderr)
        return next((code for code, _ in outcomes if code), 0)


def _answers(plan: Plan | None) -> bool:
    """Whether a job has finished already and has said so."""
    if (
        plan is None
        or interrupt.requested()
        or (read_summary(plan.folder) or {}).get("status") != "finished"
    ):
        return False
    summary = answer(plan)
    if summary is not None:
        print_outcome(plan.folder, summary)
    return summary is not None


def refuse_foreign(path: Path) -> None:
    """Raise StorageError if Hydra, which writes this file for every sweep, would replace one that
    it did not write.
    """
    try:
        content = read_bytes(path)
    except UnreadableError as error:
        if error.missing and not os.path.lexists(path):
            return
        content = b""
    if path.is_symlink() or not re.search(rb"(?m)^hydra:$", content):
        raise StorageError(f"cannot write: {path}: not a file of Hydra's (move it away)")


def _add(jobs: list[dict[str, Any]], number: int, facts: dict[str, Any]) -> None:
    """Update one entry; a job that starts again has not failed yet. A sweeper that searches finds
    jobs on the way.
    """
    while len(jobs) <= number:
        jobs.append({"overrides": [], "folder": None})
    if "overrides" in facts:
        jobs[number].pop("failed", None)
    jobs[number].update(facts)


def outcome(job: dict[str, Any], output: Path) -> tuple[int, tuple[str, str, str, str]]:
    """What became of a job: its exit code, and state, validation loss, time of training and folder
    for the table.

    What its run folder says counts before what this sweep noted: another process may have gone on.
    """
    if job.get("done"):  # a job without a run folder
        return 0, ("done", "", "", "")
    failed, folder = job.get("failed"), folder_of(output, job["folder"] or ".invalid")
    name, record, summary = folder.name, _read(records.read_record, folder), read_summary(folder)
    if record is not None and summary is not None:
        loss = "" if summary["val_loss"] is None else f"{summary['val_loss']:.4f}"
        columns = (loss, duration(summary["train_time_s"]), name)
        if summary["status"] == "finished":
            return 0, ("finished, code changed" if changed_modules(record) else "done", *columns)
        return NumericsError.exit_code, (summary["status"], *columns)
    if lock_is_held(folder):
        return BusyError.exit_code, ("running elsewhere", "", "", name)
    failed = _read(records.read_failure, folder) or failed
    code = failed["exit_code"] if failed else 0
    if failed and code != BusyError.exit_code:  # busy: whoever ran it has left it since
        return code, (
            f"failed ({code})",
            "",
            "",
            name if record else failed["error"].partition("\n")[0],
        )
    if record is None:
        return code, ("not started", "", "", job["folder"] or "")
    steps = steps_on_disk(folder / "checkpoints")
    step = step_of(steps[-1]) if steps else 0
    return code, (f"unfinished, saved at step {step}", "", "", name)


def _read(what: Callable[[Path], dict[str, Any] | None], folder: Path) -> dict[str, Any] | None:
    """A file of a run; None where it is missing or damaged, which the job itself has said."""
    try:
        return what(folder)
    except CheckpointError:
        return None


def _distinguishing(jobs: list[dict[str, Any]]) -> Iterator[list[str]]:
    """The overrides of each job that are not those of every other."""
    common = set.intersection(*(set(job["overrides"]) for job in jobs)) if len(jobs) > 1 else set()
    for job in jobs:
        yield [override for override in job["overrides"] if override not in common] or [
            "(no overrides)"
        ]


@contextmanager
def _quiet() -> Iterator[None]:
    """No lines and no bar of a job that shares its terminal with others; its train.log has them,
    the table the rest.
    """
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield
