"""Writes checkpoints and prunes old ones.

A folder is published by rename after fsync, so a half-written one never has a checkpoint's name.
"""

import errno
import logging
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpt.checkpoint import layout
from minigpt.checkpoint.load import verify_checkpoint
from minigpt.errors import CheckpointError
from minigpt.files import durable

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


def save_checkpoint(
    checkpoints: Path,
    model: Mapping[str, "torch.Tensor"],
    optimizer: dict[str, Any] | None,
    state: dict[str, Any],
    replace: bool = False,
) -> Path:
    """Write and publish a checkpoint. Returns its folder.

    optimizer: its state tree; None drops it.
    state: everything else, `step` and `run` (the id) among it.
    replace: whether an older checkpoint of the same step gives way. Otherwise that one stays: it
        is the same but for clocks.
    Raises OSError (disk full, ...) with nothing published. What stands under this name and is no
    checkpoint of this run is never replaced: FileExistsError.
    """
    final = checkpoints / f"step_{state['step']:08d}"
    if os.path.lexists(final) and not layout.is_of(final, state["run"]):
        raise FileExistsError(errno.EEXIST, "in the way, and no checkpoint of this run", str(final))
    if final.exists() and not replace:
        try:
            verify_checkpoint(final, stoppable=False)  # a run that stops saves
            return final
        except CheckpointError:
            # Training went on from before a damaged checkpoint and came to its step again.
            durable.remove_folder(final)
    temporary, entries = durable.temporary_name(final), {}
    try:
        temporary.mkdir(parents=True)
        for name, content in _files_of(model, optimizer, {**state, "schema": layout.SCHEMA}):
            durable.write_synced(temporary / name, content)
            entries[name] = entry_of(content)
        durable.write_synced(temporary / layout.MANIFEST, manifest_bytes(entries))
        if final.exists():
            # Still found by its step, should the process die before the next line.
            os.rename(final, final.with_name(final.name + layout.SUPERSEDED))
        durable.publish_folder(temporary, final)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def _files_of(
    model: Mapping[str, "torch.Tensor"], optimizer: dict[str, Any] | None, state: dict[str, Any]
) -> Iterator[tuple[str, bytes]]:
    """The files of a checkpoint but for the manifest, one after the other: the bytes are many."""
    from safetensors.torch import save as to_bytes

    from minigpt.optim.state_tree import encode

    tensors: dict[str, torch.Tensor] = {}
    state = {**state, "optimizer": encode(optimizer, tensors)}
    yield layout.MODEL, to_bytes(_plain(model))
    if optimizer is not None:
        yield layout.OPTIMIZER, to_bytes(_plain(tensors))
    yield layout.STATE, durable.json_bytes(state)


def _plain(tensors: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def entry_of(content: bytes) -> dict[str, Any]:
    """What a manifest says of a file."""
    return {"bytes": len(content), "sha256": durable.sha256_bytes(content)}


def manifest_bytes(entries: dict[str, dict[str, Any]]) -> bytes:
    """manifest.json of files, with the entry of each by its name."""
    body = {"schema": layout.SCHEMA, "files": entries}
    return durable.json_bytes({**body, "checksum": durable.sha256_bytes(durable.json_bytes(body))})


def prune(checkpoints: Path, keep: int, run: str, keep_at: Collection[int] = ()) -> None:
    """Remove this run's checkpoints, but for the newest `keep` and those at the steps of `keep_at`.

    What is not of this run is neither counted nor removed. One that cannot be removed is a warning:
    it only takes space.
    """
    own = [folder for folder in layout.steps_on_disk(checkpoints) if layout.is_of(folder, run)]
    for folder in own[:-keep]:
        if layout.step_of(folder) in keep_at and not folder.name.endswith(layout.SUPERSEDED):
            continue
        try:
            durable.remove_folder(folder)
        except OSError as error:
            log.warning("warning: cannot remove an old checkpoint: %s: %s", folder, error.strerror)
