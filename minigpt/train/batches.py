"""The micro-batches of a run on its device, each fetched while the one before is computed.

B sequences of a micro-batch, T sequence length.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from minigpt.config.budget import Budget
from minigpt.data.windows import TrainWindows
from minigpt.seeding import derive_seed


class Batch(NamedTuple):
    """A micro-batch on the device."""

    inputs: Tensor  # (B, T) int64
    targets: Tensor  # (B, T) int64
    seeds: Tensor  # (B,) int64: of the dropout of each sequence
    first_seed: int  # the first of them


class Batches:
    """Micro-batch n of a rank of a run, n counted over all steps.

    Ranks take micro-batches of the run in turn. Which sequences a step has depends on nothing else,
    so nothing of this is saved. On CUDA it travels from pinned memory, and
    nobody waits for it.
    """

    def __init__(
        self, windows: TrainWindows, budget: Budget, seed: int, device: str, rank: int = 0
    ) -> None:
        self.windows, self.budget, self.seed, self.device = windows, budget, seed, device
        self.rank = rank
        self._fetched: tuple[int, Batch] | None = None

    def __getitem__(self, n: int) -> Batch:
        if self._fetched is None or self._fetched[0] != n:
            self._fetched = n, self._fetch(n)
        return self._fetched[1]

    def fetch_ahead(self, n: int) -> None:
        """Read micro-batch n and send it on its way, unless the run ends before it."""
        if n < self.budget.steps * self.budget.accumulation:
            self._fetched = n, self._fetch(n)

    def _fetch(self, n: int) -> Batch:
        size = self.budget.micro_batch_size
        n = n * self.budget.ranks + self.rank
        numbers = range(n * size, (n + 1) * size)
        seeds = [derive_seed(self.seed, "dropout", number) for number in numbers]
        sequences = torch.from_numpy(self.windows.sequences(numbers))  # one contiguous block
        tokens = to_device(sequences, self.device).long()
        on_device = to_device(torch.tensor(seeds, dtype=torch.int64), self.device)
        return Batch(tokens[:, :-1], tokens[:, 1:], on_device, seeds[0])


def to_device(tensor: Tensor, device: str) -> Tensor:
    """A tensor of the host on the device; on CUDA pinned and without waiting."""
    if device.startswith("cuda"):
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
