"""Ranges of what an optimizer is given."""

import math
from typing import Any


def check_finite(**values: Any) -> None:
    """Raises ValueError for what is no finite number >= 0."""
    for key, value in values.items():
        if not isinstance(value, float | int) or not 0.0 <= value < math.inf:
            raise ValueError(f"{key}={value} must be a finite number >= 0")


def check_decays(**values: float) -> None:
    """Raises ValueError for the decay of an average that is not in [0, 1)."""
    for key, value in values.items():
        if not 0.0 <= value < 1.0:
            raise ValueError(f"{key}={value} must be in [0, 1)")


def check_choice(key: str, choice: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError for a choice that is none of the `choices`."""
    if choice not in choices:
        raise ValueError(f"{key}={choice!r} is none of {', '.join(choices)}")
