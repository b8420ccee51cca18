"""Every test runs without a network, without a wandb key, and with few threads on tiny models."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fault_table import Tries, table
from runs import Shell, in_a_line, tell
from studies import Compare, Study

os.environ.update(
    WANDB_MODE="offline", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", WANDB_SILENT="true"
)
os.environ.pop("WANDB_API_KEY", None)
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as commands set it; torch is imported later
# Tests compute on the CPU, to the bit, and fork. What needs a GPU is a process with `gpu`.
os.environ.setdefault("MINIGPT_TESTS_GPU", os.environ.get("CUDA_VISIBLE_DEVICES", "0"))
os.environ["CUDA_VISIBLE_DEVICES"] = ""

ROOT = Path(__file__).parent.parent
TRIES = pytest.StashKey[Tries]()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Shell:
    """The scripts as a shell would run them, with folders of their own."""
    return Shell(tmp_path, monkeypatch, capfd)


@pytest.fixture
def other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Shell:
    """Another shell, with other folders."""
    (tmp_path / "other").mkdir()
    return Shell(tmp_path / "other", monkeypatch, capfd)


@pytest.fixture(scope="session")
def memory_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that lies in memory where it can."""
    if not os.path.isdir("/dev/shm"):
        yield tmp_path_factory.mktemp("memory")
        return
    folder = Path(tempfile.mkdtemp(prefix="minigpt-tests-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


@cache
def _with_gpu() -> dict[str, str] | None:
    """The environment of a process that may use a GPU, None without one."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": os.environ["MINIGPT_TESTS_GPU"]}
    ask = [sys.executable, "-c", "import torch; print(torch.cuda.is_available())"]
    there = subprocess.run(ask, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    return environment if there.stdout.split()[-1] == "True" else None


@pytest.fixture(scope="session")
def gpu() -> dict[str, str]:
    """The environment of a process that may use a GPU; this one and its forks see none."""
    if (environment := _with_gpu()) is None:
        pytest.skip("there is no CUDA device here")
    return environment


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """cuda; cpu where the tests for a GPU are rehearsed without one."""
    if not os.environ.get("MINIGPT_REHEARSAL"):
        request.getfixturevalue("gpu")
    return "cpu" if os.environ.get("MINIGPT_REHEARSAL") else "cuda"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        tell({"test": report.location[2], "result": report.longrepr[2]})
    elif report.failed:
        why = str(getattr(getattr(report.longrepr, "reprcrash", None), "message", ""))
        tell({"test": report.location[2], "result": f"FAILED: {in_a_line(why)}"})
    elif report.when == "call":
        tell({"test": report.location[2], "result": "passed", "s": report.duration})


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Run folders without training."""
    return Study(tmp_path / "outputs")


@pytest.fixture
def compare(study: Study, capsys: pytest.CaptureFixture[str]) -> Compare:
    """`python -m minigpt.compare` on them, as a shell would run it."""
    return Compare(study.folder, capsys)


@pytest.fixture(autouse=True)
def _no_signal_left() -> None:
    from minigpt import interrupt

    interrupt.clear()


@pytest.fixture(autouse=True)
def _no_wandb_service_left() -> Iterator[None]:
    """A process that a test starts must not join wandb's service of a run in this process."""
    yield
    os.environ.pop("WANDB_SERVICE", None)


@pytest.fixture
def tries(request: pytest.FixtureRequest) -> Tries:
    """Counts the tries of a test marked `faults(1, 3)`; without it the test counts as one."""
    return request.node.stash[TRIES]


def pytest_configure(config: pytest.Config) -> None:
    # the whole list, slow parts included, but nothing that needs a device
    if config.option.markexpr == "faults":
        config.option.markexpr = "faults and not gpu and not shorter"


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two workers for whole folders; none on one core, and none for files that are named.

    Those are done before a worker has started.
    """
    named = any(".py" in argument for argument in config.args)
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return 0 if named or cores < 2 else 2


def pytest_runtest_setup(item: pytest.Item) -> None:
    faults = {fault for mark in item.iter_markers("faults") for fault in mark.args}
    item.stash[TRIES] = Tries(sorted(faults))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Iterator[None]:
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if report.when == "call" and not report.skipped:
        report.user_properties.append(("faults", item.stash[TRIES].result(report.passed)))
    return report  # type: ignore[return-value]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if not config.option.markexpr.startswith("faults"):
        return
    stats = terminalreporter.stats
    reports = [*stats.get("passed", []), *stats.get("failed", [])]
    results = [
        value for report in reports for name, value in report.user_properties if name == "faults"
    ]
    terminalreporter.section("faults")
    for line in table(results):
        terminalreporter.write_line(line)
