"""By what arms are judged: what the study declared before its runs, or the command line says."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from minigpt.study.run import Run

FIRST_CONFIRMATION_SEED = 100
ALPHA = 0.05


@dataclass(frozen=True)
class Rules:
    """The declaration. Each declared look uses alpha / looks (Bonferroni): intervals are wider."""

    baseline: str | None = None
    margin: float = 0.0  # in the unit of the loss
    tuning_seeds: tuple[int, ...] | None = None
    confirmation_seeds: tuple[int, ...] | None = None
    looks: tuple[int, ...] = ()

    @property
    def alpha(self) -> float:
        return ALPHA / max(1, len(self.looks))

    @property
    def confidence(self) -> float:
        return 1 - self.alpha

    @property
    def read_at(self) -> tuple[int, ...]:
        """The numbers of pairs at which the verdict may be read; empty if nothing was declared.

        Declared seeds without looks are read once, when all of them are there.
        """
        return self.looks or ((len(self.confirmation_seeds),) if self.confirmation_seeds else ())

    def confirms(self, seed: int) -> bool:
        """Whether a seed judges."""
        if self.confirmation_seeds is not None:
            return seed in self.confirmation_seeds
        if self.tuning_seeds is not None and seed in self.tuning_seeds:
            return False
        return seed >= FIRST_CONFIRMATION_SEED

    def tunes(self, seed: int) -> bool:
        """Whether a seed chooses."""
        if self.tuning_seeds is not None:
            return seed in self.tuning_seeds
        return not self.confirms(seed)


def declared_rules(
    runs: Sequence[Run], baseline: str | None, margin: float | None
) -> tuple[Rules, list[str]]:
    """The rules that the oldest run declares, and what is odd about them.

    A declaration that changes on the way is none.
    baseline, margin: of the command line, instead of the declared ones.
    """
    found = [run.config.get("verdict") or {} for run in sorted(runs, key=lambda run: run.age)]
    found = [node for node in found if any(value is not None for value in node.values())]
    first: dict[str, Any] = found[0] if found else {}
    notes = []
    if len({json.dumps(node, sort_keys=True) for node in found}) > 1:
        notes.append("the runs declare different verdict.* values; those of the oldest run count")
    for key, given in (("baseline", baseline), ("margin", margin)):
        if given is not None and first.get(key) is not None and first[key] != given:
            notes.append(f"--{key} {given} replaces the declared verdict.{key}={first[key]}")

    def seeds(key: str) -> tuple[int, ...] | None:
        return tuple(first[key]) if first.get(key) else None

    return Rules(
        baseline=baseline if baseline is not None else first.get("baseline"),
        margin=float(margin if margin is not None else first.get("margin") or 0.0),
        tuning_seeds=seeds("tuning_seeds"),
        confirmation_seeds=seeds("confirmation_seeds"),
        looks=seeds("looks") or (),
    ), notes
