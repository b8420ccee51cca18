"""The worlds of the calibration: final losses that are drawn, and nothing else.

The loss of a run is

    E + A (budget / 300)^-b + effect + curvature * log2(scale / best scale)^2 + noise

The noise of a seed is normal unless a world says otherwise. A share of its variance is common to
the arms (the same batches and initial weights), half of it to all budgets.
"""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.compare.declared import ALPHA
from minigpt.compare.statistics import detectable_difference
from minigpt.study.declaration import Declaration, Setting, declaration_of
from minigpt.study.planned import PlannedRun

REAL = Path(__file__).parent.parent / "muon_vs_adamw" / "results.csv"
KEY, CELL, BASELINE = "optim.lr_scale", "train.batch_size", "base"
# Spread over seeds at the judged budget and correlation of the arms: the first edition of
# muon_vs_adamw, 8 seeds each; curvature: of its tuning runs. Nats per token.
SPREAD, NEW_SPREAD, CORRELATION, CURVATURE = 0.0206, 0.0184, 0.73, 0.0673
PAIR_SPREAD = math.sqrt(SPREAD**2 + NEW_SPREAD**2 - 2 * CORRELATION * SPREAD * NEW_SPREAD)  # 0.0145
BUDGETS, PRIMARY = (150, 225, 300), 300
LIMIT = 4.0  # E
BEYOND = (0.5, 1, 1.5, 2, 3)  # standard deviations of a pair, in rows of power
Curve = tuple[float, float]  # A and b: muon_vs_adamw falls by 0.3 nats a doubling
FALLS: Curve = (0.56, 0.6)


@dataclass(frozen=True)
class World:
    """What is true, and what is declared.

    effects: of each new arm at the primary budget, at its best scale; below 0 it is better.
    between: the best scale lies anywhere between two points of the grid, and not on one.
    reach: and so many doublings from the grid's middle at most; the grid reaches 2, extended 4.
    far: the baseline's best scale lies so many doublings further up.
    widening: of the baseline's spread at each budget.
    slope: of the effect, for each doubling of the cell's batch size.
    """

    name: str
    effects: tuple[float, ...] = (0.0,)
    margin: float = 0.01
    looks: tuple[int, ...] = (8, 16, 32)
    between: bool = False
    reach: int = 0
    far: float = 0.0
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
                self.best[cell, arm] = centre + off + world.far * (arm == BASELINE)
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


@cache
def real_residuals() -> list[Mapping[tuple[bool, float], float]]:
    """One a seed of muon_vs_adamw: (is it Muon, budget) -> its loss less the mean of all seeds,
    as wide as the spread of 8 seeds says.
    """
    losses: dict[tuple[bool, float], dict[str, float]] = {}
    for row in csv.DictReader(REAL.read_text().splitlines()):
        if row["phase"] == "confirm":
            key = (row["optim"] == "muon", float(row["train.steps"]))
            losses.setdefault(key, {})[row["seed"]] = float(row["val_loss"])
    return [
        {
            key: (by_seed[seed] - float(np.mean(list(by_seed.values()))))
            * math.sqrt(len(by_seed) / (len(by_seed) - 1))
            for key, by_seed in losses.items()
        }
        for seed in sorted(next(iter(losses.values())))
    ]


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
        World("equal, one optimum a step or two beyond its edge", between=True, far=5.5),
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
