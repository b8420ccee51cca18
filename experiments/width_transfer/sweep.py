"""Where the best learning rate lies at each width: a table and a figure, from the sweeps' runs.

python train.py -m experiment=width_transfer model.d_model=64 model.n_heads=2
python train.py -m experiment=width_transfer model.d_model=256 model.n_heads=8
python experiments/width_transfer/sweep.py outputs
"""

import csv
import math
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from minigpt.study.find import find

HERE = Path(__file__).parent
COLOURS = {64: "tab:blue", 128: "tab:green", 256: "tab:orange"}
# arm, parametrization -> width -> lr_scale -> loss
Curves = dict[tuple[str, str], dict[int, dict[float, float]]]


def losses(folder: Path) -> tuple[Curves, list[list[object]]]:
    """Final validation losses of the study, and a row for each run.

    A diverged run counts as infinite.
    """
    curves: Curves = {}
    rows: list[list[object]] = []
    for run in find([folder]).runs:
        if "width_transfer" not in run.studies or run.summary is None:
            continue
        config, loss = run.flat_config, run.summary["val_loss"]
        loss = math.inf if loss is None else loss
        arm, kind = run.record["choices"]["optim"], config.get("model.parametrization", "standard")
        width, lr_scale = config["model.d_model"], float(config["optim.lr_scale"])
        curves.setdefault((arm, kind), {}).setdefault(width, {})[lr_scale] = loss
        rows.append([arm, kind, width, lr_scale, loss, run.name])
    return curves, sorted(rows, key=str)


def best(curve: dict[float, float]) -> float:
    return min(curve, key=lambda lr_scale: curve[lr_scale])


def main() -> None:
    curves, rows = losses(Path(sys.argv[1]))
    with open(HERE / "results.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(
            [["optim", "parametrization", "d_model", "lr_scale", "val_loss", "run"], *rows]
        )
    widths = sorted({width for by_width in curves.values() for width in by_width})
    best_at = " | ".join(f"best lr_scale at {w} (loss)" for w in widths)
    print(f"| arm | parametrization | {best_at} | cells moved |")
    print("|---|---|" + "---|" * (len(widths) + 1))
    for (arm, kind), by_width in sorted(curves.items()):
        shown = [f"{best(by_width[w]):g} ({min(by_width[w].values()):.3f})" for w in widths]
        moved = math.log2(best(by_width[widths[-1]]) / best(by_width[widths[0]]))
        print(f"| {arm} | {kind} | " + " | ".join(shown) + f" | {moved:+.0f} |")

    figure, axes = plt.subplots(
        1, len(curves), figsize=(3.4 * len(curves), 3.2), constrained_layout=True, sharey=True
    )
    for axis, ((arm, kind), by_width) in zip(axes, sorted(curves.items())):
        for width, curve in sorted(by_width.items()):
            points = sorted((lr, loss) for lr, loss in curve.items() if loss < math.inf)
            axis.plot(
                *zip(*points), "o-", color=COLOURS[width], markersize=4, label=f"d_model {width}"
            )
            axis.axvline(best(curve), color=COLOURS[width], linewidth=0.8, linestyle=":")
        axis.set_xscale("log", base=2)
        axis.set_title(f"{arm}, {kind}", fontsize=10)
        axis.set_xlabel("optim.lr_scale")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("validation loss, nats per token")
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(HERE / "sweep.png", dpi=110)


if __name__ == "__main__":
    main()
