"""Weights & Biases as a mirror of metrics.jsonl: online with a key, else offline; never a prompt, never a crash."""

import logging
import netrc
import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class WandbLogger:
    """Mirror rows to wandb.

    project, entity: as wandb knows them.  folder: where wandb keeps its files, shared by all runs.
    timeout_s: how long starting may take before it falls back to offline.  finish_timeout_s: how long the end of a run
    waits for the last upload; after that wandb is stopped, and `wandb sync` can send what lies on the disk.
    Rows are handed over in a thread of its own, so a service that hangs never holds up a step.
    Online if WANDB_API_KEY is set (or netrc has the host) and WANDB_MODE does not say otherwise; WANDB_MODE wins.
    """

    def __init__(
        self,
        project: str = "minigpt",
        entity: str | None = None,
        folder: str = "outputs/wandb",
        timeout_s: float = 15.0,
        finish_timeout_s: float = 60.0,
    ) -> None:
        self.project = project
        self.entity = entity
        self.folder = folder
        self.timeout_s = timeout_s
        self.finish_timeout_s = finish_timeout_s
        self._run: Any = None
        self._failed = False
        self._actions: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._worker = threading.Thread(target=self._work, name="wandb", daemon=True)

    def start(self, run: dict[str, Any], config: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        """Begin a mirror. A resumed run replays its earlier rows, so that its last segment alone is the whole run."""
        mode = os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
        for attempt in dict.fromkeys([mode, "offline"]):
            try:
                self._run = self._init(attempt, run, config)
                break
            except Exception as error:  # anything at all: a mirror cannot stop a run
                log.warning("warning: wandb (%s) did not start: %s", attempt, _first_line(error))
                stop_service()  # it would hold the run's id against the next attempt
        if self._run is None:
            return
        self._worker.start()
        for row in rows:
            self.log(row)

    def _init(self, mode: str, run: dict[str, Any], config: dict[str, Any]) -> Any:
        import wandb

        os.environ.setdefault("WANDB_SILENT", "true")
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        started = wandb.init(
            project=self.project,
            entity=self.entity,
            dir=str(Path(self.folder).parent),
            id=run["id"],
            name=run["name"],
            group=run["study"],
            job_type=run["choices"].get("optim"),
            config={**config, "choices": run["choices"]},
            mode=mode,  # type: ignore[arg-type]
            resume="allow" if mode == "online" else None,
            reinit="finish_previous",
            settings=wandb.Settings(init_timeout=self.timeout_s, silent=True, console="off", disable_git=True),
        )
        started.define_metric("tokens")
        started.define_metric("*", step_metric="tokens")
        return started

    def log(self, row: dict[str, Any]) -> None:
        """Mirror one row; after a failure the mirror stays silent."""
        if self._run is not None:
            self._actions.put(lambda: self._run.log({key: value for key, value in row.items() if value is not None}))

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary and end, within `finish_timeout_s`."""
        if self._run is None:
            return
        self._actions.put(lambda: self._run.summary.update(summary))
        self._actions.put(lambda: self._run.finish(exit_code=0))
        self._actions.put(None)
        self._worker.join(self.finish_timeout_s)
        if self._worker.is_alive():
            self._warn(f"no answer for {self.finish_timeout_s:g} s")
        if self._failed:
            stop_service()
        self._run = None

    def _work(self) -> None:
        while (action := self._actions.get()) is not None:
            if not self._failed:
                try:
                    action()
                except Exception as error:
                    self._warn(_first_line(error))

    def _warn(self, why: str) -> None:
        if not self._failed:
            log.warning("warning: wandb stopped: %s (the run goes on; metrics.jsonl is complete)", why)
        self._failed = True


def stop_service() -> None:
    """End wandb's background process without waiting for it, and its hook that would wait at the end of Python."""
    with suppress(Exception):  # these names are wandb's own; without them its hook waits for the process
        from wandb.sdk import wandb_setup

        wandb_setup.singleton()._connection._proc._process.kill()  # type: ignore[union-attr]
    with suppress(Exception, SystemExit):  # it exits with the code of the process that was just killed
        import wandb

        wandb.teardown()


def has_key() -> bool:
    """Whether wandb would find a key without asking."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        hosts = netrc.netrc(os.environ.get("NETRC") or None).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return "api.wandb.ai" in hosts


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
