"""Which runs may stand side by side: equal in all but what is compared, the tuned values, the seed
and the budget.

Runs that differ in anything else go into another group, and the report names the keys that split
them.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from minigpt.errors import ConfigError
from minigpt.study.run import LEARNING_RATE, Run
from minigpt.study.select import key_hint
from minigpt.study.values import show

# The lr as people type it; an axis is called by one of these where it moves the same settings.
TYPED_AXES = ("optim.lr_scale", "optim.lr", "optim.adamw_lr")
PAIRING = ("seed", "train.steps", "train.tokens", "train.epochs", "attempt", "name", "study")
Key = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Question:
    """What is compared, and what else an arm may tune.

    by: a group of options (`optim`, `data/tokenizer`) or a key (`optim.hidden.lr`). For a group
    everything below it belongs to the arm and is tuned within it.  axes: further keys, beyond
    learning rates, that are tuned in each arm.
    """

    by: str
    axes: tuple[str, ...] = ()

    @property
    def node(self) -> str:
        return self.by.replace("/", ".")

    def is_tuned(self, key: str) -> bool:
        """Whether each arm may have its own best value of a key: learning rates, what is below
        `by`, and the axes.
        """
        return bool(LEARNING_RATE.fullmatch(key)) or any(
            _below(key, node) for node in (self.node, *self.axes)
        )

    def signature(self, run: Run) -> dict[str, str]:
        """What must be equal in a group, as JSON."""
        shared = {
            key: json.dumps(value, sort_keys=True)
            for key, value in run.flat_identity.items()
            if not self.is_tuned(key) and key not in PAIRING and not key.startswith("budget.")
        }
        data = run.record["data"]
        if _below(self.node, "data.tokenizer"):
            shared["validation bytes"] = json.dumps(data.get("val_bytes"))
        elif _below(self.node, "data"):
            shared["validation tokens"] = json.dumps(
                data.get("val_fingerprint", data["fingerprint"])[:12]
            )
        else:
            shared["tokens"] = json.dumps(data["fingerprint"][:12])
        return shared

    def setting(self, run: Run) -> Key:
        """The tuned values of a run: what is chosen on tuning seeds."""
        tuned = {
            key: value
            for key, value in run.flat_identity.items()
            if self.is_tuned(key) and key != self.node
        }
        return tuple(
            sorted((key, json.dumps(value, sort_keys=True)) for key, value in tuned.items())
        )

    @property
    def metric(self) -> str:
        """nats per token compare only one tokenizer with itself; bits per byte also cross
        tokenizers.
        """
        return "val_bits_per_byte" if _below(self.node, "data.tokenizer") else "val_loss"


def _below(key: str, node: str) -> bool:
    return key == node or key.startswith(f"{node}.")


@dataclass
class Setting:
    """One point of an arm's search space, with its runs by budget (tokens) and seed."""

    key: Key
    runs: dict[int, dict[int, Run]] = field(default_factory=dict)

    @property
    def all_runs(self) -> list[Run]:
        return [run for by_seed in self.runs.values() for run in by_seed.values()]

    def value(self, key: str) -> Any:
        return self.all_runs[0].decided(key)


@dataclass(frozen=True)
class Axis:
    """A tuned value that differs between the settings of an arm. Keys that move together are one
    axis.
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

    @cached_property
    def axes(self) -> list[Axis]:
        """What differs between this arm's settings."""
        settings = list(self.settings.values())
        keys = sorted({key for setting in settings for key, _ in setting.key})
        columns = {
            key: tuple(json.dumps(setting.value(key)) for setting in settings) for key in keys
        }
        moving: dict[tuple[int, ...], list[str]] = {}
        for key, column in columns.items():
            if len(set(column)) > 1:
                moving.setdefault(_partition(column), []).append(key)
        return [self._axis(partition, names, settings) for partition, names in moving.items()]

    def _axis(self, partition: tuple[int, ...], keys: list[str], settings: list[Setting]) -> Axis:
        for typed in TYPED_AXES if any(LEARNING_RATE.fullmatch(key) for key in keys) else ():
            found = [
                {json.dumps(run.flat_config.get(typed)) for run in s.all_runs} for s in settings
            ]
            column = tuple(next(iter(values)) for values in found)
            if all(len(values) == 1 for values in found) and _partition(column) == partition:
                return Axis(
                    typed, tuple(keys), {s.key: json.loads(v) for s, v in zip(settings, column)}
                )
        name = next((key for key in keys if ".hidden." in key), keys[0])
        return Axis(name, tuple(keys), {s.key: _hashable(s.value(name)) for s in settings})

    def describe(self, setting: Setting) -> str:
        """A setting by what sets it apart within its arm."""
        return (
            ", ".join(f"{axis.name}={show(axis.values[setting.key])}" for axis in self.axes)
            or "as configured"
        )


def _partition(column: tuple[Any, ...]) -> tuple[int, ...]:
    """Which entries are equal, whatever they are: (a, b, a) and (1, 2, 1) are both (0, 1, 0)."""
    first: dict[Any, int] = {}
    return tuple(first.setdefault(value, len(first)) for value in column)


