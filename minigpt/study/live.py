"""One line for a whole study while its jobs run: phase, jobs, the best so far, the time left."""

import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from minigpt.errors import CheckpointError
from minigpt.files.lock import lock_is_held
from minigpt.files.reading import UnreadableError
from minigpt.files.records import read_record, read_rows, summary_of
from minigpt.terminal import bar, count, duration

LOOK_S = 1.0  # between two looks at the folders
LINE_S, ENDED_S = 60.0, 5.0  # between two lines without a terminal, and if jobs have ended


@dataclass(frozen=True)
class WatchedJob:
    """A job of the phase."""

    folder: Path
    arm: str


class LiveLine:
    """Shows a phase from `with LiveLine(...)` to its end. It only reads, and stops nothing."""

    def __init__(self, title: str, jobs: Sequence[WatchedJob], metric: str) -> None:
        self.title, self.jobs, self.metric = title, jobs, metric
        self.begin = time.monotonic()
        self.before: float | None = None  # share of the work that was done at the first look
        self.ended: dict[Path, float | None] = {}  # the losses of jobs that have ended
        self._over = threading.Event()
        self._stderr = sys.stderr  # jobs in this process are quiet, this line is not
        self._bar = bar(bar_format="{desc}", total=0) if sys.stderr.isatty() else None

    def __enter__(self) -> "LiveLine":
        if self._bar is None:
            self._print(f"{self.title}  {count(len(self.jobs), 'job')}")
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join(timeout=5)
        with suppress(OSError, ValueError):
            if self._bar is not None:
                self._bar.close()
        self._print(self.line())

    def _print(self, line: str) -> None:
        with suppress(OSError, ValueError):
            print(line, file=self._stderr, flush=True)

    def _watch(self) -> None:
        shown, ended = time.monotonic(), -1  # the first line comes after ENDED_S
        while not self._over.wait(LOOK_S):
            with suppress(OSError, ValueError):
                line = self.line()
                if self._bar is not None:
                    self._bar.set_description_str(line)
                elif time.monotonic() - shown >= (ENDED_S if len(self.ended) > ended else LINE_S):
                    shown, ended = time.monotonic(), len(self.ended)
                    self._print(line)

    def line(self) -> str:
        """`muon_vs_adamw  tune  12 of 20 done, 2 running  muon 4.83, adamw 4.90  about 3 min`."""
        shares = [self._share(job) for job in self.jobs]
        going = [job for job in self.jobs if job.folder not in self.ended]
        running = sum(lock_is_held(job.folder) for job in going)
        done = sum(job.folder in self.ended for job in self.jobs)
        parts = [
            self.title,
            f"{done} of {len(self.jobs)} done" + (f", {running} running" * (running > 0)),
        ]
        best = self._best()
        if best:
            parts.append(", ".join(f"{arm} {loss:.4f}" for arm, loss in best.items()))
        parts.append(self._time(sum(shares) / max(1, len(shares))))
        return "  ".join(parts)

    def _share(self, job: WatchedJob) -> float:
        """The part of a job's steps that is done; its run.json knows them, epochs or not."""
        if job.folder in self.ended:
            return 1.0
        if (summary := summary_of(job.folder)) is not None:
            self.ended[job.folder] = summary.get(self.metric)
            return 1.0
        try:
            rows, _, _ = read_rows(job.folder / "metrics.jsonl")
            steps = (read_record(job.folder) or {}).get("steps")
        except (UnreadableError, CheckpointError):
            return 0.0
        return min(0.999, rows[-1]["step"] / steps) if rows and steps else 0.0

    def _best(self) -> dict[str, float]:
        best: dict[str, float] = {}
        for job in self.jobs:
            loss = self.ended.get(job.folder)
            if loss is not None and loss < best.get(job.arm, float("inf")):
                best[job.arm] = loss
        return best

    def _time(self, share: float) -> str:
        passed = time.monotonic() - self.begin
        if self.before is None:
            self.before = share
        if share >= 1:
            return duration(passed)
        gained = share - self.before
        if passed < 2 * LOOK_S or gained <= 0:
            return "time left unknown"
        return f"about {duration(passed * (1 - share) / gained)} left"
