"""How often does a declared study err? Thousands of simulated ones through its own code.

    python experiments/calibration/declared_studies.py                 all rows, 4,000 studies each
    python experiments/calibration/declared_studies.py --studies 400   a look
    python experiments/calibration/declared_studies.py --only cells    rows whose name says so

A world (worlds.py) draws final losses and nothing else. `conduct` tunes on a grid, extends it where
the best value lies on an edge, chooses, confirms and stops at the first look that decides; `judge`
rules, `budget_fit` and `rank` say the rest, as for a study on disk. Writes results.csv, results.md
and power.png.
"""

import argparse
import csv
import math
import time
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from worlds import BASELINE, BEYOND, CELL, PRIMARY, SimulatedRuns, World, better_by, worlds

from minigpt.compare.budget_fit import Measured, budget_ratio, difference_at_equal_cost
from minigpt.compare.cell_trend import trend
from minigpt.compare.declared import ALPHA, CellRuling, gains, judge
from minigpt.compare.ranking import rank
from minigpt.study.conduct import Unfinished, conduct
from minigpt.study.declaration import Setting

HERE = Path(__file__).parent
STUDIES = 4000
COST = 1.15  # of a token of a new arm, over one of the baseline


@dataclass
class Tally:
    """What the studies of a world came to: counts by name, and of how many."""

    world: World
    hits: Counter[str] = field(default_factory=Counter)
    of: Counter[str] = field(default_factory=Counter)

    def count(self, name: str, hit: float) -> None:
        self.hits[name] += hit  # type: ignore[assignment]
        self.of[name] += 1

    def share(self, name: str) -> float | None:
        return self.hits[name] / self.of[name] if self.of[name] else None

    def row(self) -> dict[str, Any]:
        """Shares of fewer than a twentieth of the studies are left out: they are of odd ones."""
        studies = self.of["nothing to compare"]
        shares = {
            name: self.share(name) if 20 * self.of[name] >= studies else None for name in COLUMNS
        }
        return {
            "world": self.world.name,
            "margin": self.world.margin,
            "looks": " ".join(map(str, self.world.looks)),
            "studies": studies,
            **{name: "" if value is None else f"{value:.4f}" for name, value in shares.items()},
        }


COLUMNS = (
    "wrong claims",  # of any arm, about the arms at their best scales
    "better",  # the first new arm
    "worse",
    "equivalent",
    "better at look 1",  # or before: found by the first look, by the second ..
    "better at look 2",
    "better at look 3",
    "pairs",
    "nothing to compare",  # all runs that tune an arm diverged
    "difference covered",  # of the chosen settings, by the interval of the last look
    "ratio covered",
    "ratio given",  # not only as a bound
    "equal cost covered",
    "best kept",  # the set of arms that may be best holds the best setting
    "best arm kept",  # and the arm that is best at its best scale
    "arms kept",
    "cells differ",  # homogeneity is rejected
    "slope covered",
)


def simulate(world: World, studies: int, seed: int = 0) -> Tally:
    """Conduct many studies of a world."""
    tally = Tally(world)
    for number in range(studies):
        key = [seed, zlib.crc32(world.name.encode()), number]
        _study(world, np.random.default_rng(key), tally)
    return tally


def _study(world: World, random: np.random.Generator, tally: Tally) -> None:
    runs, declaration = SimulatedRuns(world, random), world.declaration
    try:
        conclusion = conduct(declaration, runs, judge, lambda entry: None)
    except Unfinished:  # all runs that tune an arm diverged
        tally.count("nothing to compare", True)
        return
    tally.count("nothing to compare", False)
    is_wrong = False
    for cell, ruling in conclusion.rulings.items():
        assert isinstance(ruling, CellRuling)
        for arm, finding in ruling.findings.items():
            is_wrong |= wrong(finding.word, world.effect(arm, cell), world.margin)
        _tally_cell(runs, cell, ruling, tally)
    tally.count("wrong claims", is_wrong)
    if world.batch_sizes:
        _tally_trend(world, conclusion.rulings, tally)


def wrong(word: str, effect: float, margin: float) -> bool:
    """Whether a verdict about an arm of this true effect is false. The margin itself is no claim
    of either kind.
    """
    return {
        "better": effect >= -margin,
        "worse": effect <= margin,
        "equivalent": abs(effect) >= margin,
    }.get(word, False)


