"""Ten minutes on a GPU: what is checked there, and the report; python -m minigpt.bench gpu."""

import os
import re
import shlex
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import minigpt
from minigpt.bench.processes import figures_in, measure, outcome, told_by
from minigpt.bench.report import kit_report
from minigpt.cli.arguments import Parser
from minigpt.errors import ConfigError, StorageError
from minigpt.files.durable import json_bytes, write_atomic, writing
from minigpt.files.reading import json_object, read_lines
from minigpt.terminal import duration, say

DESCRIPTION = """\
Check on a GPU what was written without one, in ten minutes, and write a report.

  python -m minigpt.bench gpu                     typed again it goes on: what is done stays done
  python -m minigpt.bench gpu --out DIR --again   elsewhere, and all of it anew
  python -m minigpt.bench gpu --only muon --only tests --seconds 120    two stages, again

It runs the tests marked gpu; a run that is killed and resumed to the bit; losses, compiled against
eager and the GPU against the CPU; training of small and medium in bf16, eager and compiled, beside
transformers' Llama: tokens/s, MFU, peak memory; Muon's step beside torch.optim.Muon. Each stage has
a share of the time and is cut short at its end. On a GPU those that measure no time go side by
side. Without one it is a rehearsal with small models.
After a mend only what failed, or what --only names, is done again: the report says at which commit
each stage ran.

DIR/<device>.md is the report, DIR/<device>.json the figures. Exit codes: 0 done; 1 a stage failed
or was cut short; 2 bad arguments; 6 DIR cannot be written, or has figures of something else.
"""
# Seconds of 600; with other time each has the same share. After parts of it on an H100, where a
# process begins in 8 s and compiles a model in 33 and 40 s: experiments/gpu.
SHARES = {
    "machine": 15, "tests": 160, "programs": 160, "resume": 160, "losses": 160, "measures": 45,
    "speed small minigpt": 75, "speed small Llama": 70, "speed medium minigpt": 85,
    "speed medium Llama": 80, "muon": 30,
}  # fmt: skip
REHEARSED = SHARES | {
    "tests": 75, "programs": 95, "resume": 80, "losses": 90, "speed small minigpt": 90,
    "speed small Llama": 20, "speed medium minigpt": 20, "speed medium Llama": 20,
}  # fmt: skip
TOGETHER = ("tests", "programs", "resume", "losses")  # on a GPU, whose host has cores to spare
ROOT = Path(minigpt.__file__).parent.parent
CHOSEN = {  # of the tests marked gpu, as behind pytest's -k
    "programs": "bench_measures or saved_on_a_gpu or retry",
    "measures": "mfu or clocks or beside or context",
    "resume": "deterministic",
    "losses": "tf32 or bf16 or fp16 or torch_compile",
}
CHOSEN["tests"] = f"not ({' or '.join(CHOSEN.values())})"
SHRUNK = [
    "model.n_layers=1", "model.d_model=64", "model.n_heads=2", "model.n_kv_heads=2",
    "model.max_seq_len=64", "data.tokenizer.vocab_size=512",
]  # fmt: skip
BATCH_TOKENS = 2**17  # of a step of the speed stages
# Of a stage: date, commit, seconds, rows of figures, why it failed ("": it did not).
Result = dict[str, Any]


def main(arguments: list[str]) -> int:
    """Every stage that has no good result yet, then the report. Returns 1 if a stage failed."""
    p = Parser("python -m minigpt.bench gpu", DESCRIPTION)
    p.add_argument("--out", metavar="DIR", type=Path, default=Path("experiments/gpu"))
    p.add_argument("--seconds", type=float, help="all of it ends by then (600; without a GPU 110)")
    p.add_argument("--again", action="store_true", help="forget the figures that are there")
    p.add_argument("--only", metavar="STAGE", action="append", choices=list(SHARES), default=[],
        help=f"again, and no other; of {', '.join(SHARES)}")  # fmt: skip
    options, begin = p.parse_args(arguments), time.time()
    if options.seconds is not None and not 30 <= options.seconds <= 86400:
        raise ConfigError(f"out of range: --seconds {options.seconds:g} (30 to 86400)")
    facts, why = told_by(["-m", "minigpt.bench.machine"], 120)
    if why:
        raise ConfigError(f"cannot begin: the machine is not known: {why} (see above)")
    device = facts["device"]
    shares, most = (REHEARSED, 110.0) if device == "cpu" else (SHARES, 600.0)
    seconds = options.seconds or most
    name = re.sub(r"[^a-z0-9]+", "-", facts["name"].lower()).strip("-")
    file = options.out / f"{'cpu' if device == 'cpu' else name}.json"
    done = {} if options.again else results_in(file, facts)
    with writing(options.out, "--out"):
        options.out.mkdir(parents=True, exist_ok=True)
    good = {stage for stage, result in done.items() if not result["failed"]}
    stages = [stage for stage in SHARES if stage in (options.only or SHARES.keys() - good)]
    say(f"{len(stages)} of {len(SHARES)} stages on {facts['name']}, at most {duration(seconds)}")
    at_once = [[*group] for _, group in groupby(stages, lambda s: s in TOGETHER or s)]
    groups = at_once if device == "cuda" else [[stage] for stage in stages]
    for number, group in enumerate(groups):
        left = begin + seconds - time.time()
        mine = left * shares[group[0]] / sum(shares[first] for first, *_ in groups[number:])
        limit = duration(max(0.0, mine))
        say(f"{number + 1} of {len(groups)}, {', '.join(group)}: at most {limit}")
        with ThreadPoolExecutor() as pool:
            work = pool.map if group[1:] else map  # Ctrl-C does not reach a thread
            results = [*work(partial(result_of, facts=facts, seconds=mine), group)]
        done |= dict(zip(group, results, strict=True))
        for stage in group:
            if why := done[stage]["failed"]:
                say(f"FAILED {stage}: {why}")
        command = shlex.join(["python", "-m", "minigpt.bench", "gpu", *arguments])
        with writing(file, "--out"):
            write_atomic(file, json_bytes(done))
            report = kit_report(done, facts, SHARES, command).encode()
            write_atomic(file.with_suffix(".md"), report)
    failed = [stage for stage, result in done.items() if result["failed"]]
    say(f"{file.with_suffix('.md')} after {duration(time.time() - begin)}, {len(failed)} failed")
    return 1 if failed else 0


