"""What a step costs on many GPUs, on paper: plain replicas, as `train.devices=N` trains them.

Estimates. Nothing here was run on more than a CPU's processes. Counted is what is moved and
multiplied at the rates of gpus.py; not launches, data, evaluations or checkpoints, nor
that anything overlaps. Weights and gradients are fp32.

Units: bytes, seconds, FLOPs. W ranks, a GPU each, GPUS to a machine; P parameters that are trained.
"""

import math
from dataclasses import dataclass

from minigpt.train.gpus import Links

GPUS = 8
MFU = 0.4  # assumed of all matrix products; measure yours: perf/mfu of one GPU's run
# Latency of a hop between machines and of a call, in us (gpus.py has those inside, and the source).
NETWORK_HOP, CALL = 9.6, 8.4
# Of the line rate NCCL's rings reach 370 of 450 GB/s over NVLink (github.com/NVIDIA/nccl-tests,
# issue 212) and 46-48 of 50 over InfiniBand (issue 290). PCIe is taken to be as NVLink.
LINK_EFFICIENCY, NETWORK_EFFICIENCY = 0.82, 0.92
# Bytes of memory that are read or written in a step, for each parameter:
CLIP = 12  # the norm reads gradients (4), clipping scales them (8)
UPDATE = 12  # weight (8) and gradient (4); beside them the state, read and written
COPY = 16  # gradients into one buffer and back, for the sum over ranks
MUON = 10  # of a matrix: decay (8), the update that came in bf16 (2)
MUON_OWN = 18  # of a matrix that this rank orthogonalises: look-ahead (12), into bf16 (6)


@dataclass(frozen=True)
class Work:
    """What one step has to do."""

    model_flops: float  # forward and backward of the whole batch, over all ranks
    parameters: int
    state: float  # bytes of optimizer state
    muon_parameters: int = 0  # those in matrices that Muon shares out
    busiest_flops: float = 0.0  # of the optimizer's products, on the rank that has most
    gathered: float = 0.0  # bytes of updates that each rank has after Muon's gather


@dataclass(frozen=True)
class Step:
    """Seconds of one step, by part."""

    compute: float
    all_reduce: float
    optimizer: float
    gather: float

    @property
    def total(self) -> float:
        return self.compute + self.all_reduce + self.optimizer + self.gather

    @property
    def communication(self) -> float:
        """The share of the step in which ranks talk and nobody computes."""
        return (self.all_reduce + self.gather) / self.total


def step_of(work: Work, ranks: int, links: Links, model_peak: float, optimizer_peak: float) -> Step:
    """A step on W ranks. peaks: FLOP/s of one GPU, in the formats of model and optimizer."""
    own = work.muon_parameters / ranks
    moved = (CLIP + UPDATE) * work.parameters + 2 * work.state
    moved += MUON * work.muon_parameters + MUON_OWN * own
    copied = COPY * work.parameters if ranks > 1 else 0
    memory = links.memory_gb_s * 1e9
    return Step(
        compute=work.model_flops / ranks / (MFU * model_peak),
        all_reduce=all_reduce(4 * work.parameters, ranks, links) + copied / memory,
        optimizer=work.busiest_flops / (MFU * optimizer_peak) + moved / memory,
        gather=all_gather(work.gathered, ranks, links),
    )


def all_reduce(size: float, ranks: int, links: Links) -> float:
    """Seconds of a ring that adds `size` bytes of each rank: 2 (W-1)/W of them are sent by each.

    Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms, 2009.
    """
    return _ring(size, 2, ranks, links)


def all_gather(size: float, ranks: int, links: Links) -> float:
    """Seconds of a ring after which all have `size` bytes: (W-1)/W of them are sent by each."""
    return _ring(size, 1, ranks, links)


def _ring(size: float, rounds: int, ranks: int, links: Links) -> float:
    if ranks == 1 or size == 0:
        return 0.0
    between = math.ceil(ranks / GPUS) - 1  # hops from machine to machine, as NCCL counts them
    hops = (ranks - 1 - between) * links.hop_us + between * NETWORK_HOP
    seconds = (ranks - 1) / ranks * size / bandwidth(ranks, links) + hops * 1e-6
    return rounds * seconds + CALL * 1e-6


def bandwidth(ranks: int, links: Links) -> float:
    """Bytes a second that each rank of a ring sends.

    A ring goes through all GPUs of a machine before it leaves it, so its whole network serves it.
    """
    inside = LINK_EFFICIENCY * links.between_gpus_gb_s
    outside = NETWORK_EFFICIENCY * links.network_gb_s if ranks > GPUS else math.inf
    return min(inside, outside) * 1e9


def smallest_batch(step: Step, batch_size: int, ranks: int, share: float = 0.1) -> int:
    """The least sequences a step, the same on each rank, of which `share` is communication.

    step: of `batch_size` sequences. Only compute grows with them, at an MFU taken to be the same.
    """
    needed = (step.all_reduce + step.gather) * (1 / share - 1) - step.optimizer
    a_rank = needed / step.compute * batch_size / ranks
    return ranks * max(1, math.ceil(a_rank - 1e-9))


@dataclass(frozen=True)
class Layout:
    """Bytes for each parameter on each rank: held all the time, and sent in a step.

    muon: sent beside for each in a matrix of Muon.
    """

    held: float
    sent: float
    muon: float


def layouts(state: float, ranks: int, accumulation: int = 1) -> dict[str, Layout]:
    """How replicas compare with sharding. state: bytes of optimizer state for each parameter.

    Replicas: weights, gradients and state on each rank; a sum of gradients; Muon's updates in bf16.
    ZeRO-1 (arXiv 1910.02054): state on one rank only. Gradients go to it, and weights come back. If
        it owns whole matrices, Muon finds all that it needs there.
    FSDP2 (arXiv 2304.11277): a slice of everything. For each micro-batch weights in bf16
        are gathered twice and gradients scattered. Newton-Schulz needs whole matrices: slices of a
        direction go to one rank, those of the update back, in bf16 (github.com/microsoft/dion).
        The blocks that are whole for a moment are not counted.
    """
    part = (ranks - 1) / ranks
    return {
        "replicas": Layout(8 + state, 8 * part, 2 * part),
        "ZeRO-1": Layout(8 + state / ranks, 8 * part, 0.0),
        "FSDP2": Layout((8 + state) / ranks, 8 * part * accumulation, 4 * part / ranks),
    }
