"""What schedules share: durations, checks, and the linear warm-up that each begins with."""


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


def check_step(step: int, steps: int) -> None:
    if not 0 <= step <= steps:
        raise ValueError(f"step={step} is outside 0..{steps}")


def check_floor(floor: float) -> None:
    if not 0.0 <= floor <= 1.0:
        raise ValueError(f"schedule.floor={floor} must be in [0, 1]")


def warmup_steps(value: float, steps: int) -> int:
    """Steps of warm-up; raises ValueError if it would fill the run."""
    count = duration_steps("schedule.warmup", value, steps)
    if count >= max(steps, 1):
        raise ValueError(
            f"schedule.warmup={value} is {count} steps of warm-up in a run of {steps} steps "
            "(make it less than the run)"
        )
    return count


def ramp(step: int, warmup: int) -> float:
    """Step 0 gets 1 / (warmup + 1), step `warmup` and all later ones 1. No step gets 0."""
    return min(1.0, (step + 1) / (warmup + 1))
