"""The entry of the scripts: arguments in, one line per problem and an exit code out."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig

from minigpt import interrupt, streams
from minigpt.cli import study
from minigpt.cli.arguments import report
from minigpt.cli.boundary import words
from minigpt.cli.composition import compose, groups_in
from minigpt.cli.flags import canonical, parse
from minigpt.cli.launch import Task, hide_bases, launch, needs_hydra
from minigpt.cli.overrides import (
    first_value,
    protect,
    refuse_secrets,
    refuse_torchrun,
    without_glob,
)
from minigpt.cli.process import set_up_process, set_up_worker
from minigpt.config import schema
from minigpt.errors import ConfigError, MinigptError, Stopped
from minigpt.files.durable import ensure_writable
from minigpt.study.jobs import only, shortest_first
from minigpt.study.sweep import JobFailed, Sweep
from minigpt.study.task import StudyTask

P = TypeVar("P")
# Calls a function as Hydra calls a job: in the folder that Hydra makes, with its callbacks.
Inside = Callable[[Callable[[], Any]], Any]
Job = Callable[[P, Inside], Any]
PlanOf = Callable[[DictConfig], P]
Composed = Callable[[list[str]], DictConfig]


def main(
    job: Job[P],
    config_name: str,
    plan_of: PlanOf[P],
    study_ends: Callable[[], study.Ends] | None = None,
    answers: bool = False,
) -> int:
    """Plan what the command line composes, and do it; returns the exit code.

    plan_of: raises ConfigError with every problem of a composed configuration, in milliseconds.
    job: does what was planned. What needs no folder comes first; the rest it calls `Inside`.
    study_ends: how a declared study is judged and told; None where there is none.
    answers: stdout is what the command is for, so losing it is an error.
    """
    with streams.standard(must_arrive=answers):
        os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us as they are
        set_up_process()
        schema.register()
        study.register()
        sweep = Sweep(_task(job, plan_of), set_up_worker, report)
        try:
            parsed = parse(sys.argv[1:])
            parsed.overrides = [protect(typed, parsed.multirun) for typed in parsed.overrides]
            if parsed.multirun:
                refuse_torchrun()
                hide_bases()
                folders = groups_in(parsed.config_dir)
                parsed.overrides = [without_glob(typed, folders) for typed in parsed.overrides]
                parsed.overrides = shortest_first(parsed.overrides)
            refuse_secrets(parsed.overrides)
            composed = partial(compose, config_name, config_dir=parsed.config_dir, check=plan_of)
            if _only_shows(parsed):
                _show(parsed, config_name, composed)
                return 0
            interrupt.install()
            if parsed.multirun:
                return _sweep(parsed, sweep, config_name, composed, study_ends)
            _single_run(parsed, job, plan_of, config_name, composed)
            return 0
        except BaseException as error:
            return _exit_code(error, sweep)


def _task(job: Job[P], plan_of: PlanOf[P]) -> Task:
    """A job as Hydra calls it in a sweep: with its configuration, in its folder."""
    return lambda cfg: job(plan_of(cfg), lambda work: work())


def _only_shows(parsed: argparse.Namespace) -> bool:
    """Whether Hydra is asked to show something, and no job runs."""
    return bool(
        parsed.help or parsed.hydra_help or parsed.cfg or parsed.info or parsed.shell_completion
    )


def _show(parsed: argparse.Namespace, config_name: str, composed: Composed) -> None:
    streams.stdout_must_arrive()
    hide_bases()
    sys.argv[1:] = canonical(parsed)
    failed = launch(lambda cfg: None, config_name, only_shows=True)
    if failed is not None:
        composed(parsed.overrides)  # says which override it is
        raise _not_composed(failed)


def _single_run(
    parsed: argparse.Namespace,
    job: Job[P],
    plan_of: PlanOf[P],
    config_name: str,
    composed: Composed,
) -> None:
    cfg = composed(parsed.overrides)
    mode = cfg.hydra.mode
    if study.is_declared(cfg) and not study.is_one_of_its_runs(cfg, parsed.overrides):
        raise ConfigError("this experiment is a study: add -m (python train.py -m experiment=...)")
    if cfg.hydra.sweeper.get("params") and mode is None:
        raise ConfigError("this experiment is a sweep: add -m (python train.py -m experiment=...)")
    if mode is not None and mode.name == "MULTIRUN":
        raise ConfigError("a sweep without -m: hydra.mode=MULTIRUN (type -m instead)")

    def inside(work: Callable[[], Any]) -> Any:
        if not needs_hydra(cfg):
            return work()
        results: list[Any] = []
        sys.argv[1:] = canonical(parsed)
        failed = launch(lambda _: results.append(work()), config_name, only_shows=False)
        if failed is not None:
            raise _not_composed(failed)
        return results[0]

    job(plan_of(cfg), inside)


def _sweep(
    parsed: argparse.Namespace,
    sweep: Sweep,
    config_name: str,
    composed: Composed,
    study_ends: Callable[[], study.Ends] | None,
) -> int:
    cfg = composed([first_value(override) for override in parsed.overrides])
    if study_ends is not None and study.is_declared(cfg):
        return _study(parsed, sweep, config_name, composed, cfg, study_ends())
    if "train" in cfg:
        ensure_writable(Path(cfg.output_dir).expanduser())
    arguments = canonical(parsed)
    if sweep.begin(cfg, arguments, parsed.overrides, composed):
        return sweep.finish()
    if "submitit" in cfg.hydra.launcher._target_:
        interrupt.restore()  # this process only waits: Ctrl-C leaves the jobs in the queue
    sys.argv[1:] = arguments
    with only(sweep.left), sweep.live(cfg):
        failed = launch(sweep, config_name, only_shows=False)
    # told here, since OmegaConf adds the frames of an exception that is being handled
    if failed is not None:
        raise _not_composed(failed)
    code = sweep.finish()
    # where workers ran the jobs, none of them could end the sweep
    signal_number = interrupt.requested()
    return Stopped(signal_number).exit_code if signal_number else code


def _study(
    parsed: argparse.Namespace,
    sweep: Sweep,
    config_name: str,
    composed: Composed,
    cfg: DictConfig,
    ends: study.Ends,
) -> int:
    """A declared study from its check to its report."""
    task = StudyTask(sweep.run_job, sweep.set_up, sweep.report)
    runs = study.prepare(cfg, parsed.overrides, task, composed)
    base = study.check_whole(runs)
    parallel = study.runs_side_by_side(cfg, runs)
    output = Path(cfg.output_dir).expanduser()
    if cfg.dry_run:
        streams.stdout_must_arrive()
        ends.describe(runs, output, (os.cpu_count() or 1) if parallel else 1)
        return 0
    ensure_writable(output)
    arguments = canonical(parsed)
    sys.argv[1:] = [*arguments, "hydra/hydra_logging=none"]  # one line tells of all jobs
    with study.begin(runs, output, arguments, base, ends), study.conducting(task, parallel):
        failed = launch(task, config_name, only_shows=False)
        if failed is not None:
            raise _not_composed(failed)
    return 0


def _not_composed(error: Exception) -> ConfigError:
    return ConfigError(f"configuration: {words(error)} (see --help)")


def _exit_code(error: BaseException, sweep: Sweep) -> int:
    """Say why the command ended, finish the sweep if there is one, and choose the exit code."""
    if isinstance(error, JobFailed):
        return sweep.finish() or error.exit_code
    if isinstance(error, MinigptError):
        report(error)
        sweep.finish()
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        _say("interrupted: jobs that were submitted go on without this process (scancel ends them)")
        sweep.finish()
        return 130
    if isinstance(error, SystemExit):
        sweep.finish()
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, BrokenExecutor):
        if stop := interrupt.requested():  # it was still starting when it had the signal
            sweep.finish()
            return Stopped(stop).exit_code
        _say(
            "error: a worker process was killed, and the others with it (the same command goes on)"
        )
    elif type(error).__module__.startswith("submitit."):  # a job that Slurm ended
        _say(f"error: {' '.join(str(error).split())} (the same command goes on)")
    elif isinstance(error, Exception):
        traceback.print_exception(error)
    else:
        raise error
    return sweep.finish() or 1


def _say(line: str) -> None:
    print(line, file=sys.stderr)
