"""What a run is: the canonical values that decide its result, and their hash.

schema.py says which keys decide. Arguments equal to their constructor's default are left out, so
that a new argument orphans no old run. Numbers are typed as the constructor types them, so that 1
and 1.0 are one run.
"""

import dataclasses
import hashlib
import json
from typing import Any

from minigpt.config import annotations, signature
from minigpt.config.budget import BUDGET_KEYS, budget_in_steps
from minigpt.config.schema import KEYS, Key, Train, TrainRoot
from minigpt.errors import ConfigError
from minigpt.roles import ROLES, scaled_lr

PREPARE = "minigpt.data.prepare.prepare"


def canonical(node: Any) -> Any:
    """A configuration node as its typed values without defaults; of `_keys_` only `_target_`."""
    if isinstance(node, list | tuple):
        return [canonical(item) for item in node]
    if not isinstance(node, dict):
        return node
    known = signature.read_signature(node["_target_"]).parameters if "_target_" in node else {}
    result: dict[str, Any] = {}
    for key, value in node.items():
        if key.startswith("_") and key != "_target_":
            continue
        value = canonical(value)
        if key in known:
            value = annotations.canonical_number(value, known[key].annotation)
            default = known[key].default
            if value == (list(default) if isinstance(default, tuple) else default):
                continue
        result[key] = value
    return result


def argument(node: dict[str, Any], name: str) -> Any:
    """The value of a model's argument: the configured one, or the constructor's default.

    Raises ConfigError for a class that has no such argument.
    """
    if name in node:
        return node[name]
    found = signature.read_signature(node["_target_"]).parameters.get(name)
    if found is None:
        raise ConfigError(
            f"not made for model: {node['_target_']} has no argument {name} "
            "(derive it from Transformer: minigpt/model/ensemble.py)"
        )
    return found.default


def shared_scalars(group: str, node: dict[str, Any]) -> tuple[str, ...]:
    """Keys of an open group that are not for its class.

    In `optim` these are `lr` and what ends in `_lr`: the roles refer to them, as in
    `${optim.adamw_lr}`. In `probe` it is the interval of the loop.
    """
    if group == "probe":
        return ("every",)
    if group != "optim":
        return ()
    return tuple(key for key in node if key == "lr" or key.endswith("_lr"))


def data_identity(data: dict[str, Any]) -> dict[str, Any]:
    """What decides the bytes of prepared tokens: source, tokenizer and preparation."""
    prepare = signature.read_signature(PREPARE).parameters
    kept = {
        key: value
        for key, value in data.items()
        if KEYS.get(f"data.{key}", Key()).effect == "result"
        and not (key in prepare and value == prepare[key].default)
    }
    return canonical(kept)


def optim_identity(optim: dict[str, Any]) -> dict[str, Any]:
    """Each role's block with its lr multiplied by lr_scale: lr 0.02 x 2 and 0.04 are one run."""
    scale = optim.get("lr_scale", 1.0)
    left_out = {*shared_scalars("optim", optim), "lr_scale"}
    roles = {role: dict(optim[role]) for role in ROLES if isinstance(optim.get(role), dict)}
    for block in roles.values():
        if "lr" not in block and scale != 1:  # the scale multiplies the class's own default too
            lr = signature.read_signature(block["_target_"]).parameters.get("lr")
            block |= {} if lr is None else {"lr": lr.default}
        if isinstance(block.get("lr"), int | float):
            block["lr"] = scaled_lr(block["lr"], scale)
    rest = {key: value for key, value in optim.items() if key not in {*left_out, *ROLES}}
    return canonical(rest) | {role: canonical(block) for role, block in roles.items()}


def run_identity(config: dict[str, Any], weights: str | None = None) -> dict[str, Any]:
    """What decides the result of a run, from its resolved configuration.

    weights: SHA-256 of what `init_from` names, which joins the identity in place of its path.
    """
    seq_len = argument(config["model"], "max_seq_len")
    train = _decisive(Train, config["train"])
    parts = {
        "model": canonical(config["model"]),
        "optim": optim_identity(config["optim"]),
        "schedule": canonical(config["schedule"]),
        "data": data_identity(config["data"]),
        "budget": budget_in_steps(config["train"], seq_len),
        "train": {key: value for key, value in train.items() if key not in BUDGET_KEYS},
    }
    return parts | _decisive(TrainRoot, config | {"init_from": weights})


def _decisive(schema: type, node: dict[str, Any]) -> dict[str, Any]:
    """The plain values of a schema that have an effect on the result."""
    found = {}
    for item in dataclasses.fields(schema):
        known: Key = item.metadata.get("key", Key())
        if known.effect != "result" or item.type is Any or dataclasses.is_dataclass(item.type):
            continue
        if not known.optional:
            found[item.name] = node[item.name]
        elif (value := node.get(item.name)) != item.default:
            found[item.name] = value
    return found


def short_hash(identity: dict[str, Any]) -> str:
    """Eight hex digits of SHA-256 over canonical JSON."""
    text = json.dumps(identity, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one of dotted keys; lists stay values."""
    if not isinstance(node, dict) or not node:
        return {prefix: node}
    result: dict[str, Any] = {}
    for key, value in node.items():
        result |= flatten(value, f"{prefix}.{key}" if prefix else key)
    return result


def differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys on which two identities differ, with (old, new); a missing value is None."""
    before, after = flatten(old), flatten(new)
    return {
        key: (before.get(key), after.get(key))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    }
