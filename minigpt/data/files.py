"""Files of text: a .txt is a document; so is each row of a .jsonl, .csv, .tsv or .parquet."""

import glob
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from minigpt.data.content import COMPRESSED, inner_suffix, open_text
from minigpt.data.rows import Rows, csv_rows, json_lines, parquet_rows, tsv_rows
from minigpt.data.source import Document, Source
from minigpt.errors import DataError
from minigpt.files.durable import sha256_file

READERS: dict[str, Callable[[Path, str, int], Rows]] = {
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".csv": csv_rows,
    ".tsv": tsv_rows,
    ".parquet": parquet_rows,
}
SUFFIXES = (".txt", *READERS)
CHUNK_CHARACTERS = 1 << 20
HASHED_BYTES = 256 * 2**20  # up to here a corpus is known by content, above by names and sizes


class Files(Source):
    """A file, a folder (searched to any depth) or a glob of files, in the order of their names.

    All but .parquet may be packed: .gz, .bz2, .xz, .zst. A single file with another suffix, and
    those of a glob that ends in one (`notes/**/*.md`), are plain text. What is no text by its
    content is refused.

    column: the key of the text where a row is a document; `a.b` as in rows.py.
    """

    position: ClassVar[Any] = [int]

    def __init__(self, path: str, column: str = "text") -> None:
        if not path:
            raise ValueError("path is empty: give a file, a folder or a glob")
        self.path = path
        self.column = column

    def paths(self) -> list[tuple[str, Path]]:
        """(name, path) of every file, by name: relative to the folder, so that it can be moved.

        Raises DataError if there is none, or if `column` is given and every file is plain text.
        """
        root, suffixes = Path(self.path).expanduser(), set(SUFFIXES)
        if root.is_file():
            listed = [(root.name, root)]
        else:
            if root.is_dir():
                found = list(root.rglob("*"))
            else:
                pattern = str(root)
                suffixes |= {inner_suffix(root)} - {""}
                root = glob_root(pattern)
                found = [Path(path) for path in glob.glob(pattern, recursive=True)]
            found = [path for path in found if inner_suffix(path) in suffixes and path.is_file()]
            listed = sorted((path.relative_to(root).as_posix(), path) for path in found)
        if not listed:
            raise DataError(
                f"no {', '.join(SUFFIXES)} files (or packed: {', '.join(COMPRESSED)}): "
                f"data.path={self.path} (give a file, a folder or a glob; one that ends in another "
                "suffix, such as data.path='notes/**/*.md', is read as plain text)"
            )
        for _, path in listed:
            refuse_unread(path)
        if self.column != "text" and not any(inner_suffix(path) in READERS for _, path in listed):
            raise DataError(
                f"column is not used: data.column={self.column}: {listed[0][1]} is plain text, "
                f"a document as a whole (leave data.column out, or give {', '.join(READERS)})"
            )
        return listed

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
        if any(path.suffix.lower() in (".parquet", *COMPRESSED) for path in paths):
            return None
        return sum(path.stat().st_size for path in paths)

    def documents(self, start: Any = None) -> Iterator[Document]:
        first_file, first_item = [*(start or []), 0, 0][:2]
        for number, (_, path) in enumerate(self.paths()):
            if number < first_file:
                continue
            reader = READERS.get(inner_suffix(path))
            if reader is None:
                yield Document(text_chunks(path), [number, 0])
                continue
            for item, text in reader(path, self.column, first_item if number == first_file else 0):
                yield Document(text, [number, item])

    def place(self, position: Any, mark: str) -> str:
        number, item = position
        path = self.paths()[number][1]
        if inner_suffix(path) in (".jsonl", ".ndjson"):
            return f"{path}, line {item + 1}"
        if inner_suffix(path) in READERS:
            return f"{path}, row {item}"
        line = 1
        for chunk in text_chunks(path):
            before, found, _ = chunk.partition(mark)
            line += before.count("\n")
            if found:
                break
        return f"{path}, line {line}"


def refuse_unread(path: Path) -> None:
    """DataError for a file whose name says that its bytes are not the text itself."""
    if inner_suffix(path) == ".json":
        raise DataError(
            f"not text but JSON as a whole: {path} (write one JSON object a line, as .jsonl)"
        )
    if inner_suffix(path) == ".parquet" and path.suffix.lower() in COMPRESSED:
        raise DataError(f"packed Parquet: {path} (unpack it; Parquet packs its columns itself)")


def glob_root(pattern: str) -> Path:
    """The folder above the first wildcard of a glob."""
    parts = Path(pattern).parts
    fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return Path(*parts[:fixed])


def text_chunks(path: Path) -> Iterator[str]:
    """A text file in chunks. What is no UTF-8 becomes U+FFFD; a byte order mark is dropped."""
    with open_text(path) as file:
        text = io.TextIOWrapper(file, "utf-8-sig", errors="replace", newline="")
        while chunk := text.read(CHUNK_CHARACTERS):
            yield chunk
