"""declaration.yaml in the folder of a study: its place, its shape, and what its hash is of."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minigpt.errors import CheckpointError, ConfigError
from minigpt.files.reading import if_there, read_yaml
from minigpt.files.shape import amount, fault, instant, natural
from minigpt.study.declaration import Declaration, declaration_of
from minigpt.study.values import is_number

SCHEMA = 1
DECLARATION = "declaration.yaml"


def ends(value: Any) -> bool:
    """two numbers"""
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value))


VERDICT = {"word": str, "difference?": float, "interval?": ends, "spread?": amount}
LOOK = {"cell": str, "pairs": natural, "verdicts": {str: VERDICT}}
AMENDMENT = {
    "why": str,
    "changes": [str],
    "before": str,
    "after_decisions": natural,
    "declared_looks?": [natural],  # what the looks before it shared the 5 % with
    "looks?": [LOOK],
}
DECLARED = {
    "study": str,
    "sha256": str,
    "declared": instant,
    "verdict": {},
    "base": {},
    "amendments": [AMENDMENT],
}


def study_folder(output: Path, study: str) -> Path:
    """Where a study of this folder of runs lives."""
    return output / "studies" / re.sub(r"[^A-Za-z0-9._-]+", "_", study)


def read_declaration(folder: Path) -> tuple[Declaration, dict[str, Any]] | None:
    """The declaration and the whole file; None if there is none.

    Raises CheckpointError for a file that is damaged or of somebody else.
    """
    path = folder / DECLARATION
    content = if_there(read_yaml, path)
    if content is None:
        return None
    try:
        if content.get("schema") != SCHEMA:
            raise ValueError(f"schema {content.get('schema')}, expected {SCHEMA}")
        if (wrong := fault(content, DECLARED)) is not None:
            raise ValueError(wrong)
        alone = Declaration(content["study"], content["verdict"]).sha256  # as files once had it
        if content["sha256"] not in (digest(content), alone):
            raise ValueError("its hash is another one")
        declaration = declaration_of(content["study"], content["verdict"])
    except (ConfigError, AttributeError, KeyError, TypeError, ValueError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(
            f"damaged declaration: {path}: {why} (restore it, or move the study's folder away)"
        ) from None
    return declaration, content


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of all that decides runs and judging: what was declared, the base, amendments.

    Not of when: equal declarations have one hash, and whoever edits the time can hash it anew. What
    shows when it was made is this hash in a place that others keep, as a commit.
    """
    decides = {key: content[key] for key in ("study", "verdict", "base", "amendments")}
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
