"""Checkpoints without pickle: safetensors + JSON, optimizer state by parameter name, a SHA-256
manifest written last.

checkpoints/step_00001000/
    model.safetensors       parameters by name
    optimizer.safetensors   tensors of the optimizer state, keyed by their place in state.json
    state.json              step, tokens, times, optimizer tree, scaler: everything else
    manifest.json           size and SHA-256 of each file, and a checksum of itself

A folder is published by rename after fsync; the first line of defence is that a half-written one
never has its name, the second that every byte is verified before any of it is used.
"""

import errno
import logging
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from minigpt import durable, interrupt, reading, records
from minigpt.checkpoint.tensor_tree import decode_tree, encode_tree
from minigpt.errors import CheckpointError

if TYPE_CHECKING:
    import torch

Found = TypeVar("Found")
log = logging.getLogger(__name__)
SCHEMA = 1
# a whole checkpoint whose successor, of the same step, is about to be published
SUPERSEDED = ".superseded"
NAMES = rf"step_(\d{{8,}})({re.escape(SUPERSEDED)})?"
FOLDER = re.compile(NAMES)
MODEL, OPTIMIZER, STATE, MANIFEST = (
    "model.safetensors",
    "optimizer.safetensors",
    "state.json",
    "manifest.json",
)
MAX_MANIFEST_BYTES = 2**20


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint in memory. `optimizer` is None where the state was dropped after the
    run had finished.
    """

    folder: Path
    model: dict[str, "torch.Tensor"]
    optimizer: dict[str, Any] | None
    state: dict[str, Any]


def save(
    checkpoints: Path,
    step: int,
    model: Mapping[str, "torch.Tensor"],
    optimizer: dict[str, Any] | None,
    state: dict[str, Any],
    keep: int,
    keep_at: Collection[int] = (),
    replace: bool = False,
) -> Path:
    """Write, verify-ably publish, and only then prune to the newest `keep` and those at the steps
    of `keep_at`.

    Returns the new folder.

    replace: whether a checkpoint of the same step gives way; otherwise it stays, since it is the
        same but for clocks.

    Raises OSError (disk full, ...) with nothing published and nothing pruned; older checkpoints
    stay as they are. What has the name of this checkpoint and is none of this run is never
    replaced: FileExistsError.
    """
    from safetensors.torch import save as to_bytes

    final = checkpoints / f"step_{step:08d}"
    if os.path.lexists(final) and not is_of(final, state.get("run")):
        raise FileExistsError(errno.EEXIST, "in the way, and no checkpoint of this run", str(final))
    if final.exists() and not replace:
        try:
            verify(final, stoppable=False)  # a run that stops saves
            return final  # the same run at the same step: it is there already
        except CheckpointError:
            # the step was computed again, from behind a damaged checkpoint
            durable.remove_folder(final)
    temporary = durable.temporary_name(final)
    tensors: dict[str, torch.Tensor] = {}
    state = {**state, "schema": SCHEMA, "step": step, "optimizer": encode_tree(optimizer, tensors)}
    files: dict[str, bytes] = {MODEL: to_bytes(_independent(model))}
    if optimizer is not None:
        files[OPTIMIZER] = to_bytes(_independent(tensors))
    files[STATE] = durable.json_bytes(state)
    try:
        temporary.mkdir(parents=True)
        for name, content in files.items():
            durable.write_synced(temporary / name, content)
        durable.write_synced(temporary / MANIFEST, _manifest(files))
        if final.exists():
            # to be found by its step until then
            os.rename(final, final.with_name(final.name + SUPERSEDED))
        durable.publish_folder(temporary, final)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    prune(checkpoints, keep, state.get("run"), keep_at)
    return final


def _independent(tensors: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    """Contiguous CPU tensors, as safetensors wants them."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _manifest(files: Mapping[str, bytes]) -> bytes:
    entries = {
        name: {"bytes": len(content), "sha256": durable.sha256_bytes(content)}
        for name, content in files.items()
    }
    body = {"schema": SCHEMA, "files": entries}
    return durable.json_bytes({**body, "checksum": durable.sha256_bytes(durable.json_bytes(body))})


