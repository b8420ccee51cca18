"""Linear warm-up, then a straight line down to a floor.

The floor is zero by default (Bergsma et al., arXiv 2502.15938).
"""

from dataclasses import dataclass

from minigpt.schedule.warmup import Warmup, check_floor


@dataclass(frozen=True)
class Linear(Warmup):
    """After w steps of warm-up, step s of n gets 1 - (1 - floor) * (s - w) / (n - w).

    So `floor` would be reached at step n, just past the end.

    floor: what is left at the end, in [0, 1].
    """

    floor: float = 0.0

    def __post_init__(self) -> None:
        check_floor(self.floor)

    def after(self, step: int, warmup: int, steps: int) -> float:
        return 1 - (1 - self.floor) * (step - warmup) / (steps - warmup)
