"""The characters of the training text by code point, then unknown, then end_of_text."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from minigpt.text import REPLACEMENT, without_surrogates
from minigpt.tokenizer.base import END_OF_TEXT, Spec, Tokenizer, frame, split

UNKNOWN = "<|unknown|>"


class Char(Spec):
    """Take the characters of the training text as vocabulary. All of the text is read."""

    train_bytes = None

    def train(self, texts: Iterable[str]) -> "CharTokenizer":
        characters: set[str] = set()
        for text in texts:
            characters.update(text)
        return CharTokenizer(sorted(set(without_surrogates("".join(characters)))))


class CharTokenizer(Tokenizer):
    """A character outside the vocabulary becomes the id `unknown`, which decodes to U+FFFD."""

    kind = "char"
    end_of_text: int

    def __init__(self, characters: list[str]) -> None:
        if characters != sorted(set(characters)) or any(len(one) != 1 for one in characters):
            raise ValueError("characters must be single, distinct and sorted")
        self.characters = characters
        self.tokens = [text.encode() for text in (*characters, REPLACEMENT, "")]
        self.code_points = np.array([ord(character) for character in characters], np.uint32)
        self.unknown = len(characters)
        self.end_of_text = self.unknown + 1
        self.vocab_size = self.end_of_text + 1

    def encode_unicode(self, text: str) -> np.ndarray:
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        if not self.characters:
            return np.full(len(points), self.unknown, np.uint32)
        ids = np.minimum(np.searchsorted(self.code_points, points), len(self.characters) - 1)
        return np.where(self.code_points[ids] == points, ids, self.unknown).astype(np.uint32)

    def config(self) -> dict[str, Any]:
        return {**super().config(), "unk_token": UNKNOWN}

    def tokenizer_json(self) -> dict[str, Any]:
        words = [*self.characters, UNKNOWN]
        model = {
            "type": "WordLevel",
            "vocab": {word: token_id for token_id, word in enumerate(words)},
            "unk_token": UNKNOWN,
        }
        markers = {UNKNOWN: self.unknown, END_OF_TEXT: self.end_of_text}
        return frame(markers, split(r"[\s\S]"), {"type": "Fuse"}, model)


def read(config: dict[str, Any], definition: dict[str, Any]) -> CharTokenizer:
    """The inverse of `tokenizer_json`. ValueError if ids are not in the order of characters."""
    vocabulary = definition["model"]["vocab"]
    tokenizer = CharTokenizer(sorted(vocabulary, key=vocabulary.__getitem__)[:-1])
    if tokenizer.tokenizer_json()["model"]["vocab"] != vocabulary:
        raise ValueError("ids are not in the order of the characters")
    return tokenizer
