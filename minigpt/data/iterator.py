"""One walk over a source: its pieces in order, cleaned, split, and each with the state to continue
behind it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from minigpt.data.clean import clean
from minigpt.data.source import Source, SplitName
from minigpt.data.splitting import split_document
from minigpt.interrupt import requested

# Where a walk stands, as JSON: position (of the document, in the source's own terms), number (of
# the document), pieces (of it that are done).
State = dict[str, Any]
START: State = {"position": None, "number": 0, "pieces": 0}


@dataclass(slots=True)
class Piece:
    """A stretch of at most LONGEST_PIECE characters of one document."""

    text: str
    n_bytes: int  # of the text in UTF-8
    split: SplitName
    starts_document: bool
    after: State  # continue here to get what follows
    odd: list[str]  # kinds of oddness of it, and of the documents skipped since the piece before


def walk(source: Source, rule: dict[str, Any], start: State = START) -> Iterator[Piece]:
    """The pieces behind `start`.

    If the source ends with skipped documents, or a stop signal comes among them, an empty piece
    tells of them.
    """
    skipped: list[str] = []
    after = start
    for number, document in enumerate(source.documents(start["position"]), start["number"]):
        done = start["pieces"] if number == start["number"] else 0
        met = 0
        for met, (split, starts_document, text) in enumerate(
            split_document(rule, number, document), 1
        ):
            if met > done:
                text, n_bytes, odd = clean(text)
                after = {"position": document.position, "number": number, "pieces": met}
                yield Piece(text, n_bytes, split, starts_document, after, skipped + odd)
                skipped = []
        if met == 0 and not done:
            skipped.append("null" if document.text is None else "blank")
            # 1: it is counted
            after = {"position": document.position, "number": number, "pieces": 1}
            if requested() is not None:
                yield Piece("", 0, "train", False, after, skipped)
                skipped = []
    if skipped:
        yield Piece("", 0, "train", False, after, skipped)


class DatasetIterator:
    """The training text of a source, piece by piece, for a tokenizer to learn from; memory stays
    bounded.

    max_bytes: stop after the piece in which so many bytes of text are reached; None reads
    everything. May be iterated again, from the start.
    """

    def __init__(self, source: Source, rule: dict[str, Any], max_bytes: int | None = None) -> None:
        self.source = source
        self.rule = rule
        self.max_bytes = max_bytes

    def __iter__(self) -> Iterator[str]:
        read = 0
        if self.max_bytes == 0:
            return
        for piece in walk(self.source, self.rule):
            if piece.split == "train" and piece.text:
                yield piece.text
                read += piece.n_bytes
                if self.max_bytes is not None and read >= self.max_bytes:
                    return
