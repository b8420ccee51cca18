"""Steps whose gradient norm is far above the usual are spikes, and can be skipped."""

from statistics import median

# How many accepted norms are remembered. A quarter of them is enough to judge by.
WINDOW = 64


def is_spike(norm: float, accepted: list[float], factor: float) -> bool:
    """Whether a norm exceeds `factor` times the median of the accepted ones.

    False while there are too few to judge by, or if their median is zero.
    """
    return len(accepted) >= WINDOW // 4 and norm > factor * median(accepted) > 0


def remember(norm: float, accepted: list[float]) -> list[float]:
    """The last WINDOW accepted norms, this one included."""
    return [*accepted, norm][-WINDOW:]
