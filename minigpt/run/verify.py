"""Whether a run can be trusted: everything in its folder is whole and says the same.

Nothing is written, nothing is mended, and no class that a folder names is built.
"""

import os
from collections.abc import Callable, Generator, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch

from minigpt.checkpoint.layout import step_of, steps_on_disk
from minigpt.checkpoint.load import Checkpoint, load_checkpoint
from minigpt.config import identity
from minigpt.data.tokens import Tokens
from minigpt.errors import MinigptError
from minigpt.files import records
from minigpt.files.durable import sha256_bytes
from minigpt.files.reading import UnreadableError, read_bytes
from minigpt.tokenizer import load as load_tokenizer

T = TypeVar("T")


def problems_of(folder: Path) -> Iterator[str]:
    """What is wrong with a run's folder, one sentence each; nothing if it can be trusted."""
    if not folder.is_dir():
        yield "no such folder"
        return
    record = yield from _read(lambda: records.read_record(folder))
    if record is None:
        if not os.path.lexists(folder / "run.json"):
            yield "not a run (no run.json)"
        return
    config = yield from _read(lambda: records.read_config(folder))
    yield from _identity(record, config)
    yield from _tokens(record)
    summary = yield from _read(lambda: records.read_summary(folder))
    newest = yield from _checkpoints(folder, record)
    rows, whole = yield from _metrics(folder)
    if newest is not None:
        yield from _rows_of(folder, newest)
    if whole:
        yield from _steps(rows)
        yield from _summary(summary, rows, newest)


def _read(reader: Callable[[], T]) -> Generator[str, None, T | None]:
    """What a reader returns; yields why it cannot, and returns None then."""
    try:
        return reader()
    except UnreadableError as error:
        yield (
            f"{error.path.name} is missing" if error.missing else f"{error.path.name}: {error.why}"
        )
    except MinigptError as error:
        yield from error.problems
    return None


def _identity(record: dict[str, Any], config: dict[str, Any] | None) -> Iterator[str]:
    if identity.short_hash(record["identity"]) != record["id"]:
        yield f"run.json: the id {record['id']} is not the hash of the identity beside it"
    if config is None:
        return
    try:
        # those it began with, whatever lies there by now
        weights = record["identity"].get("init_from")
        found = identity.short_hash(identity.run_identity(config, weights))
    except (ImportError, AttributeError, SyntaxError):
        if _targets(config) != _targets(record["identity"]):
            yield "config.yaml names other classes than run.json"
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        yield f"config.yaml is not that of a run ({type(error).__name__} {error})"
    else:
        if found != record["id"]:
            yield f"config.yaml is of run {found}, run.json of {record['id']}"


def _targets(node: dict[str, Any]) -> set[tuple[str, str]]:
    """The classes that a configuration names in what decides a result, with their keys."""
    parts = {key: node[key] for key in ("model", "optim", "schedule", "data")}
    return {(k, v) for k, v in identity.flatten(parts).items() if k.endswith("._target_")}


def _unknown_class(folder: Path) -> str | None:
    """Why config.yaml could not be hashed, where that is no fault of the run: a class whose source
    is not here.
    """
    try:
        identity.run_identity(records.read_config(folder))
    except (ImportError, AttributeError, SyntaxError) as error:
        return f"config.yaml not hashed: {error}"
    return None


def _tokens(record: dict[str, Any]) -> Iterator[str]:
    folder, expected = Path(record["data"]["folder"]), record["data"]["fingerprint"]
    if not folder.is_absolute() or not (folder / "manifest.json").exists():
        return  # a run stands alone; its tokens may live elsewhere
    found = yield from _read(lambda: Tokens.open(folder, load_tokenizer).fingerprint)
    if found is not None and found != expected:
        yield f"tokens in {folder} are not those of the run: {expected[:12]} -> {found[:12]}"


def _checkpoints(folder: Path, record: dict[str, Any]) -> Generator[str, None, Checkpoint | None]:
    """Yields problems, returns the newest whole checkpoint or None."""
    newest = None
    for path in steps_on_disk(folder / "checkpoints"):
        found = yield from _read(lambda path=path: load_checkpoint(path))  # type: ignore[misc]
        if found is None:
            continue
        if found.state.get("run") != record["id"]:
            yield f"{path.name} is of run {found.state.get('run')}"
        bad = [name for name, tensor in found.model.items() if not torch.isfinite(tensor).all()]
        if bad:
            yield f"{path.name}: {bad[0]} is not finite{f', nor are {len(bad) - 1} others' if bad[1:] else ''}"
        if found.state.get("step") != step_of(path):
            yield f"{path.name} holds step {found.state.get('step')}"
        newest = found
    return newest


