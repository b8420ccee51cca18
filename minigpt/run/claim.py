"""Whose folder it is: a run uses one whose run.json has its id, or one that holds nothing."""

import os
import re
from pathlib import Path
from typing import Any

from minigpt.config import identity
from minigpt.config.plan import Plan
from minigpt.errors import CheckpointError
from minigpt.files.records import read_record

# Files published whole, in the folder itself.
FILES = r"run\.json|config\.yaml|summary\.json|failed\.json|sample\.txt"


def own_record(plan: Plan) -> dict[str, Any] | None:
    """run.json of the plan's folder; None if there is none.

    Raises CheckpointError if it is damaged or of another run. An id is short, and two of them may
    coincide: the whole identity is compared.
    """
    path, record = plan.folder / "run.json", read_record(plan.folder)
    if record is None:
        return None
    if record["id"] != plan.id:
        raise CheckpointError(
            f"another run: {path}: of {record['id']}, expected {plan.id} (move the folder away)"
        )
    if keys := identity.differences(record["identity"], plan.identity):
        shown = "; ".join(f"{key} {old} -> {new}" for key, (old, new) in list(keys.items())[:3])
        raise CheckpointError(
            f"another run of the same id: {path}: {shown} "
            "(the ids coincide by chance: attempt=2, or another output_dir=)"
        )
    return record


def claim(plan: Plan) -> dict[str, Any] | None:
    """The record of a folder that this run may use; None if the run has not begun.

    Without a record a folder may hold only what a start leaves that was killed before it wrote one.
    Raises CheckpointError for anything else: what a folder holds is never taken over without proof.
    """
    folder, record = plan.folder, own_record(plan)
    if record is None and folder.is_dir():
        foreign = sorted(path.name for path in folder.iterdir() if not _before_the_record(path))
        # Another process may just have begun.
        if foreign and (record := own_record(plan)) is None:
            raise CheckpointError(
                f"not a run: {folder}: holds {foreign[0]} and no run.json "
                "(restore run.json, or move the folder away)"
            )
    return record


def _before_the_record(path: Path) -> bool:
    """Whether this is of a start that never began: what RunFolder makes before run.json."""
    if not re.fullmatch(
        r"checkpoints|metrics\.jsonl|lock|train\.log|\.tmp-run\.json-[0-9a-f]{8}", path.name
    ):
        return False
    if path.is_symlink():
        return True  # refused by name when it is opened
    if path.name == "checkpoints":
        return path.is_dir() and not os.listdir(path)
    if path.name == "metrics.jsonl":
        return path.stat().st_size == 0
    return path.is_file()
