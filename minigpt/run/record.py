"""What a run writes about itself: run.json when it begins, failed.json when it stops."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import minigpt
from minigpt.config.plan import Plan
from minigpt.errors import MinigptError
from minigpt.files import records
from minigpt.files.reading import UnreadableError
from minigpt.run.source_digest import source_digest
from minigpt.run.versions import git_state, versions

FAILED = "failed.json"


def new_record(plan: Plan, facts: dict[str, Any], accepted: Sequence[str]) -> dict[str, Any]:
    """run.json of a run that begins now. facts, accepted: as in `RunFolder.begin`."""
    return {
        "schema": records.SCHEMA,
        "minigpt": minigpt.__version__,
        "id": plan.id,
        "name": plan.folder.name,
        "identity": plan.identity,
        "choices": plan.choices,
        "overrides": plan.overrides,
        "study": plan.study,
        "command": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "git": git_state(),
        "source": source_digest(plan.config),
        "versions": versions(),
        **facts,
        "branched_from": None,
        "mixed": list(accepted),
    }


def read_summary(folder: Path) -> dict[str, Any] | None:
    """summary.json of a run that ended; None before that, or if a crash left it unreadable."""
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
