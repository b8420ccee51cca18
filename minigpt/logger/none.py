"""No mirror: metrics.jsonl alone."""

from typing import Any


class NoLogger:
    """Keeps nothing."""

    def start(
        self, run: dict[str, Any], config: dict[str, Any], rows: list[dict[str, Any]]
    ) -> None:
        """Begin to mirror a run: its record (run.json), its configuration, and the rows logged
        before a resume.
        """

    def log(self, row: dict[str, Any]) -> None:
        """Mirror one row of metrics.jsonl."""

    def finish(self, summary: dict[str, Any]) -> None:
        """End, with the run's summary ({} if it was stopped on the way)."""
