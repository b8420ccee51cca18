"""What people read: text that is safe on a terminal, and numbers and rows as text.

A model can have learnt control sequences, and the name of a file can hold them.
"""

import re
import sys
import threading
from collections.abc import Collection, Iterable, Sequence
from typing import Any

# C0 and C1 controls but tab and newline, marks that reorder text, halves of surrogate pairs.
UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
IN_A_LINE = re.compile(f"{UNSAFE.pattern}|[\n\t\u2028\u2029]")
# tqdm's own lock is shared with forks: one that is killed amid a line would hang all others.
_BARS = threading.RLock()


def bar(**options: Any) -> Any:
    """A progress bar on stderr, where that is a terminal."""
    from tqdm import tqdm

    tqdm.set_lock(_BARS)
    return tqdm(file=sys.stderr, leave=False, **options)


def say(line: str) -> None:
    """A line on stderr, above the progress bars that there are."""
    if "tqdm" in sys.modules:  # imported with the first bar, and by other libraries
        from tqdm import tqdm

        tqdm.set_lock(_BARS)
        tqdm.write(line, file=sys.stderr)
    else:
        print(line, file=sys.stderr)


def escape_controls(text: str) -> str:
    r"""Text that is safe on a terminal: controls but newline and tab as \x1b, marks as \u202e."""
    return UNSAFE.sub(_escaped, text)


def escape_line(text: str) -> str:
    r"""The same for what has to stay a single line, such as a name: newline as \n, tab as \t."""
    return IN_A_LINE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def on_stdout(text: str) -> str:
    """The text as it may go to stdout: on a terminal with its controls escaped."""
    return escape_controls(text) if sys.stdout.isatty() else text


def duration(seconds: float) -> str:
    """Seconds to three digits in the unit that suits them: `20 ms`, `35 s`, `3.33 min`, `2.5 h`."""
    units = ((86400, "days"), (3600, "h"), (60, "min"), (1, "s"))
    size, unit = next((u for u in units if seconds >= 2 * u[0]), (1, "s"))
    value = seconds / size
    if value < 1:
        return f"{1e3 * value:.0f} ms"
    return f"{value:.3g} {unit}" if value < 100 else f"{value:,.0f} {unit}"


def gib(size: float) -> str:
    """Bytes as `1.25 GiB`; below a tenth of that unit as `3.27 MiB`."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.3g} MiB"


def count(number: int, what: str) -> str:
    """`1 pair`, `8 pairs`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def few(names: Iterable[str], most: int = 4) -> str:
    """The first names in order, and how many more: `a, b, c, d and 5 more`."""
    shown = sorted(names)
    more = len(shown) - most
    return ", ".join(shown[:most]) + (f" and {more} more" if more > 0 else "")


def table(rows: Sequence[Sequence[str]], indent: str = "") -> list[str]:
    """Rows as aligned lines. A row shorter than the first may be as wide as it likes."""
    full = [row for row in rows if len(row) == len(rows[0])]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    return [
        indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
        for row in rows
    ]


def did_you_mean(word: str, known: Collection[str], parent: str = "", otherwise: str = "") -> str:
    """`(did you mean x?)` for a misspelt name; else `otherwise`, or what is known.

    parent: stands before the name that is proposed, as in `train.`.
    """
    import difflib

    small = {name.lower(): name for name in sorted(known)}
    near = difflib.get_close_matches(word.lower(), small, n=1, cutoff=0.5)
    if near:
        return f"(did you mean {parent}{small[near[0]]}?)"
    return otherwise or f"(known: {', '.join(sorted(known))})"
