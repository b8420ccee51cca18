"""Token shards while they are written."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.data.shards import HEADER_BYTES, MAGIC, header
from minigpt.errors import DataError
from minigpt.files.durable import TEMPORARY, fsync_folder, regular_file, sha256_file


@dataclass
class ShardWriter:
    """Appends the tokens of one split to shards, so that another process can go on after a kill.

    A shard grows under a temporary name and gets its own by rename once it is full, or the split
    ends. `state` is what to give back to continue from here; it holds once `sync` returned.
    """

    folder: Path
    split: str
    dtype: np.dtype
    shard_tokens: int  # of a full shard
    finished: list[dict[str, Any]] = field(default_factory=list)  # name, n_tokens, sha256 of each
    partial_tokens: int = 0  # of the shard that is being written
    _descriptor: int | None = None

    @property
    def n_tokens(self) -> int:
        return sum(shard["n_tokens"] for shard in self.finished) + self.partial_tokens

    def state(self) -> dict[str, Any]:
        return {"finished": self.finished, "partial_tokens": self.partial_tokens}

    def path(self) -> Path:
        """Of the shard being written, once it is published."""
        return self.folder / f"{self.split}_{len(self.finished):05d}.bin"

    def partial_path(self) -> Path:
        return self.folder / f"{TEMPORARY}{self.path().name}"

    def restore(self) -> None:
        """Bring the files to the state that this writer was made with, whatever came after it."""
        published, partial = self.path(), self.partial_path()
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
                    f"half-made shard is gone or too short: {partial} "
                    f"(remove {self.folder} and start again)"
                )
            with open(partial, "r+b", opener=regular_file) as file:
                os.ftruncate(file.fileno(), size)
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
        partial, published = self.partial_path(), self.path()
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
    """DataError for a file with the name of a shard, finished or half-made, that is not ours."""
    with open(path, "rb", opener=regular_file) as file:
        start = file.read(HEADER_BYTES)
    unfinished = bytes(HEADER_BYTES).startswith(start)
    if not (start.startswith(MAGIC) or (unfinished and path.name.startswith(TEMPORARY))):
        raise DataError(f"not a shard of minigpt: {path} (move it away)")


def write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
