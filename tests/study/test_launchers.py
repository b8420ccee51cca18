"""Sweeps whose jobs run in other processes: joblib's workers, and Slurm jobs (with stand-ins for
its commands).
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
import slurm
from runs import ROOT, SMALL, Shell

from minigpt import interrupt
from minigpt.cli.launch import workers_hold_signals_back

pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
# until someone stops it
LONG = ["train.steps=100_000", "eval.every=null", "log.every=20", "checkpoint.every=20"]


class Command:
    """A sweep in a process group of its own, in `folder`."""

    started: ClassVar[list[subprocess.Popen[str]]] = []

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.folder = folder
        places = [f"output_dir={folder / 'outputs'}", f"data_dir={folder / 'tokens'}"]
        self.process = subprocess.Popen(
            [sys.executable, "train.py", "-m", *SMALL, *places, *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        self.started.append(self.process)

    def end(self) -> int:
        self.out, self.err = self.process.communicate(timeout=120)
        return self.process.returncode

    def runs(self) -> list[Path]:
        return sorted(path.parent for path in (self.folder / "outputs").glob("*/run.json"))

    def wait_for_steps(self, runs: int) -> None:
        """Until so many runs have saved a checkpoint."""
        while (
            len(list((self.folder / "outputs").glob("*/checkpoints/step_*/manifest.json"))) < runs
        ):
            assert self.process.poll() is None, self.process.communicate()[1]
            time.sleep(0.02)


@pytest.fixture(autouse=True)
def _nothing_goes_on() -> Iterator[None]:
    yield
    while Command.started:
        process = Command.started.pop()
        with suppress(ProcessLookupError):  # its workers too, if a test failed before their end
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Shell:
    """The same outputs, from this process and its basic launcher."""
    return Shell(tmp_path, monkeypatch, capfd)


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
    done = Command(tmp_path, *JOBLIB, *wide, OMP_NUM_THREADS="")
    assert done.end() == 2, done.err
    assert done.err.count("  done  ") == 2
    assert "2 of 4 done  best " in done.err
    assert done.err.count("failed (2)") == 2
    assert "d_model=256 is not a multiple of n_heads=3" in done.err
    assert "Traceback" not in done.err
    assert len(done.runs()) == 2
    cpus = len(os.sched_getaffinity(0))
    assert {read(path / "run.json")["chosen"]["threads"] for path in done.runs()} == {
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
    sweep = Command(tmp_path, *JOBLIB, "train.steps=2", "seed=0,1,2,3")
    children = Path(f"/proc/{sweep.process.pid}/task/{sweep.process.pid}/children")
    while len(children.read_text().split()) < 2:  # loky's tracker is the first
        time.sleep(0.005)
    time.sleep(delay_s)
    os.killpg(sweep.process.pid, signal.SIGINT)
    assert sweep.end() == 130, sweep.err
    assert "Traceback" not in sweep.err
    assert "not started" in sweep.err


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
    first = Command(tmp_path, *jobs)
    while not (
        saved := list((tmp_path / "outputs").glob("*steps300-*/checkpoints/step_*/manifest.json"))
    ):
        assert first.process.poll() is None, first.process.communicate()[1]
        time.sleep(0.02)
    victim = saved[0].parents[2]
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
    command = Command(tmp_path, *JOBLIB, *LONG, "checkpoint.every=50", "seed=0,1,2")
    command.wait_for_steps(2)
    command.process.send_signal(signal.SIGTERM)
    assert command.end() == 143, command.err
    assert command.err.count("unfinished, saved at step") == 2
    assert command.err.count("not started") == 1
    assert all("stopped at step" in (path / "train.log").read_text() for path in command.runs())


@pytest.mark.slow
def test_slurm_submits_one_script_and_a_job_near_its_end_saves_goes_back_to_the_queue_and_resumes(
    tmp_path: Path, shell: Shell
) -> None:
    commands = slurm.install(tmp_path / "slurm")
    state = tmp_path / "slurm" / "state"
    jobs = ["hydra/launcher=slurm", "hydra.launcher.partition=debug", "optim=muon,adamw"]
    jobs += ["train.steps=400", "eval.every=null", "log.every=50", "checkpoint.every=null"]
    command = Command(tmp_path, *jobs, PATH=f"{commands}:{os.environ['PATH']}")
    while not (
        told := [
            path for path in command.runs() if "muon" in path.name and (path / "lock").exists()
        ]
    ) or ("train/loss" not in (told[0] / "metrics.jsonl").read_text()):
        assert command.process.poll() is None, command.process.communicate()[1]
        time.sleep(0.02)
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
    log = (told[0] / "train.log").read_text()
    assert "stopped at step" in log
    assert "resuming at step" in log
    assert shell("train", "-m", *SMALL, *jobs[2:]) == 0, shell.err
    assert shell.err.count("already finished") == 2


@pytest.mark.slow
def test_four_jobs_on_a_local_ray(tmp_path: Path) -> None:
    pytest.importorskip(
        "hydra_plugins.hydra_ray_launcher", reason="needs the extra: pip install hydra-ray-launcher"
    )
    sweep = Command(tmp_path, "hydra/launcher=ray", "seed=0,1,2,3")
    assert sweep.end() == 0, sweep.err
    assert sweep.err.count("  done  ") == 4
    assert "validation loss" not in sweep.out + sweep.err, "jobs are quiet beside each other"
    assert len(sweep.runs()) == 4


def test_without_slurm_or_without_the_plugins_one_line_says_what_to_do(tmp_path: Path) -> None:
    nowhere = Command(tmp_path, "hydra/launcher=slurm", "seed=0,1", PATH="/nonexistent")
    assert nowhere.end() == 2
    assert "no Slurm here: hydra/launcher=slurm" in nowhere.err
    for launcher, plugin in (("ray", "hydra-ray-launcher"), ("slurm", "hydra-submitit-launcher")):
        code = (
            "import runpy, sys\nsys.modules['hydra_plugins'] = None\n"
            f"sys.argv = ['train.py', '-m', 'hydra/launcher={launcher}',\n"
            "    'hydra.launcher.n_jobs=2', 'seed=0,1']\n"
            "runpy.run_path('train.py', run_name='__main__')\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        expected = (
            f"error: missing package: hydra/launcher={launcher} needs {plugin} "
            f"(pip install {plugin})"
        )
        assert done.stderr.strip() == expected


def test_a_sweep_under_torchrun_is_refused(tmp_path: Path) -> None:
    command = Command(tmp_path, "seed=0,1", TORCHELASTIC_RUN_ID="x", LOCAL_RANK="0")
    assert command.end() == 2
    assert "sweep under torchrun" in command.err
    assert not (tmp_path / "outputs").exists()
