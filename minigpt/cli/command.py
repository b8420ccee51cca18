"""What the scripts share: arguments in, one line per problem and an exit code out."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from omegaconf import DictConfig

from minigpt import interrupt, ranks, streams
from minigpt.cli.arguments import report
from minigpt.cli.boundary import not_composed
from minigpt.cli.composition import compose, each_logger, groups_in
from minigpt.cli.flags import canonical, parse
from minigpt.cli.launch import Task, hide_bases, launch, needs_hydra
from minigpt.cli.overrides import protect, refuse_secrets, refuse_torchrun
from minigpt.cli.process import look_for_garbage, set_up_process, set_up_worker
from minigpt.config.composed import is_declared
from minigpt.errors import ConfigError, JobFailed, MinigptError

if TYPE_CHECKING:
    from minigpt.cli.study import Ends
    from minigpt.study.jobs import Compose

P = TypeVar("P")
# Calls a function as Hydra calls a job: in the folder that Hydra makes, with its callbacks.
Inside = Callable[[Callable[[], Any]], Any]
Job = Callable[[P, Inside], Any]
PlanOf = Callable[[DictConfig], P]


def run(
    job: Job[P],
    config_name: str,
    plan_of: PlanOf[P],
    study_ends: "Callable[[], Ends] | None",
    answers: bool,
) -> int:
    """See `entry.main`."""
    with streams.standard(must_arrive=answers):
        os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us as they are
        set_up_process()
        finish: Callable[[], int] = int  # what a sweep still has to tell, and its exit code
        try:
            parsed = parse(sys.argv[1:])
            parsed.overrides = [protect(typed, parsed.multirun) for typed in parsed.overrides]
            composed = partial(compose, config_name, config_dir=parsed.config_dir, check=plan_of)
            if parsed.help:
                from minigpt.cli.help import help_of

                folders = groups_in(parsed.config_dir, parsed.overrides)
                streams.stdout_must_arrive()
                print(help_of(parsed.overrides, config_name, composed, folders))
                return 0
            parsed.overrides = each_logger(parsed.overrides, parsed.config_dir)
            refuse_torchrun(parsed.multirun, config_name)
            if parsed.multirun:
                from minigpt.cli import multirun

                parsed.overrides = multirun.laid_out(parsed)
            refuse_secrets(parsed.overrides)
            if parsed.hydra_help or parsed.cfg or parsed.info or parsed.shell_completion:
                _show(parsed, config_name, composed)
                return 0
            interrupt.install()
            if parsed.multirun:
                sweep = multirun.Sweep(_task(job, plan_of), set_up_worker, report)
                finish = sweep.finish
                look_for_garbage()
                return multirun.run(parsed, sweep, config_name, composed, study_ends)
            _single_run(parsed, job, plan_of, config_name, composed)
            return 0
        except BaseException as error:
            return _exit_code(error, finish)


def _task(job: Job[P], plan_of: PlanOf[P]) -> Task:
    """A job as Hydra calls it in a sweep: with its configuration, in its folder."""
    return lambda cfg: job(plan_of(cfg), lambda work: work())


def _show(parsed: argparse.Namespace, config_name: str, composed: "Compose") -> None:
    """Let Hydra show what is asked for. No job runs."""
    streams.stdout_must_arrive()
    hide_bases()
    sys.argv[1:] = canonical(parsed)
    failed = launch(lambda cfg: None, config_name, only_shows=True)
    if failed is not None:
        composed(parsed.overrides)  # says which override it is
        raise not_composed(failed)


def _single_run(
    parsed: argparse.Namespace,
    job: Job[P],
    plan_of: PlanOf[P],
    config_name: str,
    composed: "Compose",
) -> None:
    cfg = composed(parsed.overrides)
    refuse_several_runs(cfg, parsed.overrides)

    def inside(work: Callable[[], Any]) -> Any:
        if not needs_hydra(cfg):
            return work()
        results: list[Any] = []
        sys.argv[1:] = canonical(parsed)
        failed = launch(lambda _: results.append(work()), config_name, only_shows=False)
        if failed is not None:
            raise not_composed(failed)
        return results[0]

    plan = plan_of(cfg)
    look_for_garbage()
    job(plan, inside)


def refuse_several_runs(cfg: DictConfig, overrides: list[str]) -> None:
    """Raise ConfigError for what is meant to be a sweep or a study."""
    mode = cfg.hydra.mode
    # with an arm typed, one run of a study is meant
    if is_declared(cfg) and not any(t.startswith(f"{cfg.verdict.by}=") for t in overrides):
        raise ConfigError("this experiment is a study: add -m (python train.py -m experiment=...)")
    if cfg.hydra.sweeper.get("params") and mode is None:
        raise ConfigError("this experiment is a sweep: add -m (python train.py -m experiment=...)")
    if mode is not None and mode.name == "MULTIRUN":
        raise ConfigError("a sweep without -m: hydra.mode=MULTIRUN (type -m instead)")


def _exit_code(error: BaseException, finish: Callable[[], int]) -> int:
    """Say why the command ended, finish the sweep if there is one, and choose the exit code."""
    from concurrent.futures import BrokenExecutor

    if isinstance(error, JobFailed):
        return finish() or error.exit_code
    if isinstance(error, MinigptError):
        # what composing refuses is the same on every rank
        if not (error.told or (ranks.rank() > 0 and isinstance(error, ConfigError))):
            report(error)
        finish()
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        _say("interrupted: jobs that were submitted go on without this process (scancel ends them)")
        finish()
        return 130
    if isinstance(error, SystemExit):
        finish()
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, BrokenExecutor):
        _say(
            "error: a worker process was killed, and the others with it (the same command goes on)"
        )
    elif type(error).__module__.startswith("submitit."):  # a job that Slurm ended
        _say(f"error: {' '.join(str(error).split())} (the same command goes on)")
    elif isinstance(error, Exception):
        traceback.print_exception(error)
    else:
        raise error
    return finish() or 1


def _say(line: str) -> None:
    print(line, file=sys.stderr)
