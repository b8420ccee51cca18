"""What is done to logits before a token is drawn: each processor is one rule.

A processor maps logits (B, V), on the CPU in fp64, to new ones. It also gets the B texts so far,
prompts included, as lists of ids. A token at -inf cannot be drawn. `Sampling.processors` has the
order. tests/generate/test_processors.py compares each with transformers' class.

B texts, V vocabulary.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Texts = Sequence[Sequence[int]]
Processor = Callable[[Tensor, Texts], Tensor]


@dataclass
class RepetitionPenalty:
    """z / penalty for the logit z of a token that the text holds, z * penalty if z < 0.

    CTRL (Keskar et al. 2019). 1 changes nothing.
    """

    penalty: float

    def __call__(self, logits: Tensor, texts: Texts) -> Tensor:
        seen = torch.zeros_like(logits, dtype=torch.bool)
        for row, text in zip(seen, texts):
            row[torch.tensor(text)] = True
        weaker = torch.where(logits < 0, logits * self.penalty, logits / self.penalty)
        return torch.where(seen, weaker, logits)


class NGrams:
    """Which tokens would complete an n-gram that a text already holds; O(1) per token added."""

    def __init__(self, size: int) -> None:
        self.size, self.length = size, 0
        self.last: tuple[int, ...] = ()  # up to size - 1 tokens
        self.followers: dict[tuple[int, ...], set[int]] = {}

    def add(self, token: int) -> None:
        if len(self.last) == self.size - 1:
            self.followers.setdefault(self.last, set()).add(token)
        self.last = (*self.last, token)[1 - self.size :] if self.size > 1 else ()
        self.length += 1

    def completions(self) -> set[int]:
        return self.followers.get(self.last, set())


@dataclass
class NGramPenalty:
    """`penalty` nats off a token that would complete an n-gram of `size` which the text holds.

    inf: no n-gram comes twice. Where that would leave no token, it is lifted. Size 1 is any token
    of the text. It remembers the texts: one object for one generation, whose texts only grow.
    """

    size: int
    penalty: float
    seen: list[NGrams] = field(default_factory=list)

    def __call__(self, logits: Tensor, texts: Texts) -> Tensor:
        self.seen = self.seen or [NGrams(self.size) for _ in texts]
        lowered = logits.clone()
        for row, text, ngrams in zip(lowered, texts, self.seen):
            for token in text[ngrams.length :]:
                ngrams.add(token)
            row[list(ngrams.completions())] -= self.penalty
        possible = lowered.isfinite().any(-1, keepdim=True)
        return torch.where(possible, lowered, logits)


@dataclass
class Temperature:
    """z / temperature: below 1 the likely tokens become likelier."""

    temperature: float

    def __call__(self, logits: Tensor, texts: Texts) -> Tensor:
        return (logits - logits.amax(-1, keepdim=True)) / self.temperature  # the largest stays 0


@dataclass
class TopK:
    """Only the k most likely tokens (Fan et al. 2018); all, if k exceeds the vocabulary."""

    k: int

    def __call__(self, logits: Tensor, texts: Texts) -> Tensor:
        if self.k >= logits.shape[-1]:
            return logits
        top, ids = logits.topk(self.k)
        return torch.full_like(logits, -math.inf).scatter(1, ids, top)


@dataclass
class TopP:
    """Only the most likely tokens, until they together reach probability p (Holtzman et al. 2019).

    The most likely one always stays.
    """

    p: float

    def __call__(self, logits: Tensor, texts: Texts) -> Tensor:
        top, ids = logits.topk(possible(logits))
        p = top.softmax(-1)
        top[p.cumsum(-1) - p >= self.p] = -math.inf
        return torch.full_like(logits, -math.inf).scatter(1, ids, top)


@dataclass
class MinP:
    """Only tokens at least p times as probable as the most likely one (Nguyen et al. 2024)."""

    p: float

    def __call__(self, logits: Tensor, texts: Texts) -> Tensor:
        least = logits.amax(-1, keepdim=True) + math.log(self.p)
        return logits.masked_fill(logits < least, -math.inf)


def possible(logits: Tensor) -> int:
    """How many tokens can be drawn, in the row that has most."""
    return int(logits.isfinite().sum(-1).max())
