"""Newton-Schulz shared out among the ranks of a data-parallel run.

Every rank holds all weights, all momenta and the same (reduced) gradients. Each orthogonalises its
share of the matrices, the updates are gathered, and every rank applies all of them. So the weights
are equal bit for bit whatever the number of ranks, and the state fits any other number. (A *shard*
of a matrix would not do: singular vectors are a property of the whole.)
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minigpt import ranks
from minigpt.optim.newton_schulz import flops, turned, wide


def shares(
    batches: Sequence[Sequence[int]], shapes: Sequence[torch.Size], world_size: int
) -> list[list[int]]:
    """Rank -> positions in `batches`. The costliest goes first, each to the least busy rank."""
    costs = [sum(flops(shapes[i][0], shapes[i][1], 1) for i in batch) for batch in batches]
    load = [0] * world_size
    result: list[list[int]] = [[] for _ in range(world_size)]
    for position in sorted(range(len(batches)), key=lambda position: -costs[position]):
        rank = min(range(world_size), key=load.__getitem__)
        load[rank] += costs[position]
        result[rank].append(position)
    return result


def gathered(
    batches: Sequence[Sequence[int]],
    shapes: Sequence[torch.Size],
    orthogonalise: Callable[[Sequence[int]], list[Tensor]],
    dtype: torch.dtype,
    device: torch.device,
) -> list[list[Tensor]]:
    """The updates of all batches, in their order, each rank computing its share; a collective call.

    orthogonalise: a batch -> its updates, (R, C) like `shapes`. All are in memory at once, in
        `dtype`.
    """
    everyone, rank = shares(batches, shapes, ranks.world_size()), ranks.rank()
    sizes = [sum(shapes[i].numel() for n in share for i in batches[n]) for share in everyone]
    mine, offset = torch.empty(max(sizes), dtype=dtype, device=device), 0
    for position in everyone[rank]:
        for update in orthogonalise(batches[position]):
            flat = mine[offset : offset + update.numel()]
            flat.view(wide(update).shape).copy_(wide(update))
            offset += update.numel()
    received = ranks.gather(mine)

    result: list[list[Tensor]] = [[] for _ in batches]
    for share, part in zip(everyone, received, strict=True):
        offset = 0
        for position in share:
            for i in batches[position]:
                flat = part[offset : offset + shapes[i].numel()]
                result[position].append(turned(flat.view(min(shapes[i]), -1), shapes[i]))
                offset += shapes[i].numel()
    return result
