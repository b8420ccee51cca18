"""What the files of a run, a sweep and a neighbour hold: checked once, here, so that later code can
trust the types.

A shape says what a value has to be: a type (bool is no number, an integer is a number too), a
predicate, a tuple of alternatives, a list with the shape of its items, or a mapping. A mapping's
key that ends in "?" may be missing; the key `str` stands for all keys that are not named. Keys that
no shape names may hold anything.
"""

import json
import math
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from minigpt.errors import CheckpointError
from minigpt.files.reading import NotFinite, UnreadableError, read_json, read_lines, read_yaml

SCHEMA = 1  # of run.json
BYTES = 2**23  # of one JSON record: the largest holds a diff of at most 1 MiB
MOST = 1e60  # of any number; the square of it is one still


def amount(value: Any) -> bool:
    """a number that is not negative"""
    return _is_number(value) and 0 <= value <= MOST


def duration(value: Any) -> bool:
    """seconds of less than a thousand years"""
    return amount(value) and value < 1e11


def natural(value: Any) -> bool:
    """an integer that is not negative"""
    return isinstance(value, int) and amount(value)


def positive(value: Any) -> bool:
    """a positive integer"""
    return isinstance(value, int) and amount(value) and value > 0


def file_name(value: Any) -> bool:
    """the name of a file"""
    return isinstance(value, str) and value not in ("", ".", "..") and not {"/", "\0"} & set(value)


def instant(value: Any) -> bool:
    """a time"""
    try:
        return datetime.fromisoformat(value).timestamp() > 0
    except (TypeError, ValueError, OverflowError, OSError):
        return False


def ending(value: Any) -> bool:
    """finished or diverged"""
    return value in ("finished", "diverged")


SCALAR = (str, float, bool, None)
PART = {"_target_": str}
FAILURE = {"error": str, "exit_code": natural}
RUN = {
    "id": str,
    "identity": {
        "model": PART,
        "optim": PART,
        "schedule": PART,
        "data": PART,
        "budget": {str: float},
        "seed": int,
    },
    "choices": {str: (str, None)},
    "overrides?": [str],
    "study?": (str, None),
    "started?": instant,
    "git?": (None, {"commit?": str}),
    "source": {str: str},
    "versions": {"torch": str, str: str},
    "chosen": {str: SCALAR},
    "hardware": {str: SCALAR},
    "data": {
        "fingerprint": str,
        "folder": str,
        "val_fingerprint?": str,
        "val_bytes?": (natural, None),
    },
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
    "verdict?": (
        None,
        {
            "baseline?": (str, None),
            "margin?": (amount, None),
            "tuning_seeds?": ([int], None),
            "confirmation_seeds?": ([int], None),
            "looks?": ([positive], None),
        },
    ),
}
SUMMARY = {
    "status": ending,
    "step": natural,
    "tokens": natural,
    "val_loss": (float, None),
    "val_bits_per_byte?": (float, None),
    "val_tokens?": (natural, None),
    "train_time_s": amount,
    "seconds": {str: amount},
    "tokens_per_s?": (amount, None),
    "parameters": natural,
    "flops_per_token": (amount, None),
    "optimizer_flops_share?": (amount, None),
    "optimizer_state_bytes?": (amount, None),
    "mixed?": [str],
}
SWEEP = {
    "study?": (str, None),
    "command": [str],
    "jobs": [
        {
            "overrides": [str],
            "folder": (file_name, None),
            "study?": (str, None),
            "failed?": (FAILURE, None),
        }
    ],
}
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
    "final": (None, {"loss": float, "bits_per_byte": (float, None), "tokens": natural}),
    "scaler": {str: float},
    "metrics_bytes": natural,
    "metrics_sha256?": str,  # of so many bytes
}
ROW = {"step": natural, "tokens": natural, "time_s?": amount, str: SCALAR}


