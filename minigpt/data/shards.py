"""Token shards on disk: a 64-byte header, then the ids.

Header, little-endian: magic "minigpt\\0" (8 bytes), format version (uint32), bytes per token
(uint32: 2 or 4), number of tokens (uint64), zeros. Every shard of a split but the last holds the
same number of tokens.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minigpt.data.manifest import AGAIN, way_out
from minigpt.errors import DataError
from minigpt.files.durable import any_regular_file

MAGIC = b"minigpt\0"
VERSION = 1
HEADER_BYTES = 64
HEADER = struct.Struct("<8sIIQ")
# magic number of an llm.c shard -> its version and ids: GPT-2's, Llama 3's
LLMC: dict[int, tuple[int, np.dtype]] = {
    20240520: (1, np.dtype("<u2")),
    20240801: (7, np.dtype("<u4")),
}
LLMC_HEADER_BYTES = 1024


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


def read_layout(path: Path, shard_format: str, dtype: str) -> Layout:
    """The header of a shard, checked. DataError if it is damaged or of another format.

    dtype: of ids without a header.
    """
    layout = own_layout(path) if shard_format == "minigpt" else foreign_layout(path, dtype)
    if layout.format != shard_format:
        raise DataError(
            f"shard has the format {layout.format} instead of {shard_format}: {path} ({AGAIN})"
        )
    return layout


def own_layout(path: Path) -> Layout:
    """The layout of a shard of minigpt."""
    size, start = beginning(path, HEADER_BYTES)
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
    layout = Layout("minigpt", np.dtype(f"<u{itemsize}"), n_tokens, HEADER_BYTES)
    if size != layout.file_bytes:
        raise DataError(f"shard has {size} bytes instead of {layout.file_bytes}: {path} ({AGAIN})")
    return layout


def foreign_layout(path: Path, bare_dtype: str = "uint16") -> Layout:
    """The layout of a shard of llm.c and modded-nanogpt, or of nanoGPT's (ids alone)."""
    size, start = beginning(path, LLMC_HEADER_BYTES)
    bare = np.dtype(bare_dtype).newbyteorder("<")
    layout = Layout("bare", bare, size // bare.itemsize, 0)
    if len(start) == LLMC_HEADER_BYTES:
        magic, version, n_tokens = struct.unpack("<3i", start[:12])
        if magic in LLMC:
            expected, dtype = LLMC[magic]
            if version != expected:
                raise DataError(
                    f"unknown version of an llm.c shard: {path} "
                    f"(found {version}, expected {expected})"
                )
            layout = Layout("llm.c", dtype, n_tokens, LLMC_HEADER_BYTES)
    if size != layout.file_bytes or not layout.n_tokens:
        raise DataError(
            f"shard has {size} bytes; {layout.n_tokens} {layout.dtype.name} ids need "
            f"{layout.file_bytes}: {path}"
        )
    return layout


def beginning(path: Path, n_bytes: int) -> tuple[int, bytes]:
    """The size of a shard and its first bytes."""
    descriptor = open_shard(path)
    try:
        return os.fstat(descriptor).st_size, os.pread(descriptor, n_bytes, 0)
    except OSError as error:
        raise unreadable(path, error) from None
    finally:
        os.close(descriptor)


def open_shard(path: Path) -> int:
    """A descriptor of a regular file. A pipe is not waited for. DataError names the file."""
    try:
        return any_regular_file(path, os.O_RDONLY)
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: OSError) -> DataError:
    """What kept a shard from being read, and what helps."""
    why = error.strerror or str(error)
    return DataError(f"cannot read a shard: {path} ({why}; {way_out(why)})")
