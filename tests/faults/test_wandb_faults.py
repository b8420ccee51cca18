"""wandb missing, without a key, out of reach, killed, hanging: the run is the one without it, and not much later."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from driver import SIX, Straight, result, run_folder
from runs import ROOT

# What happens to wandb, as code that runs before train.py.
MISSING = "sys.modules['wandb'] = None"
SIGNALLED = """
import os, signal
from minigpt.logger.wandb import WandbLogger
log, rows = WandbLogger.log, []
def disturbed(self, row):
    rows.append(row)
    if len(rows) == 3:
        from wandb.sdk import wandb_setup
        os.kill(wandb_setup.singleton()._connection._proc._process.pid, signal.{name})
    log(self, row)
WandbLogger.log = disturbed
"""
FAKE_KEY = "0123456789" * 4
NOBODY = "http://127.0.0.1:9"  # the port of "discard": nothing listens


def command(
    folder: Path, tokens: list[str], before: str = "", *arguments: str, **environment: str
) -> tuple[str, float]:
    """What a whole run said on stderr, and the seconds that it took; `before` is code that comes first."""
    code = f"import sys\n{before}\nsys.argv[0] = 'train.py'\nimport train\nsys.exit(train.main())"
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": str(folder), **environment}
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, *SIX, *tokens, *arguments],
        cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120,
        env={key: value for key, value in variables.items() if value},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr, time.monotonic() - begin


@pytest.fixture(scope="session")
def usual_s(fault_folder: Path, tokens: list[str]) -> float:
    """Seconds of the same run without wandb, here and now."""
    folder = fault_folder / "without wandb"
    folder.mkdir()
    return command(folder, tokens)[1]


@pytest.mark.faults(49)
@pytest.mark.parametrize(
    ("before", "environment", "said", "delay_s"),
    [
        pytest.param(MISSING, {}, "did not start", 0, id="no package", marks=pytest.mark.slow),
        pytest.param("", {"WANDB_MODE": ""}, None, 0, id="no key"),
        pytest.param(
            "", {"WANDB_MODE": "", "WANDB_API_KEY": FAKE_KEY, "WANDB_BASE_URL": NOBODY}, "(online) did not start", 20,
            id="out of reach", marks=pytest.mark.slow,
        ),
        pytest.param(SIGNALLED.format(name="SIGKILL"), {}, "wandb stopped", 0, id="killed", marks=pytest.mark.slow),
        pytest.param(SIGNALLED.format(name="SIGSTOP"), {}, "no answer for 2 s", 2, id="hangs", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_wandb_can_neither_stop_nor_change_a_run(
    tmp_path: Path, tokens: list[str], straight: Straight, before: str, environment: dict[str, str], said: str | None,
    delay_s: float, usual_s: float,
) -> None:  # fmt: skip
    mirrored = ["logger=wandb", f"logger.folder={tmp_path}/wandb", "logger.timeout_s=2", "logger.finish_timeout_s=2"]
    err, lasted = command(tmp_path, tokens, before, *mirrored, **environment)
    assert lasted < 5 * usual_s + 10 + delay_s, "the stated delays, and the start of wandb"
    assert result(run_folder(tmp_path)) == straight[0]
    warnings = [line for line in err.splitlines() if "wandb" in line]
    assert warnings == [] if said is None else any(said in line for line in warnings), err
    if "package" not in (said or "") and before != MISSING:
        assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb")), "what was logged lies on the disk"
