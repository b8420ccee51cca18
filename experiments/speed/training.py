"""How fast the reference shape trains, and in how much memory, beside transformers' Llama.

    python experiments/speed/training.py --threads 1 2 --rounds 5     rewrites the README's section
    python experiments/speed/training.py --threads 2 --rounds 5 --precisions bf16 --dry

Paired: in every round each of the two takes one step (forward, backward, fused AdamW on all
weights, micro-batch 4), the order alternating; the machine's own rate of matrix products (2048 x
512 x 1376) is measured in the same round. Memory is the peak of a process of its own that takes
three steps. Needs transformers.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from in_readme import put
from torch import nn

from minigpt.bench.machine import peak_memory
from minigpt.config.precision import choose
from minigpt.model.transformer import Transformer
from minigpt.seeding import generator

BATCH, T, V, LAYERS, D, HEADS, D_FF = 4, 512, 20_000, 8, 512, 8, 1376


def ours(checkpointing: bool = False) -> nn.Module:
    model = Transformer(V, LAYERS, D, HEADS, n_kv_heads=1, d_ff=D_FF, max_seq_len=T)
    model.init_weights(generator(0, "init"))
    model.activation_checkpointing = checkpointing
    return model


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=V, hidden_size=D, intermediate_size=D_FF, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=1, max_position_embeddings=T,
        tie_word_embeddings=False, use_cache=False,
    )  # fmt: skip
    return LlamaForCausalLM(config)


ARMS: dict[str, Callable[[], nn.Module]] = {
    "ours": ours, "ours, activation checkpointing": lambda: ours(True), "transformers": llama,
}  # fmt: skip


def stepper(arm: str, precision: str) -> Callable[[], float]:
    """A function that takes one training step and returns its seconds."""
    chosen = choose("cpu", precision, False, d_model=D)
    chosen.activate()
    model = ARMS[arm]()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    tokens = torch.randint(V, (BATCH, T + 1), generator=torch.Generator().manual_seed(0))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]

    def step() -> float:
        begin = time.perf_counter()
        with chosen.autocast():
            if arm == "transformers":
                # it shifts the labels itself
                loss = model(input_ids=inputs, labels=inputs, use_cache=False).loss
            else:
                loss = model(inputs, targets) / targets.numel()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - begin

    return step


def product_rate(dtype: torch.dtype) -> float:
    """FLOP/s of x W' for 2048 rows, 512 in, 1376 out."""
    x, weight = torch.randn(BATCH * T, D).to(dtype), torch.randn(D_FF, D).to(dtype)
    nn.functional.linear(x, weight)
    begin = time.perf_counter()
    for _ in range(10):
        nn.functional.linear(x, weight)
    return 10 * 2 * BATCH * T * D * D_FF / (time.perf_counter() - begin)


def flops_of_step() -> float:
    """Matrix products of a step, the half of the scores that causal masking hides taken off."""
    with torch.device("meta"):
        model = Transformer(V, LAYERS, D, HEADS, n_kv_heads=1, d_ff=D_FF, max_seq_len=T)
    return BATCH * T * (model.flops_per_token(T) - 6 * LAYERS * D * T)


def peak_of(arm: str, precision: str, threads: int) -> float:
    """Peak resident memory in GB of a process that takes three steps."""
    job = ["--threads", str(threads), "--memory", json.dumps([arm, precision])]
    command = [sys.executable, __file__, *job]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def measure(precision: str, rounds: int, threads: int) -> str:
    torch.set_num_threads(threads)
    steps = {arm: stepper(arm, precision) for arm in ("ours", "transformers")}
    seconds: dict[str, list[float]] = {arm: [] for arm in steps}
    rates = []
    for i in range(-1, rounds):  # one to warm up
        taken = {arm: steps[arm]() for arm in (list(steps) if i % 2 else reversed(steps))}
        if i >= 0:
            rates.append(product_rate(torch.bfloat16 if precision == "bf16" else torch.float32))
            for arm, duration in taken.items():
                seconds[arm].append(duration)
    ratios = [b / a for a, b in zip(seconds["ours"], seconds["transformers"], strict=True)]
    shares = [flops_of_step() / a / rate for a, rate in zip(seconds["ours"], rates, strict=True)]
    speed = {arm: BATCH * T / statistics.median(values) for arm, values in seconds.items()}
    memory = {arm: peak_of(arm, precision, threads) for arm in ARMS}
    low, middle, high = statistics.quantiles(ratios, n=4)
    return (
        f"| {precision} | {threads} | {rounds} | {speed['ours']:,.0f} "
        f"| {speed['transformers']:,.0f} | {middle:.2f} ({low:.2f} to {high:.2f}) "
        f"| {statistics.median(rates) / 1e9:.0f} "
        f"| {statistics.median(shares):.0%} | {memory['ours']:.2f} | {memory['transformers']:.2f} "
        f"| {memory['ours'] / memory['transformers']:.2f} "
        f"| {memory['ours, activation checkpointing'] / memory['transformers']:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--precisions", nargs="+", default=["bf16", "fp32"])
    parser.add_argument("--dry", action="store_true", help="print, and leave the README alone")
    parser.add_argument("--memory", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        torch.set_num_threads(arguments.threads[0])
        step = stepper(*arguments.memory)
        for _ in range(3):
            step()
        print(peak_memory("cpu") / 1e9)
        return
    table = [
        "| precision | threads | rounds | ours, tokens/s | transformers "
        "| ours / transformers (quartiles) "
        "| products, GFLOP/s | share | peak, GB | transformers | ratio | with checkpointing |",
        "|---" * 12 + "|",
        *(
            measure(p, arguments.rounds, threads)
            for threads in arguments.threads
            for p in arguments.precisions
        ),
    ]
    print("\n".join(table))
    if not arguments.dry:
        put("training", "\n".join(table))


if __name__ == "__main__":
    main()
