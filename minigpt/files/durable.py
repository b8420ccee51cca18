"""Files that survive a crash: atomic writes, folders published by rename, hashes.

The order is always: write aside, fsync files, fsync folder, rename, fsync parent. So a reader sees
the old state or the new one, whatever the instant of a crash.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from minigpt.errors import StorageError

TEMPORARY = ".tmp-"  # begins the name of anything unpublished


def storage_error(path: Path, error: OSError, chosen_by: str = "output_dir=") -> StorageError:
    """An OSError as one line: path, cause and what to do.

    chosen_by: the key or argument that gave the path.
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
    """Turns an OSError of work that writes to `path` into a `storage_error`."""
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
        return any_regular_file(path, flags | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EINVAL):
            raise
    raise StorageError(f"cannot write: {path}: a link or no regular file (move it away)")


def any_regular_file(path: str | Path, flags: int) -> int:
    """An opener, behind links too. A pipe is not waited for. Raises OSError."""
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return descriptor


def open_regular(path: Path) -> BufferedReader:
    """A regular file to read. Raises OSError."""
    return open(path, "rb", opener=any_regular_file)


def make_folder(folder: Path) -> None:
    """A real folder inside one that is ours. Raises OSError; StorageError if it is a link."""
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


def append_line(path: Path, line: str) -> None:
    """Add a line to a file of ours, durably."""
    with open(path, "ab", opener=regular_file) as file:
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    fsync_folder(path.parent)


def publish_folder(temporary: Path, final: Path) -> None:
    """Rename a finished folder to its final name. Its files are synced, the name is free."""
    fsync_folder(temporary)
    os.rename(temporary, final)
    fsync_folder(final.parent)


def remove_folder(folder: Path) -> None:
    """Delete a folder. Renamed first, so that a half-deleted one is never taken for whole."""
    doomed = temporary_name(folder.with_name(f"removed-{folder.name}"))
    os.rename(folder, doomed)
    shutil.rmtree(doomed)


def is_leftover(path: Path, files: str) -> bool:
    """Whether a killed process may have left this regular file, meant to get a name of `files`."""
    name = re.fullmatch(rf"{re.escape(TEMPORARY)}({files})-[0-9a-f]{{8}}", path.name)
    return name is not None and path.is_file() and not path.is_symlink()


def remove_leftovers(folder: Path, files: str = "(?!)", folders: str = "(?!)") -> None:
    """Delete what a killed process left unpublished in `folder`.

    files, folders: regular expressions of what is published here.
    Call only where the folder's lock is held and its record says whose it is. Anything else is
    somebody else's: another name, a folder with the name of a file, a link.
    """
    ours = re.compile(rf"{re.escape(TEMPORARY)}(removed-)?({folders})-[0-9a-f]{{8}}")
    for path in folder.iterdir():
        if is_leftover(path, files):
            path.unlink()
        elif ours.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)


def sha256_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Raises OSError, also for what is no regular file: a pipe would be waited for."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_bytes(value: Any) -> bytes:
    """Canonical JSON: sorted keys, one trailing newline, no NaN."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def ensure_writable(folder: Path) -> None:
    """Make a folder for runs, or raise StorageError now, before anything is built."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
