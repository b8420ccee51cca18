"""What a preparation noted, and whether the tokens of a folder are the ones that are asked for."""

import json
from pathlib import Path
from typing import Any

from minigpt.data.manifest import SHARD, inside
from minigpt.errors import DataError
from minigpt.files.reading import UnreadableError, read_json
from minigpt.files.shape import fault, natural

JOURNAL = "progress.json"
RULE = (
    {"rule": {"named", "files"}},
    {"rule": {"documents"}, "documents": [natural]},
    {"rule": {"tail"}, "document": natural, "characters": natural},
    {"rule": {"hash"}, "fraction": float, "always": natural},
)
WRITTEN = {
    "writer": {"finished": [SHARD], "partial_tokens": natural},
    "totals": dict.fromkeys(("n_documents", "n_bytes", "largest_id"), natural),
}


def read_journal(folder: Path, request: dict[str, Any], position: Any) -> dict[str, Any] | None:
    """The journal of an earlier process in `folder`; None if there is none.

    position: the shape of a place in the source; None for shards that exist already.
    Raises DataError if the journal is damaged, or that of another request.
    """
    state = {"position": (position, None), "number": natural, "pieces": natural}
    encoding = {"splits": {"train": WRITTEN, "val": WRITTEN}, "odd": {str: natural}, "state": state}
    plan = {"pinned": dict, "rule": RULE, "encoding": (encoding, None)}
    path = folder / JOURNAL
    try:
        journal = read_json(path)
        wrong = fault(journal, {"request": dict, **({} if position is None else plan)})
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
    found: dict[str, Any] = {}
    for key, part in request.items():
        if isinstance(part, dict):
            found |= {f"{key}.{inner}": value for inner, value in part.items()}
        else:
            found[key] = part
    return found


def short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
