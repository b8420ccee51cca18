"""What a sweep adds to its jobs, on the basic launcher: when they train, and when they are done.

    python experiments/speed/sweep_overhead.py              10 jobs of debug=smoke, twice
    python experiments/speed/sweep_overhead.py --jobs 30

Parts of a job in seconds of wall clock, the median over jobs without the first (which imports torch
and prepares the tokens): `training` is the job's own time by its summary (data, forward and
backward, optimizer, evaluation, saving), `around` the rest of our code (check, build, folder,
sample, record), `folder name` the resolver that gives Hydra the run folder, `Hydra` everything
else, above all composing each job twice. Overhead is all but training. Jobs that had finished
answer without Hydra: their time is that of the whole sweep, typed again, by the number of jobs.
"""

import argparse
import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

import train
from minigpt.cli import process
from minigpt.study import sweep

COLUMNS = ("training", "around", "folder name", "Hydra", "overhead")


@contextlib.contextmanager
def timed(owner: Any, name: str, spans: list[tuple[float, float]]) -> Iterator[None]:
    """Note begin and end of each call of a function, while this lasts."""
    real: Callable[..., Any] = getattr(owner, name)

    def measured(*arguments: Any) -> Any:
        begin = time.perf_counter()
        try:
            return real(*arguments)
        finally:
            spans.append((begin, time.perf_counter()))

    setattr(owner, name, measured)
    try:
        yield
    finally:
        setattr(owner, name, real)


def one_sweep(folder: Path, jobs: int) -> list[dict[str, float]]:
    """Run the sweep in this process; the parts of each job but the first."""
    calls: list[tuple[float, float]] = []
    names: list[tuple[float, float]] = []
    validations: list[tuple[float, float]] = []
    arguments = ["-m", "debug=smoke", f"seed=range({jobs})", f"output_dir={folder / 'outputs'}"]
    sys.argv = ["train.py", *arguments, f"data_dir={folder / 'tokens'}"]
    with (
        timed(sweep.Sweep, "__call__", calls),
        timed(process, "_run_folder", names),
        timed(BasicSweeper, "validate_batch_is_legal", validations),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        assert train.main() == 0
    (record,) = (folder / "outputs" / "sweeps").glob("*.json")
    folders = [folder / "outputs" / job["folder"] for job in json.loads(record.read_text())["jobs"]]
    validation = sum(end - begin for begin, end in validations) / jobs
    parts = []
    for (_, before), (begin, end), run in zip(calls, calls[1:], folders[1:], strict=False):
        naming = sum(stop - start for start, stop in names if before <= start and stop <= begin)
        summary = json.loads((run / "summary.json").read_text())
        parts.append(
            {
                "training": sum(summary["seconds"].values()),
                "job": end - begin,
                "folder name": naming,
                "Hydra": begin - before - naming + validation,
            }
        )
    return parts


def report(parts: list[dict[str, float]]) -> None:
    for part in parts:
        part["around"] = part["job"] - part["training"]
        part["overhead"] = part["around"] + part["folder name"] + part["Hydra"]
    cells = [f"{statistics.median(part[column] for part in parts):.3f}" for column in COLUMNS]
    print(f"| that trains | {len(parts)} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=10)
    arguments = parser.parse_args()
    print("| a job, in seconds | jobs | " + " | ".join(COLUMNS) + " |")
    print("|---|---|" + "---|" * len(COLUMNS))
    with tempfile.TemporaryDirectory() as folder:
        report(one_sweep(Path(folder), arguments.jobs))
        begin = time.perf_counter()
        assert not one_sweep(Path(folder), arguments.jobs), "finished jobs answer without Hydra"
        each = (time.perf_counter() - begin) / arguments.jobs
    print(f"\nA job that had finished takes {each:.3f} s, its share of the sweep's start included.")


if __name__ == "__main__":
    main()
