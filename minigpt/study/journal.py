"""The folder of a declared study: what was declared, and what was decided since.

<output_dir>/studies/<study>/
    declaration.yaml   the declaration, its SHA-256, when it was made, its amendments
    journal.jsonl      a decision a line: edges extended, settings chosen, looks taken
    runs.json          which folder each run of the declaration is in
    report/            written at each look

Decisions follow from the results of runs. A study that was killed takes them again, and they must
come out as they are written here.
"""

import json
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from minigpt.config.identity import flatten
from minigpt.errors import CheckpointError, ConfigError, StorageError
from minigpt.files import durable
from minigpt.files.lock import FolderLock
from minigpt.files.reading import UnreadableError, if_there, json_object, read_bytes, read_json
from minigpt.files.shape import fault, file_name, natural
from minigpt.study.declaration import Declaration
from minigpt.study.declaration_file import (
    DECLARATION,
    LOOK,
    SCHEMA,
    digest,
    read_declaration,
    study_folder,
)

JOURNAL, RUNS = "journal.jsonl", "runs.json"
VALUE = (str, float, bool, None)
SEARCHED = {"arm": str, "cell": str}
ENTRIES = {  # by what is decided
    "amendment": {},
    "extend": SEARCHED | {"number": natural, "key": str, "value": VALUE},
    "edge": SEARCHED | {"number": natural, "key": str, "value": VALUE, "why": str},
    "choose": SEARCHED | {"setting": (None, {str: VALUE}), "trials": natural},
    "look": LOOK,
}
WORDS = ("time", "why")  # which decide nothing
FOLDERS = {"runs": {str: file_name}}
IMPOSSIBLE = "impossible"  # instead of a folder: its configuration cannot work


def read_decisions(folder: Path) -> dict[str, dict[str, Any]]:
    """The decisions since the last amendment, by what is decided. A torn last line is none.

    Raises StorageError for what is no file, CheckpointError for a damaged one.
    """
    return _decisions(folder)[-1]


def _decisions(folder: Path) -> list[dict[str, dict[str, Any]]]:
    """The same before the first amendment, before the second, ..., after the last."""
    path = folder / JOURNAL
    known: list[dict[str, dict[str, Any]]] = [{}]
    for number, line in enumerate(_whole_lines(path), 1):
        try:
            entry = json_object(line)
            if wrong := fault(entry, ENTRIES[entry["what"]]):
                raise ValueError(wrong)
            if entry["what"] == "amendment":
                known.append({})
            else:
                known[-1][_key(entry)] = entry
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"damaged journal: {path}: line {number}: {error} "
                "(restore it, or move the study's folder away)"
            ) from None
    return known


def _whole_lines(path: Path) -> list[bytes]:
    try:
        content = if_there(read_bytes, path) or b""
    except UnreadableError as error:
        raise StorageError(f"not a journal: {path}: {error.why} (move it away)") from None
    return content[: content.rfind(b"\n") + 1].splitlines()


