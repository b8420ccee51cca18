"""Warm-up, stable, decay (MiniCPM, arXiv 2404.06395): lr comes down in the last part of the run."""

from dataclasses import dataclass

from minigpt.schedule.warmup import Warmup, check_floor, duration_steps


@dataclass(frozen=True)
class WSD(Warmup):
    """After the warm-up, with d steps of decay, step s of n gets

        s < n - d:   1
        s >= n - d:  1 - (1 - floor) * (s - (n - d)) / d

    So step n - d is the last at 1, and `floor` would be reached at step n, just past the end.

    decay: steps, or a share of the run if below 1.
    floor: what is left at the end, in [0, 1].
    """

    decay: float = 0.2
    floor: float = 0.0

    def __post_init__(self) -> None:
        check_floor(self.floor)

    def decay_steps(self, steps: int) -> int:
        return duration_steps("schedule.decay", self.decay, steps)

    def trunk_steps(self, steps: int) -> int | None:
        """The step until which longer runs are the same run (see train/branch.py).

        None if their warm-up differs, which it does as a share of the run.
        """
        return None if 0 < self.warmup < 1 else steps - self.decay_steps(steps)

    def warmup_steps(self, steps: int) -> int:
        warmup, decay = super().warmup_steps(steps), self.decay_steps(steps)
        if warmup + decay > steps:
            raise ValueError(
                f"schedule.warmup={self.warmup} and schedule.decay={self.decay} are "
                f"{warmup} + {decay} steps in a run of {steps} steps (make their sum fit)"
            )
        return warmup

    def after(self, step: int, warmup: int, steps: int) -> float:
        decay = self.decay_steps(steps)
        into_decay = step - (steps - decay)
        return 1 - (1 - self.floor) * into_decay / decay if into_decay > 0 else 1.0
