"""The entry of the scripts: arguments in, one line per problem and an exit code out."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from functools import partial

from omegaconf import DictConfig

from minigpt import interrupt, streams
from minigpt.cli.arguments import report
from minigpt.cli.boundary import words
from minigpt.cli.composition import compose
from minigpt.cli.flags import canonical, parse
from minigpt.cli.launch import Job, hide_bases, launch, needs_hydra
from minigpt.cli.overrides import first_value, protect, refuse_secrets, refuse_torchrun
from minigpt.cli.process import set_up_process
from minigpt.config import schema
from minigpt.errors import ConfigError, MinigptError, Stopped
from minigpt.study.jobs import only, shortest_first
from minigpt.study.sweep import JobFailed, Sweep

Check = Callable[[DictConfig], object]
Before = Callable[[DictConfig, bool], bool]
Composed = Callable[[list[str]], DictConfig]


def main(job: Job, config_name: str, check: Check, before: Before, answers: bool = False) -> int:
    """Run `job` on the configuration that the command line composes; returns the exit code.

    check: raises ConfigError with every problem of a composed configuration, in milliseconds.
    before: what can be done before Hydra makes any folder, in a sweep with its first values. True:
        nothing is left to do (single runs only).
    answers: stdout is what the command is for, so losing it is an error.
    """
    with streams.standard(must_arrive=answers):
        os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us as they are
        set_up_process()
        schema.register()
        sweep = Sweep(job, set_up_process, report)
        try:
            parsed = parse(sys.argv[1:])
            parsed.overrides = [protect(typed, parsed.multirun) for typed in parsed.overrides]
            if parsed.multirun:
                refuse_torchrun()
                parsed.overrides = shortest_first(parsed.overrides)
            refuse_secrets(parsed.overrides)
            composed = partial(compose, config_name, config_dir=parsed.config_dir, check=check)
            if _only_shows(parsed):
                _show(parsed, job, config_name, composed)
                return 0
            interrupt.install()
            if parsed.multirun:
                return _sweep(parsed, sweep, config_name, composed, before)
            return _single_run(parsed, job, config_name, composed, before)
        except BaseException as error:
            return _exit_code(error, sweep)


def _only_shows(parsed: argparse.Namespace) -> bool:
    """Whether Hydra is asked to show something, and no job runs."""
    return bool(
        parsed.help or parsed.hydra_help or parsed.cfg or parsed.info or parsed.shell_completion
    )


def _show(parsed: argparse.Namespace, job: Job, config_name: str, composed: Composed) -> None:
    streams.stdout_must_arrive()
    hide_bases()
    sys.argv[1:] = canonical(parsed)
    failed = launch(job, config_name, only_shows=True)
    if failed is not None:
        composed(parsed.overrides)  # says which override it is
        raise _not_composed(failed)


def _single_run(
    parsed: argparse.Namespace, job: Job, config_name: str, composed: Composed, before: Before
) -> int:
    cfg = composed(parsed.overrides)
    mode = cfg.hydra.mode
    if cfg.hydra.sweeper.get("params") and mode is None:
        raise ConfigError("this experiment is a sweep: add -m (python train.py -m experiment=...)")
    if mode is not None and mode.name == "MULTIRUN":
        raise ConfigError("a sweep without -m: hydra.mode=MULTIRUN (type -m instead)")
    if before(cfg, False):
        return 0
    if not needs_hydra(cfg):
        job(cfg)
        return 0
    sys.argv[1:] = canonical(parsed)
    failed = launch(job, config_name, only_shows=False)
    if failed is not None:
        raise _not_composed(failed)
    return 0


def _sweep(
    parsed: argparse.Namespace, sweep: Sweep, config_name: str, composed: Composed, before: Before
) -> int:
    cfg = composed([first_value(override) for override in parsed.overrides])
    before(cfg, True)
    arguments = canonical(parsed)
    if sweep.begin(cfg, arguments, parsed.overrides, composed):
        return sweep.finish()
    if "submitit" in cfg.hydra.launcher._target_:
        interrupt.restore()  # this process only waits: Ctrl-C leaves the jobs in the queue
    sys.argv[1:] = arguments
    with only(sweep.left):
        failed = launch(sweep, config_name, only_shows=False)
    # told here, since OmegaConf adds the frames of an exception that is being handled
    if failed is not None:
        raise _not_composed(failed)
    code = sweep.finish()
    # where workers ran the jobs, none of them could end the sweep
    signal_number = interrupt.requested()
    return Stopped(signal_number).exit_code if signal_number else code


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
