"""One id per character of the training text, sorted by code point; then unknown, then
end_of_text.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.text import REPLACEMENT, without_surrogates
from minigpt.tokenizer.base import END_OF_TEXT, Tokenizer, added_token, load

UNKNOWN = "<|unknown|>"


class Char:
    """Take the characters of the training text as vocabulary. All of the text is read."""

    train_bytes: int | None = None

    def describe(self) -> dict[str, Any]:
        return {"kind": "char"}

    def train(self, texts: Iterable[str]) -> "CharTokenizer":
        characters: set[str] = set()
        for text in texts:
            characters.update(text)
        return CharTokenizer(sorted(set(without_surrogates("".join(sorted(characters))))))

    def load(self, folder: Path) -> Tokenizer:
        return load(folder)


class CharTokenizer(Tokenizer):
    """A character outside the vocabulary becomes the id `unknown`, which decodes to U+FFFD."""

    kind = "char"
    end_of_text: int

    def __init__(self, characters: list[str]) -> None:
        if sorted(set(characters)) != characters or any(
            len(character) != 1 for character in characters
        ):
            raise ValueError("characters must be single, distinct and sorted")
        self.characters = characters
        self.code_points = np.array([ord(character) for character in characters], np.uint32)
        self.unknown = len(characters)
        self.end_of_text = self.unknown + 1
        self.vocab_size = self.end_of_text + 1

    def encode_array(self, text: str) -> np.ndarray:
        try:
            points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        except UnicodeEncodeError:
            points = np.frombuffer(without_surrogates(text).encode("utf-32-le"), np.uint32)
        if not self.characters:
            return np.full(len(points), self.unknown, np.uint32)
        ids = np.minimum(np.searchsorted(self.code_points, points), len(self.characters) - 1)
        return np.where(self.code_points[ids] == points, ids, self.unknown).astype(np.uint32)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        spelled = [*self.characters, REPLACEMENT, ""]
        parts = []
        for token_id in ids:
            if not 0 <= token_id < self.vocab_size:
                raise ValueError(f"id {token_id} is outside the vocabulary of {self.vocab_size}")
            parts.append(spelled[token_id])
        return "".join(parts).encode()

    def config(self) -> dict[str, Any]:
        return {**super().config(), "unk_token": UNKNOWN}

    def tokenizer_json(self) -> dict[str, Any]:
        vocabulary = {character: token_id for token_id, character in enumerate(self.characters)}
        split = {
            "type": "Split",
            "pattern": {"Regex": r"[\s\S]"},
            "behavior": "Isolated",
            "invert": False,
        }
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                added_token(UNKNOWN, self.unknown),
                added_token(END_OF_TEXT, self.end_of_text),
            ],
            "normalizer": None,
            "pre_tokenizer": split,
            "post_processor": None,
            "decoder": {"type": "Fuse"},
            "model": {
                "type": "WordLevel",
                "vocab": {**vocabulary, UNKNOWN: self.unknown},
                "unk_token": UNKNOWN,
            },
        }


def read(config: dict[str, Any], tokenizer_json: dict[str, Any]) -> CharTokenizer:
    """The inverse of `tokenizer_json`."""
    vocabulary = tokenizer_json["model"]["vocab"]
    tokenizer = CharTokenizer(sorted(vocabulary, key=vocabulary.__getitem__)[:-1])
    if tokenizer.tokenizer_json()["model"]["vocab"] != vocabulary:
        raise ValueError("ids are not in the order of the characters")
    return tokenizer
