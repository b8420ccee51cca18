"""The loss of the unigram model, by hand."""

import math
from typing import Any

import numpy as np
import pytest

from minigpt.data import unigram


class Stream:
    """A split of these tokens."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens, self.n_tokens = np.array(tokens, np.uint16), len(tokens)

    def read(self, start: int, count: int) -> np.ndarray:
        return self.tokens[start : start + count]


def test_unigram_loss_by_hand() -> None:
    train: Any = Stream([0, 0, 0, 1])  # each count raised by one: 4, 2 and 1 of 7
    val: Any = Stream([0, 2])
    expected = -(math.log(4 / 7) + math.log(1 / 7)) / 2
    assert unigram.unigram_loss(train, val, 3) == pytest.approx(expected)


def test_of_a_large_split_stretches_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unigram, "STRETCH", 2)
    monkeypatch.setattr(unigram, "MOST_TOKENS", 4)
    stream: Any = Stream([0, 0, 1, 1, 2, 2, 3, 3, 3])  # every third stretch of two
    assert unigram.token_counts(stream, 4).tolist() == [2, 0, 0, 2]
