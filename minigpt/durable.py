"""Files that survive: atomic writes, folders published by rename, hashes, kernel locks.

Order everywhere: write aside -> fsync files -> fsync folder -> rename -> fsync parent. A reader therefore sees
the old state or the new one, whatever the instant of a crash. Everything that keeps runs and tokens safe is here.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from minigpt.errors import BusyError, StorageError

TEMPORARY = ".tmp-"  # prefix of anything unpublished; safe to delete by whoever holds the folder's lock


def storage_error(path: Path, error: OSError) -> StorageError:
    """An OSError as one line for people: path, cause and what to do."""
    advice = {
        errno.ENOSPC: "free some space or choose another folder with output_dir=",
        errno.EACCES: "check its permissions or choose another folder with output_dir=",
        errno.EROFS: "the file system is read-only; choose another folder with output_dir=",
        errno.ENOTDIR: "a part of the path is a file; choose another folder with output_dir=",
        errno.EEXIST: "a file stands where a folder is needed; move it away",
        errno.ENAMETOOLONG: "choose a shorter name",
        errno.EMFILE: "too many files are open; allow more with ulimit -n",
    }.get(error.errno or 0, "check the disk and the path")
    return StorageError(f"cannot write: {path}: {error.strerror or error} ({advice})")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Work that writes to `path`; an OSError becomes a StorageError that names it."""
    try:
        yield
    except OSError as error:
        raise storage_error(path, error) from None


def fsync_folder(folder: Path) -> None:
    """Make renames and new names inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and fsync it; for files inside a folder that is not published yet."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_atomic(path: Path, content: bytes) -> None:
    """Replace one file as a whole: readers see the old content or the new, never a part."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    try:
        write_synced(temporary, content)
        os.replace(temporary, path)
        fsync_folder(path.parent)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def publish_folder(temporary: Path, final: Path) -> None:
    """Rename a finished folder, its files already synced, to its final name; nothing may stand there."""
    fsync_folder(temporary)
    os.rename(temporary, final)
    fsync_folder(final.parent)


def remove_folder(folder: Path) -> None:
    """Delete a folder so that no half-deleted one is ever taken for whole: rename first, then remove."""
    doomed = folder.with_name(f"{TEMPORARY}removed-{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(folder, doomed)
    shutil.rmtree(doomed)


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed process left unpublished in `folder`; call only while holding its lock."""
    for leftover in folder.glob(f"{TEMPORARY}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def sha256_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Raises OSError, also for what is no regular file: a pipe would be waited for."""
    with open(path, "rb", opener=_only_regular) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _only_regular(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return descriptor


def json_bytes(value: Any) -> bytes:
    """Canonical JSON: sorted keys, one trailing newline, no NaN."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


class FolderLock:
    """Exclusive use of a folder while the process lives, held by the kernel (lockf).

    The lock dies with its process, however that dies; the file's existence or age means nothing, so a copied or
    stale lock file never blocks. It is not inherited by forked or spawned workers.

    Raises BusyError, with pid and host of the owner, if another process holds it.
    """

    def __init__(self, folder: Path, what: str) -> None:
        self.path = folder / "lock"
        self.what = what
        self._file: Any = None

    def acquire(self, wait: bool = False) -> "FolderLock":
        file = open(self.path, "a+")  # noqa: SIM115 (the lock lives as long as this file)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            owner = file.read().strip() or "an unknown process"
            file.close()
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise BusyError(f"{self.what} is in use: {self.path.parent} by {owner} (wait for it or stop it)") from None
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        self._file = file
        return self

    def release(self) -> None:
        if self._file is not None:
            self._file.close()  # closing releases; the file stays, since unlinking would race with the next owner
            self._file = None

    def __enter__(self) -> "FolderLock":
        return self if self._file is not None else self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


# struct flock: Linux has type, whence, start, length, pid; macOS has start, length, pid, type, whence.
_FLOCK = {"linux": ("hhqqi4x", 0), "darwin": ("qqihh", 3)}


def lock_is_held(folder: Path) -> bool:
    """Whether another process holds the lock of a folder, asked of the kernel without ever taking it.

    Do not ask about a folder that this process has locked: closing the file would give its lock up.
    """
    layout, type_index = _FLOCK["darwin" if sys.platform == "darwin" else "linux"]
    fields = [0] * 5
    fields[type_index] = fcntl.F_WRLCK
    try:
        with open(folder / "lock", "rb") as file:
            answer = fcntl.fcntl(file, fcntl.F_GETLK, struct.pack(layout, *fields))
    except OSError:
        return False
    return struct.unpack(layout, answer)[type_index] != fcntl.F_UNLCK
