"""Sweeps whose jobs run in other processes: joblib's workers, and Slurm jobs (with stand-ins for
its commands).
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import slurm
from processes import Command
from runs import ROOT, SMALL, Shell

from minigpt import interrupt
from minigpt.cli.launch import workers_hold_signals_back

pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
# until someone stops it
LONG = ["train.steps=100_000", "eval.every=null", "log.every=20", "checkpoint.every=20"]


def sweep(folder: Path, *arguments: str, **environment: str) -> Command:
    return Command(folder, "-m", *SMALL, *arguments, **environment)


def runs(folder: Path) -> list[Path]:
    return sorted(path.parent for path in (folder / "outputs").glob("*/run.json"))


def checkpoints(folder: Path, runs: str = "*") -> list[Path]:
    return list((folder / "outputs").glob(f"{runs}/checkpoints/step_*/manifest.json"))


def wait_for(command: Command, what: Callable[[], object]) -> None:
    while not what():
        assert command.process.poll() is None, command.process.communicate()[1]
        time.sleep(0.02)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_joblib_divides_the_threads_goes_on_after_a_failure_and_prints_the_table(
    tmp_path: Path,
) -> None:
    wide = [
        "model.d_model=256",
        "train.threads=null",
        "train.steps=2",
        "model.n_heads=4,3",
        "seed=0,1",
    ]
    done = sweep(tmp_path, *JOBLIB, *wide, OMP_NUM_THREADS="")
    assert done.end() == 2, done.err
    assert done.err.count("  done  ") == 2
    assert "2 of 4 done  best " in done.err
    assert done.err.count("failed (2)") == 2
    assert "d_model=256 is not a multiple of n_heads=3" in done.err
    assert "Traceback" not in done.err
    assert len(runs(tmp_path)) == 2
    cpus = len(os.sched_getaffinity(0))
    assert {read(path / "run.json")["chosen"]["threads"] for path in runs(tmp_path)} == {
        max(cpus // 2, 1)
    }
    assert not list((tmp_path / "outputs").glob(".invalid"))


def test_a_worker_of_joblib_has_no_stop_signal_before_it_can_act_on_it() -> None:
    from joblib.externals.loky.backend.context import get_context

    with workers_hold_signals_back():
        worker = get_context("loky").Process(target=time.sleep, args=(0,))
        worker.start()
    try:
        status = Path(f"/proc/{worker.pid}/status").read_text()
    finally:
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
    held = int(status.partition("SigBlk:")[2].split()[0], 16)
    assert {number for number in interrupt.SIGNALS if held >> (number - 1) & 1} == {
        *interrupt.SIGNALS
    }
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {*interrupt.SIGNALS}


def test_a_signal_that_was_held_back_arrives() -> None:
    code = (
        "import os, signal\nfrom minigpt import interrupt\n"
        "os.kill(os.getpid(), signal.SIGINT)\ninterrupt.install()\nprint(interrupt.requested())"
    )
    with interrupt.held_back():
        worker = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
    assert worker.communicate() == ("2\n", None)


@pytest.mark.slow
@pytest.mark.parametrize("delay_s", [0, 0.2, 1])
def test_ctrl_c_while_workers_start_is_told_without_a_traceback(
    tmp_path: Path, delay_s: float
) -> None:
    command = sweep(tmp_path, *JOBLIB, "train.steps=2", "seed=0,1,2,3")
    pid = command.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children")
    wait_for(command, lambda: len(children.read_text().split()) > 1)  # loky's tracker is the first
    time.sleep(delay_s)
    os.killpg(pid, signal.SIGINT)
    assert command.end() == 130, command.err
    assert "Traceback" not in command.err
    assert "not started" in command.err


def worker_of(folder: Path) -> int:
    """The process that holds a run folder."""
    return int((folder / "lock").read_text().split()[1])


@pytest.mark.slow
def test_a_killed_worker_loses_nothing_that_was_finished_and_the_same_command_completes_the_sweep(
    tmp_path: Path, shell: Shell
) -> None:
    jobs = [
        *JOBLIB,
        "train.steps=6,300",
        "seed=0,1",
        "eval.every=null",
        "log.every=100",
        "checkpoint.every=50",
    ]
    first = sweep(tmp_path, *jobs)
    wait_for(first, lambda: checkpoints(tmp_path, "*steps300-*"))
    victim = checkpoints(tmp_path, "*steps300-*")[0].parents[2]
    os.kill(worker_of(victim), signal.SIGKILL)
    assert first.end() == 1
    assert "a worker process was killed" in first.err
    assert "Traceback" not in first.err
    assert first.err.count("  done  ") == 2
    assert "unfinished, saved at step" in first.err
    finished = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "outputs").glob("*/summary.json")
    }
    assert shell("train", "-m", *SMALL, *jobs[2:]) == 0, shell.err
    assert [line.split()[2] for line in shell.err.splitlines() if "train.steps=" in line] == [
        "done"
    ] * 4
    assert all(path.stat().st_mtime_ns == then for path, then in finished.items())
    assert "resuming at step" in (victim / "train.log").read_text()


@pytest.mark.slow
def test_a_signal_to_the_sweep_saves_every_job_and_starts_no_other(tmp_path: Path) -> None:
    command = sweep(tmp_path, *JOBLIB, *LONG, "checkpoint.every=50", "seed=0,1,2")
    wait_for(command, lambda: len(checkpoints(tmp_path)) >= 2)
    command.process.send_signal(signal.SIGTERM)
    assert command.end() == 143, command.err
    assert command.err.count("unfinished, saved at step") == 2
    assert command.err.count("not started") == 1
    assert all("stopped at step" in (path / "train.log").read_text() for path in runs(tmp_path))


@pytest.mark.slow
def test_slurm_submits_one_script_and_a_job_near_its_end_saves_goes_back_to_the_queue_and_resumes(
    tmp_path: Path, shell: Shell
) -> None:
    commands = slurm.install(tmp_path / "slurm")
    state = tmp_path / "slurm" / "state"
    jobs = ["hydra/launcher=slurm", "hydra.launcher.partition=debug", "optim=muon,adamw"]
    jobs += ["train.steps=400", "eval.every=null", "log.every=50", "checkpoint.every=null"]
    command = sweep(tmp_path, *jobs, PATH=f"{commands}:{os.environ['PATH']}")
    logged = (tmp_path / "outputs").glob
    wait_for(command, lambda: any("train/loss" in p.read_text() for p in logged("*muon*/m*.jsonl")))
    (told,) = (path for path in runs(tmp_path) if "muon" in path.name)
    os.kill(int((state / "pid_77_0").read_text()), signal.SIGUSR2)
    assert command.end() == 0, command.err + "".join(
        p.read_text() for p in tmp_path.rglob("*log.err")
    )
    script = (state / "script_77.sh").read_text()
    for line in (
        "--array=0-1%2",
        "--partition=debug",
        "--signal=USR2@120",
        "--time=240",
        "--cpus-per-task=4",
    ):
        assert f"#SBATCH {line}\n" in script
    assert (state / "requeued_77_0").exists()
    assert not (state / "requeued_77_1").exists()
    assert command.err.count("  done  ") == 2
    log = (told / "train.log").read_text()
    assert "stopped at step" in log
    assert "resuming at step" in log
    assert shell("train", "-m", *SMALL, *jobs[2:]) == 0, shell.err
    assert shell.err.count("already finished") == 2


@pytest.mark.slow
def test_four_jobs_on_a_local_ray(tmp_path: Path) -> None:
    pytest.importorskip(
        "hydra_plugins.hydra_ray_launcher", reason="needs the extra: pip install hydra-ray-launcher"
    )
    command = sweep(tmp_path, "hydra/launcher=ray", "seed=0,1,2,3")
    assert command.end() == 0, command.err
    assert command.err.count("  done  ") == 4
    assert "validation loss" not in command.out + command.err, "jobs are quiet beside each other"
    assert len(runs(tmp_path)) == 4


def test_without_slurm(shell: Shell) -> None:
    shell.monkeypatch.setenv("PATH", "/nonexistent")
    assert shell("train", "-m", *SMALL, "hydra/launcher=slurm", "seed=0,1") == 2
    assert "no Slurm here: hydra/launcher=slurm" in shell.err


def test_without_the_plugins_one_line_says_what_to_do() -> None:
    code = (
        "import runpy, sys\nfrom contextlib import suppress\nsys.modules['hydra_plugins'] = None\n"
        "for launcher in ('ray', 'slurm'):\n"
        "    sys.argv = ['train.py', '-m', f'hydra/launcher={launcher}',\n"
        "        'hydra.launcher.n_jobs=2', 'seed=0,1']\n"
        "    with suppress(SystemExit):\n"
        "        runpy.run_path('train.py', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stderr.splitlines() == [
        f"error: missing package: hydra/launcher={launcher} needs {plugin} (pip install {plugin})"
        for launcher, plugin in (
            ("ray", "hydra-ray-launcher"),
            ("slurm", "hydra-submitit-launcher"),
        )
    ]


def test_a_sweep_under_torchrun_is_refused(shell: Shell) -> None:
    shell.monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert shell("train", "-m", *SMALL, "seed=0,1") == 2
    assert "sweep under torchrun" in shell.err
    assert not (shell.folder / "outputs").exists()
