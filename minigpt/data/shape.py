"""Plain values from files, held against the shape that they must have.

A shape is a type; a tuple of shapes, any of which will do; a set of allowed values; [shape], a list
of such items; {str: shape}, names with such values; or a dict of keys that must be there, each with
its shape (a key that ends in "?" may be missing). int stands for a whole number from 0 to LARGEST.
"""

from typing import Any

LARGEST = 2**63 - 1
Shape = Any


def mismatch(value: Any, shape: Shape, where: str = "") -> str | None:
    """Where a value does not have the shape, in a few words; None if it has."""
    if isinstance(shape, tuple):
        found = [
            mismatch(value, one, where)
            for one in sorted(shape, key=lambda one: type(one) is type(value))
        ]
        return None if None in found else found[-1]  # of the one that is most alike
    if isinstance(shape, list) and isinstance(value, list):
        return first(mismatch(item, shape[0], f"{where}[{n}]") for n, item in enumerate(value))
    if isinstance(shape, dict) and isinstance(value, dict):
        return first(mismatch_of_key(value, key, inner, where) for key, inner in shape.items())
    if isinstance(shape, frozenset | set):
        fits = isinstance(value, str | int) and value in shape
    elif shape is int:
        fits = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST
    else:
        fits = isinstance(shape, type) and isinstance(value, shape)
    return None if fits else f"{where or 'all of it'} is {repr(value)[:40]}"


def mismatch_of_key(value: dict[str, Any], key: Any, shape: Shape, where: str) -> str | None:
    if key is str:
        return first(
            mismatch(inner, shape, f"{where}.{name[:40]}".lstrip("."))
            for name, inner in value.items()
        )
    name = key.removesuffix("?")
    if name not in value:
        return None if key.endswith("?") else f"no {f'{where}.{name}'.lstrip('.')}"
    return mismatch(value[name], shape, f"{where}.{name}".lstrip("."))


def first(found: Any) -> str | None:
    return next((words for words in found if words), None)
