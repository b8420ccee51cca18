"""Who a run is and how it ended: run.json, summary.json, failed.json."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from minigpt import checkpoint
from minigpt.errors import CheckpointError, MinigptError

SCHEMA = 1
FAILED = "failed.json"


def read_record(folder: Path) -> dict[str, Any] | None:
    """run.json of a folder; None if there is none. Raises CheckpointError if it is damaged or of another format."""

    def damaged(name: str, why: str) -> CheckpointError:
        return CheckpointError(f"damaged run: {folder / name}: {why} (restore it, or move the folder away)")

    if not (folder / "run.json").is_file():
        return None
    record = checkpoint.read_json(folder / "run.json", damaged)
    if record.get("schema") != SCHEMA:
        raise CheckpointError(
            f"unknown run format: {folder / 'run.json'}: schema {record.get('schema')}, this minigpt reads {SCHEMA} "
            "(use the version of minigpt that wrote it)"
        )
    return record


def read_summary(folder: Path) -> dict[str, Any] | None:
    """summary.json of a run that ended; None before that, or if a crash of the machine left it unreadable."""
    try:
        summary = json.loads((folder / "summary.json").read_bytes())
    except (OSError, ValueError):
        return None
    return summary if isinstance(summary, dict) else None


def failure(error: Exception) -> dict[str, Any]:
    """failed.json: what stopped a run, and when."""
    ours = isinstance(error, MinigptError)
    return {
        "error": str(error) if ours else f"{type(error).__name__}: {error}",
        "exit_code": getattr(error, "exit_code", 1) if ours else 1,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
