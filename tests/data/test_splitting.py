"""Training and validation: by document, stable, never empty."""

import pytest
from corpora import Memory, stories

from minigpt.data.source import Document
from minigpt.data.splitting import plan_split, split_document, stable_hash, text_pieces
from minigpt.errors import DataError


def split_of(source: Memory, rule: dict) -> dict[str, str]:
    """Text of the first piece -> its split."""
    return {
        piece: split
        for number, document in enumerate(source.documents())
        for split, starts, piece in split_document(rule, number, document)
        if starts
    }


def test_many_documents_by_hash() -> None:
    source = Memory(stories(3000))
    rule = plan_split(source, 0.05)
    assert rule["rule"] == "hash"
    splits = split_of(source, rule)
    held_out = [text for text, split in splits.items() if split == "val"]
    assert 0.03 < len(held_out) / 3000 < 0.07
    for text in held_out:
        assert stable_hash(text) < 0.05 or source.texts.index(text) == rule["always"]


def test_order_and_neighbours_do_not_matter() -> None:
    texts = stories(1000)
    forward = split_of(Memory(texts), plan_split(Memory(texts), 0.05))
    backward = split_of(Memory(texts[::-1]), plan_split(Memory(texts[::-1]), 0.05))
    different = [text for text in texts if forward[text] != backward[text]]
    assert len(different) <= 2  # the one that is always held out, of each order


def test_the_hash_is_the_same_everywhere() -> None:
    # blake2b: no process, machine or version changes it
    assert stable_hash("minigpt") == 0.08827643473678083


@pytest.mark.faults(34)
def test_validation_is_never_empty() -> None:
    source = Memory(stories(300))
    rule = plan_split(source, 1e-9)
    splits = split_of(source, rule)
    assert list(splits.values()).count("val") == 1
    assert splits[source.texts[rule["always"]]] == "val"


def test_few_documents_keep_the_share() -> None:
    source = Memory(stories(50))
    rule = plan_split(source, 0.1)
    assert rule["rule"] == "documents"
    splits = split_of(source, rule)
    share = sum(len(text) for text, split in splits.items() if split == "val") / sum(
        map(len, splits)
    )
    assert 0.05 < share <= 0.15


@pytest.mark.faults(34)
def test_one_document_gives_its_end() -> None:
    """nanoGPT's split of tinyshakespeare: the first int(0.9 n) characters train."""
    source = Memory(["x" * 1003])
    rule = plan_split(source, 0.1)
    assert rule == {"rule": "tail", "document": 0, "characters": 902}
    parts = list(split_document(rule, 0, next(source.documents())))
    assert parts == [("train", True, "x" * 902), ("val", True, "x" * 101)]


def test_a_large_and_a_small_document() -> None:
    """The small one is not taken for the share of the large one, which is not held out."""
    rule = plan_split(Memory(["a" * 100_000, "b" * 400]), 0.1)
    assert rule == {"rule": "documents", "documents": [1]}
    rule = plan_split(Memory(["a" * 1000, "b" * 900]), 0.1)
    assert (rule["rule"], rule["document"]) == ("tail", 0)


@pytest.mark.parametrize("characters", [1, 99, 100, 101, 200, 250, 299])
def test_the_end_begins_exactly_there(monkeypatch: pytest.MonkeyPatch, characters: int) -> None:
    monkeypatch.setattr("minigpt.text.LONGEST_PIECE", 100)
    text = "".join(chr(0x4E00 + i) for i in range(300))
    rule = {"rule": "tail", "document": 0, "characters": characters}
    parts = list(split_document(rule, 0, Document(text, 0)))
    for split, expected in (("train", text[:characters]), ("val", text[characters:])):
        mine = [(starts, piece) for name, starts, piece in parts if name == split]
        assert "".join(piece for _, piece in mine) == expected
        assert [starts for starts, _ in mine] == [True] + [False] * (len(mine) - 1)


def test_a_source_may_name_the_splits() -> None:
    source = Memory(["a", "b", "c"], ["train", "val", "train"])
    rule = plan_split(source, 0.1)
    assert rule == {"rule": "named"}
    assert split_of(source, rule) == {"a": "train", "b": "val", "c": "train"}


@pytest.mark.parametrize("texts", [[], [""], [None, "  \n "], ["x"]])
@pytest.mark.faults(34)
def test_too_little_text(texts: list) -> None:
    with pytest.raises(DataError, match=r"the corpus holds [01] characters of text"):
        plan_split(Memory(texts), 0.1)


def test_blank_beginnings_are_not_blank_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minigpt.text.LONGEST_PIECE", 10)
    assert "".join(text_pieces(Document(" " * 25 + "text", 0))) == " " * 25 + "text"
    assert list(text_pieces(Document(" " * 9, 0))) == []
    assert list(text_pieces(Document(iter(["", " ", "\n"]), 0))) == []
    assert list(text_pieces(Document(None, 0))) == []
