"""Next-token loss straight from the last hidden state, in chunks, and its plain reference.

N rows (batch times sequence), D model, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from minigpt.model.autocast import autocast_off, product_dtype

IGNORE = -100  # a target that is no target: padding of the last validation window


def cross_entropy_reference(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Sum of -log p(target) in nats over targets != IGNORE, an fp32 scalar.

    x (N, D) hidden states, weight (V, D) head, targets (N,) int64. It holds all (N, V) logits,
    several times over.
    """
    logits = F.linear(x, weight).float()
    return F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")


def cross_entropy(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """As `cross_entropy_reference`, with a few rows of logits in memory at a time.

    The forward pass computes the gradients too, while a chunk of logits is still in the processor's
    cache. So nothing is computed twice (as in Liger Kernel, Hsu et al. 2024), and the result can be
    differentiated only once.
    """
    dtype = product_dtype(x)
    with autocast_off(x):  # the casts are made by hand, once
        if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
            return _CrossEntropy.apply(x, weight, targets, dtype)
        return _sum_of_nats(x.to(dtype), weight.to(dtype), targets)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        x_gradient = torch.empty_like(x)
        weight_gradient = torch.empty_like(weight, dtype=torch.float32)
        loss = _sum_of_nats(x.to(dtype), weight.to(dtype), targets, x_gradient, weight_gradient)
        ctx.gradients = x_gradient, weight_gradient.to(weight.dtype)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, Tensor, None, None]:
        if ctx.gradients is None:
            raise RuntimeError("cross_entropy can be differentiated only once")
        x_gradient, weight_gradient = ctx.gradients
        ctx.gradients = None
        return x_gradient.mul_(scale), weight_gradient.mul_(scale), None, None


def _sum_of_nats(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    x_gradient: Tensor | None = None,
    weight_gradient: Tensor | None = None,
) -> Tensor:
    """The loss; where given, x_gradient and weight_gradient (fp32) are filled.

    There are two sizes of chunk. The softmax works on small ones that stay in cache. The products
    of the gradients work on large ones, since each of these adds a (V, D) matrix.
    """
    vocab_size = weight.shape[0]
    kept = targets != IGNORE
    targets = torch.where(kept, targets, 0)
    total = x.new_zeros((), dtype=torch.float32)
    large, small = _rows_of_chunks(x, vocab_size)
    logits = x.new_empty(small, vocab_size, dtype=torch.float32)
    p = torch.empty_like(logits)
    difference = None if x_gradient is None else x.new_empty(min(large, len(x)), vocab_size)
    for start in range(0, len(x), large):
        end = min(start + large, len(x))
        for first in range(start, end, small):
            last = min(first + small, end)
            chunk = targets[first:last, None]
            chunk_logits, chunk_p = logits[: last - first], p[: last - first]
            chunk_logits.copy_(F.linear(x[first:last], weight))
            torch.softmax(chunk_logits, dim=-1, out=chunk_p)
            # log p(target) through the largest p, which cannot underflow as that of the target can
            below_largest = chunk_logits.gather(1, chunk) - chunk_logits.amax(-1, True)
            log_p = below_largest + chunk_p.amax(-1, True).log()
            total -= torch.where(kept[first:last, None], log_p, 0.0).sum()
            if difference is not None:  # d loss / d logits
                chunk_p.scatter_add_(1, chunk, chunk_p.new_full(chunk.shape, -1.0))
                difference[first - start : last - start] = chunk_p
        if x_gradient is not None and weight_gradient is not None and difference is not None:
            rows = difference[: end - start]
            keep = kept[start:end, None]
            x_gradient[start:end] = (rows @ weight) * keep
            inputs = x[start:end] * keep
            for part_of in _vocabulary_in_slices(vocab_size, x.shape[1], x.device.type):
                product = rows[:, part_of].T @ inputs
                part = weight_gradient[part_of]
                if start == 0:
                    part.copy_(product)
                else:
                    part += product
    return total


def _rows_of_chunks(x: Tensor, vocab_size: int) -> tuple[int, int]:
    """Rows of the large and of the small chunks; measured best at V = 20,000.

    Large ones have about 2^25 logits, small ones 2^21 on a CPU and as many as large ones elsewhere.
    """
    chunks = max(1, -(-len(x) * vocab_size // 2**25))
    large = max(1, -(-len(x) // chunks))
    if x.device.type != "cpu":
        return large, large
    return large, min(large, max(1, 2**21 // vocab_size))


def _vocabulary_in_slices(vocab_size: int, d_model: int, device: str) -> list[slice]:
    """Parts of the head's gradient that are added one after the other; one part but on a CPU.

    There an addition of bf16 to fp32 makes a copy in fp32: of 8 MB a part, instead of all.
    """
    size = max(1, 2**21 // d_model) if device == "cpu" else vocab_size
    return [slice(first, min(first + size, vocab_size)) for first in range(0, vocab_size, size)]


def work_bytes(n_rows: int, d_model: int, vocab_size: int, dtype: torch.dtype, device: str) -> int:
    """Memory of a loss of N rows with gradients."""
    large, small = _rows_of_chunks(torch.empty(n_rows, 0, device=device), vocab_size)
    size = dtype.itemsize
    head = vocab_size * d_model
    slice_of_head = _vocabulary_in_slices(vocab_size, d_model, device)[0].stop * d_model
    logits = 2 * 4 * small * vocab_size + size * large * vocab_size
    gradients = size * n_rows * d_model + 4 * head + (4 + size) * slice_of_head
    cast_head = 0 if dtype == torch.float32 else size * head
    return logits + gradients + cast_head
