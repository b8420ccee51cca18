"""The figures as text: tables, then the advice as overrides to copy."""

from collections.abc import Iterable
from statistics import median
from typing import Any

from minigpt.config.places import as_typed_here
from minigpt.terminal import count, duration, gib, table

NOISY = 0.2  # a spread, or a share of others' load, above which figures are called unreliable
PRODUCTS = {"cpu": "2048 x 512 x 1376, a layer of model=small"}
COLUMNS = (
    "model", "parameters", "tokens/s", "spread", "step", "MFU", "memory", "generation", "budget",
    "time",
)  # fmt: skip


def machine_lines(machine: dict[str, Any]) -> list[str]:
    lines = [
        f"machine      {machine['name']}, {machine['cores']} of {machine['cpus']} cores usable, "
        f"device {machine['device']}; PyTorch {machine['torch']}"
    ]
    if machine["load"] is not None and machine["load"] > NOISY * machine["cpus"]:
        lines.append(
            f"BUSY         other work: load {machine['load']:.1f} on {machine['cpus']} cores. "
            "Figures will be too low and threads look worse than they are "
            "(run it again on a quiet machine)"
        )
    return lines


def rate_table(rates: dict[str, list[float]], device: str) -> list[str]:
    """Rows of formats, columns of thread counts; rates: "bf16 2" -> FLOP/s of each round."""
    formats = dict.fromkeys(key.split()[0] for key in rates)
    counts = dict.fromkeys(key.split()[1] for key in rates)
    rows = [["format", *(count(int(n), "thread") for n in counts)]]
    for name in formats:
        of_counts = [rates[f"{name} {n}"] for n in counts]
        rows.append([name, *(f"{median(v) / 1e9:,.0f} ({spread(v):.0%})" for v in of_counts)])
    rounds, shape = len(next(iter(rates.values()))), PRODUCTS.get(device, "8192 x 8192 x 8192")
    title = f"matrix products, GFLOP/s: median of {rounds} rounds (spread); {shape}"
    return [title, *table(rows, indent="  ")]


def model_table(results: dict[str, dict[str, Any]], tokens: int | None) -> list[str]:
    """A row for each model. `~` marks what was not measured, but estimated from FLOPs."""
    rows: list[tuple[str, ...]] = [COLUMNS]
    for name, r in results.items():
        parameters = f"{r['parameters'] / 1e6:.1f}M" if "parameters" in r else "-"
        if "tokens_per_s" not in r:
            rows.append((name, parameters, f"not measured: {r['skipped']}"))
            continue
        about = "~" if r.get("estimated") else ""
        generation = max(r.get("generation", {}).items(), key=lambda item: item[1], default=None)
        budget = tokens or r["budget_tokens"]
        rows.append(
            (
                name,
                parameters,
                f"{about}{r['tokens_per_s']:,.0f}",
                f"{r['spread']:.0%} of {r['rounds']}" if r.get("rounds", 0) > 1 else "one round",
                duration(r["step_s"]),
                f"{about}{r['mfu']:.0%}",
                gib(r["memory"]) if "memory" in r else "-",
                f"{generation[1]:,.0f}/s {generation[0]}" if generation else "-",
                quantity(budget) if budget else "see --tokens",
                f"{about}{duration(budget / r['tokens_per_s'])}" if budget else "-",
            )
        )
    return table(rows, indent="  ")


def detail_lines(name: str, r: dict[str, Any]) -> list[str]:
    """What was compared on the way to a model's figures."""
    if "formats" not in r:
        return []
    ranking = sorted(r["formats"].items(), key=lambda item: -item[1])
    compared = ", ".join(f"{key.replace(' ', ' x ')} {rate:,.0f}" for key, rate in ranking)
    sizes = ", ".join(
        f"{size}: {row['tokens_per_s']:,.0f}, {gib(row['memory'])} "
        f"(dry_run {gib(row['memory_estimated'])})"
        for size, row in r["micro_batches"].items()
    )
    batch = f"{r['batch_size']} x {r['seq_len']} tokens"
    lines = [
        f"tokens/s by format x threads: {compared}",
        f"by micro-batch, with peak memory: {sizes}",
        f"the optimizer takes {r['optimizer_share']:.0%} of a step of {batch}",
    ]
    if "compile_speedup" in r:
        gain, cost = r["compile_speedup"], r["compile_s"]
        lines.append(f"compiled: {gain:.2f}x the eager rate, after {cost:.0f} s of compiling")
    elif "compile_note" in r:
        lines.append(f"compiled: {r['compile_note']}")
    first = f"  {name}: "
    return [(" " * len(first) if index else first) + line for index, line in enumerate(lines)]


