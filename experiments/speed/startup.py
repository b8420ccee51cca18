"""How long whole processes of train.py take: to answer, to the first step, and on to their end.

    python experiments/speed/startup.py --data-dir outputs/tokens [--rounds 7] [--dry]

Prepares the tokens of data=shakespeare first where they are missing. Medians; the table goes into
this folder's README. Stages: the functions that begin and end them are wrapped inside one process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from in_readme import put

ROOT = Path(__file__).parent.parent.parent
ARMS = {
    "default, logger=none": ["logger=none", "train.steps=3"],
    "default (wandb offline)": ["train.steps=3"],
    "debug=smoke": ["debug=smoke"],
}
STAGES = [  # border -> what lies before it
    ("python", "Python; our command line, Hydra and OmegaConf imported"),
    ("checked", "configuration composed and checked"),
    ("torch", "torch imported"),
    ("run", "model and optimizer built without memory; training imported"),
    ("begun", "tokens opened, run.json with the digest of the source"),
    ("fit", "weights drawn, optimizer built, logger started"),
    ("first step", "first step"),
    ("last step", "the other steps"),
    ("evaluated", "final evaluation and checkpoint"),
    ("finished", "sample, summary, logger ended"),
    ("end", "Python ends"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", default="outputs/tokens")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dry", action="store_true", help="print, and leave the README alone")
    options = parser.parse_args()
    data_dir = f"data_dir={Path(options.data_dir).resolve()}"
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(WANDB_MODE="offline")
        places = [data_dir, f"output_dir={folder}/runs", f"logger.folder={folder}/wandb"]
        quiet = [data_dir, f"output_dir={folder}/runs", "logger=none", "train.steps=3"]
        seconds("train.py", *quiet)  # prepares tokens, warms the disk
        rounds = range(options.rounds)
        rows = [
            ("`python train.py --help`", [seconds("train.py", "--help") for _ in rounds], "1.0"),
            ("a finished run's answer", [seconds("train.py", *quiet) for _ in rounds], "1.5"),
        ]
        stages = {}
        for arm, (name, arguments) in enumerate(ARMS.items()):
            smoke = [data_dir, f"output_dir={folder}/smoke"] if "debug=smoke" in arguments else None
            where = smoke or (places if "logger=none" not in arguments else places[:2])
            runs = [stamps([*where, *arguments, f"attempt={100 * arm + i + 2}"]) for i in rounds]
            stages[name] = {border: median(run[border] for run in runs) for border, _ in STAGES}
            first = [run["first step"] for run in runs]
            rows.append((f"first step, {name}", first, "8" if name.startswith("default") else ""))
    lines = ["| from the command to | median s (fastest, slowest) | goal |", "|---|---|---|"]
    lines += [
        f"| {what} | {median(t):.2f} ({min(t):.2f}, {max(t):.2f}) | {goal} |"
        for what, t, goal in rows
    ]
    lines += ["", "| stage, seconds | " + " | ".join(stages) + " |"]
    lines += ["|---" * (len(stages) + 1) + "|"]
    previous = dict.fromkeys(stages, 0.0)
    for border, what in STAGES:
        cells = [f"{stages[name][border] - previous[name]:.2f}" for name in stages]
        previous = {name: stages[name][border] for name in stages}
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    table = "\n".join(lines)
    print(table)
    if not options.dry:
        put("startup", table)


def seconds(*command: str) -> float:
    """Wall clock of one process."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, cwd=ROOT, capture_output=True)
    return time.perf_counter() - begin


def stamps(arguments: list[str]) -> dict[str, float]:
    """When one run of train.py passed each border, in seconds since its process was started."""
    with tempfile.NamedTemporaryFile("r") as file:
        begin = time.time()
        seconds(__file__, "--inside", file.name, *arguments)
        end = time.time() - begin
        found = json.load(file)
    return {name: moment - begin for name, moment in found.items()} | {"end": end}


def inside(path: str, arguments: list[str]) -> None:
    """train.py with its borders stamped.

    The first moment of each counts, but the last one of "last step" and what follows it.
    """
    sys.argv = ["train.py", *arguments]
    sys.path.insert(0, str(ROOT))
    moments: dict[str, float] = {}

    def stamp(name: str, last: bool = False) -> None:
        if last or name not in moments:
            moments[name] = time.time()

    def wrap(owner: Any, name: str, before: str | None = None, after: str | None = None) -> None:
        function = getattr(owner, name)

        def stamped(*args: Any, **kwargs: Any) -> Any:
            if before:
                stamp(before)
            result = function(*args, **kwargs)
            if after:
                stamp(after, last=True)
                if after == "last step":
                    stamp("first step")
            return result

        setattr(owner, name, stamped)

    import train
    from minigpt.cli import command  # noqa: F401  (loaded late, but before the first border)
    from minigpt.config import lazy_torch
    from minigpt.run import folder as run_folder

    stamp("python")
    load = lazy_torch.load_torch

    def load_and_wrap() -> None:
        stamp("checked")
        known = "torch" in moments
        load()
        stamp("torch")
        if not known:
            from minigpt.optim.by_role import ByRole
            from minigpt.train import training

            wrap(training, "run", "run")
            wrap(training, "fit", "fit")
            wrap(ByRole, "step", None, "last step")
            wrap(training, "finish", "evaluated")

    lazy_torch.load_torch = load_and_wrap
    wrap(run_folder.RunFolder, "begin", None, "begun")
    code = train.main()
    stamp("finished")
    Path(path).write_text(json.dumps(moments))
    sys.exit(code)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2], sys.argv[3:])
    else:
        main()
