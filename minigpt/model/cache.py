"""Keys and values of the tokens seen so far: one more token costs one pass over one token.

B batch, G key/value heads, K head size, T tokens given.
"""

from typing import Any

import torch
from torch import Tensor

NO_TOKEN = -1  # stands for a token before the beginning


class LayerCache:
    """Keys and values of one block in preallocated memory (B, G, capacity, K).

    state: (B, ...), what a recurrent block keeps instead; None before the first token. Such a block
        adds its tokens to `length` itself.
    """

    def __init__(self, keys: Tensor, values: Tensor, length: int = 0) -> None:
        self.keys, self.values, self.length = keys, values, length
        self.state: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Copy (B, G, T, K) behind what is there; return views (B, G, length, K) of all."""
        end = self.length + keys.shape[2]
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


class KVCache:
    """One LayerCache per block; `model.new_cache(batch_size)` makes one that fits the model."""

    def __init__(self, layers: list[LayerCache], last_tokens: Tensor | None = None) -> None:
        self.layers, self.last_tokens = layers, last_tokens

    @property
    def length(self) -> int:
        """How many tokens are stored, which is also the position of the next one."""
        return self.layers[0].length

    def tokens_before(self, tokens: Tensor, n: int) -> Tensor:
        """The n tokens (B, n) stored last, NO_TOKEN where there were fewer.

        Then remembers `tokens` (B, T) as those that follow.
        """
        before = self.last_tokens
        if before is None:
            before = tokens.new_full((len(tokens), n), NO_TOKEN)
        self.last_tokens = torch.cat([before, tokens], dim=1)[:, -n:]
        return before

    def clear(self) -> None:
        """Forget all tokens, keep the memory."""
        self.last_tokens = None
        for layer in self.layers:
            layer.length, layer.state = 0, None

    def repeat(self, n: int) -> "KVCache":
        """A copy for n sequences that share the one stored here (one prompt, n continuations)."""

        def times(x: Tensor | None) -> Any:
            return None if x is None else x.repeat(n, *[1] * (x.ndim - 1))

        layers = [LayerCache(times(x.keys), times(x.values), x.length) for x in self.layers]
        for copy, layer in zip(layers, self.layers):
            copy.state = times(layer.state)
        return KVCache(layers, times(self.last_tokens))
