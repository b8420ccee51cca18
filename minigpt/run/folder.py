"""A run's folder: its identity on disk, its lock, what is written into it.

config.yaml       the resolved configuration
run.json          who it is, what was chosen, what computed it (see `record`)
metrics.jsonl     every logged row
checkpoints/      see checkpoint/layout.py
summary.json      once finished or diverged
failed.json       why the last attempt failed, until the next one
train.log, sample.txt
"""

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from omegaconf import OmegaConf

import minigpt
from minigpt import durable
from minigpt.checkpoint.layout import NAMES
from minigpt.checkpoint.load import Checkpoint, check_state, newest_checkpoint
from minigpt.checkpoint.save import prune, save_checkpoint
from minigpt.config import identity
from minigpt.config.plan import Plan
from minigpt.errors import CheckpointError, MinigptError, Stopped, StorageError
from minigpt.reading import UnreadableError, read_bytes
from minigpt.records import SCHEMA
from minigpt.run.changes import changed, changes_since, path_changes
from minigpt.run.claim import FILES, claim
from minigpt.run.log import RunLog
from minigpt.run.metrics import Metrics
from minigpt.run.record import FAILED, failure, read_record
from minigpt.run.source_digest import source_digest
from minigpt.run.versions import git_state, versions

log = logging.getLogger(__name__)


