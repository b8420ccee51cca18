"""The 256 bytes of UTF-8 as ids, then end_of_text: lossless on everything, nothing to learn."""

from collections.abc import Iterable

import numpy as np

from minigpt.tokenizer.base import Spec
from minigpt.tokenizer.byte_level import ByteLevel


class Byte(Spec):
    """Needs no training text."""

    def train(self, texts: Iterable[str]) -> "ByteTokenizer":
        return ByteTokenizer()


class ByteTokenizer(ByteLevel):
    """A byte-level BPE without merges."""

    kind = "byte"

    def encode_unicode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), np.uint8).astype(np.uint32)


read = ByteTokenizer.read
