"""Which of train.tokens, train.steps and train.epochs counts: that of the last layer that sets one.

The layers, last first: the command line, the debug file, the experiment file, the rest.
"""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from minigpt.config.budget import BUDGET_KEYS
from minigpt.errors import ConfigError


def one_budget(
    train: dict[str, Any], choices: dict[str, str], overrides: list[str], sources: list[str]
) -> dict[str, Any]:
    """tokens, steps and epochs with exactly one set. Raises ConfigError if a layer sets two.

    sources: folders that YAML files come from.
    """
    typed = {override.lstrip("+").partition("=")[0] for override in overrides}
    set_now = [key for key in BUDGET_KEYS if train[key] is not None]
    layers = [("on the command line", [key for key in set_now if f"train.{key}" in typed])]
    for group in ("debug", "experiment"):
        if choices.get(group):
            file = f"{group}/{choices[group]}.yaml"
            in_file = _budgets_in_file(file, sources)
            layers.append((f"in {file}", [key for key in in_file if key in set_now]))
    layers.append(("in the configuration", set_now))
    where, given = next(((where, given) for where, given in layers if given), ("is set", []))
    if len(given) != 1:
        values = " and ".join(f"train.{key}={train[key]}" for key in given)
        raise ConfigError(
            f"budget: {values or 'none of train.tokens, train.steps, train.epochs'} {where} "
            "(give exactly one)"
        )
    return {key: train[key] if key == given[0] else None for key in BUDGET_KEYS}


def _budgets_in_file(name: str, sources: list[str]) -> list[str]:
    for source in sources:
        path = Path(source) / name
        if path.is_file():
            train = OmegaConf.select(OmegaConf.load(path), "train") or {}
            return [key for key in BUDGET_KEYS if train.get(key) is not None]
    return []
