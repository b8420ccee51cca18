"""Records of sweeps: which runs were asked for under which study.

<output_dir>/sweeps/<study or "sweep">-<hash of the command>.json
    {"schema": 1, "study": null, "command": ["-m", ...], "jobs": [
        {"overrides": ["seed=0"], "folder": "tiny-muon-s0-0123abcd", "study": null}, ...]}

`folder`    name of the job's run folder, which ends in the run's id; null until it is composed
`failed`    why a job left no run, as in failed.json

A study holds the runs of its records and those whose run.json names it, so a run may belong to
several. A run begun under one study and asked for again under another, without a sweep, gets a
record whose command is that study alone.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigpt.config import identity
from minigpt.errors import CheckpointError, StorageError
from minigpt.files import durable, records
from minigpt.files.lock import FolderLock
from minigpt.files.reading import UnreadableError, if_there


@dataclass(frozen=True)
class Place:
    """Where a run stands in a record."""

    record: Path
    number: int  # of its job, in the order in which they were typed
    study: str | None


def id_in(folder: str) -> str:
    """The id of a run, from the name of its folder."""
    return folder.rpartition("-")[2]


def folder_of(output: Path, name: str) -> Path:
    """The folder of the run that a record names.

    The id identifies it: the words before it may have been typed in another order.
    """
    if not (output / name / "run.json").is_file():
        for other in sorted(output.glob(f"*-{id_in(name)}/run.json")):
            return other.parent
    return output / name


def read_sweep(path: Path) -> dict[str, Any]:
    """One record, with `study` and `failed` of each job, None where not noted.

    Raises UnreadableError.
    """
    content = {"study": None} | records.read_sweep(path)
    unnoted = {"study": content["study"], "failed": None}
    return content | {"jobs": [unnoted | job for job in content["jobs"]]}


def sweeps_in(output: Path) -> list[Path]:
    """The files of all records of a folder of runs."""
    return sorted(output.glob("sweeps/*.json"))


def places_in(output: Path) -> dict[str, list[Place]]:
    """Run id -> its places in the records of a folder of runs. Unreadable records hold none."""
    found: dict[str, list[Place]] = {}
    for path in sweeps_in(output):
        try:
            jobs = read_sweep(path)["jobs"]
        except UnreadableError:
            continue
        for number, job in enumerate(jobs):
            if job["folder"] is not None:
                place = Place(path, number, job["study"])
                found.setdefault(id_in(job["folder"]), []).append(place)
    return found


def missing_in(output: Path, folders: Sequence[Path]) -> dict[str, str | None]:
    """Folders that the records of `output` name and that are none of these -> the study of each.

    Such a run waits, or was deleted. One that failed before it began is told elsewhere.
    """
    there = {id_in(folder.name) for folder in folders if folder.parent == output}
    found: dict[str, str | None] = {}
    for path in sweeps_in(output):
        with suppress(UnreadableError):
            for job in read_sweep(path)["jobs"]:
                if job["folder"] and not job["failed"] and id_in(job["folder"]) not in there:
                    found[job["folder"]] = job["study"]
    return found


def path_of(output: Path, study: str | None, command: list[str]) -> Path:
    """Where the record of a command lives."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", study or "sweep")
    return output / "sweeps" / f"{name}-{identity.short_hash({'command': command})}.json"


@contextmanager
def changing(path: Path, study: str | None, command: list[str]) -> Iterator[list[dict[str, Any]]]:
    """The jobs of a record, to be changed in place; written afterwards. Other processes wait.

    Raises OSError if that cannot be done; on a file system without locks no run could be trained
    either.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FolderLock(path.parent, "the records of sweeps").acquire(wait=True):
        jobs = _own_jobs(path, command)
        yield jobs
        content = {"schema": records.SCHEMA, "study": study, "command": command, "jobs": jobs}
        durable.write_atomic(path, durable.json_bytes(content))


def _own_jobs(path: Path, command: list[str]) -> list[dict[str, Any]]:
    """The jobs noted so far. Raises StorageError if the file is not a record of this command."""
    try:
        record = if_there(records.read_sweep, path)
    except UnreadableError as error:
        raise StorageError(f"not a record of sweeps: {path}: {error.why} (move it away)") from None
    if record is None:
        return []
    if record["command"] != command:
        raise StorageError(
            f"another record: {path}: of {record['command']}, expected {command} (move it away)"
        )
    jobs: list[dict[str, Any]] = record["jobs"]
    return jobs


def join(folder: Path, study: str | None, overrides: list[str]) -> None:
    """Let a run that has begun under another study, or none, belong to this one too.

    Its own files stay as they are. Raises OSError if that cannot be noted.
    """
    try:
        begun = records.read_record(folder)
    except CheckpointError:
        return
    if begun is None:
        return  # a new run will have its study in run.json
    known = {place.study for place in places_in(folder.parent).get(id_in(folder.name), [])}
    if study in (None, begun.get("study"), *known):
        return
    command = [f"study={study}"]
    with changing(path_of(folder.parent, study, command), study, command) as jobs:
        jobs.append({"overrides": overrides, "folder": folder.name, "study": study})
