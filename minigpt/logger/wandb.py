"""Weights & Biases as a mirror of metrics.jsonl: online with a key, else offline; never a prompt, never a crash."""

import logging
import netrc
import os
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class WandbLogger:
    """Mirror rows to wandb.

    project, entity: as wandb knows them.  folder: where wandb keeps its files, shared by all runs.
    timeout_s: how long starting may take before it falls back to offline.
    Online if WANDB_API_KEY is set (or netrc has the host) and WANDB_MODE does not say otherwise; WANDB_MODE wins.
    """

    def __init__(
        self,
        project: str = "minigpt",
        entity: str | None = None,
        folder: str = "outputs/wandb",
        timeout_s: float = 15.0,
    ) -> None:
        self.project = project
        self.entity = entity
        self.folder = folder
        self.timeout_s = timeout_s
        self._run: Any = None

    def start(self, run: dict[str, Any], config: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        """Begin a mirror. A resumed run replays its earlier rows, so that its last segment alone is the whole run."""
        mode = os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
        for attempt in dict.fromkeys([mode, "offline"]):
            try:
                self._run = self._init(attempt, run, config)
                break
            except Exception as error:  # anything at all: a mirror cannot stop a run
                log.warning("warning: wandb (%s) did not start: %s", attempt, _first_line(error))
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
        self._try(lambda: self._run.log({key: value for key, value in row.items() if value is not None}))

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary and end."""
        self._try(lambda: self._run.summary.update(summary))
        self._try(lambda: self._run.finish(exit_code=0))
        self._run = None

    def _try(self, action: Any) -> None:
        if self._run is None:
            return
        try:
            action()
        except Exception as error:
            log.warning("warning: wandb stopped: %s (training goes on; metrics.jsonl is complete)", _first_line(error))
            self._run = None


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
