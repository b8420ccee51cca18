"""Run folders as plain values: what a run was asked to do, what was chosen for it, what it came to.

Reads run.json, config.yaml, summary.json, failed.json and metrics.jsonl, and writes nothing.
"""

import math
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from minigpt import durable, records
from minigpt.config import identity
from minigpt.errors import CheckpointError, ConfigError
from minigpt.reading import UnreadableError
from minigpt.roles import scaled_lr
from minigpt.run.source_digest import changed_modules
from minigpt.study.record import Place, id_in, places_in
from minigpt.terminal import did_you_mean, escape_line

NO_RUNS_INSIDE = {"checkpoints", "tokens", "tokenizer", "debug", "sweeps", "wandb"}
LEARNING_RATE = re.compile(r"optim\.\w+\.lr")  # each role's


@dataclass(frozen=True, eq=False)
class Run:
    """One run folder.

    record: run.json.  config: config.yaml.  summary: summary.json, None before the end.  failure:
        failed.json.
    running: another process holds the folder's lock.  places: where it stands in the records of
        sweeps.
    """

    folder: Path
    record: dict[str, Any]
    config: dict[str, Any]
    summary: dict[str, Any] | None = None
    failure: dict[str, Any] | None = None
    running: bool = False
    places: tuple[Place, ...] = ()

    @property
    def name(self) -> str:
        return self.folder.name

    @cached_property
    def status(self) -> str:
        """finished, diverged, running, failed or unfinished."""
        if self.summary is not None:
            return str(self.summary["status"])
        if self.running:
            return "running"
        return "unfinished" if self.failure is None else "failed"

    @cached_property
    def flat_identity(self) -> dict[str, Any]:
        """What decides the result, as dotted keys; arguments equal to their default are left
        out.
        """
        return identity.flatten(self.record["identity"])

    @cached_property
    def flat_config(self) -> dict[str, Any]:
        return identity.flatten(self.config)

    @property
    def seed(self) -> int:
        return int(self.record["identity"]["seed"])

    @property
    def studies(self) -> list[str]:
        """The studies that it belongs to: the one that it was begun for comes first."""
        all_of_them = (self.record.get("study"), *(place.study for place in self.places))
        return list(dict.fromkeys(study for study in all_of_them if study is not None))

    @cached_property
    def changed_code(self) -> list[str]:
        """Modules that computed it and have changed since."""
        return changed_modules(self.record)

    @cached_property
    def tokens_per_step(self) -> int:
        seq_len = identity.argument(self.config["model"], "max_seq_len")
        return int(self.config["train"]["batch_size"]) * int(seq_len)

    @cached_property
    def horizon(self) -> int | None:
        """The budget in tokens as it was asked for; None if only the corpus knows (epochs, before
        the end).
        """
        train, steps = self.config["train"], self.record.get("steps")
        if train.get("tokens") is not None:
            return int(train["tokens"])
        if (steps := train.get("steps") or steps) is not None:
            return int(steps) * self.tokens_per_step
        return (
            int(self.summary["tokens"])
            if self.summary is not None and self.status == "finished"
            else None
        )

    def loss(self, metric: str) -> float | None:
        """The final validation loss; infinite for a diverged run, None for one that has not
        ended.
        """
        if self.status == "diverged":
            return math.inf
        if self.summary is None or self.summary.get(metric) is None:
            return None
        return float(self.summary[metric])

    @property
    def step_time_s(self) -> float | None:
        """Median seconds of a training step, from the median rate of tokens."""
        rate = (self.summary or {}).get("tokens_per_s")
        return self.tokens_per_step / rate if rate else None

    @property
    def own_share(self) -> float:
        """The part of its steps that it trained itself: a branched run took its first ones over
        from another run.
        """
        origin, steps = self.record.get("branched_from"), (self.summary or {}).get("step")
        return 1 - origin["step"] / steps if origin and steps else 1.0

    @property
    def spent_s(self) -> float:
        """Seconds of training that this run took itself."""
        return self.own_share * float((self.summary or {}).get("train_time_s") or 0.0)

    @cached_property
    def interval_s(self) -> tuple[float, float] | None:
        """When it ran, as seconds since 1970: from its first start, for as long as its parts took
        together.
        """
        if "started" not in self.record:
            return None
        begin = datetime.fromisoformat(self.record["started"]).timestamp()
        return begin, begin + self.own_share * sum((self.summary or {}).get("seconds", {}).values())

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """metrics.jsonl; what cannot be read of it is left out, with a warning."""
        try:
            rows, bad, _ = records.read_rows(self.folder / "metrics.jsonl")
        except UnreadableError as error:
            rows, bad = [], []
            if not error.missing:
                print(escape_line(f"warning: {error.path}: {error.why}: left out"), file=sys.stderr)
        if bad:
            print(
                escape_line(f"warning: {self.name}: {len(bad)} lines of metrics.jsonl left out"),
                file=sys.stderr,
            )
        return rows

    def value(self, key: str) -> Any:
        """A group's choice (`optim`, `data/tokenizer`), else what is configured, identified or
        chosen under this key.

        Raises KeyError if there is no such key.
        """
        choices = self.record["choices"]
        stand_in = next(
            (choice for name, choice in choices.items() if name.startswith(f"{key}@stand_in")), None
        )
        if stand_in is not None or key in choices:
            return stand_in or choices[key]
        if LEARNING_RATE.fullmatch(key) and self.decided(key) is not None:
            return self.decided(key)
        for flat in (
            self.flat_config,
            self.flat_identity,
            identity.flatten({"chosen": self.record["chosen"]}),
        ):
            if key in flat:
                return flat[key]
            if (target := flat.get(f"{key}._target_")) is not None:
                return str(target).rpartition(".")[2]
        raise KeyError(key)

    def decided(self, key: str) -> Any:
        """The value of a key of the identity, also where it was left out for being the
        constructor's default.

        A learning rate comes with lr_scale multiplied in. None where nothing is configured either.
        """
        if key in self.flat_identity:
            return self.flat_identity[key]
        value = self.flat_config.get(key)
        if LEARNING_RATE.fullmatch(key) and isinstance(value, int | float):
            return scaled_lr(value, self.flat_config.get("optim.lr_scale", 1.0))
        return value

    def keys(self) -> set[str]:
        """Every key that `value` knows."""
        return {*self.record["choices"], *self.flat_config, *self.flat_identity}


