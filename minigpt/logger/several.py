"""Several loggers at once."""

from typing import Any


class Several:
    """Hands everything to each of its loggers, which it has by name."""

    def __init__(self, **loggers: Any) -> None:
        self.loggers = list(loggers.values())

    def start(
        self, run: dict[str, Any], config: dict[str, Any], rows: list[dict[str, Any]]
    ) -> None:
        for logger in self.loggers:
            logger.start(run, config, rows)

    def log(self, row: dict[str, Any]) -> None:
        for logger in self.loggers:
            logger.log(row)

    def sample(self, sample: dict[str, Any]) -> None:
        for logger in self.loggers:
            if to_logger := getattr(logger, "sample", None):
                to_logger(sample)

    def finish(self, summary: dict[str, Any]) -> None:
        for logger in self.loggers:
            logger.finish(summary)
