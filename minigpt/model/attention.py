"""Causal self-attention with shared key/value heads.

B batch, T sequence, D model, H query heads, G key/value heads, K head size (mostly D / H), S keys
seen (with a cache more than T).
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigpt.model.cache import LayerCache
from minigpt.model.cpu.attention import blocked_attention
from minigpt.model.dropout import Dropout
from minigpt.model.rmsnorm import RMSNorm
from minigpt.model.rope import RopeTable, rotate

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


class Attention(nn.Module):
    """Multi-head, grouped-query or multi-query attention, no biases.

    Multi-head has n_kv_heads = n_heads, multi-query 1 (Shazeer 2019), grouped-query something
    between (Ainslie et al. 2023). q, k, v and o are separate matrices, because optimizers such as
    Muon act on each matrix as a whole. With `qk_norm`, queries and keys pass an RMSNorm over each
    head, before RoPE (Qwen3). Another attention is a class with this constructor and forward.

    The kernel is used in bf16 on a CPU, and wherever probabilities are dropped, as torch's
    attention cannot drop by our seeds.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int,
        dropout: float = 0.0,
        qk_norm: bool = False,
        norm_eps: float = 1e-5,
        head_size: int | None = None,
    ) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads = n_heads, n_kv_heads
        self.head_size = head_size or d_model // n_heads
        self.dropout = Dropout(dropout)  # of the probabilities
        self.q = nn.Linear(d_model, n_heads * self.head_size, bias=False)
        self.k = nn.Linear(d_model, n_kv_heads * self.head_size, bias=False)
        self.v = nn.Linear(d_model, n_kv_heads * self.head_size, bias=False)
        self.o = nn.Linear(n_heads * self.head_size, d_model, bias=False)
        self.q_norm = RMSNorm(self.head_size, norm_eps) if qk_norm else None
        self.k_norm = RMSNorm(self.head_size, norm_eps) if qk_norm else None
        self.heads = {"q": n_heads, "k": n_kv_heads, "v": n_kv_heads, "o": n_heads}  # for the roles

    def forward(
        self,
        x: Tensor,
        rope: RopeTable,
        mask: "Tensor | BlockMask | None" = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D).

        mask: (B or 1, 1, T, S) bool, True where a query may look; None means plainly causal. A
            BlockMask only comes to attentions that `read_blocks`.
        cache: keys and values of earlier tokens, extended by these.
        """
        q, k, v = (y.unflatten(-1, (-1, self.head_size)) for y in (self.q(x), self.k(x), self.v(x)))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, rope), rotate(k, rope)  # (B, T, H, K), (B, T, G, K)
        if mask is not None and not isinstance(mask, Tensor):
            return self.o(attention_in_blocks(q, k, v, mask).flatten(2))
        dropout = self.dropout.p if self.training and cache is None else 0.0
        if dropout or (cache is None and x.device.type == "cpu" and v.dtype == torch.bfloat16):
            seeds = self.dropout.seeds(x) if dropout else None
            y = blocked_attention(q.to(v.dtype), k.to(v.dtype), v, mask, dropout, seeds)
        else:
            y = attention_reference(q, k, v, mask, cache)
        return self.o(y.flatten(2))


def read_blocks(blocks: Iterable[Any]) -> bool:
    """Whether a mask may come as a BlockMask: all attentions are ours, and drop nothing."""
    parts = [block.attention for block in blocks]
    ours = all(type(part).forward is Attention.forward for part in parts)
    return ours and not any(part.training and part.dropout.p for part in parts)


def attention_in_blocks(q: Tensor, k: Tensor, v: Tensor, mask: "BlockMask") -> Tensor:
    """As `attention_reference`, by a kernel that torch.compile makes for this mask."""
    from torch.nn.attention.flex_attention import flex_attention

    q, k, v = (x.transpose(1, 2) for x in (q.to(v.dtype), k.to(v.dtype), v))
    y = flex_attention(q, k, v, block_mask=mask, enable_gqa=k.shape[1] != q.shape[1])
    return y.transpose(1, 2)


def attention_reference(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, cache: LayerCache | None = None
) -> Tensor:
    """softmax(q k' / sqrt(K)) v by torch: q (B, T, H, K), k and v (B, T, G, K) -> (B, T, H, K).

    cache: its keys and values come before k and v.
    """
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if cache is not None:
        k, v = cache.append(k, v)  # (B, G, S, K)
    causal = mask is None and q.shape[2] > 1  # a single query sees all keys
    shared = k.shape[1] != q.shape[1]
    y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, enable_gqa=shared)
    return y.transpose(1, 2)
