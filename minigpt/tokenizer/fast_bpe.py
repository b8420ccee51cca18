"""Byte-level BPE at speed: `tokenizers` learns the merges, tiktoken applies them.

bpe.py is the readable reference.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from minigpt.text import LONGEST_PIECE, pieces, without_surrogates
from minigpt.tokenizer.base import END_OF_TEXT, Spec
from minigpt.tokenizer.byte_level import PATTERN, ByteLevel, Merge

if TYPE_CHECKING:
    from tiktoken import Encoding

FIRST_CHARACTER = 0x4E00  # any stretch of 256 letters would do; see learn_merges


class BPE(Spec):
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
        self.train_bytes = train_bytes

    def train(self, texts: Iterable[str]) -> "BPETokenizer":
        return BPETokenizer(learn_merges(texts, self.vocab_size - 257))


class BPETokenizer(ByteLevel):
    """Encodes with tiktoken over the given merges."""

    kind = "fast_bpe"

    @cached_property
    def encoding(self) -> "Encoding":
        import tiktoken

        # Only encode_batch allows the special token; elsewhere a marker is text like any other.
        # Without any, the library is a third slower: it searches for "" at every character.
        special = {END_OF_TEXT: self.end_of_text}
        return tiktoken.Encoding(
            "minigpt", pat_str=PATTERN, mergeable_ranks=self.ranks, special_tokens=special
        )

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """All texts in one call of the library, which does without Python's lock meanwhile."""
        joined = END_OF_TEXT.join(texts)
        if joined.count(END_OF_TEXT) != len(texts) - 1 or max(map(len, texts)) > LONGEST_PIECE:
            return super().encode_batch(texts)  # a marker inside a text, or a text to be cut
        try:
            ids = self.encoding.encode_to_numpy(
                joined, allowed_special={END_OF_TEXT}, disallowed_special=()
            )
        except UnicodeEncodeError:
            return super().encode_batch(texts)
        ends = np.flatnonzero(ids == self.end_of_text).tolist()
        return [ids[last + 1 : end] for last, end in pairwise([-1, *ends, len(ids)])]

    def encode_unicode(self, text: str) -> np.ndarray:
        if len(text) > LONGEST_PIECE:
            return np.concatenate([self.encode_unicode(piece) for piece in pieces([text])])
        return self.encoding.encode_to_numpy(text, disallowed_special=())


read = BPETokenizer.read


def learn_merges(texts: Iterable[str], n_merges: int) -> list[Merge]:
    """The merges of byte-level BPE: the most frequent pair, of equal ones that of smaller ids.

    The text is split here, by the same pattern as everywhere. It reaches the trainer with byte b
    spelled as the character FIRST_CHARACTER + b and words apart by spaces. So the trainer's ids,
    and with them its ties, are in the order of bytes.
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

    def to_bytes(token: str) -> bytes:
        return bytes([ord(character) - FIRST_CHARACTER for character in token])

    learned = json.loads(trainable.to_str())["model"]["merges"]
    return [(to_bytes(left), to_bytes(right)) for left, right in learned]


def spelled_words(texts: Iterable[str]) -> Iterator[str]:
    """Text as the trainer gets it."""
    import regex  # type: ignore[import-untyped]

    words = regex.compile(PATTERN)
    spelling = {byte: chr(FIRST_CHARACTER + byte) for byte in range(256)}
    spelling[0xFF] = " "  # no byte of UTF-8: stands between words
    for text in texts:
        for piece in pieces([text]):
            found = words.findall(without_surrogates(piece))
            content = b"\xff".join([word.encode() for word in found])
            yield content.decode("latin-1").translate(spelling)
