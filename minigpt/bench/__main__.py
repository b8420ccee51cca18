"""What this machine does with minigpt's models: python -m minigpt.bench; see --help."""

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from minigpt.bench.processes import figures_in, measure
from minigpt.cli import composition, process
from minigpt.cli.arguments import Parser, exit_code_of
from minigpt.errors import ConfigError
from minigpt.files.durable import write_atomic, writing

if TYPE_CHECKING:
    from minigpt.config.plan import Plan

DESCRIPTION = """\
Measure this machine and end in advice to copy: number format, threads, micro-batch, compile or not.

  python -m minigpt.bench                               tiny, small and medium, in two minutes
  python -m minigpt.bench --only small --seconds 60     one model
  python -m minigpt.bench --tokens 1_000_000_000        how long each takes for a billion tokens
  python -m minigpt.bench --only small optim=adamw model.n_layers=12     your own variant
  python -m minigpt.bench --json machine.json           every figure, for a script
  python -m minigpt.bench gpu                           ten minutes on a GPU: does all of it work?
"""
EPILOG = """\
What the columns say
  tokens/s    training, by the product's own loop on random tokens, per optimizer step of
              train.batch_size; median of rounds in which formats and threads take turns.
              spread: (slowest - fastest) / median over the rounds
  MFU         model FLOPs (6 per weight and token, and attention) over the device's peak for the
              same number format: from the data sheet of a known GPU, else the fastest matrix
              product measured here
  memory      largest, of a process that trains only this model (on a GPU: of its allocator)
  generation  tokens per second of one text with a key/value cache, and the faster format
  ~           not measured, since a step takes too long: from FLOPs, at the MFU of the largest
              model that was measured

A value that you give (train.precision=bf16, train.threads=1, train.micro_batch_size=8) is kept and
not varied. Only this command measures in order to advise: train.py follows fixed rules
(minigpt/config/precision.py), so that two jobs of a sweep choose alike. Nothing is downloaded, no
data is needed, nothing is written but --json FILE.

Exit codes: 0 done; 2 bad arguments; 6 FILE cannot be written.
"""
# The command that each size's file in conf/model/ names.
COMMANDS = {
    "tiny": ["model=tiny"],
    "small": ["model=small", "data=fineweb_edu"],
    "medium": ["model=medium", "data=fineweb_edu"],
    "large": ["model=large", "data=fineweb_edu"],
}
SHARES = {"tiny": 1.0, "small": 2.5, "medium": 3.0, "large": 3.0}  # of the time
COMPILE_SHARE = 2.0
PRODUCTS_SHARE = 0.1
FIGURES = {"machine", "product_flops", "models"}  # in the file of --json


def parser() -> Parser:
    p = Parser("python -m minigpt.bench", DESCRIPTION, EPILOG)
    add = p.add_argument
    add("overrides", metavar="KEY=VALUE", nargs="*", help="as behind train.py, for every model")
    add("--only", metavar="MODEL", action="append", choices=list(COMMANDS),
        help=f"of {', '.join(COMMANDS)}")  # fmt: skip
    add("--seconds", type=float, default=120.0, help="all of it ends by then (default 120)")
    add("--tokens", type=int, metavar="N",
        help="budget to estimate the time of (default: each model's own)")  # fmt: skip
    add("--json", metavar="FILE", type=lambda text: Path(text).expanduser(),
        help="write every figure here")  # fmt: skip
    return p


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    typed = sys.argv[1:] if arguments is None else arguments
    if typed[:1] == ["gpu"]:
        from minigpt.bench import gpu

        return exit_code_of(lambda: gpu.main(typed[1:]))
    return exit_code_of(lambda: bench(parser().parse_intermixed_args(typed)))


