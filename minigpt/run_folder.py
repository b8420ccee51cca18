"""A run's folder: its identity on disk, its lock, and what the same command means the second time.

config.yaml       the resolved configuration
run.json          who it is, what was chosen, what computed it (see `record`)
metrics.jsonl     every logged row
checkpoints/      see checkpoint.py
summary.json      once finished or diverged
failed.json       why the last attempt failed, until the next one
train.log, sample.txt
"""

import json
import logging
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from omegaconf import OmegaConf

import minigpt
from minigpt import checkpoint, durable, identity
from minigpt.config import Plan
from minigpt.errors import CheckpointError, MinigptError, NumericsError, Stopped, StorageError
from minigpt.metrics import Metrics
from minigpt.source_digest import source_digest
from minigpt.terminal import on_stdout

log = logging.getLogger(__name__)
SCHEMA = 1
FAILED = "failed.json"
MAX_DIFF_BYTES = 2**20
LIBRARIES = ("torch", "numpy", "hydra-core", "omegaconf", "safetensors", "tokenizers", "tiktoken")


class RunFolder:
    """Exclusive use of one run's folder, from `with RunFolder(plan) as run:` to its end.

    Raises BusyError if another process trains in it, StorageError if it cannot be written, CheckpointError if what
    is there is not this run.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.folder = plan.folder
        self.checkpoints = self.folder / "checkpoints"
        self.keep_at: Collection[int] = ()  # steps whose checkpoints stay

    def __enter__(self) -> "RunFolder":
        with durable.writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = durable.FolderLock(self.folder, "run folder").acquire()
            durable.remove_leftovers(self.folder)
            (self.folder / FAILED).unlink(missing_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
            durable.remove_leftovers(self.checkpoints)
            self.metrics = Metrics(self.folder / "metrics.jsonl")
            self._handler = RunLog(self.folder / "train.log")
        logging.getLogger("minigpt").addHandler(self._handler)
        self.saved = read_record(self.folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and kind is not None and not isinstance(error, SystemExit):
            log.debug("ended by %s", kind.__name__, exc_info=(kind, error, trace))
        logging.getLogger("minigpt").removeHandler(self._handler)
        self._handler.close()
        self.metrics.close()
        begun, ended = ((self.folder / name).exists() for name in ("run.json", "summary.json"))
        if isinstance(error, Exception) and not isinstance(error, Stopped) and begun and not ended:
            with suppress(OSError):
                durable.write_atomic(self.folder / FAILED, durable.json_bytes(failure(error)))
        if isinstance(error, MinigptError) and not begun:
            shutil.rmtree(self.folder, ignore_errors=True)  # refused before it began: no trace of it
        self.lock.release()

    def begin(self, chosen: dict[str, Any], hardware: dict[str, Any], data: dict[str, Any], steps: int) -> None:
        """Write who this run is, or check that it is still what it was.

        chosen: device, precision, compile, threads, micro-batch as they will be used. steps: of the whole run.
        Raises CheckpointError if code, tokens or the chosen path changed, unless accept_changes is set.
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
            "mixed": [],
        }
        if self.saved is not None:
            changes = [*changes_since(self.saved, record), *path_changes(self.saved, record)]
            if changes and not self.plan.config["accept_changes"]:
                raise changed(self.folder, changes)
            if not changes:
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
            durable.write_atomic(self.folder / "config.yaml", config_yaml)
            durable.write_atomic(self.folder / "run.json", durable.json_bytes(record))
        if self.saved is None:
            log.info("%s", self.folder)
            if near := nearest_run(self.plan):
                log.info("%s", near)
        self.saved = record

    def note_branch(self, origin: dict[str, Any] | None) -> None:
        """Keep in run.json from which step of which run this one goes on; None: it trains every step itself."""
        assert self.saved is not None
        if self.saved.get("branched_from") == origin:
            return
        self.saved["branched_from"] = origin
        try:
            durable.write_atomic(self.folder / "run.json", durable.json_bytes(self.saved))
        except OSError as error:
            raise durable.storage_error(self.folder, error) from None

    def newest_checkpoint(self) -> checkpoint.Checkpoint | None:
        """Where to go on, or None for a new run. Rows logged after it are dropped; they will come again."""
        found = checkpoint.newest(self.checkpoints)
        if found is not None and found.state.get("run") != self.plan.id:
            raise CheckpointError(
                f"foreign checkpoint: {found.folder}: of run {found.state.get('run')}, "
                f"expected {self.plan.id} (remove it)"
            )
        with durable.writing(self.metrics.path):
            self.metrics.rewind(0 if found is None else found.state["metrics_bytes"])
        return found

    def save(
        self,
        model: dict[str, Any],
        optimizer: dict[str, Any] | None,
        state: dict[str, Any],
        *,
        final: bool,
    ) -> None:
        """A checkpoint now; those at the steps of self.keep_at are never pruned.

        A full disk on the way is a warning and is tried again later; at the end an error.
        """
        state = {**state, "run": self.plan.id, "metrics_bytes": self.metrics.sync(), "minigpt": minigpt.__version__}
        keep = 1 if final else self.plan.config["checkpoint"]["keep"]
        try:
            # A run stopped in its final evaluation has a checkpoint of this step, but not the one to be used.
            checkpoint.save(self.checkpoints, state["step"], model, optimizer, state, keep, self.keep_at, replace=final)
        except OSError as error:
            need = sum(tensor.nbytes for tensor in model.values()) / 2**20
            message = f"cannot save a checkpoint: {self.checkpoints}: {error.strerror}, {need:.1f} MiB of weights"
            with suppress(OSError):
                message += f", {shutil.disk_usage(self.checkpoints).free / 2**20:.1f} MiB free"
            if final:
                raise StorageError(f"{message} (mend that and repeat the command)") from None
            log.warning("warning: %s (training goes on, the next interval tries again)", message)

    def finish(self, summary: dict[str, Any], sample: str | None = None) -> None:
        """Publish sample and summary: from now on the run is finished and answers by it."""
        with durable.writing(self.folder):
            if sample is not None:
                durable.remove_leftovers(self.checkpoints)  # of a disk that refused to delete
                checkpoint.prune(self.checkpoints, 1, self.keep_at)  # a kill right after the last save left more
                durable.write_atomic(self.folder / "sample.txt", sample.encode())
            durable.write_atomic(self.folder / "summary.json", durable.json_bytes(summary))


