"""A synthetic task with a known answer: random words, each followed by itself."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from minigpt.data.source import Document, Source
from minigpt.seeding import derive_seed


class CopyTask(Source):
    """Documents such as "qxnv=qxnv": `length` random letters, "=", the same letters again.

    With data/tokenizer=byte or char and attention within documents, `best_loss` is the best
    possible: the first half costs ln(n_letters) nats a letter, all that follows nothing.
    """

    licence = "none needed: random letters"

    def __init__(
        self, n_documents: int = 4000, length: int = 8, n_letters: int = 16, seed: int = 0
    ) -> None:
        if not 1 <= n_letters <= 26:
            raise ValueError(f"n_letters={n_letters} must be 1 to 26")
        if length < 1 or n_documents < 2:
            raise ValueError(
                f"length={length} must be at least 1 and n_documents={n_documents} at least 2"
            )
        self.n_documents = n_documents
        self.length = length
        self.n_letters = n_letters
        self.seed = seed

    def describe(self) -> dict[str, Any]:
        return {"kind": "copy_task", **vars(self)}

    def documents(self, start: Any = None) -> Iterator[Document]:
        for number in range(start or 0, self.n_documents):
            # PCG64's raw stream is fixed by numpy; the convenience methods above it may change.
            generator = np.random.PCG64(derive_seed(self.seed, "copy task", number))
            bits = generator.random_raw(self.length)
            word = "".join([chr(ord("a") + int(draw) % self.n_letters) for draw in bits])
            yield Document(f"{word}={word}", number)

    def n_bytes(self) -> int:
        return self.n_documents * (2 * self.length + 1)

    def best_loss(self) -> float:
        """Nats per token of the best possible model, the end_of_text of a document included."""
        return self.length * float(np.log(self.n_letters)) / (2 * self.length + 2)
