"""Real runs of an arm against itself: does the procedure find a difference where there is none?

    python train.py -m study=null_pairs optim=adamw optim.hidden.eps=1e-10,1e-9 \\
        seed="range(100,140)" train.steps=150 train.threads=1 \\
        eval.every=null checkpoint.every=null logger=none
    python experiments/calibration/null_pairs.py outputs --study null_pairs --by optim.hidden.eps

An Adam eps of 1e-10 or 1e-9 means the same to training and not to the last bits, so each pair
starts from the same weights, sees the same batches and drifts apart by rounding alone: differences
as real runs have them, with mean zero. Simulations draw normal noise; this shows whether real noise
is close enough to it for eight pairs and a t interval.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from minigpt.compare.declared import MIN_PAIRS, Finding
from minigpt.compare.explored import explore
from minigpt.compare.groups import group_runs
from minigpt.compare.question import Question
from minigpt.compare.statistics import p_value, t_interval
from minigpt.compare.study_findings import CellFindings
from minigpt.errors import ConfigError, MinigptError
from minigpt.study.find import find
from minigpt.study.select import select

STUDIES = 4000


def compared(path: Path, by: str, study: str | None) -> CellFindings:
    """The product's own comparison of the two arms."""
    runs = select(find([path]).runs, study, [])
    groups = group_runs(Question(by), runs).several
    found = explore(groups[0], groups[0].first_typed, 0.0, runs) if groups else None
    if found is None:
        raise ConfigError(
            f"nothing to compare: {path}: --by {by} (train the pairs first; see --help)"
        )
    return found.cell


def claims(studies: NDArray[np.float64]) -> float:
    """Share of studies (rows of paired differences) whose 95 % interval excludes 0."""
    intervals = [t_interval(row) for row in studies]
    return float(np.mean([not found.low <= 0 <= found.high for found in intervals]))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path)
    parser.add_argument("--by", default="optim.hidden.eps")
    parser.add_argument("--study")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    try:
        cell = compared(options.path, options.by, options.study)
        (finding,) = cell.ruling.findings.values()
        if finding.pairs < 2 * MIN_PAIRS:
            raise ConfigError(
                f"too few pairs: {finding.pairs} (at least {2 * MIN_PAIRS}, better 40; see --help)"
            )
    except MinigptError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    at = {arm: found[cell.declaration.primary] for arm, found in cell.losses.items()}
    pairs = [(loss, at[cell.baseline][seed]) for seed, loss in at[finding.arm].items()]
    a, b = np.array([pair for pair in pairs if np.isfinite(pair).all()]).T
    report(a, b, finding)
    draw(a - b, options.out / "null_pairs.png")
    return 0


def report(a: NDArray[np.float64], b: NDArray[np.float64], finding: Finding) -> None:
    """What the pairs say, and what thousands of studies made from them would have said."""
    random, n = np.random.default_rng(0), len(a)
    d = a - b
    everything = t_interval(d.tolist())
    print(
        f"{n} pairs, all together: {everything.mean:+.5f} "
        f"({everything.low:+.5f} to {everything.high:+.5f}), "
        f"p {p_value(everything):.2f}, verdict {finding.word}"
    )
    if everything.constant:
        print("the pairs do not vary: the change does not reach the last bits; choose another one")
        return
    cut = d[: n // MIN_PAIRS * MIN_PAIRS].reshape(-1, MIN_PAIRS)
    claimed = round(claims(cut) * len(cut))
    print(f"cut into {len(cut)} studies of {MIN_PAIRS}: {claimed} claim a difference")
    drawn = np.array([random.choice(d, MIN_PAIRS, replace=False) for _ in range(STUDIES)])
    flipped = drawn * random.choice([-1.0, 1.0], drawn.shape)
    print(
        f"{STUDIES:,} studies of {MIN_PAIRS} with random signs: "
        f"{100 * claims(flipped):.1f} % claim one (should: 5)"
    )
    orders = [random.permutation(n) for _ in range(STUDIES)]
    strangers = np.array(
        [a[order[:MIN_PAIRS]] - b[order[MIN_PAIRS : 2 * MIN_PAIRS]] for order in orders]
    )
    print(
        f"{STUDIES:,} that pair different seeds: "
        f"{100 * claims(strangers):.1f} % claim one (should: 5)"
    )
    correlation = "none" if finding.correlation is None else f"{finding.correlation:.2f}"
    worth = (a.var() + b.var()) / d.var()
    print(
        f"sd of a seed {np.concatenate([a, b]).std(ddof=1):.5f}, of a pair {everything.sd:.5f}; "
        f"correlation of pairs {correlation}: pairing is worth {worth:.1f} times the seeds"
    )
    print(
        f"shape of the differences: skew {stats.skew(d):+.2f}, "
        f"excess kurtosis {stats.kurtosis(d):+.2f}, Shapiro-Wilk p {stats.shapiro(d).pvalue:.2f}"
    )


def draw(d: NDArray[np.float64], target: Path) -> None:
    """The differences against normal quantiles: a straight line is what a t interval hopes for."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(4.6, 3.6), layout="constrained")
    (theory, ordered), (slope, centre, _) = stats.probplot(d)
    axes.plot(theory, ordered, "o", color="#0072b2", markersize=4)
    axes.plot(theory, slope * theory + centre, color="#59636e", linewidth=1)
    axes.set_xlabel("normal quantiles")
    axes.set_ylabel("paired difference, nats per token")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(target, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
