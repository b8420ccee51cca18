"""The jobs of a multirun: a record of them before the first starts, what became of each, a table at the end.

<output_dir>/sweeps/<study or "sweep">-<hash of the command>.json
    {"schema": 1, "study": null, "command": ["-m", ...], "jobs": [{"overrides": ["seed=0"], "folder": null}, ...]}

`folder` is the name of the job's run folder. It is null until the job has been composed for the first time, since
composing all of them up front would cost a tenth of a second each; the record of an earlier start of the same command
is taken over. What became of a job stands in its run folder, so that the table is the same whatever process ran the
job; a job that failed and has no unfinished run to tell it has `failed` here, as failed.json would hold it.
"""

import json
import multiprocessing
import os
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from minigpt import checkpoint, durable, identity, interrupt
from minigpt.budget import BUDGET_KEYS
from minigpt.errors import ConfigError, MinigptError, NumericsError, Stopped
from minigpt.progress import duration
from minigpt.run.record import FAILED, failure, read_summary

SCHEMA = 1
Job = Callable[[DictConfig], Any]
Report = Callable[[MinigptError], None]


class JobFailed(MinigptError):
    """A job of a sweep failed; its process has reported why."""


class Sweep:
    """The task that Hydra calls for each job: a failure lets the others run, a stop signal ends the sweep.

    arrive: what a process has to set up before it can run a job; called in each worker of a parallel launcher.
    report: how the error of a job is shown.
    """

    def __init__(self, job: Job, arrive: Callable[[], None], report: Report) -> None:
        self.job, self.arrive, self.report = job, arrive, report
        self.record: Path | None = None
        self.jobs: list[dict[str, Any]] = []
        self.output = Path()
        self.in_worker = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In a worker: Hydra composes the job there, so the resolvers must be known before the first call."""
        self.__dict__.update(state)
        self.in_worker = True
        self.arrive()

    def begin(self, cfg: DictConfig, arguments: list[str], overrides: list[str]) -> None:
        """Write the record. cfg: the first job's configuration. Raises StorageError; ConfigError without a Slurm."""
        if "Slurm" in cfg.hydra.launcher._target_ and shutil.which("sbatch") is None:
            raise ConfigError("no Slurm here: hydra/launcher=slurm: no sbatch on PATH (start it on a login node)")
        self.jobs = [{"overrides": job, "folder": None} for job in jobs_of(cfg, overrides)]
        if "train" not in cfg or cfg.dry_run:
            return  # generate.py, preprocess.py, or a run that leaves no trace
        self.output = Path(cfg.output_dir).expanduser()
        study = cfg.get("study") or cfg.hydra.runtime.choices.get("experiment")
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", str(study or "sweep"))
        record = self.output / "sweeps" / f"{name}-{identity.short_hash({'command': arguments})}.json"
        with suppress(OSError, ValueError, KeyError, TypeError):
            known = {tuple(job["overrides"]): job["folder"] for job in json.loads(record.read_bytes())["jobs"]}
            for job in self.jobs:
                job["folder"] = known.get(tuple(job["overrides"]))
        content = {"schema": SCHEMA, "study": study, "command": arguments, "jobs": self.jobs}
        try:
            record.parent.mkdir(parents=True, exist_ok=True)
            durable.write_atomic(record, durable.json_bytes(content))
        except OSError as error:
            raise durable.storage_error(record, error) from None
        self.record = record

    def __call__(self, cfg: DictConfig) -> Any:
        """One job. Raises JobFailed; SystemExit for a stop signal, which ends the sweep."""
        from hydra.core.hydra_config import HydraConfig

        if (stop := interrupt.requested()) and not self.in_worker:  # it came when the job before was done
            raise SystemExit(Stopped(stop).exit_code)
        hydra = HydraConfig.get()
        number, overrides, folder = hydra.job.num, list(hydra.overrides.task), Path(hydra.runtime.output_dir)
        if self.in_worker:
            interrupt.install()
            if interrupt.requested():
                return None  # the sweep ends; this worker takes what is left in the queue and lets it be
        known = self.record is not None and folder.name != ".invalid"
        self._note(number, {"overrides": overrides, "folder": folder.name if known else None})
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
        if not (folder / FAILED).is_file() and not isinstance(error, NumericsError):  # that one has a summary
            self._note(number, {"failed": failure(error)})
        raise JobFailed(str(error)) from None

    def _note(self, number: int, facts: dict[str, Any]) -> None:
        """Add what is known of a job to the record, which other processes may be doing too."""
        if self.record is None:
            _add(self.jobs, number, facts)
            return
        try:
            with durable.FolderLock(self.record.parent, "the record of sweeps").acquire(wait=True):
                content = json.loads(self.record.read_bytes())
                _add(content["jobs"], number, facts)
                durable.write_atomic(self.record, durable.json_bytes(content))
        except (OSError, ValueError) as error:
            print(f"warning: cannot write the record of the sweep: {self.record}: {error}", file=sys.stderr)

    def finish(self) -> int:
        """Print the table of a sweep; returns its exit code: that of the first job that failed, else 0."""
        if self.record is not None:
            with suppress(OSError, ValueError):
                self.jobs = json.loads(self.record.read_bytes())["jobs"]
        if not self.jobs:
            return 0
        outcomes = [outcome(job, self.output) for job in self.jobs]
        rows = [
            (" ".join(names), *columns)
            for names, (_, columns) in zip(_distinguishing(self.jobs), outcomes, strict=True)
        ]
        rows.insert(0, ("job", "state", "val loss", "time", "folder"))
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        print(file=sys.stderr)
        for row in rows:
            print(
                "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip(), file=sys.stderr
            )
        if self.record is not None:
            print(f"record: {self.record}", file=sys.stderr)
        return next((code for code, _ in outcomes if code), 0)


