"""Several transformers trained side by side, which predict together.

Deep ensembles (Lakshminarayanan et al. 2017, arXiv 1612.01474). Where text is scarce and read many
times, they go below what one model reaches by any size (Kim et al. 2025, arXiv 2509.14786).

M members, B batch, T sequence, D model, V vocabulary.
"""

import math
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigpt.model.cache import KVCache
from minigpt.model.dropout import number
from minigpt.model.loss import IGNORE
from minigpt.model.transformer import Transformer
from minigpt.roles import Role


class Ensemble(Transformer):
    """A transformer and `members` - 1 `others` like it that read the same batches.

    Each has its own weights and is trained on its own loss, so they err differently. Gradients are
    clipped together: those of the mean of the losses, so the threshold is looser by sqrt(members).
    In evaluation mode, and for logits, the prediction is the mean of their probabilities. Costs
    `members` times one of them in everything.

    transformer: arguments of Transformer, the same for all.
    Raises ValueError for less than two members.
    """

    def __init__(self, vocab_size: int, *, members: int = 3, **transformer: Any) -> None:
        if members < 2:
            raise ValueError(
                f"members={members} must be at least 2 (for one, model._target_ is Transformer)"
            )
        super().__init__(vocab_size, **transformer)
        self.others = nn.ModuleList(
            Transformer(vocab_size, **transformer) for _ in range(members - 1)
        )
        number(self)  # no two members drop the same

    @property
    def members(self) -> list[Transformer]:
        return [self, *self.others]  # type: ignore[list-item]  # ModuleList has no element type

    def hidden(
        self, tokens: Tensor, documents: Tensor | None = None, cache: KVCache | None = None
    ) -> Tensor:
        """What the members' heads read, (M, B, T, D)."""
        found, part, n = [], None, len(self.blocks)
        for i, member in enumerate(self.members):
            if cache is not None:
                part = KVCache(cache.layers[i * n : (i + 1) * n], cache.last_tokens)
            found.append(Transformer.hidden(member, tokens, documents, part))
        if cache is not None and part is not None:
            cache.last_tokens = part.last_tokens  # the same for each
        return torch.stack(found)

    def logits(self, hidden: Tensor) -> Tensor:
        """(M, ..., D) -> (..., V), fp32: logarithms of the mean probabilities."""
        each = (Transformer.logits(member, x) for member, x in zip(self.members, hidden))
        log_p = (logits.float().log_softmax(-1) for logits in each)
        return reduce(torch.logaddexp, log_p) - math.log(len(hidden))

    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """In training mode the mean of the members' losses, else the loss of their mean."""
        if self.training:
            losses = [Transformer.loss(m, x, targets) for m, x in zip(self.members, hidden)]
            return torch.stack(losses).mean()
        nats = [  # a sequence at a time: all members' logits of a batch would be large
            F.nll_loss(self.logits(hidden[:, i]), row, ignore_index=IGNORE, reduction="sum")
            for i, row in enumerate(targets)
        ]
        return torch.stack(nats).sum()

    def new_cache(self, batch_size: int = 1, length: int | None = None) -> KVCache:
        """The members' layers one after the other."""
        caches = [Transformer.new_cache(member, batch_size, length) for member in self.members]
        return KVCache([layer for cache in caches for layer in cache.layers])

    def roles(self) -> dict[str, Role]:
        roles = super().roles()  # wrong for the others', whose names it does not understand
        for i, other in enumerate(self.members[1:]):
            roles |= {f"others.{i}.{name}": role for name, role in other.roles().items()}
        return roles

    def flops_per_token(self, seq_len: int) -> int:
        return sum(Transformer.flops_per_token(member, seq_len) for member in self.members)
