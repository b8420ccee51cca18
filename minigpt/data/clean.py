"""The policy for odd documents: nothing is dropped or changed without being counted."""

from collections.abc import Mapping

from minigpt.text import REPLACEMENT, without_surrogates

# Kinds of oddness. Documents are skipped as a whole; a text is a piece of a document.
MEANING = {
    "null": "null documents skipped",
    "blank": "empty or whitespace-only documents skipped",
    "surrogates": "texts with lone surrogates, replaced by U+FFFD",
    "replacement": "texts with U+FFFD, which stands where bytes were not UTF-8",
    "nul": "texts with NUL characters, kept",
}
MARKS = {"surrogates": "", "replacement": REPLACEMENT, "nul": "\0"}  # what shows it in the text


def clean(text: str) -> tuple[str, int, list[str]]:
    """The text as it is tokenized, its length in UTF-8 bytes, and the kinds of what was odd."""
    odd = []
    try:
        n_bytes = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        odd.append("surrogates")
        text = without_surrogates(text)
        n_bytes = len(text.encode())
    else:
        if REPLACEMENT in text:
            odd.append("replacement")
    if "\0" in text:
        odd.append("nul")
    return text, n_bytes, odd


def report(counts: Mapping[str, int], firsts: Mapping[str, str | None]) -> list[str]:
    """One phrase per kind of odd document that was met, and where its first stands if known."""
    return [
        f"{counts[kind]} {meaning}" + (f" (the first: {firsts[kind]})" if firsts.get(kind) else "")
        for kind, meaning in MEANING.items()
        if counts.get(kind)
    ]
