"""The 256 bytes of UTF-8 as ids, then end_of_text: lossless on everything, nothing to learn."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.text import without_surrogates
from minigpt.tokenizer.base import Tokenizer, load
from minigpt.tokenizer.byte_level import byte_level_json


class Byte:
    """Needs no training text."""

    train_bytes: int | None = 0

    def describe(self) -> dict[str, Any]:
        return {"kind": "byte"}

    def train(self, texts: Iterable[str]) -> "ByteTokenizer":
        return ByteTokenizer()

    def load(self, folder: Path) -> Tokenizer:
        return load(folder)


class ByteTokenizer(Tokenizer):
    kind = "byte"
    vocab_size = 257
    end_of_text = 256

    def encode_array(self, text: str) -> np.ndarray:
        try:
            content = text.encode()
        except UnicodeEncodeError:
            content = without_surrogates(text).encode()
        return np.frombuffer(content, np.uint8).astype(np.uint32)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        numbers = list(ids)
        for token_id in numbers:
            if not 0 <= token_id < self.vocab_size:
                raise ValueError(f"id {token_id} is outside the vocabulary of {self.vocab_size}")
        return bytes([token_id for token_id in numbers if token_id != self.end_of_text])

    def tokenizer_json(self) -> dict[str, Any]:
        return byte_level_json([bytes([byte]) for byte in range(256)], [], self.end_of_text)


def read(config: dict[str, Any], tokenizer_json: dict[str, Any]) -> ByteTokenizer:
    return ByteTokenizer()
