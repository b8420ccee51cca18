"""One entry of experiments/LEADERBOARD.md: three seeds from nothing, each a whole process.

    python experiments/leaderboard/enter.py minute_muon                       the entry, three seeds
    python experiments/leaderboard/enter.py minute_muon --choose optim.lr=0.02    a try, elsewhere

An entry is a file of experiments/leaderboard/conf/experiment. Its runs train on 35 plays and end
with the bits per byte of the three that are held out (6.3 % of the text), read once. Each is added
to results.csv as it ends; the same command goes on with the seeds that are missing. `--choose` is
for finding its values: it never sees the held-out plays. It trains on 32 of the 35 and evaluates on
the other three, a tenth of their bytes.

The clock runs from before the command to after its end: imports, tokenizer, tokens, training,
evaluation, a sample, a checkpoint.
"""

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from minigpt.data.shakespeare import Shakespeare

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
HELD_OUT = ["the-comedy-of-errors", "king-john", "timon-of-athens"]
CHOOSING = ["a-winter-s-tale", "richard-iii", "othello"]  # 10.0 % of the training plays' bytes
SEEDS = [100, 101, 102]
CLASSES = {"minute": 60, "three": 180, "thirty": 1800}  # seconds, by an entry's first word
RESULTS = HERE / "results.csv"
COLUMNS = ["entry", "seed", "bits_per_byte", "seconds", "tokens", "parameters", "commit", "machine"]


def plays_for_choosing() -> list[str]:
    """Overrides that take the held-out plays away and hold out three others."""
    training = [path.stem for path in Shakespeare(HELD_OUT).paths() if path.stem not in HELD_OUT]
    return [f"data.plays=[{','.join(training)}]", f"data.val_plays=[{','.join(CHOOSING)}]"]


def whole_process(entry: str, seed: int, overrides: list[str]) -> dict[str, Any]:
    """A run from nothing in an empty folder: its summary, and `seconds` of the whole process."""
    command = [sys.executable, "train.py", "--config-dir", str(HERE / "conf")]
    command += [f"experiment={entry}", f"seed={seed}", "logger=none", *overrides]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    with tempfile.TemporaryDirectory() as folder:
        command += [f"output_dir={folder}/outputs", f"data_dir={folder}/tokens"]
        begin = time.perf_counter()
        subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - begin
        (summary,) = Path(folder).glob("outputs/*/summary.json")
        return json.loads(summary.read_text()) | {"seconds": seconds}


def commit() -> str:
    """The commit that is checked out; an entry with uncommitted changes has none."""
    changed = subprocess.check_output(
        ["git", "status", "--porcelain", "--", "minigpt", "conf", "train.py", HERE / "conf"],
        cwd=ROOT, text=True,
    )  # fmt: skip
    if changed:
        raise SystemExit("commit first: an entry names the commit that ran it")
    return subprocess.check_output(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True
    ).strip()


def machine() -> str:
    """Cores, CPU and PyTorch: seconds of one machine say little about another's."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        if line.startswith("model name"):
            cpu = line.split(":")[1].strip()
            break
    return f"{os.cpu_count()} cores, {cpu}, torch {version('torch')}"


def entered(entry: str) -> dict[int, float]:
    """Bits per byte by seed, of the entry's runs in results.csv."""
    if not RESULTS.exists():
        return {}
    with RESULTS.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["entry"] == entry]
    return {int(row["seed"]): float(row["bits_per_byte"]) for row in rows}


def add(row: list[Any]) -> None:
    """Append a run to results.csv."""
    with RESULTS.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if file.tell() == 0:
            writer.writerow(COLUMNS)
        writer.writerow(row)


def enter(entry: str, limit: int) -> None:
    """Run the seeds that results.csv lacks; say what all of them come to."""
    revision = commit()
    for seed in SEEDS:
        if seed in entered(entry):
            continue
        summary = whole_process(entry, seed, [])
        bits, seconds = round(summary["val_bits_per_byte"], 4), round(summary["seconds"], 1)
        size = [summary["tokens"], summary["parameters"]]
        add([entry, seed, bits, seconds, *size, revision, machine()])
        print(f"{entry} seed {seed}: {bits} bits per byte, {seconds} s")
        if seconds > limit:
            raise SystemExit(f"too slow: {seconds} s, where the class allows {limit}")
    found = entered(entry).values()
    print(f"{entry}: mean {statistics.mean(found):.4f}, spread {statistics.stdev(found):.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("entry", help="a file of experiments/leaderboard/conf/experiment")
    parser.add_argument("overrides", nargs="*", help="with --choose: values to try")
    parser.add_argument("--choose", action="store_true", help="evaluate on three training plays")
    parser.add_argument("--seeds", type=int, nargs="+", help="with --choose: its seeds (0)")
    options = parser.parse_intermixed_args()
    if options.choose:
        overrides = options.overrides + plays_for_choosing()
        for seed in options.seeds or [0]:
            summary = whole_process(options.entry, seed, overrides)
            bits, seconds = summary["val_bits_per_byte"], summary["seconds"]
            print(f"{options.entry} seed {seed}: {bits:.4f} bits per byte, {seconds:.1f} s")
    elif options.overrides or options.seeds:
        parser.error("an entry is its file and three seeds: overrides and --seeds are for --choose")
    elif (limit := CLASSES.get(options.entry.split("_")[0])) is None:
        parser.error(f"{options.entry} is of no class: its name begins with {', '.join(CLASSES)}")
    else:
        enter(options.entry, limit)


if __name__ == "__main__":
    main()
