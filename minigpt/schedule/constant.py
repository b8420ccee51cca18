"""Linear warm-up, then the full lr to the end.

For debugging: a run that never anneals cannot be compared fairly.
"""

from dataclasses import dataclass

from minigpt.schedule.warmup import check_step, ramp, warmup_steps


@dataclass(frozen=True)
class Constant:
    """Multiplier of every lr: pure, in [0, 1].

    Step s gets (s + 1) / (w + 1) during w steps of warm-up, then 1.

    warmup: steps, or a share of the run if below 1.
    """

    warmup: float = 0.05

    def __call__(self, step: int, steps: int) -> float:
        """Raises ValueError if the warm-up does not fit the run, or step is outside 0..steps."""
        check_step(step, steps)
        return ramp(step, warmup_steps(self.warmup, steps))
