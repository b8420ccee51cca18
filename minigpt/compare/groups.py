"""Which runs may stand side by side.

They are equal in all but what is compared, the tuned values, the seed and the budget. Runs that
differ in anything else go into another group, and the report names the keys that split them.
"""

from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from minigpt.compare.question import Key, Question, as_typed
from minigpt.study.run import Run


@dataclass
class Group:
    """Comparable runs, by arm and age."""

    question: Question
    ended: dict[str, dict[Run, int]]  # by arm: its ended runs, with their budgets in tokens
    unended: dict[str, list[Run]]
    shared: dict[str, str]
    split: dict[str, str] = field(default_factory=dict)  # keys that set it apart from other groups
    duplicates: list[str] = field(default_factory=list)

    @property
    def arms(self) -> list[str]:
        return list(self.ended)

    @property
    def runs(self) -> list[Run]:
        return [run for arm in self.arms for run in (*self.ended[arm], *self.unended[arm])]

    @property
    def first_typed(self) -> str:
        """The arm that was typed first: Muon of `optim=muon,adamw`.

        Told by the oldest of the sweeps that hold most arms, else by the oldest run.
        """
        by_age = sorted(self.runs, key=lambda run: run.age)
        typed: dict[Path, dict[str, int]] = {}  # by sweep, the oldest first
        for run in by_age:
            name = run.arm(self.question.by)
            for place in run.places:
                order = typed.setdefault(place.record, {})
                order[name] = min(place.number, order.get(name, place.number))
        fullest = max(typed.values(), key=len, default={})
        if len(fullest) > 1:
            # of two arms on one place, the one that is listed first
            return min((name for name in self.arms if name in fullest), key=lambda n: fullest[n])
        return by_age[0].arm(self.question.by)

    def title(self, first: "Group") -> str:
        """Its arms, and in what it differs from the first group."""
        apart = {key: value for key, value in self.split.items() if first.split[key] != value}
        where = ", ".join(f"{key}={as_typed(value)}" for key, value in apart.items())
        return f"{self.question.by}: {', '.join(self.arms)}" + (f"  [{where}]" if where else "")


@dataclass
class Groups:
    """The runs of a question."""

    several: list[Group]  # with at least two arms, largest first
    single: list[Group]  # with one arm
    split_keys: list[str]  # what set them apart

    @property
    def first(self) -> Group:
        return (self.several or self.single)[0]


def group_runs(question: Question, runs: list[Run]) -> Groups:
    """Comparable groups of the runs.

    Raises ConfigError if `by` names no key, or one that pairs runs instead of setting arms apart.
    """
    question.refuse_unknown(runs)
    by_signature: dict[Key, list[Run]] = {}
    for run in runs:
        by_signature.setdefault(tuple(sorted(question.signature(run).items())), []).append(run)
    groups = [_group(question, dict(shared), members) for shared, members in by_signature.items()]
    groups.sort(key=lambda group: -len(group.runs))
    keys = sorted({key for group in groups for key in group.shared})
    split_keys = [key for key in keys if len({group.shared.get(key) for group in groups}) > 1]
    for group in groups:
        group.split = {key: group.shared.get(key, "default") for key in split_keys}
    return Groups(
        [group for group in groups if len(group.arms) > 1],
        [group for group in groups if len(group.arms) < 2],
        split_keys,
    )


def _group(question: Question, shared: dict[str, str], runs: list[Run]) -> Group:
    # A diverged run over epochs has the tokens of a finished one over as many.
    budgets = {_asked(run): run.budget_tokens for run in runs if run.budget_tokens is not None}
    arms = sorted({run.arm(question.by) for run in runs}, key=_natural)
    group = Group(question, {arm: {} for arm in arms}, {arm: [] for arm in arms}, shared)
    first: dict[Any, Run] = {}

    def age(run: Run) -> tuple[bool, str, str]:
        """Ended runs first: a later attempt never replaces a run that diverged."""
        return run.loss("val_loss") is None, *run.age

    for run in sorted(runs, key=age):
        arm = run.arm(question.by)
        tokens = run.budget_tokens or budgets.get(_asked(run))
        if tokens is None or run.loss(question.metric) is None:
            group.unended[arm].append(run)
            continue
        older = first.setdefault((arm, question.setting(run), tokens, run.seed), run)
        if older is run:
            group.ended[arm][run] = tokens
        else:
            group.duplicates.append(f"{run.name} repeats {older.name}; the older one counts")
    return group


def _asked(run: Run) -> tuple[str, int]:
    """The budget as it was asked for."""
    return str(run.record["identity"]["budget"]), run.tokens_per_step


def _natural(name: str) -> tuple[int, float, str]:
    """Numbers by size, words by alphabet."""
    try:
        return (0, float(name), "")
    except ValueError:
        return (1, 0.0, name)


def nearest_split(single: list[Group]) -> list[str]:
    """The fewest keys that keep two arms apart, each with both values."""
    splits = []
    for one, other in combinations(single, 2):
        (a,), (b,) = one.arms, other.arms
        if a != b:
            values = {
                key: [as_typed(group.shared.get(key, "default")) for group in (one, other)]
                for key in sorted(one.shared | other.shared)
                if one.shared.get(key) != other.shared.get(key)
            }
            splits.append([f"{key} ({a}: {x}, {b}: {y})" for key, (x, y) in values.items()])
    return min(splits, key=len, default=[])
