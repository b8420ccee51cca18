"""Linear warm-up, then the full lr to the end.

For debugging: a run that never anneals cannot be compared fairly.
"""

from dataclasses import dataclass

from minigpt.schedule.warmup import Warmup


@dataclass(frozen=True)
class Constant(Warmup):
    """After the warm-up 1."""

    def after(self, step: int, warmup: int, steps: int) -> float:
        return 1.0
