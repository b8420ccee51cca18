"""Processes beside a test: a command that goes on by itself, the owner of a lock."""

import logging
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

from runs import ROOT, load_script

HOLD = (
    "import sys\nfrom pathlib import Path\nfrom minigpt.files.lock import FolderLock\n"
    "lock = FolderLock(Path(sys.argv[1]), sys.argv[2]).acquire()\n"
    "print('held', flush=True)\nsys.stdin.read()\n"
)


def places(folder: Path) -> list[str]:
    return [f"output_dir={folder / 'outputs'}", f"data_dir={folder / 'tokens'}"]


class Command:
    """train.py in a process group of its own, in `folder`."""

    started: ClassVar[list[subprocess.Popen[str]]] = []

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "train.py", *places(folder), *arguments],
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


class Fork:
    """train.py in a fork of this process, which has imported all of it.

    first: what that process does before.
    """

    running: ClassVar[set[int]] = set()

    def __init__(
        self, folder: Path, *arguments: str, first: Callable[[], object] = lambda: None
    ) -> None:
        self.said = folder / f"said-{len(list(folder.glob('said-*')))}"
        self.said.touch()
        self.pid = os.fork()
        self.running.add(self.pid)
        if not self.pid:
            os._exit(self._run(["train.py", *places(folder), *arguments], first))

    def _run(self, arguments: list[str], first: Callable[[], object]) -> int:
        with self.said.open("w", buffering=1) as said:
            sys.argv, sys.stdout, sys.stderr = arguments, said, said
            logging.getLogger("minigpt").handlers.clear()
            try:
                first()
                return int(load_script(ROOT / "train.py").main())
            except BaseException:
                traceback.print_exc()
                return 70

    def end(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        self.running.remove(self.pid)
        self.err = self.said.read_text()
        return os.waitstatus_to_exitcode(status)

    @classmethod
    def end_all(cls) -> None:
        while cls.running:
            os.kill(pid := cls.running.pop(), signal.SIGKILL)
            os.waitpid(pid, 0)


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
