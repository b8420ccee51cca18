"""What a study declares before its first run: arms, budgets, tuning, seeds, looks and cells.

It is the `verdict` node of an experiment file, checked as a whole. Everything that a study runs
and reads follows from it, so nothing is guessed from the folders that happen to lie around.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

from minigpt.errors import ConfigError
from minigpt.study.checkouts import code_of
from minigpt.study.declaration_problems import problems_of
from minigpt.study.values import typed

Value = str | int | float | bool | None
Setting = tuple[tuple[str, Value], ...]  # pairs of a key and its value, in the order declared
Grid = dict[str, tuple[Value, ...]]


@dataclass(frozen=True)
class Tuning:
    """How each arm's setting is chosen. Fields as in config/schema.py."""

    over: Grid
    per_arm: dict[str, Grid]
    method: str
    trials: int
    rounds: int
    seeds: tuple[int, ...]
    extend: int
    budget: float

    def grid(self, arm: str) -> Grid:
        """The values of an arm's keys; its own come after the common ones."""
        return self.over | self.per_arm.get(arm, {})


@dataclass(frozen=True)
class Declaration:
    """A study. `node` is the `verdict` node as plain values; the rest reads it."""

    study: str
    node: dict[str, Any]

    @property
    def question(self) -> str:
        return self.node["question"] or f"Which {self.by} ends lowest?"

    @property
    def by(self) -> str:
        return str(self.node["by"])

    @property
    def arms(self) -> tuple[str, ...]:
        return tuple(typed(arm) for arm in self.node["arms"])

    @property
    def by_code(self) -> bool:
        """Whether each arm is a commit, or a copy of the working tree."""
        return self.by == "code"

    def value(self, arm: str) -> str:
        """What `by` is set to in the runs of an arm."""
        return code_of(self.node["arms"][arm]).digest if self.by_code else arm

    @property
    def code_lines(self) -> list[str]:
        """`mine: 0123456789 "subject"` for each arm; [] unless they are code."""
        return [f"{arm}: {code_of(self.node['arms'][arm])}" for arm in self.arms if self.by_code]

    @property
    def baseline(self) -> str:
        return typed(self.node["baseline"])

    @property
    def metric(self) -> str:
        return str(self.node["metric"])

    @property
    def unit(self) -> str:
        """Of losses, and so of the margin."""
        units = {"val_loss": "nats", "val_bits_per_byte": "bits per byte"}
        return units.get(self.metric, self.metric)

    @property
    def margin(self) -> float:
        return float(self.node["margin"])

    @cached_property
    def budget_key(self) -> str:
        (key,) = self.node["budgets"]
        return str(key)

    @cached_property
    def budgets(self) -> tuple[float, ...]:
        """In ascending order."""
        return tuple(sorted(self.node["budgets"][self.budget_key]))

    @property
    def primary(self) -> float:
        """The budget whose verdict counts."""
        last = self.node["budgets"][self.budget_key][-1]
        return self._budget(self.node["primary"] or last)

    def _budget(self, value: float) -> float:
        """The budget of this size as it was declared: 300 where 300.0 was typed."""
        return next(budget for budget in self.budgets if budget == value)

    @cached_property
    def tune(self) -> Tuning:
        tune = self.node["tune"]
        return Tuning(
            over=_grid(tune["over"]),
            per_arm={str(arm): _grid(grid) for arm, grid in tune["per_arm"].items()},
            method=tune["method"],
            trials=tune["trials"],
            rounds=tune["rounds"],
            seeds=tuple(tune["seeds"]),
            extend=0 if tune["method"] == "random" else tune["extend"],
            budget=self._budget(tune["budget"] or self.primary),
        )

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of pairs at which the verdict is read."""
        return tuple(self.node["confirm"]["looks"])

    def seeds(self, pairs: int) -> tuple[int, ...]:
        """The seeds that judge at a look."""
        first = self.node["confirm"]["first_seed"]
        return tuple(range(first, first + pairs))

    @cached_property
    def cells(self) -> tuple[Setting, ...]:
        """The settings in which the question is asked; one empty setting without cells."""
        return tuple(points(_grid(self.node["cells"])))

    @property
    def sha256(self) -> str:
        """Of everything declared; why it was amended is no part of it."""
        content = {"study": self.study, **self.node, "amend": None}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def declaration_of(study: str | None, verdict: dict[str, Any]) -> Declaration:
    """The checked declaration. Raises ConfigError with every problem found."""
    problems = problems_of(study, verdict)
    if problems:
        raise ConfigError(*problems)
    assert study is not None
    return Declaration(study, verdict)


def points(grid: Grid) -> list[Setting]:
    """The product of all values; one empty setting of an empty grid."""
    return [tuple(zip(grid, values)) for values in product(*grid.values())]


def _grid(node: dict[str, Any]) -> Grid:
    return {str(key): tuple(values) for key, values in node.items()}
