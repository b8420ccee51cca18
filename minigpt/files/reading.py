"""The one way in for data from files: what a run, an exported folder, a sweep or a neighbour holds.

Nothing here believes a file. A file is read only if it is a regular one of a bounded size that lies
below the folder that was named. JSON and YAML become plain values of a bounded depth. Nothing is
imported, interpolated or built.
"""

import errno
import json
import math
import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar

from minigpt.errors import CheckpointError
from minigpt.files.durable import any_regular_file

SMALL_BYTES = 64 * 2**20  # JSON that people or minigpt write; the largest is a tokenizer
LARGE_BYTES = 2**40  # weights, metrics: more than any run writes
MAX_DEPTH = 64
MAX_YAML_BYTES = 2**20
MAX_LINE_BYTES = 2**20
MAX_INTEGER = 2**64
HEADER_BYTES = 100_000_000  # of a safetensors file; its library allows no more
SURROGATES = re.compile("[\ud800-\udfff]")
TOO_DEEP = f"deeper than {MAX_DEPTH} levels"

Read = TypeVar("Read")


class UnreadableError(CheckpointError):
    """A file that is missing, damaged or not of the kind that is read here."""

    def __init__(self, path: Path, why: str, missing: bool = False) -> None:
        super().__init__(f"cannot read: {path}: {why} (restore it, or move it away)")
        self.path = path
        self.why = why  # a few words
        self.missing = missing  # there is nothing under this name

    def __reduce__(self) -> tuple[Any, ...]:
        return UnreadableError, (self.path, self.why, self.missing)


