"""Text from a model: from logits to a choice, and back through the cache.

B samples, V vocabulary, K candidates.
"""

import codecs
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from minigpt.errors import ConfigError, NumericsError
from minigpt.model.cpu.decode import decoder
from minigpt.model.transformer import Transformer

log = logging.getLogger(__name__)

# Text from bytes as they come: a character appears when its last byte has.
TextStream = partial(codecs.getincrementaldecoder("utf-8"), errors="replace")


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Raises ConfigError that names every value out of range.

    temperature: divides the logits; 0 takes the most likely token.
    top_k: only the k most likely tokens, all if k exceeds the vocabulary; None: off.
    top_p: only the most likely tokens that together reach this probability (Holtzman et al. 2019);
        None: off.
    ngram_size, ngram_penalty: a token loses `ngram_penalty` nats, before the temperature acts, if
        it would complete an n-gram of this size that the text (prompt included) holds already. inf
        forbids it. Size 1 is any token seen before.
    """

    max_new_tokens: int = 200
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    ngram_size: int | None = None
    ngram_penalty: float = 1.0
    num_samples: int = 1

    def __post_init__(self) -> None:
        within = {  # a comparison with nan is False, so nan is out of every range
            "max_new_tokens": (self.max_new_tokens >= 1, "at least 1"),
            "temperature": (0 <= self.temperature < math.inf, "0 or a positive number"),
            "top_k": (self.top_k is None or self.top_k >= 1, "at least 1, or null"),
            "top_p": (self.top_p is None or 0 < self.top_p <= 1, "above 0, at most 1, or null"),
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


class NGrams:
    """Which tokens would complete an n-gram that a text already holds; O(1) per token added."""

    def __init__(self, size: int, text: Sequence[int] = ()) -> None:
        self.size = size
        self.last: tuple[int, ...] = ()  # up to size - 1 tokens
        self.followers: dict[tuple[int, ...], set[int]] = {}
        for token in text:
            self.add(token)

    def add(self, token: int) -> None:
        if len(self.last) == self.size - 1:
            self.followers.setdefault(self.last, set()).add(token)
        self.last = (*self.last, token)[1 - self.size :] if self.size > 1 else ()

    def completions(self) -> set[int]:
        return self.followers.get(self.last, set())


def penalise(logits: Tensor, tokens: set[int], penalty: float) -> Tensor:
    """`penalty` nats off these tokens of logits (V,). A ban that leaves nothing is lifted."""
    if not tokens or penalty == 0:
        return logits
    lowered = logits.clone()
    lowered[torch.tensor(sorted(tokens), device=logits.device)] -= penalty
    return lowered if lowered.isfinite().any() else logits


def candidates(
    logits: Tensor, temperature: float, top_k: int | None, top_p: float | None
) -> tuple[Tensor, Tensor]:
    """Probabilities and ids (B, K) of the tokens to draw from, for logits (B, V).

    The temperature acts first, then top-k, then top-p on what is left, renormalised. Probabilities
    need not sum to 1.
    """
    vocab_size = logits.shape[-1]
    k = vocab_size if top_k is None else min(top_k, vocab_size)
    if k < vocab_size or top_p is not None:
        logits, ids = logits.topk(k)  # most likely first
    else:
        ids = torch.arange(vocab_size, device=logits.device).expand_as(logits)
    logits = logits.cpu().double()  # exact for a tiny temperature and for a long sum
    p = ((logits - logits.amax(-1, keepdim=True)) / temperature).softmax(-1)
    if top_p is not None:
        p = p * (p.cumsum(-1) - p < top_p)  # until top_p is reached; the first always stays
    return p, ids.cpu()


def choose(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> list[int]:
    """One token for each row of logits (B, V), drawn on the CPU; greedy choices draw nothing.

    Raises NumericsError for logits of a broken model.
    """
    if not logits.amax(-1).isfinite().all():
        raise NumericsError(
            "the model's logits are not numbers (the run diverged; use another checkpoint)"
        )
    if sampling.temperature == 0:
        return logits.argmax(-1).tolist()
    p, ids = candidates(logits, sampling.temperature, sampling.top_k, sampling.top_p)
    return ids.gather(1, torch.multinomial(p, 1, generator=generator))[:, 0].tolist()


@torch.inference_mode()
def generate(
    model: Transformer,
    prompt: Sequence[int],
    sampling: Sampling,
    generator: torch.Generator,
    stop: int | None = None,
) -> Iterator[list[int]]:
    """Continue a prompt of at least one token; each step yields a token for every sample.

    The prompt is read in one pass, shared by all samples. Every further token costs one position. A
    text that has produced `stop` is finished and yields `stop` from then on. When all are, the
    iteration ends.

    The model sees at most max_seq_len tokens. A longer prompt loses its beginning. When the window
    is full, its newer half is read anew and becomes the context of what follows. So positions stay
    within what was trained, a token sees the max_seq_len / 2 to max_seq_len tokens before it, and
    reading costs two positions a token on average.

    Computes in the dtype and on the device of the weights, in evaluation mode (restored at the
    end).
    """
    window, n, size = model.max_seq_len, sampling.num_samples, sampling.ngram_size
    if len(prompt) > window:
        log.warning("the prompt has %d tokens: the model sees the last %d", len(prompt), window)
    texts = [list(prompt) for _ in range(n)]
    ngrams = [] if size is None else [NGrams(size, prompt) for _ in range(n)]
    finished = [False] * n
    training, device = model.training, model.embed.weight.device
    model.eval()
    try:
        room = min(window, len(prompt) + sampling.max_new_tokens)  # a window may be far longer
        cache = model.new_cache(length=room)
        logits = model.next_logits(torch.tensor([prompt[-window:]], device=device), cache)
        logits, cache = logits.expand(n, -1), cache.repeat(n)
        decode = decoder(model, n, room)
        for step in range(sampling.max_new_tokens):
            if step:
                new = 1
                if cache.length == window:
                    cache.clear()
                    new = max(1, window // 2)
                read = decode if new == 1 else model.next_logits
                logits = read(torch.tensor([text[-new:] for text in texts], device=device), cache)
            if ngrams:
                rows = zip(logits, ngrams)
                logits = torch.stack(
                    [
                        penalise(row, seen.completions(), sampling.ngram_penalty)
                        for row, seen in rows
                    ]
                )
            tokens = choose(logits, sampling, generator)
            for i in range(n):
                if finished[i] and stop is not None:
                    tokens[i] = stop
                texts[i].append(tokens[i])
                finished[i] = tokens[i] == stop
                if ngrams:
                    ngrams[i].add(tokens[i])
            yield tokens
            if all(finished):
                return
    finally:
        model.train(training)


def encode_prompt(tokenizer: Any, prompt: str) -> list[int]:
    """The ids of a prompt. An empty one is end_of_text, or id 0 where there is none."""
    return tokenizer.encode(prompt) or [tokenizer.end_of_text or 0]


def sample_text(
    model: Transformer, tokenizer: Any, prompt: str, sampling: Sampling, generator: torch.Generator
) -> list[str]:
    """num_samples texts, prompt included, each up to its end or to max_new_tokens."""
    ids = encode_prompt(tokenizer, prompt)
    steps = generate(model, ids, sampling, generator, stop=tokenizer.end_of_text)
    return [tokenizer.decode([*ids, *new]) for new in zip(*steps)]
