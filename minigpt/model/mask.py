"""Who may look where, when plain causal attention is not enough.

B batch, T sequence, S keys seen (with a cache more than T).
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


def attention_mask(
    start: int, length: int, documents: Tensor | None, device: torch.device
) -> Tensor | None:
    """(B or 1, 1, T, S) bool, True where a query may look; None for plain causal attention.

    start: tokens before these, in a cache.  length: T.
    documents: (B, T), which document each token belongs to; None for one.
    Raises ValueError for documents behind cached tokens.
    """
    if documents is not None:
        if start:
            raise ValueError("documents cannot be combined with a cache that holds tokens")
        same = documents[:, None, :, None] == documents[:, None, None, :]
        return same & torch.ones(length, length, dtype=torch.bool, device=device).tril()
    if start and length > 1:
        keys = torch.arange(start + length, device=device)
        queries = torch.arange(start, start + length, device=device)
        return (keys[None, :] <= queries[:, None])[None, None]
    return None


def document_blocks(documents: Tensor) -> "BlockMask":
    """The mask of documents (B, T) for flex_attention, which skips blocks that see nothing."""
    from torch.nn.attention.flex_attention import create_block_mask

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (documents[batch, query] == documents[batch, key]) & (query >= key)

    n, length = documents.shape
    return create_block_mask(sees, n, None, length, length, device=documents.device)
