"""Every tokenizer: round trips through text, folders and Hugging Face; markers stay text."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizer_texts import play

from minigpt.errors import DataError
from minigpt.tokenizer import Tokenizer, load
from minigpt.tokenizer.base import END_OF_TEXT
from minigpt.tokenizer.bpe import ReferenceBPE
from minigpt.tokenizer.byte import Byte, ByteTokenizer
from minigpt.tokenizer.char import UNKNOWN, Char, CharTokenizer
from minigpt.tokenizer.fast_bpe import BPE
from minigpt.tokenizer.hf import HF, HFTokenizer
from minigpt.tokenizer.ids import Ids, IdsOnly

ODD = "schöne Grüße, 漢字 🙂 'Tis  twelve   o'clock\t1603!\r\n\n  🙂"
TEXT = play(20_000) + ODD + " \x00 <|endoftext|>"


def make(kind: str, folder: Path) -> Tokenizer:
    if kind == "hf":
        BPE(400).train([TEXT]).save(folder / "theirs")
        return HF(str(folder / "theirs")).train([])
    if kind == "bpe":
        return ReferenceBPE(BPE(400).train([TEXT]).merges)
    return {"fast_bpe": BPE(400), "char": Char(), "byte": Byte()}[kind].train([TEXT])


@pytest.fixture(params=["fast_bpe", "bpe", "char", "byte", "hf"])
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Tokenizer:
    return make(request.param, tmp_path)


def test_text_comes_back(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert tokenizer.decode_bytes(tokenizer.encode(TEXT)) == TEXT.encode()
    assert tokenizer.encode("") == []
    assert max(tokenizer.encode(TEXT)) < tokenizer.vocab_size
    batch = tokenizer.encode_batch([TEXT, "", "a"])
    assert [ids.tolist() for ids in batch] == [tokenizer.encode(text) for text in (TEXT, "", "a")]
    assert all(ids.dtype == np.uint32 for ids in batch)


@pytest.mark.faults(36)
def test_lone_surrogates_are_replaced(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"


@pytest.mark.faults(37)
def test_a_marker_in_the_text_is_text(tokenizer: Tokenizer) -> None:
    """Fault 37: no text encodes to end_of_text."""
    ids = tokenizer.encode(f"before {END_OF_TEXT} after")
    assert tokenizer.end_of_text not in ids
    assert tokenizer.decode(ids) == f"before {END_OF_TEXT} after"
    end = tokenizer.end_of_text
    assert tokenizer.decode_bytes([end, *tokenizer.encode("a"), end]) == b"a"


def test_a_saved_tokenizer_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert type(again) is type(tokenizer)
    assert again.fingerprint == tokenizer.fingerprint
    assert again.encode(TEXT) == tokenizer.encode(TEXT)
    assert (again.vocab_size, again.end_of_text) == (tokenizer.vocab_size, tokenizer.end_of_text)


def test_the_bytes_of_each_id_add_up(tokenizer: Tokenizer) -> None:
    lengths = tokenizer.bytes_per_id()
    assert lengths is not None
    assert lengths.shape == (tokenizer.vocab_size,)
    assert lengths[tokenizer.encode(TEXT)].sum() == len(TEXT.encode())


def test_hugging_face_gives_the_same_ids(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer.save(tmp_path / "saved")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "saved")
    text = play(3000) + ODD
    assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text)
    assert theirs.decode(tokenizer.encode(text)) == text
    assert (theirs.eos_token_id, len(theirs)) == (tokenizer.end_of_text, tokenizer.vocab_size)


@pytest.mark.parametrize("token_id", [-1, 10_000])
@pytest.mark.faults(33)
def test_ids_outside_the_vocabulary(tokenizer: Tokenizer, token_id: int) -> None:
    with pytest.raises(ValueError, match="outside the vocabulary"):
        tokenizer.decode([token_id])


def test_characters_that_were_not_in_the_training_text() -> None:
    tokenizer = Char().train(["abc"])
    assert tokenizer.encode("cab!") == [2, 0, 1, tokenizer.unknown]
    assert tokenizer.decode([2, 0, 1, tokenizer.unknown]) == "cab\ufffd"
    assert Char().train([]).encode("a") == [0]


@pytest.mark.faults(37)
def test_a_foreign_tokenizer_with_added_markers(tmp_path: Path) -> None:
    """All markers of a tokenizer.json stay text, also one that it does not flag as special."""
    definition = BPE(300).train([TEXT]).tokenizer_json()
    definition["added_tokens"][0]["special"] = False
    definition["added_tokens"].append(
        {**definition["added_tokens"][0], "id": 300, "content": "<|x|>", "special": True}
    )
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(definition))
    tokenizer = HF(str(path)).train([])
    assert isinstance(tokenizer, HFTokenizer)
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (301, 299)
    ids = tokenizer.encode("<|x|><|endoftext|>")
    assert max(ids) < 299
    assert tokenizer.decode(ids) == "<|x|><|endoftext|>"
    assert HF(str(path), "<|x|>").train([]).end_of_text == 300
    with pytest.raises(DataError, match=r"no end-of-text marker <s>.*<\|x\|>"):
        HF(str(path), "<s>").train([])


def test_a_foreign_tokenizer_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(DataError, match=r"cannot read the tokenizer: .*tokenizer\.json"):
        HF(str(path)).describe()
    path.write_text("[]")
    with pytest.raises(DataError, match="not a JSON object"):
        HF(str(path)).train([])
    path.write_text('{"added_tokens": [{"content": "</s>"}], "model": {}}')
    with pytest.raises(DataError, match=r"not a tokenizer\.json"):
        HF(str(path)).train([])


def test_ids_only(tmp_path: Path) -> None:
    tokenizer = Ids(vocab_size=10, end_of_text=9).train([])
    tokenizer.save(tmp_path)
    again = load(tmp_path)
    assert (again.vocab_size, again.end_of_text) == (10, 9)
    assert again.fingerprint == tokenizer.fingerprint
    assert again.decode([1, 9]) == "<1><9>"
    assert again.bytes_per_id() is None
    with pytest.raises(DataError, match="knows ids only"):
        again.encode("text")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer_config.json", None, "cannot read the tokenizer"),
        ("tokenizer_config.json", "{", "not JSON"),
        ("tokenizer_config.json", "{}", "not a tokenizer of minigpt"),
        ("tokenizer_config.json", '{"minigpt_kind": "base"}', "unknown kind of tokenizer 'base'"),
        ("tokenizer.json", None, "cannot read the tokenizer"),
        ("tokenizer.json", "{}", "damaged tokenizer"),
        (
            "tokenizer.json",
            '{"model": {"merges": [["a", "b"]], "vocab": {}}}',
            "vocabulary and merges disagree",
        ),
    ],
)
@pytest.mark.faults(33)
def test_a_damaged_folder_is_named(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    BPE(300).train([TEXT]).save(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def word_level(**changes: Any) -> dict[str, Any]:
    model = {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "</s>": 2}, "unk_token": "a"}
    parts = ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [{"id": 2, "content": "</s>", **flags, "special": True}]
    return {
        "version": "1.0",
        **dict.fromkeys(parts),
        "added_tokens": added,
        "model": model,
    } | changes


def vocabulary(**changes: Any) -> dict[str, Any]:
    return word_level(model={**word_level()["model"], **changes})


ODD_DEFINITIONS: dict[str, Any] = {
    "an id of a billion": vocabulary(vocab={"a": 0, "</s>": 10**9}),
    "an added id of a billion": word_level(
        added_tokens=[{**word_level()["added_tokens"][0], "id": 10**9}]
    ),
    "an id below zero": vocabulary(vocab={"a": -1, "</s>": 2}),
    "an id beyond 64 bits": vocabulary(vocab={"a": 2**70, "</s>": 2}),
    "an id that is no number": vocabulary(vocab={"a": "0", "</s>": 2}),
    "an id that is half a number": vocabulary(vocab={"a": 0.5, "</s>": 2}),
    "no vocabulary": vocabulary(vocab=None),
    "a vocabulary of numbers": vocabulary(vocab=[1, 2]),
    "no model": word_level(model=None),
    "an unknown model": vocabulary(type="Telepathy"),
    "merges of nothing": vocabulary(type="BPE", merges=[["x", "y"]]),
    "added tokens without names": word_level(added_tokens=[{"id": 1}]),
    "added tokens that are none": word_level(added_tokens=[3]),
    "added tokens of half a kind": word_level(added_tokens=[{"id": 2, "content": "</s>"}]),
    "an unknown decoder": word_level(decoder={"type": "Telepathy"}),
    "another version": word_level(version="9.9"),
}


@pytest.mark.faults(33)
@pytest.mark.parametrize("name", ODD_DEFINITIONS)
def test_a_definition_that_is_none_is_one_line_and_bounded(tmp_path: Path, name: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(ODD_DEFINITIONS[name]))
    with pytest.raises(DataError, match=r"tokenizer"):
        HF(str(path), "</s>").train([])
    (tmp_path / "tokenizer_config.json").write_text('{"minigpt_kind": "hf", "eos_token": "</s>"}')
    with pytest.raises(DataError, match="damaged tokenizer"):
        load(tmp_path)


@pytest.mark.faults(33)
def test_a_definition_may_have_gaps_and_lie_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "3f").write_text(
        json.dumps(vocabulary(vocab={"a": 0, "b": 7, "</s>": 1000}))
    )
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "tokenizer.json").symlink_to("../blobs/3f")
    tokenizer = HF(str(tmp_path / "snapshot"), "</s>").train([])
    assert tokenizer.vocab_size == 1001
    assert tokenizer.encode("b") == [7]


@pytest.mark.faults(33)
def test_a_text_that_the_library_cannot_encode_is_one_line() -> None:
    wordpiece = vocabulary(
        type="WordPiece",
        unk_token="[UNK]",
        continuing_subword_prefix="##",
        max_input_chars_per_word=9,
    )
    with pytest.raises(DataError, match=r"cannot encode the text: .*UNK"):
        HFTokenizer(wordpiece, "</s>").encode("nothing of this")


@pytest.mark.faults(33)
@pytest.mark.parametrize(
    "kind",
    ["base", "byte_level", "__init__", "os", "../../evil", "byte.read", "BYTE", "", 7, None, []],
)
def test_only_the_names_of_tokenizers_are_kinds(tmp_path: Path, kind: Any) -> None:
    ByteTokenizer().save(tmp_path)
    load(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config |= {"minigpt_kind": kind, "_target_": "os.system"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    before = set(sys.modules)
    with pytest.raises(DataError, match=r"kind of tokenizer|not a tokenizer of minigpt"):
        load(tmp_path)
    assert all(name.startswith("minigpt.tokenizer") for name in set(sys.modules) - before)


@pytest.mark.faults(33)
@pytest.mark.parametrize(
    ("vocab_size", "end_of_text"),
    [(10**12, 1), ("9", 1), (9, 9), (9, -1), (True, 0), (9.0, 1), (None, None)],
)
def test_ids_that_cannot_be(tmp_path: Path, vocab_size: Any, end_of_text: Any) -> None:
    IdsOnly(9, 1).save(tmp_path)
    assert load(tmp_path).vocab_size == 9
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config |= {"vocab_size": vocab_size, "end_of_text": end_of_text}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="damaged tokenizer"):
        load(tmp_path)


@pytest.mark.faults(33)
@pytest.mark.parametrize(
    "vocab",
    [
        {"b": 0, "a": 1, UNKNOWN: 2},
        {"a": 0, UNKNOWN: 10**9},
        {"a": 1, UNKNOWN: 2},
        {"a": 0, "b": 1},
        {"ab": 0},
    ],
)
def test_characters_with_other_ids(tmp_path: Path, vocab: dict[str, int]) -> None:
    CharTokenizer(["a", "b"]).save(tmp_path)
    definition = json.loads((tmp_path / "tokenizer.json").read_text())
    definition["model"]["vocab"] = vocab
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    with pytest.raises(DataError, match="damaged tokenizer"):
        load(tmp_path)
