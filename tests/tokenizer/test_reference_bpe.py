"""The reference BPE against hand-worked merges, and lossless on everything."""

from collections import Counter
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_texts import any_text, dense_text, play

from minigpt.tokenizer.bpe import WORDS, ReferenceBPE, merge, train


def test_merges_by_hand() -> None:
    # Words: "ab" 3 times, " abc" twice. Pairs: ab 5, then (" ", ab) and (ab, c) 2 each: byte 32 is
    # the smaller id.
    assert train(["ab", "ab abc abc", "ab"], 3) == [(b"a", b"b"), (b" ", b"ab"), (b" ab", b"c")]


def test_ties_go_to_the_smaller_ids() -> None:
    assert train(["zy", "ab", "az"], 3) == [(b"a", b"b"), (b"a", b"z"), (b"z", b"y")]


def test_no_pair_left() -> None:
    assert train(["ab"], 10) == [(b"a", b"b")]
    assert train([], 10) == []


def test_merge_from_the_left() -> None:
    assert merge([1, 1, 1], (1, 1), 9) == [9, 1]
    assert merge([0, 1, 2, 1, 2, 1], (1, 2), 9) == [0, 9, 9, 1]


def count_anew(texts: list[str], n_merges: int) -> list[tuple[bytes, bytes]]:
    """The definition: count all pairs again for each merge."""
    words = Counter(word.encode() for text in texts for word in WORDS.findall(text))
    split = {word: list(word) for word in words}
    tokens = [bytes([byte]) for byte in range(256)]
    merges = []
    while len(merges) < n_merges:
        counts: Counter[tuple[int, int]] = Counter()
        for word, ids in split.items():
            for pair in pairwise(ids):
                counts[pair] += words[word]
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append((tokens[best[0]], tokens[best[1]]))
        split = {word: merge(ids, best, len(tokens)) for word, ids in split.items()}
        tokens.append(tokens[best[0]] + tokens[best[1]])
    return merges


@settings(max_examples=40, deadline=None)
@given(st.lists(dense_text, max_size=4))
def test_training_equals_counting_anew(texts: list[str]) -> None:
    """Incremental counts and the heap change nothing against the definition."""
    assert train(texts, 20) == count_anew(texts, 20)


def test_training_on_a_play_equals_counting_anew() -> None:
    assert train([play(5000)], 200) == count_anew([play(5000)], 200)


REFERENCE = ReferenceBPE(train([play(60_000)], 300))


@settings(max_examples=60, deadline=None)
@given(any_text)
def test_lossless_on_every_string(text: str) -> None:
    assert REFERENCE.decode(REFERENCE.encode(text)) == text


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_lossless_on_any_bytes(content: bytes) -> None:
    assert REFERENCE.decode_bytes(REFERENCE.encode_word(content)) == content
