"""The manifest of a folder of tokens: what it must hold, and its fingerprint."""

import errno
import os
import re
from pathlib import Path
from typing import Any

from minigpt.errors import DataError
from minigpt.files.durable import json_bytes, sha256_bytes
from minigpt.files.reading import UnreadableError, read_json
from minigpt.files.shape import fault, natural

MANIFEST = "manifest.json"
FORMAT = 1  # of the manifest and of everything it describes
AGAIN = "prepare the tokens again"

SHARD = {"name": str, "n_tokens": natural, "sha256": str, "format?": {"minigpt", "llm.c", "bare"}}
SPLIT = {
    "n_tokens": natural,
    "n_documents": natural,
    "n_bytes": (natural, None),
    "largest_id": natural,
    "shards": [SHARD],
}
SHAPE = {
    "fingerprint": str,
    "request": dict,
    "dtype": {"uint16", "uint32"},
    "odd": {str: natural},
    "tokenizer": {
        "kind": str,
        "vocab_size": natural,
        "end_of_text": (natural, None),
        "fingerprint": str,
        "files": {str: str},
    },
    "splits": {"train": SPLIT, "val": SPLIT},
}


def read_manifest(folder: Path) -> dict[str, Any]:
    """The checked manifest of a folder, without a look at its shards.

    Raises DataError if it is missing, damaged or of another format.
    """
    path = folder / MANIFEST
    try:
        manifest = read_json(path)
    except UnreadableError as error:
        if error.missing:
            raise DataError(f"no tokens here: {folder} (run preprocess.py)") from None
        raise DataError(f"damaged manifest: {path} ({error.why}; {way_out(error.why)})") from None
    if manifest.get("format") != FORMAT:
        found = str(manifest.get("format"))[:40]
        raise DataError(
            f"unknown format of tokens: {path} (found {found}, expected {FORMAT}; {AGAIN})"
        )
    if manifest.get("fingerprint") != manifest_fingerprint(manifest):
        raise DataError(f"damaged manifest: {path} (its fingerprint does not match; {AGAIN})")
    if wrong := fault(manifest, SHAPE):
        raise DataError(f"damaged manifest: {path} ({wrong}; {AGAIN})")
    return manifest


def way_out(why: str) -> str:
    """What helps where a file cannot be read for this reason."""
    full = why in (os.strerror(errno.EMFILE), os.strerror(errno.ENFILE))
    return "allow more with ulimit -n" if full else AGAIN


def manifest_fingerprint(manifest: dict[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "fingerprint"}
    return sha256_bytes(json_bytes(rest))


def inside(folder: Path, name: str) -> Path:
    """folder / name for a plain file name; manifests from elsewhere cannot point outside."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,200}", name):
        raise DataError(f"bad file name in the manifest: {folder}: {name[:80]!r} ({AGAIN})")
    return folder / name


def refuse_way_out(folder: Path, path: Path) -> None:
    """DataError for a path that a link leads out of the folder."""
    target = Path(os.path.realpath(path))  # which stops where a link leads in a circle
    if not target.is_relative_to(folder.resolve()):
        raise DataError(
            f"a link leads out of the folder of tokens: {path} (put the file itself there)"
        )