def fault(value: Any, shape: Any, where: str = "it") -> str | None:
    """What is wrong with a value, in a few words; None if it has the shape."""
    if isinstance(shape, tuple):
        faults = [fault(value, one, where) for one in shape]
        return None if None in faults else max((f for f in faults if f is not None), key=len)
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{where} is not a list"
        return next(
            (f for item in value if (f := fault(item, shape[0], f"an item of {where}"))), None
        )
    if isinstance(shape, dict):
        return _fault_of_mapping(value, shape, where)
    if shape is None:
        return None if value is None else f"{where} is not null"
    if not isinstance(shape, type):
        return None if shape(value) else f"{where} is not {shape.__doc__}"
    fits = _is_number(value) if shape is float else isinstance(value, shape)
    if shape is int and isinstance(value, bool):
        fits = False
    words = {
        str: "text",
        int: "an integer",
        float: "a number",
        bool: "true or false",
        dict: "a mapping",
    }
    return None if fits else f"{where} is not {words[shape]}"


def _fault_of_mapping(value: Any, shape: dict[Any, Any], where: str) -> str | None:
    if not isinstance(value, dict):
        return f"{where} is not a mapping"
    below = "" if where == "it" else f"{where}."
    named = {key.rstrip("?") for key in shape if key is not str}
    for key, inner in shape.items():
        if key is str:
            rest = ((k, v) for k, v in value.items() if k not in named)
            found = next((f for k, v in rest if (f := fault(v, inner, f"{below}{k}"))), None)
        elif key.rstrip("?") in value:
            found = fault(value[key.rstrip("?")], inner, f"{below}{key.rstrip('?')}")
        else:
            found = None if key.endswith("?") else f"{below}{key} is missing"
        if found:
            return found
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST


def _checked(path: Path, value: dict[str, Any], shape: Any) -> dict[str, Any]:
    if found := fault(value, shape):
        raise UnreadableError(path, found)
    return value


def read_record(folder: Path) -> dict[str, Any] | None:
    """run.json; None if there is none. Raises CheckpointError if it is damaged or of another
    format.
    """
    path = folder / "run.json"
    try:
        value = read_json(path, BYTES)
    except UnreadableError as error:
        if error.missing:
            return None
        raise
    if value.get("schema") != SCHEMA:
        raise CheckpointError(
            f"unknown run format: {path}: {_other_schema(value)} (use the minigpt that wrote it)"
        )
    return _checked(path, value, RUN)


def _other_schema(value: dict[str, Any]) -> str:
    return f"schema {str(value.get('schema'))[:20]}, this minigpt reads {SCHEMA}"


def read_config(folder: Path) -> dict[str, Any]:
    """config.yaml. Raises UnreadableError."""
    path = folder / "config.yaml"
    return _checked(path, read_yaml(path), CONFIG)


def read_summary(folder: Path) -> dict[str, Any] | None:
    """summary.json; None before the run has ended. Raises UnreadableError if it is damaged."""
    summary = _if_there(folder / "summary.json", SUMMARY)
    if summary is not None and summary["status"] == "finished" and summary["val_loss"] is None:
        raise UnreadableError(folder / "summary.json", "finished without a val_loss")
    return summary


def read_failure(folder: Path) -> dict[str, Any] | None:
    """failed.json; None if there is none. Raises UnreadableError if it is damaged."""
    return _if_there(folder / "failed.json", FAILURE)


def _if_there(path: Path, shape: Any) -> dict[str, Any] | None:
    try:
        return _checked(path, read_json(path, BYTES), shape)
    except UnreadableError as error:
        if error.missing:
            return None
        raise


def read_sweep(path: Path) -> dict[str, Any]:
    """The record of a sweep. Raises UnreadableError if it is damaged or of another format."""
    value = read_json(path, BYTES)
    if value.get("schema") != SCHEMA:
        raise UnreadableError(path, _other_schema(value))
    return _checked(path, value, SWEEP)


def read_rows(path: Path) -> tuple[list[dict[str, Any]], list[int], int]:
    """The rows of a metrics file, the numbers of the lines that are none, and the length of a torn
    last line.

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
    """A line of metrics.jsonl as a row; None if it is none."""
    try:
        row = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    return row if _finite(row) and fault(row, ROW) is None else None


def _finite(row: Any) -> bool:
    values: Iterable[Any] = row.values() if isinstance(row, dict) else ()
    return all(math.isfinite(value) for value in values if isinstance(value, float))


def _no_constant(name: str) -> None:
    raise NotFinite(name)
