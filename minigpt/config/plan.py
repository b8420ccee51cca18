"""From a composed configuration to a checked plan, before anything is built or written.

`check` finds all problems at once: unknown keys with the nearest valid one, wrong types, missing
arguments (against the constructor signatures of the open groups), values out of range, and
combinations that no schema can see.
"""

import ast
import math
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from minigpt import durable, reading
from minigpt.checkpoint.layout import MODEL
from minigpt.checkpoint.load import newest_weights_hash
from minigpt.config import budget, identity, signature
from minigpt.config import lazy_torch as startup
from minigpt.config.schema import PreprocessRoot, TrainRoot
from minigpt.config.typed import resolved, root_problems
from minigpt.errors import ConfigError, DataError
from minigpt.reading import UnreadableError, read_json
from minigpt.terminal import did_you_mean

if TYPE_CHECKING:
    from minigpt.config.precision import Precision

# What code hands to a constructor, so that no configuration has to.
SUPPLIED = {"model": {"vocab_size"}, "optim": {"parameters"}, "probe": {"optimizer"}}
# Scalars in an open group that are not for its class: read by interpolation, or by the loop.
SHARED_SCALARS = {"optim": ("lr", "adamw_lr"), "probe": ("every",)}
GROUPS = ("model", "optim", "schedule", "data", "logger")
CHOICES: dict[str, tuple[Any, ...]] = {
    "train.precision": ("auto", "fp32", "bf16", "fp16"),
    "train.device": ("auto", "cpu", "cuda", "mps"),
    "train.compile": ("auto", True, False),
}
AT_LEAST_ONE = (
    "attempt", "train.tokens", "train.steps", "train.batch_size", "train.micro_batch_size", "train.threads",
    "train.max_bad_steps", "eval.every", "eval.tokens", "checkpoint.every", "checkpoint.keep",
    "log.every", "sample.every", "sample.max_new_tokens", "sample.top_k", "probe.every",
)  # fmt: skip
LARGEST = 2**48  # larger counts are typing mistakes
NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Plan:
    """A checked run: plain values, who it is and where it lives. No torch yet."""

    config: dict[str, Any]
    choices: dict[str, str]
    overrides: list[str]
    identity: dict[str, Any]
    id: str
    folder: Path
    tokens_folder: Path

    @property
    def study(self) -> str | None:
        return self.config["study"] or self.choices.get("experiment")


def check(
    cfg: DictConfig, choices: dict[str, str], overrides: list[str], sources: list[str]
) -> Plan:
    """The plan of a run, or ConfigError with every problem found.

    choices: group -> option.  overrides: as typed.  sources: folders that YAML files come from, for
        `budget` layers.
    """
    overrides = [
        o for o in overrides if not (o.endswith("=none") and o.partition("=")[0] not in choices)
    ]
    if cfg.get("stand_in") is not None:
        cfg = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "data"])
    config = resolved(cfg)
    config.setdefault("data", config.pop("stand_in", None))
    problems = root_problems(config | {"stand_in": None}, TrainRoot)
    config["train"].update(_one_budget(config["train"], choices, overrides, sources, problems))
    for group in (*GROUPS, *(["probe"] if config["probe"] is not None else [])):
        if group in choices or group == "probe":
            problems += check_group(group, config[group])
        else:  # null, deleted, or a list of options
            problems.append(f"no choice: {group} (choose one: {group}=... ; see --help)")
    problems += check_ranges(config)
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    problems += check_together(config)
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    source = config["init_from"]
    who = identity.run_identity(
        config, None if source is None else weights_id(Path(source).expanduser())
    )
    id = identity.short_hash(who)
    name = identity.run_name(choices, overrides, config["name"])
    output = Path(config["output_dir"]).expanduser()
    with durable.writing(output):  # a path that no disk can have
        folder = folder_of(output, id) or output / f"{name}-{id}"
    return Plan(config, choices, overrides, who, id, folder, tokens_folder(config, choices))


