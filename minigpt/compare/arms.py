"""An arm of a comparison: its runs by setting, budget and seed, and what its settings differ in."""

import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from minigpt.compare.question import Key
from minigpt.study.run import LEARNING_RATE, Run
from minigpt.study.values import show

# A learning rate that roles share, as people type it: an axis that moves as it does gets its name.
SHARED_LR = re.compile(r"optim\.(\w+_)?lr|optim\.lr_scale")


def ended_loss(run: Run, metric: str) -> float:
    """The final loss of a run that has ended: infinite if it diverged."""
    loss = run.loss(metric)
    assert loss is not None, f"{run.name} has not ended"
    return loss


@dataclass
class Setting:
    """One point of an arm's search space."""

    key: Key
    runs: dict[int, dict[int, Run]] = field(default_factory=dict)  # by budget (tokens) and seed

    @property
    def all_runs(self) -> list[Run]:
        return [run for by_seed in self.runs.values() for run in by_seed.values()]

    def value(self, key: str) -> Any:
        return self.all_runs[0].decided(key)


@dataclass(frozen=True)
class Axis:
    """A tuned value that differs between the settings of an arm.

    Keys that move together are one axis.
    """

    name: str
    keys: tuple[str, ...]
    values: dict[Key, Any]  # of each setting

    @property
    def numbers(self) -> list[float]:
        """The distinct values in order; empty if they are not all numbers."""
        found = set(self.values.values())
        if any(isinstance(value, bool) or not isinstance(value, int | float) for value in found):
            return []
        return sorted(found)


@dataclass
class Arm:
    """All runs of a group that share the value of what is compared."""

    name: str
    settings: dict[Key, Setting] = field(default_factory=dict)
    unended: list[Run] = field(default_factory=list)

    @property
    def runs(self) -> list[Run]:
        return [run for setting in self.settings.values() for run in setting.all_runs]

    @property
    def budgets(self) -> set[int]:
        """Budgets at which a run has ended."""
        return {tokens for setting in self.settings.values() for tokens in setting.runs}

    @cached_property
    def axes(self) -> list[Axis]:
        """What differs between this arm's settings."""
        settings = list(self.settings.values())
        moving: dict[tuple[int, ...], list[str]] = {}
        for key in sorted({key for setting in settings for key, _ in setting.key}):
            pattern = _pattern([json.dumps(setting.value(key)) for setting in settings])
            if any(pattern):
                moving.setdefault(pattern, []).append(key)
        return [self._axis(pattern, keys) for pattern, keys in moving.items()]

    def _axis(self, pattern: tuple[int, ...], keys: list[str]) -> Axis:
        settings = self.settings.values()
        for shared in self._shared_lrs() if any(map(LEARNING_RATE.fullmatch, keys)) else ():
            found = [{json.dumps(r.flat_config.get(shared)) for r in s.all_runs} for s in settings]
            column = [next(iter(values)) for values in found]
            if all(len(values) == 1 for values in found) and _pattern(column) == pattern:
                values = {s.key: json.loads(value) for s, value in zip(settings, column)}
                return Axis(shared, tuple(keys), values)
        name = next((key for key in keys if ".hidden." in key), keys[0])
        return Axis(name, tuple(keys), {s.key: _hashable(s.value(name)) for s in settings})

    def _shared_lrs(self) -> list[str]:
        """The widest first: lr_scale moves all roles, `lr` some, others fewer."""
        found = {key for run in self.runs for key in run.flat_config if SHARED_LR.fullmatch(key)}
        return sorted(found, key=lambda key: (key != "optim.lr_scale", key != "optim.lr", key))

    def describe(self, setting: Setting) -> str:
        """A setting by what sets it apart within its arm."""
        values = [f"{axis.name}={show(axis.values[setting.key])}" for axis in self.axes]
        return ", ".join(values) or "as configured"


def _pattern(column: list[str]) -> tuple[int, ...]:
    """Which entries are equal, whatever they are: (a, b, a) and (1, 2, 1) are both (0, 1, 0)."""
    first: dict[str, int] = {}
    return tuple(first.setdefault(value, len(first)) for value in column)


def _hashable(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value
