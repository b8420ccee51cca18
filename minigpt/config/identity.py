"""What a run is: the canonical values that decide its result, their hash, and a name that reads
like the command.

Left out is whatever only decides where and how a run is watched: device, compile, threads,
micro-batch, workers, logger, intervals, output folders. Arguments equal to their constructor's
default are left out too, so that a new argument orphans no old run, and numbers are typed as the
constructor types them, so that 1 and 1.0 are one run.
"""

import hashlib
import json
import re
from typing import Any

from minigpt.config import signature
from minigpt.config.budget import BUDGET_KEYS, steps_for_tokens
from minigpt.roles import ROLES, scaled_lr

PREPARE = "minigpt.data.prepare.prepare"
ONLY_WHERE = {"out", "workers", "wait", "progress"}  # arguments of prepare that decide no byte
DECIDING_TRAIN_KEYS = ("batch_size", "grad_clip", "document_mask", "precision", "max_bad_steps")
# came later: those that are off stay out, so that older runs keep their ids
OPTIONAL_TRAIN_KEYS = ("skip_spikes",)


def canonical(node: Any) -> Any:
    """A configuration node as its typed values without defaults; `_target_` stays, `_partial_` and
    the like go.
    """
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
            value = signature.canonical_number(value, known[key].annotation)
            default = known[key].default
            if value == (list(default) if isinstance(default, tuple) else default):
                continue
        result[key] = value
    return result


def argument(node: dict[str, Any], name: str) -> Any:
    """The value of a constructor argument: the configured one, or the constructor's default."""
    if name in node:
        return node[name]
    return signature.read_signature(node["_target_"]).parameters[name].default


def data_identity(data: dict[str, Any]) -> dict[str, Any]:
    """What decides the bytes of prepared tokens: source, tokenizer and preparation, without places
    and workers.
    """
    prepare = signature.read_signature(PREPARE).parameters
    kept = {
        key: value
        for key, value in data.items()
        if key not in ONLY_WHERE and not (key in prepare and value == prepare[key].default)
    }
    return canonical(kept)


def optim_identity(optim: dict[str, Any]) -> dict[str, Any]:
    """Each role's block with its lr multiplied by lr_scale, so that lr 0.02 x 2 and lr 0.04 are one
    run.
    """
    scale = optim.get("lr_scale", 1.0)
    roles = {role: dict(optim[role]) for role in ROLES if isinstance(optim.get(role), dict)}
    for block in roles.values():
        if isinstance(block.get("lr"), int | float):
            block["lr"] = scaled_lr(block["lr"], scale)
    rest = {k: v for k, v in optim.items() if k not in {"lr", "adamw_lr", "lr_scale", *ROLES}}
    return canonical(rest) | {role: canonical(block) for role, block in roles.items()}


def run_identity(config: dict[str, Any], weights: str | None = None) -> dict[str, Any]:
    """What decides the result of a run, from its resolved configuration.

    weights: SHA-256 of what `init_from` names. The path decides nothing, and what lies there may
        change.
    """
    train = config["train"]
    budget = {key: train[key] for key in BUDGET_KEYS if train[key] is not None}
    if "tokens" in budget:
        seq_len = argument(config["model"], "max_seq_len")
        budget = {"steps": steps_for_tokens(budget["tokens"], train["batch_size"], seq_len)}
    identity = {
        "model": canonical(config["model"]),
        "optim": optim_identity(config["optim"]),
        "schedule": canonical(config["schedule"]),
        "data": data_identity(config["data"]),
        "budget": budget,
        "train": {key: train[key] for key in DECIDING_TRAIN_KEYS}
        | {key: train[key] for key in OPTIONAL_TRAIN_KEYS if train.get(key) is not None},
        "seed": config["seed"],
    }
    optional = {
        "attempt": (config["attempt"], 1),
        "init_from": (weights if config["init_from"] is not None else None, None),
        "name": (config["name"], None),
    }
    return identity | {key: value for key, (value, default) in optional.items() if value != default}


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


SHORT = {"seed": "s", "attempt": "a", "steps": "steps", "tokens": "tokens", "epochs": "epochs"}
UNNAMED = (
    "name", "study", "output_dir", "data_dir", "accept_changes", "dry_run", "hydra", "logger", "eval", "checkpoint",
    "branch", "log", "sample", "probe", "verdict", "train.device", "train.compile", "train.threads",
    "train.micro_batch_size", "train.activation_checkpointing",
    "train.stop_after", "train.deterministic", "data.out", "data.workers", "data.path", "data.source", "model", "optim",
    "data", "experiment", "debug",
)  # fmt: skip


def run_name(choices: dict[str, str], overrides: list[str], explicit: str | None) -> str:
    """A name that reads like the command: the choices, then what was overridden, shortened; at most
    80 characters.
    """
    if explicit is not None:
        return explicit
    parts = [choices.get("debug"), choices.get("experiment"), choices["model"], choices["optim"]]
    parts.append(choices.get("data@stand_in", choices["data"]))
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key in UNNAMED or key.startswith(
            tuple(f"{k}." for k in UNNAMED if k not in ("model", "optim", "data"))
        ):
            continue
        last = key.rpartition(".")[2].rpartition("/")[2]
        parts.append(value if key in choices else f"{SHORT.get(last, last)}{value}")
    text = "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", part).strip("_") for part in parts if part)
    return text[:80].rstrip("-._")
