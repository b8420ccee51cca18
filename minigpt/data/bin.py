"""Tokens that others made: llm.c and modded-nanogpt shards, and nanoGPT's bare .bin files, used where they lie."""

import glob
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.data.shards import foreign_layout
from minigpt.durable import sha256_file
from minigpt.errors import DataError
from minigpt.interrupt import stop_if_requested

CHUNK_TOKENS = 1 << 24


class Bin:
    """Training and validation files, each a path or a glob (read in the order of their names).

    A file with the header of llm.c (256 int32, the first of them 20240520, then 1 and the number of tokens) or none
    at all (nanoGPT); uint16 ids. `prepare` links to the files, checks every id and hashes them; nothing is copied.
    """

    def __init__(self, train: str, val: str) -> None:
        self.train = train
        self.val = val

    def describe(self) -> dict[str, Any]:
        listing = {
            split: [[path.name, path.stat().st_size] for path in self.paths(split)] for split in ("train", "val")
        }
        return {"kind": "bin", **listing}

    def paths(self, split: str) -> list[Path]:
        pattern = self.train if split == "train" else self.val
        found = [Path(path).resolve() for path in sorted(glob.glob(str(Path(pattern).expanduser())))]
        if not found:
            raise DataError(f"no such file: data.{split}={pattern} (give a path or a glob)")
        return found

    def adopt(self, folder: Path, tokenizer: Any) -> dict[str, Any]:
        """Link the files into `folder`; returns what the manifest says about them."""
        lengths = tokenizer.bytes_per_id()
        splits = {split: self._adopt_split(split, folder, tokenizer, lengths) for split in ("train", "val")}
        return {"dtype": "uint16", "splits": splits, "odd": {}}

    def _adopt_split(self, split: str, folder: Path, tokenizer: Any, lengths: np.ndarray | None) -> dict[str, Any]:
        occurrences = np.zeros(1 << 16, np.int64)
        shards = []
        for number, path in enumerate(self.paths(split)):
            layout = foreign_layout(path)
            for start in range(0, layout.n_tokens, CHUNK_TOKENS):
                stop_if_requested("nothing was changed")
                count = min(CHUNK_TOKENS, layout.n_tokens - start)
                ids = np.fromfile(path, layout.dtype, count, offset=layout.header_bytes + 2 * start)
                occurrences += np.bincount(ids, minlength=1 << 16)
            link = folder / f"{split}_{number:05d}.bin"
            link.unlink(missing_ok=True)
            link.symlink_to(path)
            entry = {"name": link.name, "n_tokens": layout.n_tokens, "sha256": sha256_file(path)}
            shards.append({**entry, "format": layout.format})
        largest_id = int(np.flatnonzero(occurrences)[-1])
        if largest_id >= tokenizer.vocab_size:
            raise DataError(
                f"id {largest_id} is outside the vocabulary of {tokenizer.vocab_size}: data.{split} "
                f"(set data.tokenizer to the one that made these files)"
            )
        return {
            "n_tokens": int(occurrences.sum()),
            "n_documents": int(occurrences[tokenizer.end_of_text]),
            "n_bytes": None if lengths is None else int(occurrences[: len(lengths)] @ lengths),
            "largest_id": largest_id,
            "shards": shards,
        }
