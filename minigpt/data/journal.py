"""What a preparation noted, and whether the tokens of a folder are the ones that are asked for."""

import json
from pathlib import Path
from typing import Any

from minigpt.data.manifest import SHARD, inside
from minigpt.data.shape import Shape, mismatch
from minigpt.errors import DataError
from minigpt.files.reading import UnreadableError, read_json

JOURNAL = "progress.json"
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
    Raises DataError if the journal is damaged, or that of another request.
    """
    state = {"position": (position, type(None)), "number": int, "pieces": int}
    encoding = {"splits": {"train": WRITTEN, "val": WRITTEN}, "odd": {str: int}, "state": state}
    plan = {"pinned": dict, "rule": RULE, "encoding": (encoding, type(None))}
    path = folder / JOURNAL
    try:
        journal = read_json(path)
        wrong = mismatch(journal, {"request": dict, **({} if position is None else plan)})
    except UnreadableError as error:
        if error.missing:
            return None
        wrong = error.why
    if wrong:
        raise DataError(f"damaged: {path} ({wrong}; remove {folder} to start again)")
    refuse_other_request(folder, journal["request"], request)
    if journal.get("encoding"):
        for split in journal["encoding"]["splits"].values():
            for shard in split["writer"]["finished"]:
                inside(folder, shard["name"])
    return journal


def is_noted(folder: Path, request: dict[str, Any]) -> bool:
    """Whether a folder's journal is of this request."""
    try:
        return read_json(folder / JOURNAL).get("request") == request
    except UnreadableError:
        return False


def refuse_other_request(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """DataError with every key that differs, if the folder holds tokens of something else."""
    there, here = flat(found), flat(wanted)
    differences = [
        f"{key} {short(there.get(key))} -> {short(here.get(key))}"
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key)
    ]
    if differences:
        raise DataError(
            f"folder holds other tokens: {folder}: {'; '.join(differences[:20])} "
            "(choose another data.out, or remove the folder to prepare it again)"
        )


def flat(request: dict[str, Any]) -> dict[str, Any]:
    """A request with `source.path` instead of a mapping in a mapping."""
    return {
        name: value
        for key, part in request.items()
        for name, value in (
            {f"{key}.{inner}": value for inner, value in part.items()}
            if isinstance(part, dict)
            else {key: part}
        ).items()
    }


def short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
