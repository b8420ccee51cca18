"""A model that goes wrong at a chosen call, for tests: `model._target_=poisoned.Poisoned`; what and when stand in the
environment, so that the run with the trouble and the run without are the same run."""

import os
from typing import Any

import torch

from minigpt.model.transformer import Transformer


class Poisoned(Transformer):
    """POISON=kind:first:last, for training calls first..last of the process.

    Kinds: nan, inf (the loss times that), raise (out of memory), zero (no gradient), spike (1,000 times the loss).
    """

    calls = 0

    def forward(self, tokens: torch.Tensor, targets: Any = None, *rest: Any, **options: Any) -> torch.Tensor:
        result = super().forward(tokens, targets, *rest, **options)
        if not self.training or targets is None:
            return result
        Poisoned.calls += 1
        kind, first, last = os.environ.get("POISON", "none:0:0").split(":")
        if not int(first) <= Poisoned.calls <= int(last):
            return result
        if kind == "raise":
            raise torch.OutOfMemoryError("out of memory, says the test")
        return result * {"nan": float("nan"), "inf": float("inf"), "zero": 0.0, "spike": 1e3}[kind]
