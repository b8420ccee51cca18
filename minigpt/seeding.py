"""Named, stateless randomness: every draw is a pure function of (seed, purpose, counters).

Nothing here touches a global generator: evaluation, sampling and logging can never shift training.
"""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, purpose: str, *counters: int) -> int:
    """A 63-bit seed for one purpose: init, data, dropout or sampling."""
    text = ":".join([str(seed), purpose, *map(str, counters)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def generator(seed: int, purpose: str, *counters: int, device: str = "cpu") -> "torch.Generator":
    """A fresh torch generator seeded with `derive_seed(seed, purpose, *counters)`."""
    import torch

    return torch.Generator(device).manual_seed(derive_seed(seed, purpose, *counters))
