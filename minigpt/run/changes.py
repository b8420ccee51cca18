"""What is not as it was when a run began: code, tokens, the hardware path."""

from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from minigpt.config.plan import Plan
from minigpt.errors import CheckpointError
from minigpt.files.reading import UnreadableError, read_json
from minigpt.files.records import read_record
from minigpt.run.source_digest import CODE, in_short, source_digest


def changes_of(plan: Plan, torch_too: bool = False) -> list[str]:
    """`changes_since` this run began; [] for a new run. Needs no torch.

    torch_too: whether another version of torch is a change.
    Raises CheckpointError if the run cannot be read.
    """
    record = read_record(plan.folder)
    if record is None:
        return []
    fingerprint = None
    with suppress(UnreadableError):
        fingerprint = read_json(plan.tokens_folder / "manifest.json").get("fingerprint")
    data = {"fingerprint": fingerprint} if isinstance(fingerprint, str) else record["data"]
    changes = changes_since(record, {"source": source_digest(plan.config), "data": data})
    return changes + _another_torch(record["versions"]["torch"], _torch()) * torch_too


def changes_since(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Code and tokens that are not what they were, one line each."""
    old, new = saved["source"], now["source"]
    modules = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    changes = [f"{CODE}{name.replace('.', '/')}.py" for name in modules]
    before, after = saved["data"]["fingerprint"], now["data"]["fingerprint"]
    if before != after:
        changes.append(f"tokens changed: {before[:12]} -> {after[:12]}")
    return changes


def path_changes(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The chosen hardware path and library versions that differ, one line each.

    Not how many ranks share a step, which is free, nor what follows from that.
    """
    old, new = saved["chosen"], now["chosen"]  # threads on a CPU alone, the model of a GPU
    free = {"world_size"}
    if world_size(saved) != world_size(now):
        free |= {"micro_batch_size", "threads"}
    changes = [
        f"{key}: {old[key]} -> {value}"
        for key, value in new.items()
        if key not in free and old.get(key, value) != value
    ]
    return changes + _another_torch(saved["versions"]["torch"], now["versions"]["torch"])


def regrouped(saved: dict[str, Any], now: dict[str, Any]) -> str | None:
    """That another number of ranks goes on with a run; None if it does not."""
    before, after = world_size(saved), world_size(now)
    return None if before == after else f"ranks: {before} -> {after} (equal within rounding)"


def world_size(record: dict[str, Any]) -> int:
    """How many ranks train a run now, by its run.json."""
    return int(record["chosen"].get("world_size", 1))


@cache
def _torch() -> str:
    return version("torch")


def _another_torch(before: str, after: str) -> list[str]:
    return [] if before == after else [f"torch version: {before} -> {after}"]


def refusal(folder: Path, changes: list[str]) -> CheckpointError:
    """What is raised for changes that were not accepted."""
    way_out = "accept_changes=true goes on and marks the run; attempt=2 starts anew"
    return CheckpointError(
        *(f"changed since the run began: {folder}: {one} ({way_out})" for one in in_short(changes))
    )