def _add(jobs: list[dict[str, Any]], number: int, facts: dict[str, Any]) -> None:
    """Update one entry; a job that starts again has not failed yet. A sweeper that searches finds jobs on the way."""
    while len(jobs) <= number:
        jobs.append({"overrides": [], "folder": None})
    if "overrides" in facts:
        jobs[number].pop("failed", None)
    jobs[number].update(facts)


def outcome(job: dict[str, Any], output: Path) -> tuple[int, tuple[str, str, str, str]]:
    """What became of a job: its exit code, and state, validation loss, time of training and folder for the table."""
    folder = job["folder"] or ""
    if job.get("done"):  # a job without a run folder
        return 0, ("done", "", "", "")
    begun = bool(folder) and (output / folder / "run.json").is_file()
    if failed := job.get("failed"):
        where = folder if begun else failed["error"].partition("\n")[0]
        return failed["exit_code"], (f"failed ({failed['exit_code']})", "", "", where)
    if not begun:
        return 0, ("not started", "", "", folder)
    summary = read_summary(output / folder)
    if summary is not None:
        loss = "" if summary["val_loss"] is None else f"{summary['val_loss']:.4f}"
        seconds = summary["train_time_s"]
        columns = (loss, f"{seconds:.1f} s" if seconds < 60 else duration(seconds), folder)
        if summary["status"] == "finished":
            return 0, ("done", *columns)
        return NumericsError.exit_code, (summary["status"], *columns)
    with suppress(OSError, ValueError):
        code = json.loads((output / folder / FAILED).read_bytes())["exit_code"]
        return code, (f"failed ({code})", "", "", folder)
    steps = checkpoint.steps_on_disk(output / folder / "checkpoints")
    step = checkpoint.step_of(steps[-1]) if steps else 0
    return 0, (f"unfinished, saved at step {step}", "", "", folder)


def _distinguishing(jobs: list[dict[str, Any]]) -> Iterator[list[str]]:
    """The overrides of each job that are not those of every other."""
    common = set.intersection(*(set(job["overrides"]) for job in jobs)) if len(jobs) > 1 else set()
    for job in jobs:
        yield [override for override in job["overrides"] if override not in common] or ["(no overrides)"]


def jobs_of(cfg: DictConfig, overrides: list[str]) -> list[list[str]]:
    """The overrides of each job, in Hydra's order, without composing any; [] where only the sweeper knows them."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if not cfg.hydra.sweeper._target_.endswith(".BasicSweeper"):
        return []
    params = [f"{key}={value}" for key, value in (cfg.hydra.sweeper.get("params") or {}).items()]
    try:
        parsed = OverridesParser.create().parse_overrides([*params, *overrides])
        (jobs,) = BasicSweeper.split_arguments([o for o in parsed if not o.is_hydra_override()], None)
    except HydraException:  # glob() needs the configuration to be listed
        return []
    return jobs


def shortest_first(overrides: list[str]) -> list[str]:
    """The same sweep with its budgets in ascending order, as its slowest axis: all jobs of the shortest budget come
    first. Results come early, and a longer run finds what a shorter one has trained already (see branch.py)."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    result = list(overrides)
    for name in BUDGET_KEYS:
        same = [override for override in overrides if override.partition("=")[0] == f"train.{name}"]
        with suppress(HydraException, ValueError):
            parsed = OverridesParser.create().parse_override(same[-1] if same else "")  # the last one counts
            if parsed.is_sweep_override() and parsed.is_discrete_sweep():
                values = sorted(parsed.sweep_string_iterator(), key=float)
                rest = [override for override in result if override not in same]
                result = [f"train.{name}={','.join(values)}", *rest]
    return result


@contextmanager
def _quiet() -> Iterator[None]:
    """No lines and no bar of a job that shares its terminal with others; its train.log has them, the table the rest."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield
