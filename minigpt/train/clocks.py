"""Seconds by part of a run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# Parts of training proper; evaluation, saving and compilation are none.
TRAINING = ("data", "forward_backward", "communication", "optimizer")
MOST_PENDING = 4096  # blocks that wait to be counted, where nothing asks for seconds


class Clocks:
    """Adds the time of blocks to `seconds[part]`.

    On CUDA the host only queues work. There the device marks where a block begins and ends, and
    `settle` counts what it has passed. Elsewhere the host's clock counts at once.
    """

    def __init__(self, seconds: dict[str, float], device: str = "cpu") -> None:
        self.seconds, self.on_cuda = seconds, device == "cuda"
        self._pending: list[tuple[str, Any, Any]] = []

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Count the time of a block, also if it raises."""
        begin = self._mark()
        try:
            yield
        finally:
            self._pending.append((part, begin, self._mark()))
            if not self.on_cuda or len(self._pending) == MOST_PENDING:
                self.settle()

    def settle(self) -> None:
        """Count every block that has ended. On CUDA this waits for the device, once."""
        ended, self._pending = self._pending, []
        if ended and self.on_cuda:
            ended[-1][2].synchronize()
        for part, begin, end in ended:
            seconds = begin.elapsed_time(end) / 1000 if self.on_cuda else end - begin
            self.seconds[part] = self.seconds.get(part, 0.0) + seconds

    def training_seconds(self) -> float:
        """Seconds of all parts of training proper."""
        self.settle()
        return sum(self.seconds.get(part, 0.0) for part in TRAINING)

    def _mark(self) -> Any:
        if not self.on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
