"""How a checkpoint lies on disk: safetensors and JSON, no pickle.

checkpoints/step_00001000/
    model.safetensors       parameters by name
    optimizer.safetensors   tensors of the optimizer state, keyed by their place in state.json
    state.json              step, tokens, times, optimizer tree, scaler: everything else
    manifest.json           size and SHA-256 of each file, and a checksum of itself
"""

import os
import re
from pathlib import Path

from minigpt.errors import CheckpointError
from minigpt.files import reading

SCHEMA = 1
MODEL, OPTIMIZER = "model.safetensors", "optimizer.safetensors"
STATE, MANIFEST = "state.json", "manifest.json"
# Ends the name of a whole checkpoint while another one of its step is published.
SUPERSEDED = ".superseded"
NAMES = rf"step_(\d{{8,}})({re.escape(SUPERSEDED)})?"
FOLDER = re.compile(NAMES)


def steps_on_disk(checkpoints: Path) -> list[Path]:
    """Published checkpoint folders, oldest step first. Order is by number, never by time."""
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
    """Whether a folder is a checkpoint of this run: only our files, and a state with this id.

    A damaged state names no run; then the files alone decide.
    """
    try:
        if folder.is_symlink():
            return False
        for path in folder.iterdir():
            ours = path.name in (MODEL, OPTIMIZER, STATE, MANIFEST)
            if not ours or path.is_symlink() or not path.is_file():
                return False
    except OSError:
        return False
    try:
        return bool(reading.read_json(folder / STATE).get("run") == run)
    except reading.UnreadableError:
        return True
