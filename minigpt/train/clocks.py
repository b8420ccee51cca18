"""Seconds by part of a run. Host clocks: a part that only queues work on a device ends early."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

# Parts of training proper; evaluation and saving are none.
TRAINING = ("data", "forward_backward", "optimizer")


@contextmanager
def timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    """Add the time of the block to `seconds[part]`, also if it raises."""
    begin = time.perf_counter()
    try:
        yield
    finally:
        seconds[part] = seconds.get(part, 0.0) + time.perf_counter() - begin


def training_seconds(seconds: dict[str, float]) -> float:
    """Seconds of data, forward and backward, and optimizer."""
    return sum(seconds.get(part, 0.0) for part in TRAINING)
