"""Warm-up, stable, decay (MiniCPM, arXiv 2404.06395): lr comes down in the last part of the run."""

from dataclasses import dataclass

from minigpt.schedule.warmup import check_floor, check_step, duration_steps, ramp, warmup_steps


@dataclass(frozen=True)
class WSD:
    """Multiplier of every lr: pure, in [0, 1].

    With w steps of warm-up and d of decay in a run of n steps, step s (0-based, the step about to
    be taken) gets
        s < w:           (s + 1) / (w + 1)
        w <= s < n - d:  1
        s >= n - d:      1 - (1 - floor) * (s - (n - d)) / d
    so step n - d is the last at 1 and `floor` would be reached at step n, just past the end.

    warmup, decay: steps, or a share of the run if below 1.
    floor: what is left at the end, in [0, 1].
    """

    warmup: float = 0.05
    decay: float = 0.2
    floor: float = 0.0

    def __post_init__(self) -> None:
        check_floor(self.floor)

    def trunk_steps(self, steps: int) -> int | None:
        """The step until which longer runs are the same run (see train/branch.py).

        None if their warm-up differs, which it does as a share of the run.
        """
        if 0 < self.warmup < 1:
            return None
        return steps - duration_steps("schedule.decay", self.decay, steps)

    def __call__(self, step: int, steps: int) -> float:
        """Raises ValueError if warm-up and decay do not fit, or step is outside 0..steps."""
        check_step(step, steps)
        warmup = warmup_steps(self.warmup, steps)
        decay = duration_steps("schedule.decay", self.decay, steps)
        if warmup + decay > steps:
            raise ValueError(
                f"schedule.warmup={self.warmup} and schedule.decay={self.decay} are "
                f"{warmup} + {decay} steps in a run of {steps} steps (make their sum fit)"
            )
        into_decay = step - (steps - decay)
        if into_decay > 0:
            return 1 - (1 - self.floor) * into_decay / decay
        return ramp(step, warmup)
