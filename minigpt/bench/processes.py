"""A process of its own for each measurement, which ends with the time that it has; and its figures.

So its peak memory is its own, and running out of memory or time costs no more than the rest of it.
Each line of its stdout is all that it knows by then, in JSON.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from minigpt.errors import ConfigError, StorageError
from minigpt.files.reading import UnreadableError, read_json

GRACE_S = 3.0  # after which a process that overran its time is ended


def outcome(
    command: list[str], seconds: float, environment: dict[str, str] | None = None
) -> tuple[str, str]:
    """The stdout of a command, and how it ended: "" if well.

    What it compiles is its own: one that is killed can leave half a file in PyTorch's cache.
    """
    with (
        tempfile.TemporaryDirectory(prefix="minigpt-compiled-", ignore_cleanup_errors=True) as own,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            env={**(environment or os.environ), "TORCHINDUCTOR_CACHE_DIR": own},
            start_new_session=True,  # so that compilers end with it
        ) as worker,
    ):
        try:
            told, _ = worker.communicate(timeout=seconds + GRACE_S)
            code = worker.returncode
            return told, f"exit code {code}" if code else ""
        except subprocess.TimeoutExpired:
            end(worker)
            return worker.communicate()[0], f"not done within {seconds:.0f} s"
        finally:
            end(worker)


def told_by(command: list[str], seconds: float) -> tuple[dict[str, Any], str]:
    """The last that a command told, and how it ended, which it may tell itself as `stopped`."""
    told, why = outcome([sys.executable, *command], seconds)
    whole = [line for line in told.splitlines(keepends=True) if line.endswith("\n")]
    result: dict[str, Any] = json.loads(whole[-1], parse_constant=str) if whole else {}
    return result, result.pop("stopped", why)


def measure(
    name: str, command: list[str], candidates: list[tuple[str, int]], seconds: float,
    compile_seconds: float = 0.0, **more: bool,
) -> dict[str, Any]:  # fmt: skip
    """What a process of its own finds out about a model in that time. Raises its ConfigError.

    more: what else its `Worker` may be told.
    """
    print(f"{name}: at most {seconds + compile_seconds:.0f} s", file=sys.stderr, flush=True)
    job = {"name": name, "overrides": command, "candidates": candidates, **more}
    job |= {"deadline": time.time() + seconds, "compile_seconds": compile_seconds}
    result, why = told_by(
        ["-m", "minigpt.bench.worker", json.dumps(job)], seconds + compile_seconds
    )
    if "error" in result:
        raise ConfigError(*result["error"])
    if "tokens_per_s" not in result:
        result.setdefault("skipped", f"{why} (give --seconds)")
    elif compile_seconds and "compile_speedup" not in result:
        result["compile_note"] = f"{why or 'cut short'} (train.compile=false, or give --seconds)"
    return result


def end(worker: subprocess.Popen[str]) -> None:
    """Kill a worker and what it started."""
    with suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)


def figures_in(path: Path, names: Collection[str], argument: str) -> dict[str, Any]:
    """The figures of these names that an earlier command wrote, none without a file.

    Raises StorageError for a file that holds anything else.
    """
    found: dict[str, Any] = {}
    try:
        found = read_json(path)
        ours = found.keys() <= {*names}
    except UnreadableError as error:
        ours = error.missing and not os.path.lexists(path)
    if not ours or path.is_symlink():
        way = f"(move it away, or another {argument})"
        raise StorageError(f"not written: {path}: no figures of minigpt.bench {way}")
    return found
