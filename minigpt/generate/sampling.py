"""Text from a model: pure functions from logits to a choice, and the loop that feeds choices back
through the cache.

B samples, V vocabulary, K candidates.
"""

import codecs
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minigpt.errors import ConfigError, NumericsError
from minigpt.model.cpu.decode import decoder
from minigpt.model.transformer import Transformer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Raises ConfigError, naming every problem, for values out of
    range.

    temperature: divides the logits; 0 takes the most likely token.
    top_k: only the k most likely tokens, all if k exceeds the vocabulary; None: off.
    top_p: only the most likely tokens that together reach this probability (Holtzman et al. 2019);
        None: off.
    ngram_size, ngram_penalty: a token that would complete an n-gram of this size that the text
        (prompt included) already holds loses `ngram_penalty` nats, before the temperature acts; inf
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
        rules = {  # comparisons with nan are False, so nan is out of every range
            "max_new_tokens": (self.max_new_tokens >= 1, "at least 1"),
            "temperature": (
                0 <= self.temperature < math.inf,
                "0 for the most likely token, or a positive number",
            ),
            "top_k": (self.top_k is None or self.top_k >= 1, "at least 1, or null for all tokens"),
            "top_p": (self.top_p is None or 0 < self.top_p <= 1, "above 0 and at most 1, or null"),
            "ngram_size": (
                self.ngram_size is None or self.ngram_size >= 1,
                "at least 1, or null for no penalty",
            ),
            "ngram_penalty": (self.ngram_penalty >= 0, "0 or more nats; inf forbids repeats"),
            "num_samples": (self.num_samples >= 1, "at least 1"),
        }
        problems = [
            f"out of range: {key}={getattr(self, key)} ({what})"
            for key, (ok, what) in rules.items()
            if not ok
        ]
        if problems:
            raise ConfigError(*problems)


class NGrams:
    """Which tokens would complete an n-gram that a text already holds; O(1) for each token
    added.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.last: tuple[int, ...] = ()  # up to size - 1 tokens
        self.followers: dict[tuple[int, ...], set[int]] = {}

    def add(self, token: int) -> None:
        if len(self.last) == self.size - 1:
            self.followers.setdefault(self.last, set()).add(token)
        self.last = (*self.last, token)[-(self.size - 1) :] if self.size > 1 else ()

    def completions(self) -> set[int]:
        return self.followers.get(self.last, set())


def penalise(logits: Tensor, tokens: set[int], penalty: float) -> Tensor:
    """`penalty` nats off the given tokens of logits (V,). A ban that would leave nothing is
    lifted.
    """
    if not tokens or penalty == 0:
        return logits
    lowered = logits.clone()
    lowered[torch.tensor(sorted(tokens), device=logits.device)] -= penalty
    return lowered if lowered.isfinite().any() else logits


def candidates(
    logits: Tensor, temperature: float, top_k: int | None, top_p: float | None
) -> tuple[Tensor, Tensor]:
    """Probabilities and ids (B, K) of the tokens to draw from, for logits (B, V); probabilities
    need not sum to 1.

    The temperature acts first, then top-k, then top-p on what is left, renormalised.
    """
    vocab_size = logits.shape[-1]
    k = vocab_size if top_k is None else min(top_k, vocab_size)
    if k < vocab_size or top_p is not None:
        logits, ids = logits.topk(k)  # most likely first
    else:
        ids = torch.arange(vocab_size, device=logits.device).expand_as(logits)
    # so that neither a tiny temperature nor a long sum loses anything
    logits = logits.cpu().double()
    p = ((logits - logits.amax(-1, keepdim=True)) / temperature).softmax(-1)
    if top_p is not None:
        # drop those before which top_p was reached already; the first always stays
        p = p * (p.cumsum(-1) - p < top_p)
    return p, ids.cpu()


def choose(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> list[int]:
    """One token for each row of logits (B, V), drawn on the CPU from `generator` (greedy choices
    draw nothing).

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
    """Continue a prompt of at least one token; yields the next token of each of the num_samples
    texts, step by step.

    The prompt is read in one pass, shared by all samples; every further token costs one position. A
    text that has produced `stop` is finished and yields `stop` from then on; when all are, the
    iteration ends.

    The model sees at most max_seq_len tokens. A longer prompt loses its beginning. When the window
    is full, its newer half is read anew and becomes the context of what follows: positions stay
    within what was trained, a token sees between max_seq_len / 2 and max_seq_len of those before
    it, and reading costs two positions a token on average.

    Computes in the dtype and on the device of the weights, in evaluation mode (restored at the
    end).
    """
    window, n = model.max_seq_len, sampling.num_samples
    if len(prompt) > window:
        log.warning("the prompt has %d tokens: the model sees the last %d", len(prompt), window)
    texts = [list(prompt) for _ in range(n)]
    ngrams = (
        [NGrams(sampling.ngram_size) for _ in range(n)] if sampling.ngram_size is not None else []
    )
    for seen in ngrams:
        for token in prompt:
            seen.add(token)
    finished = [False] * n
    training, device = model.training, model.embed.weight.device
    model.eval()
    try:
        # a window may be far longer than a text
        room = min(window, len(prompt) + sampling.max_new_tokens)
        cache = model.new_cache(length=room)
        logits = model.next_logits(torch.tensor([prompt[-window:]], device=device), cache).expand(
            n, -1
        )
        cache = cache.repeat(n)
        decode = decoder(model, n, room)
        for step in range(sampling.max_new_tokens):
            if step:
                new = 1
                if cache.length == window:
                    cache.clear()
                    new = max(1, window // 2)
                tokens_in = torch.tensor([text[-new:] for text in texts], device=device)
                logits = (
                    decode(tokens_in, cache) if new == 1 else model.next_logits(tokens_in, cache)
                )
            if ngrams:
                rows = [
                    penalise(x, seen.completions(), sampling.ngram_penalty)
                    for x, seen in zip(logits, ngrams)
                ]
                logits = torch.stack(rows)
            tokens = choose(logits, sampling, generator)
            for i, token in enumerate(tokens):
                if finished[i] and stop is not None:
                    tokens[i] = token = stop
                texts[i].append(token)
                if ngrams:
                    ngrams[i].add(token)
                finished[i] = finished[i] or token == stop
            yield tokens
            if all(finished):
                return
    finally:
        model.train(training)


def encode_prompt(tokenizer: Any, prompt: str) -> list[int]:
    """The ids of a prompt; an empty one is the start of a text, or id 0 where a tokenizer has no
    end of text.
    """
    return tokenizer.encode(prompt) or [tokenizer.end_of_text or 0]


def sample_text(
    model: Transformer, tokenizer: Any, prompt: str, sampling: Sampling, generator: torch.Generator
) -> list[str]:
    """num_samples texts, prompt included, each up to the end that the model gives it or to
    max_new_tokens.
    """
    ids = encode_prompt(tokenizer, prompt)
    steps = list(generate(model, ids, sampling, generator, stop=tokenizer.end_of_text))
    return [
        tokenizer.decode([*ids, *(tokens[i] for tokens in steps)])
        for i in range(sampling.num_samples)
    ]


class TextStream:
    """Text from bytes as they come: a character appears when its last byte has, broken bytes become
    U+FFFD.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, content: bytes) -> str:
        return self._decoder.decode(content)

    def end(self) -> str:
        """What an incomplete last character leaves."""
        return self._decoder.decode(b"", final=True)


# Characters that reorder what stands around them: text could look like something else.
