"""No logger: metrics.jsonl alone. What every logger does stands here."""

from typing import Any


class NoLogger:
    """Keeps nothing."""

    def start(
        self, run: dict[str, Any], config: dict[str, Any], rows: list[dict[str, Any]]
    ) -> None:
        """Begin with the run's record (run.json), its configuration, and rows before a resume."""

    def log(self, row: dict[str, Any]) -> None:
        """Take one row of metrics.jsonl."""

    def sample(self, sample: dict[str, Any]) -> None:
        """Take a text of the model: step, tokens, text. A logger may lack this method."""

    def finish(self, summary: dict[str, Any]) -> None:
        """End, with the run's summary ({} if it was stopped on the way)."""
