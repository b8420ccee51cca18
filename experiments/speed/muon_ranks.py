"""How much of Muon's step ranks take off each other: processes of one thread, by gloo.

    python experiments/speed/muon_ranks.py                     small (d_model 512), two ranks
    python experiments/speed/muon_ranks.py medium --ranks 4 --rounds 10

Paired: in each round rank 0 takes a step alone while the others wait, then all take it together,
gathering included. The ratio is the median over rounds, with its quartiles. Weights are compared.
"""

import argparse
import os
import socket
import statistics
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from muon_step import hidden_matrices

from minigpt import ranks
from minigpt.optim.muon import Muon


def one_rank(rank: int, port: int, model: str, n_ranks: int, rounds: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=n_ranks)
    matrices = hidden_matrices(model, "cpu")
    optimizer, world_size = Muon(matrices, lr=0.02), ranks.world_size
    alone, together = [], []
    for _ in range(rounds + 1):  # the first one warms up
        dist.barrier()
        if rank == 0:
            ranks.world_size = lambda: 1
            alone.append(seconds(optimizer))
            ranks.world_size = world_size
        dist.barrier()
        if rank > 0:  # to have the same weights and momenta, untimed
            ranks.world_size = lambda: 1
            optimizer.step()
            ranks.world_size = world_size
        dist.barrier()
        together.append(seconds(optimizer))
    weights = torch.cat([matrix.detach().flatten() for matrix in matrices])
    assert all(torch.equal(other, weights) for other in ranks.gather(weights)), "replicas differ"
    if rank == 0:
        ratios = [both / one for both, one in zip(together[1:], alone[1:], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"{model}: alone {statistics.median(alone[1:]):.3f} s, {n_ranks} ranks "
            f"{statistics.median(together[1:]):.3f} s: {middle:.2f} of it ({low:.2f} to {high:.2f})"
        )
    dist.barrier()
    dist.destroy_process_group()


def seconds(optimizer: Muon) -> float:
    start = time.perf_counter()
    optimizer.step()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="small")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    chosen = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = (port, chosen.model, chosen.ranks, chosen.rounds)
    multiprocessing.spawn(one_rank, arguments, nprocs=chosen.ranks)


if __name__ == "__main__":
    main()
