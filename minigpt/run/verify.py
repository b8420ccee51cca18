"""Whether a run can be trusted: everything in its folder is whole and says the same.

Nothing is written, nothing is mended, and no class that a folder names is built.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch

from minigpt.checkpoint.layout import foreign_folders, step_of, steps_on_disk
from minigpt.checkpoint.load import Checkpoint, load_checkpoint
from minigpt.config import identity
from minigpt.data.tokens import Tokens
from minigpt.errors import MinigptError
from minigpt.files import records
from minigpt.files.durable import sha256_bytes
from minigpt.files.reading import UnreadableError, read_bytes
from minigpt.terminal import count

T = TypeVar("T")


def line_about(folder: Path) -> tuple[bool, str]:
    """Whether the run can be trusted, and the line that says so."""
    found = _Inspection(folder)
    found.look()
    if found.problems:
        problems = "; ".join(" ".join(problem.split()) for problem in found.problems)
        return False, f"NOT to be trusted: {folder}: {problems}"
    return True, f"ok: {folder}: {', '.join(found.notes)}"


class _Inspection:
    """What one look at a run's folder finds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[str] = []  # a sentence each; none if the run can be trusted
        self.notes: list[str] = []  # said of a run that can be trusted

    def look(self) -> None:
        if not self.folder.is_dir():
            self.problems.append("no such folder")
            return
        record = self._read(records.read_record, self.folder)
        if record is None:
            self.problems = self.problems or ["not a run (no run.json)"]
            return
        summary = self._read(records.read_summary, self.folder)
        ended = summary and f"{summary['status']} at step {summary['step']}"
        self.notes.append(ended or "not finished")
        newest = self._checkpoints(record["id"])
        self._tokens(Path(record["data"]["folder"]), record["data"]["fingerprint"])
        self._identity(record)
        rows = self._rows(newest)
        if rows is not None and summary is not None:
            self.problems += _ending(summary, rows, newest)
        if record["mixed"]:
            self.notes.append(f"mixed, as was accepted: {', '.join(record['mixed'])}")

    def _read(self, reader: Callable[[Path], T], path: Path) -> T | None:
        """What a reader returns; None if it cannot, which is a problem."""
        try:
            return reader(path)
        except UnreadableError as error:
            why = " is missing" if error.missing else f": {error.why}"
            self.problems.append(error.path.name + why)
        except MinigptError as error:
            self.problems += error.problems
        return None

    def _checkpoints(self, run: str) -> Checkpoint | None:
        """The newest whole checkpoint, or None."""
        newest, checkpoints = None, self.folder / "checkpoints"
        if (steps := self._read(steps_on_disk, checkpoints)) is None:
            return None
        for path in steps:
            found = self._read(load_checkpoint, path)
            if found is None:
                continue
            if found.state.get("run") != run:
                self.problems.append(f"{path.name} is of run {found.state.get('run')}")
            bad = [name for name, tensor in found.model.items() if not torch.isfinite(tensor).all()]
            if bad:
                self.problems.append(f"{path.name}: {bad[0]} is not finite{_others(bad)}")
            if found.state.get("step") != step_of(path):
                self.problems.append(f"{path.name} holds step {found.state.get('step')}")
            newest = found
        self.notes.append(count(len(steps), "checkpoint"))
        for path in foreign_folders(checkpoints):
            self.notes.append(f"{path.name} is foreign, no checkpoint")
        return newest

    def _tokens(self, tokens: Path, expected: str) -> None:
        """A run stands alone; its tokens may live elsewhere."""
        if not tokens.is_absolute() or not (tokens / "manifest.json").exists():
            self.notes.append("tokens not here")
            return
        found = self._read(lambda folder: Tokens.open(folder).fingerprint, tokens)
        if found is not None and found != expected:
            change = f"{expected[:12]} -> {found[:12]}"
            self.problems.append(f"tokens in {tokens} are not those of the run: {change}")

    def _identity(self, record: dict[str, Any]) -> None:
        if identity.short_hash(record["identity"]) != record["id"]:
            self.problems.append(
                f"run.json: the id {record['id']} is not the hash of the identity beside it"
            )
        config = self._read(records.read_config, self.folder)
        if config is None:
            return
        try:
            # The weights that it began with, whatever lies there by now.
            weights = record["identity"].get("init_from")
            found = identity.short_hash(identity.run_identity(config, weights))
        except (ImportError, AttributeError, SyntaxError) as error:
            # A class whose source is not here is no fault of the run.
            self.notes.append(f"config.yaml not hashed: {error}")
            if _targets(config) != _targets(record["identity"]):
                self.problems.append("config.yaml names other classes than run.json")
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            why = f"{type(error).__name__} {error}"
            self.problems.append(f"config.yaml is not that of a run ({why})")
        else:
            if found != record["id"]:
                self.problems.append(f"config.yaml is of run {found}, run.json of {record['id']}")

    def _rows(self, newest: Checkpoint | None) -> list[dict[str, Any]] | None:
        """The rows of metrics.jsonl; None unless each line is one."""
        path = self.folder / "metrics.jsonl"
        found = self._read(records.read_rows, path)
        if found is None:
            return None
        rows, bad, torn = found
        if torn:
            self.problems.append(f"metrics.jsonl: the last line is torn ({torn} bytes)")
        if bad:
            self.problems.append(f"metrics.jsonl: line {bad[0]} is not a row{_others(bad)}")
        content = self._read(read_bytes, path)
        if newest is not None and content is not None:
            self.problems += _rows_saved(content, newest)
        if bad:
            return None
        self.problems += _steps(rows)
        return rows


def _rows_saved(content: bytes, newest: Checkpoint) -> Iterator[str]:
    """The rows that were logged before a checkpoint are those that it knows."""
    length, name = newest.state.get("metrics_bytes"), newest.folder.name
    if not isinstance(length, int) or len(content) < length:
        yield f"metrics.jsonl is shorter than when {name} was saved: rows are missing at its end"
    elif newest.state.get("metrics_sha256") not in (None, sha256_bytes(content[:length])):
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


def _ending(
    summary: dict[str, Any], rows: list[dict[str, Any]], newest: Checkpoint | None
) -> Iterator[str]:
    """What a run that ended says is what its rows and its last checkpoint say."""
    step, last = summary["step"], rows[-1] if rows else {"step": 0, "tokens": 0}
    if (step, summary["tokens"]) != (last["step"], last["tokens"]):
        yield f"summary.json ends at step {step}, metrics.jsonl at step {last['step']}"
    if summary["status"] != "finished":
        return
    final = next((row["val/loss"] for row in reversed(rows) if "val/loss" in row), None)
    if summary["val_loss"] != final:
        yield f"summary.json: val_loss {summary['val_loss']}, the last row says {final}"
    if newest is None:
        yield "finished, and no whole checkpoint is left"
    elif (saved := newest.state.get("step")) != step:
        yield f"summary.json ends at step {step}, the checkpoints at {saved}"
    elif newest.state.get("final") is None:
        yield f"{newest.folder.name} is not the final checkpoint"


def _others(bad: list[Any]) -> str:
    return f", nor are {len(bad) - 1} others" if bad[1:] else ""


def _targets(node: dict[str, Any]) -> set[tuple[str, str]]:
    """The classes that a configuration names in what decides a result, with their keys."""
    parts = {key: node[key] for key in ("model", "optim", "schedule", "data")}
    return {(k, v) for k, v in identity.flatten(parts).items() if k.endswith("._target_")}
