"""Whose folder it is: a run uses one whose run.json has its id, or one that holds nothing."""

import os
import re
from pathlib import Path
from typing import Any

from minigpt.errors import CheckpointError
from minigpt.records import read_record

# Files published whole, in the folder itself.
FILES = r"run\.json|config\.yaml|summary\.json|failed\.json|sample\.txt"


def own_record(folder: Path, id: str) -> dict[str, Any] | None:
    """run.json of a folder, None without one. Raises CheckpointError if not of this run."""
    record = read_record(folder)
    if record is not None and record.get("id") != id:
        raise CheckpointError(
            f"another run: {folder / 'run.json'}: of {record.get('id')}, expected {id} "
            "(move the folder away)"
        )
    return record


def claim(folder: Path, id: str) -> dict[str, Any] | None:
    """The record of a folder that this run may use; None if the run has not begun.

    Without a record it may hold only what a start leaves that was killed before it wrote one.
    Raises CheckpointError for anything else: no folder is taken over without proof.
    """
    record = own_record(folder, id)
    if record is None and folder.is_dir():
        foreign = sorted(path.name for path in folder.iterdir() if not _before_the_record(path))
        # Read once more: another process may just have begun.
        if foreign and (record := own_record(folder, id)) is None:
            raise CheckpointError(
                f"not a run: {folder}: holds {foreign[0]} and no run.json "
                "(restore run.json, or move the folder away)"
            )
    return record


def _before_the_record(path: Path) -> bool:
    """Whether this is of a start that never began: what RunFolder makes before run.json."""
    if path.name == "checkpoints":
        return path.is_symlink() or (path.is_dir() and not os.listdir(path))
    if path.name == "metrics.jsonl":
        return path.is_symlink() or path.stat().st_size == 0
    return re.fullmatch(r"lock|train\.log|\.tmp-run\.json-[0-9a-f]{8}", path.name) is not None
