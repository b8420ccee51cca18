"""One token at a time on a CPU: `Transformer.next_logits` with its weights laid out for few rows.

A product of few rows is bound by how fast it reads its weight. oneDNN's blocked layout is read
twice as fast as a plain one: 16 GB/s instead of 8 (one Zen 5 core, fp32 and bf16). q, k and v
become one wide matrix, and so do gate and up. The copies are made once, when a text begins. They
take as much memory as the weights. experiments/speed/README.md has what else was tried.
tests/model/test_decode.py compares it with `next_logits`.

B texts, D model, H query heads, G key/value heads, K head size, S keys seen, V vocabulary.
"""

from collections.abc import Callable, Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from minigpt.model.attention import Attention
from minigpt.model.cache import KVCache, LayerCache
from minigpt.model.rmsnorm import RMSNorm
from minigpt.model.rope import RopeTable, rope_table, rotate
from minigpt.model.swiglu import SwiGLU
from minigpt.model.transformer import Transformer, TransformerBlock


def decoder(
    model: Transformer, batch_size: int, length: int
) -> Callable[[Tensor, KVCache], Tensor]:
    """What continues B texts by a token each: tokens (B, 1) and their cache -> logits (B, V).

    length: how long a text may become, at most max_seq_len.

    It is `model.next_logits` itself on other devices, and for other classes of model, attention and
    mlp. The weights must not change while it is in use. Call it without gradients.
    """
    plain = type(model) is Transformer and all(
        type(block.attention) is Attention and type(block.mlp) is SwiGLU for block in model.blocks
    )
    if plain and _has_fast_layout(model.embed.weight):
        return Decoder(model, batch_size, length)
    return model.next_logits


def _has_fast_layout(weight: Tensor) -> bool:
    """Whether oneDNN has its layout for the weight here, be the products native or not."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return weight.dtype == torch.float32


def blocked(rows: int, *weights: Tensor) -> Callable[[Tensor], Tensor]:
    """x -> x W^T for the stacked weights (out, in), in oneDNN's layout for so many rows of x."""
    stacked = torch.cat(weights) if len(weights) > 1 else weights[0]
    layout = torch.ops.mkldnn._reorder_linear_weight(stacked, rows)
    linear = torch.ops.mkldnn._linear_pointwise.default
    return lambda x: linear(x, layout, None, "none", [], "")


def norm(part: RMSNorm, x: Tensor) -> Tensor:
    """RMSNorm that does not ask for gradients and autocast: that takes as long as one row."""
    return F.rms_norm(x, part.gain.shape, part.gain, part.eps)


class Decoder:
    """The fast path of `decoder`."""

    def __init__(self, model: Transformer, batch_size: int, length: int) -> None:
        self.model = model
        device = model.embed.weight.device
        self.rope = rope_table(0, length, model.head_size, model.rope_theta, device)
        blocks = cast(Iterable[TransformerBlock], model.blocks)
        self.blocks = [DecoderBlock(block, batch_size) for block in blocks]
        self.head = blocked(batch_size, model.head_weight)

    def __call__(self, tokens: Tensor, cache: KVCache) -> Tensor:
        cos, sin = (table[cache.length] for table in self.rope)  # (1, K/2)
        x = self.model.embedded(tokens, None, cache)[:, 0]  # (B, D)
        for block, layer in zip(self.blocks, cache.layers, strict=True):
            x = block(x, (cos, sin), layer)
        return self.head(norm(self.model.final_norm, x))


class DecoderBlock:
    """A TransformerBlock for one new token of each text."""

    def __init__(self, block: TransformerBlock, rows: int) -> None:
        self.block = block
        attention, mlp = cast(Attention, block.attention), cast(SwiGLU, block.mlp)
        self.attention = attention
        self.qkv = blocked(rows, attention.q.weight, attention.k.weight, attention.v.weight)
        self.o = blocked(rows, attention.o.weight)
        self.gate_up = blocked(rows, mlp.gate.weight, mlp.up.weight)
        self.down = blocked(rows, mlp.down.weight)

    def __call__(self, x: Tensor, rope: RopeTable, cache: LayerCache) -> Tensor:
        x = x + self.o(self.attend(self.qkv(norm(self.block.attention_norm, x)), rope, cache))
        gate, up = self.gate_up(norm(self.block.mlp_norm, x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)

    def attend(self, qkv: Tensor, rope: RopeTable, cache: LayerCache) -> Tensor:
        """(B, (H + 2 G) K) -> (B, H K)."""
        part = self.attention
        n_queries, n_keys = part.n_heads, part.n_kv_heads
        heads = qkv.unflatten(-1, (-1, part.head_size))  # (B, H + 2 G, K)
        qk, v = heads.split((n_queries + n_keys, n_keys), dim=1)
        if part.q_norm is not None and part.k_norm is not None:
            q, k = qk.split((n_queries, n_keys), dim=1)
            qk = torch.cat((part.q_norm(q), part.k_norm(k)), dim=1)
        q, k = rotate(qk, rope).split((n_queries, n_keys), dim=1)
        keys, values = cache.append(k.unsqueeze(2), v.unsqueeze(2))  # (B, G, S, K)
        grouped = q.unflatten(1, (n_keys, -1))  # (B, G, H / G, K): heads as if positions
        return F.scaled_dot_product_attention(grouped, keys, values).flatten(1)
