"""The runs of a declared study as its record tells them: read, and never trained."""

import math
from collections.abc import Sequence
from pathlib import Path

from minigpt.errors import CheckpointError, ConfigError
from minigpt.files.reading import UnreadableError
from minigpt.study.declaration import Declaration
from minigpt.study.find import read_run
from minigpt.study.journal import read_declaration, study_folder
from minigpt.study.planned import PlannedRun
from minigpt.study.record import folder_of, read_sweep, sweeps_in
from minigpt.study.run import Run


class RecordedRuns:
    """See `conduct.Runs`. A run is part of the study if the study asked for it."""

    def __init__(self, declaration: Declaration, output: Path) -> None:
        self.declaration = declaration
        self._folders: dict[tuple[str, ...], Path] = {}
        self._found: dict[PlannedRun, Run] = {}
        for path in sweeps_in(output):
            try:
                sweep = read_sweep(path)
            except UnreadableError:
                continue
            if sweep.study == declaration.study:
                for job in sweep.jobs:
                    if job.folder is not None:
                        self._folders[job.overrides] = folder_of(output, job.folder)

    def run(self, phase: str, planned: Sequence[PlannedRun]) -> None:
        """Nothing: what is missing is named."""

    def loss(self, planned: PlannedRun) -> float | None:
        """Infinite if it diverged, None if it has not ended."""
        try:
            loss = self.read(planned).loss(self.declaration.metric)
        except CheckpointError:
            return None
        return loss if loss is None or math.isfinite(loss) else math.inf

    def why(self, planned: PlannedRun) -> str:
        """Why it has not ended."""
        try:
            return self.read(planned).status
        except UnreadableError as error:
            return "not begun" if error.missing else str(error)

    def read(self, planned: PlannedRun) -> Run:
        """Raises UnreadableError if there is no such run, or it is damaged."""
        if planned not in self._found:
            run = read_run(self._folder(planned))
            if run.summary is None:
                return run
            self._found[planned] = run
        return self._found[planned]

    def _folder(self, planned: PlannedRun) -> Path:
        own = tuple(planned.overrides(self.declaration))
        for overrides, folder in self._folders.items():
            if overrides[-len(own) :] == own:
                return folder
        raise UnreadableError(Path(" ".join(own)), "not begun", missing=True)


def declared_in(paths: Sequence[Path], study: str) -> tuple[Path, Declaration, list[dict]] | None:
    """Folder of runs, declaration and amendments of a study below these paths; None if undeclared.

    Raises ConfigError if several folders have one of this name.
    """
    found = []
    for output in dict.fromkeys(path.resolve() for path in paths):
        known = read_declaration(study_folder(output, study))
        if known is not None and known[0].study == study:
            found.append((output, known[0], known[1]["amendments"]))
    if len(found) > 1:
        raise ConfigError(
            f"declared twice: --study {study}: {', '.join(str(output) for output, *_ in found)} "
            "(give one folder)"
        )
    return found[0] if found else None
