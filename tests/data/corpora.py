"""Small corpora for the data tests."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from minigpt.data.source import Document, Source, SplitName
from minigpt.data.tokens import Tokens

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog"]
WORDS += ["and", "says", "hello", "to", "it"]


class Memory(Source):
    """Documents from a list; each may name its split."""

    def __init__(self, texts: list[Any], splits: list[SplitName] | None = None) -> None:
        self.texts = texts
        self.splits = splits

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "memory",
            "sha256": hashlib.sha256(repr((self.texts, self.splits)).encode()).hexdigest(),
        }

    def documents(self, start: Any = None) -> Iterator[Document]:
        for number in range(start or 0, len(self.texts)):
            yield Document(self.texts[number], number, self.splits[number] if self.splits else None)


def stories(n_documents: int, n_words: int = 30) -> list[str]:
    """Distinct documents of some words each."""
    return [
        f"{number}: "
        + " ".join(WORDS[(number * 7 + word * word) % len(WORDS)] for word in range(n_words))
        + ".\n"
        for number in range(n_documents)
    ]


def stream(tokens: Tokens, split: str) -> list[int]:
    part = tokens.train if split == "train" else tokens.val
    return part.read(0, part.n_tokens).tolist()


def documents_of(tokens: Tokens, split: str) -> list[str]:
    """The texts of a split, decoded; each document begins with end_of_text."""
    texts: list[list[int]] = []
    for token_id in stream(tokens, split):
        if token_id == tokens.tokenizer.end_of_text:
            texts.append([])
        else:
            texts[-1].append(token_id)
    return [tokens.tokenizer.decode(ids) for ids in texts]


def text_of(document: Document) -> str | None:
    if document.text is None or isinstance(document.text, str):
        return document.text
    return "".join(document.text)


def texts_of(documents: Iterable[Document]) -> list[str | None]:
    return [text_of(document) for document in documents]


def check_positions(source: Source) -> None:
    """Reading from a document's position, even out of JSON, gives it and all after it."""
    everything = [(text_of(document), document.position) for document in source.documents()]
    for number, (_, position) in enumerate(everything):
        again = texts_of(source.documents(json.loads(json.dumps(position))))
        assert again == [text for text, _ in everything[number:]]


def write_parquet(
    path: Path, texts: list[str | None], row_group_size: int = 3, column: str = "text"
) -> None:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table({column: texts, "id": list(range(len(texts)))})
    pyarrow.parquet.write_table(table, path, row_group_size=row_group_size)
