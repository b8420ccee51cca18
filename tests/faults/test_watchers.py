"""Whoever watches a run may vanish, fill up or hang at any write: the same bits, exit code 0."""

import os
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from driver import SIX, Pool, Straight, all_or_every, result, run_folder
from fault_table import Tries
from runs import ROOT, SMALL, Shell

from minigpt.run import answer


def finished_unharmed(
    pool: Pool, folder: Path, arguments: list[str], straight: Straight, **options: object
) -> str:
    """Run with some disturbance; returns what was said."""
    outcome = pool.run(folder, arguments, **options)  # type: ignore[arg-type]
    assert outcome.code == 0, outcome.said
    assert result(run_folder(folder)) == straight[0]
    assert "Traceback" not in outcome.said
    return outcome.said


@pytest.mark.faults(51)
@all_or_every(30)
@pytest.mark.parametrize("action", ["EPIPE", "ENOSPC", "HANG"])
def test_every_write_to_stdout_and_stderr_may_fail_or_hang(
    pool: Pool,
    tmp_path: Path,
    tokens: list[str],
    straight: Straight,
    every: int,
    action: str,
    tries: Tries,
) -> None:
    """Both lead to one log here, and its writes are counted."""
    counted = pool.run(tmp_path / "counted", [*SIX, *tokens], root="../counted.log")
    assert counted.operations
    assert {name.split()[0] for name in counted.operations} == {"write"}

    def one(at: int) -> None:
        for lasting in (False, True):
            folder = tmp_path / f"{at} {lasting}"
            with tries.one():
                finished_unharmed(
                    pool, folder, [*SIX, *tokens], straight,
                    at=at, action=action, lasting=lasting, root=f"../{folder.name}.log",
                )  # fmt: skip

    pool.each(one, range(1, len(counted.operations) + 1, every * (12 if action == "HANG" else 1)))


@contextmanager
def pipe_that_nobody_reads(folder: Path) -> Iterator[str]:
    """A pipe that is full already."""
    path = folder / "pipe"
    os.mkfifo(path)
    end = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(end, b"x" * 1024)
    yield str(path)
    os.close(end)


@contextmanager
def terminal(manner: str) -> Iterator[tuple[str, bytearray]]:
    """A terminal and what it showed; its other side reads, closes after a little, or hangs."""
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (24, 100))  # without a size there is no bar
    shown = bytearray()

    def read() -> None:
        with suppress(OSError):
            while (manner == "reads" or not shown) and (some := os.read(master, 1024)):
                shown.extend(some)
        os.close(master)

    if manner == "hangs":
        os.set_blocking(slave, False)
        with suppress(BlockingIOError):
            while True:
                os.write(slave, b"x")
        yield os.ttyname(slave), shown
        os.close(slave)
        os.close(master)
        return
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    yield os.ttyname(slave), shown
    with suppress(OSError):  # closed on the other side
        os.close(slave)
    reader.join()


@pytest.mark.faults(51)
@pytest.mark.parametrize("which", [1, 2])
@pytest.mark.parametrize("where", [None, "/dev/full", "pipe"], ids=["closed", "full", "pipe"])
def test_stdout_or_stderr_is_closed_full_or_not_read(
    pool: Pool, tmp_path: Path, tokens: list[str], straight: Straight, which: int, where: str | None
) -> None:
    folder = tmp_path / "run"
    arguments = [*SIX, *tokens]
    if where == "pipe":
        with pipe_that_nobody_reads(tmp_path) as place:
            finished_unharmed(pool, folder, arguments, straight, watchers={which: place})
        return
    said = finished_unharmed(pool, folder, arguments, straight, watchers={which: where})
    expected = "warning: cannot write: stdout: No space left on device (the work is done)"
    assert (expected in said) == (which == 1 and where == "/dev/full")


@pytest.mark.faults(51)
@pytest.mark.parametrize("manner", ["reads", "closes", "hangs"])
def test_a_terminal_with_a_bar(
    pool: Pool, tmp_path: Path, tokens: list[str], straight: Straight, manner: str
) -> None:
    with terminal(manner) as (name, shown):
        finished_unharmed(pool, tmp_path / "run", [*SIX, *tokens], straight, watchers={2: name})
    assert (b"tokens/s" in shown) == (manner == "reads")
    assert (b"step/s" in shown) == (manner == "reads"), "a bar"


def started(
    folder: Path, redirection: str, *arguments: str, before: str = ""
) -> subprocess.CompletedProcess[str]:
    """train.py as a shell of a user starts it, with its output redirected."""
    command = [
        sys.executable, str(ROOT / "train.py"), *SMALL, "train.steps=4", "data=one_play",
        "output_dir=outputs", *arguments,
    ]  # fmt: skip
    line = " ".join(f"'{part}'" for part in command)
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {before}{line} {redirection}"],
        cwd=folder, check=False, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.faults(51)
