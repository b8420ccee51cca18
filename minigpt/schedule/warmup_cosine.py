"""Linear warm-up, then half a cosine down to a floor (Loshchilov & Hutter, arXiv 1608.03983)."""

import math
from dataclasses import dataclass

from minigpt.schedule.warmup import Warmup, check_floor


@dataclass(frozen=True)
class WarmupCosine(Warmup):
    """After w steps of warm-up, step s of n gets

        floor + (1 - floor) * (1 + cos(pi (s - w) / (n - w))) / 2

    So `floor` would be reached at step n, just past the end.

    floor: what is left at the end, in [0, 1].
    """

    floor: float = 0.0

    def __post_init__(self) -> None:
        check_floor(self.floor)

    def after(self, step: int, warmup: int, steps: int) -> float:
        progress = (step - warmup) / (steps - warmup)
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * progress)) / 2
