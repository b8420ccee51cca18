"""The runs of a declared study, as what one would type for each."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from minigpt.study.declaration import Declaration, Setting
from minigpt.study.values import typed


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study: an arm with a setting, in a cell, at a budget, from a seed."""

    cell: Setting
    arm: str
    setting: Setting
    budget: float
    seed: int

    def overrides(self, declaration: Declaration) -> list[str]:
        """What sets it apart from the other runs of its study."""
        pairs = [
            (declaration.by, declaration.value(self.arm)),
            *((key, typed(value)) for key, value in (*self.cell, *self.setting)),
            ("seed", str(self.seed)),
            (declaration.budget_key, typed(self.budget)),
        ]
        return [f"{key}={value}" for key, value in pairs]

    def line(self, declaration: Declaration) -> str:
        """The same in a line, which names it in runs.json."""
        return " ".join(self.overrides(declaration))


def label(setting: Setting) -> str:
    """`optim.lr_scale=0.5, optim.hidden.momentum=0.9`; `as configured` for the empty one."""
    return ", ".join(f"{key}={typed(value)}" for key, value in setting) or "as configured"


def cell_name(cell: Setting) -> str:
    """The same, but empty for the only cell of a study without cells."""
    return label(cell) if cell else ""


def tuning_runs(
    declaration: Declaration, cell: Setting, arm: str, settings: Iterable[Setting]
) -> list[PlannedRun]:
    """The settings of an arm on the tuning seeds."""
    tune = declaration.tune
    return [
        PlannedRun(cell, arm, setting, tune.budget, seed)
        for setting in settings
        for seed in tune.seeds
    ]


def judging_runs(
    declaration: Declaration, cell: Setting, chosen: dict[str, Setting], seeds: Sequence[int]
) -> list[PlannedRun]:
    """Every arm as it was chosen, on these seeds; the shortest budget first."""
    return [
        PlannedRun(cell, arm, setting, budget, seed)
        for budget in declaration.budgets
        for seed in seeds
        for arm, setting in chosen.items()
    ]
