"""Which documents are validation. Decided before tokenizing: a tokenizer sees training text only.

Three rules, tried in this order; the chosen one is JSON and part of the manifest:
- named: the source itself says train or val for every document.
- documents: a corpus of few documents. Those with the smallest hashes are held out, as long as they
  are small enough. Where none is (one text file), `tail`: the end of the longest document.
- hash: any larger corpus. A document is held out if the hash of its first piece falls below the
  fraction, so that neither order nor neighbours matter and a duplicate lands in the same split. One
  early document is always held out, so that validation is never empty.
"""

import hashlib
import itertools
from collections.abc import Iterator
from typing import Any

from minigpt import text as bounded
from minigpt.data.source import Document, Source, SplitName
from minigpt.errors import DataError
from minigpt.interrupt import stop_if_requested

FEW_DOCUMENTS = 256  # a corpus with no more documents than this is looked at as a whole


def stable_hash(text: str) -> float:
    """A number in [0, 1) that depends on the text only."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=7).digest()
    return int.from_bytes(digest) / 2**56


def text_pieces(document: Document) -> Iterator[str]:
    """The pieces of a document; none for a null or blank one."""
    text = document.text
    if text is None:
        return
    if isinstance(text, str) and len(text) <= bounded.LONGEST_PIECE:  # most documents: be quick
        if text and not text.isspace():
            yield text
        return
    in_pieces = bounded.pieces([text] if isinstance(text, str) else text)
    first = list(itertools.islice(in_pieces, 2))
    if len(first) == 2 or (first and not first[0].isspace()):
        yield from first
        yield from in_pieces


def plan_split(source: Source, val_fraction: float) -> dict[str, Any]:
    """The rule for this source, after a look at its first documents.

    Raises DataError if there is too little text.
    """
    lengths: dict[int, int] = {}  # characters of each document that is not blank
    hashes: dict[int, float] = {}
    number = -1
    for number, document in enumerate(source.documents()):
        if document.split is not None:
            return {"rule": "named"}
        if number == FEW_DOCUMENTS:
            break
        for piece in text_pieces(document):
            stop_if_requested("nothing was written yet")
            hashes.setdefault(number, stable_hash(piece))
            lengths[number] = lengths.get(number, 0) + len(piece)
    if number < FEW_DOCUMENTS:
        return plan_few(lengths, hashes, val_fraction)
    if not lengths:
        raise DataError(
            f"no text in the first {FEW_DOCUMENTS} documents (check the source and its column)"
        )
    mean_length = sum(lengths.values()) / len(lengths)
    always = min(
        (number for number in lengths if lengths[number] <= mean_length), key=hashes.__getitem__
    )
    return {"rule": "hash", "fraction": val_fraction, "always": always}


def plan_few(
    lengths: dict[int, int], hashes: dict[int, float], val_fraction: float
) -> dict[str, Any]:
    total = sum(lengths.values())
    if total < 2:
        raise DataError(f"the corpus holds {total} characters of text (choose a source with more)")
    wanted = val_fraction * total
    held_out: list[int] = []
    room = 1.5 * wanted
    for number in sorted(lengths, key=hashes.__getitem__):
        if lengths[number] <= room:
            held_out.append(number)
            room -= lengths[number]
    if held_out:
        return {"rule": "documents", "documents": sorted(held_out)}
    longest = max(lengths, key=lengths.__getitem__)
    cut = max(int(lengths[longest] - wanted), lengths[longest] // 2)
    return {"rule": "tail", "document": longest, "characters": cut}


def split_document(
    rule: dict[str, Any], number: int, document: Document
) -> Iterator[tuple[SplitName, bool, str]]:
    """(split, starts a document, piece) for each piece of document `number` under the rule."""
    in_pieces = text_pieces(document)
    if rule["rule"] == "tail" and rule["document"] == number:
        yield from split_tail(in_pieces, rule["characters"])
        return
    split: SplitName | None = None
    for piece in in_pieces:
        starts_document = split is None
        split = split or split_of(rule, number, document, piece)
        yield split, starts_document, piece


def split_of(rule: dict[str, Any], number: int, document: Document, first_piece: str) -> SplitName:
    """Where the rule puts a whole document."""
    if rule["rule"] == "named":
        if document.split is None:
            raise DataError(
                f"document {number} has no split although others have (a bug in the source)"
            )
        return document.split
    if rule["rule"] == "documents":
        held_out = number in rule["documents"]
    elif rule["rule"] == "hash":
        held_out = number == rule["always"] or stable_hash(first_piece) < rule["fraction"]
    else:  # tail, of another document
        held_out = False
    return "val" if held_out else "train"


def split_tail(in_pieces: Iterator[str], characters: int) -> Iterator[tuple[SplitName, bool, str]]:
    """The first `characters` are training text, the rest is a document of the validation split."""
    offset = 0
    for piece in in_pieces:
        room = max(0, characters - offset)
        if room:
            yield "train", offset == 0, piece[:room]
        if tail := piece[room:]:
            yield "val", offset <= characters, tail
        offset += len(piece)
