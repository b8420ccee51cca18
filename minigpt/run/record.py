"""Who a run is and how it ended: run.json, summary.json, failed.json."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from minigpt import records
from minigpt.errors import MinigptError
from minigpt.reading import UnreadableError
from minigpt.records import read_record as read_record

FAILED = "failed.json"


def read_summary(folder: Path) -> dict[str, Any] | None:
    """summary.json of a run that ended; None before that, or if a crash of the machine left it
    unreadable.
    """
    try:
        return records.read_summary(folder)
    except UnreadableError:
        return None


def failure(error: Exception) -> dict[str, Any]:
    """failed.json: what stopped a run, and when."""
    ours = isinstance(error, MinigptError)
    return {
        "error": str(error) if ours else f"{type(error).__name__}: {error}",
        "exit_code": getattr(error, "exit_code", 1) if ours else 1,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
