"""Which sizes of a transformer fit each other."""

import math


def check_sizes(
    n_heads: int, n_kv_heads: int, d_model: int, head_size: int | None = None, **others: int
) -> None:
    """Raises ValueError for a size below 1, or heads that do not divide."""
    sizes = {"n_heads": n_heads, "n_kv_heads": n_kv_heads, "d_model": d_model, **others}
    for key, value in sizes.items():
        if value < 1:
            raise ValueError(f"{key}={value} must be at least 1")
    if head_size is not None:
        if head_size < 2 or head_size % 2:
            raise ValueError(f"head_size={head_size} must be even and at least 2; RoPE turns pairs")
    elif d_model % n_heads:
        raise ValueError(f"d_model={d_model} is not a multiple of n_heads={n_heads}")
    elif (d_model // n_heads) % 2:
        raise ValueError(
            f"d_model={d_model} / n_heads={n_heads} gives an odd head size of "
            f"{d_model // n_heads}; RoPE turns pairs"
        )
    if n_heads % n_kv_heads:
        divisors = ", ".join(str(n) for n in range(1, min(n_heads, 1024) + 1) if n_heads % n == 0)
        raise ValueError(
            f"n_heads={n_heads} is not a multiple of n_kv_heads={n_kv_heads} (possible: {divisors})"
        )


def check_dropout(dropout: float) -> None:
    """Raises ValueError for a probability out of range."""
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout={dropout} must be at least 0 and below 1")


def check_positive(**values: float) -> None:
    """Raises ValueError for a number that is not positive and finite."""
    for key, value in values.items():
        if not 0.0 < value < math.inf:
            raise ValueError(f"{key}={value} must be a positive number")
