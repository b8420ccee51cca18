"""The entry of the scripts: arguments in, one line per problem and an exit code out. Starts
Hydra.
"""

import io
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, nullcontext, redirect_stderr
from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf

from minigpt import interrupt, streams
from minigpt.cli.arguments import report
from minigpt.cli.boundary import is_composition_error, words
from minigpt.cli.composition import compose
from minigpt.cli.flags import canonical, parse
from minigpt.cli.overrides import CONF, first_value, protect, refuse_secrets, refuse_torchrun
from minigpt.cli.process import set_up_process
from minigpt.config import schema
from minigpt.errors import ConfigError, MinigptError, Stopped
from minigpt.study.jobs import only, shortest_first
from minigpt.study.sweep import JobFailed, Sweep

Job = Callable[[DictConfig], Any]


def main(
    job: Job,
    config_name: str,
    check: Callable[[DictConfig], object],
    before: Callable[[DictConfig, bool], bool],
    answers: bool = False,
) -> int:
    """Run `job` on the configuration that the command line composes; returns the exit code.

    check: raises ConfigError with every problem of a composed configuration, in milliseconds.
    before: what can be done before Hydra makes any folder, in a sweep with its first values; for a
    single run True means that nothing is left to do.
    answers: stdout is what the command is for, so losing it is an error. Else it is only watched,
        as stderr is.
    """
    with streams.standard(must_arrive=answers):
        return run(job, config_name, check, before)


def run(
    job: Job,
    config_name: str,
    check: Callable[[DictConfig], object],
    before: Callable[[DictConfig, bool], bool],
) -> int:
    """The same, with the streams in place."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us as they are
    set_up_process()
    schema.register()
    sweep = Sweep(job, set_up_process, report)
    try:
        parsed = parse(sys.argv[1:])
        parsed.overrides = [protect(override, parsed.multirun) for override in parsed.overrides]
        if parsed.multirun:
            refuse_torchrun()
            parsed.overrides = shortest_first(parsed.overrides)
        refuse_secrets(parsed.overrides)
        arguments = canonical(parsed)
        asks = (
            parsed.help or parsed.hydra_help or parsed.cfg or parsed.info or parsed.shell_completion
        )
        if asks:
            streams.stdout_must_arrive()
            hide_bases()
        else:
            interrupt.install()
            first = (
                [first_value(override) for override in parsed.overrides]
                if parsed.multirun
                else parsed.overrides
            )
            composed = partial(compose, config_name, config_dir=parsed.config_dir, check=check)
            cfg = composed(first)
            if not parsed.multirun and cfg.hydra.sweeper.get("params") and cfg.hydra.mode is None:
                raise ConfigError(
                    "this experiment is a sweep: add -m (python train.py -m experiment=...)"
                )
            if (
                not parsed.multirun
                and cfg.hydra.mode is not None
                and cfg.hydra.mode.name == "MULTIRUN"
            ):
                raise ConfigError("a sweep without -m: hydra.mode=MULTIRUN (type -m instead)")
            if before(cfg, parsed.multirun):
                return 0
            if parsed.multirun:
                if sweep.begin(cfg, arguments, parsed.overrides, composed):
                    return sweep.finish()
                if "submitit" in cfg.hydra.launcher._target_:
                    # this process only waits: Ctrl-C leaves the jobs in the queue
                    interrupt.restore()
            elif not needs_hydra(cfg):
                job(cfg)
                return 0
        import hydra

        sys.argv[1:] = arguments
        task = sweep if parsed.multirun else job
        with hydra_failures(asks) as failed, only(sweep.left):
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(task)()
        # told here, since OmegaConf adds the frames of an exception that is being handled
        if failed:
            if asks:
                # says which override it is
                compose(config_name, parsed.overrides, parsed.config_dir, check)
            raise ConfigError(f"configuration: {words(failed[0])} (see --help)")
    except JobFailed as error:
        return sweep.finish() or error.exit_code
    except MinigptError as error:
        report(error)
        sweep.finish()
        return error.exit_code
    except BrokenExecutor:
        print(
            "error: a worker process was killed, and the others with it (the same command goes on)",
            file=sys.stderr,
        )
        return sweep.finish() or 1
    except KeyboardInterrupt:
        print(
            "interrupted: jobs that were submitted go on without this process (scancel ends them)",
            file=sys.stderr,
        )
        sweep.finish()
        return 130
    except SystemExit as stop:
        sweep.finish()
        return stop.code if isinstance(stop.code, int) else 1
    except Exception as error:
        # a job that Slurm ended, or could not start
        if type(error).__module__.startswith("submitit."):
            print(
                f"error: {' '.join(str(error).split())} (the same command goes on)", file=sys.stderr
            )
        else:
            traceback.print_exc()
        return sweep.finish() or 1
    code = sweep.finish()
    # where workers ran the jobs, none of them could end the sweep
    signal_number = interrupt.requested()
    return Stopped(signal_number).exit_code if signal_number and parsed.multirun else code


def needs_hydra(cfg: DictConfig) -> bool:
    """Whether a single run asks for what Hydra does around a job; else Hydra need not compose it
    twice more (0.3 s).
    """
    hydra = cfg.hydra
    wishes = (
        hydra.mode,
        hydra.callbacks,
        hydra.output_subdir,
        hydra.verbose,
        hydra.job.env_set,
        hydra.job.chdir,
    )
    return any(wishes) or OmegaConf.to_container(hydra.run) != {"dir": "${run_folder:}"}


def hide_bases() -> None:
    """Let --help and the completion of shells list no `_*.yaml`, which are no options."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    every = ConfigLoaderImpl.get_group_options

    def options(self: ConfigLoaderImpl, *arguments: Any, **more: Any) -> list[str]:
        return [name for name in every(self, *arguments, **more) if not name.startswith("_")]

    ConfigLoaderImpl.get_group_options = options  # type: ignore[method-assign, assignment]


@contextmanager
def hydra_failures(asks: bool) -> Iterator[list[Exception]]:
    """Where an exception of Hydra's own goes; that of a job is raised as it is.

    asks: Hydra only shows something, and says on stderr why it cannot: a ConfigError.
    """
    said = io.StringIO()
    failed: list[Exception] = []
    try:
        with redirect_stderr(said) if asks else nullcontext(), plain_failures():
            yield failed
    except SystemExit as stop:
        if asks and stop.code:
            raise ConfigError(
                f"arguments: {' '.join(said.getvalue().split())} (see --help)"
            ) from None
        raise
    except Exception as error:
        if not is_composition_error(error):
            raise
        failed.append(error)


@contextmanager
def plain_failures() -> Iterator[None]:
    """The error of a job comes out of Hydra as it is, without a line of Hydra's own on stderr
    before ours.
    """
    from hydra.core.utils import JobReturn, JobStatus

    def return_value(job: JobReturn) -> Any:
        if job.status == JobStatus.FAILED:
            raise job._return_value
        return job._return_value

    hydras = JobReturn.return_value
    JobReturn.return_value = hydras.getter(return_value)  # type: ignore[attr-defined, method-assign]
    try:
        yield
    finally:
        JobReturn.return_value = hydras  # type: ignore[method-assign]
