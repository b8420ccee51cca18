"""What every tokenizer can do, and how one is saved and found again.

A saved tokenizer is a folder of two JSON files that Hugging Face understands too: tokenizer.json
holds the vocabulary, tokenizer_config.json the rest. Its `minigpt_kind` names the module of this
package that reads it. Nothing else in such a folder names code.
"""

import hashlib
import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.errors import DataError
from minigpt.files import reading
from minigpt.files.durable import json_bytes, write_synced
from minigpt.text import without_surrogates

END_OF_TEXT = "<|endoftext|>"


class Tokenizer(ABC):
    """Ids from text and text from ids.

    kind: the module of this package that reads it back.
    vocab_size: all ids are below it.
    end_of_text: the id before every document; None if there is none. No text encodes to it, a
        literal "<|endoftext|>" included.
    tokens: the bytes of each id, b"" for markers.

    Lone surrogates, which no UTF-8 can hold, are encoded as U+FFFD.
    """

    kind: str
    vocab_size: int
    end_of_text: int | None
    tokens: Sequence[bytes]

    @abstractmethod
    def encode_unicode(self, text: str) -> np.ndarray:
        """`encode_array`, but for lone surrogates. May raise UnicodeEncodeError at those."""

    @abstractmethod
    def tokenizer_json(self) -> dict[str, Any]:
        """The vocabulary in the format of Hugging Face's `tokenizers` library."""

    def encode_array(self, text: str) -> np.ndarray:
        """The ids of one text, (N,) uint32, without end_of_text."""
        try:
            return self.encode_unicode(text)
        except UnicodeEncodeError:
            return self.encode_unicode(without_surrogates(text))

    def encode(self, text: str) -> list[int]:
        return self.encode_array(text).tolist()

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """One uint32 array per text. Safe to call from several threads at once."""
        return [self.encode_array(text) for text in texts]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes of the ids. ValueError for an id out of range."""
        return b"".join([self.tokens[token_id] for token_id in self.checked(ids)])

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids; bytes that are no whole UTF-8 character become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def checked(self, ids: Iterable[int]) -> Iterator[int]:
        """The ids one by one. ValueError at the first out of range."""
        for token_id in ids:
            if not 0 <= token_id < self.vocab_size:
                raise ValueError(f"id {token_id} is outside the vocabulary of {self.vocab_size}")
            yield token_id

    def bytes_per_id(self) -> np.ndarray | None:
        """(V,) int64: bytes of text per id; None where that depends on an id's neighbours."""
        lengths = [len(self.decode_bytes([token_id])) for token_id in range(self.vocab_size)]
        return np.array(lengths, np.int64)

    def config(self) -> dict[str, Any]:
        """What tokenizer_config.json says beside the kind: here what transformers needs."""
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": END_OF_TEXT,
            "bos_token": END_OF_TEXT,
            "clean_up_tokenization_spaces": False,
        }

    @cached_property
    def files(self) -> dict[str, bytes]:
        """Name and content of every file that `save` writes."""
        vocabulary = json.dumps(self.tokenizer_json(), ensure_ascii=False, separators=(",", ":"))
        return {
            "tokenizer.json": (vocabulary + "\n").encode(),
            "tokenizer_config.json": json_bytes({**self.config(), "minigpt_kind": self.kind}),
        }

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            write_synced(folder / name, content)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the saved files: equal fingerprints encode every text alike."""
        digest = hashlib.sha256()
        for name, content in sorted(self.files.items()):
            digest.update(f"{name}:{hashlib.sha256(content).hexdigest()}\n".encode())
        return digest.hexdigest()


def load(folder: Path | str, inside: Path | None = None) -> Tokenizer:
    """The tokenizer that `save` wrote. DataError if there is none, or it is damaged or foreign.

    inside: where links may lead, by default into the folder itself.
    """
    folder = Path(folder)
    config = read_json(folder / "tokenizer_config.json", inside)
    kind = config.get("minigpt_kind")
    if not isinstance(kind, str):
        raise DataError(
            f"not a tokenizer of minigpt: {folder} (use data/tokenizer=hf to read a tokenizer.json)"
        )
    read = None
    if kind in {path.stem for path in Path(__file__).parent.glob("[a-z]*.py")}:
        read = getattr(importlib.import_module(f"{__package__}.{kind}"), "read", None)
    if read is None:
        raise DataError(
            f"unknown kind of tokenizer {kind!r:.40}: {folder} (made by a newer minigpt?)"
        )
    try:
        tokenizer: Tokenizer = read(config, read_json(folder / "tokenizer.json", inside))
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise DataError(
            f"damaged tokenizer: {folder} "
            f"({type(error).__name__}: {error!s:.200}; prepare it again)"
        ) from None
    return tokenizer


class Spec:
    """How to get a tokenizer: what conf/data/tokenizer/*.yaml builds."""

    train_bytes: int | None = 0  # how much text `train` wants; None: all

    def describe(self) -> dict[str, Any]:
        """What decides the result of `train`: the kind, and all attributes of the object."""
        return {"kind": type(self).__module__.rpartition(".")[2], **vars(self)}

    def train(self, texts: Iterable[str]) -> Tokenizer:
        raise NotImplementedError


def read_json(path: Path, inside: Path | None = None) -> dict[str, Any]:
    """A file of a tokenizer; transformers writes 10**30 for a length without bound."""
    try:
        return reading.read_json(path, inside=inside, ignored=("model_max_length",))
    except reading.UnreadableError as error:
        what = "cannot read the tokenizer" if error.missing else "damaged tokenizer"
        raise DataError(f"{what}: {path} ({error.why}; prepare it again)") from None


def frame(
    markers: dict[str, int],
    pre_tokenizer: dict[str, Any],
    decoder: dict[str, Any],
    model: dict[str, Any],
) -> dict[str, Any]:
    """A whole tokenizer.json. The order of keys decides its fingerprint."""
    flags = ("single_word", "lstrip", "rstrip", "normalized")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": token_id, "content": content, **dict.fromkeys(flags, False), "special": True}
            for content, token_id in markers.items()
        ],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }


def split(pattern: str) -> dict[str, Any]:
    """The pre-tokenizer that makes each match of the pattern a word."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
