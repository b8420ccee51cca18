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

from minigpt.compare.figures import COLOURS, STYLE

HERE = Path(__file__).parent
CLASSES = {"1 minute": 60, "3 minutes": 180, "30 minutes": 1800}  # seconds


def draw(target: Path) -> None:
    """Entries in the colour of their class, named beside the fastest of their runs."""
    entries = defaultdict(list)
    with (HERE / "results.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            run = float(row["seconds"]) / 60, float(row["bits_per_byte"])
            entries[row["entry"]].append(run)
    figure, axes = plt.subplots(figsize=(7.4, 3.8), constrained_layout=True)
    for colour, (name, limit) in zip(COLOURS, CLASSES.items()):
        axes.axvline(limit / 60, color=colour, linewidth=1, linestyle=":")
        axes.annotate(name, (limit / 60, 1), (0, 4), xycoords=("data", "axes fraction"),
            textcoords="offset points", ha="center", color=colour)  # fmt: skip
    for name, runs in entries.items():
        minutes, bits = zip(*runs)
        place = next(i for i, limit in enumerate(CLASSES.values()) if max(minutes) * 60 <= limit)
        axes.scatter(minutes, bits, color=COLOURS[place], s=18)
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
