"""Token shards on disk: a 64-byte header, then the ids.

Header, little-endian: magic "minigpt\\0" (8 bytes), format version (uint32), bytes per token (uint32: 2 or 4), number of
tokens (uint64), zeros. Every shard of a split but the last holds the same number of tokens.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.durable import TEMPORARY, fsync_folder, sha256_file
from minigpt.errors import DataError

MAGIC = b"minigpt\0"
VERSION = 1
HEADER_BYTES = 64
HEADER = struct.Struct("<8sIIQ")


def token_dtype(vocab_size: int) -> np.dtype:
    """uint16 where every id fits, else uint32."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def header(dtype: np.dtype, n_tokens: int) -> bytes:
    return HEADER.pack(MAGIC, VERSION, dtype.itemsize, n_tokens).ljust(HEADER_BYTES, b"\0")


def read_header(path: Path, content: bytes) -> tuple[np.dtype, int]:
    """(dtype, number of tokens) of a header; DataError with found and expected for anything else."""
    if len(content) < HEADER_BYTES:
        raise DataError(f"truncated shard: {path} ({len(content)} bytes; prepare the tokens again)")
    magic, version, itemsize, n_tokens = HEADER.unpack(content[: HEADER.size])
    if magic != MAGIC:
        raise DataError(f"not a token shard: {path} (starts with {magic!r}, expected {MAGIC!r})")
    if version != VERSION:
        raise DataError(
            f"unknown shard version: {path} (found {version}, expected {VERSION}; prepare the tokens again)"
        )
    if itemsize not in (2, 4):
        raise DataError(f"damaged shard: {path} ({itemsize} bytes a token; expected 2 or 4; prepare the tokens again)")
    return np.dtype(f"<u{itemsize}"), n_tokens


@dataclass
class ShardWriter:
    """Appends the tokens of one split to shards of `shard_tokens`, so that a killed process can go on.

    A shard grows under a temporary name and gets its own by rename once it is full (or the split ends). `state` is
    what to give back to continue from exactly here; it is valid once `sync` returned.
    """

    folder: Path
    split: str
    dtype: np.dtype
    shard_tokens: int
    finished: list[dict[str, Any]]  # name, n_tokens, sha256 of each published shard
    partial_tokens: int = 0
    _descriptor: int | None = None

    @property
    def n_tokens(self) -> int:
        return sum(shard["n_tokens"] for shard in self.finished) + self.partial_tokens

    def state(self) -> dict[str, Any]:
        return {"finished": list(self.finished), "partial_tokens": self.partial_tokens}

    def path(self, index: int) -> Path:
        return self.folder / f"{self.split}_{index:05d}.bin"

    def partial_path(self) -> Path:
        published = self.path(len(self.finished))
        return published.with_name(f"{TEMPORARY}{published.name}")

    def restore(self) -> None:
        """Bring the files to the state that this writer was made with, whatever happened after it was noted."""
        for path in self.folder.glob(f"{self.split}_*.bin"):
            if path.name not in {shard["name"] for shard in self.finished} and path != self.path(len(self.finished)):
                path.unlink()
        published, partial = self.path(len(self.finished)), self.partial_path()
        for path in self.folder.glob(f"{TEMPORARY}{self.split}_*.bin"):
            if path != partial:
                path.unlink()
        if published.exists():  # it was filled and published after the state was noted
            os.replace(published, partial)
        if self.partial_tokens:
            size = HEADER_BYTES + self.partial_tokens * self.dtype.itemsize
            if not partial.exists() or partial.stat().st_size < size:
                raise DataError(
                    f"half-made shard is gone or too short: {partial} (remove {self.folder} and start again)"
                )
            os.truncate(partial, size)
        else:
            partial.unlink(missing_ok=True)

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
            self._descriptor = os.open(self.partial_path(), os.O_RDWR | os.O_CREAT, 0o644)
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
        self.finished.append({"name": published.name, "n_tokens": self.partial_tokens, "sha256": sha256})
        self.partial_tokens = 0

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
