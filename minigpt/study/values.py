"""Values of settings as text, as one would type them, and rows of them as CSV."""

import csv
import io
import math
from collections.abc import Sequence
from typing import Any, TypeGuard

from minigpt.terminal import escape_line


def show(value: Any) -> str:
    """A value as it would be typed, in a line."""
    return f"{value:g}" if isinstance(value, float) else escape_line(typed(value))


def same(value: Any, text: str) -> bool:
    """Whether a value reads like what was typed: 0.01 is 1e-2, True is true, None is null."""
    try:
        return not isinstance(value, bool) and float(value) == float(text)
    except (TypeError, ValueError):
        return show(value).lower() == text.lower()


def typed(value: Any) -> str:
    """A value as one types it on the command line, to the last digit."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, float) else str(value)


def is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_positive(value: Any) -> TypeGuard[float]:
    return is_number(value) and math.isfinite(value) and value > 0


def csv_bytes(rows: Sequence[dict[str, Any]]) -> bytes:
    """The file. A row may lack columns of others."""
    text, columns = io.StringIO(), dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: escape_line(v) if isinstance(v, str) else v for k, v in row.items()})
    return text.getvalue().encode()
