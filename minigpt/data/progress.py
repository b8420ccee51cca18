"""Progress of the preparation on stderr: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any

from minigpt.terminal import bar, say

LINE_EVERY_S = 10.0
DRAW_EVERY_S = 0.1


class Progress:
    """Documents, tokens, MB/s and time left."""

    def __init__(self) -> None:
        self.total_bytes: int | None = None  # None: unknown
        self.max_tokens: int | None = None
        self.documents = self.tokens = self.bytes = 0
        self.bytes_before = 0  # done by an earlier process
        self.started = self.last_shown = time.monotonic()
        self.bar: Any = None
        if sys.stderr.isatty():
            self.bar = bar(total=1000, bar_format="{l_bar}{bar}| {postfix}")

    def show(self, documents: int, tokens: int, n_bytes: int) -> None:
        """What is done so far, in all; shown now and then."""
        self.documents, self.tokens, self.bytes = documents, tokens, n_bytes
        every_s = LINE_EVERY_S if self.bar is None else DRAW_EVERY_S
        if time.monotonic() - self.last_shown < every_s:
            return
        self.last_shown = time.monotonic()
        if self.bar is None:
            say(self.text())
        else:
            self.bar.n = round(1000 * self.share())
            self.bar.set_postfix_str(self.text(), refresh=True)

    def share(self) -> float:
        """How much is done, 0 to 1; 0 where nobody knows."""
        wholes = ((self.bytes, self.total_bytes), (self.tokens, self.max_tokens))
        return min(1.0, max(done / whole if whole else 0.0 for done, whole in wholes))

    def text(self) -> str:
        elapsed_s = max(1e-9, time.monotonic() - self.started)
        new_bytes = self.bytes - self.bytes_before
        text = (
            f"{self.documents:,} documents, {self.tokens:,} tokens, "
            f"{new_bytes / elapsed_s / 1e6:.1f} MB/s"
        )
        share = self.share()
        if share and new_bytes:
            left_s = elapsed_s / new_bytes * self.bytes * (1 - share) / share
            text += f", {left_s // 60:.0f}:{left_s % 60:02.0f} left"
        return text

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
