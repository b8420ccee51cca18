"""A multirun: its jobs are checked and recorded before the first starts; a table ends it.

Finished jobs answer without Hydra, which would take 0.2 s for each.
"""

import gc
import multiprocessing
import os
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import (
    AbstractContextManager,
    contextmanager,
    nullcontext,
    redirect_stderr,
    redirect_stdout,
    suppress,
)
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from minigpt import interrupt
from minigpt.config.composed import choices_of, typed_of
from minigpt.config.plan import Plan
from minigpt.errors import (
    BusyError,
    ConfigError,
    JobFailed,
    MinigptError,
    NumericsError,
    Stopped,
    StorageError,
)
from minigpt.files import durable
from minigpt.files.reading import UnreadableError, if_there, read_bytes
from minigpt.files.records import summary_of
from minigpt.run.answer import answer, print_outcome
from minigpt.run.record import FAILED, failure
from minigpt.study.jobs import Compose, Planner, jobs_of, refuse_changes
from minigpt.study.live import LiveLine, WatchedJob
from minigpt.study.outcome import outcome_table, own_overrides
from minigpt.study.record import changing, path_of, read_sweep
from minigpt.terminal import count, escape_line


class Sweep:
    """The task that Hydra calls for each job. A job that fails lets the others run.

    run_job: runs one job from its configuration.
    set_up: prepares a process for jobs; also called in each worker of a parallel launcher.
    report: shows the error of a job.
    """

    def __init__(
        self,
        run_job: Callable[[DictConfig], Any],
        set_up: Callable[[], None],
        report: Callable[[MinigptError], None],
    ) -> None:
        self.run_job, self.set_up, self.report = run_job, set_up, report
        self.record: Path | None = None
        self.jobs: list[dict[str, Any]] = []  # as in the record
        self.output = Path()  # the folder of the runs
        self.left: list[list[str]] | None = None  # overrides of jobs for Hydra to launch; None: all
        self.study: str | None = None
        self.in_worker = False
        self.stopped = False  # in a worker: its job was handed over after a stop signal
        self.planned: list[list[str]] = []  # those of the jobs that are left which can work
        self.watched: list[WatchedJob] = []  # the jobs that are left

    @property
    def is_quiet(self) -> bool:
        """Whether a job shares its terminal with others; train.log has its lines."""
        of_ours = multiprocessing.parent_process() is not None or "ray" in sys.modules
        return self.in_worker and of_ours

    def __getstate__(self) -> dict[str, Any]:
        """For a worker: one that is still starting when a stop signal comes does not have it.

        In a worker submitit asks, for a job that was stopped and goes back to the queue.
        """
        return vars(self) | {"stopped": not self.in_worker and interrupt.requested() is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In a worker. Hydra composes the job there, so resolvers must be known before a call."""
        self.__dict__.update(state)
        self.in_worker = True
        self.set_up()

    def begin(
        self, cfg: DictConfig, arguments: list[str], overrides: list[str], compose: Compose
    ) -> bool:
        """Check every job, write the record, let the finished jobs answer. True if none is left.

        cfg: the first job's configuration.
        Raises CheckpointError if code or tokens changed since a job began, StorageError, and
        ConfigError without a Slurm.
        """
        refuse_no_slurm(cfg)
        refuse_foreign(Path(cfg.hydra.sweep.dir) / "multirun.yaml")
        jobs = jobs_of(cfg, overrides)
        self.jobs = [{"overrides": job, "folder": None} for job in jobs]
        if "train" not in cfg or cfg.dry_run:
            return False  # generate.py, preprocess.py, or a run that leaves no trace
        self.output = Path(cfg.output_dir).expanduser()
        shared = set.intersection(*map(set, jobs)) if jobs else set()
        planned = list(Planner(cfg, compose, shared).plans(jobs))
        for job, plan in zip(self.jobs, planned, strict=True):
            if plan is not None:
                job |= {"folder": plan.folder.name, "study": plan.study}
        refuse_changes([plan for plan in planned if plan is not None])
        self.study = cfg.get("study") or choices_of(cfg, cfg.hydra).get("experiment")
        record = path_of(self.output, self.study, arguments)
        with durable.writing(record), changing(record, self.study, arguments) as recorded:
            if jobs:
                recorded[:] = self.jobs
            else:  # a search knows those of an earlier start
                self.jobs = list(recorded)
        self.record = record
        if None in planned:
            first = " ".join(own_overrides(jobs)[planned.index(None)])
            print(
                f"warning: {planned.count(None)} of {count(len(jobs), 'job')} cannot work as it "
                f"stands, the first of them: {first}",
                file=sys.stderr,
            )
        if jobs:
            left = [pair for pair in zip(jobs, planned, strict=True) if not _answers(pair[1])]
            self.left = [job for job, _ in left]
            self.planned = [job for job, plan in left if plan is not None]
            self.watched = [WatchedJob(plan.folder, "best") for _, plan in left if plan is not None]
        return self.left == []

    def live(self, cfg: DictConfig) -> AbstractContextManager[object]:
        """One line for all jobs, where they run elsewhere than in this process."""
        if not self.watched or cfg.hydra.launcher._target_.endswith(".BasicLauncher"):
            return nullcontext()
        return LiveLine(self.study or "sweep", self.watched, "val_loss")

    def __call__(self, cfg: DictConfig) -> Any:
        """One job. Raises JobFailed; SystemExit for a stop signal, which ends the sweep."""
        from hydra.core.hydra_config import HydraConfig

        # A signal that came when the job before was done.
        if (stop := interrupt.requested()) and not self.in_worker:
            raise SystemExit(Stopped(stop).exit_code)
        hydra = HydraConfig.get()
        overrides, folder = typed_of(hydra), Path(hydra.runtime.output_dir)
        known = [job["overrides"] for job in self.jobs]
        number = known.index(overrides) if overrides in known else hydra.job.num
        if self.in_worker:
            interrupt.install()
            if self.stopped or interrupt.requested():  # drain the queue without running jobs
                return None
        has_folder = self.record is not None and folder.name != ".invalid"
        self._note(number, {"overrides": overrides, "folder": folder.name if has_folder else None})
        try:
            with _quiet() if self.is_quiet else nullcontext():
                result = self.run_job(cfg)
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
        # A diverged run has a summary.
        if not (folder / FAILED).is_file() and not isinstance(error, NumericsError):
            self._note(number, {"failed": failure(error)})
        _free(error)
        raise JobFailed(str(error), failure(error)["exit_code"]) from None

    def _note(self, number: int, facts: dict[str, Any]) -> None:
        """Add what is known of a job to the record, which other processes may be doing too."""
        _add(self.jobs, number, facts)
        if self.record is None:
            return
        try:
            known = read_sweep(self.record)
            with changing(self.record, known["study"], known["command"]) as jobs:
                _add(jobs, number, facts)
        except (OSError, UnreadableError) as error:
            print(
                f"warning: cannot write the record of the sweep: {self.record}: {error}",
                file=sys.stderr,
            )

    def finish(self) -> int:
        """Print the table of the jobs. Returns the exit code of the first that failed, else 0."""
        if self.record is not None:  # other processes may know more
            with suppress(UnreadableError):
                jobs = read_sweep(self.record)["jobs"]
                own = [*self.jobs, *({} for _ in jobs)]
                self.jobs = [
                    {**job, "failed": job["failed"] or mine.get("failed")}
                    for job, mine in zip(jobs, own)
                ]
        if not self.jobs:
            return 0
        lines, code = outcome_table(self.jobs, self.output)
        print(file=sys.stderr)
        for line in lines:
            print(escape_line(line), file=sys.stderr)
        if self.record is not None:
            print(f"record: {self.record}", file=sys.stderr)
        return code


def _answers(plan: Plan | None) -> bool:
    """Whether a job has finished already and has said so."""
    if (
        plan is None
        or interrupt.requested()
        or (summary_of(plan.folder) or {}).get("status") != "finished"
    ):
        return False
    summary = answer(plan)
    if summary is not None:
        print_outcome(plan.folder, summary)
    return summary is not None


def refuse_no_slurm(cfg: DictConfig) -> None:
    """Raise ConfigError for a launcher that finds no Slurm here."""
    if "Slurm" in cfg.hydra.launcher._target_ and shutil.which("sbatch") is None:
        raise ConfigError(
            "no Slurm here: hydra/launcher=slurm: no sbatch on PATH (start it on a login node)"
        )


def refuse_foreign(path: Path) -> None:
    """Raise StorageError for a multirun.yaml that Hydra would replace and has not written."""
    try:
        content = if_there(read_bytes, path)
    except UnreadableError:
        content = b""
    if content is None:
        return
    if path.is_symlink() or not re.search(rb"(?m)^hydra:$", content):
        raise StorageError(f"cannot write: {path}: not a file of Hydra's (move it away)")


def _add(jobs: list[dict[str, Any]], number: int, facts: dict[str, Any]) -> None:
    """Update one entry; a job that starts again has not failed yet.

    A sweeper that searches finds jobs on the way: then the list grows.
    """
    while len(jobs) <= number:
        jobs.append({"overrides": [], "folder": None})
    if "overrides" in facts:
        jobs[number].pop("failed", None)
    jobs[number].update(facts)


def _free(error: BaseException | None) -> None:
    """Give back what a failed job held. Its error lives on, with frames that hold its model."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
    gc.collect()
    if torch := sys.modules.get("torch"):
        torch.cuda.empty_cache()


@contextmanager
def _quiet() -> Iterator[None]:
    """No lines and no bar of a job."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield
