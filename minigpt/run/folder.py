"""A run's folder: who may use it, and everything that a run writes into it.

run.json          who it is, what was chosen, what computed it (run/record.py)
config.yaml       the resolved configuration
metrics.jsonl     every logged row (run/metrics.py)
checkpoints/      checkpoint/layout.py
tokenizer/        its files, so that the folder stands alone
summary.json      once finished or diverged
failed.json       why the last attempt failed, until the next one
train.log, sample.txt
"""

import logging
import os
import shutil
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

import minigpt
from minigpt.checkpoint.beside import Beside
from minigpt.checkpoint.layout import NAMES, steps_on_disk
from minigpt.checkpoint.load import Checkpoint, check_state, newest_checkpoint
from minigpt.checkpoint.save import prune, save_checkpoint
from minigpt.config.plan import Plan
from minigpt.errors import CheckpointError, MinigptError, Stopped, StorageError
from minigpt.files import durable
from minigpt.files.lock import FolderLock
from minigpt.files.reading import UnreadableError, read_bytes
from minigpt.run.changes import changes_since, path_changes, refusal, regrouped
from minigpt.run.claim import FILES, claim
from minigpt.run.log import RunLog
from minigpt.run.metrics import Metrics, whole_rows
from minigpt.run.neighbour import describe_neighbour
from minigpt.run.record import FAILED, failure, new_record
from minigpt.run.source_digest import edited_since_digest, in_short

log = logging.getLogger(__name__)


