"""Finds run folders below paths and reads them. Writes nothing."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType

from minigpt.errors import CheckpointError, ConfigError
from minigpt.files import records
from minigpt.files.lock import lock_is_held
from minigpt.files.reading import UnreadableError
from minigpt.study.record import Place, id_in, missing_in, places_in
from minigpt.study.run import Run

NO_RUNS_INSIDE = {"checkpoints", "tokens", "tokenizer", "debug", "sweeps", "code", "wandb"}


@dataclass
class Found:
    runs: list[Run] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)  # `<folder>/<file>: <why>`
    missing: dict[str, str | None] = field(default_factory=dict)  # recorded, not there -> study


def find(paths: Sequence[Path]) -> Found:
    """Every run below the paths, by the time of its start.

    Debug runs, and what lies inside run folders, are found only if a path names them.
    Raises ConfigError for a path that does not exist, or if there is no run at all.
    """
    found = Found()
    folders: dict[Path, Path] = {}  # a link, or an overlapping path, may lead to one once more
    for path in paths:
        if not path.is_dir():
            raise ConfigError(
                f"no such folder: {path} (give run folders, or folders of runs such as outputs)"
            )
        inside = run_folders(path)
        folders = {folder.resolve(): folder for folder in inside} | folders
        for output in {path, *(folder.parent for folder in inside if folder != path)}:
            found.missing |= missing_in(output, inside)
    places = cache(places_in)
    for folder in folders.values():
        try:
            found.runs.append(read_run(folder, places(folder.parent)))
        except CheckpointError as error:
            found.unreadable.append(why_unreadable(error))
    found.runs.sort(key=lambda run: run.age)
    if not found.runs and not found.unreadable:
        raise ConfigError(
            f"no runs: {', '.join(map(str, paths))} "
            "(a run folder holds run.json; train some first, e.g. python train.py)"
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
            inside[:] = [n for n in inside if n not in NO_RUNS_INSIDE and not n.startswith(".")]
    return sorted(folders)


def read_run(
    folder: Path,
    places: Mapping[str, Sequence[Place]] = MappingProxyType({}),
    with_config: bool = True,
) -> Run:
    """One run. places: of the runs beside it, by id. with_config: whether config.yaml is read.

    Raises CheckpointError if the folder does not hold a whole run.
    """
    record = records.read_record(folder)
    if record is None:
        raise UnreadableError(folder / "run.json", "no such file", missing=True)
    summary = records.read_summary(folder)
    run = Run(
        folder,
        record,
        failure=records.read_failure(folder),
        running=summary is None and lock_is_held(folder),
        config=records.read_config(folder) if with_config else {},
        summary=summary,
        places=tuple(places.get(id_in(folder.name), ())),
    )
    try:
        if with_config and run.tokens_per_step < 1:
            raise ValueError("not positive")
    except (ImportError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnreadableError(folder / "config.yaml", f"no max_seq_len: {error}") from None
    return run


def why_unreadable(error: CheckpointError) -> str:
    """`<folder>/<file>: <a few words>`."""
    if isinstance(error, UnreadableError):
        return f"{error.path.parent.name}/{error.path.name}: {error.why}"
    return str(error)
