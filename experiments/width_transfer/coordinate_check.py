"""Coordinate check: does a wider model's block write entries of the same size?

    python experiments/width_transfer/coordinate_check.py      about two minutes on one thread

For each width a model is drawn, trained a few steps on the same batches of Shakespeare's plays, and
the RMS of an entry of each block's output and of the logits is taken on one fixed batch. In a
parametrization that transfers, it is flat in width: the slope of log RMS over log width is near 0
(|slope| < 0.1 is the usual criterion). Method: Yang et al., arXiv 2203.03466, appendix D.1. Several
seeds are averaged; the table gives the steepest of all blocks. Draws coordinate_check.png too.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from minigpt.cli import composition, process
from minigpt.config.build import build, build_optimizer
from minigpt.config.corpus import prepare_tokens
from minigpt.config.plan import plan_of
from minigpt.data.tokens import Tokens
from minigpt.data.windows import TrainWindows
from minigpt.model.transformer import Transformer
from minigpt.seeding import generator

ROOT = Path(__file__).parents[2]
WIDTHS = (64, 128, 256, 512)
STEPS = (0, 1, 2, 5, 10)
HEAD_SIZE, BATCH_SIZE = 32, 8
ARMS = (
    *((optim, kind) for optim in ("muon", "adamw_by_role") for kind in ("standard", "mup")),
    ("muon optim.hidden.scale=spectral", "mup"),
)
Sizes = dict[str, float]  # where -> RMS
# arm -> step -> where -> width -> RMS
Found = dict[tuple[str, str], dict[int, dict[str, dict[int, float]]]]


def settings(optim: str, kind: str, width: int, lr_scale: float) -> dict[str, Any]:
    """The configuration that train.py would compose."""
    overrides = f"optim={optim} optim.lr_scale={lr_scale} model.parametrization={kind}".split()
    overrides += [f"model.d_model={width}", f"model.n_heads={width // HEAD_SIZE}"]
    return plan_of(composition.compose("train", overrides, None, plan_of)).config


def sizes(model: Transformer, tokens: Tensor) -> Sizes:
    """RMS of an entry of every block's output and of the logits."""
    found: Sizes = {}

    def note(name: str) -> Any:
        return lambda module, inputs, output: found.update(
            {name: output.square().mean().sqrt().item()}
        )

    hooks = [
        block.register_forward_hook(note(f"block {i}")) for i, block in enumerate(model.blocks)
    ]
    with torch.no_grad():
        found["logits"] = model(tokens).square().mean().sqrt().item()
    for hook in hooks:
        hook.remove()
    return found


def run(cfg: dict[str, Any], tokens: Tokens, seed: int) -> dict[int, Sizes]:
    """Step -> sizes, over the first steps at the full lr."""
    model: Transformer = build(cfg["model"], tokens.vocab_size)
    model.init_weights(generator(seed, "init"))
    optimizer = build_optimizer(cfg["optim"], model)
    windows = TrainWindows(tokens.train, model.max_seq_len, seed)
    fixed = torch.from_numpy(windows.batch(10_000, BATCH_SIZE)[0])
    result = {}
    for step in range(max(STEPS) + 1):
        if step in STEPS:
            result[step] = sizes(model, fixed)
        inputs, targets = (torch.from_numpy(array) for array in windows.batch(step, BATCH_SIZE))
        (model(inputs, targets) / targets.numel()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return result


def slope(by_width: dict[int, float]) -> float:
    """Of log RMS over log width, least squares."""
    return float(np.polyfit(np.log(list(by_width)), np.log(list(by_width.values())), 1)[0])


def draw(found: Found, target: Path) -> None:
    figure, axes = plt.subplots(
        2, len(ARMS), figsize=(3.3 * len(ARMS), 5.6), constrained_layout=True, sharex=True
    )
    for column, arm in enumerate(ARMS):
        for row, where in enumerate(("block 3", "logits")):
            axis = axes[row, column]
            for i, step in enumerate(STEPS):
                by_width = found[arm][step][where]
                axis.loglog(list(by_width), list(by_width.values()), "o-", base=2, markersize=4,
                            label=f"step {step}",
                            color=plt.colormaps["viridis"](i / len(STEPS)))  # fmt: skip
            axis.set_title(f"{arm[0].replace('optim.hidden.', '')}, {arm[1]}: {where}", fontsize=10)
            axis.set_xticks(WIDTHS, [str(width) for width in WIDTHS])
            axis.minorticks_off()
            axis.spines[["top", "right"]].set_visible(False)
    for axes_of_row in axes:
        low = min(axis.get_ylim()[0] for axis in axes_of_row)
        high = max(axis.get_ylim()[1] for axis in axes_of_row)
        for axis in axes_of_row:
            axis.set_ylim(low, high)
        axes_of_row[0].set_ylabel("RMS of an entry")
    axes[0, 0].legend(frameon=False, fontsize=8)
    for axis in axes[1]:
        axis.set_xlabel("d_model")
    figure.savefig(target, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--lr-scale", type=float, default=0.25, help="times each preset's lr (no warm-up here)"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    process.set_up_composing()
    tokens = None
    found: Found = {}
    print("| arm | parametrization | what | " + " | ".join(f"step {step}" for step in STEPS) + " |")
    print("|---|---|---|" + "---|" * len(STEPS))
    for arm in ARMS:
        found[arm] = {step: defaultdict(dict) for step in STEPS}
        for width in WIDTHS:
            cfg = settings(*arm, width, arguments.lr_scale)
            if tokens is None:
                tokens = prepare_tokens(cfg["data"], ROOT / "outputs/tokens/coordinate_check")
            runs = [run(cfg, tokens, seed) for seed in range(arguments.seeds)]
            for step in STEPS:
                for where in runs[0][step]:
                    mean = np.mean([one[step][where] for one in runs])
                    found[arm][step][where][width] = float(mean)
        for what in ("blocks", "logits"):
            names = [name for name in found[arm][0] if name.startswith(what.rstrip("s"))]
            steepest = [
                max((slope(found[arm][step][name]) for name in names), key=abs) for step in STEPS
            ]
            cells = [*arm, what, *(f"{value:+.2f}" for value in steepest)]
            print(f"| {' | '.join(cells)} |", flush=True)
    draw(found, Path(__file__).parent / "coordinate_check.png")


if __name__ == "__main__":
    main()
