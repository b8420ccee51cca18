"""How long to train: tokens, steps or epochs, whichever was given, as optimizer steps."""

import math
from dataclasses import dataclass
from typing import Any

BUDGET_KEYS = ("tokens", "steps", "epochs")


@dataclass(frozen=True)
class Budget:
    """A run's length and the shape of its steps."""

    steps: int  # of the optimizer
    batch_size: int  # sequences per step
    micro_batch_size: int  # sequences per forward and backward pass
    seq_len: int  # tokens per sequence
    ranks: int = 1  # devices that share each step

    @property
    def accumulation(self) -> int:
        """Micro-batches per optimizer step, on each device."""
        return self.batch_size // (self.micro_batch_size * self.ranks)

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.seq_len

    @property
    def tokens(self) -> int:
        """Training tokens of the whole run."""
        return self.steps * self.tokens_per_step


def accumulation_problem(
    batch_size: int, micro_batch_size: int | None, ranks: int = 1
) -> str | None:
    """Why a batch cannot be cut into equal micro-batches, and into which it can; or None.

    ranks: devices that share it. micro_batch_size: None for one micro-batch on each.
    """
    at_once = (micro_batch_size or 1) * ranks
    if batch_size % at_once == 0:
        return None
    below = batch_size - batch_size % at_once
    nearest = " and ".join(str(size) for size in (below, below + at_once) if size > 0)
    parts = [] if micro_batch_size is None else [f"train.micro_batch_size={micro_batch_size}"]
    parts += [] if ranks == 1 else [f"{ranks} devices"]
    return (
        f"uneven accumulation: train.batch_size={batch_size} is not a multiple of "
        f"{' x '.join(parts)} (nearest are {nearest})"
    )


def memory_problem(train: dict[str, Any]) -> str:
    """That a step of a checked `train` node does not fit into memory, and what needs less."""
    batch, micro = train["batch_size"], train["micro_batch_size"] or train["batch_size"]
    smaller = [size for size in range(1, micro) if batch % size == 0]
    ways = [f"train.micro_batch_size={smaller[-1]}"] if smaller else []
    ways += [] if train["activation_checkpointing"] else ["train.activation_checkpointing=true"]
    ways = ways or ["a smaller model"]
    return f"out of memory: train.micro_batch_size={micro} (less is needed by {' or '.join(ways)})"


def steps_for_tokens(tokens: int, batch_size: int, seq_len: int) -> int:
    """Optimizer steps that see at least `tokens` tokens; a remainder rounds up."""
    return math.ceil(tokens / (batch_size * seq_len))


def steps_for_epochs(epochs: float, batch_size: int, windows: int) -> int:
    """Optimizer steps that see at least `epochs` passes over `windows` training windows."""
    return math.ceil(round(epochs * windows, 6) / batch_size)


def budget_in_steps(train: dict[str, Any], seq_len: int) -> dict[str, Any]:
    """`{"steps": n}`, or `{"epochs": x}`, whose steps only the corpus knows.

    train: the `train` node, with one of tokens, steps and epochs set.
    """
    if train.get("tokens") is not None:
        return {"steps": steps_for_tokens(train["tokens"], train["batch_size"], seq_len)}
    key = "steps" if train["steps"] is not None else "epochs"
    return {key: train[key]}


def budget_of(train: dict[str, Any], seq_len: int, windows: int = 0, ranks: int = 1) -> Budget:
    """The budget of a checked `train` node.

    windows: training windows of the corpus, which only epochs need.
    ranks: devices that share each step.
    """
    steps = budget_in_steps(train, seq_len).get("steps")
    if steps is None:
        steps = steps_for_epochs(train["epochs"], train["batch_size"], windows)
    batch_size = train["batch_size"]
    micro_batch_size = train["micro_batch_size"] or batch_size // ranks
    return Budget(steps, batch_size, micro_batch_size, seq_len, ranks)


def tokens_notice(train: dict[str, Any], seq_len: int) -> str | None:
    """What rounding train.tokens up to whole steps adds; None if it divides, or is not given."""
    asked = train["tokens"]
    if asked is None:
        return None
    per_step = train["batch_size"] * seq_len
    steps = steps_for_tokens(asked, train["batch_size"], seq_len)
    if steps * per_step == asked:
        return None
    return (
        f"train.tokens={asked:,} is not a multiple of {per_step:,} tokens a step: "
        f"rounded up to {steps:,} steps = {steps * per_step:,} tokens"
    )


def epochs_notice(train: dict[str, Any], budget: Budget, windows: int) -> str | None:
    """What rounding train.epochs up to whole steps adds; None if it divides, or is not given."""
    asked, seen = train["epochs"], budget.steps * budget.batch_size
    if asked is None or seen == asked * windows:
        return None
    return (
        f"train.epochs={asked:g} of {windows:,} windows is not a multiple of "
        f"train.batch_size={budget.batch_size}: "
        f"rounded up to {budget.steps:,} steps = {seen / windows:.3f} epochs"
    )
