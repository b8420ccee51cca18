"""Files that survive: atomic writes, folders published by rename, hashes, kernel locks.

Order everywhere: write aside -> fsync files -> fsync folder -> rename -> fsync parent. A reader
therefore sees the old state or the new one, whatever the instant of a crash. Everything that keeps
runs and tokens safe is here.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from minigpt.errors import BusyError, StorageError

TEMPORARY = ".tmp-"  # begins the name of anything unpublished


def storage_error(path: Path, error: OSError, chosen_by: str = "output_dir=") -> StorageError:
    """An OSError as one line for people: path, cause and what to do. chosen_by: the key or argument
    of the path.
    """
    advice = {
        errno.ENOSPC: f"free some space or choose another place with {chosen_by}",
        errno.EACCES: f"check its permissions or choose another place with {chosen_by}",
        errno.EROFS: f"the file system is read-only; choose another place with {chosen_by}",
        errno.ENOTDIR: f"a part of the path is a file; choose another place with {chosen_by}",
        errno.EEXIST: "a file stands where a folder is needed; move it away",
        errno.ENAMETOOLONG: "choose a shorter name",
        errno.EMFILE: "too many files are open; allow more with ulimit -n",
    }.get(error.errno or 0, "check the disk and the path")
    return StorageError(f"cannot write: {path}: {error.strerror or error} ({advice})")


@contextmanager
def writing(path: Path, chosen_by: str = "output_dir=") -> Iterator[None]:
    """Work that writes to `path`; an OSError becomes a StorageError that names it, and what chose
    it.
    """
    try:
        yield
    except OSError as error:
        raise storage_error(path, error, chosen_by) from None


def fsync_folder(folder: Path) -> None:
    """Make renames and new names inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def regular_file(path: str, flags: int) -> int:
    """An opener for `open`: a regular file to write to. Links are not followed.

    Raises StorageError for a link, a pipe or a device: what minigpt writes is its own file.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise not_regular(path) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise not_regular(path)
    return descriptor


def not_regular(path: str | Path) -> StorageError:
    return StorageError(f"cannot write: {path}: a link or no regular file (move it away)")


def make_folder(folder: Path) -> None:
    """A real folder inside one that is ours. Raises StorageError if a link stands there,
    OSError.
    """
    folder.mkdir(exist_ok=True)
    if folder.is_symlink():
        raise StorageError(f"cannot write: {folder}: a link, not a folder (move it away)")


def temporary_name(path: Path) -> Path:
    """A name beside `path` that nobody else has; `remove_leftovers` knows it by its form."""
    return path.with_name(f"{TEMPORARY}{path.name}-{os.urandom(4).hex()}")


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file and fsync it; for files inside a folder that is not published yet."""
    with open(path, "xb", opener=regular_file) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_atomic(path: Path, content: bytes) -> None:
    """Replace one file as a whole: readers see the old content or the new, never a part."""
    temporary = temporary_name(path)
    try:
        write_synced(temporary, content)
        os.replace(temporary, path)
        fsync_folder(path.parent)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def publish_folder(temporary: Path, final: Path) -> None:
    """Rename a finished folder, its files already synced, to its final name; nothing may stand
    there.
    """
    fsync_folder(temporary)
    os.rename(temporary, final)
    fsync_folder(final.parent)


def remove_folder(folder: Path) -> None:
    """Delete a folder so that no half-deleted one is ever taken for whole: rename first, then
    remove.
    """
    doomed = temporary_name(folder.with_name(f"removed-{folder.name}"))
    os.rename(folder, doomed)
    shutil.rmtree(doomed)


def remove_leftovers(folder: Path, names: str) -> None:
    """Delete what a killed process left unpublished in `folder`.

    names: a regular expression of what is published here. Call only where the folder's lock is held
    and its record says whose it is. A file with any other name is somebody else's, whatever it
    begins with.
    """
    ours = re.compile(rf"{re.escape(TEMPORARY)}(removed-)?({names})-[0-9a-f]{{8}}")
    for leftover in folder.iterdir():
        if not ours.fullmatch(leftover.name):
            continue
        if leftover.is_dir() and not leftover.is_symlink():
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
    return (
        json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    ).encode()


class FolderLock:
    """Exclusive use of a folder while the process lives, held by the kernel (lockf).

    The lock dies with its process, however that dies; the file's existence or age means nothing, so
    a copied or stale lock file never blocks. It is not inherited by forked or spawned workers.

    Raises BusyError, with pid and host of the owner, if another process holds it; StorageError if
    the file is not a lock of ours.
    """

    def __init__(self, folder: Path, what: str) -> None:
        self.path = folder / "lock"
        self.what = what
        self.created = False  # whether there was no such file before
        self._file: Any = None
        self._folder = -1  # kept open, so that its inode number cannot be given to another one

    def acquire(self, wait: bool = False) -> "FolderLock":
        while True:
            created = not os.path.lexists(self.path)
            file = open(self.path, "a+", errors="replace", opener=regular_file)  # noqa: SIM115 (lives with the lock)
            file.seek(0)
            owner = file.read(400)
            if not ("pid ".startswith(owner[:4]) and "\n" not in owner[:-1]):
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
        return self

    def is_ours(self) -> bool:
        """Whether the paths of the folder and its lock still lead to what was locked."""
        lock, folder = os.fstat(self._file.fileno()), os.fstat(self._folder)
        return _is_same(lock, self.path) and _is_same(folder, self.path.parent, links=True)

    def check(self) -> None:
        """Raise StorageError if the folder is no longer the one that was locked, BusyError if it
        has another owner.
        """
        folder = self.path.parent
        if self.is_ours():
            return
        if lock_is_held(folder):
            raise BusyError(
                f"{self.what} was taken over: {folder}: its lock was removed and another process began there "
                "(this one stops and writes nothing more)"
            )
        raise StorageError(
            f"{self.what} is gone: {folder}: it, or its lock, was removed, moved or replaced while in use "
            "(move it back and repeat the command)"
        )

    def release(self) -> None:
        if self._file is not None:
            self._file.close()  # closing releases; the file stays, since it means nothing
            os.close(self._folder)
            self._file = None

    def abandon(self) -> None:
        """Release, and leave no lock behind in a folder that had none."""
        if (
            self._file is not None
            and self.created
            and _is_same(os.fstat(self._file.fileno()), self.path)
        ):
            with suppress(OSError):
                self.path.unlink()
        self.release()

    def __enter__(self) -> "FolderLock":
        return self if self._file is not None else self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def _is_same(opened: os.stat_result, path: Path, links: bool = False) -> bool:
    """Whether a path still leads to what was opened."""
    try:
        return os.path.samestat(opened, os.stat(path, follow_symlinks=links))
    except OSError:
        return False


# struct flock: Linux has type, whence, start, length, pid; macOS has start, length, pid, type,
# whence.
_FLOCK = {"linux": ("hhqqi4x", 0), "darwin": ("qqihh", 3)}


def lock_is_held(folder: Path) -> bool:
    """Whether another process holds the lock of a folder, asked of the kernel without ever taking
    it.

    Do not ask about a folder that this process has locked: closing the file would give its lock up.
    """
    layout, type_index = _FLOCK["darwin" if sys.platform == "darwin" else "linux"]
    fields = [0] * 5
    fields[type_index] = fcntl.F_WRLCK
    try:
        with open(folder / "lock", "rb", opener=regular_file) as file:
            answer = fcntl.fcntl(file, fcntl.F_GETLK, struct.pack(layout, *fields))
    except (OSError, StorageError):
        return False
    return struct.unpack(layout, answer)[type_index] != fcntl.F_UNLCK
