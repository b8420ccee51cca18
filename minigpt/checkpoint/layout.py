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
FILES = {MODEL, OPTIMIZER, STATE, MANIFEST}
# Ends the name of a whole checkpoint while another one of its step is published.
SUPERSEDED = ".superseded"
NAMES = rf"step_(\d{{8,}})({re.escape(SUPERSEDED)})?"
FOLDER = re.compile(NAMES)


def steps_on_disk(checkpoints: Path) -> list[Path]:
    """Published checkpoint folders, oldest step first. Order is by number, never by time."""
    found = [path for path in _named_as_one(checkpoints) if not _is_foreign(path)]
    return sorted(found, key=lambda path: (step_of(path), not path.name.endswith(SUPERSEDED)))


def foreign_folders(checkpoints: Path) -> list[Path]:
    """Folders with the name of a checkpoint that hold something else. Nothing touches them."""
    return sorted(path for path in _named_as_one(checkpoints) if _is_foreign(path))


def _named_as_one(checkpoints: Path) -> list[Path]:
    try:
        entries = [entry for entry in os.scandir(checkpoints) if FOLDER.fullmatch(entry.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise CheckpointError(
            f"cannot read: {checkpoints}: {error.strerror} (check its permissions)"
        ) from None
    return [Path(entry.path) for entry in entries if entry.is_dir()]


def _is_foreign(folder: Path) -> bool:
    """Whether this was never a checkpoint. A checkpoint with files too many is a damaged one."""
    try:
        names = set(os.listdir(folder))
    except OSError:
        return False
    if folder.name.endswith(SUPERSEDED):
        return not names or not names <= FILES
    return bool(names) and not names & FILES


def step_of(folder: Path) -> int:
    """The step in a checkpoint folder's name."""
    match = FOLDER.fullmatch(folder.name)
    assert match is not None
    return int(match[1])


def is_of(folder: Path, run: str) -> bool:
    """Whether a folder is a checkpoint of this run: only our files, and a state with this id.

    A damaged state names no run; then the files alone decide.
    """
    try:
        if folder.is_symlink() or not all(
            path.name in FILES and path.is_file() and not path.is_symlink()
            for path in folder.iterdir()
        ):
            return False
        return bool(reading.read_json(folder / STATE).get("run") == run)
    except OSError:
        return False
    except reading.UnreadableError:
        return True
