"""The figures as text: tables, then the advice as overrides to copy."""

from statistics import median
from typing import Any

from minigpt.terminal import duration, gib, table

NOISY = 0.2  # a spread or a share of others' load from which on figures are called unreliable


def machine_lines(machine: dict[str, Any]) -> list[str]:
    lines = [
        f"machine      {machine['name']}, {machine['cores']} of {machine['cpus']} cores usable, device "
        f"{machine['device']}; PyTorch {machine['torch']}"
    ]
    if machine["load"] is not None and machine["load"] > NOISY * machine["cpus"]:
        lines.append(
            f"BUSY         other work: load {machine['load']:.1f} on {machine['cpus']} cores. Figures will be too low "
            "and threads look worse than they are (run it again on a quiet machine)"
        )
    return lines


def rate_table(rates: dict[str, list[float]], of: str) -> list[str]:
    """Rows of formats, columns of thread counts; rates: "bf16 2" -> FLOP/s of each round."""
    formats = list(dict.fromkeys(key.split()[0] for key in rates))
    counts = list(dict.fromkeys(key.split()[1] for key in rates))
    lines = [
        f"matrix products, GFLOP/s: median of {len(next(iter(rates.values())))} rounds (spread); {of}"
    ]
    lines.append(
        "  format  "
        + "".join(f"{count + (' thread' if count == '1' else ' threads'):>18}" for count in counts)
    )
    for name in formats:
        cells = []
        for count in counts:
            values = rates.get(f"{name} {count}")
            cells.append(f"{median(values) / 1e9:,.0f} ({spread(values):.0%})" if values else "-")
        lines.append(f"  {name:8}" + "".join(f"{cell:>18}" for cell in cells))
    return lines


def model_table(results: dict[str, dict[str, Any]], tokens: int | None) -> list[str]:
    """A row for each model. `~` marks what was estimated from FLOPs because measuring would have
    taken too long.
    """
    rows: list[tuple[str, ...]] = [
        (
            "model",
            "parameters",
            "tokens/s",
            "spread",
            "step",
            "MFU",
            "memory",
            "generation",
            "budget",
            "time",
        )
    ]
    for name, r in results.items():
        if "tokens_per_s" not in r:
            rows.append((name, f"{r['parameters'] / 1e6:.1f}M" if "parameters" in r else "-",
                         f"not measured: {r.get('skipped', 'stopped on the way')}"))  # fmt: skip
            continue
        about = "~" if r.get("estimated") else ""
        generation = max(r.get("generation", {}).items(), key=lambda item: item[1], default=None)
        budget = tokens or r.get("budget_tokens")
        rows.append(
            (
                name,
                f"{r['parameters'] / 1e6:.1f}M",
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
    compared = ", ".join(
        f"{key.replace(' ', ' x ')} {rate:,.0f}"
        for key, rate in sorted(r["formats"].items(), key=lambda item: -item[1])
    )
    sizes = ", ".join(
        f"{size}: {row['tokens_per_s']:,.0f}, {gib(row['memory'])} (dry_run {gib(row['memory_estimated'])})"
        for size, row in r["micro_batches"].items()
    )
    batch = f"{r['batch_size']} x {r['seq_len']} tokens"
    lines = [
        f"{name}: tokens/s by format x threads: {compared}",
        f"by micro-batch, with peak memory: {sizes}",
        f"the optimizer takes {r['optimizer_share']:.0%} of a step of {batch}",
    ]
    if "compile_speedup" in r:
        lines.append(
            f"compiled: {r['compile_speedup']:.2f}x the eager rate, after {r['compile_s']:.0f} s of compiling"
        )
    elif "compile_note" in r:
        lines.append(f"compiled: {r['compile_note']}")
    return [
        f"  {'' if index == 0 else ' ' * (len(name) + 2)}{line}" for index, line in enumerate(lines)
    ]


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
        "advice: copy a line. In a study give every arm the same; precision is a part of what a run is."
    ]
    for name, r in results.items():
        if "precision" not in r:
            continue
        lines.append(f"  python train.py {' '.join([*commands[name], *overrides(r)])}")
        auto = r["auto"]
        same = auto["precision"] == r["precision"] and (
            r["device"] != "cpu" or auto["threads"] == r["threads"]
        )
        told = f"{auto['precision']}" + (
            f", {auto['threads']} threads" if r["device"] == "cpu" else ""
        )
        lines.append(f"    # {'as' if same else 'not what'} the defaults choose here ({told})")
    return lines


def warnings(rates: dict[str, list[float]], results: dict[str, dict[str, Any]]) -> list[str]:
    """Figures that moved too much to be believed."""
    noisy = [f"matrix products {key}" for key, values in rates.items() if spread(values) > NOISY]
    noisy += [name for name, r in results.items() if r.get("spread", 0.0) > NOISY]
    return [
        f"NOISY        rounds differ by more than {NOISY:.0%}: {', '.join(noisy)} (is something else running?)"
    ] * bool(noisy)


def spread(values: list[float]) -> float:
    """Range over median."""
    return (max(values) - min(values)) / median(values)


def quantity(tokens: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if tokens >= size:
            return f"{tokens / size:.3g}{unit}"
    return f"{tokens:.0f}"
