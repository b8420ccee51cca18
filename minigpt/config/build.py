"""From checked nodes to objects: models, optimizers, schedules, loggers."""

import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from minigpt.config import identity, lazy_torch
from minigpt.config.plan import Plan
from minigpt.errors import ConfigError, DataError

if TYPE_CHECKING:
    from minigpt.config.precision import Precision


# what each part must be able to do, and who shows it
CONTRACTS = {
    "model": (
        ("roles", "init_weights", "flops_per_token", "hidden"),
        "derive it from Transformer: minigpt/model/ensemble.py",
    ),
    "schedule": (("__call__",), "as in minigpt/schedule/constant.py"),
    "optim": (("step", "state_tree"), "give it as optim.hidden of ByRole: conf/optim/sgd.yaml"),
    "logger": (("start", "log", "finish"), "as in minigpt/logger/none.py"),
    "probe": (("before", "after"), "as in minigpt/optim/microscope.py"),
}


def build(node: dict[str, Any], *arguments: Any, drop: tuple[str, ...] = ()) -> Any:
    """The object that a checked node describes. A constructor's ValueError becomes a ConfigError.

    drop: keys of the node that are not for its class.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    node = {key: value for key, value in node.items() if key not in drop}
    try:
        return instantiate(node, *arguments, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError):
            raise ConfigError(
                *(f"invalid value: {line}" for line in str(error.__cause__).splitlines())
            ) from None
        raise (error.__cause__ or error) from None


def build_optimizer(node: dict[str, Any], model: Any) -> Any:
    """The ByRole of a checked `optim` node for a model."""
    roles = model.roles()
    parameters = [(name, parameter, roles[name]) for name, parameter in model.named_parameters()]
    return build(node, parameters, drop=identity.shared_scalars("optim", node))


def choose_precision(config: dict[str, Any]) -> "Precision":
    """Device, precision and compile for a configuration."""
    import torch

    from minigpt.config import precision

    train, d_model = config["train"], identity.argument(config["model"], "d_model")
    asked = train["device"], train["precision"], train["compile"]
    missing = asked[0] == "cuda" and not torch.cuda.is_available()
    gpu = config["dry_run_gpu"] or ("a GPU" if missing else None)
    return precision.choose(*asked, d_model=d_model, gpu=gpu if config["dry_run"] else None)


def vocabulary(plan: Plan) -> tuple[int, str]:
    """The size of the vocabulary, as far as it is known before the text is read, and its source.

    Raises ConfigError or DataError for a tokenizer that cannot be.
    """
    from minigpt.data.manifest import read_manifest

    with suppress(DataError):  # no tokens yet
        manifest = read_manifest(plan.tokens_folder)
        found: int = manifest["tokenizer"]["vocab_size"]
        asked = manifest["request"].get("tokenizer", {}).get("vocab_size") or found
        fewer = "" if asked == found else f" ({asked:,} asked, the text has no more)"
        return found, f"of the prepared tokens{fewer}"
    tokenizer = build(plan.config["data"]["tokenizer"])
    if tokenizer.train_bytes == 0:  # it reads no text to learn from
        return tokenizer.train(()).vocab_size, "of the tokenizer"
    asked = getattr(tokenizer, "vocab_size", None)
    if asked is not None:
        return asked, "as asked, fewer if the text is too small"
    return 256, "assumed, until the tokens are prepared"


def check_built(plan: Plan) -> tuple[Any, Any]:
    """Build everything without memory (on `meta`), so that what only constructors know comes early.

    Returns the model and its optimizer. Raises ConfigError for arguments that no signature refuses:
    betas of 1.5, a d_model that heads do not divide.
    """
    lazy_torch.load_torch()
    import torch

    config = plan.config
    problems: list[str] = []
    optimizer = None
    vocab_size, _ = vocabulary(plan)
    with torch.device("meta"):
        model = _collect(problems, "model", lambda: build(config["model"], vocab_size))
        if model is not None:
            again = config["train"]["activation_checkpointing"]
            _collect(problems, "train", lambda: setattr(model, "activation_checkpointing", again))
            make = lambda: build_optimizer(config["optim"], model)
            optimizer = _collect(problems, "optim", make)
            if optimizer is not None and (probe := config["probe"]) is not None:
                _collect(
                    problems,
                    "probe",
                    lambda: build(probe, optimizer, drop=identity.shared_scalars("probe", {})),
                )
    _collect(problems, "logger", lambda: build(config["logger"]))
    _collect(problems, "train", lambda: choose_precision(config))
    threads, cores = config["train"]["threads"], os.cpu_count() or 1
    if threads is not None and threads > cores:
        problems.append(
            f"too many threads: train.threads={threads} on {cores} cores (at most {cores})"
        )
    schedule = _collect(problems, "schedule", lambda: build(config["schedule"]))
    steps = config["train"]["steps"]
    if schedule is not None and steps is not None:
        _collect(problems, "schedule", lambda: (schedule(0, steps), schedule)[1])
    if problems:
        raise ConfigError(*problems)
    return model, optimizer


def _collect(problems: list[str], node: str, action: Callable[[], Any]) -> Any:
    """What a constructor makes, or None with what it refused added to the problems.

    So is an object that cannot do what its part must.
    """
    try:
        made = action()
        methods, where = CONTRACTS.get(node, ((), ""))
        if missing := [name for name in methods if not hasattr(made, name)]:
            name = type(made).__name__
            raise ConfigError(f"not made for {node}: {name} has no {', '.join(missing)} ({where})")
        return made
    except ConfigError as error:
        found = error.problems
    except ValueError as error:
        found = (f"invalid value: {error}",)
    problems += [line if line.endswith(")") else f"{line} (change {node}.*)" for line in found]
    return None
