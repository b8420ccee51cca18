"""How often does a declared study err? Thousands of simulated ones through its own code.

    python experiments/calibration/declared_studies.py                 all rows, 4,000 studies each
    python experiments/calibration/declared_studies.py --studies 400   a look
    python experiments/calibration/declared_studies.py --only cells    rows whose name says so

A world draws final losses and nothing else. `conduct` tunes on a grid, extends it where the best
value lies on an edge, chooses, confirms and stops at the first look that decides; `judge` rules,
`budget_fit` and `rank` say the rest, as for a study on disk. The loss of a run is

    E + A (budget / 300)^-b + effect + curvature * log2(scale / best scale)^2 + noise

The noise of a seed is normal unless a world says otherwise. A share of its variance is common to
the arms (the same batches and initial weights), half of it to all budgets. Writes results.csv,
results.md and power.png.
"""

import argparse
import csv
import math
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.compare.budget_fit import Measured, budget_ratio, difference_at_equal_cost
from minigpt.compare.cell_trend import trend
from minigpt.compare.declared import ALPHA, CellRuling, gains, judge
from minigpt.compare.ranking import rank
from minigpt.compare.statistics import detectable_difference
from minigpt.study.conduct import Unfinished, conduct
from minigpt.study.declaration import Declaration, Setting, declaration_of
from minigpt.study.planned import PlannedRun

HERE = Path(__file__).parent
REAL = HERE.parent / "muon_vs_adamw" / "results.csv"
STUDIES = 4000
KEY, CELL, BASELINE = "optim.lr_scale", "train.batch_size", "base"
# Spread over seeds at the judged budget and correlation of the arms: the first edition of
# muon_vs_adamw, 8 seeds each; curvature: of its tuning runs. Nats per token.
SPREAD, NEW_SPREAD, CORRELATION, CURVATURE = 0.0206, 0.0184, 0.73, 0.0673
PAIR_SPREAD = math.sqrt(SPREAD**2 + NEW_SPREAD**2 - 2 * CORRELATION * SPREAD * NEW_SPREAD)  # 0.0145
BUDGETS, PRIMARY = (150, 225, 300), 300
LIMIT = 4.0  # E
BEYOND = (0.5, 1, 1.5, 2, 3)  # standard deviations of a pair, in rows of power
COST = 1.15  # of a token of a new arm, over one of the baseline
Curve = tuple[float, float]  # A and b: muon_vs_adamw falls by 0.3 nats a doubling
FALLS: Curve = (0.56, 0.6)


@dataclass(frozen=True)
class World:
    """What is true, and what is declared.

    effects: of each new arm at the primary budget, at its best scale; below 0 it is better.
    between: the best scale lies anywhere between two points of the grid, and not on one.
    reach: and so many doublings from the grid's middle at most; the grid reaches 2.
    widening: of the baseline's spread at each budget.
    slope: of the effect, for each doubling of the cell's batch size.
    """

    name: str
    effects: tuple[float, ...] = (0.0,)
    margin: float = 0.01
    looks: tuple[int, ...] = (8, 16, 32)
    between: bool = False
    reach: int = 0
    step: float = 1.0  # doublings between two points of the grid
    curvature: float = CURVATURE
    skew: float = 1.0  # above the best scale the curvature is so many times that, below it 1 / skew
    spreads: tuple[float, float] = (SPREAD, NEW_SPREAD)  # of the baseline, of new arms
    widening: tuple[float, ...] = (1.0, 1.0, 1.0)
    noise: str = "normal"  # or real: those of muon_vs_adamw; or t3: Student's t, 3 degrees
    curves: tuple[Curve, Curve] = (FALLS, FALLS)
    budgets: tuple[int, ...] = BUDGETS
    diverging: tuple[float, float] = (0.0, 0.0)  # probability that a run does
    batch_sizes: tuple[int, ...] = ()
    slope: float = 0.0

    @cached_property
    def arms(self) -> tuple[str, ...]:
        return (BASELINE, *(f"new{number}" for number in range(1, len(self.effects) + 1)))

    @cached_property
    def declaration(self) -> Declaration:
        points = [2.0 ** (self.step * k) for k in range(-round(2 / self.step), 3)]
        if self.step < 1:
            points = [float(f"{2.0**x:.6g}") for x in np.arange(-2, 2.01, self.step)]
        return declaration_of(
            "calibration",
            {
                "question": None,
                "by": "optim",
                "arms": list(self.arms),
                "baseline": BASELINE,
                "metric": "val_loss",
                "margin": self.margin,
                "budgets": {"train.steps": list(self.budgets)},
                "primary": None,
                "tune": {
                    "over": {KEY: points},
                    "per_arm": {},
                    "method": "grid",
                    "trials": 16,
                    "rounds": 2,
                    "seeds": [0, 1],
                    "extend": 2,
                    "budget": None,
                },
                "confirm": {"first_seed": 100, "looks": list(self.looks)},
                "cells": {CELL: list(self.batch_sizes)} if self.batch_sizes else {},
                "spread": None,
                "amend": None,
            },
        )

    def effect(self, arm: str, cell: Setting) -> float:
        """Of an arm at its best scale; infinite where it diverges more often."""
        if arm == BASELINE:
            return 0.0
        if self.diverging[1] > self.diverging[0]:
            return math.inf
        doublings = math.log2(dict(cell)[CELL] / 16) if cell else 0.0  # type: ignore[operator]
        return self.effects[self.arms.index(arm) - 1] + self.slope * doublings

    def fall(self, arm: str, budget: float) -> float:
        a, b = self.curves[arm != BASELINE]
        return a * ((budget / PRIMARY) ** -b - 1)


