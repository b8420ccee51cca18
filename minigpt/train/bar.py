"""How a long job shows where it is: a bar on a terminal, plain lines elsewhere. On stderr."""

import sys
import time
from contextlib import AbstractContextManager
from typing import Any

from minigpt.terminal import bar, duration


class ProgressBar(AbstractContextManager["ProgressBar"]):
    """Steps done of `total`, with loss, tokens/s and the time that is left.

    silent: show nothing.
    """

    def __init__(self, total: int, done: int, silent: bool = False) -> None:
        self.total, self.silent = total, silent
        self._first = done
        self._begin = time.monotonic()
        self._bar: Any = None

    def restart(self) -> None:
        """Let the time that is left be told from now on: what went before was no step."""
        self._begin = time.monotonic()
        if self._bar is not None:
            self._bar.unpause()

    def step(self) -> None:
        if self._bar is not None:
            self._bar.update()

    def show(self, done: int, loss: float, tokens_per_s: float, lr: float) -> None:
        """New figures, at the interval of the log."""
        if self.silent:
            return
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.3f}, {tokens_per_s:,.0f} tokens/s")
            return
        left = (time.monotonic() - self._begin) / max(done - self._first, 1) * (self.total - done)
        print(
            f"step {done:>{len(str(self.total))}}/{self.total}  loss {loss:.4f}  lr {lr:.2e}  "
            f"{tokens_per_s:,.0f} tokens/s  ETA {duration(left)}",
            file=sys.stderr,
            flush=True,
        )

    def __enter__(self) -> "ProgressBar":
        if sys.stderr.isatty() and not self.silent:
            self._bar = bar(total=self.total, initial=self._first, unit="step", dynamic_ncols=True)
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()
