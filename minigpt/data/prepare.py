"""From a source and a tokenizer to a verified folder of tokens.

    folder/manifest.json          written last: where it is, everything else is complete
    folder/train_00000.bin ...    shards.py
    folder/tokenizer/             what the tokenizer saved
    folder/progress.json          while work is under way: what is durable, and where to continue

Killed at any moment and called again, `prepare` continues behind the last finished shard and ends
with the same bytes. They depend on the source, the tokenizer, val_fraction, max_tokens and
shard_tokens only: pieces of text are encoded one by one and written in order, whatever the number
of workers.
"""

import json
import time
from pathlib import Path

from minigpt.data.bin import Bin
from minigpt.data.journal import JOURNAL, is_noted, refuse_other_request
from minigpt.data.manifest import MANIFEST, read_manifest
from minigpt.data.preparation import Preparation
from minigpt.data.source import Source
from minigpt.data.tokens import Tokens
from minigpt.errors import BusyError, DataError
from minigpt.files.durable import json_bytes, writing
from minigpt.files.lock import FolderLock
from minigpt.interrupt import stop_if_requested
from minigpt.terminal import say
from minigpt.tokenizer import Spec


def prepare(
    corpus: Source | Bin,
    tokenizer: Spec,
    folder: Path | str,
    *,
    val_fraction: float = 0.01,
    max_tokens: int | None = None,
    shard_tokens: int = 16_000_000,
    workers: int = 1,
    wait: bool = False,
) -> Tokens:
    """Tokenize a corpus into `folder`, or open it if that is done. Returns verified tokens.

    val_fraction: share of the text held out, by document (splitting.py); unused where the source
        names its split.
    max_tokens: at most so many training tokens. The document that would pass it is cut there and
        ends the preparation. Documents held out before it are taken whole, and one from behind it
        where there was none.
    shard_tokens: tokens a shard.
    workers: threads that encode.
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
            f"max_tokens={max_tokens} is not used: token files that exist are taken whole "
            "(leave it out)"
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
    with writing(folder, "data_dir= or data.out="):
        if not (folder / MANIFEST).exists() or (folder / JOURNAL).exists():
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder, wait) as lock:
                if not (folder / MANIFEST).exists():
                    try:
                        Preparation(corpus, tokenizer, folder, request, workers).run()
                    except DataError:
                        if not is_noted(folder, request):
                            lock.abandon()  # refused before anything was written
                        raise
                if is_noted(folder, request):
                    (folder / JOURNAL).unlink()
    refuse_other_request(folder, read_manifest(folder)["request"], request)
    return Tokens.open(folder)


def locked(folder: Path, wait: bool) -> FolderLock:
    """The folder's lock. If it is taken, raise BusyError or wait, listening for stop signals."""
    lock = FolderLock(folder, "folder of tokens")
    said = False
    while True:
        try:
            return lock.acquire()
        except BusyError as error:
            if not wait:
                raise
            if not said:
                say(f"waiting: {error}")
                said = True
            stop_if_requested(f"waited for {folder}")
            time.sleep(0.1)
