"""Draw when Muon helps: its gain over AdamW by role in the cells of four studies.

python experiments/muon_vs_adamw/gains.py       reads their report.json, writes gains.png here
"""

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from minigpt.compare.figures import COLOURS, STYLE

HERE = Path(__file__).parent
SEQ_LEN = 128  # tokens
# Study, key of its cells, what the axis shows, the factor from the key to it.
AXES = [
    ("muon_horizon", "data.max_tokens", "tokens of the run, millions", 1e-6),
    ("muon_width", "model.d_model", "d_model", 1),
    ("muon_batch_size", "train.batch_size", "tokens a step", SEQ_LEN),
]
EPOCHS = ("muon_epochs", 4 * 1.2288)  # a study of one cell, on the first axis


def gains(study: str) -> list[tuple[dict[str, Any], float, float]]:
    """Of each cell: its keys, the gain in nats, half of its interval."""
    report = json.loads((HERE.parent / study / "report.json").read_text())
    found = []
    for cell in report["cells"]:
        interval = cell["findings"]["muon"]["interval"]
        found.append((cell["cell"], -interval["mean"], (interval["high"] - interval["low"]) / 2))
    return found


def draw(target: Path) -> None:
    """A panel for each study, on one scale of nats."""
    figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.3), sharey=True, constrained_layout=True)
    for axis, (study, key, label, factor) in zip(axes, AXES):
        values, means, halves = zip(*[(cell[key] * factor, *gain) for cell, *gain in gains(study)])
        axis.errorbar(values, means, halves, fmt="o-", color=COLOURS[0], capsize=0, linewidth=2)
        ticks = list(values)
        if study == AXES[0][0]:
            ((_, mean, half),) = gains(EPOCHS[0])
            ticks.append(EPOCHS[1])
            axis.errorbar(EPOCHS[1], mean, half, fmt="s", mfc="white", color=COLOURS[1])
            axis.annotate("four epochs\n(95 %)", (EPOCHS[1], mean + half), (0, 4),
                textcoords="offset points", ha="center", color=COLOURS[1])  # fmt: skip
        axis.axhline(0, color="#1f2328", linewidth=1)
        axis.set_xscale("log", base=2)
        axis.set_xlim(min(ticks) / 1.4, max(ticks) * 1.7)
        axis.set_xticks(ticks, [f"{tick:.2g}" if tick < 10 else f"{tick:,.0f}" for tick in ticks])
        axis.minorticks_off()
        axis.set_xlabel(label)
    axes[0].set_ylabel("AdamW by role minus Muon,\nnats (97.5 %)")
    figure.savefig(target, dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    with plt.rc_context(STYLE):
        draw(HERE / "gains.png")