def folder_of(output: Path, id: str) -> Path | None:
    """The folder whose run.json has this id, whatever it is called before that; or one whose
    run.json is damaged.
    """
    damaged = None
    for folder in sorted(output.glob(f"*-{id}")):
        try:
            if read_json(folder / "run.json").get("id") == id:
                return folder
        except UnreadableError as error:
            damaged = damaged or (None if error.missing else folder)
    return damaged


def tokens_folder(config: dict[str, Any], choices: dict[str, str]) -> Path:
    """Where prepared tokens live: data.out, or <data_dir>/<data>-<hash of what decides the
    bytes>.
    """
    if config["data"].get("out"):
        return Path(config["data"]["out"]).expanduser()
    name = choices.get("data@stand_in", choices["data"])
    return (
        Path(config["data_dir"]).expanduser()
        / f"{name}-{identity.short_hash(identity.data_identity(config['data']))}"
    )


def weights_id(source: Path) -> str:
    """SHA-256 of the weights file that `init_from` takes: of a run's newest checkpoint, or of an
    exported folder.
    """
    why = "(a run folder, or a folder written by minigpt.export)"
    try:
        if (source / "run.json").is_file():
            found = newest_weights_hash(source / "checkpoints")
            why = "has no checkpoint yet (let it reach checkpoint.every, or finish)"
        else:
            found = durable.sha256_bytes(reading.read_bytes((source / MODEL).resolve()))
    # before Python 3.13, a link in a circle is a RuntimeError
    except (OSError, RuntimeError, reading.UnreadableError):
        found = None
    if found is None:
        raise ConfigError(f"no weights: init_from={source} {why}")
    return found


def check_group(group: str, node: Any) -> list[str]:
    """Problems of one open group against the signatures of the classes it names."""
    if not isinstance(node, dict) or "_target_" not in node:
        return [f"missing choice: {group}={node} (choose one, e.g. {group}=... ; see --help)"]
    extra: dict[str, signature.Parameter] = {}
    if group == "data":
        prepare = signature.read_signature(identity.PREPARE).parameters
        extra = {
            name: p for name, p in list(prepare.items())[3:] if name not in ("wait", "progress")
        }
        part = ast.parse("Callable", mode="eval").body
        extra["tokenizer"] = signature.Parameter("tokenizer", part, signature.REQUIRED)
        if node.get("tokenizer", "") is None:
            return ["no choice: data.tokenizer=None (choose one: data/tokenizer=... ; see --help)"]
        extra["out"] = signature.Parameter("out", ast.parse("str | None", mode="eval").body, None)
    for name in SHARED_SCALARS.get(group, ()):
        extra[name] = signature.Parameter(name, None, None)
    return _check_node(group, node, SUPPLIED.get(group, set()), extra)


def _check_node(
    path: str, node: dict[str, Any], supplied: set[str], extra: dict[str, signature.Parameter]
) -> list[str]:
    target = node["_target_"]
    if not isinstance(target, str) or not all(part.isidentifier() for part in target.split(".")):
        return [f"no such class: {path}._target_={target!r} (the dotted path of a class)"]
    try:
        found = signature.choose(target)
    except ModuleNotFoundError as error:
        return [
            f"missing package: {path}._target_={target}: no module {error.name!r} (install it, or check the spelling)"
        ]
    except (AttributeError, ImportError) as error:
        return [f"no such class: {path}._target_={target}: {error} (check the spelling)"]
    parameters = found.parameters | extra
    # code hands over the rest: an optimizer's parameters, the sizes of a part of the model
    if node.get("_partial_"):
        required = [name for name, parameter in found.parameters.items() if parameter.required]
        supplied = supplied | set(required[:1] if path.startswith("optim") else required)
    known = [name for name in parameters if name not in supplied]
    problems = []
    for key, value in node.items():
        if key in ("_partial_", "_recursive_") and not isinstance(value, bool):
            problems.append(f"wrong type: {path}.{key}={value!r} (expects true or false)")
        if key in ("_target_", "_partial_", "_convert_", "_recursive_", "_args_"):
            continue
        if key not in known:
            if not found.open:
                problems.append(f"unknown key: {path}.{key} {did_you_mean(key, known)}")
        elif isinstance(value, dict) and "_target_" in value:
            problems += _check_node(f"{path}.{key}", value, set(), {})
        elif (expected := signature.type_problem(value, parameters[key].annotation)) is not None:
            whole = (
                expected.startswith("an integer")
                and isinstance(value, float)
                and value.is_integer()
            )
            hint = "; write it without exponent" if whole else ""
            problems.append(f"wrong type: {path}.{key}={value!r} (expects {expected}{hint})")
    for name in known:
        if parameters[name].required and name not in node:
            problems.append(f"missing value: {path}.{name} (give it, e.g. {path}.{name}=...)")
    return problems


