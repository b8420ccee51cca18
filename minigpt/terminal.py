"""Text that is safe on a terminal: a model can have learnt control sequences, and so can the name
of a file.
"""

import re
import sys

# C0 and C1 controls but tab and newline, marks that reorder text, and halves of surrogate pairs,
# which no UTF-8 holds.
UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
IN_A_LINE = re.compile(f"{UNSAFE.pattern}|[\n\t\u2028\u2029]")


def escape_controls(text: str) -> str:
    r"""Text that is safe on a terminal: control characters but newline and tab as \x1b, reordering
    marks as \u202e.
    """
    return UNSAFE.sub(_escaped, text)


def escape_line(text: str) -> str:
    r"""The same for what has to stay a single line, as a cell or a name has to: newline and tab
    too, as \n and \t.
    """
    return IN_A_LINE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def on_stdout(text: str) -> str:
    """The text as it may go to stdout: with its controls escaped on a terminal, as it is into a
    file or a pipe.
    """
    return escape_controls(text) if sys.stdout.isatty() else text
