"""Values of settings as text, as one would type them."""

from typing import Any

from minigpt.terminal import escape_line


def show(value: Any) -> str:
    """A value as it would be typed, in a line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else escape_line(str(value))


def same(value: Any, text: str) -> bool:
    """Whether a value reads like what was typed: 0.01 is 1e-2, True is true, None is null."""
    try:
        return not isinstance(value, bool) and float(value) == float(text)
    except (TypeError, ValueError):
        return show(value).lower() == text.lower()
