"""Next-token loss straight from the last hidden state, in chunks, and its plain reference.

N rows (batch times sequence), D model, V vocabulary.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from minigpt.model.autocast import autocast_off, product_dtype

IGNORE = -100  # a target that is no target: padding of the last validation window


def cross_entropy_reference(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Sum of -log p(target) in nats over targets != IGNORE, an fp32 scalar.

    x (N, D) hidden states, weight (V, D) head, targets (N,) int64. Holds all (N, V) logits, several
    times over.
    """
    logits = F.linear(x, weight).float()
    return F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")


def cross_entropy(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """As `cross_entropy_reference`, with a few rows of logits in memory at a time.

    The forward pass computes the gradients too, while a chunk of logits is still in the processor's
    cache. So nothing is computed twice (as in Liger Kernel, Hsu et al. 2024), and the result can be
    differentiated only once. tests/model/test_loss.py compares the two.
    """
    dtype = product_dtype(x)
    with autocast_off(x):  # the casts are made by hand, once
        if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
            return _CrossEntropy.apply(x, weight, targets, dtype)
        return _sum_of_nats(x.to(dtype), _padded(weight, dtype), targets, len(weight))


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        vocab_size, head = len(weight), _padded(weight, dtype)
        dx, dw = torch.empty_like(x), torch.empty_like(head, dtype=torch.float32)
        loss = _sum_of_nats(x.to(dtype), head, targets, vocab_size, (dx, dw))
        ctx.gradients = dx, dw[:vocab_size].to(weight.dtype)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, Tensor, None, None]:
        if ctx.gradients is None:
            raise RuntimeError("cross_entropy can be differentiated only once")
        dx, dw = ctx.gradients
        ctx.gradients = None
        return dx.mul_(scale), dw.mul_(scale), None, None


def _padded(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The head (V, D) in `dtype`, with rows of zeros up to what the device's products like."""
    rows = _rows_of_head(len(weight), weight.device.type)
    if rows == len(weight):
        return weight.to(dtype)
    head = weight.new_zeros(rows, weight.shape[1], dtype=dtype)
    head[: len(weight)] = weight
    return head


def _rows_of_head(vocab_size: int, device: str) -> int:
    """V, or on a GPU the next multiple of 64: tensor cores take whole tiles."""
    return vocab_size if device == "cpu" else -(-vocab_size // 64) * 64


def _sum_of_nats(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    tokens: int,
    gradients: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The loss; `gradients`, of x (N, D) and of weight (V, D) in fp32, are filled where given.

    tokens: of the vocabulary; rows of the weight beyond them are padding, of probability 0.
    There are two sizes of chunk. The softmax works on small ones that stay in cache. The products
    of the gradients work on large ones, since each of these adds a (V, D) matrix.
    """
    (n_rows, d_model), vocab_size, device = x.shape, len(weight), x.device.type
    kept = (targets != IGNORE)[:, None]
    targets = torch.where(kept, targets[:, None], 0)
    total = x.new_zeros((), dtype=torch.float32)
    large, small = _rows_of_chunks(n_rows, vocab_size, device)
    logits = x.new_empty(small, vocab_size, dtype=torch.float32)
    p = torch.empty_like(logits)
    difference = None if gradients is None else x.new_empty(min(large, n_rows), vocab_size)
    for start in range(0, n_rows, large):
        end = min(start + large, n_rows)
        for first in range(start, end, small):
            rows = slice(first, min(first + small, end))
            z, q, target = logits[: rows.stop - first], p[: rows.stop - first], targets[rows]
            z.copy_(F.linear(x[rows], weight))
            if tokens < vocab_size:
                z[:, tokens:] = -math.inf
            torch.softmax(z, dim=-1, out=q)
            # log p(target) through the largest p, which cannot underflow as that of the target can
            log_p = z.gather(1, target) - z.amax(-1, True) + q.amax(-1, True).log()
            # Not -=: PyTorch 2.11 compiles what is written in place to gradients of zero (#180642).
            total = total - torch.where(kept[rows], log_p, 0.0).sum()
            if difference is not None:  # d loss / d logits = p - 1 at the target
                q.scatter_add_(1, target, q.new_full(target.shape, -1.0))
                difference[first - start : rows.stop - start] = q
        if gradients is not None and difference is not None:
            dx, dw = gradients
            dz, keep = difference[: end - start], kept[start:end]
            dx[start:end] = (dz @ weight) * keep
            inputs = x[start:end] * keep
            size = _columns_of_slices(vocab_size, d_model, device)
            for dz_of_slice, dw_of_slice in zip(dz.split(size, dim=1), dw.split(size)):
                product = dz_of_slice.T @ inputs
                if start == 0:
                    dw_of_slice.copy_(product)
                else:
                    dw_of_slice += product
    return total


def _rows_of_chunks(n_rows: int, vocab_size: int, device: str) -> tuple[int, int]:
    """Rows of the large and of the small chunks; measured best at V = 20,000.

    Large ones have about 2^25 logits, small ones 2^21 on a CPU. Elsewhere there is one size, of
    2^28 logits and a multiple of 128 rows (not tuned on a GPU): each chunk adds a (V, D) gradient.
    """
    chunks = max(1, -(-n_rows * vocab_size // (2**25 if device == "cpu" else 2**28)))
    large = max(1, -(-n_rows // chunks))
    if device == "cpu":
        return large, min(large, max(1, 2**21 // vocab_size))
    large = min(n_rows, -(-large // 128) * 128)
    return large, large


def _columns_of_slices(vocab_size: int, d_model: int, device: str) -> int:
    """Of how many tokens the head's gradient is added at once; of all but on a CPU.

    There an addition of bf16 to fp32 makes a copy in fp32: of 8 MB a slice, instead of all.
    """
    return min(vocab_size, max(1, 2**21 // d_model)) if device == "cpu" else vocab_size


def work_bytes(n_rows: int, d_model: int, vocab_size: int, dtype: torch.dtype, device: str) -> int:
    """Memory of a loss of N rows with gradients."""
    vocab_size = _rows_of_head(vocab_size, device)
    large, small = _rows_of_chunks(n_rows, vocab_size, device)
    size, head = dtype.itemsize, vocab_size * d_model
    logits = 2 * 4 * small * vocab_size + size * large * vocab_size
    slices = (4 + size) * d_model * _columns_of_slices(vocab_size, d_model, device)
    gradients = size * n_rows * d_model + 4 * head + slices
    cast_head = 0 if dtype == torch.float32 and device == "cpu" else size * head
    return logits + gradients + cast_head
