"""metrics.jsonl in Weights & Biases: online with a key, else offline; no prompt, no crash."""

import json
import logging
import math
import netrc
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe, parent_process
from pathlib import Path
from typing import Any

from minigpt import interrupt

log = logging.getLogger(__name__)
LOCAL_S = 60.0  # for what no server decides: loading wandb, and starting offline
STOPPED_S = 5.0  # for all that is left when the run was stopped by a signal
# In a worker of a sweep: the process of its last run. To import wandb takes as long as a short run.
_ready: list["WandbProcess"] = []


@dataclass(eq=False)
class WandbLogger:
    """Rows to wandb, which runs in a process of its own and never holds up a step.

    Online if WANDB_API_KEY is set, or netrc has the host. WANDB_MODE wins.

    project, entity: as wandb knows them.
    folder: where wandb keeps its files, shared by all runs; wandb insists on the name `wandb`.
    timeout_s: how long an online start may take before it falls back to offline.
    finish_timeout_s: how long the end of a run waits for the last upload. Then wandb is stopped,
        and `wandb sync` can send what lies on the disk. After a stop signal it is STOPPED_S at
        most, after another nothing.
    """

    project: str = "minigpt"
    entity: str | None = None
    folder: str = "outputs/wandb"
    timeout_s: float = 15.0
    finish_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        for name in ("timeout_s", "finish_timeout_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be more than 0, and finite")
        if Path(self.folder).name != "wandb":
            raise ValueError(f"folder={self.folder}: wandb names it itself (.../wandb)")
        self._messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._process: WandbProcess | None = None
        self._thread: threading.Thread | None = None
        self._sending = threading.Event()  # it has started, or never will
        self.failed = False  # it gave up, and has said so
        self._done = False  # the process has ended its run, and can take another

    def start(
        self, run: dict[str, Any], config: dict[str, Any], rows: list[dict[str, Any]]
    ) -> None:
        """Begin. A resumed run sends its earlier rows too: its last segment is the whole run."""
        init = {
            "project": self.project,
            "entity": self.entity,
            "dir": str(Path(self.folder).parent),
            "id": run["id"],
            "name": run["name"],
            "group": run["study"],
            "job_type": run["choices"].get("optim"),
            "config": {**config, "choices": run["choices"]},
        }
        self._thread = threading.Thread(target=self._work, args=[init], name="wandb", daemon=True)
        self._thread.start()
        for row in rows:
            self.log(row)

    def log(self, row: dict[str, Any]) -> None:
        """Send one row; silent after a failure."""
        if not self.failed:
            known = {key: value for key, value in row.items() if value is not None}
            self._messages.put({"row": known})

    def sample(self, sample: dict[str, Any]) -> None:
        """Send a text of the model, which joins the table `samples`; silent after a failure."""
        if not self.failed:
            self._messages.put({"sample": sample})

    def finish(self, summary: dict[str, Any]) -> None:
        """Send the summary and end, within the limits that the class states."""
        if self._thread is None:
            return
        self._messages.put({"summary": summary})
        self._messages.put(None)
        heard, begin = interrupt.count(), time.monotonic()
        while self._thread.is_alive():
            self._thread.join(0.05)
            if not (self._sending.is_set() or heard):
                begin = time.monotonic()  # starting has limits of its own
            limit = self.finish_timeout_s
            if interrupt.requested():
                limit = min(STOPPED_S, limit)
            waited = time.monotonic() - begin
            if waited > limit or interrupt.count() > heard:
                self._warn(f"no answer for {waited:.0f} s")
                break
        if self._process is not None and self._done and parent_process() is not None:
            _ready.append(self._process)
        elif self._process is not None:
            self._process.kill()
            self._thread.join(1.0)  # it sees the end of the process at once
            self._process.pipe.close()
        self._thread = None

    def _work(self, init: dict[str, Any]) -> None:
        """The thread: start, online or else offline, and hand over the messages as they come."""
        try:
            process = self._started(init)
            self._sending.set()
            if process is not None:
                with suppress(OSError):  # it has ended, and says why
                    for message in iter(self._messages.get, None):
                        process.say(message)
                if (answer := process.answer(None)) == "done":
                    self._done = True
                else:
                    self._warn(answer.removeprefix("failed "))
        except Exception as error:  # anything at all: it cannot stop a run
            self._warn(str(error) or type(error).__name__)
        self._sending.set()

    def _started(self, init: dict[str, Any]) -> "WandbProcess | None":
        mode = os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        settings = {
            "init_timeout": self.timeout_s,
            "silent": True,
            "console": "off",
            "disable_git": True,
        }
        for attempt in dict.fromkeys([mode, "offline"]):
            if self.failed:  # the run has ended
                break
            online = attempt == "online"
            options = {"mode": attempt, "resume": "allow" if online else None}
            process = self._process = _ready.pop() if _ready else WandbProcess()
            begin = {"init": init | options, "settings": settings}
            why = process.start(begin, self.timeout_s if online else LOCAL_S)
            if why is None:
                return process
            process.kill()
            process.pipe.close()
            if not self.failed:
                log.warning("warning: wandb (%s) did not start: %s", attempt, why)
        return None

    def _warn(self, why: str) -> None:
        if not self.failed:
            log.warning(
                "warning: wandb stopped: %s (the run goes on; metrics.jsonl is complete)", why
            )
        self.failed = True


class WandbProcess:
    """wandb_process.py, and what wandb starts beside it."""

    def __init__(self) -> None:
        self.pipe, theirs = Pipe()
        with theirs:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-P", str(Path(__file__).with_name("wandb_process.py"))),
                    str(theirs.fileno()),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"WANDB_SILENT": "true", **os.environ},
                start_new_session=True,  # Ctrl-C is for the run, which then ends this process
            )
        self._service: list[int] = []

    def start(self, begin: dict[str, Any], timeout_s: float) -> str | None:
        """None, or why it did not start."""
        answer = self.answer(LOCAL_S)
        if answer == "ready":
            self.say(begin)
            answer = self.answer(timeout_s)
        word, _, rest = answer.partition(" ")
        if word != "started":
            return rest if word == "failed" else answer
        self._service = [int(number) for number in rest.split()]
        return None

    def say(self, message: dict[str, Any]) -> None:
        self.pipe.send_bytes(json.dumps(message, default=str).encode())

    def answer(self, timeout_s: float | None) -> str:
        with suppress(OSError, EOFError):
            if not self.pipe.poll(timeout_s):
                return f"no answer for {timeout_s:g} s"
            return self.pipe.recv_bytes().decode("utf-8", "replace")
        return "its process ended"

    def kill(self) -> None:
        """End it without waiting for anything."""
        for number in (self.process.pid, *self._service):
            with suppress(OSError):
                os.kill(number, signal.SIGKILL)
        self.process.wait()


def has_key() -> bool:
    """Whether wandb would find a key without asking."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return "api.wandb.ai" in netrc.netrc(os.environ.get("NETRC") or None).hosts
    except (OSError, netrc.NetrcParseError):
        return False