class RunFolder:
    """Exclusive use of one run's folder, from `with RunFolder(plan) as run:` to its end.

    Raises BusyError if another process trains in it, StorageError if it cannot be written,
    CheckpointError if what is there is not this run. A refusal takes away what this start made, and
    nothing else.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.folder = plan.folder
        self.checkpoints = self.folder / "checkpoints"
        self.keep_at: Collection[int] = ()  # steps whose checkpoints stay
        self.saved: dict[str, Any] | None = None  # run.json
        self._made: list[Path] = []  # by this start

    def __enter__(self) -> "RunFolder":
        with durable.writing(self.folder):
            claim(self.folder, self.plan.id)  # before anything is written there
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = durable.FolderLock(self.folder, "run folder").acquire()
            try:
                self.saved = claim(self.folder, self.plan.id)
                self._open()
            except BaseException:
                self._leave_no_trace()
                raise
        logging.getLogger("minigpt").addHandler(self._handler)
        return self

    def _open(self) -> None:
        """Remove what a killed process left; open the files that grow."""
        metrics, train_log = self.folder / "metrics.jsonl", self.folder / "train.log"
        self._made = [
            path for path in (self.checkpoints, metrics, train_log) if not os.path.lexists(path)
        ]
        durable.make_folder(self.checkpoints)
        if self.saved is not None:
            (self.folder / FAILED).unlink(missing_ok=True)
            durable.remove_leftovers(self.checkpoints, NAMES)
            if (self.folder / "tokenizer").is_dir():
                durable.remove_leftovers(self.folder / "tokenizer", r"[a-z_]+\.json")
        durable.remove_leftovers(self.folder, FILES)
        self._handler = RunLog(train_log)
        try:
            self.metrics = Metrics(metrics, self.lock.check)
        except BaseException:
            self._handler.close()
            raise

    def _leave_no_trace(self) -> None:
        """Give up a folder in which nothing began: remove what this start made, and folders that
        are empty then.
        """
        if self.saved is None and self.lock.is_ours():
            for path in self._made:
                with suppress(OSError):
                    path.rmdir() if path == self.checkpoints else path.unlink()
            self.lock.abandon()
            with suppress(OSError):
                self.folder.rmdir()
        self.lock.release()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        ours = self.lock.is_ours()  # what is no longer ours stays as it is
        if error is not None and kind is not None and not isinstance(error, SystemExit) and ours:
            log.debug("ended by %s", kind.__name__, exc_info=(kind, error, trace))
        logging.getLogger("minigpt").removeHandler(self._handler)
        self._handler.close()
        self.metrics.close()
        begun, ended = self.saved is not None, (self.folder / "summary.json").exists()
        if (
            isinstance(error, Exception)
            and not isinstance(error, Stopped)
            and begun
            and not ended
            and ours
        ):
            with suppress(OSError):
                durable.write_atomic(self.folder / FAILED, durable.json_bytes(failure(error)))
        if isinstance(error, MinigptError) and not begun:
            self._leave_no_trace()
        self.lock.release()

    def begin(
        self,
        chosen: dict[str, Any],
        hardware: dict[str, Any],
        data: dict[str, Any],
        steps: int,
        accepted: Sequence[str] = (),
    ) -> None:
        """Write who this run is, or check that it is still what it was.

        chosen: device, precision, compile, threads, micro-batch as they will be used. steps: of the
            whole run.
        accepted: what marks a new run as mixed from its start.
        Raises CheckpointError if code, tokens or the chosen path changed, unless accept_changes is
        set.
        """
        record = {
            "schema": SCHEMA,
            "minigpt": minigpt.__version__,
            "id": self.plan.id,
            "name": self.folder.name,
            "identity": self.plan.identity,
            "choices": self.plan.choices,
            "overrides": self.plan.overrides,
            "study": self.plan.study,
            "command": sys.argv,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "git": git_state(),
            "source": source_digest(self.plan.config),
            "versions": versions(),
            "chosen": chosen,
            "hardware": hardware,
            "data": data,
            "steps": steps,
            "branched_from": None,
            "mixed": list(accepted),
        }
        if self.saved is not None:
            changes = [*changes_since(self.saved, record), *path_changes(self.saved, record)]
            if changes and not self.plan.config["accept_changes"]:
                raise changed(self.folder, changes)
            # a kill between the two leaves one
            if not changes and (self.folder / "config.yaml").exists():
                return
            for change in changes:
                log.warning("warning: accepted change: %s", change)
            record = {
                **self.saved,
                "mixed": [*self.saved["mixed"], *changes],
                "source": record["source"],
                "chosen": chosen,
            }
            record["data"] = data
        with durable.writing(self.folder):
            config_yaml = OmegaConf.to_yaml(OmegaConf.create(self.plan.config)).encode()
            self.lock.check()
            # first: now the folder is ours
            durable.write_atomic(self.folder / "run.json", durable.json_bytes(record))
            first, self.saved = self.saved is None, record
            durable.write_atomic(self.folder / "config.yaml", config_yaml)
        if first:
            for change in accepted:
                log.warning("warning: accepted change: %s", change)
            log.info("%s", self.folder)
            if near := nearest_run(self.plan):
                log.info("%s", near)

    def note_branch(self, origin: dict[str, Any] | None) -> None:
        """Keep in run.json from which step of which run this one goes on; None: it trains every
        step itself.
        """
        assert self.saved is not None
        if self.saved.get("branched_from") == origin:
            return
        self.saved["branched_from"] = origin
        self._write_record()

    def _write_record(self) -> None:
        with durable.writing(self.folder):
            self.lock.check()
            durable.write_atomic(self.folder / "run.json", durable.json_bytes(self.saved))

    def keep_tokenizer(self, files: dict[str, bytes]) -> None:
        """Put the tokenizer's files into the folder, so that it stands alone."""
        folder = self.folder / "tokenizer"
        with durable.writing(folder):
            durable.make_folder(folder)
            for name, content in files.items():
                with suppress(UnreadableError):
                    if read_bytes(folder / name) == content:
                        continue
                durable.write_atomic(folder / name, content)

    def newest_checkpoint(self) -> Checkpoint | None:
        """Where to go on, or None for a new run. Rows logged after it are dropped; they will come
        again.

        Raises CheckpointError if rows logged before it are gone, unless accept_changes is set. Rows
        that a full disk
        refused are no such case: the checkpoint knows the length that the file had.
        """
        found = newest_checkpoint(self.checkpoints)
        if found is not None and found.state.get("run") != self.plan.id:
            raise CheckpointError(
                f"foreign checkpoint: {found.folder}: of run {found.state.get('run')}, "
                f"expected {self.plan.id} (remove it)"
            )
        if found is not None:
            check_state(found)
        logged = 0 if found is None else found.state["metrics_bytes"]
        with durable.writing(self.metrics.path):
            if found is not None and self.metrics.n_bytes < logged:
                self._accept_lost_rows(found.folder, logged)
            self.metrics.rewind(logged)
        return found

    def _accept_lost_rows(self, found: Path, logged: int) -> None:
        lost = f"rows are gone: {self.metrics.path}: {self.metrics.n_bytes} bytes, {found.name} has {logged}"
        if not self.plan.config["accept_changes"]:
            raise CheckpointError(
                f"{lost} (restore the file; accept_changes=true goes on without and marks the run)"
            )
        log.warning("warning: accepted change: %s", lost)
        self.metrics.drop_torn_row()
        assert self.saved is not None
        self.saved["mixed"] = [*self.saved["mixed"], lost]
        self._write_record()

    def save(
        self,
        model: dict[str, Any],
        optimizer: dict[str, Any] | None,
        state: dict[str, Any],
        *,
        final: bool,
    ) -> None:
        """A checkpoint now; those at the steps of self.keep_at are never pruned.

        A full disk on the way is a warning and is tried again later; at the end an error. Raises
        StorageError or BusyError if the folder is no longer this process's own.
        """
        self.lock.check()
        state = {
            **state,
            "run": self.plan.id,
            "metrics_bytes": self.metrics.sync(),
            "minigpt": minigpt.__version__,
        }
        keep = 1 if final else self.plan.config["checkpoint"]["keep"]
        try:
            # A run stopped in its final evaluation has a checkpoint of this step, but not the one
            # to be used.
            save_checkpoint(
                self.checkpoints,
                state["step"],
                model,
                optimizer,
                state,
                keep,
                self.keep_at,
                replace=final,
            )
        except OSError as error:
            need = sum(tensor.nbytes for tensor in model.values()) / 2**20
            where = error.filename if isinstance(error, FileExistsError) else self.checkpoints
            message = (
                f"cannot save a checkpoint: {where}: {error.strerror}, {need:.1f} MiB of weights"
            )
            with suppress(OSError):
                message += f", {shutil.disk_usage(self.checkpoints).free / 2**20:.1f} MiB free"
            if final:
                raise StorageError(f"{message} (mend that and repeat the command)") from None
            log.warning("warning: %s (training goes on, the next interval tries again)", message)

    def finish(self, summary: dict[str, Any], sample: str | None = None) -> None:
        """Publish sample and summary: from now on the run is finished and answers by it."""
        self.lock.check()
        with durable.writing(self.folder):
            if sample is not None:
                # of a disk that refused to delete
                durable.remove_leftovers(self.checkpoints, NAMES)
                # A kill right after the last save left more.
                prune(self.checkpoints, 1, self.plan.id, self.keep_at)
                durable.write_atomic(self.folder / "sample.txt", sample.encode())
            durable.write_atomic(self.folder / "summary.json", durable.json_bytes(summary))


def ensure_writable(folder: Path) -> None:
    """Make a folder for runs, or raise StorageError now, before anything is built."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise durable.storage_error(folder, error) from None


def nearest_run(plan: Plan) -> str | None:
    """A sentence about an existing run that differs from this one in a single key, if there is
    one.
    """
    for folder in sorted(plan.folder.parent.glob("*-????????")):
        if folder == plan.folder:
            continue
        try:
            record = read_record(folder)
            different = (
                {} if record is None else identity.differences(record["identity"], plan.identity)
            )
        except (CheckpointError, KeyError):  # a damaged neighbour
            continue
        if len(different) == 1 and next(iter(different)) != "seed":
            ((key, (before, after)),) = different.items()
            key = key.replace("budget.", "train.")
            return (
                f"differs from {folder.name} only in {key} {before} -> {after}; "
                f"init_from={folder} would reuse its weights"
            )
    return None
