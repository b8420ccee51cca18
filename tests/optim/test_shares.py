"""Several ranks: the same weights and the same state, bit for bit, as one."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from toy import Toy, assert_equal_trees, by_role, saved, train

from minigpt.optim.batching import batches
from minigpt.optim.muon import Muon
from minigpt.optim.normuon import NorMuon
from minigpt.optim.shares import shares

OPTIMIZERS = {"muon": partial(Muon, lr=0.02, ns_dtype="bf16"), "normuon": partial(NorMuon, lr=0.02)}
State = dict[str, Any]


def state_after(name: str, start: State | None, steps: range) -> State:
    """Weights and optimizer state after some steps from `start` (None: from the beginning)."""
    torch.set_num_threads(1)
    model = Toy()
    optimizer = by_role(model, OPTIMIZERS[name])
    if start is not None:
        model.load_state_dict(start["weights"])
        optimizer.load_state_tree(start["optimizer"])
    train(model, optimizer, steps)
    return copy.deepcopy(
        {"weights": dict(model.state_dict()), "optimizer": saved(optimizer.state_tree())}
    )


def one_rank(rank: int, world_size: int, starts: dict[str, State], folder: str) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=world_size)
    ends = {name: state_after(name, start, range(2, 4)) for name, start in starts.items()}
    torch.save(ends, f"{folder}/{rank}.pt")
    dist.barrier()  # a rank that leaves early can abort the other
    dist.destroy_process_group()


def test_one_rank_then_two_then_one_equals_one_rank_throughout(tmp_path: Path) -> None:
    begun = {name: state_after(name, None, range(2)) for name in OPTIMIZERS}
    multiprocessing.spawn(one_rank, (2, begun, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert_equal_trees(first, second)
    for name in OPTIMIZERS:
        straight = state_after(name, None, range(6))
        assert_equal_trees(state_after(name, first[name], range(4, 6)), straight)


def test_shares_cover_every_batch_once_and_even_out_the_work() -> None:
    shapes = [torch.Size((64, 64))] * 5 + [torch.Size((16, 64)), torch.Size((64, 16))]
    work = [[0], [1], [2], [3], [4], [5, 6]]
    found = shares(work, shapes, 3)
    assert sorted(position for share in found for position in share) == list(range(6))
    assert sorted(len(share) for share in found) == [2, 2, 2]
    assert shares(work, shapes, 1) == [[0, 1, 2, 3, 4, 5]]
    assert [] in shares([[0]], shapes, 2)  # more ranks than batches


def test_a_bucket_is_cut_so_that_every_rank_has_some_of_it() -> None:
    matrices = [torch.empty(32, 64) for _ in range(10)]
    assert [len(batch) for batch in batches(matrices, torch.float32)] == [10]
    assert [len(batch) for batch in batches(matrices, torch.float32, 4)] == [3, 3, 3, 1]
