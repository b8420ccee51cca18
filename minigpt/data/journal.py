"""What a preparation noted in progress.json, and whether a folder's tokens are the ones that are
asked for.
"""

import json
from pathlib import Path
from typing import Any

from minigpt.data.manifest import SHARD, inside
from minigpt.data.shape import Shape, mismatch
from minigpt.errors import DataError
from minigpt.files.reading import UnreadableError, read_json

PROGRESS = "progress.json"
RULE = (
    {"rule": {"named", "files"}},
    {"rule": {"documents"}, "documents": [int]},
    {"rule": {"tail"}, "document": int, "characters": int},
    {"rule": {"hash"}, "fraction": float, "always": int},
)
WRITTEN = {
    "writer": {"finished": [SHARD], "partial_tokens": int},
    "totals": {"n_documents": int, "n_bytes": int, "largest_id": int},
}


def read_journal(folder: Path, request: dict[str, Any], position: Shape) -> dict[str, Any] | None:
    """The journal of an earlier process in `folder`; None if there is none.

    position: the shape of a place in the source; None for shards that exist already.
    DataError if the journal is damaged, or that of another request.
    """
    state = {"position": (position, type(None)), "number": int, "pieces": int}
    encoding = {"splits": {"train": WRITTEN, "val": WRITTEN}, "odd": {str: int}, "state": state}
    plan = {"pinned": dict, "rule": RULE, "encoding": (encoding, type(None))}
    path = folder / PROGRESS
    try:
        journal = read_json(path)
    except UnreadableError as error:
        if error.missing:
            return None
        raise DataError(f"damaged: {path} ({error.why}; remove {folder} to start again)") from None
    if wrong := mismatch(journal, {"request": dict, **({} if position is None else plan)}):
        raise DataError(f"damaged: {path} ({wrong}; remove {folder} to start again)")
    refuse_other_request(folder, journal["request"], request)
    for split in ((journal.get("encoding") or {}).get("splits") or {}).values():
        for shard in split["writer"]["finished"]:
            inside(folder, shard["name"])
    return journal


def is_noted(folder: Path, request: dict[str, Any]) -> bool:
    """Whether a folder's journal is of this request."""
    try:
        return read_json(folder / PROGRESS).get("request") == request
    except UnreadableError:
        return False


def refuse_other_request(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """DataError with every key that differs, if the folder holds tokens of something else."""
    differences = []
    for key in sorted(found.keys() | wanted.keys()):
        there, here = found.get(key), wanted.get(key)
        if isinstance(there, dict) and isinstance(here, dict):
            inner = sorted(
                name for name in there.keys() | here.keys() if there.get(name) != here.get(name)
            )
            differences += [
                f"{key}.{name} {short(there.get(name))} -> {short(here.get(name))}"
                for name in inner
            ]
        elif there != here:
            differences.append(f"{key} {short(there)} -> {short(here)}")
    if differences:
        raise DataError(
            f"folder holds other tokens: {folder}: {'; '.join(differences[:20])} "
            f"(choose another data.out, or remove the folder to prepare it again)"
        )


def short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
