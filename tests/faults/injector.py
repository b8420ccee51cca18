"""Faults at the n-th file operation, without a hook in the product.

What Python calls to change files is wrapped. Counted are the operations that change something below
one folder: opening for writing, each write, fsync, truncate, rename, replace, unlink, mkdir, rmdir,
link. What only reads is left alone: a kill there is a kill between two others.
"""

import builtins
import errno
import io
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ERRORS = {name: getattr(errno, name) for name in ("ENOSPC", "EIO", "EPIPE")}
BY_PATH = ("unlink", "remove", "mkdir", "rmdir", "truncate", "symlink", "rename", "replace")
BY_DESCRIPTOR = ("write", "pwrite", "fsync", "ftruncate")
CHANGING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Injector:
    """Counts the operations below `root`, and does `action` at number `at` (None: only counts).

    action:
        KILL: SIGKILL; half of the bytes of a write are written.
        ENOSPC, EIO, EPIPE: an OSError, after half of the bytes.
        HANG: never returns.
        TERM: SIGTERM, and the operation goes on.  TERM2: two of them.
    lasting: errors from there on, not once.
    """

    def __init__(self, root: Path, at: int | None, action: str, lasting: bool = False) -> None:
        self.root = os.path.abspath(root)
        self.at, self.action, self.lasting = at, action, lasting
        self.seen: list[str] = []  # "operation path", in order

    def install(self) -> None:
        for name in BY_PATH:
            setattr(os, name, self._by_path(name, getattr(os, name)))
        for name in BY_DESCRIPTOR:
            setattr(os, name, self._by_descriptor(name, getattr(os, name)))
        os.open = self._os_open(os.open)  # type: ignore[assignment]
        builtins.open = io.open = self._open(io.open)  # type: ignore[assignment, misc]

    def operation(self, name: str, path: str, half: Callable[[], object] = lambda: None) -> None:
        """One operation is about to happen; `half` does a part of it."""
        if not (path == self.root or path.startswith(self.root + os.sep)):
            return
        self.seen.append(f"{name} {path[len(self.root) + 1 :]}")
        number = len(self.seen)
        if number != self.at and not (self.lasting and self.at is not None and number > self.at):
            return
        if self.action in ("TERM", "TERM2"):
            for _ in range(len(self.action) - 3):
                os.kill(os.getpid(), signal.SIGTERM)
            return
        half()
        while self.action == "HANG":
            time.sleep(1)
        if self.action == "KILL":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(ERRORS[self.action], os.strerror(ERRORS[self.action]), path)

    def _by_path(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(path: Any, *rest: Any, **options: Any) -> Any:
            descriptor = options.get("dir_fd", options.get("src_dir_fd"))
            changed = rest[0] if name == "symlink" else path
            if isinstance(changed, int):
                where = os.readlink(f"/proc/self/fd/{changed}")
            else:
                folder = "" if descriptor is None else os.readlink(f"/proc/self/fd/{descriptor}")
                where = os.path.abspath(os.path.join(folder, os.fspath(changed)))
            self.operation(name, where)
            return real(path, *rest, **options)

        return wrapped

    def _by_descriptor(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(descriptor: int, *rest: Any) -> Any:
            def half() -> None:
                if name in ("write", "pwrite"):
                    real(descriptor, bytes(rest[0])[: len(rest[0]) // 2], *rest[1:])

            if isinstance(descriptor, int):
                self.operation(name, os.readlink(f"/proc/self/fd/{descriptor}"), half)
            return real(descriptor, *rest)

        return wrapped

    def _os_open(self, real: Callable[..., int]) -> Callable[..., int]:
        def wrapped(path: Any, flags: int, *rest: Any, **options: Any) -> int:
            if flags & CHANGING and not isinstance(path, int):
                self.operation("os.open", os.path.abspath(os.fspath(path)))
            return real(path, flags, *rest, **options)

        return wrapped

    def _open(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(
            file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None,
            errors: str | None = None, newline: str | None = None, closefd: bool = True,
            opener: Any = None,
        ) -> Any:  # fmt: skip
            if isinstance(file, int) or not set(mode) & set("wax+"):
                return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
            path = os.path.abspath(os.fspath(file))
            self.operation("open", path)
            raw = CountedFile(self, path, mode.replace("b", "").replace("t", ""), opener=opener)
            if buffering == 0:
                return raw
            buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            if "b" in mode:
                return buffered
            by_line = buffering == 1
            return io.TextIOWrapper(buffered, encoding, errors, newline, line_buffering=by_line)

        return wrapped


class CountedFile(io.FileIO):
    """A raw file that tells its writes, which `open` does not do through os.write."""

    def __init__(self, injector: Injector, path: str, mode: str, opener: Any = None) -> None:
        self.injector, self.path = injector, path
        super().__init__(path, mode, opener=opener)

    def write(self, content: Any) -> int:
        whole, real = bytes(content), super().write
        self.injector.operation("write", self.path, lambda: real(whole[: len(whole) // 2]))
        return real(content)

    def truncate(self, size: int | None = None) -> int:
        self.injector.operation("truncate", self.path)
        return super().truncate(size)
