"""The fast path of `newton_schulz.orthogonalise` (tests/optim/test_batching.py compares the two).

- Small matrices are turned wide, so that W (R, C) and its transpose share a bucket. Those of equal
  shape (m, n) go through batched products.
- Large ones fill a CPU alone, and a batch would only leave its caches. They go one by one. A and
  b A + c A A are symmetric, so their upper right quarter is copied from the lower left, but for
  bf16 with AMX: its tiles sum a part of a product in another order than the whole.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache

import torch
from torch import Tensor

from minigpt.formats import cpu_flags
from minigpt.optim.newton_schulz import (
    EPSILON,
    Coefficients,
    normalised,
    orthogonalise,
    turned,
    wide,
)

# Measured on Zen 4 in bf16 with 1 and 2 threads, against a loop of plain products. Batches that
# stay in the caches are 1.2-4x as fast for m <= 256, equal at m = 384, slower beyond. Symmetric
# products gain 7-10 % from m = 512 on and lose below 384.
CPU_BATCH_ELEMENTS = 1 << 20
CPU_SYMMETRIC = 512
# No batch where its bits would differ from those of single products. From CPU_LONG columns on a CPU
# sums in another order. Up to CPU_SHORT rows it rounds some bf16 products differently: in 1 of 200
# to 1,500 matrices (oneDNN 3).
CPU_LONG = 1024
CPU_SHORT = 16
# Elsewhere a batch is bounded for its memory: 128 MiB in bf16, about three times that at work (not
# tuned on a GPU).
BATCH_ELEMENTS = 1 << 26


def batches(matrices: Sequence[Tensor], dtype: torch.dtype, world_size: int = 1) -> list[list[int]]:
    """Which matrices to orthogonalise together in `dtype`: lists of indices, each index once.

    world_size: ranks that share them, so that each has some.
    """
    buckets: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, matrix in enumerate(matrices):
        m, n = sorted(matrix.shape)
        buckets[m, n].append(i)
    result: list[list[int]] = []
    for (m, n), members in buckets.items():
        size = max(1, BATCH_ELEMENTS // (m * n))
        if matrices[members[0]].device.type == "cpu":
            short = m <= CPU_SHORT and dtype == torch.bfloat16
            alone = m >= CPU_SYMMETRIC or n >= CPU_LONG or short
            size = 1 if alone else max(1, CPU_BATCH_ELEMENTS // (m * n))
        size = min(size, -(-len(members) // world_size))
        result += [members[start : start + size] for start in range(0, len(members), size)]
    return result


def orthogonalise_batch(
    matrices: Iterable[Tensor],
    shapes: Sequence[torch.Size],
    coefficients: Coefficients,
    dtype: torch.dtype,
) -> list[Tensor]:
    """`orthogonalise(matrix, coefficients, dtype)` for each matrix of one list of `batches`.

    matrices: of `shapes` (R, C) or transposed (C, R), consumed one by one, so that they need not
        all exist at once.

    Bit-identical to `orthogonalise` on a CPU in bf16, within rounding elsewhere. The results live
    in buffers of this module: use them before the next call.
    """
    if len(shapes) == 1:
        (matrix,) = matrices
        large = matrix.device.type == "cpu" and min(matrix.shape) >= CPU_SYMMETRIC
        if large and not (dtype == torch.bfloat16 and _has_amx()):
            return [_orthogonalise_symmetric(matrix, coefficients, dtype)]
        return [orthogonalise(matrix, coefficients, dtype)]
    norms: list[Tensor] = []
    for i, matrix in enumerate(matrices):
        if not norms:
            make = _kept_buffers if matrix.device.type == "cpu" else buffers
            m, n = sorted(matrix.shape)
            work = make(len(shapes), m, n, dtype, matrix.device)
            x = work[0]
        rounded = matrix.to(dtype)
        norms.append(rounded.norm())  # in its own orientation, to sum in the order of the reference
        x[i].copy_(wide(rounded))
    x.div_(torch.stack(norms).clamp_(min=EPSILON)[:, None, None])
    x = iterate(work, coefficients)
    return [turned(result, shape) for result, shape in zip(x, shapes, strict=True)]


def iterate(work: tuple[Tensor, ...], coefficients: Coefficients) -> Tensor:
    """Newton-Schulz of the first of `buffers`, (B, m, n) of norm 1; the result is one of them."""
    x, next_x, gram, polynomial = work
    for a, b, c in coefficients:
        torch.bmm(x, x.mT, out=gram)
        torch.baddbmm(gram, gram, gram, beta=b, alpha=c, out=polynomial)
        torch.baddbmm(x, polynomial, x, beta=a, out=next_x)
        x, next_x = next_x, x
    return x


def buffers(
    count: int, m: int, n: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    """Room for X twice (B, m, n), for A and for b A + c A A (B, m, m)."""
    shapes = ((count, m, n), (count, m, n), (count, m, m), (count, m, m))
    return tuple(torch.empty(shape, dtype=dtype, device=device) for shape in shapes)


# On a CPU every large allocation is new memory, page by page. A step of the tiny model would have
# 1,100 page faults and lose 2 of 14 ms.
_kept_buffers = lru_cache(maxsize=16)(buffers)


@cache
def _has_amx() -> bool:
    return "amx_bf16" in cpu_flags()


def _orthogonalise_symmetric(
    matrix: Tensor, coefficients: Coefficients, dtype: torch.dtype
) -> Tensor:
    x = wide(normalised(matrix, dtype))
    for a, b, c in coefficients:
        gram = _symmetric_product(x, x.T)
        polynomial = _symmetric_product(gram, gram, gram, b, c)
        x = torch.addmm(x, polynomial, x, beta=a)
    return turned(x, matrix.shape)


def _symmetric_product(
    left: Tensor, right: Tensor, add: Tensor | None = None, beta: float = 0.0, alpha: float = 1.0
) -> Tensor:
    """beta * add + alpha * left @ right, given that it is symmetric (m, m)."""
    half = left.size(0) // 2
    out = left.new_empty(left.size(0), left.size(0))
    for rows, columns in ((slice(0, half), slice(0, half)), (slice(half, None), slice(None))):
        block, factors = out[rows, columns], (left[rows], right[:, columns])
        if add is None:
            torch.mm(*factors, out=block)
        else:
            torch.addmm(add[rows, columns], *factors, beta=beta, alpha=alpha, out=block)
    # two plain transposes: faster than one copy that is strided on both sides
    out[:half, half:] = out[half:, :half].contiguous().T.contiguous()
    return out
