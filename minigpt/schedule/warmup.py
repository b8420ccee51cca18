"""What schedules share: the linear warm-up that each begins with, durations and checks."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Warmup:
    """Multiplier of every lr: pure, in [0, 1].

    In a run of n steps with w steps of warm-up, step s (0-based, the step about to be taken) gets
    (s + 1) / (w + 1) below w, so no step gets 0; then what the subclass says, which is 1 at w.

    warmup: steps, or a share of the run if below 1.
    """

    warmup: float = 0.05

    def __call__(self, step: int, steps: int) -> float:
        """Raises ValueError if durations do not fit the run, or step is outside 0..steps."""
        if not 0 <= step <= steps:
            raise ValueError(f"step={step} is outside 0..{steps}")
        warmup = self.warmup_steps(steps)
        return (step + 1) / (warmup + 1) if step < warmup else self.after(step, warmup, steps)

    def warmup_steps(self, steps: int) -> int:
        warmup = duration_steps("schedule.warmup", self.warmup, steps)
        if warmup >= max(steps, 1):
            raise ValueError(
                f"schedule.warmup={self.warmup} is {warmup} steps of warm-up in a run of {steps} "
                "steps (make it less than the run)"
            )
        return warmup

    def after(self, step: int, warmup: int, steps: int) -> float:
        """The multiplier of a step >= warmup, all counted from the start of the run."""
        raise NotImplementedError


def duration_steps(key: str, value: float, steps: int) -> int:
    """A number of steps from a config value: below 1 a share of the run, else whole steps.

    Raises ValueError for a negative value or a fraction of a step above 1.
    """
    if not 0 <= value < float("inf") or (value >= 1 and value != int(value)):
        raise ValueError(
            f"{key}={value} must be a number of steps (an integer >= 0) "
            "or a share of the run (below 1)"
        )
    return round(value * steps) if value < 1 else int(value)


def check_floor(floor: float) -> None:
    if not 0.0 <= floor <= 1.0:
        raise ValueError(f"schedule.floor={floor} must be in [0, 1]")
