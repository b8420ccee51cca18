"""Text in bounded pieces, cut where no tokenizer of ours would join what stands left and right."""

import re
from collections.abc import Iterable, Iterator

# characters; also keeps regex engines clear of their stack limit (about a million spaces)
LONGEST_PIECE = 1 << 18
REPLACEMENT = "\ufffd"

# After a newline that a non-space follows, and between an ASCII letter or digit and a space,
# GPT-style patterns end a
# word whatever stands around it: cut there, and the ids of the pieces joined are the ids of the
# whole text.
EXACT_CUT = re.compile(r"\n(?=\S)|[A-Za-z0-9](?=\s)")


def pieces(chunks: Iterable[str]) -> Iterator[str]:
    """A text, given in chunks of any size, in pieces of at most LONGEST_PIECE characters; joined
    they are the text.

    The pieces depend on the text only, not on the chunks. A stretch of LONGEST_PIECE characters
    without any exact place to cut is cut at its end.
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
    """The last exact place to cut in text[start:end], or end. The character at `end` exists and is
    looked at.
    """
    reach = 1 << 10
    while True:
        cuts = [found.end() for found in EXACT_CUT.finditer(text, max(start, end - reach), end + 1)]
        cuts = [cut for cut in cuts if cut <= end]
        if cuts:
            return cuts[-1]
        if end - reach <= start:
            return end
        reach *= 8


def without_surrogates(text: str) -> str:
    """Lone surrogates, which no UTF-8 can hold, replaced by U+FFFD."""
    return re.sub("[\ud800-\udfff]", REPLACEMENT, text)
