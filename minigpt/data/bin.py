"""Tokens that others made, used where they lie: shards of llm.c, nanoGPT's bare .bin files."""

import glob
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.data.content import LOOKED_AT, open_regular
from minigpt.data.shards import Layout, foreign_layout
from minigpt.errors import DataError
from minigpt.interrupt import stop_if_requested

CHUNK_BYTES = 1 << 24


class Bin:
    """Training and validation files, each a path or a glob (read in the order of their names).

    A file has the header of llm.c and modded-nanogpt (256 int32, the first of them 20240520, then 1
    and the number of tokens) or none at all (nanoGPT), then uint16 ids. `prepare` links to the
    files, checks every id and hashes them; nothing is copied.
    """

    def __init__(self, train: str, val: str) -> None:
        self.train = train
        self.val = val

    def describe(self) -> dict[str, Any]:
        listing = {
            split: [[printable(path.name), path.stat().st_size] for path in self.paths(split)]
            for split in ("train", "val")
        }
        return {"kind": "bin", **listing}

    def paths(self, split: str) -> list[Path]:
        pattern = self.train if split == "train" else self.val
        listed = sorted(glob.glob(str(Path(pattern).expanduser())))
        found = [Path(path).resolve() for path in listed]
        if not found:
            raise DataError(f"no such file: data.{split}={pattern} (give a path or a glob)")
        if odd := [path for path in found if not path.is_file()]:
            raise DataError(
                f"not a regular file: data.{split}: {odd[0]} (give a path or a glob of files)"
            )
        return found

    def adopt(self, folder: Path, tokenizer: Any) -> dict[str, Any]:
        """Link the files into `folder`; returns what the manifest says about them."""
        splits = {split: self._adopt_split(split, folder, tokenizer) for split in ("train", "val")}
        return {"dtype": "uint16", "splits": splits, "odd": {}}

    def _adopt_split(self, split: str, folder: Path, tokenizer: Any) -> dict[str, Any]:
        occurrences = np.zeros(1 << 16, np.int64)
        shards = []
        for number, path in enumerate(self.paths(split)):
            layout = foreign_layout(path)
            refuse_other_ids(path, layout)
            link = folder / f"{split}_{number:05d}.bin"
            if link.is_symlink():
                link.unlink()
            link.symlink_to(path)
            shards.append(
                {
                    "name": link.name,
                    "n_tokens": layout.n_tokens,
                    "sha256": count_ids(path, layout, occurrences),
                    "format": layout.format,
                }
            )
        largest_id = int(np.flatnonzero(occurrences)[-1])
        if largest_id >= tokenizer.vocab_size:
            raise DataError(
                f"id {largest_id} is outside the vocabulary of {tokenizer.vocab_size}: "
                f"data.{split} (set data.tokenizer to the one that made these files)"
            )
        end_of_text, lengths = tokenizer.end_of_text, tokenizer.bytes_per_id()
        return {
            "n_tokens": int(occurrences.sum()),
            "n_documents": 1 if end_of_text is None else int(occurrences[end_of_text]),
            "n_bytes": None if lengths is None else int(occurrences[: len(lengths)] @ lengths),
            "largest_id": largest_id,
            "shards": shards,
        }


def printable(name: str) -> str:
    """A file's name as text; bytes that are no UTF-8 become U+FFFD."""
    return os.fsencode(name).decode("utf-8", errors="replace")


def refuse_other_ids(path: Path, layout: Layout) -> None:
    """DataError for an array of NumPy, or for ids of 32 or 64 bits: read as uint16, every second
    one (and more) would be the upper half of the one before it.
    """
    with open_regular(path) as file:
        start = file.read(LOOKED_AT)
    kind = None
    if start.startswith((b"\x93NUMPY", b"PK\3\4")):
        kind = "an array of NumPy"
    elif layout.format == "bare" and len(start) >= 256:
        ids = np.frombuffer(start, layout.dtype)
        if ids[1::2].max() < 4 <= ids[::2].max():
            kind = "ids of 32 or 64 bits"
    if kind is not None:
        raise DataError(
            f"not uint16 ids but {kind}: {path} "
            "(if all ids are below 65536, write it again: ids.astype('uint16').tofile('ids.bin'))"
        )


def count_ids(path: Path, layout: Layout, occurrences: np.ndarray) -> str:
    """Add to `occurrences` how often each id is in a file; returns the SHA-256 of all its bytes."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        digest.update(file.read(layout.header_bytes))
        while content := file.read(CHUNK_BYTES):
            stop_if_requested("nothing was changed")
            digest.update(content)
            occurrences += np.bincount(np.frombuffer(content, layout.dtype), minlength=1 << 16)
    return digest.hexdigest()
