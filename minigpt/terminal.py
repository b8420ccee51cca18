"""Text that is safe on a terminal: a model can have learnt control sequences, and so can the name of a file."""

import sys
import unicodedata

BIDIRECTIONAL = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def escape_controls(text: str) -> str:
    r"""Text that is safe on a terminal: control characters but newline and tab as \x1b, reordering marks as \u202e."""
    return "".join(
        c.encode("unicode_escape").decode()
        if (unicodedata.category(c) == "Cc" and c not in "\n\t") or c in BIDIRECTIONAL
        else c
        for c in text
    )


def on_stdout(text: str) -> str:
    """The text as it may go to stdout: with its controls escaped on a terminal, as it is into a file or a pipe."""
    return escape_controls(text) if sys.stdout.isatty() else text
