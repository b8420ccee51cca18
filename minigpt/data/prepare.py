"""From a source and a tokenizer to a verified folder of tokens.

    folder/manifest.json          written last: its presence means that everything else is complete
    folder/train_00000.bin ...    shards.py
    folder/tokenizer/             what the tokenizer saved
    folder/progress.json          while work is under way: what is durable so far and where to
    continue

Killed at any moment and called again, `prepare` continues behind the last finished shard and ends
with the same bytes. The bytes depend on the source, the tokenizer and val_fraction, max_tokens,
shard_tokens only: pieces of text are encoded one by one and written in order, whatever the number
    of workers.
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from minigpt.data.aside import Workers, settled
from minigpt.data.bin import Bin
from minigpt.data.clean import report
from minigpt.data.encoding import batches, encoded
from minigpt.data.iterator import START, DatasetIterator, Piece, walk
from minigpt.data.journal import PROGRESS, is_noted, read_journal, refuse_other_request
from minigpt.data.manifest import FORMAT, MANIFEST, manifest_fingerprint, read_manifest
from minigpt.data.output import Output
from minigpt.data.progress import Progress
from minigpt.data.source import Source
from minigpt.data.splitting import plan_split
from minigpt.data.tokens import Tokens
from minigpt.errors import BusyError, DataError
from minigpt.files.durable import (
    is_leftover,
    json_bytes,
    publish_folder,
    remove_leftovers,
    sha256_file,
    storage_error,
    temporary_name,
    write_atomic,
)
from minigpt.files.lock import FolderLock
from minigpt.interrupt import requested, stop_if_requested


class TokenizerSpec(Protocol):
    """How to get a tokenizer: what conf/data/tokenizer/*.yaml builds."""

    train_bytes: int | None  # how much text `train` wants; None: all, 0: none

    def describe(self) -> dict[str, Any]:
        """JSON of what decides the result of `train`."""

    def train(self, texts: Any) -> Any: ...

    def load(self, folder: Path) -> Any: ...


def prepare(
    corpus: Source | Bin,
    tokenizer: TokenizerSpec,
    folder: Path | str,
    *,
    val_fraction: float = 0.01,
    max_tokens: int | None = None,
    shard_tokens: int = 16_000_000,
    workers: int = 1,
    wait: bool = False,
    progress: bool = True,
) -> Tokens:
    """Tokenize a corpus into `folder`, or open it if that is done; returns the opened, verified
    tokens.

    val_fraction: share of the text held out, by document (splitting.py); unused where the source
        names its split.
    max_tokens: at most so many training tokens; the document that would pass it is cut there, and
    ends the preparation (documents held out before it are taken whole, and one from behind it where
    there was none).
    shard_tokens: tokens a shard. workers: threads that encode.
    wait: wait for another process that prepares the same folder instead of raising BusyError.

    Raises DataError (nothing to read, a folder of other tokens, a damaged one), BusyError,
    StorageError, Stopped.
    """
    if not 0 < val_fraction <= 0.5:
        raise ValueError(f"val_fraction={val_fraction} must be above 0 and at most 0.5")
    for name, value, least in (
        ("max_tokens", max_tokens, 2),
        ("shard_tokens", shard_tokens, 1),
        ("workers", workers, 1),
    ):
        if value is not None and value < least:
            raise ValueError(f"{name}={value} must be at least {least}")
    if isinstance(corpus, Bin) and max_tokens is not None:
        raise ValueError(
            f"max_tokens={max_tokens} is not used: token files that exist are taken whole (leave it out)"
        )
    folder = Path(folder)
    request = {
        "source": corpus.describe(),
        "tokenizer": tokenizer.describe(),
        "val_fraction": val_fraction,
        "max_tokens": max_tokens,
        "shard_tokens": shard_tokens,
    }
    request = json.loads(json_bytes(request))  # as it reads back: tuples become lists
    try:
        if not (folder / MANIFEST).exists() or (folder / PROGRESS).exists():
            folder.mkdir(parents=True, exist_ok=True)
            with lock_folder(folder, wait) as lock:
                if not (folder / MANIFEST).exists():
                    work = Preparation(
                        corpus, tokenizer, folder, request, workers, Progress(None, None, progress)
                    )
                    try:
                        work.run()
                    except DataError:
                        if not is_noted(folder, request):
                            lock.abandon()  # refused before anything was written
                        raise
                if is_noted(folder, request):
                    (folder / PROGRESS).unlink()
    except OSError as error:
        raise storage_error(folder, error, "data_dir= or data.out=") from error
    refuse_other_request(folder, read_manifest(folder)["request"], request)
    return Tokens.open(folder, tokenizer.load)


def lock_folder(folder: Path, wait: bool) -> FolderLock:
    """The folder's lock; if it is taken, wait for it (looking out for stop signals) or raise
    BusyError.
    """
    lock = FolderLock(folder, "folder of tokens")
    said = False
    while True:
        try:
            return lock.acquire()
        except BusyError as error:
            if not wait:
                raise
            if not said:
                print(f"waiting: {error}", file=sys.stderr, flush=True)
                said = True
            stop_if_requested(f"waited for {folder}")
            time.sleep(0.1)


class Preparation:
    """The work on one locked folder. What must survive a kill is in `journal`, written to
    progress.json.
    """

    def __init__(
        self,
        source: Source | Bin,
        tokenizer: TokenizerSpec,
        folder: Path,
        request: dict[str, Any],
        workers: int,
        progress: Progress,
    ) -> None:
        self.source = source
        self.spec = tokenizer
        self.folder = folder
        self.request = request
        self.workers = workers
        self.progress = progress

    def run(self) -> None:
        remains = self.read_journal()
        try:
            if isinstance(self.source, Bin):
                self.adopt(self.source, remains)
            else:
                self.encode_source(self.source, remains)
        finally:
            self.progress.close()

    def adopt(self, source: Bin, remains: dict[str, Any] | None) -> None:
        """Use shards that exist already."""
        if remains is None:
            self.write_journal({"request": self.request})
        tokenizer = self.make_tokenizer(())
        self.finish(tokenizer, {"rule": "files"}, {}, source.adopt(self.folder, tokenizer))

    def encode_source(self, source: Source, remains: dict[str, Any] | None) -> None:
        """Tokenizer first, from the training text alone, then the shards."""
        pinned = source.pin(remains["pinned"] if remains else None)
        rule = remains["rule"] if remains else plan_split(source, self.request["val_fraction"])
        plan = {"request": self.request, "pinned": pinned, "rule": rule}
        if remains is None:
            self.write_journal({**plan, "encoding": None})
        max_bytes = self.spec.train_bytes
        if max_bytes is not None and self.request["max_tokens"] is not None:
            # about the text that will be tokenized
            max_bytes = min(max_bytes, 4 * self.request["max_tokens"])
        tokenizer = self.make_tokenizer(interruptible(DatasetIterator(source, rule, max_bytes)))
        shards = self.encode(source, tokenizer, plan, remains["encoding"] if remains else None)
        self.finish(tokenizer, rule, pinned, shards)

    def read_journal(self) -> dict[str, Any] | None:
        """What an earlier process left to continue, or None for an empty folder."""
        position = None if isinstance(self.source, Bin) else self.source.position
        if (journal := read_journal(self.folder, self.request, position)) is not None:
            remove_leftovers(self.folder, r"(progress|manifest)\.json", "tokenizer")
            return journal
        strangers = sorted(
            entry.name
            for entry in self.folder.iterdir()
            if entry.name != "lock" and not is_leftover(entry, r"progress\.json")
        )
        if strangers:
            raise DataError(
                f"folder is not empty and holds no tokens: {self.folder} has {strangers[0]} (choose another data.out)"
            )
        return None

    def write_journal(self, journal: dict[str, Any]) -> None:
        write_atomic(self.folder / PROGRESS, json_bytes(journal))

    def make_tokenizer(self, texts: Iterable[str]) -> Any:
        """Train and publish the tokenizer, or load the one that an earlier process published."""
        published = self.folder / "tokenizer"
        if published.exists():
            return self.spec.load(published)
        if self.spec.train_bytes != 0:
            self.progress.say("training the tokenizer")
        # In another thread: the trainer keeps its own from running Python, and with it from seeing
        # a stop signal.
        threads = Workers(1, "tokenizer")
        try:
            training = threads.submit(self.spec.train, texts)
            if not settled(training):
                stop_if_requested("no tokens were written yet (the same command begins again)")
            tokenizer = training.result()
        finally:
            threads.close()
        temporary = temporary_name(published)
        tokenizer.save(temporary)
        publish_folder(temporary, published)
        return tokenizer

    def encode(
        self, source: Source, tokenizer: Any, plan: dict[str, Any], remains: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Write all shards; returns what the manifest says about them."""
        shard_tokens, max_tokens = self.request["shard_tokens"], self.request["max_tokens"]
        output = Output(self.folder, tokenizer, shard_tokens, max_tokens, remains)
        self.progress.total_bytes, self.progress.max_tokens = source.n_bytes(), max_tokens
        if remains:
            self.progress.say(f"continuing behind {output.n_tokens():,} tokens")
            self.progress.resume(output.n_documents(), output.n_tokens(), output.n_bytes())

        def wanted() -> Iterator[Piece]:
            for piece in walk(source, plan["rule"], remains["state"] if remains else START):
                if not (output.full() and piece.split == "train"):
                    yield piece

        def keep() -> None:
            self.write_journal({**plan, "encoding": {**output.synced_state(), "state": done}})

        n_published, done = output.n_published(), remains["state"] if remains else START
        try:
            for batch in encoded(batches(wanted()), tokenizer.encode_batch, self.workers):
                for piece, ids in zip(batch.pieces, batch.ids):
                    if output.full() and (piece.split == "train" or output.taken["val"]):
                        continue
                    self.progress.add(
                        piece.starts_document, output.append(piece, ids), piece.n_bytes
                    )
                output.flush()
                done = batch.pieces[-1].after
                if output.n_published() > n_published:
                    n_published = output.n_published()
                    keep()
                if requested() is not None or (output.full() and output.taken["val"]):
                    break
            if requested() is not None:
                keep()
                stop_if_requested(
                    f"{output.n_tokens():,} tokens are kept (the same command continues)"
                )
            for line in report(output.odd):
                self.progress.say(line)
            return output.finish()
        finally:
            output.close()

    def finish(
        self, tokenizer: Any, rule: dict[str, Any], pinned: dict[str, Any], shards: dict[str, Any]
    ) -> None:
        """Write the manifest, which makes the folder whole."""
        published = self.folder / "tokenizer"
        manifest = {
            "format": FORMAT,
            "request": self.request,
            "rule": rule,
            "pinned": pinned,
            "tokenizer": {
                "kind": tokenizer.kind,
                "vocab_size": tokenizer.vocab_size,
                "end_of_text": tokenizer.end_of_text,
                "fingerprint": tokenizer.fingerprint,
                "files": {path.name: sha256_file(path) for path in sorted(published.iterdir())},
            },
            **shards,
        }
        manifest["fingerprint"] = manifest_fingerprint(manifest)
        remove_leftovers(self.folder, r"(progress|manifest)\.json")  # of before the first journal
        write_atomic(self.folder / MANIFEST, json_bytes(manifest))
        self.progress.say(f"prepared {self.folder}: {summary(manifest)}")


def summary(manifest: dict[str, Any]) -> str:
    parts = [
        f"{name} {entry['n_tokens']:,} tokens in {entry['n_documents']:,} documents"
        for name, entry in manifest["splits"].items()
    ]
    return f"{', '.join(parts)}, vocabulary {manifest['tokenizer']['vocab_size']:,}"


def interruptible(texts: DatasetIterator) -> Iterator[str]:
    for text in texts:
        stop_if_requested("no tokens were written yet (the same command begins again)")
        yield text
