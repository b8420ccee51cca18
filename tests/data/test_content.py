"""Files are read as what they hold, packed or in columns; what is no text is refused."""

import bz2
import gzip
import io
import json
import lzma
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from corpora import check_positions, documents_of, stories, texts_of
from runs import Shell, contents

from minigpt.data import rows
from minigpt.data.files import Files
from minigpt.data.prepare import prepare
from minigpt.errors import DataError
from minigpt.tokenizer.byte import Byte


def zstd(content: bytes) -> bytes:
    import pyarrow

    packed: bytes = pyarrow.compress(content, codec="zstd", asbytes=True)
    return packed


PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd,
}
ROWS = ['plain, with "comma"', "two\nlines", "", "schön \U0001f600", "a\tb"]


def as_csv(delimiter: str) -> bytes:
    lines = [delimiter.join(("id", "review"))]
    lines += [
        f'{number}{delimiter}"{text.replace(chr(34), chr(34) * 2)}"'
        for number, text in enumerate(ROWS)
    ]
    return ("\ufeff" + "\r\n".join(lines) + "\r\n").encode()


FORMS = {
    ".csv": as_csv(","),
    ".tsv": as_csv("\t"),
    ".jsonl": b"\xef\xbb\xbf"
    + b"".join(json.dumps({"id": 1, "review": text}).encode() + b"\n" for text in ROWS),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("packed", ["", *PACK])
def test_rows_are_read_from_columns_also_packed(tmp_path: Path, form: str, packed: str) -> None:
    path = tmp_path / f"x{form}{packed}"
    path.write_bytes(PACK.get(packed, bytes)(FORMS[form]))
    source = Files(str(path), column="review")
    assert texts_of(source.documents()) == ROWS
    check_positions(source)
    # found in a folder, too
    assert texts_of(Files(str(tmp_path), column="review").documents()) == ROWS


@pytest.mark.parametrize("packed", PACK)
def test_packed_text_gives_the_tokens_of_the_text(tmp_path: Path, packed: str) -> None:
    """From several chunks, whatever the number of workers."""
    text = "".join(stories(8000))
    assert len(text) > 1 << 20
    (tmp_path / "x.txt").write_text(text)
    (tmp_path / f"x.txt{packed}").write_bytes(PACK[packed](text.encode()))
    options = {"val_fraction": 0.1}
    plain = prepare(Files(str(tmp_path / "x.txt")), Byte(), tmp_path / "plain", **options)
    folders = [tmp_path / f"packed{workers}" for workers in (1, 2)]
    for workers, folder in enumerate(folders, 1):
        source = Files(str(tmp_path / f"x.txt{packed}"))
        tokens = prepare(source, Byte(), folder, workers=workers, **options)
        n_tokens = plain.train.n_tokens
        assert np.array_equal(tokens.train.read(0, n_tokens), plain.train.read(0, n_tokens))
        assert tokens.train.n_tokens == n_tokens
    assert contents(folders[0]) == contents(folders[1])


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.faults(36)
def test_a_damaged_packed_file_is_named(tmp_path: Path, packed: str) -> None:
    path = tmp_path / f"x.txt{packed}"
    content = PACK[packed](os.urandom(30_000).hex().encode())
    for damaged in (content[: len(content) // 2], b"plain text, only named so", b"", content[:-4]):
        path.write_bytes(damaged)
        try:
            texts = texts_of(Files(str(path)).documents())
        except DataError as error:
            assert str(path) in str(error)  # noqa: PT017
        else:
            assert damaged == b""
            assert texts == [""]


def zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.txt", content)
    return file.getvalue()


def parquet() -> bytes:
    import pyarrow
    import pyarrow.parquet

    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), file)
    return file.getvalue()


def array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(9))
    return file.getvalue()


TEXT = "".join(stories(20)).encode()
BINARY = {
    "gzip": gzip.compress(TEXT),
    "bzip2": bz2.compress(TEXT),
    "xz": lzma.compress(TEXT),
    "zstd": zstd(TEXT),
    "zip archive": zipped(TEXT),
    "NumPy": array(),
    r"Parquet: .* \(name it \.parquet\)": parquet(),
    "PDF": b"%PDF-1.7\n" + TEXT,
    "PNG": b"\x89PNG\r\n\x1a\n",
    "UTF-16": "text".encode("utf-16"),
    "Arrow": b"ARROW1\0\0",
    "control characters or no UTF-8": random.Random(0).randbytes(1000),
    "characters or no UTF-8": "text without a mark".encode("utf-16-le"),
    "or no UTF-8": "Все счастливые семьи похожи друг на друга".encode("koi8-r"),
}


@pytest.mark.parametrize("what", BINARY)
@pytest.mark.faults(36)
def test_what_is_no_text_is_refused_under_any_name_of_text(tmp_path: Path, what: str) -> None:
    for name in ("x.txt", "x.md", "x.jsonl", "x.csv", "x.txt.gz"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(BINARY[what]) if name.endswith(".gz") else BINARY[what])
        with pytest.raises(DataError, match=what) as caught:
            texts_of(Files(str(path)).documents())
        assert str(path) in str(caught.value)
        assert "(" in str(caught.value), "no way out"


