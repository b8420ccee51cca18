"""Runs of the scripts in warm processes, killed and disturbed, and what they left behind."""

import hashlib
import json
import os
import queue
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from runs import ROOT, SMALL, rows

from minigpt.checkpoint.layout import steps_on_disk
from minigpt.checkpoint.load import newest_checkpoint, verify_checkpoint

HERE = Path(__file__).parent
# An uninterrupted run: what it ends with, and its file operations.
Straight = tuple[dict[str, Any], list[str]]
# A run in six steps: accumulation, evaluation, samples, three checkpoints and two prunings.
SIX = [
    *SMALL, "train.steps=6", "train.micro_batch_size=4", "model.n_layers=1", "model.dropout=0.1",
    "eval.every=3", "eval.tokens=64", "sample.every=4", "sample.max_new_tokens=4",
    "checkpoint.every=2", "checkpoint.keep=1", "checkpoint.keep_optimizer=true",
    "output_dir=outputs", "data@stand_in=files", "data/tokenizer@stand_in.tokenizer=byte",
]  # fmt: skip
# Keys of a checkpoint's state that a clock decides: the length of a line follows its digits.
CLOCKS = {"seconds", "metrics_bytes", "metrics_sha256", "minigpt"}


@dataclass
class Outcome:
    code: int  # exit code, or minus the number of the signal
    operations: list[str] | None  # file operations; None if it was killed
    said: str  # on stdout and stderr


class WarmProcess:
    """See warm.py; one request at a time."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "warm.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment,
        )  # fmt: skip

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the warm process died; see its traceback"
        return json.loads(answer)

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


class Pool:
    """As many warm processes as work is wanted at once."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.everyone = [WarmProcess() for _ in range(size)]
        self.idle: queue.Queue[WarmProcess] = queue.Queue()
        for process in self.everyone:
            self.idle.put(process)

    def run(
        self,
        folder: Path,
        arguments: list[str],
        *,
        script: str = "train",
        direct: bool = True,
        at: int | None = None,
        action: str = "KILL",
        lasting: bool = False,
        signals: Iterable[tuple[float, str]] = (),
        root: str = ".",
        environment: dict[str, str] | None = None,
        watchers: dict[int, str | None] | None = None,
        name: str = "",
    ) -> Outcome:
        """One run with `folder` as its working folder (made if it is missing).

        at, action, lasting: the fault (injector.py), among the operations below folder/root.
        signals: (seconds after the start, name), sent from outside.
        watchers: where stdout (1) and stderr (2) lead instead of to the log; None: it is closed.
        direct: without Hydra's composition, which is done once for all.
        name: of a process that shares its folder with others.
        """
        folder.mkdir(parents=True, exist_ok=True)
        log = folder.with_name(f"{folder.name}{name}.log")
        fault = {"root": str(folder / root), "at": at, "action": action, "lasting": lasting}
        request = {
            "script": script, "arguments": arguments, "folder": str(folder), "log": str(log),
            "direct": direct, "fault": fault, "signals": list(signals),
            "environment": environment or {}, "watchers": watchers or {},
        }  # fmt: skip
        process = self.idle.get()
        try:
            answer = process.ask(request)
        finally:
            self.idle.put(process)
        return Outcome(answer["code"], answer["operations"], log.read_text(errors="replace"))

    def each(self, work: Callable[[Any], None], items: Iterable[Any]) -> None:
        """work(item) for each, as many at once as there are processes; raises the first error."""
        with ThreadPoolExecutor(self.size) as threads:
            for _ in threads.map(work, items):
                pass

    def close(self) -> None:
        for process in self.everyone:
            process.close()


def all_or_every(number: int) -> pytest.MarkDecorator:
    """Parametrizes `every`: 1 for the whole list of faults, `number` for the default selection."""
    few = pytest.param(number, marks=pytest.mark.shorter)
    return pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), few])


def run_folder(folder: Path) -> Path:
    """The only run below a working folder."""
    (found,) = (path.parent for path in (folder / "outputs").glob("*/run.json"))
    return found


def result(folder: Path) -> dict[str, Any]:
    """All of a finished run that must be equal to the bit.

    Hashes of tensors, the other state, the logged rows.
    """
    found = newest_checkpoint(folder / "checkpoints")
    assert found is not None
    state = {key: value for key, value in found.state.items() if key not in CLOCKS}
    hashes = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(found.folder.glob("*.safetensors"))
    }  # fmt: skip
    summary = json.loads((folder / "summary.json").read_text())
    figures = ("status", "step", "tokens", "val_loss", "skipped_steps")
    return {
        "checkpoints": [path.name for path in steps_on_disk(folder / "checkpoints")],
        "tensors": hashes,
        "optimizer": json.loads((found.folder / "state.json").read_text())["optimizer"],
        "state": state,
        "rows": rows(folder),
        "summary": {key: summary[key] for key in figures},
    }


def leftovers(folder: Path) -> list[str]:
    """Unpublished files and folders that nobody removed."""
    return [str(path.relative_to(folder)) for path in folder.rglob(".tmp-*")]


def goes_on(
    pool: Pool, folder: Path, arguments: list[str], expected: dict[str, Any], story: str = "",
    **options: Any,
) -> str:  # fmt: skip
    """The same command ends in the bits of an uninterrupted run. Returns what it said.

    story: what had happened.
    """
    again = pool.run(folder, arguments, **options)
    assert again.code == 0, f"{story}\n{again.said}"
    assert "damaged" not in again.said
    assert result(run_folder(folder)) == expected, f"{story}\n{again.said}"
    assert leftovers(folder) == []
    return again.said


def no_half_checkpoint(folder: Path) -> None:
    """Whatever has a checkpoint's name is one, at every instant."""
    for found in (folder / "outputs").glob("*/checkpoints/step_*"):
        verify_checkpoint(found)
