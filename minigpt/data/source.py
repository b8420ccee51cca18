"""What a source of text is: documents in a fixed order, each with the place to begin with it."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

SplitName = Literal["train", "val"]


@dataclass(slots=True)
class Document:
    """One document of a source.

    text: the text, or its chunks in order (a large file), or None where the source has a null.
    position: JSON that `Source.documents(start)` takes to begin with this very document.
    split: where the source itself puts the document; None leaves the choice to the preparation.
    """

    text: str | Iterable[str] | None
    position: Any
    split: SplitName | None = None


class Source(ABC):
    """Text to prepare. The same arguments give the same documents in the same order, every time.

    Failures to read are DataError.
    """

    position: ClassVar[Any] = int  # the shape (files/shape.py) of its documents' positions
    licence: ClassVar[str] = "unknown"  # of the text, for the model card

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """JSON of what decides the text, for the manifest: names, sizes, revisions, no places."""

    @abstractmethod
    def documents(self, start: Any = None) -> Iterator[Document]:
        """All documents, or those from the position `start` on."""

    def pin(self, pinned: dict[str, Any] | None) -> dict[str, Any]:
        """Settle what may move under us, such as the newest revision, before anything is read.

        Returns JSON for the manifest. A preparation that continues gives it back as `pinned`.
        """
        return pinned or {}

    def place(self, position: Any, mark: str) -> str | None:
        """Where the first `mark` stands in the document of that position, for people."""
        return None

    def n_bytes(self) -> int | None:
        """About how many bytes of text there are, for the progress bar; None if unknown."""
        return None
