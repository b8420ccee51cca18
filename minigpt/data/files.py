"""Text files: .txt (a file is a document), .jsonl (a line is one), .parquet (a row is one)."""

import codecs
import glob
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from minigpt.data.source import Document, Source
from minigpt.durable import sha256_file
from minigpt.errors import DataError

SUFFIXES = (".txt", ".jsonl", ".parquet")
CHUNK_BYTES = 1 << 20
HASHED_BYTES = 256 * 1024 * 1024  # corpora up to this size are recognised by content, larger ones by names and sizes


class Files(Source):
    """A file, a folder (searched to any depth) or a glob of .txt, .jsonl and .parquet, in the order of their names.

    column: the key of the text in .jsonl and .parquet. A single file with another suffix is read as plain text.
    """

    def __init__(self, path: str, column: str = "text") -> None:
        if not path:
            raise ValueError("path is empty: give a file, a folder or a glob")
        self.path = path
        self.column = column

    def paths(self) -> list[tuple[str, Path]]:
        """(name, path) of every file, by name. Names are relative to the folder, so that it can be moved."""
        root = Path(self.path).expanduser()
        if root.is_file():
            return [(root.name, root)]
        if root.is_dir():
            found = [path for path in root.rglob("*") if path.suffix in SUFFIXES and path.is_file()]
        else:
            root = Path(glob_root(str(root)))
            found = [Path(path) for path in glob.glob(os.path.expanduser(self.path), recursive=True)]
            found = [path for path in found if path.suffix in SUFFIXES and path.is_file()]
        if not found:
            raise DataError(f"no {', '.join(SUFFIXES)} files: data.path={self.path} (give a file, a folder or a glob)")
        return sorted((path.relative_to(root).as_posix(), path) for path in found)

    def describe(self) -> dict[str, Any]:
        paths = self.paths()
        sizes = [path.stat().st_size for _, path in paths]
        digest = hashlib.sha256()
        for (name, path), size in zip(paths, sizes):
            content = sha256_file(path) if sum(sizes) <= HASHED_BYTES else ""
            digest.update(json.dumps([name, size, content]).encode())
        return {
            "kind": "files",
            "column": self.column,
            "n_files": len(paths),
            "n_bytes": sum(sizes),
            "sha256": digest.hexdigest(),
        }

    def n_bytes(self) -> int | None:
        paths = [path for _, path in self.paths()]
        return None if any(path.suffix == ".parquet" for path in paths) else sum(path.stat().st_size for path in paths)

    def documents(self, start: Any = None) -> Iterator[Document]:
        first_file, first_item = start or (0, 0)
        for number, (_, path) in enumerate(self.paths()):
            if number < first_file:
                continue
            skip = first_item if number == first_file else 0
            try:
                if path.suffix == ".jsonl":
                    texts = json_lines(path, self.column, skip)
                elif path.suffix == ".parquet":
                    texts = parquet_rows(path, self.column, skip)
                else:
                    yield Document(text_chunks(path), [number, 0])
                    continue
                for item, text in texts:
                    yield Document(text, [number, item])
            except OSError as error:
                raise DataError(f"cannot read: {path} ({error.strerror or error})") from None


def glob_root(pattern: str) -> str:
    """The folder above the first wildcard of a glob."""
    parts = Path(pattern).parts
    fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return str(Path(*parts[:fixed])) if fixed else "."


def text_chunks(path: Path) -> Iterator[str]:
    """A text file in chunks; bytes that are not UTF-8 become U+FFFD, a byte order mark is dropped."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
    try:
        with open(path, "rb") as file:
            while content := file.read(CHUNK_BYTES):
                yield decoder.decode(content)
    except OSError as error:
        raise DataError(f"cannot read: {path} ({error.strerror or error})") from None
    yield decoder.decode(b"", final=True)


def json_lines(path: Path, column: str, skip: int) -> Iterator[tuple[int, str | None]]:
    """(line number from 0, text) of each line that is not blank, from line `skip` on."""
    with open(path, "rb") as file:
        for number, line in enumerate(file):
            if number < skip or line.isspace():
                continue
            try:
                row = parse(line)
            except ValueError as error:
                raise DataError(f"not JSON: {path}, line {number + 1} ({error})") from None
            if not isinstance(row, dict) or column not in row:
                keys = ", ".join(sorted(row)) if isinstance(row, dict) else type(row).__name__
                raise DataError(f"no key {column!r}: {path}, line {number + 1} (it has: {keys}; set data.column)")
            value = row[column]
            yield number, value if isinstance(value, str) else as_text(value, column, f"{path}, line {number + 1}")


def parse(line: bytes) -> Any:
    """A line of JSON. What the fast parser refuses (invalid UTF-8, lone surrogates, NaN) is left to the lenient one."""
    try:
        return orjson.loads(line)
    except ValueError:
        return json.loads(line.decode("utf-8", errors="replace"))


def parquet_rows(path: Path, column: str, skip: int) -> Iterator[tuple[int, str | None]]:
    """(row number, text) of each row from row `skip` on; row groups before it are not read."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if column not in names:
                raise DataError(f"no column {column!r}: {path} (it has: {', '.join(names)}; set data.column)")
            number = 0
            for group in range(file.num_row_groups):
                n_rows = file.metadata.row_group(group).num_rows
                if number + n_rows <= skip:
                    number += n_rows
                    continue
                for batch in file.iter_batches(batch_size=256, row_groups=[group], columns=[column]):
                    for value in values_of(batch.column(0)):
                        if number >= skip:
                            yield number, as_text(value, column, f"{path}, row {number}")
                        number += 1
    except pyarrow.ArrowException as error:
        raise DataError(f"damaged parquet file: {path} ({error})") from None


def values_of(values: Any) -> list[Any]:
    import pyarrow

    try:
        return values.to_pylist()
    except UnicodeDecodeError:
        binary = values.cast(pyarrow.binary() if values.type == pyarrow.string() else pyarrow.large_binary())
        return [None if value is None else value.decode("utf-8", errors="replace") for value in binary.to_pylist()]


def as_text(value: Any, column: str, where: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise DataError(f"{column!r} is no text but {type(value).__name__}: {where} (set data.column)")