def bench(options: argparse.Namespace) -> None:
    """Check everything, then measure matrix products and each model in turn, then advise."""
    deadline = time.time() + options.seconds
    check(options)
    from minigpt.bench import report
    from minigpt.bench.machine import machine_of, product_rates
    from minigpt.config.build import choose_precision
    from minigpt.config.plan import plan_of
    from minigpt.config.precision import missing_compiler

    process.set_up_composing()
    names = list(dict.fromkeys(options.only or ["tiny", "small", "medium"]))
    commands = {name: [*COMMANDS[name], *options.overrides] for name in names}
    plans = {
        name: plan_of(composition.compose("train", commands[name], None, plan_of)) for name in names
    }
    train = plans[names[0]].config["train"]
    chosen = choose_precision(plans[names[0]].config)  # from here on PyTorch is loaded
    chosen.activate()
    machine = machine_of(chosen.device)
    say(report.machine_lines(machine))
    rates = product_rates(chosen.device, train, PRODUCTS_SHARE * options.seconds)
    say(report.rate_table(rates, chosen.device))

    ranking = sorted(rates, key=lambda key: -median(rates[key]))
    candidates = [(key.split()[0], int(key.split()[1])) for key in ranking]
    compiles = train["compile"] == "auto" and missing_compiler(chosen.device) is None
    to_compile = [] if not compiles else names if chosen.device == "cuda" else names[:1]
    shares = {name: SHARES[name] + COMPILE_SHARE * (name in to_compile) for name in names}
    results: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(names):
        later = sum(shares[other] for other in names[number:])
        unit_s = max(0.0, deadline - time.time()) / later
        compiling_s = COMPILE_SHARE * unit_s if name in to_compile else 0.0
        run_s = SHARES[name] * unit_s
        results[name] = measure(name, commands[name], candidates, run_s, compiling_s)
        budget = own_budget(plans[name])
        results[name] |= derived(results, name, chosen.device, rates) | {"budget_tokens": budget}

    say(["", f"training{'' if options.tokens is None else f', to {options.tokens:,} tokens'}"])
    say(report.model_table(results, options.tokens))
    details = [line for name in names for line in report.detail_lines(name, results[name])]
    say(["", "compared", *details, *report.warnings(rates, results)])
    say(["", *report.advice_lines(results, commands)])
    if options.json is not None:
        figures = {"machine": machine, "product_flops": rates, "models": results}
        figures_in(options.json, FIGURES, "--json")
        with writing(options.json, "--json"):
            write_atomic(options.json, (json.dumps(figures, indent=1) + "\n").encode())


def say(lines: list[str]) -> None:
    print("\n".join(lines), flush=True)


def check(options: argparse.Namespace) -> None:
    """Raise ConfigError or StorageError for arguments that cannot be."""
    if not 5 <= options.seconds <= 86400:
        raise ConfigError(f"out of range: --seconds {options.seconds:g} (5 to 86400)")
    if options.tokens is not None and options.tokens < 1:
        raise ConfigError(f"out of range: --tokens {options.tokens} (at least 1)")
    if options.json is not None:
        if not options.json.absolute().parent.is_dir():
            raise ConfigError(f"no such folder: --json {options.json} (make it first)")
        figures_in(options.json, FIGURES, "--json")
    if bad := [o for o in options.overrides if "=" not in o]:
        way = "(write key=value; models are chosen with --only)"
        raise ConfigError(*(f"unreadable argument: {o} {way}" for o in bad))


def derived(
    results: dict[str, dict[str, Any]], name: str, device: str, rates: dict[str, list[float]]
) -> dict[str, Any]:
    """A model's MFU; for one that was not measured an estimate from the last that was."""
    import torch

    from minigpt.train.peak import table_flops

    r = results[name]
    if "precision" in r:
        on_gpu = device == "cuda"
        known = table_flops(torch.cuda.get_device_name(), r["precision"]) if on_gpu else None
        peak = known or max(rates[f"{r['precision']} {r['threads']}"])
        return {"peak_flops": peak, "mfu": r["tokens_per_s"] * r["flops_per_token"] / peak}
    measured = [other for other in results.values() if "mfu" in other]
    if not measured or "flops_per_token" not in r:
        return {}
    rate = measured[-1]["mfu"] * measured[-1]["peak_flops"] / r["flops_per_token"]
    return {
        "estimated": True,
        "tokens_per_s": rate,
        "step_s": r["batch_size"] * r["seq_len"] / rate,
        "mfu": measured[-1]["mfu"],
    }


def own_budget(plan: "Plan") -> int | None:
    """Training tokens of the configured run, as far as they are known without its corpus."""
    epochs, most = plan.config["train"]["epochs"], plan.config["data"].get("max_tokens")
    if epochs is None:
        return int(plan.budget().tokens)
    return None if most is None else int(epochs * most)


if __name__ == "__main__":
    sys.exit(main())