class SimulatedRuns:
    """The runs of one study of a world. See `conduct.Runs`."""

    def __init__(self, world: World, random: np.random.Generator) -> None:
        self.world, self.random = world, random
        self.best: dict[tuple[Setting, str], float] = {}  # log2 of the best scale
        for cell in world.declaration.cells:
            centre = int(random.integers(-world.reach, world.reach + 1))
            for arm in world.arms:
                off = random.uniform(-world.step / 2, world.step / 2) if world.between else 0.0
                self.best[cell, arm] = centre + off
        self._losses: dict[PlannedRun, float] = {}
        self._shared: dict[tuple[Setting, int, float], float] = {}
        self._rows: dict[tuple[Setting, int], Mapping[tuple[bool, float], float]] = {}
        self._own: dict[tuple[Setting, str, int], float] = {}
        self._draws = self._drawn()

    def _drawn(self) -> Iterator[float]:
        """Numbers of mean 0 and variance 1."""
        while True:
            if self.world.noise == "t3":
                yield from (self.random.standard_t(3, 512) / math.sqrt(3)).tolist()
            else:
                yield from self.random.standard_normal(512).tolist()

    def true_loss(self, cell: Setting, arm: str, setting: Setting, budget: float) -> float:
        """What a run would have without noise."""
        ((_, scale),) = setting
        off = math.log2(scale) - self.best[cell, arm]  # type: ignore[arg-type]
        world = self.world
        effect = world.effect(arm, cell)
        level = LIMIT + FALLS[0] + world.fall(arm, budget) + (effect if effect < math.inf else 0)
        return level + world.curvature * (world.skew if off > 0 else 1 / world.skew) * off**2

    def _noise(self, run: PlannedRun) -> float:
        world, is_new = self.world, run.arm != BASELINE
        if world.noise == "real":
            row = self._rows.get((run.cell, run.seed))
            if row is None:
                rows = real_residuals()
                row = self._rows[run.cell, run.seed] = rows[self.random.integers(len(rows))]
            return row[is_new, run.budget]
        always, now = (run.cell, run.seed, 0.0), (run.cell, run.seed, run.budget)
        for key in (always, now):
            if key not in self._shared:
                self._shared[key] = next(self._draws)
        own = (run.cell, run.arm, run.seed)
        if own not in self._own:
            self._own[own] = next(self._draws)
        shared = self._shared[always] + self._shared[now]
        alone = self._own[own] + next(self._draws)
        spread = world.spreads[is_new]
        if not is_new:
            spread *= world.widening[world.budgets.index(run.budget)]  # type: ignore[arg-type]
        parts = math.sqrt(CORRELATION) * shared + math.sqrt(1 - CORRELATION) * alone
        return spread * parts / math.sqrt(2)

    def run(self, phase: str, planned: Sequence[PlannedRun]) -> None:
        for run in planned:
            loss = self.true_loss(run.cell, run.arm, run.setting, run.budget) + self._noise(run)
            p = self.world.diverging[run.arm != BASELINE]
            self._losses[run] = math.inf if p and self.random.random() < p else loss

    def loss(self, planned: PlannedRun) -> float | None:
        return self._losses.get(planned)

    def why(self, planned: PlannedRun) -> str:
        return "not begun"


_RESIDUALS: list[Mapping[tuple[bool, float], float]] = []


def real_residuals() -> list[Mapping[tuple[bool, float], float]]:
    """One a seed of muon_vs_adamw: (is it Muon, budget) -> its loss less the mean of all seeds,
    as wide as the spread of 8 seeds says.
    """
    if not _RESIDUALS:
        losses: dict[tuple[bool, float], dict[str, float]] = {}
        for row in csv.DictReader(REAL.read_text().splitlines()):
            if row["phase"] == "confirm":
                key = (row["optim"] == "muon", float(row["train.steps"]))
                losses.setdefault(key, {})[row["seed"]] = float(row["val_loss"])
        for seed in sorted(next(iter(losses.values()))):
            _RESIDUALS.append(
                {
                    key: (by_seed[seed] - float(np.mean(list(by_seed.values()))))
                    * math.sqrt(len(by_seed) / (len(by_seed) - 1))
                    for key, by_seed in losses.items()
                }
            )
    return _RESIDUALS


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


