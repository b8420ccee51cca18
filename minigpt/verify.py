"""Whether a run can be trusted: everything in its folder is whole and says the same.

    python -m minigpt.verify RUN [RUN ...]

Nothing is written, nothing is mended, and no class that a folder names is built.
"""

import json
import sys
from collections.abc import Generator, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from minigpt import checkpoint, identity
from minigpt.arguments import Parser, exit_code_of, reader_has_gone
from minigpt.data.tokens import Tokens
from minigpt.errors import CheckpointError, DataError, MinigptError
from minigpt.run.record import read_record, read_summary
from minigpt.tokenizer import load as load_tokenizer

EXIT_BAD = CheckpointError.exit_code
HELP = """\
Say of each run in one line whether it can be trusted:

  checkpoints     every byte is the one that was written (SHA-256), all weights are finite, all are of this run
  run.json        its id is the hash of what it says it is, and config.yaml hashes to the same id
  tokens          where they are still present: the fingerprint is that of the run, every shard has its hash
  metrics.jsonl   no torn, repeated or missing rows; steps and tokens agree
  summary.json    step, tokens and validation loss are those of the last rows and of the last checkpoint

Nothing is written. A run that is still training is looked at as it stands: a torn last line is normal there, and
the same train.py command drops it.

  python -m minigpt.verify outputs/tiny-muon-shakespeare-3fa9c1d2
  python -m minigpt.verify outputs/*-????????          all of them

exit code: 0 all can be trusted, 4 at least one cannot
"""


def problems_of(folder: Path) -> Iterator[str]:
    """What is wrong with a run's folder, one sentence each; nothing if it can be trusted."""
    if not folder.is_dir():
        yield "no such folder"
        return
    try:
        record = read_record(folder)
    except MinigptError as error:
        yield from error.problems
        return
    if record is None:
        yield "not a run (no run.json)"
        return
    try:
        yield from _identity(folder, record)
        yield from _tokens(record)
        summary = read_summary(folder)
        if summary is None and (folder / "summary.json").exists():
            yield "summary.json is not readable"
        newest = yield from _checkpoints(folder, record)
        rows, whole = yield from _metrics(folder)
        if newest is not None and not _long_enough(folder, newest):
            yield f"metrics.jsonl is shorter than when {newest.folder.name} was saved: rows are missing at its end"
        if whole:
            if (folder / "config.yaml").is_file():
                yield from _steps(rows, OmegaConf.load(folder / "config.yaml"))
            yield from _summary(summary, rows, newest)
    except (KeyError, TypeError, AttributeError, OmegaConfBaseException) as error:
        yield f"a value is missing or of another kind: {type(error).__name__} {error}"


def _identity(folder: Path, record: dict[str, Any]) -> Iterator[str]:
    if identity.short_hash(record["identity"]) != record["id"]:
        yield f"run.json: the id {record['id']} is not the hash of the identity beside it"
    used = record["identity"].get("init_from")  # the weights it began with, whatever lies there by now
    try:
        config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"), resolve=True)
        assert isinstance(config, dict)
        found = identity.short_hash(identity.run_identity(config, used))  # type: ignore[arg-type]
    except OSError:
        yield "config.yaml is missing"
    except Exception as error:  # any text can stand there
        yield f"config.yaml is not that of a run ({type(error).__name__})"
    else:
        if found != record["id"]:
            yield f"config.yaml is of run {found}, run.json of {record['id']}"


def _tokens(record: dict[str, Any]) -> Iterator[str]:
    folder, expected = Path(record["data"]["folder"]), record["data"]["fingerprint"]
    if not (folder / "manifest.json").exists():
        return  # a run stands alone; its tokens may live elsewhere
    try:
        found = Tokens.open(folder, load_tokenizer).fingerprint
    except DataError as error:
        yield from error.problems
    else:
        if found != expected:
            yield f"tokens in {folder} are not those of the run: {expected[:12]} -> {found[:12]}"


def _checkpoints(folder: Path, record: dict[str, Any]) -> Generator[str, None, checkpoint.Checkpoint | None]:
    """Yields problems, returns the newest whole checkpoint or None."""
    newest = None
    for path in checkpoint.steps_on_disk(folder / "checkpoints"):
        try:
            found = checkpoint.load(path)
        except CheckpointError as error:
            yield from error.problems
            continue
        if found.state.get("run") != record["id"]:
            yield f"{path.name} is of run {found.state.get('run')}"
        bad = [name for name, tensor in found.model.items() if not torch.isfinite(tensor).all()]
        if bad:
            yield f"{path.name}: {bad[0]} is not finite{f', nor are {len(bad) - 1} others' if bad[1:] else ''}"
        if found.state["step"] != checkpoint.step_of(path):
            yield f"{path.name} holds step {found.state['step']}"
        newest = found
    return newest