def failure(error: Exception) -> dict[str, Any]:
    """failed.json: what stopped a run, and when."""
    ours = isinstance(error, MinigptError)
    return {
        "error": str(error) if ours else f"{type(error).__name__}: {error}",
        "exit_code": getattr(error, "exit_code", 1) if ours else 1,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def ensure_writable(folder: Path) -> None:
    """Make a folder for runs, or raise StorageError now, before anything is built."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise durable.storage_error(folder, error) from None


class RunLog(logging.FileHandler):
    """train.log; a full disk costs lines, with one warning, and never the run."""

    _failed = False

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8")
        self.setLevel(logging.DEBUG)
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))

    def handleError(self, record: logging.LogRecord) -> None:
        if not self._failed:
            print(f"warning: cannot write the log: {self.baseFilename} (training goes on without)", file=sys.stderr)
        self._failed = True

    def close(self) -> None:
        with suppress(OSError):  # what could not be written before is tried once more, and has been warned of
            super().close()


def read_record(folder: Path) -> dict[str, Any] | None:
    """run.json of a folder; None if there is none. Raises CheckpointError if it is damaged or of another format."""

    def damaged(name: str, why: str) -> CheckpointError:
        return CheckpointError(f"damaged run: {folder / name}: {why} (restore it, or move the folder away)")

    if not (folder / "run.json").is_file():
        return None
    record = checkpoint.read_json(folder / "run.json", damaged)
    if record.get("schema") != SCHEMA:
        raise CheckpointError(
            f"unknown run format: {folder / 'run.json'}: schema {record.get('schema')}, this minigpt reads {SCHEMA} "
            "(use the version of minigpt that wrote it)"
        )
    return record


def read_summary(folder: Path) -> dict[str, Any] | None:
    """summary.json of a run that ended; None before that, or if a crash of the machine left it unreadable."""
    try:
        summary = json.loads((folder / "summary.json").read_bytes())
    except (OSError, ValueError):
        return None
    return summary if isinstance(summary, dict) else None


def answer(plan: Plan) -> dict[str, Any] | None:
    """The summary of a run that has ended already, said aloud; None if there is still something to do. Needs no torch.

    Raises CheckpointError if code or tokens changed since (unless accepted), NumericsError if the run had diverged.
    """
    summary, record = read_summary(plan.folder), read_record(plan.folder)
    if summary is None or record is None:
        return None
    fingerprint = recorded_fingerprint(plan.tokens_folder)
    now = {"source": source_digest(plan.config), "data": {"fingerprint": fingerprint or record["data"]["fingerprint"]}}
    changes = changes_since(record, now)
    if changes and not plan.config["accept_changes"]:
        raise changed(plan.folder, changes)
    if summary["status"] == "diverged":
        raise NumericsError(
            f"diverged before: {plan.folder}: at step {summary['step']} (change a setting, or attempt=2)"
        )
    chosen = record["chosen"]
    asked_now = [override for override in plan.overrides if override not in record["overrides"]]
    ignored = sorted({o.lstrip("+~").partition("=")[0] for o in asked_now if _only_watched(o)})
    log.info(
        "already finished (%s, %s, commit %s)%s",
        chosen["device"],
        chosen["precision"],
        (record["git"] or {}).get("commit", "unknown")[:7],
        f"; ignored: {', '.join(ignored)}" if ignored else "",
    )
    return summary


def _only_watched(override: str) -> bool:
    key = override.lstrip("+~").partition("=")[0]
    return key in (
        "logger",
        "train.device",
        "train.compile",
        "train.threads",
        "train.micro_batch_size",
        "train.activation_checkpointing",
        "branch",
    ) or key.startswith(("logger.", "eval.", "checkpoint.", "log.", "sample.", "probe.", "verdict."))


def recorded_fingerprint(tokens_folder: Path) -> str | None:
    """The fingerprint in a token folder's manifest, without reading the tokens; None if there is no manifest."""
    try:
        return json.loads((tokens_folder / "manifest.json").read_bytes())["fingerprint"]
    except (OSError, ValueError, KeyError):
        return None


def changes_since(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Code and tokens that are not what they were, one line each."""
    old, new = saved["source"], now["source"]
    modules = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    changes = [f"code changed: {name.replace('.', '/')}.py" for name in modules]
    if saved["data"]["fingerprint"] != now["data"]["fingerprint"]:
        changes.append(f"tokens changed: {saved['data']['fingerprint'][:12]} -> {now['data']['fingerprint'][:12]}")
    return changes


def path_changes(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The chosen hardware path and library versions that differ, one line each."""
    changes = [
        f"{key}: {saved['chosen'].get(key)} -> {value}"
        for key, value in now["chosen"].items()
        if saved["chosen"].get(key) != value
    ]
    before, after = saved["versions"]["torch"], now["versions"]["torch"]
    return [*changes, *([f"torch version: {before} -> {after}"] if before != after else [])]


def changed(folder: Path, changes: list[str]) -> CheckpointError:
    return CheckpointError(
        *(
            f"changed since the run began: {folder}: {change} "
            "(accept_changes=true goes on and marks the run; attempt=2 starts anew)"
            for change in changes
        )
    )


def nearest_run(plan: Plan) -> str | None:
    """A sentence about an existing run that differs from this one in a single key, if there is one."""
    for folder in sorted(plan.folder.parent.glob("*-????????")):
        if folder == plan.folder:
            continue
        try:
            record = read_record(folder)
        except CheckpointError:
            continue
        if record is None:
            continue
        different = identity.differences(record["identity"], plan.identity)
        if len(different) == 1 and next(iter(different)) != "seed":
            ((key, (before, after)),) = different.items()
            key = key.replace("budget.", "train.")
            return (
                f"differs from {folder.name} only in {key} {before} -> {after}; "
                f"init_from={folder} would reuse its weights"
            )
    return None


def git_state() -> dict[str, Any] | None:
    """Commit and uncommitted diff of the code that runs; None outside a repository or without git."""
    root = Path(minigpt.__file__).parent.parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
            errors="replace",
        ).stdout

    try:
        commit, diff = git("rev-parse", "HEAD").strip(), git("diff", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return None
    kept = diff if len(diff) <= MAX_DIFF_BYTES else diff[:MAX_DIFF_BYTES] + "\n[cut]"
    return {"commit": commit, "dirty": bool(diff), "diff": kept}


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that take part in a result."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def report(folder: Path, summary: dict[str, Any]) -> None:
    """What a finished run came to, on stdout: loss, a sample, and where everything is."""
    sample = (folder / "sample.txt").read_text(encoding="utf-8") if (folder / "sample.txt").is_file() else ""
    bits = summary["val_bits_per_byte"]
    if sample:
        print(f"{on_stdout(sample.rstrip())}\n")
    print(
        f"validation loss   {summary['val_loss']:.4f} nats per token"
        + ("" if bits is None else f", {bits:.4f} bits per byte")
        + f"  ({summary['val_tokens']:,} tokens)"
    )
    print(
        f"training          {summary['step']:,} steps, {summary['tokens']:,} tokens, {summary['train_time_s']:.1f} s"
        + ("" if summary["tokens_per_s"] is None else f", {summary['tokens_per_s']:,.0f} tokens/s")
        + (f"  (mixed: {', '.join(summary['mixed'])})" if summary["mixed"] else "")
    )
    print(f"run folder        {folder}")
