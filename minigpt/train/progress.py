"""Where a run stands: all that a checkpoint holds besides tensors."""

from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import torch

from minigpt.train.clocks import Clocks

WINDOW = 64  # accepted norms that are remembered; a quarter of them is enough to judge by


@dataclass
class Progress:
    """A run at a step boundary. The fields are those of a checkpoint's state on disk."""

    step: int = 0  # steps done
    tokens: int = 0  # tokens seen
    skipped: int = 0  # steps without an update: not finite, or a spike
    bad_in_a_row: int = 0  # the last of them
    # The last accepted gradient norms, if spikes are skipped.
    norms: list[float] = field(default_factory=list)
    # Steps of the last evaluation and sample: a resumed run neither repeats nor misses any.
    evaluated: int = 0
    sampled: int = 0
    seconds: dict[str, float] = field(default_factory=dict)  # by part of the run
    final: dict[str, Any] | None = None  # the last evaluation, once there

    def __post_init__(self) -> None:
        self.clocks = Clocks(self.seconds)

    @property
    def train_time_s(self) -> float:
        """Seconds of training proper: no evaluation, no saving, no compilation."""
        return self.clocks.training_seconds()

    def timed(self, part: str) -> AbstractContextManager[None]:
        """Count the time of a block as this part's."""
        return self.clocks.timed(part)

    def accepts(self, norm: torch.Tensor, factor: float | None) -> bool:
        """False for a spike: more than `factor` times the median of the norms accepted before.

        While those are too few to judge by, or zero, all are accepted. factor: None accepts all and
        remembers none.
        """
        if factor is None:
            return True
        found = float(norm)
        if len(self.norms) >= WINDOW // 4 and found > factor * median(self.norms) > 0:
            return False
        self.norms = [*self.norms, found][-WINDOW:]
        return True

    def advance(self, tokens: int, updated: bool) -> None:
        """Count a step that has seen so many tokens."""
        self.step += 1
        self.tokens += tokens
        self.skipped += not updated
        self.bad_in_a_row = 0 if updated else self.bad_in_a_row + 1


def progress_of(state: dict[str, Any]) -> Progress:
    """Progress out of a checkpoint's state."""
    known = {"norms": [], **state}  # older checkpoints have none
    return Progress(**{name: known[name] for name in asdict(Progress())})
