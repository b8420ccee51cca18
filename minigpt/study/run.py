"""One run as plain values: what it was asked to do, what was chosen for it, what it came to."""

import json
import math
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from minigpt.config import identity
from minigpt.config.places import CONF
from minigpt.files import records
from minigpt.files.reading import UnreadableError
from minigpt.roles import scaled_lr
from minigpt.run.source_digest import changed_modules
from minigpt.study.record import Place
from minigpt.study.values import is_number, show
from minigpt.terminal import escape_line

LEARNING_RATE = re.compile(r"optim\.\w+\.lr")  # each role's


@dataclass(frozen=True, eq=False)
class Run:
    folder: Path
    record: dict[str, Any]  # run.json
    config: dict[str, Any]  # config.yaml
    summary: dict[str, Any] | None = None  # summary.json, None before the end
    failure: dict[str, Any] | None = None  # failed.json
    running: bool = False  # another process holds the folder's lock
    places: tuple[Place, ...] = ()  # where it stands in the records of sweeps

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def age(self) -> tuple[str, str]:
        """Sorts runs, the oldest first."""
        return str(self.record.get("started")), self.name

    @cached_property
    def status(self) -> str:
        """finished, diverged, running, failed or unfinished."""
        if self.summary is not None:
            return str(self.summary["status"])
        if self.running:
            return "running"
        return "unfinished" if self.failure is None else "failed"

    @cached_property
    def flat_identity(self) -> dict[str, Any]:
        """What decides the result, as dotted keys, without arguments equal to their default."""
        return identity.flatten(self.record["identity"])

    @cached_property
    def flat_config(self) -> dict[str, Any]:
        return identity.flatten(self.config)

    @property
    def seed(self) -> int:
        return int(self.record["identity"]["seed"])

    @property
    def studies(self) -> list[str]:
        """The studies that it belongs to: the one that it was begun for comes first."""
        all_of_them = (self.record.get("study"), *(place.study for place in self.places))
        return list(dict.fromkeys(study for study in all_of_them if study is not None))

    @cached_property
    def changed_code(self) -> list[str]:
        """Modules that computed it and have changed since. An arm that is code has its own."""
        return [] if "code" in self.record["identity"] else changed_modules(self.record)

    @cached_property
    def tokens_per_step(self) -> int:
        seq_len = identity.argument(self.config["model"], "max_seq_len")
        return int(self.config["train"]["batch_size"]) * int(seq_len)

    @cached_property
    def budget_tokens(self) -> int | None:
        """The budget in tokens as it was asked for.

        None if only the corpus knows: a budget in epochs, before the end.
        """
        train = self.config["train"]
        if train.get("tokens") is not None:
            return int(train["tokens"])
        steps = train.get("steps") or self.record.get("steps")
        if steps is not None:
            return int(steps) * self.tokens_per_step
        if self.summary is not None and self.status == "finished":
            return int(self.summary["tokens"])
        return None

    def loss(self, metric: str) -> float | None:
        """The final validation loss: infinite if diverged, None before the end."""
        if self.status == "diverged":
            return math.inf
        loss = (self.summary or {}).get(metric)
        if not is_number(loss):
            return None
        return loss if math.isfinite(loss) else math.inf

    @property
    def step_time_s(self) -> float | None:
        """Median seconds of a training step, from the median rate of tokens."""
        rate = (self.summary or {}).get("tokens_per_s")
        return self.tokens_per_step / rate if rate else None

    @property
    def own_share(self) -> float:
        """The part of its steps that it trained itself: a branched run took over its first."""
        origin, steps = self.record.get("branched_from"), (self.summary or {}).get("step")
        return 1 - origin["step"] / steps if origin and steps else 1.0

    @cached_property
    def interval_s(self) -> tuple[float, float] | None:
        """When it ran, as seconds since 1970: from its first start, for as long as it took."""
        if "started" not in self.record:
            return None
        begin = datetime.fromisoformat(self.record["started"]).timestamp()
        return begin, begin + self.own_share * sum((self.summary or {}).get("seconds", {}).values())

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """metrics.jsonl; what cannot be read of it is left out, with a warning."""
        try:
            rows, bad, _ = records.read_rows(self.folder / "metrics.jsonl")
        except UnreadableError as error:
            rows, bad = [], []
            if not error.missing:
                _warn(f"{error.path}: {error.why}: left out")
        if bad:
            _warn(f"{self.name}: {len(bad)} lines of metrics.jsonl left out")
        return rows

    def value(self, key: str) -> Any:
        """A group's choice (`optim`, `model/attention`), else what this key was set to.

        Without a choice a class tells; an optional group whose node is empty is `none`.

        Raises KeyError if there is no such key.
        """
        choices = self.record["choices"]
        stand_ins = (choices[name] for name in choices if name.startswith(f"{key}@stand_in"))
        if (stand_in := next(stand_ins, None)) is not None or key in choices:
            return stand_in or choices[key]
        if LEARNING_RATE.fullmatch(key) and self.decided(key) is not None:
            return self.decided(key)
        chosen = identity.flatten({"chosen": self.record["chosen"]})
        for flat in (self.flat_config, self.flat_identity, chosen):
            if key in flat:
                return flat[key]
            if (target := flat.get(f"{key.replace('/', '.')}._target_")) is not None:
                return str(target).rpartition(".")[2]
        if "/" in key and (CONF / key / "none.yaml").is_file():
            return "none"
        raise KeyError(key)

    def has(self, key: str) -> bool:
        """Whether `value` knows the key."""
        try:
            self.value(key)
        except KeyError:
            return False
        return True

    def arm(self, by: str) -> str:
        """The value of a key as it would be typed; null where it is not set at all."""
        return show(self.value(by)) if self.has(by) else "null"

    def decided(self, key: str) -> Any:
        """The value of a key of the identity, also of one that was left out as a default.

        A learning rate comes multiplied by lr_scale. None where nothing is configured either.
        """
        if key in self.flat_identity:
            return self.flat_identity[key]
        value = self.flat_config.get(key)
        if LEARNING_RATE.fullmatch(key) and isinstance(value, int | float):
            return scaled_lr(value, self.flat_config.get("optim.lr_scale", 1.0))
        return value

    def keys(self) -> set[str]:
        """The keys of groups, configuration and identity."""
        return {*self.record["choices"], *self.flat_config, *self.flat_identity}


def differing(runs: Sequence[Run]) -> dict[Run, dict[str, Any]]:
    """Of each run the choices and keys that these runs do not all share, by their typed names."""
    choices = {
        run: {k: v for k, v in run.record["choices"].items() if k != "logger"} for run in runs
    }
    keys = set().union(*(run.flat_identity for run in runs)) - {"seed"}
    values = {run: {key: run.decided(key) for key in keys} | choices[run] for run in runs}
    found: dict[Run, dict[str, Any]] = {run: {} for run in runs}
    for key in sorted(set().union(*values.values())):
        if len({json.dumps(one.get(key), default=str) for one in values.values()}) > 1:
            for run, one in values.items():
                found[run][key.replace("budget.", "train.")] = one.get(key)
    return found


def weak_runs(runs: Iterable[Run]) -> list[str]:
    """A sentence about the runs that ended worse than a unigram model; none if there is none."""
    said = {run.name: records.worse_than_unigram(run.summary or {}) for run in runs}
    found = [f"{name}: {doubt}" for name, doubt in said.items() if doubt]
    more = f" (and {len(found) - 1} more)" if found[1:] else ""
    return [f"finite failures: {found[0]}{more}"] if found else []


def _warn(text: str) -> None:
    print(escape_line(f"warning: {text}"), file=sys.stderr)
