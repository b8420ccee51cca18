"""The policy for odd documents, and its counts: nothing is dropped or changed without being counted."""

from collections import Counter

from minigpt.text import REPLACEMENT, without_surrogates

# What each count means, for the one line that the preparation prints.
MEANING = {
    "null": "null documents skipped",
    "blank": "empty or whitespace-only documents skipped",
    "surrogates": "texts with lone surrogates, replaced by U+FFFD",
    "replacement": "texts with U+FFFD, which stands where bytes were not UTF-8",
    "nul": "texts with NUL characters, kept",
}


def clean(text: str, counts: Counter[str]) -> tuple[str, int]:
    """The text as it is tokenized, and its length in UTF-8 bytes. Counts are per piece of text, not per document."""
    try:
        n_bytes = len(text.encode())
    except UnicodeEncodeError:
        counts["surrogates"] += 1
        text = without_surrogates(text)
        n_bytes = len(text.encode())
    else:
        counts["replacement"] += REPLACEMENT in text
    counts["nul"] += "\0" in text
    return text, n_bytes


def report(counts: dict[str, int]) -> list[str]:
    """One phrase per kind of odd document that was met."""
    return [f"{counts[kind]} {meaning}" for kind, meaning in MEANING.items() if counts.get(kind)]
