"""Any tokenizer.json of Hugging Face's `tokenizers`, as it is."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.errors import DataError
from minigpt.files.durable import sha256_file
from minigpt.text import without_surrogates
from minigpt.tokenizer.base import Spec, Tokenizer, read_json
from minigpt.tokenizer.byte_level import CHARACTER_TO_BYTE, unspell

MOST_IDS_PER_TOKEN, SPARE_IDS = 2, 1024
PADDED = "minigpt_vocab_size"  # key of tokenizer_config.json
ENDS_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "[SEP]")


class HF(Spec):
    """Nothing is trained.

    path: a tokenizer.json, or the folder that holds it.
    end_of_text: the marker that precedes documents; null takes the first of ENDS_OF_TEXT that the
        file defines.
    vocab_size: the rows of a model that has more than the file has ids; null: as many as ids.
    """

    def __init__(
        self, path: str, end_of_text: str | None = None, vocab_size: int | None = None
    ) -> None:
        self.path = path
        self.end_of_text = end_of_text
        self.vocab_size = vocab_size

    def file(self) -> Path:
        """Follows links, since the user named it: Hugging Face's cache is full of links."""
        path = Path(self.path).expanduser()
        return (path / "tokenizer.json" if path.is_dir() else path).resolve()

    def describe(self) -> dict[str, Any]:
        read_json(self.file())
        told = {"kind": "hf", "sha256": sha256_file(self.file()), "end_of_text": self.end_of_text}
        return told | ({} if self.vocab_size is None else {"vocab_size": self.vocab_size})

    def train(self, texts: Iterable[str]) -> "HFTokenizer":
        found = tokenizer_of(read_json(self.file()), self.end_of_text, self.file())
        try:
            found.pad(self.vocab_size)
        except ValueError as error:
            raise DataError(f"{error} (change data.tokenizer.vocab_size)") from None
        return found


def tokenizer_of(definition: dict[str, Any], marker: str | None, path: Path) -> "HFTokenizer":
    """The tokenizer of a tokenizer.json. marker: its end of text; None: the first of ENDS_OF_TEXT.

    Raises DataError.
    """
    try:
        tokens, markers = tokens_of(definition)
        marker = marker or next((name for name in ENDS_OF_TEXT if name in markers), None)
        if marker is None or marker not in tokens:
            raise DataError(
                f"no end-of-text marker {marker or ''}: {path} "
                f"(set data.tokenizer.end_of_text to one of: {', '.join(sorted(markers)):.500})"
            )
        return HFTokenizer(definition, marker)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"not a tokenizer.json: {path} ({type(error).__name__}: {error!s:.200}; use another)"
        ) from None


def beside_model(folder: Path, inside: Path, vocab_size: int, marker: str | None) -> "HFTokenizer":
    """The tokenizer of a folder of Hugging Face's.

    inside: where its links may lead.
    vocab_size: of the model, which may have more rows than there are ids.
    marker: None is the eos_token of tokenizer_config.json.
    Raises DataError.
    """
    path = folder / "tokenizer.json"
    end = read_json(folder / "tokenizer_config.json", inside).get("eos_token")
    end = marker or (end.get("content") if isinstance(end, dict) else end)
    found = tokenizer_of(read_json(path, inside), end if isinstance(end, str) else None, path)
    found.vocab_size = max(found.vocab_size, vocab_size)
    return found


def tokens_of(definition: dict[str, Any]) -> tuple[set[str], set[str]]:
    """All tokens of a tokenizer.json, and those that are markers. ValueError for absurd ids.

    Ids may have gaps, but the highest is bounded by the number of tokens. So the size of the file
    bounds whatever has a row for each id.
    """
    vocabulary = definition["model"]["vocab"]
    if isinstance(vocabulary, list):  # Unigram: [token, score] in the order of their ids
        vocabulary = {token: number for number, (token, _) in enumerate(vocabulary)}
    added = {token["content"]: token["id"] for token in definition.get("added_tokens") or []}
    ids = [*vocabulary.values(), *added.values()]
    if not all(type(token_id) is int and token_id >= 0 for token_id in ids):
        raise ValueError("an id that is no number")
    if max(ids, default=0) > MOST_IDS_PER_TOKEN * (len(ids) + SPARE_IDS):
        raise ValueError(f"ids up to {max(ids):,} for {len(ids):,} tokens")
    return {*vocabulary, *added}, set(added)


