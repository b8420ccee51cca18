"""wandb missing, without a key, out of reach, killed, hanging: the run is the one without it."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from driver import SIX, Straight, result, run_folder
from runs import ROOT, SMALL

# What happens to wandb, as code that runs before train.py.
MISSING = """
import os, pathlib
pathlib.Path("broken").mkdir()
pathlib.Path("broken/wandb.py").write_text("raise ImportError('no wandb here')")
os.environ["PYTHONPATH"] = os.path.abspath("broken")
"""
SIGNALLED = """
import os, signal
from minigpt.logger.wandb import WandbLogger
log, rows = WandbLogger.log, []
def disturbed(self, row):
    rows.append(row)
    if len(rows) == 3:
        self._sending.wait()
        for number in (self._process.process.pid, *self._process._service):
            os.kill(number, signal.{name})
    log(self, row)
WandbLogger.log = disturbed
"""
FAKE_KEY = "0123456789" * 4
NOBODY = "http://127.0.0.1:9"  # the port of "discard": nothing listens


def variables(home: Path, changes: dict[str, str]) -> dict[str, str]:
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": str(home)}
    return {key: value for key, value in {**os.environ, **own, **changes}.items() if value}


def command(
    folder: Path, tokens: list[str], before: str = "", *arguments: str, **environment: str
) -> tuple[str, float]:
    """What a whole run said on stderr, and the seconds that it took.

    before: code that runs first.  environment: variables; an empty one is not set.
    """
    code = f"import sys\n{before}\nsys.argv[0] = 'train.py'\nimport train\nsys.exit(train.main())"
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, *SIX, *tokens, *arguments],
        cwd=folder, env=variables(folder, environment), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr, time.monotonic() - begin


@pytest.fixture
def drips() -> Iterator[dict[str, str]]:
    """A server whose answer never ends, a byte at a time; as variables of the environment."""

    def serve(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
            connection.sendall(b"Content-Length: 100000\r\n\r\n")
            while not ended.wait(0.5):
                connection.sendall(b" ")

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=[listening.accept()[0]], daemon=True).start()

    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        port = listening.getsockname()[1]
        yield {
            "WANDB_MODE": "",
            "WANDB_API_KEY": FAKE_KEY,
            "WANDB_BASE_URL": f"http://127.0.0.1:{port}",
        }
        ended.set()
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.faults(49)
def test_a_server_that_drips_costs_what_is_promised(
    tmp_path: Path, tokens: list[str], straight: Straight, drips: dict[str, str]
) -> None:
    """Two seconds, then offline; what wandb's own hooks would wait for at the end costs nothing."""
    mirrored = ["logger=wandb", f"logger.folder={tmp_path}/wandb", "logger.timeout_s=2"]
    err, lasted = command(tmp_path, tokens, "", *mirrored, **drips)
    assert result(run_folder(tmp_path)) == straight[0]
    assert "warning: wandb (online) did not start: no answer for 2 s" in err
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert lasted < 60, "it was 108 s"


@pytest.mark.faults(6, 49)
def test_a_stop_signal_does_not_wait_for_a_server(tmp_path: Path, drips: dict[str, str]) -> None:
    arguments = [
        *SMALL, "train.steps=100_000", "eval.every=null", "data=one_play", "output_dir=outputs",
        "logger=wandb", "logger.timeout_s=600", "logger.finish_timeout_s=600",
    ]  # fmt: skip
    with open(tmp_path / "said", "w") as said:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *arguments],
            cwd=tmp_path, env=variables(tmp_path, drips), stdout=said, stderr=said,
        )  # fmt: skip
        while "step " not in (tmp_path / "said").read_text():
            assert process.poll() is None, (tmp_path / "said").read_text()
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=100) == 143
    assert "warning: wandb stopped: no answer for 5 s" in (tmp_path / "said").read_text()


@pytest.fixture(scope="session")
def usual_s(fault_folder: Path, tokens: list[str]) -> float:
    """Seconds of the same run without wandb, here and now."""
    folder = fault_folder / "without wandb"
    folder.mkdir()
    return command(folder, tokens)[1]


OFFLINE = {"WANDB_MODE": ""}
OUT_OF_REACH = {**OFFLINE, "WANDB_API_KEY": FAKE_KEY, "WANDB_BASE_URL": NOBODY}
KILLED, STOPPED = SIGNALLED.format(name="SIGKILL"), SIGNALLED.format(name="SIGSTOP")
SLOW = pytest.mark.slow


@pytest.mark.faults(49)
@pytest.mark.parametrize(
    ("before", "environment", "said", "delay_s"),
    [
        pytest.param(MISSING, {}, "did not start", 0, id="no package", marks=SLOW),
        pytest.param("", OFFLINE, None, 0, id="no key"),
        pytest.param("", OUT_OF_REACH, "(online) did not start", 20, id="out of reach", marks=SLOW),
        pytest.param(KILLED, {}, "wandb stopped", 0, id="killed", marks=SLOW),
        pytest.param(STOPPED, {}, "no answer for 2 s", 2, id="hangs", marks=SLOW),
    ],
)
def test_wandb_can_neither_stop_nor_change_a_run(
    tmp_path: Path, tokens: list[str], straight: Straight, usual_s: float,
    before: str, environment: dict[str, str], said: str | None, delay_s: float,
) -> None:  # fmt: skip
    mirrored = ["logger=wandb", f"logger.folder={tmp_path}/wandb"]
    mirrored += ["logger.timeout_s=2", "logger.finish_timeout_s=2"]
    err, lasted = command(tmp_path, tokens, before, *mirrored, **environment)
    assert lasted < 5 * usual_s + 10 + delay_s, "the stated delays, and the start of wandb"
    assert result(run_folder(tmp_path)) == straight[0]
    warnings = [line for line in err.splitlines() if "wandb" in line]
    assert warnings == [] if said is None else any(said in line for line in warnings), err
    if "package" not in (said or "") and before != MISSING:
        logged = list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
        assert logged, "what was logged lies on the disk"
