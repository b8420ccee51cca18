"""Whether a value out of a file has the shape that it should have.

A shape is
- a type: bool is no number, and an integer is a number too,
- a predicate, whose docstring says what it asks for,
- a tuple of alternatives, None among them,
- a set of words,
- a list with the shape of its items, or
- a mapping. A key that ends in "?" may be missing. The key `str` stands for all keys that are not
  named. Without it those may hold anything.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

MOST = 1e60  # of any number; the square of it is one still
WORDS: dict[type, str] = {
    str: "text",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    dict: "a mapping",
}


def amount(value: Any) -> bool:
    """a number that is not negative"""
    return _is_number(value) and value >= 0


def duration(value: Any) -> bool:
    """seconds of less than a thousand years"""
    return amount(value) and value < 1e11


def natural(value: Any) -> bool:
    """an integer that is not negative"""
    return isinstance(value, int) and amount(value)


def positive(value: Any) -> bool:
    """a positive integer"""
    return natural(value) and value > 0


def file_name(value: Any) -> bool:
    """the name of a file"""
    if not isinstance(value, str) or value in ("", ".", "..") or {"/", "\0"} & set(value):
        return False
    return len(value.encode("utf-8", "surrogatepass")) <= 255  # no file system allows more


def instant(value: Any) -> bool:
    """a time"""
    try:
        return datetime.fromisoformat(value).timestamp() > 0
    except (TypeError, ValueError, OverflowError, OSError):
        return False


def fault(value: Any, shape: Any, where: str = "it") -> str | None:
    """What is wrong with a value, in a few words; None if it has the shape."""
    if isinstance(shape, tuple):
        faults = []
        for one in shape:
            if (found := fault(value, one, where)) is None:
                return None
            faults.append(found)
        return max(faults, key=len)
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{where} is not a list"
        return _first(fault(item, shape[0], f"{where}[{n}]") for n, item in enumerate(value))
    if isinstance(shape, dict):
        return _fault_of_mapping(value, shape, where)
    if isinstance(shape, set):
        fits = isinstance(value, str) and value in shape
        return None if fits else f"{where} is not {' or '.join(sorted(shape))}"
    if shape is None:
        return None if value is None else f"{where} is not null"
    if not isinstance(shape, type):
        return None if shape(value) else f"{where} is not {shape.__doc__}"
    if shape is float:
        fits = _is_number(value)
    else:
        fits = isinstance(value, shape) and not (shape is int and isinstance(value, bool))
    return None if fits else f"{where} is not {WORDS[shape]}"


def _fault_of_mapping(value: Any, shape: dict[Any, Any], where: str) -> str | None:
    if not isinstance(value, dict):
        return f"{where} is not a mapping"
    below = "" if where == "it" else f"{where}."
    named = {key.rstrip("?"): inner for key, inner in shape.items() if key is not str}
    for key, inner in named.items():
        if key in value:
            found = fault(value[key], inner, f"{below}{key}")
        else:
            found = f"{below}{key} is missing" if key in shape else None
        if found:
            return found
    if str not in shape:
        return None
    rest = ((key, item) for key, item in value.items() if key not in named)
    return _first(fault(item, shape[str], f"{below}{key}") for key, item in rest)


def _first(faults: Iterable[str | None]) -> str | None:
    return next(filter(None, faults), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST
