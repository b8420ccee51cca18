"""metrics.jsonl in event files, which TensorBoard shows."""

import importlib.util
import json
import logging
import queue
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from minigpt.errors import ConfigError

log = logging.getLogger(__name__)
PATIENCE_S = 5.0  # for what is not written yet at the end of a run


@dataclass(eq=False)
class TensorBoardLogger:
    """Rows to event files, by a thread of its own: a disk that hangs holds up no step.

    Each start of a run writes a file that begins with all rows so far and tells TensorBoard to
    forget those of the files before, so nothing is doubled or missing.

    logdir: as in `tensorboard --logdir`; has a folder for each run.
    """

    logdir: str = "outputs/tensorboard"

    def __post_init__(self) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise ConfigError(
                "missing package: logger=tensorboard needs tensorboard (pip install tensorboard)"
            )
        self._rows: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._tokens = 0
        self._why: str | None = None  # it gave up
        self.failed = False  # and has said so

    def start(
        self, run: dict[str, Any], config: dict[str, Any], rows: list[dict[str, Any]]
    ) -> None:
        """Begin with the configuration as hyperparameters, and the rows before a resume."""
        self._thread = threading.Thread(
            target=self._work, args=[run, config], name="tensorboard", daemon=True
        )
        self._thread.start()
        for row in rows:
            self.log(row)

    def log(self, row: dict[str, Any]) -> None:
        """Write one row: numbers as scalars over tokens, strings as texts."""
        self._tokens = row["tokens"]
        self._say_why()
        if not self.failed:
            self._rows.put(row)

    def sample(self, sample: dict[str, Any]) -> None:
        """Write a text of the model."""
        self.log({"tokens": sample["tokens"], "sample": sample["text"]})

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary and end, within PATIENCE_S."""
        if self._thread is None:
            return
        if summary:
            self.log({"tokens": self._tokens, "summary": json.dumps(summary, indent=1)})
        self._rows.put(None)
        self._thread.join(PATIENCE_S)
        if self._thread.is_alive():
            self._why = f"no answer of the disk for {PATIENCE_S:g} s"
        self._say_why()
        self._thread = None

    def _work(self, run: dict[str, Any], config: dict[str, Any]) -> None:
        """The thread: write the rows as they come."""
        try:
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.plugins.hparams.summary_v2 import hparams_pb
            from tensorboard.summary.writer.record_writer import RecordWriter

            begun = datetime.fromisoformat(run["started"]).timestamp()
            hparams = hparams_pb(flat({**config, "choices": run["choices"]}), run["id"], begun)
            folder = Path(self.logdir).expanduser() / Path(run["name"]).name
            folder.mkdir(parents=True, exist_ok=True)
            name = f"events.out.tfevents.{time.time_ns():020d}"  # files are read in their order
            with open(folder / name, "xb") as file:

                def write(**event: Any) -> None:
                    RecordWriter(file).write(Event(**event).SerializeToString())
                    file.flush()

                write(wall_time=begun, file_version="brain.Event:2")
                write(wall_time=begun, session_log=SessionLog(status=SessionLog.START))
                write(wall_time=begun, summary=hparams)
                for row in iter(self._rows.get, None):
                    when = begun + row["time_s"] if "time_s" in row else time.time()
                    write(wall_time=when, step=row["tokens"], summary=summary_of(row))
        except Exception as error:  # anything at all: it cannot stop a run
            self._why = " ".join(str(error).split()) or type(error).__name__

    def _say_why(self) -> None:
        """Not from the thread, which would speak amid a line."""
        if self._why is not None and not self.failed:
            log.warning(
                "warning: tensorboard stopped: %s (the run goes on; metrics.jsonl is complete)",
                self._why,
            )
            self.failed = True


def summary_of(row: dict[str, Any]) -> Any:
    """A row as TensorBoard's summary."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING
    from tensorboard.plugins.text.metadata import create_summary_metadata

    summary = Summary()
    for tag, value in row.items():
        if isinstance(value, str):  # indented, Markdown leaves it alone
            text = "\n".join(f"    {line}" for line in value.splitlines()).encode()
            summary.value.add(
                tag=tag,
                metadata=create_summary_metadata(tag, ""),
                tensor=TensorProto(dtype=DT_STRING, string_val=[text]),
            )
        elif isinstance(value, int | float) and tag != "tokens":
            summary.value.add(tag=tag, simple_value=value)
    return summary


def flat(node: dict[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Dotted key -> value, of types that TensorBoard knows."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        elif value is not None:
            known = isinstance(value, bool | int | float | str)
            found[f"{prefix}{key}"] = value if known else json.dumps(value, default=str)
    return found
