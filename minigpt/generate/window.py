"""What a model sees of texts that grow, and its cache.

B texts, V vocabulary.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from minigpt.model.cache import KVCache
from minigpt.model.cpu.decode import decoder
from minigpt.model.transformer import Transformer

log = logging.getLogger(__name__)


class Window:
    """Called with B texts, each a token longer than at the last call: logits (B, V) of the next.

    The first call reads the prompt that all share, in one pass. Every further token costs one
    position.

    The model sees at most max_seq_len tokens. A longer prompt loses its beginning. When the window
    is full, its newer half is read anew and becomes the context of what follows. So positions stay
    within what was trained, a token sees the max_seq_len / 2 to max_seq_len tokens before it, and
    reading costs two positions a token on average.

    longest: tokens that a text will have at most; a window may be far longer.
    """

    def __init__(self, model: Transformer, longest: int) -> None:
        self.model, self.size = model, model.max_seq_len
        self.room = min(self.size, longest)
        self.cache: KVCache | None = None

    def __call__(self, texts: Sequence[Sequence[int]]) -> Tensor:
        if self.cache is None:
            return self._begin(texts[0], len(texts))
        if self.cache.length < self.size:
            return self._decode(self._newest(texts, 1), self.cache)
        self.cache.clear()
        return self.model.next_logits(self._newest(texts, max(1, self.size // 2)), self.cache)

    def _begin(self, prompt: Sequence[int], n: int) -> Tensor:
        if len(prompt) > self.size:
            log.warning(
                "the prompt has %d tokens: the model sees the last %d", len(prompt), self.size
            )
        cache = self.model.new_cache(length=self.room)
        logits = self.model.next_logits(self._newest([prompt], self.size), cache)
        self.cache = cache.repeat(n)
        self._decode = decoder(self.model, n, self.room)
        return logits.expand(n, -1)

    def _newest(self, texts: Sequence[Sequence[int]], n: int) -> Tensor:
        device = self.model.embed.weight.device
        return torch.tensor([text[-n:] for text in texts], device=device)


@contextmanager
def evaluation_mode(model: Transformer) -> Iterator[None]:
    """Without dropout; the model's mode is restored at the end."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
