"""Ids without text, for token files without their tokenizer: enough to train, not to prompt."""

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np

from minigpt.errors import DataError
from minigpt.tokenizer.base import Spec, Tokenizer

GPT2_END_OF_TEXT = 50_256


class Ids(Spec):
    """What the ids of foreign token files are: by default GPT-2's, as in llm.c and nanoGPT.

    end_of_text: the id between documents; None where the files have none, such as nanoGPT's
        characters. "auto" is GPT-2's 50256 in a vocabulary of 50257 to 65536 ids, else None.
    """

    def __init__(
        self, vocab_size: int = 50_257, end_of_text: int | Literal["auto"] | None = "auto"
    ) -> None:
        if end_of_text == "auto":
            like_gpt2 = GPT2_END_OF_TEXT < vocab_size <= 1 << 16
            end_of_text = GPT2_END_OF_TEXT if like_gpt2 else None
        if vocab_size < 1:
            raise ValueError(f"vocab_size={vocab_size} must be at least 1")
        if end_of_text is not None and not 0 <= end_of_text < vocab_size:
            raise ValueError(
                f"end_of_text={end_of_text} is outside vocab_size={vocab_size} "
                "(null: there is none)"
            )
        self.vocab_size = vocab_size
        self.end_of_text = end_of_text

    def train(self, texts: Iterable[str]) -> "IdsOnly":
        return IdsOnly(self.vocab_size, self.end_of_text)


class IdsOnly(Tokenizer):
    """Text cannot be encoded (DataError); ids decode to their numbers."""

    kind = "ids"

    def __init__(self, vocab_size: int, end_of_text: int | None) -> None:
        self.vocab_size = vocab_size
        self.end_of_text = end_of_text

    def encode_unicode(self, text: str) -> np.ndarray:
        if not text:
            return np.empty(0, np.uint32)
        raise DataError(
            "this tokenizer knows ids only: data.tokenizer "
            "(use data/tokenizer=hf with their tokenizer.json)"
        )

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return "".join([f"<{token_id}>" for token_id in ids]).encode()

    def bytes_per_id(self) -> None:
        return None

    def config(self) -> dict[str, Any]:
        return {"vocab_size": self.vocab_size, "end_of_text": self.end_of_text}

    def tokenizer_json(self) -> dict[str, Any]:
        return {}


def read(config: dict[str, Any], definition: dict[str, Any]) -> IdsOnly:
    vocab_size, end_of_text = config["vocab_size"], config["end_of_text"]
    last = 0 if end_of_text is None else end_of_text
    if not (type(vocab_size) is type(last) is int and 0 <= last < vocab_size <= 2**32):
        raise ValueError(f"vocab_size={vocab_size!r:.40}, end_of_text={end_of_text!r:.40}")
    return IdsOnly(vocab_size, end_of_text)
