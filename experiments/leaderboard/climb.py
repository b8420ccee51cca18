"""Draw the leaderboard: each run a dot, bits per byte over the seconds of its whole process.

python experiments/leaderboard/climb.py       reads results.csv, writes climb.png here
"""

import csv
from collections import defaultdict
from pathlib import Path
from statistics import mean

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from enter import CLASSES, HERE, RESULTS

from minigpt.compare.figures import COLOURS, STYLE


def draw(target: Path) -> None:
    """Entries in the colour of their class, named beside the fastest of their runs."""
    entries = defaultdict(list)
    with RESULTS.open(newline="") as file:
        for row in csv.DictReader(file):
            run = float(row["seconds"]) / 60, float(row["bits_per_byte"])
            entries[row["entry"]].append(run)
    figure, axes = plt.subplots(figsize=(7.4, 3.8), constrained_layout=True)
    colours = dict(zip(CLASSES, COLOURS))
    for name, limit in CLASSES.items():
        axes.axvline(limit / 60, color=colours[name], linewidth=1, linestyle=":")
    for name, runs in entries.items():
        minutes, bits = zip(*runs)
        axes.scatter(minutes, bits, color=colours[name.split("_")[0]], s=18)
        axes.annotate(name, (min(minutes), mean(bits)), (-6, 0), textcoords="offset points",
            ha="right", va="center", fontsize=9)  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(0.35, 36)
    axes.set_xticks([1, 3, 10, 30], ["1", "3", "10", "30"])
    axes.minorticks_off()
    axes.set_xlabel("minutes of the whole process, two cores")
    axes.set_ylabel("bits per byte")
    figure.savefig(target, dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    with plt.rc_context(STYLE):
        draw(HERE / "climb.png")
