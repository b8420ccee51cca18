"""What this machine does with minigpt's models, in two minutes: python -m minigpt.bench; see
--help.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

from minigpt.cli import composition, process
from minigpt.cli.arguments import Parser, exit_code_of
from minigpt.config import schema
from minigpt.config.budget import budget_of
from minigpt.errors import ConfigError, StorageError
from minigpt.files.durable import storage_error, write_atomic
from minigpt.files.reading import UnreadableError, read_json

DESCRIPTION = """\
Measure this machine and end in advice to copy: number format, threads, micro-batch, compile or not.

  python -m minigpt.bench                                 tiny, small and medium, in two minutes
  python -m minigpt.bench --only small --seconds 60       one model
  python -m minigpt.bench --tokens 1_000_000_000          how long a billion tokens would take each of them
  python -m minigpt.bench --only small optim=adamw model.n_layers=12 train.batch_size=64     your own variant
  python -m minigpt.bench --json machine.json             every figure, for a script
"""
EPILOG = """\
What the columns say
  tokens/s    training, by the product's own loop on random tokens, per optimizer step of train.batch_size; median of
              rounds in which formats and threads take turns. spread: (slowest - fastest) / median over the rounds
  MFU         model FLOPs (6 per weight and token, and attention) over the device's peak for the same number format:
              from the data sheet of a known GPU, else the fastest matrix product measured here
  memory      largest, of a process that trains only this model (on a GPU: of its allocator)
  generation  tokens per second of one text with a key/value cache, and the format that was faster
  ~           not measured, since one step would have taken too long: from FLOPs, at the MFU of the largest one measured

A value that you give (train.precision=bf16, train.threads=1, train.micro_batch_size=8) is kept and not varied. Only
this command measures in order to advise: train.py follows fixed rules (minigpt/config/precision.py), so that two jobs of a
sweep choose alike. Nothing is downloaded, no data is needed, nothing is written but --json FILE.

