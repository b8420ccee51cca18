"""What Hydra calls for each job of a declared study, and the record of these jobs."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from minigpt.config.plan import Plan
from minigpt.files import durable
from minigpt.files.reading import UnreadableError
from minigpt.study.record import changing, path_of, read_sweep
from minigpt.study.sweep import Sweep

# overrides of jobs, number of the first -> the error of each
Launch = Callable[[list[list[str]], int], Sequence[Exception | None]]


class StudyTask(Sweep):
    """A sweep whose jobs are added phase by phase. They are quiet: one line shows them all."""

    conduct: Callable[[Launch], None]

    def __getstate__(self) -> dict[str, Any]:
        """For a worker: it runs jobs and conducts nothing."""
        return {key: value for key, value in super().__getstate__().items() if key != "conduct"}

    @property
    def is_quiet(self) -> bool:
        return True

    def begin_study(self, output: Path, study: str, arguments: list[str]) -> None:
        """Take up the record that an earlier start left, or begin one."""
        self.output, self.study = output, study
        self.arguments = arguments
        self.record = path_of(output, study, arguments)
        with suppress(UnreadableError):
            self.jobs = read_sweep(self.record)["jobs"]

    def add(self, jobs: Sequence[list[str]], plans: Sequence[Plan]) -> int:
        """Note jobs that start now, new ones behind those of before; returns the number of these.

        Raises StorageError if the record cannot be written.
        """
        assert self.record is not None
        known = {tuple(job["overrides"]): job for job in self.jobs}
        for overrides, plan in zip(jobs, plans, strict=True):
            facts: dict[str, Any] = {"folder": plan.folder.name, "study": self.study}
            if tuple(overrides) in known:
                known[tuple(overrides)].update(facts, failed=None)
            else:
                self.jobs.append({"overrides": list(overrides), **facts})
        with (
            durable.writing(self.record),
            changing(self.record, self.study, self.arguments) as recorded,
        ):
            recorded[:] = [
                {key: value for key, value in job.items() if value is not None or key == "folder"}
                for job in self.jobs
            ]
        return len(known)

    def failure_of(self, overrides: list[str]) -> dict[str, Any] | None:
        """Why a job left no run, as the process that tried has noted."""
        assert self.record is not None
        with suppress(UnreadableError):
            jobs = read_sweep(self.record)["jobs"]
            return next((job["failed"] for job in jobs if job["overrides"] == overrides), None)
        return None
