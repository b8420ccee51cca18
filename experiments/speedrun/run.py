"""Time to nanoGPT's losses on tinyshakespeare: whole processes, beside nanoGPT's own steps.

    python experiments/speedrun/run.py tinyshakespeare.txt --yardstick      five seeds to 1.8857
    python experiments/speedrun/run.py tinyshakespeare.txt --goal 3min --seeds 103 104 105
    python experiments/speedrun/run.py --yardstick
    python experiments/speedrun/run.py tinyshakespeare.txt --choose optim.lr=0.03

`--choose` is for finding values: it never sees the last tenth of the file. Of the first nine tenths
it trains on nine and evaluates on the last.

nanoGPT's `train_shakespeare_char` reports 1.8857 nats a character with its CPU settings and 1.4697
with those for an A100, estimated on random validation batches. Here it is the whole last tenth of
the file (111,540 characters), each once. The clock runs from before the command to after its end:
imports, composition, preparation of the tokens, training, evaluation, a sample and the checkpoint.
The yardstick is nanoGPT's CPU recipe written down here: a GPT-2-shaped model of its size (4 blocks,
width 128, context 64, batch 12, fp32, AdamW), 2,000 iterations and their evaluations, nothing else.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROOT = Path(__file__).parents[2]
GOALS = {
    "nanogpt_cpu": ("speedrun_shakespeare", 1.8857),
    "3min": ("speedrun_shakespeare_3min", 1.4697),
    "30min": ("speedrun_shakespeare_30min", 1.38),
}


class GPT2Block(nn.Module):
    """LayerNorm, attention with as many key as query heads, GELU; no biases, no dropout."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(d, bias=False), nn.LayerNorm(d, bias=False)
        self.qkv, self.o = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False)
        self.up, self.down = nn.Linear(d, 4 * d, bias=False), nn.Linear(4 * d, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.o(
            F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        )
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT2(nn.Module):
    def __init__(
        self, vocab: int = 65, d: int = 128, layers: int = 4, heads: int = 4, context: int = 64
    ) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab, d), nn.Embedding(context, d)
        self.blocks = nn.Sequential(*(GPT2Block(d, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(d, bias=False), nn.Linear(d, vocab, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        return F.cross_entropy(
            self.head(self.norm(self.blocks(x))).flatten(0, 1), targets.flatten()
        )


def yardstick(iterations: int = 2000) -> float:
    """Seconds of nanoGPT's CPU recipe: it evaluates 2 x 20 batches every 250 iterations."""
    torch.manual_seed(1337)
    ids = torch.randint(65, (1_003_854,))
    model = GPT2()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)

    def batch() -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(ids) - 64, (12,)).tolist()
        return torch.stack([ids[i : i + 64] for i in rows]), torch.stack(
            [ids[i + 1 : i + 65] for i in rows]
        )

    begin = time.perf_counter()
    for iteration in range(iterations + 1):
        if iteration % 250 == 0:
            with torch.no_grad():
                for _ in range(2 * 20):
                    model(*batch()).item()
        loss = model(*batch())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - begin


def without_validation(text: Path, folder: Path) -> Path:
    """A file of the first nine tenths, whose own last tenth is for choosing."""
    characters = text.read_text()
    part = folder / "training_part.txt"
    part.write_text(characters[: len(characters) * 9 // 10])
    return part


def whole_process(
    experiment: str, text: Path, seed: int, folder: Path, overrides: list[str]
) -> tuple[float, dict[str, float]]:
    """Seconds from before the command to after its end, and the summary of its run."""
    words = [f"experiment={experiment}", f"data.path={text.resolve()}", f"seed={seed}", *overrides]
    places = [f"output_dir={folder}", f"data_dir={folder}/tokens"]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "train.py", *words, *places], cwd=ROOT, env=environment, check=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    (summary,) = folder.glob("*/summary.json")
    return seconds, json.loads(summary.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "text", type=Path, nargs="?", help="tinyshakespeare.txt, 1,115,394 characters"
    )
    parser.add_argument("overrides", nargs="*", help="with --choose: values to try")
    parser.add_argument("--goal", choices=GOALS, default="nanogpt_cpu")
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102, 103, 104])
    parser.add_argument(
        "--choose", action="store_true", help="train and evaluate on the training part, seed 0"
    )
    parser.add_argument(
        "--yardstick", action="store_true", help="time the yardstick too (alone without a text)"
    )
    options = parser.parse_intermixed_args()
    if options.overrides and not options.choose:
        parser.error("a goal is its experiment: overrides are for --choose")

    if options.yardstick or options.text is None:
        print(
            f"yardstick: 2,000 iterations of nanoGPT's CPU recipe  {yardstick():.1f} s", flush=True
        )
    if options.text is None:
        return
    experiment, wanted = GOALS[options.goal]
    times, losses = [], []
    for seed in [0] if options.choose else options.seeds:
        with tempfile.TemporaryDirectory() as name:
            folder, text = Path(name), options.text
            if options.choose:
                text = without_validation(text, folder)
            seconds, summary = whole_process(experiment, text, seed, folder, options.overrides)
        times.append(seconds)
        losses.append(summary["val_loss"])
        reached = "reached" if losses[-1] <= wanted else "MISSED"
        print(
            f"{experiment} seed {seed}: {seconds:6.1f} s, {losses[-1]:.4f} nats "
            f"({wanted} {reached})",
            flush=True,
        )
    print(f"median {statistics.median(times):.1f} s, worst loss {max(losses):.4f}")


if __name__ == "__main__":
    main()
