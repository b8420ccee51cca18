"""Steps whose gradient norm is far above the usual are spikes, and can be skipped."""

from statistics import median

WINDOW = 64  # accepted norms that are remembered; a quarter of them is enough to judge by


def is_spike(norm: float, accepted: list[float], factor: float) -> bool:
    """Whether a norm exceeds `factor` times the median of the accepted ones.

    False while there are too few to judge by, or if their median is zero.
    """
    return len(accepted) >= WINDOW // 4 and norm > factor * median(accepted) > 0
