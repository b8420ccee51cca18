"""A decoder-only transformer in the shape of Llama: RMSNorm, RoPE, shared key/value heads, SwiGLU.

B batch, T sequence, D model, V vocabulary, S keys seen (T, or more with a cache).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigpt.model.attention import Attention, read_blocks
from minigpt.model.block import TransformerBlock
from minigpt.model.cache import KVCache, LayerCache
from minigpt.model.dropout import number
from minigpt.model.loss import cross_entropy
from minigpt.model.mask import attention_mask, document_blocks
from minigpt.model.rmsnorm import RMSNorm
from minigpt.model.rope import rope_table
from minigpt.model.sizes import check_dropout, check_positive, check_sizes
from minigpt.model.swiglu import SwiGLU
from minigpt.roles import Role

INIT_STD = 0.02  # GPT-2
BASE_WIDTH = 128  # of model=tiny: there parametrization=mup is the standard one
RESIDUAL = ("o", "down")  # the matrices that write into the residual stream


class Transformer(nn.Module):
    """Tokens to logits, or to the summed loss of given targets.

    vocab_size: V, given by the tokenizer.
    n_layers, d_model, n_heads: blocks, width D, query heads.
    head_size: of queries, keys and values; None is d_model / n_heads. It must be even (RoPE).
    n_kv_heads: key/value heads, any divisor of n_heads. 1 is multi-query attention, n_heads
        multi-head attention.
    d_ff: width of the feed-forward layer; None is 8/3 d_model rounded up to a multiple of 32, which
        gives SwiGLU's three matrices about the size of a classic MLP's two.
    max_seq_len: longest sequence accepted, and the context that generation keeps.
    dropout: on attention weights and on what each layer adds to the residual stream (dropout.py).
    tie_embeddings: the head is the embedding matrix.
    qk_norm: RMSNorm on each head of queries and keys.
    parametrization: standard, or mup, under which the best learning rate hardly depends on d_model
        (muP, arXiv 2203.03466). The initial standard deviation of hidden matrices falls as
        1/sqrt(d_model), that of the head as 1/d_model. Optimizers scale their lr by
        `Role.width_multiplier` = d_model / 128. Widen by more heads of equal size.
    embedding, attention, mlp: other classes for these parts, called with the arguments of
        nn.Embedding (V, D), of Attention and of SwiGLU. An embedding with an attribute `context`
        also gets so many tokens from before the given ones, and the documents (NgramEmbedding).
        An attention with a method `connect(layer, attentions)` learns which of them all it is.

    The parameters are not drawn here: call `init_weights`, or load a state.
    Raises ValueError for sizes that do not fit each other.
    """

    def __init__(
        self,
        vocab_size: int,
        n_layers: int,
        d_model: int,
        n_heads: int,
        n_kv_heads: int = 1,
        d_ff: int | None = None,
        max_seq_len: int = 512,
        dropout: float = 0.0,
        tie_embeddings: bool = False,
        qk_norm: bool = False,
        rope_theta: float = 10000.0,
        norm_eps: float = 1e-5,
        head_size: int | None = None,
        parametrization: Literal["standard", "mup"] = "standard",
        embedding: Callable[..., nn.Embedding] | None = None,
        attention: Callable[..., nn.Module] | None = None,
        mlp: Callable[..., nn.Module] | None = None,
    ) -> None:
        super().__init__()
        d_ff = math.ceil(8 * d_model / 3 / 32) * 32 if d_ff is None else d_ff
        others = {"n_layers": n_layers, "d_ff": d_ff, "max_seq_len": max_seq_len}
        check_sizes(n_heads, n_kv_heads, d_model, head_size, vocab_size=vocab_size, **others)
        check_dropout(dropout)
        check_positive(rope_theta=rope_theta, norm_eps=norm_eps)
        if parametrization not in ("standard", "mup"):
            raise ValueError(f"parametrization={parametrization!r} is none of standard, mup")
        if parametrization == "mup" and tie_embeddings:
            raise ValueError(
                "tie_embeddings=true with parametrization=mup: embedding and head need different "
                "scales (untie them)"
            )

        self.width_multiplier = d_model / BASE_WIDTH if parametrization == "mup" else 1.0
        self.max_seq_len, self.rope_theta = max_seq_len, rope_theta
        self.n_heads, self.n_kv_heads = n_heads, n_kv_heads
        self.head_size = head_size or d_model // n_heads
        options: dict[str, Any] = {"dropout": dropout, "qk_norm": qk_norm, "norm_eps": norm_eps}
        if head_size is not None:  # an attention of one's own need not know it
            options["head_size"] = head_size
        make_attention = partial(attention or Attention, d_model, n_heads, n_kv_heads, **options)
        make_mlp = partial(mlp or SwiGLU, d_model, d_ff)
        # nn.Embedding's own draw of a weight on the meta device would import torch's compiler
        plain = lambda v, d: nn.Embedding(v, d, _weight=torch.empty(v, d))
        # torch's layers draw values, which init_weights replaces: leave no trace of that
        with torch.random.fork_rng(devices=[]):
            self.embed = (embedding or plain)(vocab_size, d_model)
            self.blocks = nn.ModuleList(
                TransformerBlock(make_attention(), make_mlp(), d_model, dropout, norm_eps)
                for _ in range(n_layers)
            )
            self.final_norm = RMSNorm(d_model, norm_eps)
            self.head = None if tie_embeddings else nn.Linear(d_model, vocab_size, bias=False)
        number(self)
        attentions: list[Any] = [block.attention for block in self.blocks]
        for layer, part in enumerate(attentions):
            if hasattr(part, "connect"):
                part.connect(layer, attentions)

    # An H100 with PyTorch 2.11 stopped. It passed once in bf16 since compiled code was mended for
    # that version; fp32 was not tried again: experiments/gpu/.
    documents_in_blocks = False

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        documents: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Logits (B, T, V) of the tokens (B, T) int64.

        targets: (B, T); the result is then the sum of nats over targets != -100 (fp32).
        documents: (B, T) int, which document each token belongs to; attention stays inside it.
        cache: the tokens continue those stored in it, and are added to it.
        """
        x = self.hidden(tokens, documents, cache)
        return self.logits(x) if targets is None else self.loss(x, targets)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., V) of what the head reads, (..., D)."""
        return F.linear(hidden, self.head_weight)

    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Sum of nats over targets (B, T) != -100, fp32; the head reads hidden (B, T, D)."""
        return cross_entropy(hidden.flatten(0, 1), self.head_weight, targets.flatten())

    def hidden(
        self, tokens: Tensor, documents: Tensor | None = None, cache: KVCache | None = None
    ) -> Tensor:
        """What the head reads, (B, T, D); arguments as in `forward`."""
        start, length = (0 if cache is None else cache.length), tokens.shape[1]
        if start + length > self.max_seq_len:
            raise ValueError(
                f"{start + length} tokens are longer than max_seq_len={self.max_seq_len}"
            )
        rope = rope_table(start, length, self.head_size, self.rope_theta, tokens.device)
        mask = (
            document_blocks(documents)
            if documents is not None and self.attends_in_blocks(tokens)
            else attention_mask(start, length, documents, tokens.device)
        )
        x = self.embedded(tokens, documents, cache)  # (B, T, D)
        for i, block in enumerate(self.blocks):
            x = block(x, rope, mask, None if cache is None else cache.layers[i])
        return self.final_norm(x)

    @property
    def activation_checkpointing(self) -> bool:
        """Whether the backward pass computes each block again. ValueError if one never does."""
        return any(getattr(block, "activation_checkpointing", False) for block in self.blocks)

    @activation_checkpointing.setter
    def activation_checkpointing(self, again: bool) -> None:
        kept = [type(b).__name__ for b in self.blocks if not isinstance(b, TransformerBlock)]
        if again and kept:
            raise ValueError(
                f"activation_checkpointing=true: {kept[0]} is no TransformerBlock and would keep "
                "all (derive it from that class, or train.activation_checkpointing=false)"
            )
        for module in self.modules():
            if isinstance(module, TransformerBlock):
                module.activation_checkpointing = again

    def attends_in_blocks(self, tokens: Tensor) -> bool:
        """Whether documents are kept apart by flex_attention, which only compiled is fast."""
        compiled = self.documents_in_blocks and tokens.is_cuda and torch.compiler.is_compiling()
        return compiled and read_blocks(self.blocks)

    def embedded(self, tokens: Tensor, documents: Tensor | None, cache: KVCache | None) -> Tensor:
        """What the first block reads, (B, T, D); arguments as in `forward`."""
        if not (context := getattr(self.embed, "context", 0)):
            return self.embed(tokens)
        before = None if cache is None else cache.tokens_before(tokens, context)
        return self.embed(tokens, before, documents)

    def next_logits(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Logits (B, V) of what follows the tokens (B, T), which are added to `cache`."""
        return self.logits(self.hidden(tokens, cache=cache)[..., -1, :])

    @property
    def head_weight(self) -> Tensor:
        """(V, D); the embedding matrix itself where tied."""
        return self.embed.weight if self.head is None else self.head.weight

    def new_cache(self, batch_size: int = 1, length: int | None = None) -> KVCache:
        """An empty cache for `length` tokens, by default max_seq_len, in the weights' dtype."""
        shape = (batch_size, self.n_kv_heads, length or self.max_seq_len, self.head_size)
        empty = lambda: self.embed.weight.new_zeros(shape)
        return KVCache([LayerCache(empty(), empty()) for _ in self.blocks])

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """GPT-2's initialisation: matrices from N(0, 0.02^2), gains 1, biases 0.

        Matrices that write into the residual stream (o, down) are divided by sqrt(2 n_layers). With
        w = d_model / 128, mup divides the standard deviation of hidden matrices by sqrt(w) and that
        of the head by w. Drawn on the CPU in the order of `named_parameters`, so the weights do not
        depend on device or dtype.
        """
        roles, width = self.roles(), self.width_multiplier
        narrower = {"hidden": math.sqrt(width), "head": width}
        for name, parameter in self.named_parameters():
            role, kind = roles[name].name, roles[name].kind
            if role == "scalar":
                parameter.fill_(1.0 if kind == "gain" else 0.0)
                continue
            std = INIT_STD / math.sqrt(2 * len(self.blocks)) if kind in RESIDUAL else INIT_STD
            std /= narrower.get(role, 1.0)
            parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=generator))

    def roles(self) -> dict[str, Role]:
        """The role of every parameter, by its name in `named_parameters`.

        Inside blocks, a matrix is hidden and its kind is the name of its module
        (`blocks.0.attention.q.weight` -> q). A tied head has the role embed. A module may give its
        own parameters other roles: `parameter_roles = {"scale": "scalar"}`.
        """
        own = {
            f"{path}.{name}".lstrip("."): role
            for path, module in self.named_modules()
            for name, role in getattr(module, "parameter_roles", {}).items()
        }
        heads = {
            f"{path}.{kind}": n_heads
            for path, module in self.named_modules()
            for kind, n_heads in getattr(module, "heads", {}).items()
        }
        roles = {}
        for name, parameter in self.named_parameters():
            path, _, last = name.rpartition(".")
            if name in own:
                wide = own[name] in ("hidden", "head")
                multiplier = self.width_multiplier if wide else 1.0
                roles[name] = Role(own[name], last, width_multiplier=multiplier)
            elif parameter.ndim < 2:
                roles[name] = Role("scalar", last)
            elif path == "embed":
                roles[name] = Role("embed", "embed" if last == "weight" else last)
            elif path == "head":
                roles[name] = Role("head", "head", width_multiplier=self.width_multiplier)
            else:
                kind = path.rpartition(".")[2] if last == "weight" else last
                roles[name] = Role("hidden", kind, heads.get(path, 1), self.width_multiplier)
        return roles

    def flops_per_token(self, seq_len: int) -> int:
        """FLOPs of forward and backward pass for one token of a sequence (PaLM, appendix B).

        6 per hidden weight, each time that it is used: 2 forward, 2 for the gradient of what it
        reads, 2 for its own. A frozen weight has no gradient of its own: 4; and 2 where nothing up
        to its block is trained. The embedding's lookup is none, the head is one, tied or not.
        Queries by keys and weights by values add 12 H K seq_len a block (4 forward), from which
        the causal half is not taken off. An attention or mlp that computes otherwise tells its own
        by this method.
        """
        roles = self.roles()
        hidden = {p for name, p in self.named_parameters() if roles[name].name == "hidden"}
        trained = lambda part: any(p.requires_grad for p in part.parameters())

        def products(part: nn.Module) -> int:
            every = part.named_parameters(remove_duplicate=False)
            return sum((kept + 2 * p.requires_grad) * p.numel() for _, p in every if p in hidden)

        total, kept = 0, 4 if trained(self.embed) else 2  # of a weight, beside its own gradient
        block: Any
        for block in self.blocks:
            kept = 4 if trained(block) else kept
            pairs = (12 if kept == 4 else 4) * self.n_heads * self.head_size * seq_len
            total += products(block) + pairs
            for part, assumed in ((block.attention, pairs), (block.mlp, 0)):
                if tells := getattr(part, "flops_per_token", None):
                    total += tells(seq_len) - products(part) - assumed
        head, kept = self.head_weight, 4 if trained(self.final_norm) else kept
        return total + (kept + 2 * head.requires_grad) * head.numel()
