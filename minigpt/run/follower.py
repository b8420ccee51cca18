"""A run's folder as all ranks but the first see it: they read it and write nothing."""

from pathlib import Path
from typing import Any

from minigpt.config.plan import Plan
from minigpt.run.folder import RunFolder
from minigpt.run.metrics import Metrics


class FollowedFolder(RunFolder):
    """Rank 0 holds the lock, decides and writes."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.metrics = NoRows(self.folder / "metrics.jsonl")

    def save(self, *tensors: Any, **how: Any) -> None:
        """Leave it to rank 0."""

    def finish(self, summary: dict[str, Any], sample: str | None = None) -> None:
        """Leave it to rank 0."""


class NoRows(Metrics):
    """Keeps no rows."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, row: dict[str, Any]) -> None:
        """Leave it to rank 0."""
