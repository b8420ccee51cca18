"""What the files of a run, a sweep and a neighbour hold.

They are checked once, here, so that later code can trust the types. How a shape is written stands
in files/shape.py.
"""

import json
from pathlib import Path
from typing import Any

from minigpt.errors import CheckpointError
from minigpt.files.reading import UnreadableError, if_there, read_json, read_lines, read_yaml
from minigpt.files.shape import amount, duration, fault, file_name, instant, natural, positive

SCHEMA = 1  # of run.json
BYTES = 2**23  # of one JSON record: the largest holds a diff of at most 1 MiB

SCALAR = (str, float, bool, None)
PART = {"_target_": str}
FAILURE = {"error": str, "exit_code": natural}
IDENTITY = {
    **dict.fromkeys(("model", "optim", "schedule", "data"), PART),
    "budget": {str: float},
    "seed": int,
}
TOKENS = {
    "fingerprint": str,
    "folder": str,
    "licence?": str,
    "val_fingerprint?": str,
    "val_bytes?": (natural, None),
}
RUN = {
    "id": str,
    "identity": IDENTITY,
    "choices": {str: (str, None)},
    "overrides?": [str],
    "study?": (str, None),
    "started?": instant,
    "git?": (None, {"commit?": str}),
    "source": {str: str},
    "versions": {"torch": str, str: str},
    "chosen": {str: SCALAR},
    "hardware": {str: SCALAR},
    "data": TOKENS,
    "steps?": (natural, None),
    "branched_from?": (None, {"run": str, "step": natural}),
    "mixed": [str],
}
CONFIG = {
    "model": {"_target_": str, "max_seq_len?": positive},
    "optim": {"_target_": str, "lr_scale?": float},
    "schedule": PART,
    "data": PART,
    "train": {"batch_size": positive, "steps?": (natural, None), "tokens?": (natural, None)},
    "log?": {"every?": (natural, None)},
    "eval?": {"every?": (natural, None)},
}
METRICS = ("val_loss", "val_bits_per_byte")  # which a model has without a method `metrics`
SUMMARY = {
    "status": {"finished", "diverged"},
    "step": natural,
    "tokens": natural,
    "val_loss": (float, None),
    "val_bits_per_byte?": (float, None),
    "val_tokens?": (natural, None),
    "unigram_loss?": (float, None),
    "worse_than_unigram?": (bool, None),
    "train_time_s": amount,
    "seconds": {str: amount},
    "tokens_per_s?": (amount, None),
    "parameters": natural,
    "flops_per_token": (amount, None),
    "optimizer_flops_share?": (amount, None),
    "optimizer_state_bytes?": (amount, None),
    "mixed?": [str],
}
JOB = {
    "overrides": [str],
    "folder": (file_name, None),
    "study?": (str, None),
    "failed?": (FAILURE, None),
}
SWEEP = {"study?": (str, None), "command": [str], "jobs": [JOB]}
STATE = {  # of a checkpoint that training goes on from
    "run": str,
    "step": natural,
    "tokens": natural,
    "skipped": natural,
    "bad_in_a_row": natural,
    "norms?": [float],
    "evaluated": natural,
    "sampled": natural,
    "seconds": {str: duration},
    "final": (
        None,
        {"loss": float, "bits_per_byte": (float, None), "tokens": natural, "own?": {str: float}},
    ),
    "scaler": {str: float},
    "metrics_bytes": natural,
    "metrics_sha256?": str,  # of so many bytes
}
ROW = {"step": natural, "tokens": natural, "time_s?": amount, str: SCALAR}


def read_record(folder: Path) -> dict[str, Any] | None:
    """run.json; None if there is none.

    Raises CheckpointError if it is damaged or of another format.
    """
    path = folder / "run.json"
    value = if_there(_read_json, path)
    if value is None:
        return None
    if value.get("schema") != SCHEMA:
        raise CheckpointError(
            f"unknown run format: {path}: {_other_schema(value)} (use the minigpt that wrote it)"
        )
    return _checked(path, value, RUN)


def read_config(folder: Path) -> dict[str, Any]:
    """config.yaml. Raises UnreadableError."""
    path = folder / "config.yaml"
    return _checked(path, read_yaml(path), CONFIG)


def read_summary(folder: Path) -> dict[str, Any] | None:
    """summary.json; None before the run has ended. Raises UnreadableError if it is damaged."""
    path = folder / "summary.json"
    value = if_there(_read_json, path)
    if value is None:
        return None
    summary = _checked(path, value, SUMMARY)
    if summary["status"] == "finished" and summary["val_loss"] is None:
        raise UnreadableError(path, "finished without a val_loss")
    return summary


def summary_of(folder: Path) -> dict[str, Any] | None:
    """The same; None too if a crash left it unreadable, as if the run had not ended."""
    try:
        return read_summary(folder)
    except UnreadableError:
        return None


def read_failure(folder: Path) -> dict[str, Any] | None:
    """failed.json; None if there is none. Raises UnreadableError if it is damaged."""
    path = folder / "failed.json"
    value = if_there(_read_json, path)
    return None if value is None else _checked(path, value, FAILURE)


def read_sweep(path: Path) -> dict[str, Any]:
    """The record of a sweep. Raises UnreadableError if it is damaged or of another format."""
    value = _read_json(path)
    if value.get("schema") != SCHEMA:
        raise UnreadableError(path, _other_schema(value))
    return _checked(path, value, SWEEP)


def read_rows(path: Path) -> tuple[list[dict[str, Any]], list[int], int]:
    """The rows of a metrics file, the numbers of the lines that are none, and the length in bytes
    of a torn last line.

    Raises UnreadableError where there is no such file, or it is not one of lines.
    """
    rows, bad, torn = [], [], 0
    for number, line in enumerate(read_lines(path), 1):
        if not line.endswith(b"\n"):
            torn = len(line)
        elif (row := row_of(line)) is not None:
            rows.append(row)
        else:
            bad.append(number)
    return rows, bad, torn


def row_of(line: bytes) -> dict[str, Any] | None:
    """A line of metrics.jsonl as a row; None if it is none. (No shape allows NaN or infinity.)"""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if fault(row, ROW) is None else None


def _read_json(path: Path) -> dict[str, Any]:
    return read_json(path, BYTES)


def _checked(path: Path, value: dict[str, Any], shape: Any) -> dict[str, Any]:
    if found := fault(value, shape):
        raise UnreadableError(path, found)
    return value


def _other_schema(value: dict[str, Any]) -> str:
    return f"schema {str(value.get('schema'))[:20]}, this minigpt reads {SCHEMA}"


def worse_than_unigram(summary: dict[str, Any]) -> str | None:
    """What to say of a run that learnt less than how frequent tokens are; None of any other."""
    if not summary.get("worse_than_unigram"):
        return None
    losses = f"{summary['val_loss']:.4g} against {summary['unigram_loss']:.4g}"
    return f"worse than the unigram model of its own corpus: {losses}"