@dataclass
class Found:
    """All runs under some paths, and the folders that could not be read, with the reason."""

    runs: list[Run] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def find(paths: Iterable[Path]) -> Found:
    """Every run below the paths; debug runs and what lies inside run folders only if a path names
    them.

    Raises ConfigError for a path that does not exist, or if there is no run at all.
    """
    found, seen = Found(), set()
    places: dict[Path, dict[str, list[Place]]] = {}
    paths = list(paths)
    for path in paths:
        if not path.is_dir():
            raise ConfigError(
                f"no such folder: {path} (give run folders, or folders of runs such as outputs)"
            )
        for folder in run_folders(path):
            if folder.resolve() in seen:
                continue
            seen.add(folder.resolve())
            try:
                if folder.parent not in places:
                    places[folder.parent] = places_in(folder.parent)
                found.runs.append(read(folder, places[folder.parent]))
            except CheckpointError as error:
                found.unreadable.append(why_unreadable(error))
    found.runs.sort(key=lambda run: (str(run.record.get("started")), run.name))
    if not found.runs and not found.unreadable:
        shown = ", ".join(str(path) for path in paths)
        raise ConfigError(
            f"no runs: {shown} (a run folder holds run.json; train some first, e.g. python train.py)"
        )
    return found


def run_folders(path: Path) -> list[Path]:
    """The run folders at or below a path, sorted."""
    folders = []
    for root, inside, files in os.walk(path):
        if "run.json" in (*files, *inside):
            folders.append(Path(root))
            inside.clear()
        else:
            inside[:] = sorted(
                name for name in inside if name not in NO_RUNS_INSIDE and not name.startswith(".")
            )
    return sorted(folders)


def why_unreadable(error: CheckpointError) -> str:
    """`<folder>/<file>: <a few words>`."""
    if isinstance(error, UnreadableError):
        return f"{error.path.parent.name}/{error.path.name}: {error.why}"
    return str(error)


def read(folder: Path, places: Mapping[str, Sequence[Place]] = MappingProxyType({})) -> Run:
    """One run. places: of the runs beside it, by id. Raises CheckpointError if the folder does not
    hold a whole run."""
    record = records.read_record(folder)
    if record is None:
        raise UnreadableError(folder / "run.json", "no such file", missing=True)
    summary = records.read_summary(folder)
    failure, running = (
        records.read_failure(folder),
        summary is None and durable.lock_is_held(folder),
    )
    own = tuple(places.get(id_in(folder.name), ()))
    run = Run(folder, record, records.read_config(folder), summary, failure, running, own)
    try:
        if run.tokens_per_step < 1:
            raise ValueError("not positive")
    except (ImportError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnreadableError(folder / "config.yaml", f"no max_seq_len: {error}") from None
    return run


def select(runs: list[Run], study: str | None, where: list[str]) -> list[Run]:
    """The runs of a study for which every `key=value` holds. Raises ConfigError for a key that no
    run knows, and if no run is left."""
    if study is not None:
        known = sorted({name for run in runs for name in run.studies})
        runs = [run for run in runs if study in run.studies]
        if not runs:
            raise ConfigError(
                f"no runs of this study: --study {study} (there are: {', '.join(known) or 'none'})"
            )
    for condition in where:
        key, equals, value = condition.partition("=")
        if not equals:
            raise ConfigError(f"unreadable condition: --where {condition} (write key=value)")
        if key == "study":  # a run may belong to several
            runs = select(runs, value, [])
            continue
        if not any(_has(run, key) for run in runs):
            raise ConfigError(f"unknown key: --where {condition} {hint(key, runs)}")
        values = sorted({show(run.value(key)) for run in runs if _has(run, key)})
        runs = [run for run in runs if _has(run, key) and same(run.value(key), value)]
        if not runs:
            shown = ", ".join(values[:10]) + (", ..." if len(values) > 10 else "")
            raise ConfigError(f"no run matches: --where {condition} (there are: {shown})")
    return runs


def hint(key: str, runs: list[Run]) -> str:
    """`(did you mean x?)` among the keys that the runs know."""
    known = set().union(*(run.keys() for run in runs))
    otherwise = "(give a group such as optim, or a key of config.yaml)"
    return did_you_mean(key, known, otherwise=otherwise)


def _has(run: Run, key: str) -> bool:
    try:
        run.value(key)
    except KeyError:
        return False
    return True


def same(value: Any, text: str) -> bool:
    """Whether a value reads like what was typed: 0.01 is 1e-2, True is true, None is null."""
    try:
        return not isinstance(value, bool) and float(value) == float(text)
    except (TypeError, ValueError):
        return show(value).lower() == text.lower()


def show(value: Any) -> str:
    """A value as it would be typed, in a line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else escape_line(str(value))
