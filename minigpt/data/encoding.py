"""Pieces of text to ids, by several threads, in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future

import numpy as np

from minigpt.data.aside import Workers, settled
from minigpt.data.iterator import Piece
from minigpt.interrupt import requested

BATCH_CHARACTERS = 1 << 19  # text handed to a thread at once: enough to make handing over cheap

Encoded = list[tuple[Piece, np.ndarray]]  # pieces with their ids


def batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Pieces in lists of about BATCH_CHARACTERS of text, shorter ones once a stop signal came."""
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if size >= BATCH_CHARACTERS or requested() is not None:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def encoded(
    unencoded: Iterator[list[Piece]],
    encode_batch: Callable[[list[str]], list[np.ndarray]],
    workers: int,
) -> Iterator[Encoded]:
    """The batches in their order, with ids. `workers` threads encode, each two batches ahead.

    Ends early if a stop signal comes and the next batch is not ready within a second. Threads, not
    processes: the encoders leave Python's lock while they work, and a thread cannot die alone.
    """

    def encode(batch: list[Piece]) -> Encoded:
        return [*zip(batch, encode_batch([piece.text for piece in batch]))]

    waiting: deque[Future[Encoded]] = deque()
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