def refuse_another(folder: Path, known: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    """Whether a decision is known. Raises CheckpointError if it was taken otherwise: then a result
    has changed.
    """
    entry = json_object(json.dumps(dict(entry)).encode())
    if _key(entry) not in known:
        return False
    before, entry = (
        {key: value for key, value in one.items() if key not in WORDS}
        for one in (known[_key(entry)], entry)
    )
    if before != entry:
        found = differences(flatten(before), flatten(entry))
        raise CheckpointError(
            f"decided otherwise before: {folder / JOURNAL}: {_key(entry)}: {'; '.join(found)} "
            "(results of its runs, or minigpt's rules of judging, have changed: restore them, or "
            "another study=)"
        )
    return True


def read_folders(folder: Path) -> dict[str, str]:
    """The folder of each run, by what one would type for it. Raises UnreadableError if damaged."""
    path = folder / RUNS
    content = if_there(read_json, path)
    if content is None:
        return {}
    schema = content.get("schema")
    if wrong := fault(content, FOLDERS) if schema == SCHEMA else f"schema {schema}":
        raise UnreadableError(path, wrong)
    runs: dict[str, str] = content["runs"]
    return runs


class Journal:
    """Exclusive use of a study's folder, from `with Journal(...) as journal:` to its end.

    base: what else decides the runs of the study, as the identity of one of them.
    Raises ConfigError if another declaration was made under this name and why it is changed is not
    said, BusyError if another process conducts the study, StorageError if it cannot be written.
    """

    def __init__(self, output: Path, declaration: Declaration, base: dict[str, Any]) -> None:
        self.folder = study_folder(output, declaration.study)
        self.declaration, self.base = declaration, base
        self.content: dict[str, Any] = {}  # of the file that holds the declaration
        self._known: dict[str, dict[str, Any]] = {}  # by what is decided
        self._path = self.folder / JOURNAL

    def __enter__(self) -> "Journal":
        self.changes()  # refuse before anything is written
        with durable.writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(self.folder, "study").acquire()
            try:
                names = "|".join(map(re.escape, (DECLARATION, RUNS)))
                durable.remove_leftovers(self.folder, names)
                self._read()
                self._declare()
            except BaseException:
                self._lock.release()
                raise
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def changes(self) -> list[str]:
        """What differs from the declaration that was made before: `verdict.margin: 0.01 -> 0.02`.

        Raises ConfigError for a change without verdict.amend.
        """
        known = read_declaration(self.folder)
        if known is None:
            return []
        before, content = known
        if before.study != self.declaration.study:
            raise ConfigError(
                f"another study: {self.folder}: of {before.study!r} (choose another study=)"
            )
        # an arm that came or went says all by its name
        odd = {*before.arms} ^ {*self.declaration.arms}
        decides = (
            flatten(declaration.node | {"amend": None}, "verdict")
            | flatten({k: v for k, v in base.items() if k.partition(" in ")[0] not in odd}, "run")
            for declaration, base in ((before, content["base"]), (self.declaration, self.base))
        )
        found = differences(*decides)
        if found and not self.declaration.node["amend"]:
            raise ConfigError(
                f"declared otherwise: {self.folder / DECLARATION}: {'; '.join(found)} "
                '(another study=, or verdict.amend="why", which the report shows)'
            )
        return found

    def _declare(self) -> None:
        known, changed = read_declaration(self.folder), self.changes()
        if known is not None and not changed:
            self.content = known[1]
            return
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.content = {
            "schema": SCHEMA,
            "study": self.declaration.study,
            "sha256": "",
            "declared": known[1]["declared"] if known else now,
            "verdict": self.declaration.node | {"amend": None},
            "base": self.base,
            "amendments": known[1]["amendments"] if known else [],
        }
        if known is not None:
            # noted first: a kill between both leaves an amendment that is made again
            amendment = self._amendment(*known, changed)
            self.note({"what": "amendment", **amendment})
            self.content["amendments"].append(amendment | {"time": now})
            self._known = {}
        self.content["sha256"] = digest(self.content)
        text = yaml.safe_dump(self.content, sort_keys=False, allow_unicode=True)
        durable.write_atomic(self.folder / DECLARATION, text.encode())

    def _amendment(
        self, before: Declaration, content: dict[str, Any], changed: list[str]
    ) -> dict[str, Any]:
        """What is noted of a change: also what was read before it, which it may answer to."""
        since = _decisions(self.folder)[len(content["amendments"]) :]
        decisions = [entry for known in since for entry in known.values()]
        looks = [entry for entry in decisions if entry["what"] == "look"]
        return {
            "why": self.declaration.node["amend"],
            "changes": changed,
            "before": content["sha256"],
            "after_decisions": len(decisions),
            "declared_looks": list(before.looks),
            "looks": [{key: look[key] for key in LOOK} for look in looks],
        }

    def _read(self) -> None:
        """The decisions since the last amendment; a torn last line goes.

        Raises CheckpointError for decisions without a declaration.
        """
        self._known = read_decisions(self.folder)
        whole = sum(len(line) + 1 for line in _whole_lines(self._path))
        if os.path.lexists(self._path) and os.path.getsize(self._path) > whole:
            os.truncate(self._path, whole)
        if whole and not os.path.lexists(self.folder / DECLARATION):
            raise CheckpointError(
                f"missing declaration: {self.folder / DECLARATION}: {JOURNAL} beside it holds "
                "decisions (restore it, or move the study's folder away)"
            )

    def note(self, entry: Mapping[str, Any]) -> None:
        """Write a decision, unless it is known.

        Raises CheckpointError if it was decided otherwise before: then a result has changed;
        StorageError or BusyError if the folder is gone, or conducted by another process by now.
        """
        self._lock.check()
        if refuse_another(self.folder, self._known, entry):
            return
        line = json.dumps({**entry, "time": datetime.now(UTC).isoformat(timespec="seconds")})
        with durable.writing(self._path):
            durable.append_line(self._path, line)
        self._known[_key(entry)] = json_object(line.encode())

    def note_folders(self, folders: Mapping[str, str]) -> None:
        """Write where the runs of the declaration are, as it stands now."""
        self._lock.check()
        content = durable.json_bytes({"schema": SCHEMA, "runs": dict(folders)})
        with durable.writing(self.folder / RUNS):
            durable.write_atomic(self.folder / RUNS, content)


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """`key: a -> b` for each value that differs; a key that is missing reads `-`."""
    return [
        f"{key}: {before.get(key, '-')} -> {now.get(key, '-')}"
        for key in (before | now)
        if before.get(key) != now.get(key)
    ]


def _key(entry: Mapping[str, Any]) -> str:
    """What an entry decides: `choose muon train.batch_size=16`, `look 8`."""
    parts = (entry["what"], *(entry.get(key) for key in ("arm", "cell", "number", "pairs")))
    return " ".join(str(part) for part in parts if part not in (None, ""))