def read_bytes(path: Path, limit: int = LARGE_BYTES, inside: Path | None = None) -> bytes:
    """The content of a regular file of at most `limit` bytes, and of less than fills the memory.

    inside: a link is followed if it ends below this folder (default: the file's own folder).
    Raises UnreadableError for anything else: no file, a pipe, a device, a link that leads out.
    """
    limit = min(limit, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with _opened(path, inside or path.parent) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise UnreadableError(path, f"{size:,} bytes, at most {limit:,}")
        content = _at_most(file, size or limit + 1)  # the files of /proc say 0
    if len(content) > limit:
        raise UnreadableError(path, f"more than {limit:,} bytes")
    return content


def read_lines(path: Path, limit: int = MAX_LINE_BYTES) -> Iterator[bytes]:
    """The lines of a regular file of any size, each of at most `limit` bytes.

    Raises UnreadableError.
    """
    with _opened(path, path.parent) as file:
        for line in iter(lambda: file.readline(limit + 1), b""):
            if len(line) > limit:
                raise UnreadableError(path, f"a line of more than {limit:,} bytes")
            yield line


@contextmanager
def _opened(path: Path, inside: Path) -> Iterator[BinaryIO]:
    """A regular file, open. What is in the way, also while it is read, is an UnreadableError."""
    try:
        with open(_open(path, inside), "rb") as file:
            yield file
    except OSError as error:
        gone = error.errno in (errno.ENOENT, errno.ENOTDIR)
        why = "no such file" if gone else error.strerror or str(error)
        raise UnreadableError(path, why, missing=gone) from None
    except ValueError as error:  # a NUL in the name
        raise UnreadableError(path, str(error)) from None


def _open(path: Path, inside: Path) -> int:
    """A descriptor of the regular file."""
    if path.is_symlink():
        try:
            target = path.resolve(strict=True)
        except RuntimeError as error:  # before Python 3.13
            raise OSError(errno.ELOOP, str(error)) from None
        if not target.is_relative_to(inside.resolve()):
            raise OSError(errno.ELOOP, f"a link that leads out of {inside}")
        path = target
    return any_regular_file(path, os.O_RDONLY | os.O_NOFOLLOW)


def _at_most(file: BinaryIO, size: int) -> bytes:
    """Up to `size` bytes: a file that grows meanwhile is read as it stood."""
    parts, left = [], size
    while left and (part := file.read(min(left, 2**24))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def read_json(
    path: Path, limit: int = SMALL_BYTES, inside: Path | None = None, ignored: Collection[str] = ()
) -> dict[str, Any]:
    """A JSON object without the keys that are ignored. Raises UnreadableError."""
    return _parsed(path, partial(json_object, ignored=ignored), limit, inside)


def read_yaml(path: Path, inside: Path | None = None) -> dict[str, Any]:
    """A YAML mapping of plain values without aliases or repeated keys. Raises UnreadableError."""
    return _parsed(path, yaml_mapping, MAX_YAML_BYTES, inside)


def if_there(read: Callable[[Path], Read], path: Path) -> Read | None:
    """What a reader makes of a file; None if nothing has its name, not even a dangling link."""
    try:
        return read(path)
    except UnreadableError as error:
        if error.missing and not os.path.lexists(path):
            return None
        raise


def _parsed(
    path: Path, parse: Callable[[bytes], dict[str, Any]], limit: int, inside: Path | None
) -> dict[str, Any]:
    content = read_bytes(path, limit, inside)
    try:
        return parse(content)
    except ValueError as error:
        raise UnreadableError(path, str(error)) from None


def read_header(path: Path, inside: Path | None = None) -> dict[str, Any]:
    """The header of a safetensors file: what tensors it holds. Raises UnreadableError."""
    with _opened(path, inside or path.parent) as file:
        size = int.from_bytes(file.read(8), "little")
        if size > HEADER_BYTES:
            raise UnreadableError(path, f"a header of {size:,} bytes, at most {HEADER_BYTES:,}")
        content = _at_most(file, size)
    try:
        return json_object(content)
    except ValueError as error:
        raise UnreadableError(path, f"its header is {error}") from None


def json_object(content: bytes, ignored: Collection[str] = ()) -> dict[str, Any]:
    """The object in JSON text: finite numbers, bounded depth. Raises ValueError in a few words."""
    try:
        value = json.loads(content, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    except NotFiniteError:
        raise
    except ValueError:  # of these, UnicodeDecodeError would show the bytes
        raise ValueError("not JSON") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return _bounded({key: item for key, item in value.items() if key not in ignored})


class NotFiniteError(ValueError):
    def __init__(self, number: object) -> None:
        super().__init__(f"{number} is not a finite number")


def _refuse_constant(name: str) -> NoReturn:
    raise NotFiniteError(name)


def yaml_mapping(content: bytes) -> dict[str, Any]:
    """The mapping in YAML text. Raises ValueError in a few words."""
    import yaml

    # Both build plain values only. The C loader is ten times as fast, which counts with many runs.
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        if b"*" in content:
            for event in yaml.parse(content, loader):
                if isinstance(event, yaml.AliasEvent):
                    raise ValueError("an alias")
        value = _without_repeated_keys(loader)(content).get_single_data()
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    except yaml.YAMLError as error:
        why = str(getattr(error, "problem", None) or error)
        raise ValueError(f"not YAML: {' '.join(why.split())}") from None
    except (LookupError, AttributeError, TypeError, ArithmeticError):  # PyYAML's own, of a tag
        raise ValueError("not YAML: a value that its tag does not fit") from None
    if not isinstance(value, dict):
        raise ValueError("not a YAML mapping")
    return _bounded(value)


@cache
def _without_repeated_keys(loader: Any) -> Any:
    """A YAML loader that refuses a key that comes twice, of which PyYAML takes the last."""

    class Loader(loader):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            names = [key.value for key, _ in node.value]
            if len({*map(str, names)}) < len(names):
                raise ValueError("a key that comes twice")
            found: dict[Any, Any] = super().construct_mapping(node, deep)
            return found

    return Loader


def _bounded(value: dict[Any, Any]) -> dict[str, Any]:
    """The same value. ValueError if it is too deep or not plain, or a number is without bounds."""
    level: list[Any] = [value]
    depth = 0
    while level:
        if depth > MAX_DEPTH:
            raise ValueError(TOO_DEEP)
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                if not all(isinstance(key, str) for key in item):
                    raise ValueError("a key that is no text")
                below += item
                below += item.values()
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str):
                if not item.isascii() and SURROGATES.search(item):
                    raise ValueError("half of a surrogate pair, which no UTF-8 holds")
            elif isinstance(item, float) and not math.isfinite(item):
                raise NotFiniteError(item)
            elif isinstance(item, int) and abs(item) > MAX_INTEGER:
                raise ValueError("a number beyond 64 bits")
            elif item is not None and not isinstance(item, int | float):
                raise ValueError(f"a {type(item).__name__}, which is no plain value")
        level, depth = below, depth + 1
    return value