def check_ranges(config: dict[str, Any]) -> list[str]:
    """Values that have the right type and are still impossible."""
    flat = identity.flatten(config)
    problems = [
        f"not finite: {key}={value} (give a finite number)"
        for key, value in flat.items()
        if isinstance(value, float) and not math.isfinite(value)
    ]
    for key in AT_LEAST_ONE:
        value = flat.get(key)
        if isinstance(value, int | float) and not 1 <= value <= LARGEST:
            problems.append(f"out of range: {key}={value} (at least 1)")
    stop_after = config["train"]["stop_after"]
    if stop_after is not None and not 0 <= stop_after <= LARGEST:
        problems.append(f"out of range: train.stop_after={stop_after} (at least 0, or null)")
    problems += [
        f"out of range: {key} has {value.bit_length()} bits (at most 63)"
        for key, value in flat.items()
        if isinstance(value, int)
        and value.bit_length() > 63
        and key not in (*AT_LEAST_ONE, "seed", "train.stop_after")
    ]
    for key, choices in CHOICES.items():
        value = config["train"][key.removeprefix("train.")]
        if value not in choices:
            shown = ", ".join(str(choice).lower() for choice in choices)
            problems.append(f"unknown value: {key}={value} (one of {shown})")
    if not 0 <= config["seed"] <= LARGEST:
        problems.append(f"out of range: seed={config['seed']} (from 0 to {LARGEST})")
    for key in ("train.grad_clip", "train.epochs"):
        if flat[key] is not None and not flat[key] > 0:
            problems.append(f"out of range: {key}={flat[key]} (above 0, or null)")
    if flat["train.skip_spikes"] is not None and not flat["train.skip_spikes"] > 1:
        problems.append(
            f"out of range: train.skip_spikes={flat['train.skip_spikes']} (above 1, or null)"
        )
    if not config["sample"]["temperature"] >= 0:
        problems.append(
            f"out of range: sample.temperature={config['sample']['temperature']} (0 is greedy)"
        )
    for key, value in flat.items():
        if (
            key.startswith("optim.")
            and key.endswith(("lr", "lr_scale"))
            and isinstance(value, int | float)
            and value < 0
        ):
            problems.append(f"out of range: {key}={value} (at least 0)")
    problems += _check_verdict(config["verdict"])
    if config["name"] is not None and not (
        NAME.fullmatch(config["name"]) and len(config["name"]) <= 120
    ):
        problems.append(
            f"bad name: name={config['name']!r} (letters, digits, '.', '_' and '-', at most 120)"
        )
    return problems


def _check_verdict(verdict: dict[str, Any]) -> list[str]:
    """A declaration that could never be judged by."""
    problems = []
    if verdict["margin"] is not None and not verdict["margin"] >= 0:
        problems.append(f"out of range: verdict.margin={verdict['margin']} (at least 0)")
    both = sorted(set(verdict["tuning_seeds"] or []) & set(verdict["confirmation_seeds"] or []))
    if both:
        problems.append(
            f"seeds that tune must not confirm: {both} in both lists of verdict.* (declare disjoint seeds)"
        )
    looks = verdict["looks"] or []
    if looks != sorted(set(looks)) or any(look < 2 for look in looks):
        problems.append(f"out of range: verdict.looks={looks} (rising numbers of pairs, from 2 on)")
    return problems


