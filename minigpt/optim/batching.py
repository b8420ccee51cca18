"""Newton-Schulz for many matrices at once: the fast path of `newton_schulz.orthogonalise`, in one place.

Matrices are turned wide, so that W (R, C) and its transpose share a bucket, and every bucket (m, n) of equal shape goes
through batched products. That saves launches and keeps small matrices busy; large ones fill the machine alone, and
there a loop is as fast or faster and needs less memory.
"""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from minigpt.optim.newton_schulz import Coefficients, normalised, orthogonalise

# Batching wins below this m on a CPU (measured with 1 and 2 threads in bf16: 1.4-4x at m <= 128, a loss at m = 512).
CPU_BATCH_LIMIT = 256


def orthogonalise_all(matrices: Sequence[Tensor], coefficients: Coefficients, dtype: torch.dtype) -> list[Tensor]:
    """`[orthogonalise(matrix, coefficients, dtype) for matrix in matrices]`, in fewer calls.

    matrices: 2-D, of any mix of shapes, on one device. Bit-identical to the loop on a CPU in bf16, and within
    rounding elsewhere. The results may be views of shared memory.
    """
    results: list[Tensor | None] = [None] * len(matrices)
    buckets: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, matrix in enumerate(matrices):
        m, n = sorted(matrix.shape)
        if matrix.device.type == "cpu" and m >= CPU_BATCH_LIMIT:
            results[i] = orthogonalise(matrix, coefficients, dtype)
        else:
            buckets[m, n].append(i)
    for (m, n), members in buckets.items():
        x = torch.empty(len(members), m, n, dtype=dtype, device=matrices[members[0]].device)
        tall = [matrices[i].size(0) > matrices[i].size(1) for i in members]
        for slot, i, transposed in zip(x, members, tall, strict=True):
            unit = normalised(matrices[i], dtype)  # normed in its own orientation, as the reference sums it
            slot.copy_(unit.T if transposed else unit)
        x = iterate(x, coefficients)
        for slot, i, transposed in zip(x, members, tall, strict=True):
            results[i] = slot.T if transposed else slot
    return [result for result in results if result is not None]


def iterate(x: Tensor, coefficients: Coefficients) -> Tensor:
    """The iteration of `orthogonalise` on (B, m, n), m <= n, already normalised."""
    for a, b, c in coefficients:
        gram = torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x
