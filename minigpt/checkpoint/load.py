"""Reads checkpoints: every byte is verified before any of it is used."""

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from minigpt import interrupt
from minigpt.checkpoint.layout import MANIFEST, MODEL, OPTIMIZER, SCHEMA, STATE, steps_on_disk
from minigpt.errors import CheckpointError
from minigpt.files import reading, records, shape
from minigpt.files.durable import json_bytes, sha256_bytes

if TYPE_CHECKING:
    import torch

Found = TypeVar("Found")
log = logging.getLogger(__name__)
MAX_MANIFEST_BYTES = 2**20
ELSE = "an older one is used if there is one"
# What JSON or tensors of an unexpected form make Python and torch raise.
MALFORMED = (ValueError, TypeError, LookupError, AttributeError, RuntimeError)


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint in memory."""

    folder: Path
    model: dict[str, "torch.Tensor"]
    optimizer: dict[str, Any] | None  # None if it was dropped when the run had finished
    state: dict[str, Any]


def newest_checkpoint(checkpoints: Path) -> Checkpoint | None:
    """The newest checkpoint whose every byte is as written; None if there is none at all.

    A damaged one is named in a warning and skipped. Raises CheckpointError if there are some and
    none is usable: starting again from nothing is never done silently.
    """
    return _newest(checkpoints, load_checkpoint)


def newest_weights_hash(checkpoints: Path) -> str | None:
    """The `weights_hash` of `newest_checkpoint`. Needs no torch."""
    return _newest(checkpoints, weights_hash)


def checkpoint_with_weights(checkpoints: Path, sha256: str) -> Checkpoint | None:
    """The newest whole checkpoint with this `weights_hash`, or None."""
    for folder in reversed(steps_on_disk(checkpoints)):
        with suppress(CheckpointError):
            if weights_hash(folder) == sha256:
                return load_checkpoint(folder)
    return None


def weights_hash(folder: Path) -> str:
    """SHA-256 of a checkpoint's weights file. Raises CheckpointError if damaged."""
    return sha256_bytes(verify_checkpoint(folder)[MODEL])


def _newest(checkpoints: Path, read: Callable[[Path], Found]) -> Found | None:
    folders = steps_on_disk(checkpoints)
    for folder in reversed(folders):
        try:
            return read(folder)
        except CheckpointError as error:
            log.warning("warning: %s", error)
    if folders:
        raise CheckpointError(
            f"no usable checkpoint: {checkpoints}: all {len(folders)} are damaged "
            "(restore one, or delete the run folder to start again)"
        )
    return None


def load_checkpoint(folder: Path) -> Checkpoint:
    """A checkpoint, verified whole. Raises CheckpointError.

    Hashes say that the bytes are those written, not who wrote them: what they mean is checked too.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    from minigpt.optim.state_tree import decode

    contents = verify_checkpoint(folder)
    try:
        state = reading.json_object(contents[STATE])
        tensors = from_bytes(contents[OPTIMIZER]) if OPTIMIZER in contents else {}
        optimizer = decode(state.pop("optimizer"), tensors)
        return Checkpoint(folder, from_bytes(contents[MODEL]), optimizer, state)
    except (SafetensorError, *MALFORMED) as error:
        raise _damaged(
            folder, f"not as minigpt writes it: {type(error).__name__} {error}"
        ) from None


def check_state(found: Checkpoint) -> None:
    """Raise CheckpointError unless training can go on from the state of a checkpoint."""
    if why := shape.fault(found.state, records.STATE):
        raise _damaged(found.folder / STATE, why, f"delete it: {ELSE}")


def verify_checkpoint(folder: Path, stoppable: bool = True) -> dict[str, bytes]:
    """The content of every file of a checkpoint, checked against its manifest.

    Raises CheckpointError if damaged; Stopped after a stop signal, if `stoppable`.
    """

    def content_of(name: str, limit: int) -> bytes:
        if stoppable:
            interrupt.stop_if_requested(f"reading {folder} (the same command goes on)")
        try:
            return reading.read_bytes(folder / name, limit)
        except reading.UnreadableError as error:
            raise _damaged(folder / name, error.why) from None

    files = _files_in_manifest(folder, content_of(MANIFEST, MAX_MANIFEST_BYTES))
    try:
        present = set(os.listdir(folder)) - {MANIFEST}
    except OSError as error:
        raise _damaged(folder, error.strerror or "unreadable") from None
    if differ := sorted(present ^ files.keys()):
        why = "not in the manifest" if differ[0] in present else "missing"
        raise _damaged(folder / differ[0], why)
    contents = {}
    for name, entry in files.items():
        contents[name] = content_of(name, entry["bytes"])
        if len(contents[name]) < entry["bytes"]:
            why = f"{len(contents[name]):,} bytes of the {entry['bytes']:,} written"
            raise _damaged(folder / name, why)
        if sha256_bytes(contents[name]) != entry["sha256"]:
            raise _damaged(folder / name, "hash differs")
    return contents


def _files_in_manifest(folder: Path, written: bytes) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of each file, from a manifest that is as it was written."""
    path = folder / MANIFEST
    try:
        manifest = reading.json_object(written)
        as_written = json_bytes(manifest)
    except ValueError as error:
        raise _damaged(path, str(error)) from None
    body = {key: value for key, value in manifest.items() if key != "checksum"}
    if manifest.get("checksum") != sha256_bytes(json_bytes(body)):
        raise _damaged(path, "checksum differs")
    if written != as_written:
        raise _damaged(path, "not as it was written")
    if manifest.get("schema") != SCHEMA:
        raise CheckpointError(
            f"unknown checkpoint format: {folder}: schema {manifest.get('schema')}, this minigpt "
            f"reads {SCHEMA} (use the version of minigpt that wrote it)"
        )
    entry = {"bytes": int, "sha256": str}
    if shape.fault(manifest.get("files"), {MODEL: entry, STATE: entry, str: entry}):
        raise _damaged(path, "no list of files with sizes and hashes")
    files: dict[str, dict[str, Any]] = manifest["files"]
    return files


def _damaged(path: Path, why: str, way_out: str = ELSE) -> CheckpointError:
    return CheckpointError(f"damaged checkpoint: {path}: {why} ({way_out})")
