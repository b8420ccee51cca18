"""calibration.png: the power of a comparison beside the coverage of its intervals."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

GREY, BLUE, RED, GREEN = "#59636e", "#0072b2", "#d55e00", "#009e73"


def draw(
    effects: Sequence[float],
    found: Sequence[float],
    covered: Mapping[str, Sequence[float]],
    pairs: int,
    target: Path,
) -> None:
    """Draw shares of studies by their true effect, in standard deviations of a pair.

    found: studies that find the better arm better. covered: by kind of interval, those that cover.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from scipy.stats import nct, t

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
    left.plot(effects, found, "o-", color=BLUE, label="whole procedure")
    many = np.linspace(0.01, 3, 100)
    power = 1 - nct.cdf(t.ppf(0.975, pairs - 1), pairs - 1, many * math.sqrt(pairs))
    left.plot(many, power, "--", color=GREY, label="t test, known settings")
    left.set_ylabel("share of studies that find it better")
    right.axhline(0.95, color=GREY, linestyle="--", linewidth=1)
    for (label, shares), marker, colour in zip(covered.items(), "os^", (BLUE, RED, GREEN)):
        right.plot(effects, shares, f"{marker}-", color=colour, label=label)
    right.set_ylim(0, 1.02)
    right.set_ylabel("share of 95 % intervals that cover")
    for axes in (left, right):
        axes.set_xlabel("true effect, standard deviations of a pair")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    figure.savefig(target, dpi=120)