def power(pairs: int, looks: int = 3) -> float:
    """What `dry_run=true` says that a look of so many pairs finds in 8 of 10 studies."""
    found = detectable_difference(PAIR_SPREAD, pairs, 1 - ALPHA / looks)
    assert found is not None
    return 0.01 + found


def better_by(x: float) -> str:
    """The name of a row."""
    return f"better by the margin and {x:g} sd of a pair"


def worlds() -> list[World]:
    """The rows of the table."""
    ten, three = (0.0,) * 9, (0.0,) * 2
    rare, often = (0.05, 0.05), (0.2, 0.2)
    cells: dict[str, Any] = {"batch_sizes": (4, 16, 64)}
    return [
        World("equal, optima on the grid"),
        World("equal, optima on the grid, margin 0", margin=0.0),
        World("equal, settings do not matter, margin 0", margin=0.0, curvature=0.0),
        World("equal, optima on the grid, one look, margin 0", margin=0.0, looks=(8,)),
        World("equal, optima between", between=True),
        World("equal, optima between, margin 0", between=True, margin=0.0),
        World("equal, optima between, margin 0.02", between=True, margin=0.02),
        World("equal, optima between, one look", between=True, looks=(8,)),
        World("equal, optima between, one look of 32", between=True, looks=(32,)),
        World("equal, optima between, grid of factor 1.41", between=True, step=0.5),
        World(
            "equal, optima between, grid of factor 1.41, margin 0",
            between=True,
            step=0.5,
            margin=0.0,
        ),
        World("equal, optima up to a doubling beyond the grid", between=True, reach=3),
        World("equal, optima between, losses rise 4 times as fast above", between=True, skew=2.0),
        World(
            "worse by the margin, losses rise 4 times as fast above",
            (0.01,),
            between=True,
            skew=2.0,
        ),
        World("worse by the margin, optima on the grid", (0.01,)),
        World("worse by the margin, optima between", (0.01,), between=True),
        World("better by the margin, optima between", (-0.01,), between=True),
        World("three equal arms, optima between", three, between=True),
        World("three equal arms, optima on the grid, margin 0", three, margin=0.0),
        World("ten equal arms, optima between", ten, between=True),
        World("ten equal arms, optima on the grid, margin 0", ten, margin=0.0),
        World("one arm noisier", spreads=(0.0184, 0.06), margin=0.0),
        World("one arm noisier, optima between", spreads=(0.0184, 0.06), between=True),
        World("the baseline noisier at short budgets", widening=(4.1, 2.7, 1.0), margin=0.0),
        World("residuals of real runs, margin 0", noise="real", margin=0.0),
        World("residuals of real runs, optima between", noise="real", between=True),
        World("heavy tails (t, 3 degrees), margin 0", noise="t3", margin=0.0),
        World("heavy tails (t, 3 degrees), optima between", noise="t3", between=True),
        World("two budgets", budgets=(150, 300), margin=0.0),
        World("arms of different exponents", curves=((0.4, 0.85), (1.2, 0.25)), margin=0.0),
        World("equal, 5 % of runs diverge", diverging=rare, margin=0.0, curvature=0.0),
        World("equal, 20 % of runs diverge", diverging=often, margin=0.0, curvature=0.0),
        World("equal, 20 % diverge, settings matter", diverging=often, between=True),
        World("60 % of the new arm diverge, 5 % of the baseline", diverging=(0.05, 0.6)),
        *(World(better_by(x), (-0.01 - x * PAIR_SPREAD,)) for x in BEYOND),
        *(
            World(f"what dry_run says of {pairs} pairs", (-power(pairs),), curvature=0.0)
            for pairs in (8, 16, 32)
        ),
        *(
            World(
                f"what dry_run says of {pairs} pairs, optima between",
                (-power(pairs),),
                between=True,
            )
            for pairs in (8, 16, 32)
        ),
        World("ten arms, one better by 0.02, optima between", (-0.02, *ten[1:]), between=True),
        World("ten arms, one better by 0.005, on the grid", (-0.005, *ten[1:]), margin=0.0),
        World("cells, the same effect", (-0.02,), **cells),
        World("cells, the same effect, one look of 8", (-0.02,), looks=(8,), **cells),
        World("cells, it grows with the batch", (-0.02,), slope=-0.02, **cells),
        World("cells, it grows, one look of 8", (-0.02,), slope=-0.02, looks=(8,), **cells),
    ]


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
