"""Samples as they grow, from tokens to text that may be shown."""

import codecs
from collections.abc import Sequence
from typing import Any


class TextStream:
    """Text from bytes as they come: a character appears when its last byte has.

    stop: the text ends before the first of these strings. What may be the beginning of one is held
        back until it is certain.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self.stop, self.stopped = stop, False
        self._characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""

    def decode(self, content: bytes, final: bool = False) -> str:
        """The text that these bytes make certain; with `final`, all that is left."""
        if self.stopped:
            return ""
        text = self._held + self._characters.decode(content, final)
        found = [place for stop in self.stop if (place := text.find(stop)) >= 0]
        self.stopped = bool(found)
        end = min(found) if found else len(text) if final else self._certain(text)
        self._held = text[end:]
        return text[:end]

    def _certain(self, text: str) -> int:
        """Where the longest end begins that begins a stop string; the length if none does."""
        ends = range(max(0, len(text) + 1 - max(map(len, self.stop), default=0)), len(text))
        begins = (at for at in ends if any(stop.startswith(text[at:]) for stop in self.stop))
        return next(begins, len(text))


class Sample:
    """One continuation: its tokens, what the model thought of each, and their text."""

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        self.tokenizer, self.stream = tokenizer, TextStream(stop)
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.text, self.finished = "", False

    def add(self, token: int, logprob: float | None = None) -> str:
        """Take a token, unless the text has ended. Returns the text that is certain by it."""
        if self.finished:
            return ""
        self.tokens.append(token)
        if logprob is not None:
            self.logprobs.append(logprob)
        new = self._grow(self.tokenizer.decode_bytes([token]))
        self.finished = self.stream.stopped or token == self.tokenizer.end_of_text
        return new

    def end(self) -> str:
        """No token follows. Returns the text that was held back."""
        return self._grow(b"", final=True)

    def _grow(self, content: bytes, final: bool = False) -> str:
        new = self.stream.decode(content, final)
        self.text += new
        return new
