"""metrics.jsonl: the record of truth, one JSON object a line. Loggers mirror it."""

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from minigpt.files import records
from minigpt.files.durable import regular_file
from minigpt.files.reading import if_there, read_bytes

log = logging.getLogger(__name__)


class Metrics:
    """An append-only file of rows. A full disk costs rows, with one warning, and never the run.

    check: called before anything is written; raises if the file is no longer ours.
    """

    def __init__(self, path: Path, check: Callable[[], None] = lambda: None) -> None:
        self.path, self.check = path, check
        self._file = open(path, "a+b", buffering=0, opener=regular_file)  # noqa: SIM115
        self._failed = False

    def append(self, row: dict[str, Any]) -> None:
        """Write one row. Non-finite numbers become null, since JSON has none."""
        finite = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()
        }
        before = self.n_bytes
        rest = memoryview(json.dumps(finite).encode() + b"\n")
        self.check()  # right before the write: a process that was stopped between wakes too late
        try:
            while rest:  # a disk that is nearly full takes a part
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            with suppress(OSError):  # no torn row between whole ones
                os.ftruncate(self._file.fileno(), before)
            if not self._failed:
                why = f"{self.path}: {error.strerror}"
                log.warning("warning: cannot write metrics: %s (training goes on without)", why)
            self._failed = True

    def sync(self) -> int:
        """Make all rows durable; returns the length of the file in bytes, for a checkpoint."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            log.warning("warning: cannot sync metrics: %s: %s", self.path, error.strerror)
        return self.n_bytes

    def rewind(self, length: int) -> None:
        """Drop the rows after a checkpoint, a torn last line included: they will come again."""
        if self.n_bytes > length:
            self.check()
            os.ftruncate(self._file.fileno(), length)

    def drop_torn_row(self) -> None:
        """Drop what stands behind the last whole row."""
        self.rewind(read_bytes(self.path).rfind(b"\n") + 1)

    def sha256(self, length: int) -> str:
        """Of the first `length` bytes of the file."""
        digest, start = hashlib.sha256(), 0
        while part := os.pread(self._file.fileno(), min(2**20, length - start), start):
            digest.update(part)
            start += len(part)
        return digest.hexdigest()

    @property
    def n_bytes(self) -> int:
        """The length of the file."""
        return os.fstat(self._file.fileno()).st_size

    def begin_with(self, rows: bytes) -> None:
        """Start with the rows of another run, in place of whatever is there. Raises OSError."""
        self.rewind(0)
        self._file.write(rows)

    def close(self) -> None:
        self._file.close()


def whole_rows(path: Path) -> list[dict[str, Any]]:
    """All complete rows of a metrics file, without the torn last line of a run that was killed.

    Raises UnreadableError if it is no file of lines.
    """
    rows, bad, _ = if_there(records.read_rows, path) or ([], [], 0)
    if bad:
        log.warning("warning: %d unreadable lines in %s: left out", len(bad), path)
    return rows
