"""Stop signals as a flag, which long work looks at where it can stop safely."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from minigpt.errors import Stopped

# USR1 and USR2 are what Slurm sends before the end of a job's time; submitit asks for USR2.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
# Asks the kernel for a signal when the parent ends (PR_SET_PDEATHSIG, which lasts through exec).
WITH_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, int(sys.argv[1]))
os.execv(sys.argv[2], sys.argv[2:])
"""
_received: list[int] = []  # stop signals, in the order they came
_before: dict[int, Any] = {}  # the handlers that ours took the place of
_waits: list[str] = []  # what a signal is to break off at once


def _remember(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    for worker in multiprocessing.active_children():  # the jobs of a parallel sweep
        with suppress(OSError):
            if worker.pid is not None:
                os.kill(worker.pid, number)
    if _waits:
        stop_if_requested(_waits[-1])


def with_parent(command: list[str], number: int) -> list[str]:
    """A command whose process has a signal when the one that starts it is gone (on Linux)."""
    if sys.platform != "linux":
        return command
    return [sys.executable, "-ISc", WITH_PARENT, str(int(number)), *command]


def remember(number: int) -> None:
    """Take a signal that somebody else has heard as received."""
    _received.append(number)


def install() -> None:
    """Turn TERM, INT, HUP, USR1 and USR2 into the flag. Main thread only; repeated calls are fine.

    A signal that is ignored stays ignored: that is how nohup protects what it starts. One that was
    held back arrives.
    """
    for number in SIGNALS:
        before = signal.getsignal(number)
        if before not in (_remember, signal.SIG_IGN):
            _before[number] = before or signal.SIG_DFL  # None: a handler that is not Python's
            signal.signal(number, _remember)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@contextmanager
def held_back() -> Iterator[None]:
    """A process that is begun in here has stop signals from its own `install` on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def restore() -> None:
    """Give the signals back to those who had them."""
    for number, handler in _before.items():
        if signal.getsignal(number) is _remember:
            signal.signal(number, handler)


def hand_on() -> None:
    """Let those who had a received signal before act on it: submitit requeues its job and exits."""
    for number in _received:
        if callable(handler := _before.get(number)) and handler is not signal.default_int_handler:
            handler(number, None)


def requested() -> int | None:
    """The first stop signal received so far, or None."""
    return _received[0] if _received else None


def count() -> int:
    """How many stop signals came so far. A second one means that nothing is to be waited for."""
    return len(_received)


def clear() -> None:
    """Forget a received signal; for tests, and for a process that handled it and goes on."""
    _received.clear()


def stop_if_requested(what: str) -> None:
    """Raise Stopped if a signal came; for work that keeps nothing in memory worth saving."""
    if _received:
        raise Stopped(_received[0], f"stopped by {signal.Signals(_received[0]).name}: {what}")


@contextmanager
def at_once(what: str) -> Iterator[None]:
    """A stop signal raises Stopped inside; for a wait that would go on, such as reading a line."""
    stop_if_requested(what)
    _waits.append(what)
    try:
        yield
    finally:
        _waits.pop()
