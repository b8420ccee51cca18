"""Hydra's own main, with its failures as ours and without what it shows too much of."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from typing import Any

from omegaconf import DictConfig, OmegaConf

from minigpt import interrupt
from minigpt.cli.boundary import is_composition_error
from minigpt.cli.constructor_keys import accept_constructor_keys
from minigpt.config.places import CONF
from minigpt.errors import ConfigError

Task = Callable[[DictConfig], Any]


def needs_hydra(cfg: DictConfig) -> bool:
    """Whether a single run asks for what Hydra does around a job.

    If not, the job is called at once, which saves two compositions (0.3 s).
    """
    hydra, job = cfg.hydra, cfg.hydra.job
    wishes = (hydra.mode, hydra.callbacks, hydra.output_subdir, hydra.verbose)
    return any((*wishes, job.env_set, job.chdir)) or OmegaConf.to_container(hydra.run) != {
        "dir": "${run_folder:}"
    }


def launch(task: Task, config_name: str, only_shows: bool) -> Exception | None:
    """Let Hydra call the task, by sys.argv; returns the error if composing fails.

    An error of the task is raised as it is.
    only_shows: Hydra shows something instead, and says on stderr why it cannot: a ConfigError.
    """
    import hydra

    accept_constructor_keys()
    said = io.StringIO()
    try:
        with redirect_stderr(said) if only_shows else nullcontext(), plain_failures():
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(task)()
    except SystemExit as stop:
        if only_shows and stop.code:
            message = " ".join(said.getvalue().split())
            raise ConfigError(f"arguments: {message} (see --help)") from None
        raise
    except Exception as error:
        if not is_composition_error(error):
            raise
        return error
    return None


@contextmanager
def plain_failures() -> Iterator[None]:
    """The error of a job comes out of Hydra as it is, without a line of Hydra's on stderr."""
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


@contextmanager
def workers_hold_signals_back() -> Iterator[None]:
    """joblib's workers have a stop signal once a job can act on it, not while they import."""
    from joblib.externals.loky.backend import fork_exec

    begin = fork_exec.fork_exec
    fork_exec.fork_exec = interrupt.held_back()(begin)
    try:
        yield
    finally:
        fork_exec.fork_exec = begin


def hide_bases() -> None:
    """Let the completion of shells list no `_*.yaml`, which are no options."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    every = ConfigLoaderImpl.get_group_options

    def options(self: ConfigLoaderImpl, *arguments: Any, **more: Any) -> list[str]:
        return [name for name in every(self, *arguments, **more) if not name.startswith("_")]

    ConfigLoaderImpl.get_group_options = options  # type: ignore[method-assign, assignment]