Exit codes: 0 done; 2 bad arguments; 6 FILE cannot be written.
"""
# The command that each size's file in conf/model/ names.
COMMANDS = {
    "tiny": ["model=tiny"],
    "small": ["model=small", "data=fineweb_edu"],
    "medium": ["model=medium", "data=fineweb_edu"],
    "large": ["model=large", "data=fineweb_edu"],
}
# of the time, as far as the models before leave it
SHARES = {"tiny": 1.0, "small": 2.5, "medium": 3.0, "large": 3.0}
COMPILE_SHARE = 2.0
PRODUCTS_SHARE = 0.1
PRODUCT_ROUNDS = 5
GRACE_S = 3.0  # after which a process that overran its time is ended


def parser() -> Parser:
    p = Parser("python -m minigpt.bench", DESCRIPTION, EPILOG)
    p.add_argument(
        "overrides",
        metavar="KEY=VALUE",
        nargs="*",
        help="as behind train.py, for every model measured",
    )
    p.add_argument(
        "--only",
        metavar="MODEL",
        action="append",
        choices=list(COMMANDS),
        help=f"of {', '.join(COMMANDS)}",
    )
    p.add_argument(
        "--seconds", type=float, default=120.0, help="all of it ends by then (default 120)"
    )
    p.add_argument(
        "--tokens",
        type=int,
        metavar="N",
        help="budget to estimate the time of (default: each model's own)",
    )
    p.add_argument("--json", metavar="FILE", type=Path, help="write every figure here")
    return p


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return exit_code_of(lambda: bench(parser().parse_intermixed_args(arguments)))


def bench(options: argparse.Namespace) -> None:
    """Check everything, then measure matrix products and each model in turn, then advise."""
    from minigpt.bench import report
    from minigpt.config.build import choose_precision
    from minigpt.config.plan import plan_of

    deadline = time.monotonic() + options.seconds
    if not 5 <= options.seconds <= 86400:
        raise ConfigError(f"out of range: --seconds {options.seconds:g} (5 to 86400)")
    if options.tokens is not None and options.tokens < 1:
        raise ConfigError(f"out of range: --tokens {options.tokens} (at least 1)")
    if options.json is not None and not options.json.expanduser().absolute().parent.is_dir():
        raise ConfigError(f"no such folder: --json {options.json} (make it first)")
    if options.json is not None:
        refuse_foreign(options.json.expanduser())
    if bad := [o for o in options.overrides if "=" not in o]:
        raise ConfigError(
            *(
                f"unreadable argument: {o} (write key=value; models are chosen with --only)"
                for o in bad
            )
        )
    schema.register()
    process.register_resolvers()
    names = list(dict.fromkeys(options.only or ["tiny", "small", "medium"]))
    commands = {name: [*COMMANDS[name], *options.overrides] for name in names}
    plans = {
        name: plan_of(composition.compose("train", commands[name], None, plan_of)) for name in names
    }

    chosen = choose_precision(plans[names[0]].config)  # from here on PyTorch is loaded
    chosen.activate()
    train = plans[names[0]].config["train"]
    machine = machine_of(chosen.device)
    print("\n".join(report.machine_lines(machine)), flush=True)
    rates = product_rates(chosen.device, train, PRODUCTS_SHARE * options.seconds)
    of = (
        "2048 x 512 x 1376, a layer of model=small"
        if chosen.device == "cpu"
        else "8192 x 8192 x 8192"
    )
    print("\n".join(report.rate_table(rates, of)), flush=True)

    middle = {key: median(values) for key, values in rates.items()}
    results: dict[str, dict[str, Any]] = {}
    compiles = train["compile"] == "auto" and compiler_there(chosen.device)
    for name in names:
        later = sum(SHARES[n] for n in names[names.index(name) :]) + compiles * COMPILE_SHARE
        seconds = (deadline - time.monotonic()) * SHARES[name] / later
        results[name] = measure(name, commands[name], middle, seconds)
        finish(results, name, plans[name].config, chosen.device, rates)
    if compiles:
        compare_compiled(
            names if chosen.device == "cuda" else names[:1], results, commands, middle, deadline
        )

    print(f"\ntraining{'' if options.tokens is None else f', to {options.tokens:,} tokens'}")
    print("\n".join(report.model_table(results, options.tokens)))
    print(
        "\n".join(
            [
                "",
                "compared",
                *(line for name in names for line in report.detail_lines(name, results[name])),
            ]
        )
    )
    print(
        "\n".join([*report.warnings(rates, results), "", *report.advice_lines(results, commands)]),
        flush=True,
    )
    if options.json is not None:
        figures = {"machine": machine, "product_flops": rates, "models": results}
        try:
            refuse_foreign(options.json.expanduser())
            write_atomic(options.json.expanduser(), (json.dumps(figures, indent=1) + "\n").encode())
        except OSError as error:
            raise storage_error(options.json, error, "--json") from None


def refuse_foreign(path: Path) -> None:
    """Raise StorageError if a file stands there that this command did not write."""
    try:
        ours = read_json(path).keys() == {"machine", "product_flops", "models"}
    except UnreadableError as error:
        ours = error.missing and not os.path.lexists(path)
    if not ours or path.is_symlink():
        raise StorageError(
            f"not written: {path}: no figures of minigpt.bench (move it away, or another --json)"
        )


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_of(device: str) -> dict[str, Any]:
    """What is measured, and how busy it was before."""
    import torch

    cores = usable_cores()
    return {
        "name": torch.cuda.get_device_name()
        if device == "cuda"
        else platform.processor() or platform.machine(),
        "device": device,
        "cores": cores,
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "torch": torch.__version__,
    }


def product_rates(device: str, train: dict[str, Any], seconds: float) -> dict[str, list[float]]:
    """FLOP/s of matrix products by "format threads", several rounds that take turns."""
    import torch

    from minigpt.config import precision
    from minigpt.train.peak import matrix_product_flops

    formats = [train["precision"]] if train["precision"] != "auto" else ["fp32", "bf16", "fp16"]
    if device == "cpu" and train["precision"] == "auto":
        formats.remove("fp16")  # works, twenty times slower
    supported = [p for p in formats if p in precision.formats_of(device)]
    cores = usable_cores()
    counts = (
        sorted({1, *(2**n for n in range(1, 10) if 2**n < cores), cores})
        if device == "cpu"
        else [1]
    )
    counts = [train["threads"]] if train["threads"] and device == "cpu" else counts
    before, each = (
        torch.get_num_threads(),
        seconds / PRODUCT_ROUNDS / (len(supported) * len(counts) + 1),
    )
    rates: dict[str, list[float]] = {
        f"{name} {count}": [] for name in supported for count in counts
    }
    for _ in range(PRODUCT_ROUNDS):
        for key in rates:
            name, count = key.split()
            torch.set_num_threads(int(count))
            rates[key].append(matrix_product_flops(device, name, min(each, 0.5)))
    torch.set_num_threads(before)
    return rates


def compiler_there(device: str) -> bool:
    from minigpt.config import precision

    return precision.missing_compiler(device) is None


def measure(
    name: str, command: list[str], rates: dict[str, float], seconds: float, compile: bool = False
) -> dict[str, Any]:
    """What a process of its own finds out about a model within `seconds`. Raises its
    ConfigError.
    """
    print(
        f"{name}: {'compiling, ' if compile else ''}at most {seconds:.0f} s",
        file=sys.stderr,
        flush=True,
    )
    job = {
        "overrides": command,
        "rates": rates,
        "seconds": seconds,
        "started": time.time(),
        "compile": compile,
    }
    worker = subprocess.Popen(
        [sys.executable, "-m", "minigpt.bench.worker", json.dumps(job)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that compilers end with it
    )
    timer = threading.Timer(seconds + GRACE_S, end, [worker])
    timer.start()
    result: dict[str, Any] = {}
    assert worker.stdout is not None
    try:
        for line in worker.stdout:
            message = json.loads(line)
            if "error" in message:
                raise ConfigError(*message["error"])
            if "say" in message:
                print(f"{name}: {message['say']}", file=sys.stderr, flush=True)
            result = message.get("result", result)
        worker.wait()
    finally:
        timer.cancel()
        end(worker)
        worker.wait()
        worker.stdout.close()
    if worker.returncode and "tokens_per_s" not in result:
        why = (
            f"not done within {seconds:.0f} s"
            if timer.finished.is_set()
            else f"exit code {worker.returncode}"
        )
        result.setdefault("skipped", f"{why} (give --seconds)")
    return result


def end(worker: subprocess.Popen[str]) -> None:
    """Kill a worker and what it started."""
    with suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)


def finish(
    results: dict[str, dict[str, Any]],
    name: str,
    cfg: dict[str, Any],
    device: str,
    rates: dict[str, list[float]],
) -> None:
    """What follows from a model's figures: its budget, its MFU, and where it was not measured an
    estimate.
    """
    import torch

    from minigpt.train.peak import table_flops

    r = results[name]
    if "parameters" not in r:
        return
    peaks = {key: max(values) for key, values in rates.items()}
    if "precision" in r:
        known = (
            table_flops(torch.cuda.get_device_name(), r["precision"]) if device == "cuda" else None
        )
        r["peak_flops"] = known or peaks[f"{r['precision']} {r['threads']}"]
        r["mfu"] = r["tokens_per_s"] * r["flops_per_token"] / r["peak_flops"]
    elif measured := [other for other in results.values() if "mfu" in other]:
        best = measured[-1]
        tokens_per_s = best["mfu"] * best["peak_flops"] / r["flops_per_token"]
        step_s = r["batch_size"] * r["seq_len"] / tokens_per_s
        r |= {"estimated": True, "tokens_per_s": tokens_per_s, "step_s": step_s, "mfu": best["mfu"]}
    r["budget_tokens"] = own_budget(cfg, r["seq_len"])


def own_budget(cfg: dict[str, Any], seq_len: int) -> int | None:
    """Training tokens of the configured run, as far as they are known without its corpus."""
    epochs, most = cfg["train"]["epochs"], cfg["data"].get("max_tokens")
    if epochs is None:
        return budget_of(cfg["train"], seq_len).tokens
    return None if most is None else int(epochs * most)


def compare_compiled(
    names: list[str],
    results: dict[str, dict[str, Any]],
    commands: dict[str, list[str]],
    rates: dict[str, float],
    deadline: float,
) -> None:
    """Compiled against eager, with the best setting of each model, in the time that is left."""
    for index, name in enumerate(names):
        r = results[name]
        if "precision" not in r:
            continue
        seconds = (deadline - time.monotonic()) / (len(names) - index)
        if seconds < 10:
            r["compile_note"] = "not tried, no time left (give --seconds)"
            continue
        setting = [f"train.{key}={r[key]}" for key in ("precision", "threads", "micro_batch_size")]
        found = measure(name, [*commands[name], *setting], rates, seconds, compile=True)
        if "compile_speedup" in found:
            r |= {key: found[key] for key in ("compile_s", "compile_speedup")}
        else:
            r["compile_note"] = f"not done within {seconds:.0f} s (train.compile=false)"


if __name__ == "__main__":
    sys.exit(main())