def _metrics(folder: Path) -> Generator[str, None, tuple[list[dict[str, Any]], bool]]:
    """Yields problems, returns the rows and whether each line is one."""
    path, rows, whole = folder / "metrics.jsonl", [], True
    if not path.is_file():
        yield "metrics.jsonl is missing"
        return [], False
    *lines, last = path.read_bytes().split(b"\n")
    if last:
        yield f"metrics.jsonl: the last line is torn ({len(last)} bytes)"
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            assert isinstance(row["step"], int)
            rows.append(row)
        except (ValueError, TypeError, KeyError, AssertionError):
            yield f"metrics.jsonl: line {number} is not a row"
            whole = False
    return rows, whole


def _long_enough(folder: Path, newest: checkpoint.Checkpoint) -> bool:
    path = folder / "metrics.jsonl"
    return path.is_file() and path.stat().st_size >= newest.state["metrics_bytes"]


def _steps(rows: list[dict[str, Any]], config: Any) -> Iterator[str]:
    """Rows of each kind go forward, none is missing, and each step has the same number of tokens."""
    for kind in ("train/loss", "val/loss"):
        steps = [row["step"] for row in rows if kind in row]
        repeated = next((b for a, b in pairwise(steps) if b <= a), None)
        if repeated is not None:
            yield f"metrics.jsonl: {kind} of step {repeated} comes twice, or too late"
    steps = [row["step"] for row in rows if "train/loss" in row]
    last = max(steps, default=0)
    for kind, every, end in (
        ("train/loss", config["log"]["every"], last + 1),
        ("val/loss", config["eval"]["every"], last),
    ):
        logged = {row["step"] for row in rows if kind in row}
        missing = [step for step in range(every, end, every) if step not in logged] if every else []
        if missing:
            others = f" and {len(missing) - 1} others" if missing[1:] else ""
            yield f"metrics.jsonl: no {kind} for step {missing[0]}{others} (one was due every {every})"
    per_step = {row["tokens"] / row["step"] for row in rows if row["step"]}
    if len(per_step) > 1:
        yield f"metrics.jsonl: tokens a step change from {min(per_step):g} to {max(per_step):g}"


def _summary(
    summary: dict[str, Any] | None, rows: list[dict[str, Any]], newest: checkpoint.Checkpoint | None
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
    elif newest.state["step"] != summary["step"]:
        yield f"summary.json ends at step {summary['step']}, the checkpoints at {newest.state['step']}"
    elif newest.state["final"] is None:
        yield f"{newest.folder.name} is not the final checkpoint"


def line_about(folder: Path) -> tuple[bool, str]:
    """Whether the run can be trusted, and the line that says so."""
    if problems := list(problems_of(folder)):
        return False, f"NOT to be trusted: {folder}: {'; '.join(' '.join(problem.split()) for problem in problems)}"
    record, summary = read_record(folder), read_summary(folder)
    assert record is not None
    steps = checkpoint.steps_on_disk(folder / "checkpoints")
    state = "not finished" if summary is None else f"{summary['status']} at step {summary['step']}"
    parts = [state, f"{len(steps)} checkpoint{'' if len(steps) == 1 else 's'}"]
    if not (Path(record["data"]["folder"]) / "manifest.json").exists():
        parts.append("tokens not here")
    if record["mixed"]:
        parts.append(f"mixed, as was accepted: {', '.join(record['mixed'])}")
    return True, f"ok: {folder}: {', '.join(parts)}"


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = Parser("python -m minigpt.verify", HELP)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folder of a run (outputs/<name>-<id>)")
    return exit_code_of(lambda: verify(parser.parse_args(arguments).runs))


def verify(folders: list[Path]) -> int:
    """A line for each run; EXIT_BAD if any of them cannot be trusted, also where nobody reads the lines any more."""
    code = 0
    for folder in folders:
        trusted, line = line_about(folder.expanduser())
        code = code if trusted else EXIT_BAD
        try:
            print(line, flush=True)
        except BrokenPipeError:
            reader_has_gone()
    return code


if __name__ == "__main__":
    sys.exit(main())
