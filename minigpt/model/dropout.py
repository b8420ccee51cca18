"""Dropout whose masks depend on the sequence, not on the batch that it lies in.

Each sequence of a run has a seed, each place in the model a number. A mask is a hash of both. So
gradient accumulation, micro-batches and ranks change no mask, and CPU, GPU and compiled code draw
the same ones.

B batch.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

# SplitMix64 (Steele, Lea & Flood 2014): random number i is `mixed` of seed + i * GOLDEN. The
# constants are written as torch's int64 holds them.
GOLDEN, MIX_1, MIX_2 = (
    n - 2**64 for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


class Dropout(nn.Module):
    """Zero each value with probability p and scale the others by 1 / (1 - p), in training only.

    p is rounded to a multiple of 2^-16. The first dimension holds the sequences. Outside of
    `sequences` masks come from torch's global generator.
    """

    place: int | None = None  # see `number`

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        seeds = self.seeds(x)
        mask = kept(seeds, x.numel() // len(seeds), self.p).view(x.shape)
        return x * mask * (1.0 / (1.0 - rounded(self.p)))

    def seeds(self, x: Tensor) -> Tensor:
        """(B,) int64: the seed of each sequence at this place.

        Raises ValueError if the rows of x are not the sequences, or if the place has no number.
        """
        if _now.seeds is None:
            return torch.empty(len(x), dtype=torch.int64, device=x.device).random_()
        if self.place is None:
            raise ValueError(
                "dropout without a place: call minigpt.model.dropout.number(model) "
                "when it is complete"
            )
        if len(x) % len(_now.seeds):
            raise ValueError(f"dropout of {len(x)} rows that are not {len(_now.seeds)} sequences")
        return split(_now.seeds, self.place, 1)[:, 0]


class _Now:
    seeds: Tensor | None = None  # (B,) int64 of the sequences trained now, on the model's device


_now = _Now()


@contextmanager
def sequences(seeds: Tensor) -> Iterator[None]:
    """Inside, the sequences of the batch have these seeds, (B,) int64 on the model's device."""
    _now.seeds = seeds
    try:
        yield
    finally:
        _now.seeds = None


def number(model: nn.Module) -> None:
    """Give each Dropout of a complete model a place of its own."""
    dropouts = [module for module in model.modules() if isinstance(module, Dropout)]
    for place, dropout in enumerate(dropouts):
        dropout.place = place


def kept(seeds: Tensor, n: int, p: float, first: int = 0) -> Tensor:
    """(B, n) bool, True with probability 1 - rounded(p); 13 times as fast as `bernoulli_`.

    Four values share a random number, whose 16-bit parts they are. The first has number `first`.
    Numbers and seeds are mixed already, so one more round of mixing is enough.
    """
    numbers = mixed(torch.arange(first, first + (n + 3) // 4, device=seeds.device) * GOLDEN)
    z = numbers ^ seeds[:, None]
    z *= MIX_1
    z ^= z >> 32
    z *= MIX_2
    return z.view(torch.int16)[:, :n] >= _threshold(p) - 2**15


def split(seeds: Tensor, first: int, count: int) -> Tensor:
    """(B, count) int64: the seeds number first, first + 1, ... derived from each seed."""
    return mixed(seeds[:, None] + torch.arange(first, first + count, device=seeds.device) * GOLDEN)


def mixed(z: Tensor) -> Tensor:
    """A random-looking permutation of int64."""
    z = (z ^ (z >> 30 & 2**34 - 1)) * MIX_1  # the masks make shifts of a signed number logical
    z = (z ^ (z >> 27 & 2**37 - 1)) * MIX_2
    return z ^ (z >> 31 & 2**33 - 1)


def rounded(p: float) -> float:
    """The probability that `kept` really drops with."""
    return _threshold(p) / 2**16


def _threshold(p: float) -> int:
    return min(round(p * 2**16), 2**16 - 1)
