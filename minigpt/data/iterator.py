"""A walk over a source: its pieces in order, clean, split, each with the state to go on from."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from minigpt.data.clean import clean
from minigpt.data.source import Source, SplitName
from minigpt.data.splitting import split_document
from minigpt.interrupt import requested, stop_if_requested

NOT_BEGUN = "no tokens were written yet (the same command begins again)"
# Where a walk stands, as JSON: the position of a document in the source's own terms, its number,
# and how many of its pieces are done.
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

    An empty piece tells of skipped documents at the end, or where a stop signal came among them.
    """
    skipped: list[str] = []
    after = start
    for number, document in enumerate(source.documents(start["position"]), start["number"]):
        done = start["pieces"] if number == start["number"] else 0
        met = 0
        in_pieces = split_document(rule, number, document)
        for met, (split, starts_document, text) in enumerate(in_pieces, 1):
            if met > done:
                text, n_bytes, odd = clean(text)
                after = {"position": document.position, "number": number, "pieces": met}
                yield Piece(text, n_bytes, split, starts_document, after, skipped + odd)
                skipped = []
        if met == 0 and not done:
            skipped.append("null" if document.text is None else "blank")
            after = {"position": document.position, "number": number, "pieces": 1}  # it is counted
            if requested() is not None:
                yield Piece("", 0, "train", False, after, skipped)
                skipped = []
    if skipped:
        yield Piece("", 0, "train", False, after, skipped)


def training_text(
    source: Source, rule: dict[str, Any], max_bytes: int | None = None
) -> Iterator[str]:
    """The training text of a source, piece by piece, for a tokenizer to learn from.

    max_bytes: stop behind the piece in which so many bytes of text are reached; None reads all.
    Raises Stopped if a stop signal came.
    """
    read = 0
    if max_bytes == 0:
        return
    for piece in walk(source, rule):
        if piece.split == "train" and piece.text:
            stop_if_requested(NOT_BEGUN)
            yield piece.text
            read += piece.n_bytes
            if max_bytes is not None and read >= max_bytes:
                return
