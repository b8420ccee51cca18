"""Linear warm-up, then a straight line down to a floor.

The floor is zero by default (Bergsma et al., arXiv 2502.15938).
"""

from dataclasses import dataclass

from minigpt.schedule.warmup import check_floor, check_step, ramp, warmup_steps


@dataclass(frozen=True)
class Linear:
    """Multiplier of every lr: pure, in [0, 1].

    With w steps of warm-up in a run of n steps, step s (0-based, the step about to be taken) gets
        s < w:   (s + 1) / (w + 1)
        s >= w:  1 - (1 - floor) * (s - w) / (n - w)
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
        return 1 - (1 - self.floor) * (step - warmup) / (steps - warmup)