def _metrics(folder: Path) -> Generator[str, None, tuple[list[dict[str, Any]], bool]]:
    """Yields problems, returns the rows and whether each line is one."""
    found = yield from _read(lambda: records.read_rows(folder / "metrics.jsonl"))
    if found is None:
        return [], False
    rows, bad, torn = found
    if torn:
        yield f"metrics.jsonl: the last line is torn ({torn} bytes)"
    if bad:
        others = f", nor are {len(bad) - 1} others" if bad[1:] else ""
        yield f"metrics.jsonl: line {bad[0]} is not a row{others}"
    return rows, not bad


def _rows_of(folder: Path, newest: Checkpoint) -> Iterator[str]:
    """The rows that were logged before a checkpoint are those that it knows."""
    found = yield from _read(lambda: read_bytes(folder / "metrics.jsonl"))
    length, name = newest.state.get("metrics_bytes"), newest.folder.name
    if found is None:
        return
    if not isinstance(length, int) or len(found) < length:
        yield f"metrics.jsonl is shorter than when {name} was saved: rows are missing at its end"
    elif newest.state.get("metrics_sha256") not in (None, sha256_bytes(found[:length])):
        yield f"metrics.jsonl is not as when {name} was saved: rows were changed"


def _steps(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Rows of each kind go forward, and each step has the same number of tokens."""
    for kind in ("train/loss", "val/loss"):
        steps = [row["step"] for row in rows if kind in row]
        repeated = next((b for a, b in pairwise(steps) if b <= a), None)
        if repeated is not None:
            yield f"metrics.jsonl: {kind} of step {repeated} comes twice, or too late"
    per_step = {row["tokens"] / row["step"] for row in rows if row["step"]}
    if len(per_step) > 1:
        yield f"metrics.jsonl: tokens a step change from {min(per_step):g} to {max(per_step):g}"


def _summary(
    summary: dict[str, Any] | None, rows: list[dict[str, Any]], newest: Checkpoint | None
) -> Iterator[str]:
    """What a run that ended says it came to is what its rows and its last checkpoint say."""
    if summary is None:
        return
    last = rows[-1] if rows else {"step": 0, "tokens": 0}
    if (summary["step"], summary["tokens"]) != (last["step"], last["tokens"]):
        yield f"summary.json ends at step {summary['step']}, metrics.jsonl at step {last['step']}"
    if summary["status"] != "finished":
        return
    final = next((row["val/loss"] for row in reversed(rows) if "val/loss" in row), None)
    if summary["val_loss"] != final:
        yield f"summary.json: val_loss {summary['val_loss']}, the last row says {final}"
    if newest is None:
        yield "finished, and no whole checkpoint is left"
    elif newest.state.get("step") != summary["step"]:
        yield f"summary.json ends at step {summary['step']}, the checkpoints at {newest.state['step']}"
    elif newest.state.get("final") is None:
        yield f"{newest.folder.name} is not the final checkpoint"


def line_about(folder: Path) -> tuple[bool, str]:
    """Whether the run can be trusted, and the line that says so."""
    if problems := list(problems_of(folder)):
        return (
            False,
            f"NOT to be trusted: {folder}: {'; '.join(' '.join(problem.split()) for problem in problems)}",
        )
    record, summary = records.read_record(folder), records.read_summary(folder)
    assert record is not None
    steps = steps_on_disk(folder / "checkpoints")
    state = "not finished" if summary is None else f"{summary['status']} at step {summary['step']}"
    parts = [state, f"{len(steps)} checkpoint{'' if len(steps) == 1 else 's'}"]
    tokens = Path(record["data"]["folder"])
    if not tokens.is_absolute() or not (tokens / "manifest.json").exists():
        parts.append("tokens not here")
    if why := _unknown_class(folder):
        parts.append(why)
    if record["mixed"]:
        parts.append(f"mixed, as was accepted: {', '.join(record['mixed'])}")
    return True, f"ok: {folder}: {', '.join(parts)}"
