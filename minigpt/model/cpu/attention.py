"""Causal attention for training on a CPU, in blocks that stay in cache.

About 2.5 times as fast as torch's in bf16. As there, nothing of size (T, T) is kept where sequences
are long: the backward pass computes the probabilities again. Where they take little memory beside
the rest, they are kept. tests/model/test_blocked_attention.py compares it with
`attention.attention_reference`.

B batch, T sequence, H query heads, G key/value heads, R = H / G queries per key, K head size,
N = B * G.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minigpt.model.dropout import kept, rounded, split

QUERIES = 64  # positions in a block, or more if that gives fewer rows than ROWS
ROWS = 128  # rows in a block (positions times R)
SCORES = 2**20  # scores of a block, at most, unless one batch item has more: 2 MB in bf16
SCORES_ELSEWHERE = 2**26  # on a GPU, which wants large blocks (not tuned)
KEPT = 2**22  # scores of a layer up to which probabilities are kept: 8 MB in bf16


def blocked_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    seeds: Tensor | None = None,
) -> Tensor:
    """softmax(q k' / sqrt(K)) v, causal: q (B, T, H, K), k and v (B, T, G, K) -> (B, T, H, K).

    mask: (B or 1, 1, T, T) bool, True where a query may look, never beyond the causal triangle;
        None for all of it.
    dropout: of the probabilities. Scores are rounded to the dtype of q.
    seeds: (B,) int64, of the dropout's masks (see Dropout.seeds).
    """
    b, t, h, size = q.shape
    g = k.shape[2]
    # All queries of a key/value head become rows of one matrix, position by position.
    rows = q.view(b, t, g, h // g, size).transpose(1, 2).reshape(b * g, t * h // g, size)
    keys, values = (x.transpose(1, 2).reshape(b * g, t, size) for x in (k, v))
    if mask is not None:
        mask = mask[:, 0].expand(b, t, t).repeat_interleave(g, dim=0)  # (N, T, T)
    if seeds is not None:
        seeds = split(seeds, 0, g).flatten()
    out: Tensor = BlockedAttention.apply(rows, keys, values, mask, dropout, seeds)
    return out.view(b, g, t, h // g, size).transpose(1, 2).reshape(b, t, h, size)


class BlockedAttention(torch.autograd.Function):
    """`blocked_attention` with N in place of B and G."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        dropout: float,
        seeds: Tensor | None,
    ) -> Tensor:
        """q (N, T R, K), k and v (N, T, K), mask (N, T, T), seeds (N,) -> (N, T R, K)."""
        ctx.dropout = dropout
        q = q * q.shape[-1] ** -0.5
        out = torch.empty_like(q)
        saved: list[Tensor] = []
        for n, rows, seen, p, keep in _blocks(q, k, mask, dropout, seeds):
            out[n, rows] = torch.bmm(p if keep is None else p * keep, v[n, seen])
            if q.shape[0] * q.shape[1] * k.shape[1] <= KEPT:
                saved.append(p)
        ctx.save_for_backward(q, k, v, mask, seeds, *saved)
        if keep is not None:
            out.mul_(1.0 / (1.0 - rounded(dropout)))
        return out.view_as(out)  # written in place: see RMSNorm

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        q, k, v, mask, seeds, *saved = ctx.saved_tensors
        if ctx.dropout:
            gradient = gradient * (1.0 / (1.0 - rounded(ctx.dropout)))
        dq = torch.empty_like(q)
        dk, dv = (torch.zeros_like(x, dtype=torch.float32) for x in (k, v))
        for n, rows, seen, p, keep in _blocks(q, k, mask, ctx.dropout, seeds, saved):
            g = gradient[n, rows]
            dv[n, seen] += torch.bmm((p if keep is None else p * keep).transpose(1, 2), g)
            dp = torch.bmm(g, v[n, seen].transpose(1, 2))
            ds = torch._softmax_backward_data(dp if keep is None else dp.mul_(keep), p, -1, p.dtype)
            dq[n, rows] = torch.bmm(ds, k[n, seen])
            dk[n, seen] += torch.bmm(ds.transpose(1, 2), q[n, rows])
        return dq.mul_(q.shape[-1] ** -0.5), dk.to(k.dtype), dv.to(v.dtype), None, None, None


def _blocks(
    q: Tensor,
    k: Tensor,
    mask: Tensor | None,
    dropout: float,
    seeds: Tensor | None,
    saved: Sequence[Tensor] = (),
) -> Iterator[tuple[slice, slice, slice, Tensor, Tensor | None]]:
    """Slices of N, rows and keys, the probabilities there and what dropout keeps of them.

    Every call gives the same blocks. saved: the probabilities of an earlier call, if kept.
    """
    batch, t, _ = k.shape
    r = q.shape[1] // t
    remaining = iter(saved)
    queries = min(max(QUERIES, ROWS // r), t)
    scores = SCORES if q.device.type == "cpu" else SCORES_ELSEWHERE
    together = max(1, scores // (queries * r * t))
    for first in range(0, batch, together):
        n = slice(first, first + together)
        for start in range(0, t, queries):
            end = min(start + queries, t)
            rows, seen = slice(start * r, end * r), slice(0, end)
            p = next(remaining, None)
            if p is None:
                part = None if mask is None else mask[n, start:end, :end]
                p = _probabilities(q[n, rows], k[n, seen], part, start)
            keep = None
            if seeds is not None:
                number = start * r * t  # beyond all numbers of the blocks before
                keep = kept(seeds[n], p[0].numel(), dropout, first=number).view(p.shape)
            yield n, rows, seen, p, keep


def _probabilities(q: Tensor, k: Tensor, mask: Tensor | None, start: int) -> Tensor:
    """Of the queries from position `start` on, for the keys before `end`.

    q (n, (end - start) R, K), k (n, end, K) -> (n, (end - start) R, end).
    """
    end = k.shape[1]
    queries = end - start
    scores = torch.bmm(q, k.transpose(1, 2))
    by_position = scores.view(len(scores), queries, -1, end)
    if mask is None:
        later = scores.new_full((queries, queries), float("-inf")).triu_(1)
        by_position[..., start:] += later[:, None, :]  # as masked_fill_, in half its time
    else:
        by_position.masked_fill_(~mask[:, :, None, :], float("-inf"))
    return torch.softmax(scores, dim=-1).to(scores.dtype)  # autocast on CUDA makes it fp32
