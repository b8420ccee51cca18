"""Each processor by hand, and against transformers' class."""

import math
from typing import Any

import pytest
import torch

from minigpt.generate.processors import (
    MinP,
    NGramPenalty,
    NGrams,
    Processor,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
)
from minigpt.seeding import generator

LOGITS = torch.tensor([[0.5, 0.1, 0.25, 0.15]], dtype=torch.float64).log()


def chances(*processors: Processor, text: tuple[int, ...] = ()) -> Any:
    """Probabilities of LOGITS' tokens behind the processors, in their order."""
    logits = LOGITS
    for process in processors:
        logits = process(logits, [text])
    return pytest.approx(logits.softmax(-1)[0].tolist(), abs=1e-9)


def test_temperature_by_hand() -> None:
    squares = [0.25, 0.01, 0.0625, 0.0225]
    assert [x / sum(squares) for x in squares] == chances(Temperature(0.5))
    assert chances(Temperature(1e-300)) == [1, 0, 0, 0]
    assert chances(Temperature(1e30)) == [0.25] * 4


def test_top_k_and_top_p_by_hand() -> None:
    assert chances(TopK(2)) == [2 / 3, 0, 1 / 3, 0]
    assert chances(TopK(99)) == [0.5, 0.1, 0.25, 0.15]
    assert chances(TopP(0.49)) == [1, 0, 0, 0]
    assert chances(TopP(0.51)) == [2 / 3, 0, 1 / 3, 0]
    assert chances(TopP(1.0)) == [0.5, 0.1, 0.25, 0.15]
    assert chances(TopP(1e-9)) == [1, 0, 0, 0]
    assert chances(TopK(2), TopP(0.6)) == [1, 0, 0, 0]  # 0.5 of the 0.75 left is enough


@pytest.mark.faults(50)
def test_top_k_keeps_k_of_equal_logits() -> None:
    assert TopK(3)(torch.zeros(1, 8), [[]]).isfinite().sum() == 3


def test_min_p_by_hand() -> None:
    assert chances(MinP(0.29)) == [0.5 / 0.9, 0, 0.25 / 0.9, 0.15 / 0.9]
    assert chances(MinP(0.31)) == [2 / 3, 0, 1 / 3, 0]
    assert chances(MinP(1.0)) == [1, 0, 0, 0]


def test_penalties_by_hand() -> None:
    logits = torch.tensor([[1.0, -2.0, 3.0], [1.0, -2.0, 3.0]])
    assert RepetitionPenalty(2.0)(logits, [[0, 1, 0], [2]]).tolist() == [[0.5, -4, 3], [1, -2, 1.5]]
    assert NGramPenalty(1, 1.5)(logits, [[0, 2], []]).tolist() == [[-0.5, -2, 1.5], [1, -2, 3]]
    banned = NGramPenalty(1, math.inf)(logits, [[2], [0, 1, 2]])  # of the second none would be left
    assert banned.tolist() == [[1.0, -2.0, -math.inf], [1.0, -2.0, 3.0]]
    assert logits.tolist() == [[1.0, -2.0, 3.0]] * 2


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_ngrams_against_brute_force(size: int) -> None:
    text = torch.randint(3, (60,), generator=generator(size, "data")).tolist()
    ngrams = NGrams(size)
    for end, token in enumerate(text):
        seen = {tuple(text[i : i + size]) for i in range(end - size + 1)}
        tail = tuple(text[max(0, end - size + 1) : end]) if size > 1 else ()
        assert ngrams.completions() == {t for t in range(3) if (*tail, t) in seen}
        ngrams.add(token)


PAIRS: list[tuple[Processor, str, tuple[float, ...]]] = [
    (Temperature(0.7), "TemperatureLogitsWarper", (0.7,)),
    (TopK(7), "TopKLogitsWarper", (7,)),
    (TopP(0.6), "TopPLogitsWarper", (0.6,)),
    (MinP(0.2), "MinPLogitsWarper", (0.2,)),
    (RepetitionPenalty(1.3), "RepetitionPenaltyLogitsProcessor", (1.3,)),
    (NGramPenalty(1, math.inf), "NoRepeatNGramLogitsProcessor", (1,)),
    (NGramPenalty(3, math.inf), "NoRepeatNGramLogitsProcessor", (3,)),
]


@pytest.mark.parametrize(("ours", "name", "arguments"), PAIRS, ids=str)
def test_a_processor_is_that_of_transformers(
    ours: Processor, name: str, arguments: tuple[float, ...]
) -> None:
    process = pytest.importorskip("transformers.generation.logits_process")
    theirs = getattr(process, name)(*arguments)
    draws = generator(0, "sampling")
    logits = torch.randn(8, 40, generator=draws, dtype=torch.float64)
    texts = torch.randint(5, (8, 30), generator=draws)
    found = ours(logits, texts.tolist())
    assert not torch.equal(found, logits)
    torch.testing.assert_close(found.softmax(-1), theirs(texts, logits.clone()).softmax(-1))
