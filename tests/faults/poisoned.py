"""Models for `model._target_`: poisoned.Poisoned goes wrong at a chosen call, Weighed is weighed.

What and when stand in the environment: the run with the trouble and the run without are one run.
"""

import ctypes
import os
from pathlib import Path
from typing import Any, ClassVar

import torch

from minigpt.model.loss import IGNORE
from minigpt.model.transformer import Transformer


class Poisoned(Transformer):
    """POISON=kind:first:last, for training calls first..last of the process.

    Kinds: nan, inf (the loss times that), raise (out of memory), zero (no gradient),
    spike (1,000 times the loss), ignored (no target counts).
    """

    calls = 0

    def forward(
        self, tokens: torch.Tensor, targets: Any = None, *rest: Any, **options: Any
    ) -> torch.Tensor:
        Poisoned.calls += self.training and targets is not None
        kind, first, last = os.environ.get("POISON", "none:0:0").split(":")
        now = self.training and targets is not None and int(first) <= Poisoned.calls <= int(last)
        if now and kind == "ignored":
            targets = torch.full_like(targets, IGNORE)
        result = super().forward(tokens, targets, *rest, **options)
        if not now or kind == "ignored":
            return result
        if kind == "raise":
            raise torch.OutOfMemoryError("out of memory, says the test")
        return result * {"nan": float("nan"), "inf": float("inf"), "zero": 0.0, "spike": 1e3}[kind]


class Weighed(Transformer):
    """Every 100 training calls, a line with the resident bytes of this process in the file RSS.

    Free heap is given back before: a leak would hide in it.
    LEAK: bytes that are lost at each call, to see that a leak would be noticed.
    """

    calls = 0
    lost: ClassVar[list[bytes]] = []

    def forward(
        self, tokens: torch.Tensor, targets: Any = None, *rest: Any, **options: Any
    ) -> torch.Tensor:
        if self.training:
            Weighed.calls += 1
            Weighed.lost.append(os.urandom(int(os.environ.get("LEAK", "0"))))
            if Weighed.calls % 100 == 0:
                ctypes.CDLL(None).malloc_trim(0)
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                with open(os.environ["RSS"], "a") as file:
                    file.write(f"{pages * os.sysconf('SC_PAGE_SIZE')}\n")
        return super().forward(tokens, targets, *rest, **options)
