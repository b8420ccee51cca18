"""Text from a model: from logits to a choice, token by token.

B samples, V vocabulary.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minigpt.errors import ConfigError, NumericsError
from minigpt.generate.processors import (
    MinP,
    NGramPenalty,
    Processor,
    RepetitionPenalty,
    Temperature,
    Texts,
    TopK,
    TopP,
    possible,
)
from minigpt.generate.window import Window, evaluation_mode
from minigpt.model.transformer import Transformer


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Raises ConfigError that names every value out of range.

    temperature: 0 takes the most likely token, after the two penalties.
    num_samples: how many texts continue the same prompt.
    The others are explained in processors.py; None is off, and so is a repetition_penalty of 1.
    """

    max_new_tokens: int = 200
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    ngram_size: int | None = None
    ngram_penalty: float = 1.0
    num_samples: int = 1

    def __post_init__(self) -> None:
        within = {  # a comparison with nan is False, so nan is out of every range
            "max_new_tokens": (self.max_new_tokens >= 1, "at least 1"),
            "temperature": (0 <= self.temperature < math.inf, "0 or a positive number"),
            "top_k": (self.top_k is None or self.top_k >= 1, "at least 1, or null"),
            "top_p": (self.top_p is None or 0 < self.top_p <= 1, "above 0, at most 1, or null"),
            "min_p": (self.min_p is None or 0 < self.min_p <= 1, "above 0, at most 1, or null"),
            "repetition_penalty": (1e-3 <= self.repetition_penalty <= 1e3, "1e-3 to 1e3; 1 is off"),
            "ngram_size": (self.ngram_size is None or self.ngram_size >= 1, "at least 1, or null"),
            "ngram_penalty": (self.ngram_penalty >= 0, "0 or more nats; inf forbids repeats"),
            "num_samples": (self.num_samples >= 1, "at least 1"),
        }
        problems = [
            f"out of range: {key}={getattr(self, key)} ({expected})"
            for key, (ok, expected) in within.items()
            if not ok
        ]
        if problems:
            raise ConfigError(*problems)

    def processors(self) -> list[Processor]:
        """What acts on the logits of one generation, in this order."""
        found: list[Processor] = []
        if self.repetition_penalty != 1:
            found.append(RepetitionPenalty(self.repetition_penalty))
        if self.ngram_size is not None and self.ngram_penalty:
            found.append(NGramPenalty(self.ngram_size, self.ngram_penalty))
        if self.temperature == 0:
            return found  # the others keep the most likely token
        found.append(Temperature(self.temperature))
        if self.top_k is not None:
            found.append(TopK(self.top_k))
        if self.top_p is not None:
            found.append(TopP(self.top_p))
        if self.min_p is not None:
            found.append(MinP(self.min_p))
        return found


@dataclass(frozen=True)
class Step:
    """A token for each sample, and the model's logits (B, V) that it was chosen from."""

    tokens: list[int]
    logits: Tensor

    def logprobs(self) -> list[float]:
        """Log-probability in nats that the model itself gave each token, before any processor."""
        ids = torch.tensor(self.tokens).unsqueeze(1)
        return self.logits.cpu().double().log_softmax(-1).gather(1, ids)[:, 0].tolist()


@torch.inference_mode()
def generate(
    model: Transformer,
    prompt: Sequence[int],
    sampling: Sampling,
    generator: torch.Generator,
    stop: int | None = None,
) -> Iterator[Step]:
    """Continue a prompt of at least one token; each step has a token for every sample.

    A text that has produced `stop` is finished and gets `stop` from then on. When all are, the
    iteration ends. window.py says what the model sees of a text.

    Computes in the dtype and on the device of the weights, in evaluation mode (restored at the
    end).
    """
    texts = [list(prompt) for _ in range(sampling.num_samples)]
    finished = [False] * sampling.num_samples
    processors = sampling.processors()
    next_logits = Window(model, len(prompt) + sampling.max_new_tokens)
    with evaluation_mode(model):
        for _ in range(sampling.max_new_tokens):
            logits = next_logits(texts)
            chosen = choose(logits, texts, processors, sampling.temperature == 0, generator)
            tokens = [
                stop if done and stop is not None else token
                for token, done in zip(chosen, finished)
            ]
            finished = [token == stop for token in tokens]
            for text, token in zip(texts, tokens):
                text.append(token)
            yield Step(tokens, logits)
            if all(finished):
                return


def choose(
    logits: Tensor,
    texts: Texts,
    processors: Sequence[Processor],
    greedy: bool,
    generator: torch.Generator,
) -> list[int]:
    """One token for each row of logits (B, V), drawn on the CPU; greedy choices draw nothing.

    Raises NumericsError for logits of a broken model.
    """
    if not logits.amax(-1).isfinite().all():
        raise NumericsError(
            "the model's logits are not numbers (the run diverged; use another checkpoint)"
        )
    if greedy and not processors:
        return logits.argmax(-1).tolist()
    logits = logits.cpu().double()  # exact for a tiny temperature and for a long sum
    for process in processors:
        logits = process(logits, texts)
    return logits.argmax(-1).tolist() if greedy else draw(logits, generator)


def draw(logits: Tensor, generator: torch.Generator) -> list[int]:
    """One token for each row of logits (B, V). Random numbers are drawn for what is possible."""
    n = possible(logits)
    if n == logits.shape[-1]:
        return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0].tolist()
    top, ids = logits.topk(n)
    drawn = torch.multinomial(top.softmax(-1), 1, generator=generator)
    return ids.gather(1, drawn)[:, 0].tolist()


def encode_prompt(tokenizer: Any, prompt: str) -> list[int]:
    """The ids of a prompt. An empty one is end_of_text, or id 0 where there is none."""
    return tokenizer.encode(prompt) or [tokenizer.end_of_text or 0]


def sample_text(
    model: Transformer, tokenizer: Any, prompt: str, sampling: Sampling, generator: torch.Generator
) -> list[str]:
    """num_samples texts, prompt included, each up to its end or to max_new_tokens."""
    ids = encode_prompt(tokenizer, prompt)
    steps = generate(model, ids, sampling, generator, tokenizer.end_of_text)
    return [tokenizer.decode([*ids, *new]) for new in zip(*(step.tokens for step in steps))]