def overrides(r: dict[str, Any]) -> list[str]:
    """What a model's figures advise, as arguments of train.py."""
    advice = [f"train.precision={r['precision']}"]
    if r["device"] == "cpu":
        advice.append(f"train.threads={r['threads']}")
    advice.append(f"train.micro_batch_size={r['micro_batch_size']}")
    if "compile_speedup" in r:
        advice.append(f"train.compile={'true' if r['compile_speedup'] > 1.05 else 'false'}")
    return advice


def advice_lines(results: dict[str, dict[str, Any]], commands: dict[str, list[str]]) -> list[str]:
    lines = [
        "advice: copy a line. In a study give every arm the same; "
        "precision is a part of what a run is."
    ]
    for name, r in results.items():
        if "precision" not in r:
            continue
        advised = overrides(r)
        keys_advised = {override.partition("=")[0] for override in advised}
        given = [o for o in commands[name] if o.partition("=")[0] not in keys_advised]
        keys = ["precision", *(["threads"] if r["device"] == "cpu" else [])]
        same = all(r["auto"][key] == r[key] for key in keys)
        told = r["auto"]["precision"]
        if r["device"] == "cpu":
            told += f", {count(r['auto']['threads'], 'thread')}"
        lines.append(f"  {as_typed_here('python train.py')} {' '.join([*given, *advised])}")
        lines.append(f"    # {'as' if same else 'not what'} the defaults choose here ({told})")
    return lines


def warnings(rates: dict[str, list[float]], results: dict[str, dict[str, Any]]) -> list[str]:
    """Figures that moved too much to be believed."""
    noisy = [f"matrix products {key}" for key, values in rates.items() if spread(values) > NOISY]
    noisy += [name for name, r in results.items() if r.get("spread", 0.0) > NOISY]
    if not noisy:
        return []
    what = f"rounds differ by more than {NOISY:.0%}: {', '.join(noisy)}"
    return [f"NOISY        {what} (is something else running?)"]


def spread(values: list[float]) -> float:
    """Range over median."""
    return (max(values) - min(values)) / median(values)


def quantity(tokens: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if tokens >= size:
            return f"{tokens / size:.3g}{unit}"
    return f"{tokens:.0f}"


TITLES = {
    "machine": "The machine",
    "tests": "Tests marked gpu",
    "programs": "Tests of whole programs",
    "measures": "Tests that measure time or memory",
    "resume": "A run killed and resumed, train.deterministic=true",
    "losses": "Losses of the same 20 steps",
    "speed": "Training in bf16 with AdamW; Llama is transformers', in minigpt's loop",
    "muon": "A step of Muon on the hidden matrices of a model; on a CPU operators, not launches",
}
REHEARSAL = """\
**This is a rehearsal on a CPU.** It shows that the kit runs to its end here, and says nothing about
any GPU. Models have one layer of width 64. Not run: CUDA against the CPU, copies to a device,
deterministic kernels of CUDA, code of Triton, a device's clock and memory, launches of kernels, the
sizes small and medium, Llama and medium compiled, and the tests that say skipped.
"""


def kit_report(
    done: dict[str, dict[str, Any]], facts: dict[str, Any], stages: Iterable[str], command: str
) -> str:
    """The report of minigpt.bench.gpu, in Markdown: every figure or failure so far."""
    on_cpu = facts["device"] == "cpu"
    lines = [f"# {'Rehearsal on a CPU' if on_cpu else facts['name']}", "", f"`{command}`", ""]
    lines += [REHEARSAL] if on_cpu else []
    lines += [f"- {stage} was not reached" for stage in stages if stage not in done]
    lines += [f"- {stage} FAILED: {r['failed']}" for stage, r in done.items() if r["failed"]]
    for kind, title in TITLES.items():
        results = {stage: r for stage, r in done.items() if stage.split()[0] == kind}
        rows = [{"device": facts["device"], **row} for r in results.values() for row in r["rows"]]
        if kind == "machine":
            rows = [{"what": key, "value": value} for row in rows for key, value in row.items()]
        keys = dict.fromkeys(key for row in rows for key in row)
        cells = [[*keys], ["---"] * len(keys), *([cell(row.get(k)) for k in keys] for row in rows)]
        ended = [
            f"{stage}: {r['s']:.0f} s, ended {r['date']}, at commit {r['commit']}"
            for stage, r in results.items()
        ]
        measured = [f"| {' | '.join(row)} |" for row in cells] if rows else ["Nothing is known."]
        lines += ["", f"## {title}", "", *measured, "", "; ".join(ended)]
    return "\n".join([*lines, ""])


def cell(value: Any) -> str:
    """A value in a table of Markdown, numbers to four digits."""
    if isinstance(value, float):
        return f"{value:,.0f}" if 1e3 <= abs(value) < 1e9 else f"{value:.4g}"
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", " ")
