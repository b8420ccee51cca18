"""Token shards on disk: a 64-byte header, then the ids.

Header, little-endian: magic "minigpt\\0" (8 bytes), format version (uint32), bytes per token
(uint32: 2 or 4), number of tokens (uint64), zeros. Every shard of a split but the last holds the
same number of tokens.
"""

import os
import re
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.data.manifest import AGAIN, way_out
from minigpt.errors import DataError
from minigpt.files.durable import TEMPORARY, fsync_folder, regular_file, sha256_file

MAGIC = b"minigpt\0"
VERSION = 1
HEADER_BYTES = 64
HEADER = struct.Struct("<8sIIQ")


def token_dtype(vocab_size: int) -> np.dtype:
    """uint16 where every id fits, else uint32."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def header(dtype: np.dtype, n_tokens: int) -> bytes:
    return HEADER.pack(MAGIC, VERSION, dtype.itemsize, n_tokens).ljust(HEADER_BYTES, b"\0")


@dataclass(frozen=True)
class Layout:
    """Where the ids of a shard file lie."""

    format: str
    dtype: np.dtype
    n_tokens: int
    header_bytes: int

    @property
    def file_bytes(self) -> int:
        return self.header_bytes + self.n_tokens * self.dtype.itemsize


def read_layout(path: Path, shard_format: str = "minigpt") -> Layout:
    """Read and check the header of a shard. DataError, with found and expected, if it is damaged or
    foreign.
    """
    size, start = beginning(path, HEADER_BYTES)
    if shard_format == "minigpt":
        layout = own_layout(path, start)
    elif shard_format in ("llm.c", "bare"):
        layout = foreign_layout(path)
        if layout.format != shard_format:
            raise DataError(
                f"shard has the format {layout.format} instead of {shard_format}: {path} ({AGAIN})"
            )
    else:
        raise DataError(
            f"unknown format of shard {shard_format!r}: {path} (made by a newer minigpt?)"
        )
    if size != layout.file_bytes:
        raise DataError(f"shard has {size} bytes instead of {layout.file_bytes}: {path} ({AGAIN})")
    return layout


def open_shard(path: Path) -> int:
    """A descriptor of a regular file; nothing waits for a pipe to be written to. DataError names
    the file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise unreadable(path, error) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DataError(f"cannot read a shard: {path} (not a regular file; {AGAIN})")
    return descriptor


def beginning(path: Path, n_bytes: int) -> tuple[int, bytes]:
    """The size of a file and its first bytes."""
    descriptor = open_shard(path)
    try:
        return os.fstat(descriptor).st_size, os.pread(descriptor, n_bytes, 0)
    except OSError as error:
        raise unreadable(path, error) from None
    finally:
        os.close(descriptor)


def unreadable(path: Path, error: OSError) -> DataError:
    """What kept a shard from being read, and what helps."""
    why = error.strerror or str(error)
    return DataError(f"cannot read a shard: {path} ({why}; {way_out(why)})")


def own_layout(path: Path, start: bytes) -> Layout:
    if len(start) < HEADER_BYTES:
        raise DataError(f"truncated shard: {path} ({len(start)} bytes; {AGAIN})")
    magic, version, itemsize, n_tokens = HEADER.unpack(start[: HEADER.size])
    if magic != MAGIC:
        raise DataError(
            f"not a token shard: {path} (starts with {magic!r}, expected {MAGIC!r}; {AGAIN})"
        )
    if version != VERSION:
        raise DataError(
            f"unknown shard version: {path} (found {version}, expected {VERSION}; {AGAIN})"
        )
    if itemsize not in (2, 4):
        raise DataError(
            f"damaged shard: {path} ({itemsize} bytes a token, expected 2 or 4; {AGAIN})"
        )
    return Layout("minigpt", np.dtype(f"<u{itemsize}"), n_tokens, HEADER_BYTES)


LLMC_MAGIC, LLMC_VERSION, LLMC_HEADER_BYTES = 20240520, 1, 1024


