"""experiments/slurm/train.sbatch, with stand-ins for Slurm's commands."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import slurm
from runs import ROOT, SMALL, rows

SCRIPT = ROOT / "experiments" / "slurm" / "train.sbatch"
JOB = "77_0"


class Cluster:
    """Slurm's commands on this machine, and the only job."""

    def __init__(self, folder: Path) -> None:
        self.bin = slurm.install(folder)
        self.state = folder / "state"

    def submit(self, options: list[str], arguments: list[str], **environment: str) -> None:
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        subprocess.run(
            [self.bin / "sbatch", *options, SCRIPT, *arguments], check=True, cwd=ROOT,
            stdout=subprocess.DEVNULL, env={**os.environ, "PATH": path, **environment},
        )  # fmt: skip

    def wait(self, until: Callable[[], object]) -> None:
        deadline = time.monotonic() + 90
        while not until():
            assert time.monotonic() < deadline, (self.state / "log_77").read_text()
            time.sleep(0.02)

    def end(self) -> str:
        """How the job ended."""
        file = self.state / f"end_{JOB}"
        self.wait(lambda: file.exists() and file.read_text())
        return file.read_text()

    @property
    def requeued(self) -> bool:
        return (self.state / f"requeued_{JOB}").exists()

    def pids(self) -> list[int]:
        return [int(pid) for pid in (self.state / f"pid_{JOB}").read_text().split()]


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path / "slurm")


def python(cluster: Cluster, body: str) -> None:
    """What the job finds as `python`."""
    command = cluster.bin / "python"
    command.write_text(f"#!/bin/sh\n{body}\n")
    command.chmod(0o755)


def test_it_is_bash() -> None:
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    if shellcheck := shutil.which("shellcheck"):
        subprocess.run([shellcheck, SCRIPT], check=True)


def test_each_task_is_a_rank_and_a_stopped_job_goes_back_to_the_queue(cluster: Cluster) -> None:
    told = '"$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT $*"'
    body = [f"echo {told} >> {cluster.state}/ranks", '[ "$SLURM_RESTART_COUNT" = 1 ] || exit 143']
    python(cluster, "\n".join(body))
    cluster.submit(["--nodes=1", "--ntasks-per-node=2"], ["seed=1", "name=a b"])
    assert cluster.end() == "COMPLETED"
    assert cluster.requeued
    said = sorted((cluster.state / "ranks").read_text().splitlines())
    expected = [f"{n} {n} 2 127.0.0.1 11770 train.py seed=1 name=a b" for n in (0, 1)]
    assert said == sorted(2 * expected)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("exit 1", "an error"),
        (
            "[ $RANK = 1 ] || kill -TERM $(cat /proc/$PPID/stat | cut -d' ' -f4); exit 143",
            "scancel",
        ),
    ],
    ids=["error", "scancel"],
)
def test_an_error_and_a_cancelled_job_stay_out_of_the_queue(
    cluster: Cluster, body: str, why: str
) -> None:
    python(cluster, body)
    cluster.submit(["--nodes=1", "--ntasks-per-node=2"], [])
    assert cluster.end() == "FAILED"
    assert not cluster.requeued, why


@pytest.mark.slow
def test_a_job_near_its_end_saves_goes_back_and_ends_as_if_nothing_had_been(
    cluster: Cluster, tmp_path: Path
) -> None:
    def arguments(folder: Path) -> list[str]:
        batch = ["train.batch_size=12", "train.micro_batch_size=2", "train.precision=fp32"]
        places = [f"output_dir={folder / 'outputs'}", f"data_dir={folder / 'tokens'}"]
        return [*SMALL, *batch, *places, "train.steps=100", "eval.every=null"]

    def losses(folder: Path) -> list[tuple[int, float]]:
        (run,) = (path.parent for path in (folder / "outputs").glob("*/run.json"))
        return [(row["step"], row["train/loss"]) for row in rows(run) if "train/loss" in row]

    def steps(folder: Path) -> int:
        logs = (folder / "outputs").glob("*/metrics.jsonl")
        return sum(path.read_bytes().count(b'"train/loss"') for path in logs)

    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    settings = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "train.py", *arguments(straight), "train.devices=2"]
    subprocess.run(
        command, check=True, cwd=ROOT, env={**os.environ, **settings}, capture_output=True
    )
    python(cluster, f'exec {sys.executable} "$@"')
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    cluster.submit(
        ["--nodes=1", "--ntasks-per-node=2"], arguments(stopped), MASTER_PORT=port, **settings
    )
    cluster.wait(lambda: steps(stopped) >= 5)
    for pid in cluster.pids():
        os.kill(pid, signal.SIGUSR1)
    assert cluster.end() == "COMPLETED"
    assert cluster.requeued
    log = (cluster.state / "log_77").read_text()
    assert "stopped by SIGUSR1" in log or "stopped at step" in log, log
    assert "resuming at step" in log, log
    assert losses(stopped) == losses(straight)
