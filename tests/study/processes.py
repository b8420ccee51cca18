"""Processes beside a test: a command that goes on by itself, the owner of a lock."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

from runs import ROOT

HOLD = (
    "import sys\nfrom pathlib import Path\nfrom minigpt.files.lock import FolderLock\n"
    "lock = FolderLock(Path(sys.argv[1]), sys.argv[2]).acquire()\n"
    "print('held', flush=True)\nsys.stdin.read()\n"
)


class Command:
    """train.py in a process group of its own, in `folder`.

    prelude: Python that runs before it in the same process.
    """

    started: ClassVar[list[subprocess.Popen[str]]] = []

    def __init__(
        self, folder: Path, *arguments: str, prelude: str = "", **environment: str
    ) -> None:
        self.folder = folder
        places = [f"output_dir={folder / 'outputs'}", f"data_dir={folder / 'tokens'}"]
        script = ["train.py"]
        if prelude:
            run = "import runpy, sys\nrunpy.run_path('train.py', run_name='__main__')\n"
            script = ["-c", f"{prelude}\n{run}"]
        self.process = subprocess.Popen(
            [sys.executable, *script, *places, *arguments],
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

    @classmethod
    def end_all(cls) -> None:
        """Its workers too, if a test failed before their end."""
        while cls.started:
            process = cls.started.pop()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@contextmanager
def locked(folder: Path, what: str = "run folder") -> Iterator[None]:
    """Another process holds the folder's lock."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), what],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield
        finally:
            process.communicate("")
