"""What a file really holds: unpacked by its suffix, and looked at before it is taken for text."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from minigpt.errors import DataError
from minigpt.files.durable import open_regular

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
LOOKED_AT = 1 << 16  # bytes
UNPACK = "unpack it, or end its name in what packed it, such as .txt.gz"
CONVERT = "write its text to .txt, .jsonl or .csv"

# (offset, bytes, what it is, the way out)
SIGNATURES = (
    (0, b"\x1f\x8b", "gzip", UNPACK),
    (4, b"1AY&SY", "bzip2", UNPACK),
    (0, b"\xfd7zXZ\0", "xz", UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "zstd", UNPACK),
    (0, b"\x04\x22\x4d\x18", "lz4", "unpack it"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (0, b"Rar!\x1a\x07", "a RAR archive", "unpack it"),
    (0, b"PK\3\4", "a zip archive (or .xlsx, .docx, .npz)", "unpack it, or " + CONVERT),
    (257, b"ustar", "a tar archive", "unpack it"),
    (0, b"PAR1\x15", "Parquet", "name it .parquet"),
    (0, b"ARROW1\0\0", "Arrow", "convert it to Parquet"),
    (0, b"\xff\xff\xff\xff", "Arrow or another binary stream", "convert it to Parquet"),
    (0, b"Obj\1", "Avro", "convert it to Parquet"),
    (0, b"\x89HDF", "HDF5", CONVERT),
    (0, b"SQLite format 3\0", "SQLite", CONVERT),
    (
        0,
        b"\x93NUMPY",
        "an array of NumPy",
        "for token ids: ids.astype('uint16').tofile('ids.bin'), data=bin",
    ),
    (0, b"minigpt\0", "tokens of minigpt", "for token ids use data=bin"),
    (0, (20240520).to_bytes(4, "little"), "tokens of llm.c", "use data=bin"),
    (0, (20240801).to_bytes(4, "little"), "tokens of llm.c", "use data=bin"),
    (0, b"%PDF-", "PDF", CONVERT),
    (0, b"\x89PNG", "a PNG image", "leave it out"),
    (0, b"\xff\xd8\xff", "a JPEG image", "leave it out"),
    (0, b"GIF8", "a GIF image", "leave it out"),
    (0, b"\x7fELF", "a program", "leave it out"),
    (0, b"\xff\xfe\0\0", "UTF-32 text", "convert it: iconv -f UTF-32 -t UTF-8"),
    (0, b"\0\0\xfe\xff", "UTF-32 text", "convert it: iconv -f UTF-32 -t UTF-8"),
    (0, b"\xff\xfe", "UTF-16 text", "convert it: iconv -f UTF-16 -t UTF-8"),
    (0, b"\xfe\xff", "UTF-16 text", "convert it: iconv -f UTF-16 -t UTF-8"),
)
CONTROL = bytes({*range(32)} - {*b"\b\t\n\v\f\r\x1b"}) + b"\x7f"


def inner_suffix(path: Path) -> str:
    """The suffix that says what a file holds, in small letters: of x.CSV and x.csv.gz ".csv"."""
    return Path(path.stem if path.suffix.lower() in COMPRESSED else path).suffix.lower()


@contextmanager
def open_text(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a text file, unpacked. DataError if they cannot be read or are no text."""
    with readable(path):
        with unpacked(path) as file:
            refuse_binary(path, file.read(LOOKED_AT))
        with unpacked(path) as file:
            yield file


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """What goes wrong while a file is read becomes a DataError that names it."""
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot read: {path} ({error.strerror or error})") from None
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"damaged compressed file: {path} ({error})") from None


@contextmanager
def unpacked(path: Path) -> Iterator[IO[bytes]]:
    """The content of a file without its compression."""
    with open_regular(path) as file:
        if (unpack := UNPACKERS.get(path.suffix.lower())) is None:
            yield file
        else:
            with io.BufferedReader(unpack(file), 1 << 20) as content:
                yield content


class Zstd(io.RawIOBase):
    """Unpacks zstd with pyarrow; the standard library has none before Python 3.14."""

    def __init__(self, packed: IO[bytes]) -> None:
        import pyarrow

        self.failures = pyarrow.ArrowException
        self.stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(packed, "r"), "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            content = self.stream.read(len(buffer))
        except (self.failures, OSError) as error:
            raise EOFError(str(error)) from None
        buffer[: len(content)] = content
        return len(content)


UNPACKERS: dict[str, Callable[[Any], Any]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": Zstd,
}


def refuse_binary(path: Path, start: bytes) -> None:
    """DataError if the start of a file is that of a known format, or no text in UTF-8 at all."""
    for offset, signature, what, way_out in SIGNATURES:
        if start.startswith(signature, offset):
            raise DataError(f"not text but {what}: {path} ({way_out})")
    odd = len(start) - len(start.translate(None, CONTROL))
    odd += start.decode("utf-8", errors="replace").count("\ufffd")
    if odd >= 8 and odd > len(start) / 10:
        raise DataError(
            f"not text in UTF-8: {path}: {odd:,} of its first {len(start):,} bytes "
            "are control characters or no UTF-8 "
            "(leave it out, or convert it: iconv -f ITS-ENCODING -t UTF-8)"
        )
