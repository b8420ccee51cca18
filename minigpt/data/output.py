"""The tokens of both splits while they are written, with what the manifest says about them."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.data.iterator import Piece
from minigpt.data.shard_writer import ShardWriter
from minigpt.data.shards import token_dtype
from minigpt.errors import DataError

SPLITS = ("train", "val")


class Output:
    """Both splits. `odd` counts odd documents, by the kinds of clean.MEANING.

    max_tokens: training tokens beyond it are not taken.
    remains: an earlier process's `synced_state`, to continue from exactly there.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: Any,
        shard_tokens: int,
        max_tokens: int | None,
        remains: dict[str, Any] | None,
    ) -> None:
        if tokenizer.end_of_text is None:
            raise DataError(
                "no end of text to put between documents: data.tokenizer "
                "(text needs another tokenizer)"
            )
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.vocab_size: int = tokenizer.vocab_size
        self.end_of_text = np.array([tokenizer.end_of_text], np.uint32)
        self.dtype = token_dtype(tokenizer.vocab_size)
        self.writers: dict[str, ShardWriter] = {}
        self.totals: dict[str, dict[str, int]] = {}
        self.odd: Counter[str] = Counter(remains["odd"] if remains else {})
        self.firsts: dict[str, Any] = {}  # position of the first odd text, unless met before
        self.waiting: dict[str, list[np.ndarray]] = {name: [] for name in SPLITS}
        self.taken: dict[str, int] = {}  # tokens of each split so far, waiting ones included
        for name in SPLITS:
            known = remains["splits"][name] if remains else {"writer": {}, "totals": {}}
            writer = ShardWriter(folder, name, self.dtype, shard_tokens, **known["writer"])
            writer.restore()
            self.writers[name], self.taken[name] = writer, writer.n_tokens
            nothing = dict.fromkeys(("n_documents", "n_bytes", "largest_id"), 0)
            self.totals[name] = nothing | known["totals"]

    def full(self) -> bool:
        return self.max_tokens is not None and self.taken["train"] >= self.max_tokens

    def append(self, piece: Piece, ids: np.ndarray) -> None:
        """Take the ids of a piece, behind end_of_text if a document begins with it.

        `flush` writes them. A piece of training text is cut where it would pass max_tokens.
        """
        n_bytes = piece.n_bytes
        if piece.split == "train" and self.max_tokens is not None:
            room = self.max_tokens - self.taken["train"] - piece.starts_document
            if len(ids) > room:
                ids = ids[:room]
                n_bytes = len(self.tokenizer.decode_bytes(ids.tolist()))
        for kind in piece.odd:
            if not self.odd[kind]:
                self.firsts[kind] = piece.after["position"]
            self.odd[kind] += 1
        if piece.starts_document:
            self.waiting[piece.split].append(self.end_of_text)
        self.waiting[piece.split].append(ids)
        self.taken[piece.split] += len(ids) + piece.starts_document
        self.totals[piece.split]["n_documents"] += piece.starts_document
        self.totals[piece.split]["n_bytes"] += n_bytes

    def flush(self) -> None:
        """Write what was appended: a write for each short document would take too long."""
        for name, parts in self.waiting.items():
            ids = np.concatenate(parts) if parts else np.empty(0, np.uint32)
            if len(ids):
                totals = self.totals[name]
                totals["largest_id"] = max(totals["largest_id"], int(ids.max()))
                assert totals["largest_id"] < self.vocab_size, (
                    "the tokenizer gives ids outside its vocabulary"
                )
                self.writers[name].append(ids)
            parts.clear()

    def n_tokens(self) -> int:
        return sum(self.taken.values())

    def n_published(self) -> int:
        return sum(len(writer.finished) for writer in self.writers.values())

    def n_documents(self) -> int:
        return sum(totals["n_documents"] for totals in self.totals.values())

    def n_bytes(self) -> int:
        return sum(totals["n_bytes"] for totals in self.totals.values())

    def synced_state(self) -> dict[str, Any]:
        """JSON from which another Output continues; what it counts on is on the disk."""
        for writer in self.writers.values():
            writer.sync()
        splits = {
            name: {"writer": self.writers[name].state(), "totals": self.totals[name]}
            for name in SPLITS
        }
        return {"splits": splits, "odd": self.odd}

    def finish(self) -> dict[str, Any]:
        """Publish the last shards. DataError if a split has no text."""
        for name, what in (("train", "training"), ("val", "validation")):
            if self.taken[name] < 2:
                raise DataError(
                    f"no {what} text: {self.n_documents()} documents, {self.n_bytes()} bytes "
                    "in all (choose more text or another data.val_fraction)"
                )
        for writer in self.writers.values():
            writer.publish()
        return {
            "dtype": self.dtype.name,
            "odd": self.odd,
            "splits": {
                name: {"n_tokens": writer.n_tokens, **self.totals[name], "shards": writer.finished}
                for name, writer in self.writers.items()
            },
        }

    def close(self) -> None:
        for writer in self.writers.values():
            writer.close()
