"""Stop signals as a flag. Handlers do nothing else; long work looks at the flag at its safe points."""

import signal
from types import FrameType

from minigpt.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
_received: int | None = None


def _remember(number: int, frame: FrameType | None) -> None:
    global _received
    _received = _received or number


def install() -> None:
    """Turn TERM, INT, HUP and USR1 into the flag (main thread only; repeated calls are harmless)."""
    for number in SIGNALS:
        signal.signal(number, _remember)


def requested() -> int | None:
    """The first stop signal received so far, or None."""
    return _received


def clear() -> None:
    """Forget a received signal; for tests, and for a process that handled it and goes on."""
    global _received
    _received = None


def stop_if_requested(what: str) -> None:
    """Raise Stopped if a signal came; for work that keeps nothing in memory worth saving (data preparation, ...)."""
    if _received is not None:
        raise Stopped(_received, f"stopped by {signal.Signals(_received).name}: {what}")