@pytest.mark.parametrize(
    "text",
    [
        "a\0b",
        "un caf\xe9 au lait, " * 50,
        "",
        "\x1b[1mbold\x1b[0m",
        "BZh: a text",
        "tab\t\f\v\r\n" * 9,
    ],
)
def test_odd_text_stays_text(tmp_path: Path, text: str) -> None:
    """NULs and bytes of Latin-1 here and there are counted, not refused."""
    path, content = tmp_path / "x.txt", text.encode("latin-1")
    path.write_bytes(content)
    assert texts_of(Files(str(path)).documents()) == [content.decode("utf-8", "replace")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "x.csv",
            "id,review\n1,a\n",
            r"no column 'text': .*x\.csv \(it has: id, review; set data\.column",
        ),
        ("x.csv", "text,text\n1,a\n", r"2 columns 'text': .*x\.csv"),
        ("x.csv", "", r"no column 'text': .*x\.csv"),
        (
            "x.csv",
            "id,text\n1,a\n2,b,c\n",
            r"row has 3 fields, the header 2: .*x\.csv, line 3 \(put",
        ),
        ("x.csv", 'id,text\n1,"a"b\n', r"not CSV: .*x\.csv, line 2"),
        ("x.csv", 'id,text\n1,"never closed\n', r"not CSV: .*x\.csv, line 2"),
        (
            "x.json",
            '[{"text": "a"}]',
            r"not text but JSON as a whole: .*x\.json \(write one JSON object a line",
        ),
        (
            "x.jsonl",
            '{"text": ' + "[" * 10**5 + "]" * 10**5 + "}",
            r"not JSON: .*, line 1 \(nested too deeply",
        ),
        (
            "x.jsonl",
            '{"text": ["a", 1]}',
            r"'text' is no text but list: .*, line 1 \(set data\.column",
        ),
        ("x.jsonl", '{"text": ' + "[" * 1000 + "]" * 1000 + "}", r"'text' is nested too deeply"),
        (
            "x.jsonl",
            '{"text": {"a": "b"}}',
            r"'text' is no text but dict: .*, line 1 \(set data\.column=text\.a\)",
        ),
        ("x.parquet.gz", "", r"packed Parquet: "),
        (
            "x.jsonl",
            '{"text": "a"}\n{"txt": "b"}\n',
            r"no key 'text': .*l, line 2 \(it has: txt; set data\.column",
        ),
        ("x.jsonl", '{"text": "a"}\n{"text"', r"not JSON: .*x\.jsonl, line 2"),
        ("x.jsonl", '{"text": 5}\n', r"'text' is no text but int: .*x\.jsonl, line 1"),
        (
            "x.jsonl",
            '{"doc": {"body": "a"}, "n": 1}',
            r"no key 'text': .*line 1 \(it has: doc\.body, n; set data\.column",
        ),
        ("x.csv", "id;text\n1;a\n", r"one column 'id;text', it seems divided by ';': .*x\.csv"),
        ("x.jsonl", "[1]\n", r"no key 'text': .*line 1 \(it has: list"),
        ("x.parquet", "PAR1 this is none PAR1", r"damaged parquet file: .*x\.parquet"),
        ("x.parquet", "", r"damaged parquet file: .*x\.parquet"),
    ],
)
@pytest.mark.faults(36)
def test_bad_rows_are_one_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        texts_of(Files(str(tmp_path / name)).documents())
    assert "\n" not in str(caught.value)


@pytest.mark.faults(36)
def test_a_line_without_an_end_is_not_read_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "LONGEST_ROW", 1000)
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "a"}\n{"text": "' + b"a" * 5000)
    with pytest.raises(DataError, match=r"line longer than 1,000 bytes: .*x\.jsonl, line 2"):
        texts_of(Files(str(tmp_path)).documents())
    (tmp_path / "x.jsonl").rename(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_text("text\n" + "a" * 5000)
    with pytest.raises(DataError, match=r"not CSV: .*field larger than field limit \(1000\)"):
        texts_of(Files(str(tmp_path)).documents())


def test_a_column_that_nothing_uses_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("text")
    with pytest.raises(
        DataError, match=r"column is not used: data\.column=review: .*x\.txt is plain text"
    ):
        Files(str(tmp_path), column="review").describe()
    (tmp_path / "y.jsonl").write_text('{"review": "a"}\n')
    assert texts_of(Files(str(tmp_path), column="review").documents()) == ["text", "a"]


def test_suffixes_count_in_any_case(tmp_path: Path) -> None:
    (tmp_path / "X.CSV").write_text("id,text\n1,a\n")
    assert texts_of(Files(str(tmp_path / "X.CSV")).documents()) == ["a"]
    assert texts_of(Files(str(tmp_path)).documents()) == ["a"]


@pytest.mark.faults(36)
def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    for name, content in ((b"a\xff.txt", b"one"), (b"b\xff.csv.gz", gzip.compress(b"text\ntwo\n"))):
        with open(folder + b"/" + name, "wb") as file:
            file.write(content)
    source = Files(os.fsdecode(folder))
    assert texts_of(source.documents()) == ["one", "two"]
    tokens = prepare(source, Byte(), tmp_path / "tokens", val_fraction=0.5)
    assert sorted(documents_of(tokens, "train") + documents_of(tokens, "val")) == ["one", "two"]


@pytest.mark.faults(36)
def test_the_command_refuses_with_exit_3_and_one_line(tmp_path: Path, shell: Shell) -> None:
    (tmp_path / "x.txt").write_bytes(gzip.compress(TEXT))
    (tmp_path / "t.csv").write_text(
        "id,review\n" + "".join(f"{n},{line}" for n, line in enumerate(stories(40)))
    )
    for path, column, code in (
        ("x.txt", "text", 3),
        ("x.txt", "review", 3),
        ("t.csv", "text", 3),
        ("t.csv", "review", 0),
    ):
        keys = [f"data.path={tmp_path / path}", f"data.column={column}"]
        assert shell("preprocess", "data=files", "data/tokenizer=byte", *keys) == code, shell.err
        errors = [line for line in shell.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == (code != 0)
        assert "Traceback" not in shell.err
