"""Drive the scripts in this process as a shell would: arguments in, exit code and output out."""

import importlib.util
import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from minigpt import interrupt
from minigpt.checkpoint.save import entry_of, manifest_bytes

ROOT = Path(__file__).parent.parent
# A run of well under a second; everything below can be overridden by the arguments that follow.
SMALL = [
    "debug=smoke",
    "train.device=cpu",
    "train.steps=12",
    "model.d_model=32",
    "model.max_seq_len=16",
    "log.every=1",
    "eval.every=4",
]


def load_script(path: Path) -> ModuleType:
    """A script that is no module, as one; it finds what lies beside it."""
    specification = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[module.__name__] = module
    sys.path.insert(0, str(path.parent))
    try:
        specification.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


class Shell:
    """`shell("train", "model=tiny")` -> exit code; `out` and `err` hold what it printed."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        self.folder, self.monkeypatch, self.capfd = folder, monkeypatch, capfd
        self.out = self.err = ""

    def __call__(self, script: str, *arguments: str) -> int:
        module = load_script(ROOT / f"{script}.py")
        places = [f"output_dir={self.folder / 'outputs'}"] if script != "preprocess" else []
        places += [f"data_dir={self.folder / 'tokens'}"] if script != "generate" else []
        self.monkeypatch.setattr(sys, "argv", [f"{script}.py", *places, *arguments])
        before = {number: signal.getsignal(number) for number in interrupt.SIGNALS}
        cli_log = logging.getLogger("minigpt")
        handlers, cli_log.handlers = cli_log.handlers, []
        try:
            code = module.main()
        finally:
            cli_log.handlers = handlers
            interrupt.clear()
            for number, handler in before.items():
                signal.signal(number, handler)
        self.out, self.err = self.capfd.readouterr()
        return code

    def command(self, *arguments: str) -> list[str]:
        """train.py with these folders, for a process of its own."""
        places = [f"output_dir={self.folder / 'outputs'}", f"data_dir={self.folder / 'tokens'}"]
        return [sys.executable, str(ROOT / "train.py"), *places, *arguments]

    def runs(self) -> list[Path]:
        """All run folders."""
        return sorted(path.parent for path in (self.folder / "outputs").glob("*/run.json"))

    def run_folder(self) -> Path:
        """The only run folder there is."""
        (folder,) = self.runs()
        return folder


def rows(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock decides."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if k != "time_s" and not k.startswith("perf/")}
        for line in lines
    ]


def tensors(folder: Path) -> dict[str, bytes]:
    """The tensors of the newest checkpoint, as bytes."""
    newest = sorted((folder / "checkpoints").glob("step_*"))[-1]
    return {path.name: path.read_bytes() for path in sorted(newest.glob("*.safetensors"))}


def vouch(checkpoint: Path, **files: bytes) -> None:
    """Put files into a checkpoint, and make its manifest right again, as who knows the format can.

    files: by name without its suffix. Whatever else lies there stays.
    """
    for name, content in files.items():
        suffix = ".json" if name == "state" else ".safetensors"
        (checkpoint / f"{name}{suffix}").write_bytes(content)
    whole = {p.name: p.read_bytes() for p in checkpoint.iterdir() if p.name != "manifest.json"}
    entries = {name: entry_of(content) for name, content in whole.items()}
    (checkpoint / "manifest.json").write_bytes(manifest_bytes(entries))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but its lock, by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


@contextmanager
def held(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of a folder until it is killed."""
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from minigpt.files.lock import FolderLock\n"
        "with FolderLock(Path(sys.argv[1]), 'folder'):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def tell(row: dict[str, Any]) -> None:
    """Add figures of a test to the file that `python -m minigpt.bench gpu` reads, if it asked."""
    if path := os.environ.get("MINIGPT_FIGURES"):
        with open(path, "a") as file:
            file.write(json.dumps(row) + "\n")


def in_a_line(failure: str) -> str:
    """Why a test failed: the last error that its message names, else its first line."""
    lines = [line.strip() for line in failure.splitlines() if line.strip()] or ["it crashed"]
    named = [line for line in lines if re.match(r"([\w.]*(Error|Exception)|error): ", line)]
    return named[-1] if named else lines[0]
