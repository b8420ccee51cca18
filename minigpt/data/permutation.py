"""A shuffle of n items in O(1) memory: item i of the shuffled order is computed, not looked up.

A Feistel network permutes the numbers of a whole power of two; results >= n are sent through again
until they fall below n ("cycle walking"), which keeps it a permutation of 0..n-1 (Black & Rogaway,
"Ciphers with Arbitrary Finite Domains", 2002). The power of two is below 2n, so a number needs less
than two passes on average. With halves of a few bits the network cannot reach every order evenly,
so small n are sorted by a hash instead: also bounded memory.
"""

import numpy as np

from minigpt.seeding import derive_seed

ROUNDS = 6  # even, so that the two halves of an odd number of bits end where they began
SMALL = 1 << 14  # up to here a table of the whole order is kept: 128 KiB


class Permutation:
    """A permutation of 0..n-1 chosen by a seed, in at most 128 KiB. 1 <= n < 2**62."""

    def __init__(self, n: int, seed: int) -> None:
        assert 1 <= n < 1 << 62, n
        self.n = n
        bits = max(2, (n - 1).bit_length())  # two halves of at least a bit
        self.low_bits, self.high_bits = bits // 2, bits - bits // 2
        self.keys = [np.uint64(derive_seed(seed, "feistel", number)) for number in range(ROUNDS)]
        self.table = (
            np.argsort(mix(np.arange(n, dtype=np.uint64) + self.keys[0])) if n <= SMALL else None
        )

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Items at these positions of the shuffled order; int64 in and out, any shape."""
        if self.table is not None:
            return self.table[positions]
        items = positions.astype(np.uint64)
        outside = np.ones(items.shape, bool)
        while outside.any():
            items[outside] = self._network(items[outside])
            outside = items >= np.uint64(self.n)
        return items.astype(np.int64)

    def _network(self, numbers: np.ndarray) -> np.ndarray:
        low_bits, high_bits = self.low_bits, self.high_bits
        low, high = numbers & mask(low_bits), numbers >> np.uint64(low_bits)
        for key in self.keys:
            # (high, low) -> (low, high ^ F(low)): the halves swap places and widths.
            low, high = high ^ (mix(low + key) & mask(high_bits)), low
            low_bits, high_bits = high_bits, low_bits
        return (high << np.uint64(low_bits)) | low


def mask(bits: int) -> np.uint64:
    return np.uint64((1 << bits) - 1)


def mix(numbers: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea & Flood 2014): each bit depends on all bits."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