@pytest.mark.parametrize(
    "redirection",
    [
        "2>&1 | head -n 1",
        ">&- 2>&- <&-",
        pytest.param(">/dev/full 2>/dev/full", marks=pytest.mark.slow),
        pytest.param("2>&-", marks=pytest.mark.slow),
    ],
)
def test_the_exit_code_of_a_whole_process_says_that_the_run_finished(
    tmp_path: Path, redirection: str
) -> None:
    """Nothing fails when Python itself ends and flushes, either."""
    done = started(tmp_path, redirection)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("outputs/*/summary.json"))) == 1
    assert done.stderr == ""


@pytest.mark.faults(51)
@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param([], id="basic"),
        pytest.param(
            ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
            id="joblib",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_sweep_whose_reader_goes_does_every_job(tmp_path: Path, launcher: list[str]) -> None:
    done = started(tmp_path, "2>&1 | head -n 1", "-m", "seed=0,1", *launcher)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("outputs/*/summary.json"))) == 2


@pytest.mark.faults(51)
def test_text_that_the_encoding_lacks_is_escaped(
    tmp_path: Path, pool: Pool, tokens: list[str]
) -> None:
    assert pool.run(tmp_path, [*SIX, *tokens]).code == 0
    latin = {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "latin-1", "OMP_NUM_THREADS": "1"}
    arguments = [f"run={run_folder(tmp_path)}", "max_new_tokens=1", "prompt=é🎭"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "generate.py"), *arguments],
        env={**os.environ, **latin}, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"\xe9\\U0001f3ad")


@pytest.mark.faults(51)
@pytest.mark.parametrize(
    ("stdout", "code", "said"),
    [
        ("gone", 141, None),
        ("/dev/full", 6, "No space left on device"),
        (None, 6, "Bad file descriptor"),
    ],
)
def test_a_command_that_answers_on_stdout_says_when_it_is_lost(
    pool: Pool, tmp_path: Path, tokens: list[str], stdout: str | None, code: int, said: str | None
) -> None:
    assert pool.run(tmp_path / "run", [*SIX, *tokens]).code == 0
    arguments = [f"run={run_folder(tmp_path / 'run')}", "max_new_tokens=100000"]
    if stdout == "gone":
        stdout = str(tmp_path / "pipe")
        os.mkfifo(stdout)
        reader = os.open(stdout, os.O_RDONLY | os.O_NONBLOCK)
        threading.Thread(target=close_once_readable, args=[reader], daemon=True).start()
    outcome = pool.run(
        tmp_path / "generate", arguments, script="generate", direct=False, watchers={1: stdout}
    )
    assert outcome.code == code, outcome.said
    error = f"error: cannot write: stdout: {said} (what was printed is cut short)\n"
    assert outcome.said.partition("\n")[2] == (error if said else "")


def close_once_readable(descriptor: int) -> None:
    select.select([descriptor], [], [])
    os.close(descriptor)


@pytest.mark.faults(8, 51)
def test_nohup_holds(tmp_path: Path) -> None:
    """A hangup that arrives ignored stays ignored; other signals are heard."""
    arguments = [
        *SMALL, "train.steps=100_000", "eval.every=null", f"output_dir={tmp_path}",
        f"data_dir={tmp_path / 'tokens'}",
    ]  # fmt: skip
    with open(tmp_path / "said", "w") as said:
        command = ["nohup", sys.executable, "train.py", *arguments]
        process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)
        while "step " not in (tmp_path / "said").read_text():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGHUP)
        steps = (tmp_path / "said").read_text().count("\n") + 5
        while (tmp_path / "said").read_text().count("\n") < steps:
            assert process.poll() is None, "the hangup was heard"
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143
    assert "stopped by SIGTERM" in (tmp_path / "said").read_text()


@pytest.mark.faults(8)
def test_a_hangup_between_two_jobs_starts_no_other(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., None] = answer.print_outcome

    def report(*arguments: object) -> None:
        real(*arguments)
        os.kill(os.getpid(), signal.SIGHUP)

    monkeypatch.setattr("minigpt.run.answer.print_outcome", report)
    assert shell("train", "-m", *SMALL, "seed=0,1,2") == 143
    assert len(shell.runs()) == 1
    assert shell.err.count("not started") == 2


@pytest.mark.faults(6, 51)
def test_a_command_that_waits_for_a_reader_hears_signals(
    pool: Pool, tmp_path: Path, tokens: list[str]
) -> None:
    assert pool.run(tmp_path / "run", [*SIX, *tokens]).code == 0
    arguments = [f"run={run_folder(tmp_path / 'run')}", "max_new_tokens=10"]
    with pipe_that_nobody_reads(tmp_path) as place:
        outcome = pool.run(
            tmp_path / "generate", arguments, script="generate", direct=False,
            watchers={1: place}, signals=[(1.5, "SIGTERM")],
        )  # fmt: skip
    assert outcome.code == 143, outcome.said
    assert "Traceback" not in outcome.said
