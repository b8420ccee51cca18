"""Linear warm-up, then half a cosine down to a floor (Loshchilov & Hutter, arXiv 1608.03983)."""

import math
from dataclasses import dataclass

from minigpt.schedule.warmup import check_floor, check_step, ramp, warmup_steps


@dataclass(frozen=True)
class WarmupCosine:
    """Multiplier of every lr: pure, in [0, 1].

    With w steps of warm-up in a run of n steps, step s (0-based, the step about to be taken) gets
        s < w:   (s + 1) / (w + 1)
        s >= w:  floor + (1 - floor) * (1 + cos(pi (s - w) / (n - w))) / 2
    so step w is the first at 1 and `floor` would be reached at step n, just past the end.

    warmup: steps, or a share of the run if below 1.
    floor: what is left at the end, in [0, 1].
    """

    warmup: float = 0.05
    floor: float = 0.0

    def __post_init__(self) -> None:
        check_floor(self.floor)

    def __call__(self, step: int, steps: int) -> float:
        """Raises ValueError if the warm-up does not fit the run, or step is outside 0..steps."""
        check_step(step, steps)
        warmup = warmup_steps(self.warmup, steps)
        if step < warmup:
            return ramp(step, warmup)
        progress = (step - warmup) / (steps - warmup)
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * progress)) / 2
