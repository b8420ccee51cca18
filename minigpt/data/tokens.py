"""Prepared tokens: a folder of shards with a manifest, verified when opened, watched when read."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.data.manifest import AGAIN, inside, read_manifest, refuse_way_out
from minigpt.data.shards import Layout, open_shard, read_layout, unreadable
from minigpt.errors import DataError
from minigpt.files.durable import sha256_bytes, sha256_file
from minigpt.files.reading import SMALL_BYTES, UnreadableError, read_bytes
from minigpt.interrupt import requested, stop_if_requested
from minigpt.tokenizer import load

MOST_OPEN_FILES = 8  # per split; opening one again takes some ten microseconds


@dataclass
class Shard:
    path: Path
    first: int  # position of its first token in the split
    layout: Layout
    sha256: str
    identity: tuple[int, ...]  # of the file when it was opened and checked


class Split:
    """The tokens of one split as one long stream, read from disk a stretch at a time.

    n_tokens: ids in the stream, end_of_text before every document included.
    n_bytes: UTF-8 bytes of the text behind them; None where nobody knows (foreign shards without a
        tokenizer).
    """

    def __init__(
        self, name: str, shards: list[Shard], n_bytes: int | None, n_documents: int
    ) -> None:
        self.name = name
        self.shards = shards
        self.n_bytes = n_bytes
        self.n_documents = n_documents
        self.n_tokens = sum(shard.layout.n_tokens for shard in shards)
        self.dtype = shards[0].layout.dtype
        self._firsts = np.array([shard.first for shard in shards], np.int64)
        self._files: dict[int, ShardFile] = {}

    def read(self, start: int, count: int) -> np.ndarray:
        """Tokens [start, start + count), (count,) uint16 or uint32.

        Raises IndexError outside the stream; DataError if a shard was cut, changed or removed
        since it was opened.
        """
        if start < 0 or count < 0 or start + count > self.n_tokens:
            raise IndexError(
                f"tokens {start}..{start + count} of {self.n_tokens} in split {self.name}"
            )
        parts = []
        while count:
            index = int(np.searchsorted(self._firsts, start, side="right")) - 1
            shard = self.shards[index]
            take = min(count, shard.first + shard.layout.n_tokens - start)
            parts.append(self._file(index).read(start - shard.first, take))
            start, count = start + take, count - take
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, self.dtype)

    def _file(self, index: int) -> "ShardFile":
        file = self._files.pop(index, None) or ShardFile(self.shards[index])
        self._files[index] = file  # the least recently used comes first
        if len(self._files) > MOST_OPEN_FILES:
            self._files.pop(next(iter(self._files))).close()
        return file


class ShardFile:
    """An open shard, read by pread: a memory map that is cut kills the process without a word."""

    descriptor = -1

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.descriptor = open_shard(shard.path)

    def read(self, start: int, count: int) -> np.ndarray:
        layout = self.shard.layout
        itemsize = layout.dtype.itemsize
        content = os.pread(
            self.descriptor, count * itemsize, layout.header_bytes + start * itemsize
        )
        if len(content) != count * itemsize:
            raise DataError(f"shard was truncated while in use: {self.shard.path} ({AGAIN})")
        if file_identity(self.shard.path) != self.shard.identity:
            # Touched, replaced or written to: go on if the bytes are still the manifest's.
            self.close()
            self.descriptor = open_shard(self.shard.path)
            if sha256_file(self.shard.path) != self.shard.sha256:
                raise DataError(f"shard changed while in use: {self.shard.path} ({AGAIN})")
            self.shard.identity = file_identity(self.shard.path)
            return self.read(start, count)
        return np.frombuffer(content, layout.dtype)

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    __del__ = close


def file_identity(path: Path) -> tuple[int, ...]:
    """What changes when a file is replaced, written to or cut. DataError if it is gone."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise unreadable(path, error) from None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class Tokens:
    """A folder of prepared tokens: `train` and `val` splits, tokenizer, manifest.

    fingerprint: SHA-256 over the manifest, which holds the SHA-256 of every shard and tokenizer
        file: whether two runs saw the same data. It depends neither on where the folder lies nor
        on when or how it was made.
    licence: of the text, where its source knows it.
    """

    licence: str = "unknown"

    def __init__(self, folder: Path, manifest: dict[str, Any], tokenizer: Any) -> None:
        self.folder = folder
        self.manifest = manifest
        self.fingerprint: str = manifest["fingerprint"]
        self.tokenizer = tokenizer
        self.vocab_size: int = manifest["tokenizer"]["vocab_size"]
        self.train = open_split(folder, "train", manifest)
        self.val = open_split(folder, "val", manifest)

    @classmethod
    def open(cls, folder: Path | str) -> "Tokens":
        """Open a folder that `prepare` made, and hash every shard: about a second for 2 GB.

        Raises DataError, which names the file that is missing or damaged.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        check_tokenizer_files(folder, manifest)
        tokenizer = load(folder / "tokenizer")
        known = manifest["tokenizer"]
        if (tokenizer.fingerprint, tokenizer.vocab_size) != (
            known["fingerprint"],
            known["vocab_size"],
        ):
            raise DataError(
                f"the tokenizer is not the one that made the shards: {folder / 'tokenizer'} "
                "(prepare again)"
            )
        tokens = cls(folder, manifest, tokenizer)
        tokens.verify()
        return tokens

    def verify(self) -> None:
        """Hash every shard; DataError names the first whose bytes are not the manifest's."""
        shards = [*self.train.shards, *self.val.shards]
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as threads:
            hashes = threads.map(sha256_unless_stopped, [shard.path for shard in shards])
            for shard, sha256 in zip(shards, hashes):
                stop_if_requested("nothing was changed (the same command goes on)")
                if sha256 != shard.sha256:
                    raise DataError(
                        f"damaged shard: {shard.path} (its hash is not the manifest's; {AGAIN})"
                    )


