"""The sequences of a step, as a pure function of (seed, step): no iterator, nothing to save.

B batch, T sequence length.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from minigpt.data.permutation import Permutation
from minigpt.data.tokens import Split
from minigpt.errors import DataError
from minigpt.seeding import derive_seed

IGNORED = -100  # target without a loss: torch's cross_entropy skips it
BLOCK = 4096  # positions of the shuffled order computed at once: a call costs more than reading


class TrainWindows:
    """Windows of T tokens, each once an epoch, in an order shuffled anew every epoch.

    Sequence i of step s has the global number g = s * batch_size + i; its epoch is g // n_windows,
    its window permutation[g % n_windows] of (seed, epoch). Each epoch also cuts the stream at
    another phase, so that a window seen in ten epochs shows ten different contexts; that leaves
    less than two windows of tokens out of an epoch.

    Raises DataError if the split cannot fill one window (T inputs and the last one's target).
    """

    def __init__(self, split: Split, seq_len: int, seed: int) -> None:
        if seq_len < 1:
            raise ValueError(f"seq_len={seq_len} must be at least 1")
        if split.n_tokens < seq_len + 1:
            raise DataError(
                f"too little text: the {split.name} split has {split.n_tokens} tokens, "
                f"one sequence needs {seq_len + 1} (lower model.max_seq_len or choose more data)"
            )
        self.split = split
        self.seq_len = seq_len
        self.seed = seed
        self.n_windows = windows_in(split.n_tokens, seq_len)
        self._block: tuple[int, int] | None = None  # epoch and number of the block in _starts
        self._starts = np.empty(0, np.int64)

    def start(self, number: int) -> int:
        """Position in the split of the first token of sequence `number` of the run."""
        epoch, position = divmod(number, self.n_windows)
        block, place = divmod(position, BLOCK)
        if self._block != (epoch, block):
            positions = np.arange(block * BLOCK, min((block + 1) * BLOCK, self.n_windows))
            permutation = Permutation(self.n_windows, derive_seed(self.seed, "data order", epoch))
            self._starts = permutation(positions) * self.seq_len + self.phase(epoch)
            self._block = (epoch, block)
        return int(self._starts[place])

    def phase(self, epoch: int) -> int:
        """Tokens that an epoch skips before its first window: 0 to T - 1, as far as they reach."""
        room = self.split.n_tokens - 1 - self.n_windows * self.seq_len
        return derive_seed(self.seed, "data phase", epoch) % min(self.seq_len, room + 1)

    def batch(self, step: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """(inputs, targets) of a step, both (B, T) int64."""
        numbers = range(step * batch_size, (step + 1) * batch_size)
        tokens = self.sequences(numbers).astype(np.int64)
        return tokens[:, :-1], tokens[:, 1:]

    def sequences(self, numbers: Sequence[int]) -> np.ndarray:
        """(B, T + 1) int32: the inputs of these sequences of the run, and each last target."""
        tokens = np.empty((len(numbers), self.seq_len + 1), np.int32)
        for row, number in enumerate(numbers):
            tokens[row] = self.split.read(self.start(number), self.seq_len + 1)
        return tokens


def windows_in(n_tokens: int, seq_len: int) -> int:
    """Windows of an epoch."""
    return max(1, (n_tokens - seq_len) // seq_len)


def validation_batches(
    split: Split, seq_len: int, batch_size: int, max_tokens: int | None = None, filled: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(inputs, targets) over the split in order, both (B, T) int64; in the last B <= batch_size.

    Every token but the first is the target of exactly one position. The tail window is padded:
    targets -100, inputs 0.

    max_tokens: stop after so many targets; the split's first ones, always the same.
    filled: give the last batch B = batch_size by rows of padding, for code compiled for one shape.
    """
    if split.n_tokens < 2:
        raise DataError(
            f"too little text: the {split.name} split has {split.n_tokens} tokens "
            "(at least 2 are needed)"
        )
    n_targets = split.n_tokens - 1 if max_tokens is None else min(max_tokens, split.n_tokens - 1)
    n_windows = -(-n_targets // seq_len)
    for first in range(0, n_windows, batch_size):
        windows = range(first, min(first + batch_size, n_windows))
        shape = (batch_size if filled else len(windows), seq_len)
        inputs, targets = np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64)
        for row, window in enumerate(windows):
            start = window * seq_len
            tokens = split.read(start, min(seq_len, n_targets - start) + 1)
            inputs[row, : len(tokens) - 1] = tokens[:-1]
            targets[row, : len(tokens) - 1] = tokens[1:]
        yield inputs, targets
