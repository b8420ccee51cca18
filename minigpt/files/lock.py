"""Exclusive use of a folder, by a lock that the kernel holds for a process."""

import errno
import fcntl
import os
import socket
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from minigpt.errors import BusyError, StorageError
from minigpt.files.durable import regular_file

# Process and lock file of each lock that is held here. To open and close such a file would give the
# lock up, and another thread would get it.
_held: set[tuple[int, int, int]] = set()


class FolderLock:
    """Exclusive use of a folder while the process lives (lockf).

    The lock dies with its process, however that dies. That the file exists means nothing, so a
    copied or stale one never blocks. Workers, forked or spawned, do not inherit the lock.
    Raises BusyError, with pid and host of the owner, if another process holds it, or this one;
    StorageError if the file is not a lock of ours.
    """

    def __init__(self, folder: Path, what: str) -> None:
        self.path = folder / "lock"
        self.what = what
        self.created = False  # whether there was no such file before
        self._file: Any = None
        self._folder = -1  # kept open, so that its inode number cannot be given to another one

    def acquire(self, wait: bool = False) -> "FolderLock":
        while True:
            if _is_held_here(self.path):  # by another thread
                if wait:
                    time.sleep(0.05)
                    continue
                raise BusyError(
                    f"{self.what} is in use: {self.path.parent} by this process (wait for it)"
                )
            created = not os.path.lexists(self.path)
            # It lives as long as the lock.
            file = open(self.path, "a+", errors="replace", opener=regular_file)  # noqa: SIM115
            file.seek(0)
            owner = file.read(400)
            linked = os.fstat(file.fileno()).st_nlink > 1  # another name of somebody's file
            if linked or not ("pid ".startswith(owner[:4]) and "\n" not in owner[:-1]):
                file.close()
                raise StorageError(f"not a lock of minigpt: {self.path} (move it away)")
            try:
                fcntl.lockf(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.close()
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                owner = owner.strip() or "an unknown process"
                raise BusyError(
                    f"{self.what} is in use: {self.path.parent} by {owner} (wait for it or stop it)"
                ) from None
            if _is_same(os.fstat(file.fileno()), self.path):
                break
            file.close()  # its owner was refused and took it away while we opened it
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        self._folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._file, self.created = file, created
        _held.add(_named(os.fstat(file.fileno())))
        return self

    def is_ours(self) -> bool:
        """Whether the paths of the folder and its lock still lead to what was locked."""
        lock, folder = os.fstat(self._file.fileno()), os.fstat(self._folder)
        return _is_same(lock, self.path) and _is_same(folder, self.path.parent, links=True)

    def check(self) -> None:
        """Raise StorageError if the folder is not the one locked, BusyError if taken over."""
        folder = self.path.parent
        if self.is_ours():
            return
        if lock_is_held(folder):
            raise BusyError(
                f"{self.what} was taken over: {folder}: its lock was removed and another process "
                "began there (this one stops and writes nothing more)"
            )
        raise StorageError(
            f"{self.what} is gone: {folder}: it, or its lock, was removed, moved or replaced while "
            "in use (move it back and repeat the command)"
        )

    def release(self) -> None:
        if self._file is not None:
            _held.discard(_named(os.fstat(self._file.fileno())))
            self._file.close()  # closing releases; the file stays, since it means nothing
            os.close(self._folder)
            self._file = None

    def abandon(self) -> None:
        """Release, and leave no lock behind in a folder that had none."""
        if self._file is not None and self.created:
            with suppress(OSError):
                if _is_same(os.fstat(self._file.fileno()), self.path):
                    self.path.unlink()
        self.release()

    def __enter__(self) -> "FolderLock":
        return self if self._file is not None else self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()


def _is_same(opened: os.stat_result, path: Path, links: bool = False) -> bool:
    """Whether a path still leads to what was opened."""
    try:
        return os.path.samestat(opened, os.stat(path, follow_symlinks=links))
    except OSError:
        return False


def _named(lock: os.stat_result) -> tuple[int, int, int]:
    return os.getpid(), lock.st_dev, lock.st_ino


def _is_held_here(lock: Path) -> bool:
    try:
        return _named(os.stat(lock, follow_symlinks=False)) in _held
    except OSError:
        return False


# struct flock. Linux: type, whence, start, length, pid. macOS: start, length, pid, type, whence.
_FLOCK = {"linux": ("hhqqi4x", 0), "darwin": ("qqihh", 3)}


def lock_is_held(folder: Path) -> bool:
    """Whether a process holds the lock of a folder, this one included. Never takes it."""
    if _is_held_here(folder / "lock"):
        return True
    layout, type_index = _FLOCK["darwin" if sys.platform == "darwin" else "linux"]
    fields = [0] * 5
    fields[type_index] = fcntl.F_WRLCK
    try:
        with open(folder / "lock", "rb", opener=regular_file) as file:
            answer = fcntl.fcntl(file, fcntl.F_GETLK, struct.pack(layout, *fields))
    except (OSError, StorageError):
        return False
    return struct.unpack(layout, answer)[type_index] != fcntl.F_UNLCK
