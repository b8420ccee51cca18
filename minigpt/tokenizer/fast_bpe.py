"""Byte-level BPE at speed: `tokenizers` learns the merges, tiktoken applies them. bpe.py is the
readable reference.

Ids: 0 to 255 are the bytes themselves, then one id per merge in the order learned, end_of_text
    last.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minigpt.text import LONGEST_PIECE, pieces, without_surrogates
from minigpt.tokenizer.base import END_OF_TEXT, Tokenizer, load
from minigpt.tokenizer.byte_level import PATTERN, Merge, byte_level_json, unspell_merges

if TYPE_CHECKING:
    from tiktoken import Encoding

FIRST_CHARACTER = 0x4E00  # any stretch of 256 letters would do; see learn_merges


class BPE:
    """Learn a byte-level BPE of `vocab_size` ids (256 bytes + merges + end_of_text) from text.

    train_bytes: stop reading text after so many bytes; merges hardly change beyond 100 MB.
    A text too small for so many merges gives a smaller vocabulary. ValueError if vocab_size < 257.
    """

    def __init__(self, vocab_size: int = 20_000, train_bytes: int = 100_000_000) -> None:
        if vocab_size < 257:
            raise ValueError(
                f"vocab_size={vocab_size} is too small: 256 bytes and end_of_text need 257"
            )
        if train_bytes < 1:
            raise ValueError(f"train_bytes={train_bytes} must be at least 1")
        self.vocab_size = vocab_size
        self.train_bytes: int | None = train_bytes

    def describe(self) -> dict[str, Any]:
        return {"kind": "fast_bpe", "vocab_size": self.vocab_size, "train_bytes": self.train_bytes}

    def train(self, texts: Iterable[str]) -> "BPETokenizer":
        return BPETokenizer(learn_merges(texts, self.vocab_size - 257))

    def load(self, folder: Path) -> Tokenizer:
        return load(folder)


class BPETokenizer(Tokenizer):
    """Encodes with tiktoken over the given merges."""

    kind = "fast_bpe"
    end_of_text: int

    def __init__(self, merges: list[Merge]) -> None:
        self.merges = merges
        self.tokens = [bytes([byte]) for byte in range(256)] + [
            left + right for left, right in merges
        ]
        self.ranks = {token: rank for rank, token in enumerate(self.tokens)}
        if len(self.ranks) != len(self.tokens):
            raise ValueError("two merges give the same token")
        self.end_of_text = len(self.tokens)
        self.vocab_size = self.end_of_text + 1

    @cached_property
    def encoding(self) -> "Encoding":
        import tiktoken

        # The special token serves encode_batch. Elsewhere encode_to_numpy is told that none is
        # allowed, and then a marker is text like any other. (With no special token at all, the
        # library is a third slower: it searches for the empty string at every character.)
        special = {END_OF_TEXT: self.end_of_text}
        return tiktoken.Encoding(
            "minigpt", pat_str=PATTERN, mergeable_ranks=self.ranks, special_tokens=special
        )

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """All texts in one call of the library, which leaves Python's lock for as long as it
        takes.
        """
        joined = END_OF_TEXT.join(texts)
        if joined.count(END_OF_TEXT) != len(texts) - 1 or max(map(len, texts)) > LONGEST_PIECE:
            return super().encode_batch(texts)  # a marker inside a text, or a text to be cut
        try:
            ids = self.encoding.encode_to_numpy(
                joined, allowed_special={END_OF_TEXT}, disallowed_special=()
            )
        except UnicodeEncodeError:
            return super().encode_batch(texts)
        ends = np.flatnonzero(ids == self.end_of_text)
        starts = [0, *(ends + 1).tolist()]
        return [ids[start:end] for start, end in zip(starts, [*ends.tolist(), len(ids)])]

    def encode_array(self, text: str) -> np.ndarray:
        if len(text) > LONGEST_PIECE:
            return np.concatenate([self.encode_array(piece) for piece in pieces([text])])
        try:
            return self.encoding.encode_to_numpy(text, disallowed_special=())
        except UnicodeEncodeError:
            return self.encoding.encode_to_numpy(without_surrogates(text), disallowed_special=())

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        parts = []
        for token_id in ids:
            if not 0 <= token_id < self.vocab_size:
                raise ValueError(f"id {token_id} is outside the vocabulary of {self.vocab_size}")
            if token_id != self.end_of_text:
                parts.append(self.tokens[token_id])
        return b"".join(parts)

    def tokenizer_json(self) -> dict[str, Any]:
        return byte_level_json(self.tokens, self.merges, self.end_of_text)


def read(config: dict[str, Any], tokenizer_json: dict[str, Any]) -> BPETokenizer:
    """The inverse of `tokenizer_json`; ValueError if the ids are not ours."""
    return BPETokenizer(unspell_merges(tokenizer_json))


def learn_merges(texts: Iterable[str], n_merges: int) -> list[Merge]:
    """The merges of byte-level BPE: always the most frequent pair, of equal ones the pair with the
    smaller ids.

    The text is split here, by the same pattern as everywhere, and reaches the trainer with each
    byte b spelled as the character FIRST + b and words apart by spaces: then the trainer's ids, and
    with them its ties, are byte order.
    """
    from tokenizers import Tokenizer as Trainable
    from tokenizers import models, pre_tokenizers, trainers

    if n_merges == 0:
        return []
    alphabet = [chr(FIRST_CHARACTER + byte) for byte in range(256)]
    trainable = Trainable(models.BPE())
    trainable.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + n_merges, initial_alphabet=alphabet, show_progress=False
    )
    trainable.train_from_iterator(spelled_words(texts), trainer)

    learned = json.loads(trainable.to_str())["model"]["merges"]

    def to_bytes(token: str) -> bytes:
        return bytes([ord(character) - FIRST_CHARACTER for character in token])

    return [(to_bytes(left), to_bytes(right)) for left, right in learned]


def spelled_words(texts: Iterable[str]) -> Iterator[str]:
    """Text as the trainer gets it: "to be" is chr(FIRST + 0x74) chr(FIRST + 0x6f), a space, and so
    on.
    """
    import regex  # type: ignore[import-untyped]

    words = regex.compile(PATTERN)
    spelling = {byte: chr(FIRST_CHARACTER + byte) for byte in range(256)}
    spelling[0xFF] = " "  # no byte of UTF-8: stands between words
    for text in texts:
        for piece in pieces([text]):
            found = words.findall(without_surrogates(piece))
            yield (
                b"\xff".join([word.encode() for word in found])
                .decode("latin-1")
                .translate(spelling)
            )
