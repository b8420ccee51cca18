"""What a process sets up before it composes: streams, the log on stderr, resolvers of conf/."""

import logging
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from minigpt import streams
from minigpt.cli.yaml_files import refuse_multiplying_aliases
from minigpt.config import typed
from minigpt.errors import MinigptError
from minigpt.terminal import say


def set_up_process() -> None:
    """Make the streams safe, configure logging, bound YAML, register resolvers. Sweep workers call it too."""
    streams.install()
    show_log()
    refuse_multiplying_aliases()
    register_resolvers()


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
        handler.setLevel(logging.INFO)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)


def register_resolvers() -> None:
    """${run_folder:} and ${run_folder_name:} say where the composed run lives.

    ${oc.env:...} refuses names that look like a secret's.
    """
    OmegaConf.register_new_resolver("oc.env", typed.environment_value, replace=True)
    OmegaConf.register_new_resolver(
        "run_folder", lambda _root_: str(_run_folder(_root_)), replace=True
    )
    OmegaConf.register_new_resolver(
        "run_folder_name", lambda _root_: _run_folder(_root_).name, replace=True
    )


def _run_folder(root: DictConfig) -> Path:
    """The run's folder; for a bad configuration one that the job removes, which says what is wrong.

    A resolver must not raise, since that would end a whole sweep.
    """
    from minigpt.config.plan import plan_of

    try:
        return plan_of(root).folder
    except MinigptError:
        return Path(str(root.get("output_dir", "outputs"))) / ".invalid"
