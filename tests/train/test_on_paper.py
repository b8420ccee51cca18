"""The cost of a step on many GPUs: formulas by hand, limits, and what dry_run=true says of them."""

import re
from dataclasses import replace
from itertools import pairwise

import pytest
from runs import SMALL, Shell

from minigpt.train import on_paper
from minigpt.train.gpus import GPUS, NVLINK_HOP, Links, gpu_of
from minigpt.train.memory import Memory
from minigpt.train.on_paper import (
    CALL,
    NETWORK_HOP,
    Step,
    Work,
    all_gather,
    all_reduce,
    layouts,
    smallest_batch,
)

LINKS = {name: gpu.links for name, gpu in GPUS.items() if gpu.links}
H100 = LINKS["H100"]
WORK = Work(4e14, 124_000_000, 6e8, 85_000_000, 2e11, 1.7e8)
SIZES = (1, 2, 4, 8, 9, 16, 64, 512)


def step(ranks: int, work: Work = WORK, links: Links = H100) -> Step:
    return on_paper.step_of(work, ranks, links, 989.4e12, 989.4e12)


def test_a_gpu_is_known_by_the_name_of_its_driver() -> None:
    assert gpu_of("NVIDIA H100 80GB HBM3") is GPUS["H100"]
    assert gpu_of("NVIDIA GH200 480GB") is GPUS["GH200"]
    assert gpu_of("GeForce 256") is None


def test_a_ring_by_hand() -> None:
    """1 GB over NVLink at 0.82 x 450 GB/s; beyond 8 GPUs by the network of a machine too."""
    hops = 7 * NVLINK_HOP
    assert all_gather(1e9, 8, H100) == pytest.approx(7 / 8 / 369 + 1e-6 * (CALL + hops))
    assert all_reduce(1e9, 8, H100) == pytest.approx(2 * 7 / 8 / 369 + 1e-6 * (CALL + 2 * hops))
    slow = H100._replace(network_gb_s=12.5)
    assert all_reduce(1e9, 8, slow) == all_reduce(1e9, 8, H100)
    hops = 14 * NVLINK_HOP + 1 * NETWORK_HOP  # 15 hops, one of them between the two machines
    assert all_reduce(1e9, 16, slow) == pytest.approx(
        2 * 15 / 16 / (0.92 * 12.5) + 1e-6 * (CALL + 2 * hops)
    )


def test_a_step_by_hand() -> None:
    found = step(8)
    assert found.compute == pytest.approx(4e14 / 8 / (0.4 * 989.4e12))
    copies = 16 * 124e6 / 3350e9
    assert found.all_reduce == pytest.approx(all_reduce(4 * 124e6, 8, H100) + copies)
    moved = 24 * 124e6 + 2 * 6e8 + 10 * 85e6 + 18 * 85e6 / 8
    assert found.optimizer == pytest.approx(2e11 / (0.4 * 989.4e12) + moved / 3350e9)
    assert found.gather == all_gather(1.7e8, 8, H100)
    assert found.communication == (found.all_reduce + found.gather) / found.total


def test_one_gpu_does_not_communicate() -> None:
    alone = step(1)
    assert alone.all_reduce == alone.gather == alone.communication == 0
    assert smallest_batch(alone, 512, 1) == 1
    assert {layout.sent + layout.muon for layout in layouts(8, 1).values()} == {0}
    assert {layout.held for layout in layouts(8, 1).values()} == {16}


@pytest.mark.parametrize("gpu", LINKS)
def test_more_gpus_compute_less_and_talk_more(gpu: str) -> None:
    steps = [step(ranks, links=LINKS[gpu]) for ranks in SIZES]
    for fewer, more in pairwise(steps):
        assert more.compute < fewer.compute
        assert more.all_reduce > fewer.all_reduce
        assert more.gather > fewer.gather
        assert more.communication > fewer.communication
    assert step(64, links=LINKS[gpu]._replace(network_gb_s=1)).total > steps[6].total


@pytest.mark.parametrize("ranks", SIZES[1:])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_the_smallest_batch_is_the_smallest(ranks: int, share: float) -> None:
    def share_at(batch: int) -> float:
        return step(ranks, replace(WORK, model_flops=WORK.model_flops * batch / 512)).communication

    least = smallest_batch(step(ranks), 512, ranks, share)
    assert least % ranks == 0
    assert share_at(least) <= share
    assert least == ranks or share_at(least - ranks) > share


def test_layouts_by_hand() -> None:
    """AdamW's state is 8 bytes; 4 ranks, 2 micro-batches each."""
    found = layouts(8, 4, 2)
    assert {name: layout.held for name, layout in found.items()} == {
        "replicas": 16, "ZeRO-1": 10, "FSDP2": 4
    }  # fmt: skip
    assert {name: layout.sent for name, layout in found.items()} == {
        "replicas": 6, "ZeRO-1": 6, "FSDP2": 12
    }  # fmt: skip
    assert {name: layout.muon for name, layout in found.items()} == {
        "replicas": 1.5, "ZeRO-1": 0, "FSDP2": 0.75
    }  # fmt: skip


def test_memory_adds_up_and_gradients_are_there_twice_while_ranks_sum_them() -> None:
    small = Memory(100, 10, 20, gradients=10, activations=4, logits=2, heap=1.5)
    assert (small.work, small.total, small.total_of(2)) == (18, 148, 150)
    large = replace(small, activations=30)
    assert large.total == large.total_of(2)


def test_dry_run_tells_a_step_on_eight_gpus(shell: Shell) -> None:
    def facts(*more: str) -> dict[str, str]:
        batch = ["train.batch_size=16", "train.micro_batch_size=2"]
        command = [*SMALL, "dry_run=true", "train.device=cuda", *batch, *more]
        assert shell("train", *command) == 0, shell.err
        lines = shell.out.rpartition("\n\n")[2].splitlines()
        return dict(re.split(r"  +", line, maxsplit=1) for line in lines)

    one, eight = facts("dry_run_gpu=H100"), facts("dry_run_gpu=H100", "train.devices=8")
    assert "on each device with train.micro_batch_size=2 (" in eight["memory, estimated"]
    assert eight["budget"].endswith("at the peak of 8 x H100")
    parts = r"[\d.]+ ms on 8 x H100 = [\d.]+ compute .* \+ [\d.]+ all-reduce \+ [\d.]+ optimizer"
    assert re.match(parts + r" \+ [\d.]+ gather", eight["a step, estimated"])
    assert " times one GPU" in eight["tokens per second"]
    assert re.search(r"at most 10 % from train.batch_size=\d+ on", eight["communication"])
    assert {"replicas", "ZeRO-1", "FSDP2"} <= eight.keys()
    assert eight.keys() - one.keys() == {"communication", "ZeRO-1", "FSDP2"}
    assert "all-reduce" not in one["a step, estimated"]
    assert one["these estimates"].endswith("never run on more than a CPU's processes")
    adamw = facts("dry_run_gpu=H100", "train.devices=8", "optim=adamw")
    assert "gather" not in adamw["a step, estimated"]
    assert re.match(r"16 bytes a parameter, 7.0 sent", adamw["replicas"])
    assert facts("dry_run_gpu=GH200")["a step, estimated"].startswith("unknown: ")
