"""The work in a folder of tokens. What is done is noted, so that it continues after a kill."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minigpt.data.aside import Workers, settled
from minigpt.data.bin import Bin
from minigpt.data.clean import MARKS, report
from minigpt.data.encoding import batches, encoded
from minigpt.data.iterator import NOT_BEGUN, START, training_text, walk
from minigpt.data.journal import JOURNAL, read_journal
from minigpt.data.manifest import FORMAT, MANIFEST, manifest_fingerprint
from minigpt.data.output import Output
from minigpt.data.progress import Progress
from minigpt.data.source import Source
from minigpt.data.splitting import plan_split
from minigpt.errors import DataError
from minigpt.files.durable import (
    is_leftover,
    json_bytes,
    publish_folder,
    remove_leftovers,
    sha256_file,
    temporary_name,
    write_atomic,
)
from minigpt.interrupt import requested, stop_if_requested
from minigpt.terminal import say
from minigpt.tokenizer import Spec, Tokenizer, load


@dataclass
class Preparation:
    """The work on one locked folder."""

    source: Source | Bin
    spec: Spec
    folder: Path
    request: dict[str, Any]  # JSON of what was asked for
    workers: int
    progress: Progress = field(default_factory=Progress)

    def run(self) -> None:
        """Do what is left to do; the manifest makes the folder whole."""
        remains = self.remains()
        try:
            if isinstance(self.source, Bin):
                self.adopt(self.source, remains)
            else:
                self.encode_source(self.source, remains)
        finally:
            self.progress.close()

    def remains(self) -> dict[str, Any] | None:
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
                f"folder is not empty and holds no tokens: {self.folder} has {strangers[0]} "
                "(choose another data.out)"
            )
        return None

    def note(self, journal: dict[str, Any]) -> None:
        write_atomic(self.folder / JOURNAL, json_bytes({"request": self.request, **journal}))

    def adopt(self, source: Bin, remains: dict[str, Any] | None) -> None:
        """Use shards that exist already."""
        if remains is None:
            self.note({})
        tokenizer = self.make_tokenizer(())
        shards = source.adopt(self.folder, tokenizer)
        self.finish(tokenizer, {"rule": {"rule": "files"}, "pinned": {}}, shards)

    def encode_source(self, source: Source, remains: dict[str, Any] | None) -> None:
        """Tokenizer first, from the training text alone, then the shards."""
        pinned = source.pin(remains["pinned"] if remains else None)
        rule = remains["rule"] if remains else plan_split(source, self.request["val_fraction"])
        plan = {"pinned": pinned, "rule": rule}
        if remains is None:
            self.note({**plan, "encoding": None})
        max_bytes = self.spec.train_bytes
        if max_bytes is not None and self.request["max_tokens"] is not None:
            # about the text that will be tokenized
            max_bytes = min(max_bytes, 4 * self.request["max_tokens"])
        tokenizer = self.make_tokenizer(training_text(source, rule, max_bytes))
        shards = self.encode(source, tokenizer, plan, remains["encoding"] if remains else None)
        self.finish(tokenizer, plan, shards)

    def make_tokenizer(self, texts: Iterable[str]) -> Tokenizer:
        """Train and publish the tokenizer, or load the one that an earlier process published."""
        published = self.folder / "tokenizer"
        if published.exists():
            return load(published)
        if self.spec.train_bytes != 0:
            say("training the tokenizer")
        threads = Workers(1, "tokenizer")  # no Python runs, no signal is heard where it trains
        try:
            training = threads.submit(self.spec.train, texts)
            if not settled(training):
                stop_if_requested(NOT_BEGUN)
            tokenizer: Tokenizer = training.result()
        finally:
            threads.close()
        temporary = temporary_name(published)
        tokenizer.save(temporary)
        publish_folder(temporary, published)
        asked = self.request["tokenizer"].get("vocab_size")
        if asked is not None and tokenizer.vocab_size < asked:
            say(
                f"vocabulary {tokenizer.vocab_size} instead of data.tokenizer.vocab_size={asked}: "
                f"{asked - tokenizer.vocab_size} merges are missing, "
                "since the training text has no pair left (give more text, or that size)"
            )
        return tokenizer

    def encode(
        self,
        source: Source,
        tokenizer: Tokenizer,
        plan: dict[str, Any],
        remains: dict[str, Any] | None,
    ) -> dict[str, Any]:
        """Write all shards; returns what the manifest says about them."""
        max_tokens = self.request["max_tokens"]
        output = Output(self.folder, tokenizer, self.request["shard_tokens"], max_tokens, remains)
        self.progress.total_bytes, self.progress.max_tokens = source.n_bytes(), max_tokens
        if remains:
            say(f"continuing behind {output.n_tokens():,} tokens")
            self.progress.bytes_before = output.n_bytes()
        done = remains["state"] if remains else START
        wanted = (
            piece
            for piece in walk(source, plan["rule"], done)
            if not (output.full() and piece.split == "train")
        )

        def keep() -> None:
            self.note({**plan, "encoding": {**output.synced_state(), "state": done}})

        n_published = output.n_published()
        try:
            for batch in encoded(batches(wanted), tokenizer.encode_batch, self.workers):
                for piece, ids in batch:
                    if not (output.full() and (piece.split == "train" or output.taken["val"])):
                        output.append(piece, ids)
                output.flush()
                self.progress.show(output.n_documents(), output.n_tokens(), output.n_bytes())
                done = batch[-1][0].after
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
            firsts = {
                kind: source.place(output.firsts[kind], mark)
                for kind, mark in MARKS.items()
                if kind in output.firsts
            }
            for line in report(output.odd, firsts):
                say(line)
            return output.finish()
        finally:
            output.close()

    def finish(self, tokenizer: Tokenizer, plan: dict[str, Any], shards: dict[str, Any]) -> None:
        """Write the manifest, which makes the folder whole."""
        files = sorted((self.folder / "tokenizer").iterdir())
        manifest = {
            "format": FORMAT,
            "request": self.request,
            **plan,
            "tokenizer": {
                "kind": tokenizer.kind,
                "vocab_size": tokenizer.vocab_size,
                "end_of_text": tokenizer.end_of_text,
                "fingerprint": tokenizer.fingerprint,
                "files": {path.name: sha256_file(path) for path in files},
            },
            **shards,
        }
        manifest["fingerprint"] = manifest_fingerprint(manifest)
        remove_leftovers(self.folder, r"(progress|manifest)\.json")  # of before the first journal
        write_atomic(self.folder / MANIFEST, json_bytes(manifest))
        sizes = ", ".join(
            f"{name} {split['n_tokens']:,} tokens in {split['n_documents']:,} documents"
            for name, split in shards["splits"].items()
        )
        say(f"prepared {self.folder}: {sizes}, vocabulary {tokenizer.vocab_size:,}")
