"""Which code and which libraries compute a run."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import minigpt

MAX_DIFF_BYTES = 2**20
LIBRARIES = ("torch", "numpy", "hydra-core", "omegaconf", "safetensors", "tokenizers", "tiktoken")


def git_state() -> dict[str, Any] | None:
    """Commit and uncommitted diff of the code; None outside a repository or without git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(minigpt.__file__).parent.parent), *arguments]
        how: Any = {"capture_output": True, "text": True, "errors": "replace"}
        return str(subprocess.run(command, check=True, timeout=10, **how).stdout)

    try:
        commit, diff = git("rev-parse", "HEAD").strip(), git("diff", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return None
    kept = diff if len(diff) <= MAX_DIFF_BYTES else diff[:MAX_DIFF_BYTES] + "\n[cut]"
    return {"commit": commit, "dirty": bool(diff), "diff": kept}


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that take part in a result."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found
