"""Keys that a configuration may have without naming them: arguments of the classes it chooses."""

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from minigpt.config import signature

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


def accept_constructor_keys() -> None:
    """Let Hydra take `optim.hidden.amsgrad=true` without `+`, though no YAML names the key.

    Hydra composes a sweep over `optim` once with the default optimizer, which may not know what
    the swept ones do. The plan of each job refuses what its own does not know.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.override_parser.types import OverrideType

    hydras = ConfigLoaderImpl._apply_overrides_to_config
    if hydras.__module__ == __name__:
        return

    def apply(overrides: "list[Override]", cfg: DictConfig) -> None:
        sweeps = any(override.key_or_group == "hydra.mode" for override in overrides)
        for override in overrides:
            if override.type is OverrideType.CHANGE and _adds(cfg, override.key_or_group, sweeps):
                override.type = OverrideType.FORCE_ADD
            hydras([override], cfg)

    ConfigLoaderImpl._apply_overrides_to_config = staticmethod(apply)  # type: ignore[method-assign]


def _adds(cfg: DictConfig, key: str, anything: bool) -> bool:
    """Whether a key is an argument of a class, or anything, that its node does not name yet."""
    parent, dot, name = key.rpartition(".")
    try:
        node = OmegaConf.select(cfg, parent) if dot else None
    except OmegaConfBaseException:
        return False
    if not isinstance(node, DictConfig) or name in node or "_target_" not in node:
        return False
    return anything or name in names_in(node)


def names_in(node: Any) -> list[str]:
    """What may stand in a node: what does, and the arguments of its class."""
    if not isinstance(node, DictConfig):
        return []
    names = [str(key) for key in node]
    try:
        known = signature.read_signature(str(node._get_node("_target_"))).parameters
    except (ImportError, AttributeError, SyntaxError):
        return names
    return names + [name for name in known if name not in names]


def deeper_keys(node: Any, name: str, prefix: str = "") -> list[str]:
    """Dotted keys below a node that end in this name."""
    found = []
    for child in names_in(node):
        path = f"{prefix}.{child}" if prefix else child
        found += [path] if child == name else []
        if isinstance(node, DictConfig) and child in node and child != "hydra":
            below = node._get_node(child)
            if isinstance(below, DictConfig) and not below._is_none():
                found += deeper_keys(below, name, path)
    return found
