"""`train.devices` and torchrun for real: processes started, disturbed, ended by one that speaks."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from runs import ROOT, SMALL, Shell, rows

from minigpt import interrupt
from minigpt.errors import BusyError, CheckpointError, LostRank, Stopped
from minigpt.train import assemble, devices
from minigpt.train.devices import cause

TWO = [*SMALL, "train.batch_size=12", "train.micro_batch_size=2", "train.precision=fp32"]
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node=2"]


def start(
    folder: Path, before: list[str], *arguments: str, **environment: str
) -> "subprocess.Popen[str]":
    """train.py by a command that may put others before it."""
    places = [f"output_dir={folder / 'outputs'}", f"data_dir={folder / 'tokens'}"]
    return subprocess.Popen(
        [sys.executable, *before, str(ROOT / "train.py"), *TWO, *places, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


def finished(process: "subprocess.Popen[str]") -> str:
    """What it said, once it has ended well."""
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 0, said
    return said


def once_logged(folder: Path, steps: int, agent: int, act: Callable[[list[int]], object]) -> None:
    """From a thread: act on the ranks that a process has started, once they have logged steps."""

    def watch() -> None:
        deadline = time.monotonic() + 120
        logs = lambda: (folder / "outputs").glob("*/metrics.jsonl")
        while not any(path.read_bytes().count(b'"train/loss"') >= steps for path in logs()):
            assert time.monotonic() < deadline, "no steps"
            time.sleep(0.02)
        act(children(agent))

    threading.Thread(target=watch, daemon=True).start()


def children(process: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def losses(folder: Path) -> list[Any]:
    (run,) = (path.parent for path in (folder / "outputs").glob("*/run.json"))
    return [row.get("train/loss", row.get("val/loss")) for row in rows(run)]


LONG = [*TWO, "train.steps=40", "checkpoint.every=2", "eval.every=null"]
LONG += ["optim.hidden.ns_dtype=fp32"]  # else rounding in another order is not small


def test_ranks_that_are_stopped_killed_and_let_be_agree_with_one_alone(
    shell: Shell, other: Shell
) -> None:
    """One command starts them, in a job of a sweep too; signals and environment are given back."""
    before, command = signal.getsignal(signal.SIGTERM), [*LONG, "seed=0", "train.devices=2"]
    once_logged(shell.folder, 2, os.getpid(), lambda _: os.kill(os.getpid(), signal.SIGUSR1))
    assert shell("train", *command) == 143, shell.err
    assert shell.err.count("error: ") == 1
    assert "error: stopped by SIGUSR1: " in shell.err

    there = {*children(os.getpid())}  # of other tests
    kill = lambda pids: os.kill([pid for pid in pids if pid not in there][1], signal.SIGKILL)
    once_logged(shell.folder, 8, os.getpid(), kill)
    assert shell("train", *command) == 1, shell.err
    assert "resuming at step" in shell.err
    last = shell.err.splitlines()[-1]
    assert last.startswith("error: lost rank 1: killed by SIGKILL (the same command goes on")
    assert "torch/distributed" not in shell.err

    assert shell("train", "-m", *command) == 0, shell.err
    assert "  done  " in shell.err
    assert signal.getsignal(signal.SIGTERM) == before
    assert not [name for name in os.environ if name.startswith(("TORCHELASTIC", "TORCH_ELASTIC"))]
    assert other("train", *LONG) == 0
    assert shell.run_folder().name.rpartition("-")[2] == other.run_folder().name.rpartition("-")[2]
    assert losses(shell.folder) == pytest.approx(losses(other.folder), abs=1e-3)


def test_torchrun_starts_a_killed_run_again_from_its_newest_checkpoint(
    shell: Shell, tmp_path: Path
) -> None:
    """That the bits are those of a run that was let be: tests/faults/test_ranks.py."""
    torchrun = [*TORCHRUN, "--standalone", "--max-restarts=1"]
    process = start(tmp_path / "killed", torchrun, *LONG)
    once_logged(tmp_path / "killed", 5, process.pid, lambda pids: os.kill(pids[0], signal.SIGKILL))
    assert "resuming at step" in finished(process)
    assert shell("train", *LONG) == 0, shell.err
    assert losses(tmp_path / "killed") == pytest.approx(losses(tmp_path), abs=1e-3)


@pytest.mark.slow
def test_two_agents_with_a_rendezvous_train_one_run(tmp_path: Path) -> None:
    """As two nodes do, each with an agent of its own that starts a rank."""
    finished(start(tmp_path / "alone", [], "train.devices=2"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    meet = ["--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}"]
    agents = [*TORCHRUN[:2], "--nproc-per-node=1", *meet, "--rdzv-id=7"]
    nodes = [start(tmp_path / "nodes", agents) for _ in range(2)]
    for node in nodes:
        finished(node)
    assert losses(tmp_path / "nodes") == losses(tmp_path / "alone")


@pytest.mark.slow
def test_tasks_of_slurm_are_ranks(tmp_path: Path) -> None:
    """As `srun --ntasks=2 python train.py train.devices=2` does, and submitit's jobs."""
    finished(start(tmp_path / "alone", [], "train.devices=2"))
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\n[ $3 = node[1-2] ] && echo 127.0.0.1 && echo node2\n")
    scontrol.chmod(0o755)
    slurm = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "node[1-2]",
    }
    own = [{"SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)} for n in range(2)]
    tasks = [start(tmp_path / "tasks", [], "train.devices=2", **slurm, **one) for one in own]
    for number, task in enumerate(tasks):
        assert ("run folder" in finished(task)) == (number == 0)
    assert losses(tmp_path / "tasks") == losses(tmp_path / "alone")


def test_ranks_with_other_code_are_refused_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the values that each rank has of all."""

    def values(own: dict[str, Any]) -> list[dict[str, Any]]:
        return [own, {**own, "code": {**own["code"], "minigpt.train.loop": "another"}}]

    plan: Any = SimpleNamespace(id="abc", config={})
    tokens: Any = SimpleNamespace(fingerprint="tokens")
    monkeypatch.setattr(assemble, "source_digest", lambda config: {"minigpt.train.loop": "one"})
    monkeypatch.setattr(assemble.ranks, "values", lambda own: [own, own])
    assemble.refuse_odd_ranks(plan, tokens)
    monkeypatch.setattr(assemble.ranks, "values", values)
    with pytest.raises(CheckpointError, match=r"rank 1 on .* has other code than rank 0"):
        assemble.refuse_odd_ranks(plan, tokens)


def test_the_cause_is_what_a_rank_did_by_itself() -> None:
    busy = {"exit_code": 7, "problems": ["busy"], "lost": False}
    stopped = {"exit_code": 143, "problems": ["stopped"], "lost": False}
    lost = {"exit_code": 1, "problems": ["lost rank 1"], "lost": True}
    assert isinstance(cause([stopped, busy, lost], {1: 7, 0: 143}), BusyError)
    killed = cause([stopped, lost], {0: 143, 2: -9})
    assert isinstance(killed, LostRank)
    assert "rank 2: killed by SIGKILL" in str(killed)
    assert isinstance(cause([stopped], {1: 143}), Stopped)
    assert isinstance(cause([lost], {0: 1}), LostRank)
    assert "rank 1 ended with exit code 1 (see above)" in str(cause([], {1: 1}))
    # a traceback on rank 1: the agent stopped rank 0, before its first step or as it ended
    assert "rank 1 ended with exit code 1 (see above)" in str(cause([stopped], {0: 143, 1: 1}))
    told = cause([{**lost, "problems": ["rank 1 failed: SystemExit(3)"]}], {0: -15, 1: 1})
    assert str(told) == "rank 1 failed: SystemExit(3)"


def test_a_signal_that_comes_as_a_run_ends_leaves_it_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.distributed.elastic.multiprocessing import SignalException

    def ends(plan: Any, folder: Path) -> None:
        raise SignalException("heard", signal.SIGTERM)

    monkeypatch.setattr(devices, "start", ends)
    monkeypatch.setattr(devices, "asdict", vars)
    monkeypatch.setattr(devices.records, "summary_of", lambda folder: {"status": status})
    plan: Any = SimpleNamespace(config={"train": {"device": "cpu"}}, devices=2, folder=tmp_path)
    status = "finished"
    assert devices.train(plan) == {"status": "finished"}
    status = "diverged"
    with pytest.raises(Stopped):
        devices.train(plan)
    interrupt.clear()
