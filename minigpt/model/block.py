"""One block of a transformer, which may forget what it computed.

B batch, T sequence, D model.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minigpt.model.cache import LayerCache
from minigpt.model.dropout import Dropout
from minigpt.model.rmsnorm import RMSNorm
from minigpt.model.rope import RopeTable


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); x (B, T, D)."""

    activation_checkpointing = False  # True: the backward pass computes it again

    def __init__(
        self, attention: nn.Module, mlp: nn.Module, d_model: int, dropout: float, norm_eps: float
    ) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(d_model, norm_eps)
        self.attention = attention
        self.mlp_norm = RMSNorm(d_model, norm_eps)
        self.mlp = mlp
        self.attention_dropout, self.mlp_dropout = Dropout(dropout), Dropout(dropout)

    def __call__(self, *arguments: Any) -> Any:
        """`forward`, kept or computed again: whoever calls it, in whatever order."""
        cached = isinstance(arguments[-1], LayerCache)  # which to fill twice would be wrong
        if self.activation_checkpointing and torch.is_grad_enabled() and not cached:
            return checkpoint(super().__call__, *arguments, use_reentrant=False)
        return super().__call__(*arguments)

    def forward(
        self, x: Tensor, rope: RopeTable, mask: Tensor | None, cache: LayerCache | None
    ) -> Tensor:
        x = x + self.attention_dropout(self.attention(self.attention_norm(x), rope, mask, cache))
        return x + self.mlp_dropout(self.mlp(self.mlp_norm(x)))
