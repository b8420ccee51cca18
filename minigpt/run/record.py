"""What a run writes about itself: run.json when it begins, failed.json when it fails."""

import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import minigpt
from minigpt.config.places import IN_WHEEL, PACKAGE
from minigpt.config.plan import Plan
from minigpt.errors import MinigptError
from minigpt.files import records
from minigpt.run.source_digest import source_digest

FAILED = "failed.json"
MAX_DIFF_BYTES = 2**20
LIBRARIES = ("torch", "numpy", "hydra-core", "omegaconf", "safetensors", "tokenizers", "tiktoken")


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


def git_state() -> dict[str, Any] | None:
    """Commit and uncommitted diff of the code; None outside a repository or without git.

    None for a wheel too: a repository around it is not of this code.
    """
    if IN_WHEEL:
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(PACKAGE.parent), *arguments]
        how: Any = {"capture_output": True, "text": True, "errors": "replace"}
        return str(subprocess.run(command, check=True, timeout=10, **how).stdout)

    try:
        commit, diff = git("rev-parse", "HEAD").strip(), git("diff", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return None
    kept = diff if len(diff) <= MAX_DIFF_BYTES else diff[:MAX_DIFF_BYTES] + "\n[cut]"
    return {"commit": commit, "dirty": bool(diff), "diff": kept}


def versions(*more: str) -> dict[str, str]:
    """Versions of Python, of the libraries that take part in a result, and of more."""
    found = {"python": platform.python_version()}
    for name in (*LIBRARIES, *more):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def failure(error: Exception) -> dict[str, Any]:
    """failed.json: what stopped a run, and when."""
    ours = isinstance(error, MinigptError)
    return {
        "error": str(error) if ours else f"{type(error).__name__}: {error}",
        "exit_code": getattr(error, "exit_code", 1) if ours else 1,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
