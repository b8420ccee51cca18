"""How cost grows with model size, sequence length and batch, beside what `dry_run=true` says.

    python experiments/speed/scaling.py                  missing points, figure, table
    python experiments/speed/scaling.py --seconds 170    no new point later; it goes on next time

bf16 on one thread, each point in a process of its own (peak memory), stepped by the training loop
on random tokens with Muon. The rate of matrix products is measured beside each point. Remove a row
of scaling.csv to measure it again.
"""

import argparse
import csv
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from in_readme import put

HERE = Path(__file__).parent
RESULTS, FIGURE = HERE / "scaling.csv", HERE / "scaling.png"
VOCABULARY = {"tiny": "shakespeare", "small": "fineweb_edu", "medium": "fineweb_edu"}
OWN = {"tiny": 128, "small": 512, "medium": 1024}  # sequence length of the model's file
POINTS = list(
    dict.fromkeys(
        [("tiny", 128, 16), ("small", 512, 4), ("medium", 1024, 2)]
        + [("tiny", 2**n, 4096 // 2**n) for n in range(7, 13)]
        + [("tiny", 128, 2**n) for n in range(8)]
        + [("small", 2**n, 4096 // 2**n) for n in range(7, 13)]
        + [("small", 512, 2**n) for n in range(5)]
        + [("medium", 1024, 1), ("medium", 1024, 4)]
    )
)
COLOURS = {"tiny": "tab:blue", "small": "tab:orange", "medium": "tab:green"}
Row = dict[str, float]
Key = tuple[str, int, int]


def overrides(model: str, seq_len: int, batch: int) -> list[str]:
    sizes = [f"model.max_seq_len={seq_len}", f"train.batch_size={batch}"]
    names = [f"model={model}", f"data={VOCABULARY[model]}"]
    return [*names, *sizes, "train.precision=bf16", "train.threads=1"]


def estimated_memory(model: str, seq_len: int, batch: int) -> float:
    """What dry_run=true says now, bytes."""
    import torch

    from minigpt.cli import composition, process
    from minigpt.config.build import build, choose_precision
    from minigpt.config.plan import plan_of
    from minigpt.train import memory

    process.set_up_composing()
    typed = overrides(model, seq_len, batch)
    cfg = plan_of(composition.compose("train", typed, None, plan_of)).config
    vocab_size = cfg["data"]["tokenizer"]["vocab_size"]
    with torch.device("meta"):
        built = build(cfg["model"], vocab_size)
    return memory.estimate(cfg, built, batch, vocab_size, choose_precision(cfg)).total


def measure(model: str, seq_len: int, batch: int) -> Row:
    """One point, in this process."""
    import torch

    from minigpt.bench.machine import peak_memory
    from minigpt.bench.model import Model
    from minigpt.cli import process
    from minigpt.train.peak import matrix_product_flops

    process.set_up_composing()
    torch.set_num_threads(1)
    under_test = Model(overrides(model, seq_len, batch))
    products = [matrix_product_flops("cpu", "bf16", 0.2)]
    step = lambda count: under_test.steps(under_test.chosen, batch, count)
    warm = step(1)[0].total
    times = step(max(3, min(30, int(4 / warm))))
    best = min(times, key=lambda t: t.total)  # other work on the machine only ever adds
    peak = peak_memory("cpu")
    products.append(matrix_product_flops("cpu", "bf16", 0.2))
    return {
        "parameters": under_test.parameters,
        "flops_per_token": under_test.flops_per_token,
        "newton_schulz_flops": under_test.optimizer.flops_per_step(),
        "steps": len(times),
        "step_s": best.total,
        "forward_backward_s": best.forward_backward,
        "optimizer_s": best.optimizer,
        "memory": peak,
        "product_flops": max(products),
    }


def read() -> dict[Key, Row]:
    """The points there are."""
    if not RESULTS.exists():
        return {}
    with open(RESULTS, newline="") as file:
        return {
            (row.pop("model"), int(row.pop("seq_len")), int(row.pop("batch"))): {
                k: float(v) for k, v in row.items()
            }
            for row in csv.DictReader(file)
        }


def write(rows: dict[Key, Row]) -> None:
    ordered = [(key, rows[key]) for key in POINTS if key in rows]
    with open(RESULTS, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["model", "seq_len", "batch", *ordered[0][1]])
        writer.writerows(
            [*key, *(f"{value:.6g}" for value in row.values())] for key, row in ordered
        )


def mfu(row: Row, tokens: int) -> float:
    """Of forward and backward alone."""
    return tokens * row["flops_per_token"] / row["forward_backward_s"] / row["product_flops"]


def table(rows: dict[Key, Row]) -> str:
    lines = [
        "| model | sequence x batch | tokens/s | MFU | optimizer | other | peak memory "
        "| dry_run says |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model, seq_len, batch in sorted(
        rows, key=lambda key: (list(COLOURS).index(key[0]), key[1], key[2])
    ):
        row, tokens = rows[model, seq_len, batch], seq_len * batch
        other = row["step_s"] - row["forward_backward_s"] - row["optimizer_s"]
        lines.append(
            f"| {model} | {seq_len:,} x {batch} | {tokens / row['step_s']:,.0f} "
            f"| {mfu(row, tokens):.0%} | {row['optimizer_s'] / row['step_s']:.0%} "
            f"| {other / row['step_s']:.1%} | {row['memory'] / 2**30:.2f} GiB "
            f"| {row['memory_estimated'] / row['memory'] - 1:+.0%} |"
        )
    return "\n".join(lines)


def draw(rows: dict[Key, Row]) -> None:
    """Forward and backward per token over FLOPs per token; MFU over batch; memory over tokens."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (length, batches, memory) = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    rate = median(row["product_flops"] for row in rows.values())
    for model, colour in COLOURS.items():
        own = {key: row for key, row in rows.items() if key[0] == model}
        series = sorted((t, row) for (_, t, b), row in own.items() if t * b == 4096)
        if len(series) > 1:
            xs = [t for t, _ in series]
            ys = [1e6 * r["forward_backward_s"] / 4096 for _, r in series]
            length.plot(xs, ys, "o", color=colour, label=model)
            for share, style in ((1.0, "-"), (0.5, ":")):
                ys = [1e6 * r["flops_per_token"] / rate / share for _, r in series]
                length.plot(xs, ys, style, color=colour, alpha=0.6)
        series = sorted((t * b, row) for (_, t, b), row in own.items() if t == OWN[model])
        xs = [tokens for tokens, _ in series]
        batches.plot(
            xs, [tokens / r["step_s"] for tokens, r in series], "o", color=colour, label=model
        )
        ideal = [
            t / ((t * r["flops_per_token"] + r["newton_schulz_flops"]) / rate) for t, r in series
        ]
        batches.plot(xs, ideal, "-", color=colour, alpha=0.6)
        batches.plot(xs, [y / 2 for y in ideal], ":", color=colour, alpha=0.6)
        memory.plot(xs, [r["memory"] / 2**30 for _, r in series], "o", color=colour, label=model)
        memory.plot(
            xs, [r["memory_estimated"] / 2**30 for _, r in series], "-", color=colour, alpha=0.6
        )
    length.set(
        xlabel="sequence length (4,096 tokens in all)", ylabel="forward and backward, µs per token"
    )
    batches.set(xlabel="tokens in a step", ylabel="tokens/s, Muon's step included")
    memory.set(xlabel="tokens in a micro-batch", ylabel="peak memory, GiB")
    length.set_title(
        "line: FLOPs at the rate of matrix products,\ndotted: at half of it", fontsize=10
    )
    batches.set_title("line: FLOPs with Newton-Schulz at that rate,\ndotted: half", fontsize=10)
    memory.set_title("line: what dry_run says", fontsize=10)
    for axes in (length, batches, memory):
        axes.set(xscale="log", yscale="log")
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    for axis, ticks in (
        (length.xaxis, [128, 512, 2048]), (length.yaxis, [10, 30, 100, 300, 1000]),
        (batches.xaxis, [128, 512, 2048, 8192]), (batches.yaxis, [100, 1000, 10_000, 100_000]),
        (memory.xaxis, [128, 512, 2048, 8192]), (memory.yaxis, [0.5, 1, 2, 4]),
    ):  # fmt: skip
        axis.set_ticks(ticks, [f"{tick:,}" for tick in ticks])
    figure.savefig(FIGURE, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="start no point after so many seconds"
    )
    parser.add_argument("--point", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        model, seq_len, batch = options.point
        print(json.dumps(measure(model, int(seq_len), int(batch))))
        return
    rows, end = read(), time.monotonic() + options.seconds
    for key in POINTS:
        if key not in rows and time.monotonic() < end:
            command = [sys.executable, __file__, "--point", *map(str, key)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows[key] = json.loads(done.stdout)
            write(rows)
            shown = {name: float(f"{value:.4g}") for name, value in rows[key].items()}
            print(*key, shown, flush=True)
    print(f"{len(rows)} of {len(POINTS)} points")
    for key, row in rows.items():
        row["memory_estimated"] = estimated_memory(*key)
    draw(rows)
    put("scaling", table(rows))


if __name__ == "__main__":
    main()
