"""The copies of a model on the ranks of a run. One sum a step keeps them equal, bit for bit."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from minigpt import interrupt, ranks
from minigpt.errors import NumericsError

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


def sum_gradients(model: nn.Module, nats: Tensor) -> Tensor:
    """Sum the gradients and the loss of a step over all ranks, in one collective.

    The loss of each rank is a sum over its sequences divided by a constant, so sums are exact. A
    parameter that some ranks alone have used counts as zero on the others.
    Returns how many ranks a signal asks to stop, on the CPU. It is there once the device has been
    waited for; nothing waits for it here.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    used = torch.tensor([float(p.grad is not None) for p in parameters], device=nats.device)
    stop = torch.full_like(nats, float(interrupt.requested() is not None))
    unused = [n for n, parameter in enumerate(parameters) if parameter.grad is None]
    for n in unused:
        parameters[n].grad = torch.zeros_like(parameters[n])
    ranks.sum_([nats, stop, used, *(p.grad for p in parameters if p.grad is not None)])
    if unused:
        used_by = used.tolist()
        for n in unused:
            if not used_by[n]:
                parameters[n].grad = None
    return stop.to("cpu", non_blocking=True)


def check_equal(weights: Mapping[str, Tensor], step: int) -> None:
    """Raise NumericsError unless all ranks have the same weights."""
    sums = [bits_of(tensor.detach()).sum(dtype=torch.int64) for tensor in weights.values()]
    checksums = ranks.gather(torch.stack(sums))
    if odd := [n for n, found in enumerate(checksums) if not torch.equal(found, checksums[0])]:
        names = [name for n, name in enumerate(weights) if checksums[odd[0]][n] != checksums[0][n]]
        raise NumericsError(
            f"replicas differ: rank {odd[0]} has another {names[0]} than rank 0 after step {step} "
            "(nothing is saved; a device that computes wrongly, or code that draws from "
            "randomness of its own)"
        )


def bits_of(tensor: Tensor) -> Tensor:
    """Its numbers as integers: any flipped bit changes their sum."""
    return tensor.contiguous().view(INTEGERS[tensor.element_size()])
