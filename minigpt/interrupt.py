"""Stop signals as a flag. Handlers do nothing else; long work looks at the flag at its safe points."""

import signal
from types import FrameType

from minigpt.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
_received: list[int] = []  # stop signals, in the order they came


def _remember(number: int, frame: FrameType | None) -> None:
    _received.append(number)


def install() -> None:
    """Turn TERM, INT, HUP and USR1 into the flag (main thread only; repeated calls are harmless)."""
    for number in SIGNALS:
        signal.signal(number, _remember)


def requested() -> int | None:
    """The first stop signal received so far, or None."""
    return _received[0] if _received else None


def clear() -> None:
    """Forget a received signal; for tests, and for a process that handled it and goes on."""
    _received.clear()


def stop_if_requested(what: str) -> None:
    """Raise Stopped if a signal came; for work that keeps nothing in memory worth saving (data preparation, ...)."""
    if _received:
        raise Stopped(_received[0], f"stopped by {signal.Signals(_received[0]).name}: {what}")
