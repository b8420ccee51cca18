"""From a composed configuration to a checked plan, before anything is built or written.

All problems are found at once: unknown keys with the nearest valid one, wrong types, missing
arguments, values out of range, and combinations that no schema can see.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from minigpt.config import identity, naming
from minigpt.config.budget import (
    BUDGET_KEYS,
    Budget,
    budget_in_steps,
    budget_of,
    tokens_notice,
)
from minigpt.config.budget_layers import one_budget
from minigpt.config.composed import Composed, take_apart, without
from minigpt.config.groups import group_problems
from minigpt.config.places import run_folder, tokens_folder, weights_id
from minigpt.config.ranges import combination_problems, devices_of, range_problems
from minigpt.config.schema import PreprocessRoot, TrainRoot
from minigpt.config.typed import resolved, root_problems
from minigpt.errors import ConfigError
from minigpt.files import durable

# What a second and further threads gain: experiments/LOG.md.
TWO_THREADS_FROM_D_MODEL, ALL_THREADS_FROM_D_MODEL = 128, 256
GROUPS = ("model", "optim", "schedule", "data", "logger")


@dataclass(frozen=True)
class Plan:
    """A checked run: plain values, who it is and where it lives. No torch yet.

    config: its budget is train.steps or train.epochs; train.tokens has become steps.
    rounding: what that conversion rounded up, for the log.
    """

    config: dict[str, Any]
    choices: dict[str, str]
    overrides: list[str]
    identity: dict[str, Any]
    id: str
    folder: Path
    tokens_folder: Path
    rounding: str | None = None
    in_sweep: bool = False

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Plan":
        """The plan that was written as JSON of its fields; other code may know of more of them."""
        known = {field.name for field in fields(cls)}
        places = {name: Path(values[name]) for name in ("folder", "tokens_folder")}
        return cls(**{key: value for key, value in (values | places).items() if key in known})

    @property
    def unused(self) -> list[str]:
        """Keys that were typed for `data` beside a stand-in corpus, which decides instead."""
        if "data@stand_in" not in self.choices:
            return []
        keys = [override.lstrip("+~").partition("=")[0] for override in self.overrides]
        return [key for key in keys if key == "data" or key.startswith(("data.", "data/"))]

    @property
    def seq_len(self) -> int:
        return int(identity.argument(self.config["model"], "max_seq_len"))

    def budget(self, windows: int = 0) -> Budget:
        """The run's length. windows: training windows of the corpus, which only epochs need."""
        return budget_of(self.config["train"], self.seq_len, windows, self.devices)

    @property
    def devices(self) -> int:
        """How many train it together."""
        return devices_of(self.config["train"])

    def threads(self, available: int) -> int:
        """CPU threads to train with: train.threads, else as many of those as pay."""
        return self.config["train"]["threads"] or threads_for(self.d_model, available)

    @property
    def fits_a_core(self) -> bool:
        """Whether runs side by side, a core each, get further than one after the other."""
        threads: int | None = self.config["train"]["threads"]
        return threads == 1 or (threads is None and self.d_model < ALL_THREADS_FROM_D_MODEL)

    @property
    def d_model(self) -> int:
        return int(identity.argument(self.config["model"], "d_model"))

    @property
    def study(self) -> str | None:
        return self.config["study"] or self.choices.get("experiment")


def threads_for(d_model: int, available: int) -> int:
    """As many of the CPU's threads as pay at this width."""
    if d_model >= ALL_THREADS_FROM_D_MODEL:
        return available
    return min(available, 1 if d_model < TWO_THREADS_FROM_D_MODEL else 2)


def plan_of(cfg: DictConfig) -> Plan:
    """The plan of a composed configuration, with or without its `hydra` node."""
    return plan_composed(take_apart(cfg))


def plan_composed(composed: Composed) -> Plan:
    """The plan of a run. Raises ConfigError with every problem found."""
    choices, cfg = composed.choices, composed.own
    overrides = [typed for typed in composed.overrides if not _chooses_nothing(typed, choices)]
    if OmegaConf.is_interpolation(cfg, "stand_in") or cfg.get("stand_in") is not None:
        cfg = without(cfg, "data")
    config = resolved(cfg)
    config.setdefault("data", config.pop("stand_in", None))
    problems = root_problems(config | {"stand_in": None}, TrainRoot)
    train = config["train"]
    try:
        train.update(one_budget(train, choices, overrides, composed.sources))
    except ConfigError as error:
        problems += error.problems
    for group in (*GROUPS, *(["probe"] if config["probe"] is not None else [])):
        if group in choices or group == "probe":
            problems += group_problems(group, config[group])
        else:  # null, deleted, or a list of options
            problems.append(f"no choice: {group} (choose one: {group}=... ; see --help)")
    problems += _added_scalars(config["optim"], overrides)
    problems += range_problems(config)
    _raise_if(problems)
    seq_len = identity.argument(config["model"], "max_seq_len")
    rounding = tokens_notice(train, seq_len)
    train.update(dict.fromkeys(BUDGET_KEYS) | budget_in_steps(train, seq_len))
    _raise_if(combination_problems(config))
    source = config["init_from"]
    weights = None if source is None else weights_id(Path(source).expanduser())
    who = identity.run_identity(config, weights)
    id = identity.short_hash(who)
    output = Path(config["output_dir"]).expanduser()
    with durable.writing(output):  # a path that no disk can have
        folder = run_folder(output, id, naming.run_name(choices, overrides, config["name"]))
    tokens = tokens_folder(config, choices)
    sweep = composed.in_sweep
    return Plan(config, choices, overrides, who, id, folder, tokens, rounding, sweep)


def data_of(cfg: DictConfig) -> tuple[dict[str, Any], Path]:
    """The checked `data` node of preprocess.py and the folder that its tokens belong in."""
    composed = take_apart(cfg)
    config = resolved(composed.own)
    problems = root_problems(config, PreprocessRoot)
    if "data" in composed.choices:
        problems += group_problems("data", config["data"])
    else:
        problems.append("no choice: data (choose one: data=... ; see --help)")
    _raise_if(problems)
    return config["data"], tokens_folder(config, composed.choices)


def _chooses_nothing(override: str, choices: dict[str, str]) -> bool:
    return override.endswith("=none") and override.partition("=")[0] not in choices


def _raise_if(problems: list[str]) -> None:
    if problems:
        raise ConfigError(*dict.fromkeys(problems))


def _added_scalars(optim: Any, overrides: list[str]) -> list[str]:
    """Shared scalars of an arm that only the command line adds: no role refers to them."""
    added = {typed.lstrip("+").partition("=")[0] for typed in overrides if typed.startswith("+")}
    scalars = identity.shared_scalars("optim", optim) if isinstance(optim, dict) else ()
    return [
        f"unknown key: optim.{name} (no role of this arm refers to it: declare it in a YAML)"
        for name in scalars
        if f"optim.{name}" in added
    ]
