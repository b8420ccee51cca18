"""Text in bounded pieces, cut where no tokenizer of ours would join what stands left and right."""

import re
from collections.abc import Iterable, Iterator

LONGEST_PIECE = 1 << 18  # characters; regex engines run out of stack at about a million spaces
REPLACEMENT = "\ufffd"
# GPT-style patterns end a word after a newline that a non-space follows, and between an ASCII
# letter or digit and a space, whatever stands around. The ids of pieces that are cut there, joined,
# are the ids of the whole text.
EXACT_CUT = re.compile(r"\n(?=\S)|[A-Za-z0-9](?=\s)")


def pieces(chunks: Iterable[str]) -> Iterator[str]:
    """A text, given in chunks of any size, in pieces of at most LONGEST_PIECE characters.

    The pieces, joined, are the text. They depend on the text only, not on the chunks. A stretch of
    LONGEST_PIECE characters without any exact place to cut is cut at its end.
    """
    buffer = ""
    for chunk in chunks:
        buffer += chunk
        start = 0
        while len(buffer) - start > LONGEST_PIECE:
            cut = last_exact_cut(buffer, start, start + LONGEST_PIECE)
            yield buffer[start:cut]
            start = cut
        buffer = buffer[start:]
    if buffer:
        yield buffer


def last_exact_cut(text: str, start: int, end: int) -> int:
    """The last exact place to cut in text[start:end], or end. text[end] exists."""
    reach = 1 << 10
    while True:
        cuts = [found.end() for found in EXACT_CUT.finditer(text, max(start, end - reach), end + 1)]
        if cuts := [cut for cut in cuts if cut <= end]:
            return cuts[-1]
        if end - reach <= start:
            return end
        reach *= 8


def without_surrogates(text: str) -> str:
    """Lone surrogates, which no UTF-8 can hold, replaced by U+FFFD."""
    return re.sub("[\ud800-\udfff]", REPLACEMENT, text)
