"""Which runs may stand side by side.

They are equal in all but what is compared, the tuned values, the seed and the budget. Runs that
differ in anything else go into another group, and the report names the keys that split them.
"""

from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from minigpt.compare.arms import Arm, Setting
from minigpt.compare.question import Key, Question, as_typed
from minigpt.study.run import Run


@dataclass
class Group:
    """Comparable runs."""

    question: Question
    arms: dict[str, Arm]
    shared: dict[str, str]
    split: dict[str, str] = field(default_factory=dict)  # keys that set it apart from other groups
    duplicates: list[str] = field(default_factory=list)

    @property
    def runs(self) -> list[Run]:
        return [run for arm in self.arms.values() for run in (*arm.runs, *arm.unended)]

    @property
    def first_typed(self) -> str:
        """The arm that was typed first: Muon of `optim=muon,adamw`.

        Told by the oldest of the sweeps that hold most arms, else by the oldest run.
        """
        by_age = sorted(self.runs, key=lambda run: run.age)
        typed: dict[Path, dict[str, int]] = {}  # by sweep, the oldest first
        for run in by_age:
            name = self.question.arm(run)
            for place in run.places:
                order = typed.setdefault(place.record, {})
                order[name] = min(place.number, order.get(name, place.number))
        fullest = max(typed.values(), key=len, default={})
        if len(fullest) > 1:
            # of two arms on one place, the one that is listed first
            return min((name for name in self.arms if name in fullest), key=lambda n: fullest[n])
        return self.question.arm(by_age[0])

    @property
    def title(self) -> str:
        where = ", ".join(f"{key}={as_typed(value)}" for key, value in self.split.items())
        return f"{self.question.by}: {', '.join(self.arms)}" + (f"  [{where}]" if where else "")


@dataclass
class Groups:
    """The runs of a question."""

    several: list[Group]  # with at least two arms, largest first
    single: list[Group]  # with one arm
    split_keys: list[str]  # what set them apart


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
    arms: dict[str, Arm] = {}
    duplicates = []

    def age(run: Run) -> tuple[bool, str, str]:
        """Ended runs first: a later attempt never replaces a run that diverged."""
        return run.loss("val_loss") is None, *run.age

    for run in sorted(runs, key=age):
        name = question.arm(run)
        arm = arms.setdefault(name, Arm(name))
        tokens = run.budget_tokens or budgets.get(_asked(run))
        if tokens is None or run.loss(question.metric) is None:
            arm.unended.append(run)
            continue
        key = question.setting(run)
        by_seed = arm.settings.setdefault(key, Setting(key)).runs.setdefault(tokens, {})
        first = by_seed.setdefault(run.seed, run)
        if first is not run:
            duplicates.append(f"{run.name} repeats {first.name}; the older one counts")
    in_order = {name: arms[name] for name in sorted(arms, key=_natural)}
    return Group(question, in_order, shared, duplicates=duplicates)


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
