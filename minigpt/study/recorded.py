"""The runs of a declared study as its record tells them: read, and never trained."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minigpt.errors import CheckpointError, ConfigError
from minigpt.files.reading import UnreadableError
from minigpt.study.declaration import Declaration
from minigpt.study.declaration_file import read_declaration, study_folder
from minigpt.study.find import read_run
from minigpt.study.journal import IMPOSSIBLE, read_folders
from minigpt.study.planned import PlannedRun
from minigpt.study.record import folder_of, id_in
from minigpt.study.run import Run


class RecordedRuns:
    """See `conduct.Runs`. A run is part of the study if the study asked for it."""

    def __init__(self, declaration: Declaration, output: Path) -> None:
        self.declaration, self.output = declaration, output
        self._folders = read_folders(study_folder(output, declaration.study))
        self._found: dict[PlannedRun, Run] = {}
        self.asked: dict[PlannedRun, str | None] = {}  # all that were looked for -> their folders

    def run(self, phase: str, planned: Sequence[PlannedRun]) -> None:
        """Nothing: what is missing is named."""

    def loss(self, planned: PlannedRun) -> float | None:
        name = self._folders.get(planned.line(self.declaration))
        if name == IMPOSSIBLE:
            return math.nan
        self.asked[planned] = name
        try:
            return self.read(planned).loss(self.declaration.metric)
        except CheckpointError:
            return None

    def why(self, planned: PlannedRun) -> str:
        if self._folders.get(planned.line(self.declaration)) == IMPOSSIBLE:
            return IMPOSSIBLE
        try:
            return self.read(planned).status
        except UnreadableError as error:
            return "not begun" if error.missing else str(error)

    def read(self, planned: PlannedRun) -> Run:
        """Raises UnreadableError if there is no such run, or it is damaged."""
        if planned not in self._found:
            own = planned.line(self.declaration)
            if own not in self._folders:
                raise UnreadableError(Path(own), "not begun", missing=True)
            name = self._folders[own]
            run = read_run(folder_of(self.output, name))
            if run.record["id"] != id_in(name):
                raise UnreadableError(
                    run.folder / "run.json", f"of {run.record['id']}, expected {id_in(name)}"
                )
            if wrong := self._another(run, planned):
                raise UnreadableError(run.folder / "run.json", f"of {wrong}, not {own}")
            if run.summary is None:
                return run
            self._found[planned] = run
        return self._found[planned]

    def _another(self, run: Run, planned: PlannedRun) -> str:
        """What a run is of that was not planned; empty if nothing is."""
        by, key = self.declaration.by, self.declaration.budget_key
        found = {by: run.record["choices"].get(by) or planned.arm, "seed": run.seed}
        budget = run.flat_config.get(key)  # one in tokens has become steps
        found[key] = planned.budget if budget is None else budget
        asked = {by: planned.arm, "seed": planned.seed, key: planned.budget}
        return " ".join(f"{key}={found[key]}" for key in asked if found[key] != asked[key])


def declared_in(
    paths: Sequence[Path], study: str
) -> tuple[Path, Declaration, dict[str, Any]] | None:
    """Folder of runs, declaration and its file of a study below these paths; None if undeclared.

    Raises ConfigError if several folders have one of this name.
    """
    found = []
    for output in dict.fromkeys(path.resolve() for path in paths):
        known = read_declaration(study_folder(output, study))
        if known is not None and known[0].study == study:
            found.append((output, known[0], known[1]))
    if len(found) > 1:
        raise ConfigError(
            f"declared twice: --study {study}: {', '.join(str(output) for output, *_ in found)} "
            "(give one folder)"
        )
    return found[0] if found else None