def _tally_cell(runs: SimulatedRuns, cell: Setting, ruling: CellRuling, tally: Tally) -> None:
    world, look, confidence = runs.world, ruling.look, ruling.confidence
    first = ruling.findings[world.arms[1]]
    for word in ("better", "worse", "equivalent"):
        tally.count(word, first.word == word)
    for number, pairs in enumerate(world.looks, 1):
        tally.count(f"better at look {number}", first.word == "better" and first.pairs <= pairs)
    tally.count("pairs", look.pairs)

    def truth(arm: str, budget: float) -> float:
        return runs.true_loss(cell, arm, look.chosen[arm], budget)

    base = truth(BASELINE, PRIMARY)
    for arm, finding in ruling.findings.items():
        if finding.interval is not None and finding.interval.n == finding.pairs:
            difference = truth(arm, PRIMARY) - base
            covers = finding.interval.low <= difference <= finding.interval.high
            tally.count("difference covered", covers)
    at = {arm: by_budget[PRIMARY] for arm, by_budget in look.losses.items()}
    ranked = rank(at, ALPHA / len(world.looks), gains(look))
    kept = [one.arm for one in ranked if one.may_be_best]
    true = {arm: truth(arm, PRIMARY) for arm in world.arms}
    tally.count("best kept", min(true, key=lambda arm: true[arm]) in kept)
    at_best = {arm: world.effect(arm, cell) for arm in world.arms}
    tally.count("best arm kept", min(at_best, key=lambda arm: at_best[arm]) in kept)
    tally.count("arms kept", len(kept))
    losses = {
        arm: np.array([list(by_budget[budget].values()) for budget in world.budgets])
        for arm, by_budget in look.losses.items()
    }
    if len(world.budgets) < 2 or not all(np.isfinite(loss).all() for loss in losses.values()):
        return
    measured = Measured(tuple(map(float, world.budgets)), losses)
    for arm in world.arms[1:]:
        ratio = budget_ratio(measured, arm, BASELINE, PRIMARY, confidence)
        tally.count("ratio covered", ratio.low <= _true_ratio(runs, cell, arm, truth) <= ratio.high)
        tally.count("ratio given", not ratio.bound)
        cost = difference_at_equal_cost(measured, arm, BASELINE, PRIMARY, COST, confidence)
        difference = truth(arm, PRIMARY / COST) - base
        tally.count("equal cost covered", cost.low <= difference <= cost.high)


def _true_ratio(runs: SimulatedRuns, cell: Setting, arm: str, truth: Any) -> float:
    """Of the primary budget, where the arm has the baseline's loss there; by the curve itself."""
    (a, b) = runs.world.curves[1]
    power = 1 + (truth(BASELINE, PRIMARY) - truth(arm, PRIMARY)) / a
    return power ** (-1 / b) if power > 0 else math.inf


def _tally_trend(world: World, rulings: Mapping[Setting, Any], tally: Tally) -> None:
    effects = [ruling.findings["new1"].interval for ruling in rulings.values()]
    if any(effect is None for effect in effects):
        return
    cells = [{CELL: float(dict(cell)[CELL])} for cell in rulings]  # type: ignore[arg-type]
    found = trend(effects, cells, 1 - ALPHA)
    assert found is not None
    tally.count("cells differ", found.homogeneity <= ALPHA)
    (slope,) = found.slopes
    tally.count("slope covered", slope.low <= world.slope <= slope.high)


def _timed(world: World, studies: int, seed: int) -> tuple[Tally, float]:
    start = time.perf_counter()
    tally = simulate(world, studies, seed)
    return tally, (time.perf_counter() - start) / studies


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=STUDIES, help="of each row")
    parser.add_argument("--only", default="", help="a part of the names of rows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    chosen = [world for world in worlds() if options.only in world.name]
    rows = []
    with ProcessPoolExecutor(options.workers) as pool:
        count = len(chosen)
        jobs = pool.map(_timed, chosen, [options.studies] * count, [options.seed] * count)
        for tally, seconds in jobs:
            rows.append(tally.row())
            shown = (f"{name} {value}" for name, value in rows[-1].items() if value != "")
            print(f"{'  '.join(shown)}  ({seconds * 1000:.1f} ms a study)", flush=True)
    with open(options.out / "results.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (options.out / "results.md").write_text(table(rows))
    draw_power(rows, options.out / "power.png")


def draw_power(rows: Sequence[Mapping[str, Any]], target: Path) -> None:
    """The share of studies that have found an arm better at each look, by its true effect."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    beyond = [(x, row) for row in rows for x in BEYOND if row["world"] == better_by(x)]
    figure, axes = plt.subplots(figsize=(6, 3.8), layout="constrained")
    for number, pairs in enumerate(World("").looks, 1):
        shares = [100 * float(row[f"better at look {number}"]) for _, row in beyond]
        axes.plot([x for x, _ in beyond], shares, "o-", label=f"by {pairs} pairs")
    axes.set_xlabel("true effect beyond the margin, standard deviations of a pair")
    axes.set_ylabel("studies that find it better, %")
    axes.set_ylim(0, 102)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(target, dpi=120)
    plt.close(figure)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows in Markdown; columns that no row has are left out."""
    names = [name for name in rows[0] if any(row[name] != "" for row in rows)]

    def shown(name: str, value: Any) -> str:
        if value == "" or name not in COLUMNS:
            return str(value)
        number = float(value)
        return f"{number:.1f}" if name in ("pairs", "arms kept") else f"{100 * number:.1f} %"

    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        lines.append("| " + " | ".join(shown(name, row[name]) for name in names) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
