"""Pieces of text to ids, by several threads, in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from minigpt.data.aside import Workers, settled
from minigpt.data.iterator import Piece
from minigpt.interrupt import requested

BATCH_CHARACTERS = 1 << 19  # text handed to a thread at once: enough to make handing over cheap


@dataclass
class Batch:
    pieces: list[Piece]
    ids: list[np.ndarray] = field(default_factory=list)


def batches(pieces: Iterable[Piece]) -> Iterator[Batch]:
    """Pieces in lists of about BATCH_CHARACTERS of text, shorter ones once a stop signal came."""
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if size >= BATCH_CHARACTERS or requested() is not None:
            yield Batch(batch)
            batch, size = [], 0
    if batch:
        yield Batch(batch)


def encoded(
    unencoded: Iterator[Batch], encode_batch: Callable[[list[str]], list[np.ndarray]], workers: int
) -> Iterator[Batch]:
    """The batches in their order, with ids. `workers` threads encode, each two batches ahead.

    Ends early if a stop signal comes and the next batch is not ready within a second. Threads, not
    processes: the encoders leave Python's lock while they work, and a thread cannot die alone.
    """

    def encode(batch: Batch) -> Batch:
        batch.ids = encode_batch([piece.text for piece in batch.pieces])
        return batch

    waiting: deque[Future[Batch]] = deque()
    threads = Workers(workers, "encode")
    try:
        for batch in unencoded:
            waiting.append(threads.submit(encode, batch))
            if len(waiting) >= 2 * workers:
                if not settled(waiting[0]):
                    return
                yield waiting.popleft().result()
        while waiting and settled(waiting[0]):
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        threads.close()
