"""How long to train: tokens, steps or epochs, whichever was given, as optimizer steps. Pure
arithmetic.
"""

import math
from dataclasses import dataclass

BUDGET_KEYS = ("tokens", "steps", "epochs")


@dataclass(frozen=True)
class Budget:
    """A run's length and the shape of its steps.

    steps: optimizer steps.  batch_size: sequences per optimizer step.
    micro_batch_size: sequences per forward and backward pass.  seq_len: tokens per sequence.
    """

    steps: int
    batch_size: int
    micro_batch_size: int
    seq_len: int

    @property
    def accumulation(self) -> int:
        """Micro-batches per optimizer step."""
        return self.batch_size // self.micro_batch_size

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.seq_len

    @property
    def tokens(self) -> int:
        """Training tokens of the whole run."""
        return self.steps * self.tokens_per_step


def accumulation_problem(batch_size: int, micro_batch_size: int) -> str | None:
    """Why a batch cannot be cut into equal micro-batches, or None. Names both values and the
    nearest that work.
    """
    if batch_size % micro_batch_size == 0:
        return None
    below = batch_size - batch_size % micro_batch_size
    nearest = " and ".join(str(size) for size in (below, below + micro_batch_size) if size > 0)
    return (
        f"uneven accumulation: train.batch_size={batch_size} is not a multiple of "
        f"train.micro_batch_size={micro_batch_size} (nearest are {nearest})"
    )


def steps_for_tokens(tokens: int, batch_size: int, seq_len: int) -> int:
    """Optimizer steps that see at least `tokens` tokens; a remainder rounds up."""
    return math.ceil(tokens / (batch_size * seq_len))


def steps_for_epochs(epochs: float, batch_size: int, windows: int) -> int:
    """Optimizer steps that see at least `epochs` passes over `windows` training windows; a
    remainder rounds up.
    """
    return math.ceil(round(epochs * windows, 6) / batch_size)


def remainder_notice(
    tokens: int | None, epochs: float | None, budget: Budget, windows: int
) -> str | None:
    """What rounding up added, for the log; None if the budget divides exactly."""
    if tokens is not None and budget.tokens != tokens:
        return (
            f"train.tokens={tokens:,} is not a multiple of {budget.tokens_per_step:,} tokens a step: "
            f"rounded up to {budget.steps:,} steps = {budget.tokens:,} tokens"
        )
    if epochs is not None and budget.steps * budget.batch_size != epochs * windows:
        return (
            f"train.epochs={epochs:g} of {windows:,} windows is not a multiple of "
            f"train.batch_size={budget.batch_size}: "
            f"rounded up to {budget.steps:,} steps = {budget.steps * budget.batch_size / windows:.3f} epochs"
        )
    return None
