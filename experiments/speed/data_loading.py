"""What reading batches costs: the share of a step of `tiny`, and memory by size of the corpus.

    python experiments/speed/data_loading.py

The corpora are synthetic shards of 40 MB and 4 GB (sparse files: they take no disk). Each size
trains in a process of its own, the same number of steps of the same model; the memory is what the
process holds at the end.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from minigpt.bench.machine import proc_bytes
from minigpt.data.shards import HEADER_BYTES, header, own_layout
from minigpt.data.tokens import Shard, Split, file_identity
from minigpt.data.windows import TrainWindows

SHARD_TOKENS, VOCABULARY, BATCH_SIZE, SEQ_LEN = 20_000_000, 2048, 16, 128


def synthetic_split(folder: Path, n_shards: int) -> Split:
    """Shards of SHARD_TOKENS uint16 ids, all zero but for the header; 40 MB each."""
    shards = []
    for number in range(n_shards):
        path = folder / f"train_{number:05d}.bin"
        path.write_bytes(header(np.dtype("<u2"), SHARD_TOKENS))
        with open(path, "r+b") as file:
            file.truncate(HEADER_BYTES + 2 * SHARD_TOKENS)
        shards.append(Shard(path, number * SHARD_TOKENS, own_layout(path), "", file_identity(path)))
    return Split("train", shards, None, 0)


def train(folder: Path, n_shards: int, steps: int) -> None:
    """Print milliseconds a batch, milliseconds a step without it, resident MB."""
    import torch

    from minigpt.model.transformer import Transformer

    windows = TrainWindows(synthetic_split(folder, n_shards), SEQ_LEN, seed=0)
    model = Transformer(VOCABULARY, n_layers=4, d_model=128, n_heads=4, max_seq_len=SEQ_LEN)
    model.init_weights(torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    batch_ms, step_ms = [], []
    for step in range(steps):
        start = time.perf_counter()
        # from everywhere in the corpus: the order is a shuffle
        inputs, targets = windows.batch(step, BATCH_SIZE)
        loaded = time.perf_counter()
        loss = model(torch.from_numpy(inputs), torch.from_numpy(targets)) / targets.size
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        batch_ms.append(1e3 * (loaded - start))
        step_ms.append(1e3 * (time.perf_counter() - loaded))
    resident = proc_bytes("/proc/self/status", "VmRSS")
    print(statistics.median(batch_ms), statistics.median(step_ms), resident / 2**20)


def in_child(n_shards: int, steps: int) -> tuple[float, float, float]:
    with tempfile.TemporaryDirectory() as folder:
        job = ["--folder", folder, "--shards", str(n_shards), "--steps", str(steps)]
        command = [sys.executable, __file__, *job]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    batch_ms, step_ms, resident_mb = map(float, output.split())
    return batch_ms, step_ms, resident_mb


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--shards", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder:
        train(arguments.folder, arguments.shards, arguments.steps)
        return
    print(f"tiny, batch {BATCH_SIZE} x {SEQ_LEN}, {arguments.steps} steps\n")
    print("| corpus | batch | step without it | share | resident |\n|---|---|---|---|---|")
    for n_shards in (1, 100):
        batch_ms, step_ms, resident_mb = in_child(n_shards, arguments.steps)
        share = batch_ms / (batch_ms + step_ms)
        size = f"{n_shards * 2 * SHARD_TOKENS / 1e6:,.0f} MB"
        print(
            f"| {size} | {batch_ms:.2f} ms | {step_ms:.0f} ms | {share:.2%} "
            f"| {resident_mb:.0f} MB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
