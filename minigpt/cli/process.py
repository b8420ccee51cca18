"""What a process sets up before it composes: streams, the log on stderr, resolvers of conf/."""

import gc
import logging
import os
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from minigpt import ranks, streams
from minigpt.cli.constructor_keys import accept_constructor_keys
from minigpt.cli.yaml_files import refuse_multiplying_aliases
from minigpt.config import plan, schema, typed
from minigpt.errors import MinigptError
from minigpt.terminal import say

# How often a thread that waits for others looks before it sleeps. GNU's OpenMP reads it when torch
# is imported. Its own choice is to look for ever, and 50x slower where another program has a core.
SPINS = "1000"


def set_up_process() -> None:
    """Make streams safe, show the log, and set up what composing needs."""
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    if ranks.launched() > 1:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a lost rank is told in one line
    streams.install()
    show_log()
    set_up_composing()


def set_up_composing() -> None:
    """What composing needs, which changes nothing else of the process."""
    refuse_multiplying_aliases()
    register_resolvers()
    schema.register()


def set_up_worker() -> None:
    """The same in a process that Hydra composes jobs in."""
    set_up_process()
    accept_constructor_keys()


def look_for_garbage() -> None:
    """From here on: a command has started. What it made until now is none."""
    gc.freeze()
    gc.enable()


class AboveTheBar(logging.Handler):
    """Lines on stderr, above the progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


def show_log() -> None:
    """minigpt's own log to stderr, as plain lines."""
    logger = logging.getLogger("minigpt")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    if not logger.handlers:
        handler = AboveTheBar()
        handler.setLevel(logging.INFO if ranks.rank() == 0 else logging.ERROR)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)


def register_resolvers() -> None:
    """${run_folder:} and ${run_folder_name:} say where the composed run lives.

    ${oc.env:...} refuses names that look like a secret's.
    """
    resolvers: dict[str, Callable[..., str]] = {
        "oc.env": typed.environment_value,
        "run_folder": lambda _root_: str(_run_folder(_root_)),
        "run_folder_name": lambda _root_: _run_folder(_root_).name,
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def _run_folder(root: DictConfig) -> Path:
    """The run's folder; for a bad configuration one that the job removes, which says what is wrong.

    A resolver must not raise, since that would end a whole sweep.
    """
    try:
        return plan.plan_of(root).folder
    except MinigptError:
        return Path(str(root.get("output_dir", "outputs"))) / ".invalid"
