"""What Hydra composed, taken apart: our keys, the choices of groups, the overrides as typed."""

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf


@dataclass(frozen=True)
class Composed:
    """A composed configuration without its `hydra` node, and what that node said."""

    own: DictConfig
    choices: dict[str, str]  # group -> option
    overrides: list[str]  # as typed
    sources: list[str]  # folders that YAML files come from
    in_sweep: bool = False


def take_apart(cfg: DictConfig) -> Composed:
    """Inside a job, where the `hydra` node is gone, Hydra itself knows the rest."""
    from hydra.core.hydra_config import HydraConfig

    hydra = cfg["hydra"] if "hydra" in cfg else HydraConfig.get()
    sources = [source.path for source in hydra.runtime.config_sources if source.schema == "file"]
    in_sweep = hydra.mode is not None and hydra.mode.name == "MULTIRUN"
    own = without(cfg, "hydra")
    return Composed(own, choices_of(cfg, hydra), typed_of(hydra), sources, in_sweep)


def without(cfg: DictConfig, key: str) -> DictConfig:
    """A copy that lacks a key of the root; its other keys keep their types."""
    rest = cfg.copy()
    OmegaConf.set_struct(rest, False)
    rest.pop(key, None)
    return rest


def is_declared(cfg: DictConfig) -> bool:
    """Whether a configuration declares a study."""
    return cfg.get("verdict") is not None and cfg.verdict.get("by") is not None


def typed_of(hydra: Any) -> list[str]:
    """The overrides of a job as typed. Hydra follows references in them, which may lead nowhere."""
    typed: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    return list(typed)


def choices_of(cfg: DictConfig, hydra: Any) -> dict[str, str]:
    """Group -> option. An option `none` that leaves its node empty is no choice, as if untyped."""
    choices = {}
    for group, option in hydra.runtime.choices.items():
        node = str(group).replace("/", ".").partition("@")[0]
        absent = option == "none" and OmegaConf.select(cfg, node) is None
        if option not in (None, "null") and not absent and not str(group).startswith("hydra/"):
            choices[str(group)] = str(option)
    return choices
