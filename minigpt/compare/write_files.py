"""The files of a report in a folder that other files may share."""

import os
from pathlib import Path
from typing import Any

from minigpt.errors import StorageError
from minigpt.files.durable import json_bytes, sha256_bytes, write_atomic, writing
from minigpt.files.reading import UnreadableError, read_bytes, read_json

# What a report shows, and which files it wrote here, with the SHA-256 of what it wrote.
RECORD = "report.json"


def write_files(out: Path, files: dict[str, bytes], facts: dict[str, Any] | None = None) -> None:
    """Write the files of a report, in place of those that an earlier one left.

    facts: what the report shows, for RECORD.

    Raises StorageError, with nothing written, if somebody wrote or changed a file of that name.
    """
    with writing(out, "--out"):
        out.mkdir(parents=True, exist_ok=True)
        written = _written(out)
        new = {name: sha256_bytes(content) for name, content in files.items()}
        foreign = [
            name
            for name in files
            if os.path.lexists(out / name) and not _known(out / name, written, new[name])
        ]
        if foreign:
            why = "another file, or changed by hand (move it away, or another --out)"
            raise StorageError(*(f"not written: {out / name}: {why}" for name in foreign))
        both = {name: [*written.get(name, []), digest] for name, digest in new.items()}
        # before them, so that a report that is killed can be written again
        _note(out, written | both)
        for name, content in files.items():
            write_atomic(out / name, content)
        _note(out, written | {name: [digest] for name, digest in new.items()}, facts)


def _written(out: Path) -> dict[str, list[str]]:
    """What reports wrote here: name -> hashes. Raises StorageError for a list of another kind."""
    path = out / RECORD
    try:
        found: Any = read_json(path).get("files")
    except UnreadableError as error:
        if error.missing and not os.path.lexists(path):
            return {}
        found = None
    if not (isinstance(found, dict) and all(isinstance(hashes, list) for hashes in found.values())):
        raise StorageError(
            f"not written: {path}: no list of a report's files (move it away, or another --out)"
        )
    return found


def _known(path: Path, written: dict[str, list[str]], new: str) -> bool:
    """Whether a file is one that a report wrote, or equals the one to be written."""
    try:
        digest = sha256_bytes(read_bytes(path))
    except UnreadableError:
        return False
    return not path.is_symlink() and digest in [*written.get(path.name, []), new]


def _note(out: Path, written: dict[str, list[str]], facts: dict[str, Any] | None = None) -> None:
    write_atomic(out / RECORD, json_bytes({"schema": 1, **(facts or {}), "files": written}))