def results_in(file: Path, facts: dict[str, Any]) -> dict[str, Result]:
    """The results that are there. Raises StorageError for those of another GPU or PyTorch."""
    done = figures_in(file, SHARES, "--out")
    for before in done["machine"]["rows"] if "machine" in done else ():
        for key in ("name", "torch"):
            if before[key] != facts[key]:
                change = f"{before[key]} -> {facts[key]}"
                raise StorageError(f"another {key}: {file}: {change} (--again, or another --out)")
    return done


def result_of(stage: str, facts: dict[str, Any], seconds: float) -> Result:
    """Run a stage for at most so many seconds."""
    begin, kind = time.time(), stage.split()[0]
    rows, why = [facts], ""
    if kind == "machine":
        pass
    elif seconds < 1:
        rows, why = [], "no time was left (type it again, or give --seconds)"
    elif kind == "speed":
        rows, why = speed(stage.removeprefix("speed "), facts, seconds)
    elif kind == "muon":
        models = ["tiny"] if facts["device"] == "cpu" else ["small", "medium"]
        script = str(ROOT / "experiments/speed/muon_step.py")
        told, why = told_by([script, *models, "--device", facts["device"], "--json"], seconds)
        rows = told.get("rows", [])
    else:
        rows, why = by_pytest(CHOSEN[stage], facts["device"], seconds)
        if stage in ("resume", "losses"):  # their figures say what passed
            rows = [row for row in rows if row.get("result") != "passed"]
    bad = [row for row in rows if str(row.get("result")).startswith("FAILED")]
    if bad:
        more = f", and {len(bad) - 1} more" if bad[1:] else ""
        more += f"; {why}" if why.startswith("not done") else ""
        why = f"{next(iter(bad[0].values()))}: {bad[0]['result']}{more}"
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    result = {"date": now, "commit": facts["commit"], "s": time.time() - begin}
    return result | {"rows": rows, "failed": why}


def by_pytest(chosen: str, device: str, seconds: float) -> tuple[list[dict[str, Any]], str]:
    """Figures and results of tests marked gpu; in a rehearsal on the CPU, what can be done there.

    chosen: as behind pytest's -k.
    """
    known = sorted(ROOT.glob("tests/**/test_*.py"))
    files = [str(f) for f in known if b"mark.gpu" in b"".join(read_lines(f))]
    if not files:
        return [], f"no tests: {ROOT / 'tests'} (run it in a checkout of the repository)"
    options = ["-m", "gpu", "-k", chosen, "-n", "0", "-q", "-p", "no:cacheprovider"]
    with tempfile.TemporaryDirectory(prefix="minigpt-gpu-") as folder:
        figures = Path(folder) / "figures"
        figures.touch()
        environment = {**os.environ, "MINIGPT_FIGURES": str(figures)}
        if device == "cpu":
            environment["MINIGPT_REHEARSAL"] = "1"
        command = [sys.executable, "-m", "pytest", *options, *files]
        told, why = outcome([*command, f"--basetemp={folder}/tests"], seconds, environment)
        say(told)
        return [json_object(line) for line in read_lines(figures) if line.endswith(b"\n")], why


def speed(name: str, facts: dict[str, Any], seconds: float) -> tuple[list[dict[str, Any]], str]:
    """A model by micro-batch, then its compiled steps, as `python -m minigpt.bench` measures."""
    (size, who), device = name.split(), facts["device"]
    command = [f"model={size}", "data=fineweb_edu", "optim=adamw", f"train.device={device}"]
    large = f"train.batch_size={BATCH_TOKENS // {'small': 512, 'medium': 1024}[size]}"
    command += [*SHRUNK, "train.batch_size=8"] if device == "cpu" else [large]
    compiled = 0.7 * seconds * (device == "cuda" or name == "small minigpt")
    keys = {"rival": who == "Llama", "generate": False}
    try:
        told = measure(name, command, [("bf16", 1)], seconds - compiled, compiled, **keys)
    except ConfigError as error:
        return [], str(error)
    eager, peak = told.get("micro_batches", {}), facts["bf16 peak, FLOP/s"]
    if (best := str(told.get("micro_batch_size"))) in eager:
        eager[best]["tokens_per_s"] = told["tokens_per_s"]  # the median of its rounds
    runs = [(f"eager, micro-batch {n}", row) for n, row in eager.items()]
    runs += [(f"compiled, micro-batch {best}", told["compiled"])] if "compiled" in told else []
    rows = []
    for how, row in runs:
        rows.append({"model": size, "of": who, "how": how, "tokens/s": row["tokens_per_s"]})
        rows[-1]["MFU, %"] = 100 * row["tokens_per_s"] * told["flops_per_token"] / peak
        rows[-1]["peak, GiB"] = row["memory"] / 2**30
        if who == "minigpt" and "memory_estimated" in row:
            rows[-1]["estimated, GiB"] = row["memory_estimated"] / 2**30
    return rows, told.get("skipped", "") or told.get("compile_note", "")
