"""Next-token loss straight from the last hidden state: a plain reference and the fast path beside
it.

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

    x (N, D) hidden states, weight (V, D) head, targets (N,) int64. Plain: holds all (N, V) logits,
    several times over.
    """
    logits = F.linear(x, weight).float()
    return F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")


def cross_entropy(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The same number and gradients as `cross_entropy_reference`, with a few rows of logits in
    memory at a time.

    The gradients are computed in the forward pass, while a chunk of logits is still in the
    processor's cache, so nothing is computed twice (as in Liger Kernel, Hsu et al. 2024). The
    result can be differentiated only once.
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

    Two sizes of chunk: the softmax works on pieces that stay in cache, the products of the backward
    pass on larger ones, since each of those adds a (V, D) matrix.
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
            chunk, chunk_logits, chunk_p = (
                targets[first:last, None],
                logits[: last - first],
                p[: last - first],
            )
            chunk_logits.copy_(F.linear(x[first:last], weight))
            torch.softmax(chunk_logits, dim=-1, out=chunk_p)
            # log p(target) through the largest p, which cannot underflow as that of the target can
            log_p = (
                chunk_logits.gather(1, chunk)
                - chunk_logits.amax(-1, True)
                + chunk_p.amax(-1, True).log()
            )
            total -= torch.where(kept[first:last, None], log_p, 0.0).sum()
            if difference is not None:
                # d loss / d logits
                chunk_p.scatter_add_(1, chunk, chunk_p.new_full(chunk.shape, -1.0))
                difference[first - start : last - start] = chunk_p
        if x_gradient is not None and weight_gradient is not None and difference is not None:
            rows = difference[: end - start]
            keep = kept[start:end, None]
            x_gradient[start:end] = (rows @ weight) * keep
            inputs = x[start:end] * keep
            for tokens in _vocabulary_in_slices(vocab_size, x.shape[1], x.device.type):
                product = rows[:, tokens].T @ inputs
                part = weight_gradient[tokens]
                if start == 0:
                    part.copy_(product)
                else:
                    part += product
    return total


def _rows_of_chunks(x: Tensor, vocab_size: int) -> tuple[int, int]:
    """Rows of the large and of the small chunks: about 2^25 and (on a CPU) 2^21 logits; measured
    best at V = 20,000.
    """
    chunks = max(1, -(-len(x) * vocab_size // 2**25))
    large = max(1, -(-len(x) // chunks))
    return large, (min(large, max(1, 2**21 // vocab_size)) if x.device.type == "cpu" else large)


def _vocabulary_in_slices(vocab_size: int, d_model: int, device: str) -> list[slice]:
    """Parts of the gradient of the head that are added one after the other: on a CPU an addition of
    bf16 to fp32 makes a copy in fp32, here of 8 MB instead of all. One part on other devices.
    """
    size = max(1, 2**21 // d_model) if device == "cpu" else vocab_size
    return [slice(first, min(first + size, vocab_size)) for first in range(0, vocab_size, size)]


def work_bytes(n_rows: int, d_model: int, vocab_size: int, dtype: torch.dtype, device: str) -> int:
    """Memory of a loss of N rows with gradients: chunks of logits, both gradients, the head as
    products read it.
    """
    large, small = _rows_of_chunks(torch.empty(n_rows, 0, device=device), vocab_size)
    logits = 2 * 4 * small * vocab_size + dtype.itemsize * large * vocab_size
    product = _vocabulary_in_slices(vocab_size, d_model, device)[0].stop * d_model
    gradients = (
        dtype.itemsize * n_rows * d_model
        + 4 * vocab_size * d_model
        + (4 + dtype.itemsize) * product
    )
    return (
        logits
        + gradients
        + (0 if dtype == torch.float32 else dtype.itemsize * vocab_size * d_model)
    )
