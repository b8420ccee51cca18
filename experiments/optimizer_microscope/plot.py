"""Draw what probe=optimizer saw: Muon beside AdamW, on the same batches and initial weights.

python train.py -m optim=muon,adamw probe=optimizer probe.every=20 study=optimizer_microscope
python experiments/optimizer_microscope/plot.py outputs
"""

import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from minigpt.run.metrics import whole_rows
from minigpt.study.find import find

PANELS = {
    "relative_update": "spectral norm of the update / of the weight",
    "orthogonality_error": "orthogonality error of the update",
    "stable_rank_momentum": "stable rank of the momentum",
    "stable_rank_weight": "stable rank of the weight",
}
KINDS = ("q", "v", "up", "down")
COLOURS = {"muon": "tab:blue", "adamw": "tab:orange"}


def runs_of(folder: Path, study: str) -> dict[str, list[dict[str, Any]]]:
    """Arm -> rows of its run in the study."""
    return {
        run.record["choices"]["optim"]: whole_rows(run.folder / "metrics.jsonl")
        for run in find([folder]).runs
        if study in run.studies
    }


def draw(runs: dict[str, list[dict[str, Any]]], target: Path) -> None:
    """One panel for the loss and one for each quantity; a line for each arm and kind of matrix."""
    figure, axes = plt.subplots(
        1, 1 + len(PANELS), figsize=(4 * (1 + len(PANELS)), 3.4), constrained_layout=True
    )
    for arm, rows in runs.items():
        losses = [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row]
        axes[0].plot(*zip(*losses), color=COLOURS[arm], label=arm, linewidth=1)
        for axis, what in zip(axes[1:], PANELS):
            for kind, style in zip(KINDS, ("-", "--", "-.", ":")):
                key = f"probe/hidden/{kind}/{what}"
                points = [(row["step"], row[key]) for row in rows if key in row]
                axis.plot(
                    *zip(*points), style, color=COLOURS[arm], label=f"{arm} {kind}", linewidth=1.2
                )
    axes[0].set_title("training loss, nats per token", fontsize=10)
    axes[0].legend(frameon=False)
    for axis, title in zip(axes[1:], PANELS.values()):
        axis.set_title(title, fontsize=10)
    axes[1].set_yscale("log")
    axes[2].legend(frameon=False, fontsize=7, ncols=2)
    for axis in axes:
        axis.set_xlabel("step")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    draw(
        runs_of(Path(sys.argv[1]), "optimizer_microscope"), Path(__file__).parent / "microscope.png"
    )