class RunFolder:
    """Exclusive use of one run's folder, from `with RunFolder(plan) as run:` to its end.

    A refusal removes what this start made, and nothing else.
    Raises BusyError if another process trains in it, StorageError if it cannot be written,
    CheckpointError if it holds another run or something else.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.folder = plan.folder
        self.checkpoints = self.folder / "checkpoints"
        self.keep_at: Collection[int] = ()  # steps whose checkpoints stay
        self.saved: dict[str, Any] | None = None  # run.json
        self._made: list[Path] = []  # by this start, before the run began
        self._beside = Beside()

    def __enter__(self) -> "RunFolder":
        with durable.writing(self.folder):
            claim(self.plan)  # before anything is written there
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = FolderLock(self.folder, "run folder").acquire()
            try:
                self.saved = claim(self.plan)
                self._open()
            except BaseException:
                self._leave_no_trace()
                raise
        logging.getLogger("minigpt").addHandler(self._log)
        return self

    def _open(self) -> None:
        """Remove what a killed process left; open the files that grow."""
        metrics, train_log = self.folder / "metrics.jsonl", self.folder / "train.log"
        grown = (self.checkpoints, metrics, train_log)
        self._made = [path for path in grown if not os.path.lexists(path)]
        durable.make_folder(self.checkpoints)
        if self.saved is not None:
            (self.folder / FAILED).unlink(missing_ok=True)
            durable.remove_leftovers(self.checkpoints, folders=NAMES)
            if (self.folder / "tokenizer").is_dir():
                durable.remove_leftovers(self.folder / "tokenizer", r"[a-z_]+\.json")
            durable.remove_leftovers(self.folder, FILES)
        self._log = RunLog(train_log)
        try:
            self.metrics = Metrics(metrics, self.lock.check)
        except BaseException:
            self._log.close()
            raise

    def _leave_no_trace(self) -> None:
        """Give up a folder in which nothing began: remove what this start made."""
        if self.saved is None and self.lock.is_ours():
            for path in self._made:
                with suppress(OSError):
                    path.rmdir() if path == self.checkpoints else path.unlink()
            self.lock.abandon()
            with suppress(OSError):
                self.folder.rmdir()
        self.lock.release()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self._beside.close()
        finally:
            self._close(error)

    def _close(self, error: BaseException | None) -> None:
        ours = self.lock.is_ours()  # what is no longer ours stays as it is
        if ours and error is not None and not isinstance(error, SystemExit):
            log.debug("ended by %s", type(error).__name__, exc_info=error)
        logging.getLogger("minigpt").removeHandler(self._log)
        self._log.close()
        self.metrics.close()
        going_on = self.saved is not None and not (self.folder / "summary.json").exists()
        if ours and going_on and isinstance(error, Exception) and not isinstance(error, Stopped):
            with suppress(OSError):
                durable.write_atomic(self.folder / FAILED, durable.json_bytes(failure(error)))
        if self.saved is None and isinstance(error, MinigptError):
            self._leave_no_trace()
        self.lock.release()

    def begin(self, facts: dict[str, Any], accepted: Sequence[str] = ()) -> None:
        """Write who this run is, or check that it is still what it was.

        facts: `chosen` (device, precision, compile and micro-batch as they will be used, ...),
            `hardware`, `data` (the tokens) and `steps` (of the whole run), for run.json.
        accepted: what marks a new run as mixed from its start.
        Raises CheckpointError if code or tokens changed, or the chosen path since a checkpoint (but
        for accept_changes).
        """
        if edited := edited_since_digest():
            raise CheckpointError(
                f"code changed while the run was starting: {', '.join(edited)} (start it again)"
            )
        first, record = self.saved is None, new_record(self.plan, facts, accepted)
        ranks = self.saved and regrouped(self.saved, record)
        if self.saved is not None:
            accepted, path = changes_since(self.saved, record), path_changes(self.saved, record)
            if steps_on_disk(self.checkpoints):  # else nothing was computed the old way
                accepted += path
            if accepted and not self.plan.config["accept_changes"]:
                raise refusal(self.folder, accepted)
            # A kill between the two writes below leaves run.json alone.
            if not (accepted or path or ranks) and (self.folder / "config.yaml").is_file():
                return
            current = ("source", "chosen", "data", "hardware", "versions")
            record = {**self.saved, **{key: record[key] for key in current}}
            record |= {"mixed": [*self.saved["mixed"], *accepted]}
        config_yaml = OmegaConf.to_yaml(OmegaConf.create(self.plan.config)).encode()
        self._write_record(record)  # first: now the folder is ours
        with durable.writing(self.folder):
            durable.remove_leftovers(self.folder, FILES)  # of a start that wrote no record
            durable.write_atomic(self.folder / "config.yaml", config_yaml)
        if ranks:
            log.info("%s", ranks)
        for change in in_short(accepted):
            log.warning("warning: accepted change: %s", change)
        if first:
            log.info("%s", self.folder)
            if not self.plan.in_sweep and (near := describe_neighbour(self.plan)):
                log.info("%s", near)

    def note_branch(self, origin: dict[str, Any] | None) -> None:
        """Keep in run.json from which step of which run this one goes on; None: from none."""
        assert self.saved is not None
        if self.saved.get("branched_from") != origin:
            self._write_record({**self.saved, "branched_from": origin})

    def _write_record(self, record: dict[str, Any]) -> None:
        with durable.writing(self.folder):
            self.lock.check()
            durable.write_atomic(self.folder / "run.json", durable.json_bytes(record))
        self.saved = record

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
        """Where to go on, or None for a new run.

        Rows logged after the checkpoint are dropped: they will come again. Raises CheckpointError
        if rows logged before it are gone or changed, unless accept_changes is set. (Rows that a
        full disk refused are not: the checkpoint knows the length that the file had.)
        """
        found, rows = newest_checkpoint(self.checkpoints), self.metrics
        if found is None:
            self._drop_all_rows()
            return None
        if found.state.get("run") != self.plan.id:
            raise CheckpointError(
                f"foreign checkpoint: {found.folder}: of run {found.state.get('run')}, "
                f"expected {self.plan.id} (remove it)"
            )
        check_state(found)
        logged, name = found.state["metrics_bytes"], found.folder.name
        with durable.writing(rows.path):
            if rows.n_bytes < logged:
                has = f"{rows.n_bytes} bytes, {name} has {logged}"
                self._accept_rows(f"rows are gone: {rows.path}: {has}")
            elif found.state.get("metrics_sha256") not in (None, rows.sha256(logged)):
                self._accept_rows(f"rows were changed: {rows.path}: not those of {name}")
            rows.rewind(logged)
        return found

    def _drop_all_rows(self) -> None:
        """Without a checkpoint the rows come again, from the first one on."""
        with suppress(UnreadableError):
            if rows := whole_rows(self.metrics.path):
                dropped = f"the rows up to step {rows[-1]['step']} are dropped"
                again = f"{self.checkpoints}: training starts again, and {dropped}"
                log.warning("warning: no checkpoint: %s", again)
        with durable.writing(self.metrics.path):
            self.metrics.rewind(0)

    def _accept_rows(self, lost: str) -> None:
        if not self.plan.config["accept_changes"]:
            raise CheckpointError(
                f"{lost} (restore the file; accept_changes=true goes on without and marks the run)"
            )
        log.warning("warning: accepted change: %s", lost)
        self.metrics.drop_torn_row()
        assert self.saved is not None
        self._write_record({**self.saved, "mixed": [*self.saved["mixed"], lost]})

    def save(
        self,
        model: dict[str, Any],
        optimizer: dict[str, Any] | None,
        state: dict[str, Any],
        *,
        final: bool,
        beside: bool = False,
    ) -> None:
        """Save a checkpoint. A full disk is a warning on the way and an error at the end.

        final: whether the run ends with it; then it is the only one kept, but for self.keep_at.
        beside: write a copy while training goes on. It counts once it is published, as ever.
        Raises StorageError or BusyError if the folder is no longer this process's own.
        """
        self.lock.check()
        logged = self.metrics.sync()
        state = {
            **state,
            "run": self.plan.id,
            "metrics_bytes": logged,
            "metrics_sha256": self.metrics.sha256(logged),
            "minigpt": minigpt.__version__,
        }
        write = lambda tensors: self._write_checkpoint(tensors, state, final)
        self._beside.start([model, optimizer], write, at_once=not beside)

    def _write_checkpoint(self, tensors: list[Any], state: dict[str, Any], final: bool) -> None:
        model, optimizer = tensors
        # A step that goes well proves the checkpoint before it: until then the one before stays.
        keep = 1 if final else max(2, self.plan.config["checkpoint"]["keep"])
        try:
            # A run stopped in its final evaluation has one of this step that is not final.
            save_checkpoint(self.checkpoints, model, optimizer, state, replace=final)
            prune(self.checkpoints, keep, self.plan.id, self.keep_at)
        except OSError as error:
            message = self._cannot_save(error, sum(tensor.nbytes for tensor in model.values()))
            if final:
                raise StorageError(f"{message} (mend that and repeat the command)") from None
            log.warning("warning: %s (training goes on, the next interval tries again)", message)

    def _cannot_save(self, error: OSError, weights: int) -> str:
        where = error.filename if isinstance(error, FileExistsError) else self.checkpoints
        need = f"{weights / 2**20:.1f} MiB of weights"
        message = f"cannot save a checkpoint: {where}: {error.strerror}, {need}"
        with suppress(OSError):
            message += f", {shutil.disk_usage(self.checkpoints).free / 2**20:.1f} MiB free"
        return message

    def finish(self, summary: dict[str, Any], sample: str | None = None) -> None:
        """Publish sample and summary: from now on the run is finished and answers by it."""
        self.lock.check()
        with durable.writing(self.folder):
            if sample is not None:
                # A disk that refused to delete, or a kill right after the last save, left more.
                durable.remove_leftovers(self.checkpoints, folders=NAMES)
                prune(self.checkpoints, 1, self.plan.id, self.keep_at)
                durable.write_atomic(self.folder / "sample.txt", sample.encode())
            durable.write_atomic(self.folder / "summary.json", durable.json_bytes(summary))
