"""Tokens that others made, used where they lie: shards of llm.c, nanoGPT's bare .bin files."""

import glob
import hashlib
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np

from minigpt.data.content import LOOKED_AT
from minigpt.data.shards import Layout, foreign_layout
from minigpt.errors import DataError
from minigpt.files.durable import open_regular
from minigpt.interrupt import stop_if_requested

CHUNK_BYTES = 1 << 24


class Bin:
    """Training and validation files, each a path or a glob (read in the order of their names).

    A file has the header of llm.c and modded-nanogpt (256 int32: 20240520, 1 and the number of
    tokens before uint16 ids; 20240801, 7 and that number before uint32 ids) or none at all
    (nanoGPT). `prepare` links to the files, checks every id and hashes them; nothing is copied.

    dtype: of the ids in files without a header.
    """

    def __init__(self, train: str, val: str, dtype: Literal["uint16", "uint32"] = "uint16") -> None:
        self.train = train
        self.val = val
        self.dtype = dtype

    def describe(self) -> dict[str, Any]:
        listing = {
            split: [[printable(path.name), path.stat().st_size] for path in self.paths(split)]
            for split in ("train", "val")
        }
        wide = {} if self.dtype == "uint16" else {"dtype": self.dtype}
        return {"kind": "bin", **listing, **wide}

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
        dtypes: dict[str, Path] = {}  # the first file of each
        splits = {
            split: self._adopt_split(split, folder, tokenizer, dtypes) for split in ("train", "val")
        }
        return {"dtype": next(iter(dtypes)), "splits": splits, "odd": {}}

    def _adopt_split(
        self, split: str, folder: Path, tokenizer: Any, dtypes: dict[str, Path]
    ) -> dict[str, Any]:
        occurrences = np.zeros(tokenizer.vocab_size, np.int64)
        shards = []
        for number, path in enumerate(self.paths(split)):
            layout = foreign_layout(path, self.dtype)
            refuse_other_ids(path, layout)
            if layout.dtype.itemsize < np.dtype(self.dtype).itemsize:
                raise DataError(f"uint16 ids, by its header: {path} (leave out data.dtype=uint32)")
            dtypes.setdefault(layout.dtype.name, path)
            if len(dtypes) > 1:
                ids = " and ".join(f"{name} in {file}" for name, file in dtypes.items())
                raise DataError(f"ids of two widths: {ids} (write both with the same)")
            link = folder / f"{split}_{number:05d}.bin"
            if link.is_symlink():
                link.unlink()
            link.symlink_to(path)
            shards.append(
                {
                    "name": link.name,
                    "n_tokens": layout.n_tokens,
                    "sha256": count_ids(path, layout, occurrences, split),
                    "format": layout.format,
                }
            )
        end_of_text, lengths = tokenizer.end_of_text, tokenizer.bytes_per_id()
        return {
            "n_tokens": int(occurrences.sum()),
            "n_documents": 1 if end_of_text is None else int(occurrences[end_of_text]),
            "n_bytes": None if lengths is None else int(occurrences[: len(lengths)] @ lengths),
            "largest_id": int(np.flatnonzero(occurrences)[-1]),
            "shards": shards,
        }


def printable(name: str) -> str:
    """A file's name as text; bytes that are no UTF-8 become U+FFFD."""
    return os.fsencode(name).decode("utf-8", errors="replace")


def refuse_other_ids(path: Path, layout: Layout) -> None:
    """DataError for an array of NumPy, or for wider ids than the layout has: every second one (and
    more) would be the upper half of the one before it.
    """
    with open_regular(path) as file:
        start = file.read(LOOKED_AT)
    kind = None
    if start.startswith((b"\x93NUMPY", b"PK\3\4")):
        kind = "an array of NumPy"
    elif layout.format == "bare" and len(start) >= 256:
        ids = np.frombuffer(start, layout.dtype)
        if ids[1::2].max() < 4 <= ids[::2].max():
            kind = "ids of 32 or 64 bits" if layout.dtype.itemsize == 2 else "ids of 64 bits"
    if kind is not None:
        raise DataError(
            f"not {layout.dtype.name} ids but {kind}: {path} (for bare uint32 ids give "
            "data.dtype=uint32; write others so: ids.astype('uint32').tofile('ids.bin'))"
        )


def count_ids(path: Path, layout: Layout, occurrences: np.ndarray, split: str) -> str:
    """Add to `occurrences` how often each id is in a file; returns the SHA-256 of all its bytes.

    DataError for an id beyond them.
    """
    digest = hashlib.sha256()
    with open_regular(path) as file:
        digest.update(file.read(layout.header_bytes))
        while content := file.read(CHUNK_BYTES):
            stop_if_requested("nothing was changed")
            digest.update(content)
            ids = np.frombuffer(content, layout.dtype)
            if (largest_id := int(ids.max())) >= len(occurrences):
                raise DataError(
                    f"id {largest_id} is outside the vocabulary of {len(occurrences)}: "
                    f"data.{split}: {path} (read as {layout.dtype.name}; set data.tokenizer to "
                    "the one that made these files)"
                )
            occurrences += np.bincount(ids, minlength=len(occurrences))
    return digest.hexdigest()
