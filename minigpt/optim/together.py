"""Newton-Schulz of all matrices in few launches, for a GPU: there a launch costs more than a small
product. tests/optim/test_together.py compares it with one matrix at a time, and counts.

Matrices of equal shape share a block (k, R, C) of fp32. Blocks (R, C) and (C, R) share a bucket,
whose products are batched.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from minigpt.optim.batching import BATCH_ELEMENTS, buffers, iterate
from minigpt.optim.newton_schulz import EPSILON, Coefficients


class Piece(NamedTuple):
    """Matrices of one shape."""

    block: Tensor  # (k, R, C) fp32
    norms: Tensor  # (k, 1, 1)

    def turned(self, matrices: Tensor) -> Tensor:
        """(k, R, C) -> (k, m, n), or back: a view."""
        return matrices.mT if self.block.size(1) > self.block.size(2) else matrices


def by_shape(shape: torch.Size) -> tuple[list[int], torch.Size]:
    """The key that brings the matrices of a bucket together, and in it those of a shape."""
    return sorted(shape), shape


def room_for(shapes: Sequence[torch.Size], device: torch.device) -> list[Tensor]:
    """A block for each of the shapes, which are sorted `by_shape`."""
    return [torch.empty(k, *shape, device=device) for shape, k in Counter(shapes).items()]


def orthogonalise_blocks(
    blocks: Sequence[Tensor],
    coefficients: Coefficients,
    dtype: torch.dtype,
    scale: Callable[[int, int], float] = lambda rows, columns: 1.0,
) -> None:
    """Replace each matrix of the blocks by scale(R, C) times its polar factor, computed in dtype.

    blocks: as `room_for` makes them.
    """
    matrices = [matrix for block in blocks for matrix in block.unbind()]
    norms = torch.stack(torch._foreach_norm(matrices)).clamp_(min=EPSILON)[:, None, None]
    buckets: dict[tuple[int, ...], list[Piece]] = defaultdict(list)
    for block, norm in zip(blocks, norms.split([len(block) for block in blocks]), strict=True):
        buckets[tuple(sorted(block.shape[1:]))].append(Piece(block, norm))
    for (m, n), pieces in buckets.items():
        for pack in packs(pieces, max(1, BATCH_ELEMENTS // (m * n))):
            counts = [len(piece.block) for piece in pack]
            work = buffers(sum(counts), m, n, dtype, blocks[0].device)
            for piece, x in zip(pack, work[0].split(counts), strict=True):
                torch.div(piece.turned(piece.block), piece.norms, out=x)
            done = iterate(work, coefficients)
            for piece, x in zip(pack, done.split(counts), strict=True):
                factor = scale(*piece.block.shape[1:])
                torch.mul(piece.turned(x), constant(factor, x.device), out=piece.block)


def packs(pieces: Sequence[Piece], most: int) -> list[list[Piece]]:
    """The pieces of a bucket in lists of at most so many matrices."""
    result: list[list[Piece]] = [[]]
    for piece in pieces:
        for block, norms in zip(piece.block.split(most), piece.norms.split(most), strict=True):
            if sum(len(other.block) for other in result[-1]) + len(block) > most:
                result.append([])
            result[-1].append(Piece(block, norms))
    return result


@cache
def constant(value: float, device: torch.device) -> Tensor:
    """(1, 1, 1) fp32: multiplied by it, a bf16 matrix is rounded to fp32 only."""
    return torch.full((1, 1, 1), value, device=device)