def steps_on_disk(checkpoints: Path) -> list[Path]:
    """Published checkpoint folders, oldest step first. Order is by number; times mean nothing."""
    try:
        found = [Path(entry.path) for entry in os.scandir(checkpoints) if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise CheckpointError(
            f"cannot read: {checkpoints}: {error.strerror} (check its permissions)"
        ) from None
    found = [path for path in found if FOLDER.fullmatch(path.name)]
    return sorted(found, key=lambda path: (step_of(path), not path.name.endswith(SUPERSEDED)))


def step_of(folder: Path) -> int:
    """The step in a checkpoint folder's name."""
    match = FOLDER.fullmatch(folder.name)
    assert match is not None
    return int(match[1])


def is_of(folder: Path, run: str | None) -> bool:
    """Whether a folder is a checkpoint of this run: it holds our files alone, and its state says
    this run's id.

    A state that is damaged says nothing; then the files must do.
    """
    try:
        if folder.is_symlink():
            return False
        for path in folder.iterdir():
            if (
                path.name not in (MODEL, OPTIMIZER, STATE, MANIFEST)
                or path.is_symlink()
                or not path.is_file()
            ):
                return False
    except OSError:
        return False
    try:
        return bool(reading.read_json(folder / STATE).get("run") == run)
    except reading.UnreadableError:
        return True


def prune(checkpoints: Path, keep: int, run: str | None, keep_at: Collection[int] = ()) -> None:
    """Remove all but the newest `keep` of this run's checkpoints and those at the steps of
    `keep_at`.

    One that cannot be removed only takes space: a warning. What is not of this run is neither
    counted nor removed.
    """
    for folder in [folder for folder in steps_on_disk(checkpoints) if is_of(folder, run)][:-keep]:
        if step_of(folder) in keep_at and not folder.name.endswith(SUPERSEDED):
            continue
        try:
            durable.remove_folder(folder)
        except OSError as error:
            log.warning("warning: cannot remove an old checkpoint: %s: %s", folder, error.strerror)


def newest(checkpoints: Path) -> Checkpoint | None:
    """The newest checkpoint whose every byte is as written; None if there is none at all.

    A damaged one is named in a warning and skipped. Raises CheckpointError if there are some and
    none is usable: starting again from nothing is never done silently.
    """
    return _newest(checkpoints, load)


def newest_weights(checkpoints: Path) -> str | None:
    """SHA-256 of the weights file in the checkpoint that `newest` would give. Needs no torch."""
    return _newest(checkpoints, weights_of)


def with_weights(checkpoints: Path, sha256: str) -> Checkpoint | None:
    """The newest whole checkpoint whose weights file has this hash, or None."""
    for folder in reversed(steps_on_disk(checkpoints)):
        with suppress(CheckpointError):
            if weights_of(folder) == sha256:
                return load(folder)
    return None


def weights_of(folder: Path) -> str:
    """SHA-256 of a checkpoint's weights file. Raises CheckpointError if the checkpoint is
    damaged.
    """
    return durable.sha256_bytes(verify(folder)[MODEL])


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


def verify(folder: Path, stoppable: bool = True) -> dict[str, bytes]:
    """The content of every file of a checkpoint, checked against its manifest.

    Raises CheckpointError if damaged; Stopped after a stop signal, if `stoppable`.
    """

    def damaged(name: str, why: str) -> CheckpointError:
        return CheckpointError(
            f"damaged checkpoint: {folder / name}: {why} (an older one is used if there is one)"
        )

    def content_of(name: str, limit: int) -> bytes:
        if stoppable:
            interrupt.stop_if_requested(f"reading {folder} (the same command goes on)")
        try:
            return reading.read_bytes(folder / name, limit)
        except reading.UnreadableError as error:
            raise damaged(name, error.why) from None

    written = content_of(MANIFEST, MAX_MANIFEST_BYTES)
    try:
        manifest = reading.json_object(written)
        as_written = durable.json_bytes(manifest)
    except ValueError as error:
        raise damaged(MANIFEST, str(error)) from None
    body = {key: value for key, value in manifest.items() if key != "checksum"}
    if manifest.get("checksum") != durable.sha256_bytes(durable.json_bytes(body)):
        raise damaged(MANIFEST, "checksum differs")
    if written != as_written:
        raise damaged(MANIFEST, "not as it was written")
    if manifest.get("schema") != SCHEMA:
        raise CheckpointError(
            f"unknown checkpoint format: {folder}: schema {manifest.get('schema')}, this minigpt reads {SCHEMA} "
            "(use the version of minigpt that wrote it)"
        )
    files = manifest.get("files")
    if not (
        isinstance(files, dict)
        and {MODEL, STATE} <= files.keys()
        and all(_is_entry(entry) for entry in files.values())
    ):
        raise damaged(MANIFEST, "no list of files with sizes and hashes")
    try:
        present = {entry.name for entry in os.scandir(folder)} - {MANIFEST}
    except OSError as error:
        raise damaged("", error.strerror or "unreadable") from None
    if foreign := sorted(present ^ files.keys()):
        raise damaged(foreign[0], "missing" if foreign[0] not in present else "not in the manifest")
    contents = {}
    for name, entry in files.items():
        if (folder / name).is_symlink():
            raise damaged(name, "a link")
        contents[name] = content_of(name, entry["bytes"])
        if len(contents[name]) != entry["bytes"]:
            raise damaged(name, f"{len(contents[name]):,} bytes of the {entry['bytes']:,} written")
        if durable.sha256_bytes(contents[name]) != entry["sha256"]:
            raise damaged(name, "hash differs")
    return contents


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and type(entry.get("bytes")) is int
        and isinstance(entry.get("sha256"), str)
    )


def load(folder: Path) -> Checkpoint:
    """A checkpoint, verified whole before any byte is used. Raises CheckpointError.

    Hashes say that the bytes are those written, not who wrote them: what they mean is checked as
    well.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    contents = verify(folder)
    try:
        state = reading.json_object(contents[STATE])
        tensors = from_bytes(contents[OPTIMIZER]) if OPTIMIZER in contents else {}
        optimizer = decode_tree(state.pop("optimizer"), tensors)
        return Checkpoint(folder, from_bytes(contents[MODEL]), optimizer, state)
    except (
        SafetensorError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RuntimeError,
    ) as error:
        raise CheckpointError(
            f"damaged checkpoint: {folder}: not as minigpt writes it: {type(error).__name__} {error} "
            "(an older one is used if there is one)"
        ) from None


def check_state(found: Checkpoint) -> None:
    """Raise CheckpointError unless training can go on from the state of a checkpoint."""
    if why := records.fault(found.state, records.STATE):
        raise CheckpointError(
            f"damaged checkpoint: {found.folder / STATE}: {why} (delete it: an older one is used if there is one)"
        )