def foreign_layout(path: Path) -> Layout:
    """The layout of a shard of llm.c and modded-nanogpt, or of nanoGPT (uint16 ids and nothing
    else).
    """
    size, content = beginning(path, LLMC_HEADER_BYTES)
    start = (
        np.frombuffer(content[:12], "<i4") if size >= LLMC_HEADER_BYTES else np.zeros(3, np.int32)
    )
    if start[0] == LLMC_MAGIC:
        if start[1] != LLMC_VERSION:
            raise DataError(
                f"unknown version of an llm.c shard: {path} (found {start[1]}, expected {LLMC_VERSION})"
            )
        layout = Layout("llm.c", np.dtype("<u2"), int(start[2]), LLMC_HEADER_BYTES)
    else:
        layout = Layout("bare", np.dtype("<u2"), size // 2, 0)
    if size != layout.file_bytes or not layout.n_tokens:
        raise DataError(
            f"shard has {size} bytes; {layout.n_tokens} uint16 ids need {layout.file_bytes}: {path}"
        )
    return layout


@dataclass
class ShardWriter:
    """Appends the tokens of one split to shards of `shard_tokens`, so that a killed process can go
    on.

    A shard grows under a temporary name and gets its own by rename once it is full (or the split
    ends). `state` is what to give back to continue from exactly here; it is valid once `sync`
    returned.
    """

    folder: Path
    split: str
    dtype: np.dtype
    shard_tokens: int
    finished: list[dict[str, Any]]  # name, n_tokens, sha256 of each published shard
    partial_tokens: int
    _descriptor: int | None = None

    @property
    def n_tokens(self) -> int:
        return sum(shard["n_tokens"] for shard in self.finished) + self.partial_tokens

    def __post_init__(self) -> None:
        self.finished = list(self.finished)

    def state(self) -> dict[str, Any]:
        return {"finished": list(self.finished), "partial_tokens": self.partial_tokens}

    def path(self, index: int) -> Path:
        return self.folder / f"{self.split}_{index:05d}.bin"

    def partial_path(self) -> Path:
        published = self.path(len(self.finished))
        return published.with_name(f"{TEMPORARY}{published.name}")

    def restore(self) -> None:
        """Bring the files to the state that this writer was made with, whatever happened after it
        was noted.
        """
        published, partial = self.path(len(self.finished)), self.partial_path()
        kept = {partial.name, *(shard["name"] for shard in self.finished)}
        later = [
            path
            for path in self.folder.iterdir()
            if re.fullmatch(rf"({re.escape(TEMPORARY)})?{self.split}_\d{{5,}}\.bin", path.name)
            and path.name not in kept
        ]
        for path in later:
            refuse_foreign(path)
        for path in later:
            if path == published:  # it was filled and published after the state was noted
                os.replace(published, partial)
            else:
                path.unlink()
        if self.partial_tokens:
            size = HEADER_BYTES + self.partial_tokens * self.dtype.itemsize
            if partial.is_symlink() or not partial.is_file() or partial.stat().st_size < size:
                raise DataError(
                    f"half-made shard is gone or too short: {partial} (remove {self.folder} and start again)"
                )
            descriptor = regular_file(str(partial), os.O_RDWR)
            try:
                os.ftruncate(descriptor, size)
            finally:
                os.close(descriptor)
        elif os.path.lexists(partial):
            refuse_foreign(partial)
            partial.unlink()

    def append(self, ids: np.ndarray) -> None:
        """Write ids of any integer type; the caller has checked their range."""
        ids = ids.astype(self.dtype)
        while len(ids):
            part = ids[: self.shard_tokens - self.partial_tokens]
            self._write(part.tobytes())
            self.partial_tokens += len(part)
            ids = ids[len(part) :]
            if self.partial_tokens == self.shard_tokens:
                self.publish()

    def _write(self, content: bytes) -> None:
        if self._descriptor is None:
            self._descriptor = regular_file(str(self.partial_path()), os.O_RDWR | os.O_CREAT)
            if os.lseek(self._descriptor, 0, os.SEEK_END) == 0:
                write_all(self._descriptor, bytes(HEADER_BYTES))
        write_all(self._descriptor, content)

    def sync(self) -> None:
        if self._descriptor is not None:
            os.fsync(self._descriptor)

    def publish(self) -> None:
        """Complete the shard being written: header, fsync, hash, rename."""
        if not self.partial_tokens:
            return
        self._write(b"")
        assert self._descriptor is not None
        os.pwrite(self._descriptor, header(self.dtype, self.partial_tokens), 0)
        self.sync()
        self.close()
        partial, published = self.partial_path(), self.path(len(self.finished))
        sha256 = sha256_file(partial)
        os.replace(partial, published)
        fsync_folder(self.folder)
        self.finished.append(
            {"name": published.name, "n_tokens": self.partial_tokens, "sha256": sha256}
        )
        self.partial_tokens = 0

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def refuse_foreign(path: Path) -> None:
    """DataError for a file that has the name of a shard and is none of ours, finished or
    half-made.
    """
    with open(path, "rb", opener=regular_file) as file:
        start = file.read(HEADER_BYTES)
    unfinished = bytes(HEADER_BYTES).startswith(start)
    if not (start.startswith(MAGIC) or (unfinished and path.name.startswith(TEMPORARY))):
        raise DataError(f"not a shard of minigpt: {path} (move it away)")


def write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
