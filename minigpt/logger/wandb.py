"""Weights & Biases as a mirror of metrics.jsonl: online with a key, else offline; never a prompt,
never a crash.
"""

import json
import logging
import math
import netrc
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from minigpt import interrupt

log = logging.getLogger(__name__)
LOCAL_S = 60.0  # for what no server decides: loading wandb, and starting offline
STOPPED_S = 5.0  # for all that is left when the run was stopped by a signal


class WandbLogger:
    """Mirror rows to wandb.

    project, entity: as wandb knows them.  folder: where wandb keeps its files, shared by all runs.
    timeout_s: how long starting may take before it falls back to offline; the run does not wait for
        it.
    finish_timeout_s: how long the end of a run waits for the last upload; after that wandb is
    stopped, and `wandb sync` can send what lies on the disk. After a stop signal that is STOPPED_S
    at most, after another nothing. wandb runs in a process of its own, fed by a thread, so whatever
    it does never holds up a step. Online if WANDB_API_KEY is set (or netrc has the host) and
    WANDB_MODE does not say otherwise; WANDB_MODE wins.
    """

    def __init__(
        self,
        project: str = "minigpt",
        entity: str | None = None,
        folder: str = "outputs/wandb",
        timeout_s: float = 15.0,
        finish_timeout_s: float = 60.0,
    ) -> None:
        for name, seconds in (("timeout_s", timeout_s), ("finish_timeout_s", finish_timeout_s)):
            if not 0 < seconds < math.inf:
                raise ValueError(f"{name}={seconds} must be more than 0, and finite")
        self.project = project
        self.entity = entity
        self.folder = folder
        self.timeout_s = timeout_s
        self.finish_timeout_s = finish_timeout_s
        self._messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._process: WandbProcess | None = None
        self._thread: threading.Thread | None = None
        self._sending = threading.Event()  # it has started, or never will
        self._warned = False

    def start(
        self, run: dict[str, Any], config: dict[str, Any], rows: list[dict[str, Any]]
    ) -> None:
        """Begin a mirror. A resumed run replays its earlier rows, so that its last segment alone is
        the whole run.
        """
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
        self._thread = threading.Thread(target=self._mirror, args=[init], name="wandb", daemon=True)
        self._thread.start()
        for row in rows:
            self.log(row)

    def log(self, row: dict[str, Any]) -> None:
        """Mirror one row; after a failure the mirror stays silent."""
        if not self._warned:
            self._messages.put(
                {"row": {key: value for key, value in row.items() if value is not None}}
            )

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary and end, within `finish_timeout_s` of a start; sooner after a stop
        signal.
        """
        if self._thread is None:
            return
        self._messages.put({"summary": summary})
        self._messages.put(None)
        heard, begin, waited = interrupt.count(), time.monotonic(), 0.0
        while self._thread.is_alive():
            self._thread.join(0.05)
            if not (self._sending.is_set() or heard):
                begin = time.monotonic()  # starting has limits of its own
            waited = time.monotonic() - begin
            limit = (
                min(STOPPED_S, self.finish_timeout_s)
                if interrupt.requested()
                else self.finish_timeout_s
            )
            if waited > limit or interrupt.count() > heard:
                self._warn(f"no answer for {waited:.0f} s")
                break
        if self._process is not None:
            self._process.kill()
            self._thread.join(1.0)  # it sees the end of the process at once
            self._process.close()
        self._thread = None

    def _mirror(self, init: dict[str, Any]) -> None:
        """In the thread: start, online or else offline; then hand over the messages as they
        come.
        """
        try:
            if self._starts(init):
                self._sending.set()
                self._send()
        except Exception as error:  # anything at all: a mirror cannot stop a run
            self._warn(str(error) or type(error).__name__)
        self._sending.set()

    def _starts(self, init: dict[str, Any]) -> bool:
        mode = os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        for attempt in dict.fromkeys([mode, "offline"]):
            if self._warned:  # the run has ended
                break
            settings = {
                "init_timeout": self.timeout_s,
                "silent": True,
                "console": "off",
                "disable_git": True,
            }
            options = {"mode": attempt, "resume": "allow" if attempt == "online" else None}
            self._process = WandbProcess()
            limit_s = self.timeout_s if attempt == "online" else LOCAL_S
            why = self._process.start({"init": init | options, "settings": settings}, limit_s)
            if why is None:
                return True
            self._process.kill()
            self._process.close()
            if not self._warned:
                log.warning("warning: wandb (%s) did not start: %s", attempt, why)
        return False

    def _send(self) -> None:
        assert self._process is not None
        with suppress(OSError):  # it has ended, and says why
            while (message := self._messages.get()) is not None:
                self._process.say(message)
        answer = self._process.answer(None)
        if answer != "done":
            self._warn(answer.removeprefix("failed "))

    def _warn(self, why: str) -> None:
        if not self._warned:
            log.warning(
                "warning: wandb stopped: %s (the run goes on; metrics.jsonl is complete)", why
            )
        self._warned = True


class WandbProcess:
    """wandb_process.py, and what wandb starts beside it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("wandb_process.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={"WANDB_SILENT": "true", **os.environ},
            start_new_session=True,  # Ctrl-C is for the run, which then ends its mirror
        )
        self._service: list[int] = []
        self._said = b""

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
        assert self.process.stdin is not None
        rest = memoryview(json.dumps(message, default=str).encode() + b"\n")
        while rest:
            rest = rest[self.process.stdin.write(rest) or 0 :]

    def answer(self, timeout_s: float | None) -> str:
        """Its next line."""
        assert self.process.stdout is not None
        begin = time.monotonic()
        while b"\n" not in self._said:
            left = None if timeout_s is None else max(0.0, timeout_s - (time.monotonic() - begin))
            if not select.select([self.process.stdout], [], [], left)[0]:
                return f"no answer for {timeout_s:g} s"
            some = self.process.stdout.read(4096)
            if not some:
                return "its process ended"
            self._said += some
        line, _, self._said = self._said.partition(b"\n")
        return line.decode("utf-8", "replace")

    def kill(self) -> None:
        """End it without waiting for anything."""
        for number in (self.process.pid, *self._service):
            with suppress(OSError):
                os.kill(number, signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def has_key() -> bool:
    """Whether wandb would find a key without asking."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        hosts = netrc.netrc(os.environ.get("NETRC") or None).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return "api.wandb.ai" in hosts