def _hashable(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


@dataclass
class Group:
    """Comparable runs. split: the values of the keys that set this group apart from other
    groups.
    """

    question: Question
    arms: dict[str, Arm]
    shared: dict[str, str]
    split: dict[str, str] = field(default_factory=dict)
    duplicates: list[str] = field(default_factory=list)

    @property
    def runs(self) -> list[Run]:
        return [run for arm in self.arms.values() for run in (*arm.runs, *arm.unended)]

    @property
    def first_typed(self) -> str:
        """The arm that was typed first: Muon of `optim=muon,adamw`. Told by the oldest of the
        sweeps that hold most arms; without one, the arm of the oldest run."""
        typed: dict[Path, dict[str, int]] = {}
        for name, arm in self.arms.items():
            for place in (place for run in (*arm.runs, *arm.unended) for place in run.places):
                order = typed.setdefault(place.record, {})
                order[name] = min(place.number, order.get(name, place.number))
        by_age = sorted(self.runs, key=lambda run: (str(run.record.get("started")), run.name))
        ages = {
            place.record: age
            for age, run in reversed(list(enumerate(by_age)))
            for place in run.places
        }
        if typed:
            sweep = min(typed, key=lambda record: (-len(typed[record]), ages[record]))
            if len(typed[sweep]) > 1:
                return min(typed[sweep], key=lambda name: typed[sweep][name])
        return arm_name(self.question, by_age[0])

    @property
    def title(self) -> str:
        where = ", ".join(f"{key}={_plain(value)}" for key, value in self.split.items())
        return f"{self.question.by}: {', '.join(self.arms)}" + (f"  [{where}]" if where else "")


def _plain(value: str) -> str:
    """A value of a signature as it would be typed; `default` where it was left out."""
    try:
        return show(json.loads(value))
    except ValueError:
        return value


@dataclass
class Sorted:
    """groups: with at least two arms.  single: groups with one arm.  split_keys: what set groups
    apart.
    """

    groups: list[Group]
    single: list[Group]
    split_keys: list[str]


def sort_runs(question: Question, runs: list[Run]) -> Sorted:
    """Comparable groups of the runs, largest first.

    Raises ConfigError if `by` names no key, or one that pairs runs instead of setting arms apart.
    """
    _refuse(question, runs)
    by_signature: dict[Key, list[Run]] = {}
    for run in runs:
        by_signature.setdefault(tuple(sorted(question.signature(run).items())), []).append(run)
    groups = [
        _group(question, dict(signature), members) for signature, members in by_signature.items()
    ]
    keys = sorted(set().union(*(group.shared for group in groups))) if groups else []
    split_keys = [key for key in keys if len({group.shared.get(key) for group in groups}) > 1]
    for group in groups:
        group.split = {key: group.shared.get(key, "default") for key in split_keys}
    groups.sort(key=lambda group: -len(group.runs))
    several = [group for group in groups if len(group.arms) > 1]
    return Sorted(several, [group for group in groups if len(group.arms) < 2], split_keys)


def _refuse(question: Question, runs: list[Run]) -> None:
    if question.by in PAIRING:
        raise ConfigError(
            f"not an arm: --by {question.by} (runs are paired by seed and lined up by budget; compare another key)"
        )
    for key in (question.by, *question.axes):
        if not any(_knows(run, key) for run in runs):
            option = "--by" if key == question.by else "--axis"
            raise ConfigError(f"unknown key: {option} {key} {key_hint(key, runs)}")


def _knows(run: Run, key: str) -> bool:
    try:
        run.value(key)
    except KeyError:
        return any(_below(known, key.replace("/", ".")) for known in run.flat_identity)
    return True


def arm_name(question: Question, run: Run) -> str:
    """The arm a run belongs to; null where what is compared is not set at all."""
    try:
        return show(run.value(question.by))
    except KeyError:
        return "null"


def _group(question: Question, shared: dict[str, str], runs: list[Run]) -> Group:
    horizon = _horizons(runs)
    arms: dict[str, Arm] = {}
    duplicates = []
    # Ended runs before the others, oldest first: a later attempt never replaces a run that
    # diverged.
    for run in sorted(
        runs,
        key=lambda run: (run.loss("val_loss") is None, str(run.record.get("started")), run.name),
    ):
        name = arm_name(question, run)
        arm = arms.setdefault(name, Arm(name))
        tokens = horizon(run)
        if tokens is None or run.loss(question.metric) is None:
            arm.unended.append(run)
            continue
        setting = arm.settings.setdefault(question.setting(run), Setting(question.setting(run)))
        cell = setting.runs.setdefault(tokens, {})
        if run.seed in cell:
            duplicates.append(f"{run.name} repeats {cell[run.seed].name}; the older one counts")
        else:
            cell[run.seed] = run
    return Group(question, dict(sorted(arms.items(), key=_natural)), shared, duplicates=duplicates)


def _natural(item: tuple[str, Arm]) -> tuple[int, float, str]:
    """Numbers by size, words by alphabet."""
    try:
        return (0, float(item[0]), "")
    except ValueError:
        return (1, 0.0, item[0])


def _horizons(runs: list[Run]) -> Callable[[Run], int | None]:
    """The budget of a run in tokens; of a diverged run over epochs, that of a finished run over as
    many.
    """
    known = {
        (str(run.record["identity"]["budget"]), run.tokens_per_step): run.budget_tokens
        for run in runs
        if run.budget_tokens is not None
    }
    return lambda run: (
        run.budget_tokens or known.get((str(run.record["identity"]["budget"]), run.tokens_per_step))
    )


def nearest_split(question: Question, single: list[Group]) -> list[str]:
    """The fewest keys that keep two arms apart, each with both values, for the refusal to compare
    them.
    """
    best: list[str] | None = None
    for index, one in enumerate(single):
        for other in single[index + 1 :]:
            (a,), (b,) = one.arms, other.arms
            if a == b:
                continue
            keys = sorted(
                k for k in one.shared | other.shared if one.shared.get(k) != other.shared.get(k)
            )
            lines = [
                f"{k} ({a}: {_plain(one.shared.get(k, 'default'))}, {b}: {_plain(other.shared.get(k, 'default'))})"
                for k in keys
            ]
            if best is None or len(lines) < len(best):
                best = lines
    return best or []