def check_together(config: dict[str, Any]) -> list[str]:
    """Combinations that cannot work, from values that are fine alone."""
    train = config["train"]
    problems: list[str | None] = []
    if train["micro_batch_size"] is not None:
        problems.append(budget.accumulation_problem(train["batch_size"], train["micro_batch_size"]))
    branch = config["branch"]
    if branch not in ("auto", "off") and not (Path(branch).expanduser() / "run.json").is_file():
        problems.append(f"no run: branch={branch} (auto, off, or the folder of a run)")
    problems += [
        f"out of range: checkpoint.at has {step} (at least 1)"
        for step in config["checkpoint"]["at"]
        if step < 1
    ]
    warmup = config["schedule"].get("warmup")
    steps = identity.run_identity(config)["budget"].get("steps")
    if steps is not None and isinstance(warmup, int) and warmup >= max(steps, 1):
        problems.append(
            f"warmup too long: schedule.warmup={warmup} of train.steps={steps} (below the number of steps)"
        )
    return [problem for problem in problems if problem]


def _one_budget(
    train: dict[str, Any],
    choices: dict[str, str],
    overrides: list[str],
    sources: list[str],
    problems: list[str],
) -> dict[str, Any]:
    """tokens, steps and epochs with exactly one set: the one of the last layer that sets any."""
    keys = budget.BUDGET_KEYS
    typed = {
        o.lstrip("+").partition("=")[0].removeprefix("train.")
        for o in overrides
        if o.lstrip("+").startswith("train.")
    }
    layers = [
        ("on the command line", [key for key in keys if key in typed and train[key] is not None])
    ]
    for group in ("debug", "experiment"):
        if choices.get(group):
            set_here = _budgets_in_file(f"{group}/{choices[group]}.yaml", sources)
            layers.append((f"in {group}/{choices[group]}.yaml", set_here))
    layers.append(("in the configuration", [key for key in keys if train[key] is not None]))
    where, given = next(((where, given) for where, given in layers if given), ("", []))
    if len(given) != 1:
        values = (
            " and ".join(f"train.{key}={train[key]}" for key in given)
            or "none of train.tokens, train.steps, train.epochs"
        )
        problems.append(f"budget: {values} {where or 'is set'} (give exactly one)")
        return {}
    return {key: train[key] if key == given[0] else None for key in keys}


def _budgets_in_file(name: str, sources: list[str]) -> list[str]:
    for source in sources:
        path = Path(source) / name
        if path.is_file():
            train = OmegaConf.select(OmegaConf.load(path), "train") or {}
            return [key for key in budget.BUDGET_KEYS if train.get(key) is not None]
    return []


def check_built(plan: Plan) -> None:
    """Build model, optimizers and schedule without memory (on `meta`), so that what only
    constructors know comes early.

    Raises ConfigError for arguments that no signature refuses (betas of 1.5, a d_model that heads
    do not divide).
    """
    startup.load_torch()
    import torch

    cfg = plan.config
    problems: list[str] = []
    vocab_size, _ = vocabulary(plan)
    with torch.device("meta"):
        model = _collect(problems, "model", lambda: build(cfg["model"], vocab_size))
        if model is not None:
            _collect(problems, "optim", lambda: build_optimizer(cfg["optim"], model))
    _collect(problems, "logger", lambda: build(cfg["logger"]))
    _collect(problems, "train", lambda: choose_precision(cfg))
    threads, cores = cfg["train"]["threads"], os.cpu_count() or 1
    if threads is not None and threads > cores:
        problems.append(
            f"too many threads: train.threads={threads} on {cores} cores (at most {cores})"
        )
    schedule = _collect(problems, "schedule", lambda: build(cfg["schedule"]))
    steps = plan.identity["budget"].get("steps")
    if schedule is not None and steps is not None:
        _collect(problems, "schedule", lambda: schedule(0, steps))
    if problems:
        raise ConfigError(*problems)


def vocabulary(plan: Plan) -> tuple[int, str]:
    """The size of the vocabulary as far as it is known before the text is read, and how it is
    known.

    Raises ConfigError or DataError for a tokenizer that cannot be.
    """
    from minigpt.data.manifest import read_manifest

    with suppress(DataError):  # no tokens yet
        return read_manifest(plan.tokens_folder)["tokenizer"][
            "vocab_size"
        ], "of the prepared tokens"
    tokenizer = build(plan.config["data"]["tokenizer"])
    if tokenizer.train_bytes == 0:  # it reads no text to learn from
        return tokenizer.train(()).vocab_size, "of the tokenizer"
    asked = getattr(tokenizer, "vocab_size", None)
    if asked is not None:
        return asked, "as asked, fewer if the text is too small"
    return 256, "assumed, until the tokens are prepared"