@contextmanager
def library_errors(kind: type[Exception], prefix: str) -> Iterator[None]:
    """What the library refuses as one of our errors. Its panics are no Exception."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        raise kind(f"{prefix}{error!s:.200}") from None


class HFTokenizer(Tokenizer):
    """Markers inside text stay text: the library would turn them into their special ids."""

    kind = "hf"

    def __init__(self, definition: dict[str, Any], marker: str) -> None:
        from tokenizers import Tokenizer as Library

        tokens_of(definition)
        self.definition = definition
        self.marker = marker
        added = definition.get("added_tokens") or []
        for token in added:
            if token["content"] == marker:
                token["special"] = True
        self.markers = {token["id"] for token in added if token["special"]}
        self.is_byte_level = '"ByteLevel"' in json.dumps(definition.get("decoder"))
        with library_errors(ValueError, ""):
            self.library = Library.from_str(json.dumps(definition))
        self.library.encode_special_tokens = True  # means: encode them as any other text
        self.library.no_truncation()
        self.library.no_padding()
        self.n_ids = max(self.library.get_vocab(with_added_tokens=True).values()) + 1
        self.vocab_size = self.n_ids
        end_of_text = self.library.token_to_id(marker)
        if end_of_text is None:
            raise ValueError(f"no token {marker!r}")
        self.end_of_text = end_of_text

    def pad(self, vocab_size: Any) -> None:
        """Ids up to that of a padded model, without text; None changes nothing.

        Raises ValueError for what does not fit the file.
        """
        most = MOST_IDS_PER_TOKEN * (self.n_ids + SPARE_IDS)
        if vocab_size is None:
            return
        if type(vocab_size) is not int or not self.n_ids <= vocab_size <= most:
            raise ValueError(
                f"vocab_size={vocab_size!r:.40} does not fit a tokenizer.json of {self.n_ids:,} ids"
            )
        self.vocab_size = vocab_size

    def encode_unicode(self, text: str) -> np.ndarray:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        clean = [without_surrogates(text) for text in texts]
        with library_errors(DataError, "this tokenizer.json cannot encode the text: "):
            encodings = self.library.encode_batch_fast(clean, add_special_tokens=False)
        return [np.array(encoding.ids, np.uint32) for encoding in encodings]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Exact for byte-level tokenizers; for others the library's text of the ids, in UTF-8."""
        numbers = list(self.checked(ids))
        if not self.is_byte_level:
            return self.library.decode(numbers, skip_special_tokens=True).encode()
        parts = []
        for token_id in numbers:
            token = self.library.id_to_token(token_id)
            if token is not None and token_id not in self.markers:
                spelled = all(ord(character) in CHARACTER_TO_BYTE for character in token)
                parts.append(unspell(token) if spelled else token.encode())
        return b"".join(parts)

    def bytes_per_id(self) -> np.ndarray | None:
        return super().bytes_per_id() if self.is_byte_level else None

    def config(self) -> dict[str, Any]:
        padded = {PADDED: self.vocab_size} if self.vocab_size > self.n_ids else {}
        return {**super().config(), "eos_token": self.marker, "bos_token": self.marker, **padded}

    def tokenizer_json(self) -> dict[str, Any]:
        return self.definition


def read(config: dict[str, Any], definition: dict[str, Any]) -> HFTokenizer:
    """The inverse of `save`."""
    found = HFTokenizer(definition, config["eos_token"])
    found.pad(config.get(PADDED))
    return found
