"""What is compared, and what must be equal for it."""

import json
from dataclasses import dataclass

from minigpt.errors import ConfigError
from minigpt.study.declaration_problems import PAIRING
from minigpt.study.run import LEARNING_RATE, Run
from minigpt.study.select import key_hint
from minigpt.study.values import show

Key = tuple[tuple[str, str], ...]  # pairs of a key and its value as JSON, sorted


@dataclass(frozen=True)
class Question:
    """by is a group of options (`optim`, `data/tokenizer`) or a key (`optim.hidden.lr`).

    Everything below a group belongs to the arm and is tuned within it.
    """

    by: str
    axes: tuple[str, ...] = ()  # keys that each arm tunes, beyond learning rates

    @property
    def node(self) -> str:
        return self.by.replace("/", ".")

    @property
    def metric(self) -> str:
        """Nats per token compare one tokenizer with itself; bits per byte cross tokenizers too."""
        return "val_bits_per_byte" if _below(self.node, "data.tokenizer") else "val_loss"

    def is_tuned(self, key: str) -> bool:
        """Whether each arm may have its own best value of a key."""
        nodes = (self.node, *self.axes)
        return bool(LEARNING_RATE.fullmatch(key)) or any(_below(key, node) for node in nodes)

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
            fingerprint = data.get("val_fingerprint", data["fingerprint"])
            shared["validation tokens"] = json.dumps(fingerprint[:12])
        else:
            shared["tokens"] = json.dumps(data["fingerprint"][:12])
        return shared

    def setting(self, run: Run) -> Key:
        """The tuned values of a run: what is chosen on tuning seeds."""
        tuned = {
            key: json.dumps(value, sort_keys=True)
            for key, value in run.flat_identity.items()
            if self.is_tuned(key) and key != self.node
        }
        return tuple(sorted(tuned.items()))

    def refuse_unknown(self, runs: list[Run]) -> None:
        """Raise ConfigError for a key that no run has, or that pairs runs instead."""
        if self.by in PAIRING:
            raise ConfigError(
                f"not an arm: --by {self.by} "
                "(runs are paired by seed and lined up by budget; compare another key)"
            )
        if paired := sorted(set(self.axes) & set(PAIRING)):
            raise ConfigError(f"not to be tuned: --axis {paired[0]} (it pairs runs)")
        for option, key in (("--by", self.by), *(("--axis", axis) for axis in self.axes)):
            if not any(_knows(run, key) for run in runs):
                raise ConfigError(f"unknown key: {option} {key} {key_hint(key, runs)}")


def _knows(run: Run, key: str) -> bool:
    node = key.replace("/", ".")
    return run.has(key) or any(_below(known, node) for known in run.flat_identity)


def _below(key: str, node: str) -> bool:
    return key == node or key.startswith(f"{node}.")


def as_typed(value: str) -> str:
    """A value of a signature as it would be typed; `default` where it was left out."""
    try:
        return show(json.loads(value))
    except ValueError:
        return value