def sha256_unless_stopped(path: Path) -> str:
    return sha256_file(path) if requested() is None else ""


def check_tokenizer_files(folder: Path, manifest: dict[str, Any]) -> None:
    for name, sha256 in manifest["tokenizer"]["files"].items():
        path = inside(folder / "tokenizer", name)
        refuse_way_out(folder, path)
        try:
            found = sha256_bytes(read_bytes(path, SMALL_BYTES, inside=folder))
        except UnreadableError as error:
            what = "missing tokenizer file" if error.missing else "cannot read a tokenizer file"
            raise DataError(f"{what}: {path}: {error.why} ({AGAIN})") from None
        if found != sha256:
            raise DataError(
                f"damaged tokenizer file: {path} (its hash is not the manifest's; {AGAIN})"
            )


def open_split(folder: Path, name: str, manifest: dict[str, Any]) -> Split:
    """Check sizes and headers of a split's shards against the manifest."""
    entry = manifest["splits"][name]
    vocab_size = manifest["tokenizer"]["vocab_size"]
    if entry["largest_id"] >= vocab_size:
        raise DataError(
            f"id {entry['largest_id']} is outside the vocabulary of {vocab_size}: {folder} "
            "(wrong tokenizer)"
        )
    shards: list[Shard] = []
    first = 0
    for listed in entry["shards"]:
        path = inside(folder, listed["name"])
        shard_format = listed.get("format", "minigpt")
        if shard_format == "minigpt":  # the others are links to where they lie
            refuse_way_out(folder, path)
        identity = file_identity(path)
        layout = read_layout(path, shard_format, manifest["dtype"])
        found = f"{layout.n_tokens} {layout.dtype.name}"
        expected = f"{listed['n_tokens']} {manifest['dtype']}"
        if found != expected:
            raise DataError(
                f"shard holds {found} ids, the manifest says {expected}: {path} ({AGAIN})"
            )
        shards.append(Shard(path, first, layout, listed["sha256"], identity))
        first += layout.n_tokens
    if not shards:
        raise DataError(f"the {name} split is empty: {folder} ({AGAIN})")
    return Split(name, shards, entry["n_bytes"], entry["n_documents"])
