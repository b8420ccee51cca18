"""Runs as rows: what each was, how far it came, what it reached. Reads no YAML unless asked."""

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from minigpt.config.schema import key_of
from minigpt.errors import CheckpointError, ConfigError
from minigpt.files import records
from minigpt.files.reading import UnreadableError
from minigpt.study.find import read_run, run_folders, why_unreadable
from minigpt.study.outcome import own_overrides
from minigpt.study.record import places_in
from minigpt.study.run import Run
from minigpt.study.select import key_hint, select
from minigpt.study.values import same
from minigpt.terminal import duration

Row = dict[str, Any]
SHOWN = ("differs", "study", "step", "status", "val_loss", "bits_per_byte", "tokens_per_s", "age")


def list_runs(paths: Sequence[Path], where: Sequence[str], sort: str | None) -> list[Row]:
    """A row for each run below the paths that meets all of `where`, the oldest first.

    A folder that cannot be read has a row that says why. sort: a column or key, `-` before it for
    the reverse. Raises ConfigError for a path that is no folder, a key that no run has, or if
    nothing is left.
    """
    if missing := [str(path) for path in paths if not path.is_dir()]:
        raise ConfigError(f"no such folder: {', '.join(missing)} (give run folders, or outputs)")
    folders = dict.fromkeys(folder.resolve() for path in paths for folder in run_folders(path))
    runs, bad = _read(folders)
    columns = {run: row_of(run) for run in runs}
    for condition in where:
        key, equals, value = condition.partition("=")
        if equals and key != "study" and key in next(iter(columns.values()), {}):
            runs = [run for run in runs if same(columns[run][key], value)]
        else:
            runs = select(_with_key(runs, key), None, [condition])
            columns = {run: row_of(run) for run in runs}
    asked = [] if where else bad
    if not runs and not asked:
        raise ConfigError(f"no runs: {', '.join(map(str, paths))} {' '.join(where)} (train some)")
    for run, own in zip(runs, own_overrides([_decisive(run) for run in runs])):
        columns[run]["differs"] = " ".join(own)
    rows = [columns[run] for run in sorted(runs, key=lambda run: run.age)]
    return _sorted(rows, runs, sort) + asked


def row_of(run: Run) -> Row:
    """A run as plain values."""
    summary, started = run.summary or {}, run.record.get("started")
    return {
        "run": run.name,
        "differs": "",
        "study": "; ".join(run.studies),
        "status": run.status,
        "step": summary.get("step", _last_step(run)),
        "steps": run.record.get("steps"),
        "val_loss": summary.get("val_loss"),
        "bits_per_byte": summary.get("val_bits_per_byte"),
        "worse_than_unigram": bool(summary.get("worse_than_unigram")),
        "tokens_per_s": summary.get("tokens_per_s"),
        "started": started,
        "age_s": None if started is None else _seconds_since(started),
        "folder": str(run.folder),
        "error": (run.failure or {}).get("error"),
    }


def cells(row: Row) -> tuple[str, ...]:
    """A row for a terminal, in the order of SHOWN, and the name of its folder."""
    step = "" if row.get("step") is None else f"{row['step']:,}"
    if row.get("status") != "finished" and row.get("steps"):
        step += f" of {row['steps']:,}"
    age, rate = row.get("age_s"), row.get("tokens_per_s")
    status = row["status"] + " (worse than unigram)" * row.get("worse_than_unigram", False)
    return (
        row.get("differs", ""),
        row.get("study", ""),
        step,
        status,
        *("" if (x := row.get(k)) is None else f"{x:.4f}" for k in ("val_loss", "bits_per_byte")),
        "" if rate is None else f"{rate:,.0f}",
        "" if age is None else duration(age),
        row["run"] + f": {row['error']}" * (status == "unreadable"),
    )


def _read(folders: Iterable[Path]) -> tuple[list[Run], list[Row]]:
    """The runs, without their config.yaml, and a row for each folder that holds no readable one."""
    runs, bad, places = [], [], cache(places_in)
    for folder in folders:
        try:
            runs.append(read_run(folder, places(folder.parent), with_config=False))
        except CheckpointError as error:
            if isinstance(error, UnreadableError) and error.missing:  # gone since, or no file
                continue
            words = why_unreadable(error).removeprefix(f"{folder.name}/")
            why = {"status": "unreadable", "error": words}
            bad.append({"run": folder.name, "folder": str(folder), **why})
    return runs, bad


def _with_key(runs: list[Run], key: str) -> list[Run]:
    """The same runs; with their config.yaml if only that knows the key."""
    if key == "study" or all(run.has(key) for run in runs):
        return runs
    found = []
    for run in runs:
        try:
            config = records.read_config(run.folder)
        except CheckpointError:
            config = {}
        found.append(dataclasses.replace(run, config=config))
    return found


def _decisive(run: Run) -> list[str]:
    """What was typed for a run that decides its result; of a key typed twice the last."""
    typed = {text.lstrip("+~").partition("=")[0]: text for text in run.record.get("overrides", [])}
    return [text for key, text in typed.items() if key_of(key).effect == "result"]


def _sorted(rows: list[Row], runs: list[Run], sort: str | None) -> list[Row]:
    """By a column or key, rows without a value last."""
    if sort is None:
        return rows
    key = sort.removeprefix("-")
    if rows and key in rows[0]:
        values = {row["folder"]: row[key] for row in rows}
    else:
        runs = _with_key(runs, key)
        values = {str(run.folder): run.value(key) for run in runs if run.has(key)}
        if not values:
            raise ConfigError(f"unknown key: --sort {sort} {key_hint(key, runs)}")
    has = [row for row in rows if values.get(row["folder"]) is not None]
    order = sorted(has, key=lambda row: _order(values[row["folder"]]), reverse=sort != key)
    return order + [row for row in rows if values.get(row["folder"]) is None]


def _order(value: Any) -> tuple[bool, Any]:
    number = isinstance(value, int | float)
    return not number, value if number else json.dumps(value, default=str)


def _last_step(run: Run) -> int | None:
    """Of a run that has not ended."""
    rows = run.rows if os.path.lexists(run.folder / "metrics.jsonl") else []
    return rows[-1]["step"] if rows else None


def _seconds_since(started: str) -> float:
    begin = datetime.fromisoformat(started)
    return (datetime.now(UTC) - begin.astimezone(UTC)).total_seconds()
