"""Byte pair encoding from scratch: the readable reference that fast_bpe.py must agree with.

Sennrich, Haddow & Birch, "Neural Machine Translation of Rare Words with Subword Units" (2016), on
bytes as in GPT-2. Text falls into words (byte_level.PATTERN); no token crosses a word. Training
starts from the 256 bytes. Again and again it turns the most frequent pair of neighbouring tokens
into a new token. Encoding replays these merges on new text in the order in which they were learned.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import regex  # type: ignore[import-untyped]

from minigpt.text import pieces, without_surrogates
from minigpt.tokenizer.byte_level import PATTERN, ByteLevel, Merge

WORDS = regex.compile(PATTERN)
Pair = tuple[int, int]


def train(texts: Iterable[str], n_merges: int) -> list[Merge]:
    """Up to n_merges merges: the most frequent pair first, of equal ones that of smaller ids.

    Words are counted once and kept as lists of ids. A merge touches only the words that hold its
    pair, and only there counts of pairs change. The heap may hold outdated counts. The count of a
    known pair only ever falls, so an outdated entry is put back with the true count.
    """
    counter = Counter(
        word.encode() for text in texts for word in WORDS.findall(without_surrogates(text))
    )
    words = [list(word) for word in counter]
    frequencies = list(counter.values())

    pair_counts: Counter[Pair] = Counter()
    words_with: defaultdict[Pair, set[int]] = defaultdict(set)  # some have lost the pair since
    for index, word in enumerate(words):
        for pair in pairwise(word):
            pair_counts[pair] += frequencies[index]
            words_with[pair].add(index)

    heap = [(-count, pair) for pair, count in pair_counts.items()]
    heapq.heapify(heap)
    tokens = [bytes([byte]) for byte in range(256)]
    merges: list[Merge] = []
    while heap and len(merges) < n_merges:
        negative_count, pair = heapq.heappop(heap)
        if pair_counts[pair] != -negative_count:
            if pair_counts[pair] > 0:
                heapq.heappush(heap, (-pair_counts[pair], pair))
            continue
        new_id = len(tokens)
        merges.append((tokens[pair[0]], tokens[pair[1]]))
        tokens.append(tokens[pair[0]] + tokens[pair[1]])

        born: set[Pair] = set()
        for index in words_with.pop(pair):
            before = words[index]
            after = words[index] = merge(before, pair, new_id)
            for gone in pairwise(before):
                pair_counts[gone] -= frequencies[index]
            for present in pairwise(after):
                pair_counts[present] += frequencies[index]
                if new_id in present:
                    words_with[present].add(index)
                    born.add(present)
        for new_pair in born:
            heapq.heappush(heap, (-pair_counts[new_pair], new_pair))
        del pair_counts[pair]
    return merges


def merge(ids: list[int], pair: Pair, new_id: int) -> list[int]:
    """Replace each occurrence of the pair, from the left, by new_id."""
    merged = []
    position = 0
    while position < len(ids):
        if position + 1 < len(ids) and (ids[position], ids[position + 1]) == pair:
            merged.append(new_id)
            position += 2
        else:
            merged.append(ids[position])
            position += 1
    return merged


class ReferenceBPE(ByteLevel):
    """Encodes by the definition, slowly."""

    kind = "bpe"

    def __init__(self, merges: Sequence[Merge]) -> None:
        super().__init__(merges)
        self.new_ids: dict[Pair, int] = {
            (self.ranks[left], self.ranks[right]): 256 + number
            for number, (left, right) in enumerate(merges)
        }

    def encode_word(self, word: bytes) -> list[int]:
        """Apply to one word the earliest-learned merge that fits, until none does."""
        ids = list(word)
        while len(ids) > 1:
            pair = min(pairwise(ids), key=lambda pair: self.new_ids.get(pair, self.vocab_size))
            if pair not in self.new_ids:
                break
            ids = merge(ids, pair, self.new_ids[pair])
        return ids

    def encode_unicode(self, text: str) -> np.ndarray:
        words = [word.encode() for piece in pieces([text]) for word in WORDS.findall(piece)]
        return np.array(
            [token_id for word in words for token_id in self.encode_word(word)], np.uint32
        )


read = ReferenceBPE.read
