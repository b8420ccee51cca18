"""Reference, trainer, tiktoken, `tokenizers` and transformers have the same merges and ids."""

import json
import random
from pathlib import Path

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_texts import dense_text, old_text, play
from tokenizers import Tokenizer as Library

import minigpt.text
from minigpt.text import pieces
from minigpt.tokenizer import fast_bpe, load
from minigpt.tokenizer.bpe import ReferenceBPE, train
from minigpt.tokenizer.byte_level import PATTERN, spell
from minigpt.tokenizer.fast_bpe import BPE, BPETokenizer, learn_merges

MERGES = train([play(60_000), "schöne Grüße, 漢字 and 🙂🙂 emoji 1234\n\n\n"], 400)
REFERENCE, FAST = ReferenceBPE(MERGES), BPETokenizer(MERGES)
MARKS = ["<|endoftext|>", "<|endoftext|", "|>", "\ud800", " ", "\n"]
LIBRARY = Library.from_str(json.dumps(FAST.tokenizer_json()))


@settings(max_examples=40, deadline=None)
@given(st.lists(dense_text, max_size=4), st.integers(0, 40))
def test_the_trainer_learns_the_reference_merges(texts: list[str], n_merges: int) -> None:
    assert learn_merges(texts, n_merges) == train(texts, n_merges)


def test_the_trainer_learns_the_reference_merges_from_a_play() -> None:
    assert learn_merges([play()], 1500) == train([play()], 1500)


@settings(max_examples=150, deadline=None)
@given(st.one_of(old_text, dense_text))
def test_same_ids_on_any_text(text: str) -> None:
    ids = REFERENCE.encode(text)
    assert FAST.encode(text) == ids
    assert LIBRARY.encode(text).ids == ids
    assert FAST.decode(ids) == text


def test_same_ids_on_a_play() -> None:
    text = play()
    ids = FAST.encode(text)
    assert REFERENCE.encode(text) == ids
    assert LIBRARY.encode(text).ids == ids
    assert LIBRARY.decode(ids) == text


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(dense_text, st.sampled_from(MARKS))))
def test_a_batch_encodes_like_its_texts(texts: list[str]) -> None:
    """Though it goes through the library in one call, with end_of_text between the texts."""
    assert [ids.tolist() for ids in FAST.encode_batch(texts)] == [
        FAST.encode(text) for text in texts
    ]


def test_same_ids_on_random_bytes() -> None:
    """Inside one word, where only merges decide; `tokenizers` gets the bytes spelled."""
    whole_words = Library.from_str(json.dumps({**FAST.tokenizer_json(), "pre_tokenizer": None}))
    rng = random.Random(0)
    fragments = [token for token in FAST.tokens if len(token) > 1]
    for length in range(1, 200):
        several = b"".join(rng.choices(fragments, k=1 + length // 8))
        word = rng.randbytes(length) if length % 2 else several
        ids = REFERENCE.encode_word(word)
        assert FAST.encoding._encode_single_piece(word) == ids
        assert whole_words.encode(spell(word)).ids == ids
        assert FAST.decode_bytes(ids) == word


def test_reference_and_fast_path_save_the_same_vocabulary(tmp_path: Path) -> None:
    REFERENCE.save(tmp_path / "reference")
    FAST.save(tmp_path / "fast")
    assert (tmp_path / "reference/tokenizer.json").read_bytes() == (
        tmp_path / "fast/tokenizer.json"
    ).read_bytes()
    assert isinstance(load(tmp_path / "reference"), ReferenceBPE)
    assert isinstance(load(tmp_path / "fast"), BPETokenizer)


UNITS = ["word ", "and\n", "a\n\n", "b  ", "end, ", "it's\t", "12 3 ", "é x\u00a0 "]
UNITS += ["漢字 y\r\n", "no! \n", "z \n \n"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(UNITS), min_size=6))
def test_pieces_encode_like_the_whole(units: list[str]) -> None:
    """Each unit has an exact place to cut: the ids of the pieces joined are those of the text."""
    text = "".join(units)
    whole = FAST.encode(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minigpt.text, "LONGEST_PIECE", 24)
        cut = list(pieces([text]))
    assert "".join(cut) == text
    assert all(len(piece) <= 24 for piece in cut)
    assert [token_id for piece in cut for token_id in FAST.encode(piece)] == whole


def test_pieces_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minigpt.text, "LONGEST_PIECE", 100)
    text = play(5000)
    assert list(pieces([text])) == list(pieces(text)) == list(pieces([text[:777], text[777:]]))


@pytest.mark.parametrize("unit", [" ", "\n", "a", "^", "é", "1", " \n", "漢"])
def test_a_million_of_the_same(unit: str) -> None:
    """Regex engines overflow their stack on long runs; pieces keep us clear of it."""
    text = unit * (1_000_000 // len(unit))
    assert [FAST.decode(ids) for ids in FAST.encode_batch([text, "a"])] == [text, "a"]


def test_vocabulary_size_counts_bytes_merges_and_end_of_text() -> None:
    tokenizer = BPE(vocab_size=300).train([play(20_000)])
    assert (tokenizer.vocab_size, tokenizer.end_of_text, len(tokenizer.merges)) == (300, 299, 43)
    # not more merges than the text has pairs
    assert BPE(vocab_size=300).train(["aa"]).vocab_size == 258
    with pytest.raises(ValueError, match="vocab_size=256 is too small"):
        BPE(vocab_size=256)


def test_the_pattern_covers_every_character() -> None:
    for text in (play(), "a\x00b\u0085c\u2028d\ufeff", "".join(map(chr, range(0xD800)))):
        assert "".join(regex.findall(PATTERN, text)) == text
    assert fast_bpe.BPE(257).train(["abc"]).merges == []
