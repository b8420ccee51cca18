"""Progress of the preparation on stderr: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any

from minigpt.terminal import bar, say

LINE_EVERY_S = 10.0
DRAW_EVERY_S = 0.1


class Progress:
    """Documents, tokens, MB/s and time left. total_bytes and max_tokens may be unknown (None)."""

    def __init__(
        self, total_bytes: int | None, max_tokens: int | None, enabled: bool = True
    ) -> None:
        self.total_bytes = total_bytes
        self.max_tokens = max_tokens
        self.enabled = enabled
        self.documents = self.tokens = self.bytes = 0
        self.skipped_bytes = self.skipped_tokens = 0  # done by an earlier process
        self.started = self.last_shown = time.monotonic()
        self.bar: Any = None
        if enabled and sys.stderr.isatty():
            self.bar = bar(total=1000, bar_format="{l_bar}{bar}| {postfix}")

    def say(self, line: str) -> None:
        """One line for people."""
        if self.enabled:
            say(line)

    def resume(self, documents: int, tokens: int, n_bytes: int) -> None:
        self.documents, self.tokens, self.bytes = documents, tokens, n_bytes
        self.skipped_tokens, self.skipped_bytes = tokens, n_bytes

    def add(self, documents: int, tokens: int, n_bytes: int) -> None:
        self.documents += documents
        self.tokens += tokens
        self.bytes += n_bytes
        if time.monotonic() - self.last_shown < (
            DRAW_EVERY_S if self.bar is not None else LINE_EVERY_S
        ):
            return
        self.last_shown = time.monotonic()
        if self.bar is not None:
            self.bar.n = round(1000 * (self.share() or 0))
            self.bar.set_postfix_str(self.text(), refresh=True)
        else:
            self.say(self.text())

    def share(self) -> float | None:
        """How much is done, 0 to 1; None if nobody knows."""
        shares = []
        if self.total_bytes:
            shares.append(self.bytes / self.total_bytes)
        if self.max_tokens:
            shares.append(self.tokens / self.max_tokens)
        return min(1.0, max(shares)) if shares else None

    def text(self) -> str:
        elapsed_s = max(1e-9, time.monotonic() - self.started)
        new_bytes = self.bytes - self.skipped_bytes
        parts = [
            f"{self.documents:,} documents",
            f"{self.tokens:,} tokens",
            f"{new_bytes / elapsed_s / 1e6:.1f} MB/s",
        ]
        share = self.share()
        if share and new_bytes:
            left_s = elapsed_s / new_bytes * self.bytes * (1 - share) / share
            parts.append(f"{left_s // 60:.0f}:{left_s % 60:02.0f} left")
        return ", ".join(parts)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
