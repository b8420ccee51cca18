"""Values that have the right type and are still impossible, alone or together."""

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minigpt import ranks
from minigpt.config.budget import accumulation_problem
from minigpt.config.identity import flatten
from minigpt.config.precision import unknown_device
from minigpt.config.schema import KEYS, Key

LARGEST = 2**48  # larger counts are typing mistakes
# decays of averages, which torch's classes take whatever they are
SHARE = re.compile(r"optim\.(\w+\.)*(momentum|betas?|beta\d)")
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,119}")


def range_problems(config: dict[str, Any]) -> list[str]:
    """A line for each value that is not finite, or outside what its key allows."""
    flat = flatten(config)
    problems = value_problems(flat)
    for key, value in flat.items():
        is_lr = key.startswith("optim.") and key.endswith(("lr", "lr_scale"))
        if is_lr and isinstance(value, int | float) and value < 0:
            problems.append(f"out of range: {key}={value} (at least 0)")
        shares = value if isinstance(value, list) else [value]
        if SHARE.fullmatch(key) and any(
            isinstance(share, int | float) and not 0 <= share < 1 for share in shares
        ):
            problems.append(f"out of range: {key}={value} (at least 0 and below 1)")
    name = config["name"]
    if name is not None and not NAME.fullmatch(name):
        problems.append(
            f"bad name: name={name!r} "
            "(letters, digits, '.' but not first, '_' and '-', at most 120)"
        )
    study = config["study"]
    if study is not None and not (study.isprintable() and 0 < len(study) <= 120):
        problems.append(f"bad name: study={study!r:.140} (1 to 120 printable characters)")
    return problems


def value_problems(flat: Mapping[str, Any]) -> list[str]:
    """A line for each value that is not finite, or outside what its key allows, whole or in part.

    flat: values by dotted key.
    """
    problems = []
    for key, value in flat.items():
        if isinstance(value, float) and not math.isfinite(value):
            problems.append(f"not finite: {key}={value} (give a finite number)")
        problems += _key_problems(key, value, KEYS.get(key, Key()))
    return problems


def _key_problems(key: str, value: Any, known: Key) -> list[str]:
    if known.choices and value not in known.choices:
        shown = ", ".join(str(choice).lower() for choice in known.choices)
        if key == "train.device":
            return [unknown_device(key, value)]
        return [f"unknown value: {key}={value} (one of {shown})"]
    if isinstance(value, list) and known.least is not None:
        return [
            f"out of range: {key} has {item} (at least {known.least})"
            for item in value
            if item < known.least
        ]
    if not isinstance(value, int | float):
        return []
    if known.above is not None and not value > known.above:
        return [f"out of range: {key}={value} (above {known.above}, or null)"]
    if known.least is not None and not value >= known.least:
        return [f"out of range: {key}={value} (at least {known.least})"]
    if isinstance(value, int) and known.least is not None and value > LARGEST:
        return [f"out of range: {key}={value} (from {known.least} to {LARGEST})"]
    if isinstance(value, int) and value.bit_length() > 63:
        return [f"out of range: {key} has {value.bit_length()} bits (at most 63)"]
    return []


def devices_of(train: dict[str, Any]) -> int:
    """How many devices share each step: as many as there are ranks, or will be."""
    return ranks.launched() if ranks.launched() > 1 else int(train["devices"])


def combination_problems(config: dict[str, Any]) -> list[str]:
    """Combinations that cannot work, of values that are fine alone."""
    train = config["train"]
    problems = []
    devices = devices_of(train)
    if uneven := accumulation_problem(train["batch_size"], train["micro_batch_size"], devices):
        problems.append(uneven)
    if train["devices"] not in (1, devices):
        problems.append(
            f"other devices: train.devices={train['devices']}, started with WORLD_SIZE={devices} "
            "(leave train.devices out: who starts the processes decides)"
        )
    if config["dry_run_gpu"] is not None and not config["dry_run"]:
        problems.append(f"a plan alone: dry_run_gpu={config['dry_run_gpu']} (add dry_run=true)")
    branch = config["branch"]
    record = Path(branch).expanduser() / "run.json"
    if branch not in ("auto", "off") and not os.path.isfile(record):  # whatever its length
        problems.append(f"no run: branch={branch} (auto, off, or the folder of a run)")
    warmup, steps = config["schedule"].get("warmup"), train["steps"]
    if steps is not None and isinstance(warmup, int) and warmup >= steps:
        problems.append(
            f"warmup too long: schedule.warmup={warmup} of train.steps={steps} "
            "(below the number of steps)"
        )
    return problems
