"""train.log: what a run says, kept in its folder."""

import logging
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from minigpt.files.durable import regular_file


class RunLog(logging.FileHandler):
    """train.log; a full disk costs lines, with one warning, and never the run."""

    _failed = False

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self.setLevel(logging.DEBUG)
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))

    def _open(self) -> Any:
        text: Any = {"encoding": self.encoding, "errors": self.errors}
        return open(self.baseFilename, self.mode, opener=regular_file, **text)

    def handleError(self, record: logging.LogRecord) -> None:
        if not self._failed:
            print(
                f"warning: cannot write the log: {self.baseFilename} (training goes on without)",
                file=sys.stderr,
            )
        self._failed = True

    def close(self) -> None:
        # What could not be written before is tried once more, and has been warned of.
        with suppress(OSError):
            super().close()