def choose_precision(cfg: dict[str, Any]) -> "Precision":
    """Device, precision and compile for a configuration."""
    from minigpt.config import precision

    train, d_model = cfg["train"], identity.argument(cfg["model"], "d_model")
    return precision.choose(train["device"], train["precision"], train["compile"], d_model=d_model)


def _collect(problems: list[str], node: str, action: Callable[[], Any]) -> Any:
    """The result of a constructor, or None with what it refused added to the problems."""
    try:
        return action()
    except ConfigError as error:
        found = error.problems
    except ValueError as error:
        found = (f"invalid value: {error}",)
    problems += [line if line.endswith(")") else f"{line} (change {node}.*)" for line in found]
    return None


def build_optimizer(node: dict[str, Any], model: Any) -> Any:
    """The ByRole of a checked `optim` node for a model."""
    roles = model.roles()
    parameters = [(name, parameter, roles[name]) for name, parameter in model.named_parameters()]
    return build(node, parameters, drop=SHARED_SCALARS["optim"])


def build(
    node: dict[str, Any], *arguments: Any, drop: tuple[str, ...] = (), **supplied: Any
) -> Any:
    """The object that a checked node describes. A constructor's ValueError becomes a
    ConfigError.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    node = {key: value for key, value in node.items() if key not in drop}
    try:
        return instantiate(node, *arguments, **supplied, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError):
            raise ConfigError(
                *(f"invalid value: {line}" for line in str(error.__cause__).splitlines())
            ) from None
        raise (error.__cause__ or error) from None


def plan_of(cfg: DictConfig) -> Plan:
    """The plan of a composed configuration, with or without its `hydra` node (inside a job Hydra
    knows the rest).
    """
    return check(*parts_of(cfg))


def parts_of(cfg: DictConfig) -> tuple[DictConfig, dict[str, str], list[str], list[str]]:
    """What `check` takes: our part of a composed configuration, and choices, overrides and sources
    from Hydra's.
    """
    from hydra.core.hydra_config import HydraConfig

    hydra = cfg["hydra"] if "hydra" in cfg else HydraConfig.get()
    sources = [source.path for source in hydra.runtime.config_sources if source.schema == "file"]
    choices = choices_of(cfg, hydra)
    overrides = [
        o
        for o in typed_of(hydra)
        if not (o.endswith("=none") and o.partition("=")[0] not in choices)
    ]
    return own_keys(cfg), choices, overrides, sources


def typed_of(hydra: Any) -> list[str]:
    """The overrides of a job as typed. Hydra follows references in them, which may lead nowhere."""
    typed: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    return list(typed)


def data_of(cfg: DictConfig) -> tuple[dict[str, Any], Path]:
    """The checked `data` node of preprocess.py and the folder its tokens belong in."""
    from hydra.core.hydra_config import HydraConfig

    hydra = cfg["hydra"] if "hydra" in cfg else HydraConfig.get()
    config = resolved(own_keys(cfg))
    problems = root_problems(config, PreprocessRoot)
    choices = choices_of(cfg, hydra)
    if "data" in choices:
        problems += check_group("data", config["data"])
    else:
        problems.append("no choice: data (choose one: data=... ; see --help)")
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    return config["data"], tokens_folder(config, choices)


def own_keys(cfg: DictConfig) -> DictConfig:
    """The configuration without its `hydra` node."""
    return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])


def choices_of(cfg: DictConfig, hydra: Any) -> dict[str, str]:
    """Group -> option. An option `none` that leaves its node empty is no choice, as if it had not
    been typed.
    """
    choices = {}
    for group, option in hydra.runtime.choices.items():
        node = str(group).replace("/", ".").partition("@")[0]
        absent = option == "none" and OmegaConf.select(cfg, node) is None
        if option not in (None, "null") and not absent and not str(group).startswith("hydra/"):
            choices[str(group)] = str(option)
    return choices
