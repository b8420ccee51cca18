"""Fault 38: a preparation killed at any file operation and started again ends with the same bytes.

A forked child of this (warm) process wraps the operations and kills itself with SIGKILL at the
n-th: before it, or, for a write, halfway through its bytes. A few true processes are killed at
random moments, too.
"""

import builtins
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corpora import Memory, stories
from fault_table import Tries
from runs import contents

from minigpt.data import encoding
from minigpt.data.prepare import prepare
from minigpt.tokenizer.char import Char

pytestmark = [pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")]

OPERATIONS = ["open", "write", "pwrite", "fsync", "replace", "rename"]
OPERATIONS += ["unlink", "mkdir", "truncate", "rmdir"]
TEXTS = stories(12)


def work(folder: Path) -> None:
    # One thread: it would not survive the fork. What must be kept includes odd documents' counts.
    source = Memory([*TEXTS[:6], None, "", *TEXTS[6:], "a\0b", None, " "])
    prepare(source, Char(), folder, val_fraction=0.2, shard_tokens=300)


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "BATCH_CHARACTERS", 350)


class Killer:
    """Counts file operations; at number `at` the process dies."""

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.count = 0

    def wrap(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.count == self.at:
                if name in ("write", "pwrite"):
                    operation(
                        arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2], *arguments[2:]
                    )
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*arguments, **options)

        return wrapped

    def install(self) -> None:
        for name in OPERATIONS:
            setattr(os, name, self.wrap(name, getattr(os, name)))
        builtins.open = self.wrap("io.open", builtins.open)  # type: ignore[assignment]


def in_child(folder: Path, at: int | None) -> int:
    """Run the work in a child that dies at operation `at`; returns their number, -1 if killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            report = os.write
            killer = Killer(at)
            killer.install()
            work(folder)
            report(writing, str(killer.count).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return -1
    assert said, "the child failed; see its traceback"
    return int(said)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "BATCH_CHARACTERS", 350)
        work(folder)
    return contents(folder)


@pytest.mark.faults(38)
def test_killed_at_every_file_operation(
    tmp_path: Path, expected: dict[str, bytes], tries: Tries
) -> None:
    operations = in_child(tmp_path / "counted", None)
    assert operations > 80
    assert len([name for name in expected if name.endswith(".bin")]) > 4
    for at in range(1, operations + 1):
        folder = tmp_path / str(at)
        with tries.one():
            assert in_child(folder, at) == -1
            published = contents(folder) if folder.exists() else {}
            for name in published.keys() & expected.keys():
                if "/" not in name:
                    assert published[name] == expected[name], (
                        f"partial {name} visible after operation {at}"
                    )
            work(folder)
            assert contents(folder) == expected, f"killed at operation {at}"


@pytest.mark.faults(38)
def test_killed_again_and_again(tmp_path: Path, expected: dict[str, bytes]) -> None:
    """Several kills in a row, each at another operation of what is left to do."""
    rng = random.Random(0)
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        kills = 0
        while in_child(folder, rng.randrange(1, 60)) == -1:
            kills += 1
            assert kills < 200, "no progress"
        assert contents(folder) == expected


@pytest.mark.faults(38, 39)
def test_true_processes_killed_at_random_moments(tmp_path: Path) -> None:
    """With threads and the trained tokenizer."""
    code = (
        "import sys\n"
        "from minigpt.data import encoding\n"
        "from minigpt.data.prepare import prepare\n"
        "from minigpt.data.copy_task import CopyTask\n"
        "from minigpt.tokenizer.fast_bpe import BPE\n"
        "encoding.BATCH_CHARACTERS = 2000\n"
        "print('ready', flush=True)\n"
        "options = {'workers': 2, 'shard_tokens': 2000}\n"
        "prepare(CopyTask(3000), BPE(400), sys.argv[1], **options)\n"
    )
    command = [sys.executable, "-c", code]
    subprocess.run([*command, str(tmp_path / "straight")], check=True, stdout=subprocess.DEVNULL)
    rng = random.Random(1)
    folder = tmp_path / "killed"
    kills = 0
    while True:
        with subprocess.Popen(
            [*command, str(folder)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(rng.uniform(0.05, 0.4 + 0.1 * kills))  # a busy machine needs longer
            process.kill()
        if process.returncode == 0 or (folder / "manifest.json").exists():
            break
        kills += 1
        assert kills < 30, "no progress"
    subprocess.run([*command, str(folder)], check=True, stdout=subprocess.DEVNULL)
    assert kills > 0
    assert contents(folder) == contents(tmp_path / "straight")
