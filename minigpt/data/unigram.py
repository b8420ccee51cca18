"""The loss of a model that has learnt how frequent each token is, and nothing else."""

import numpy as np

from minigpt.data.tokens import Split

STRETCH = 2**16  # tokens read at a time
MOST_TOKENS = 2**24  # counted of a split, in stretches evenly spread over it


def unigram_loss(train: Split, val: Split, vocab_size: int) -> float:
    """Nats per token of `val` under the frequencies of `train`, each count raised by one."""
    seen, expected = token_counts(train, vocab_size) + 1, token_counts(val, vocab_size)
    return float(np.log(seen.sum()) - expected @ np.log(seen) / expected.sum())


def token_counts(split: Split, vocab_size: int) -> np.ndarray:
    """(V,) how often each token occurs in a split, or in an even sample of a large one."""
    counts = np.zeros(vocab_size, np.int64)
    every = STRETCH * -(-split.n_tokens // MOST_TOKENS)
    for start in range(0, split.n_tokens, every):
        stretch = split.read(start, min(STRETCH, split.n_tokens - start))
        counts += np.bincount(stretch, minlength=vocab_size)
    return counts
