"""From overrides to a composed configuration. Every failure is a ConfigError with all the overrides at fault."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from minigpt.cli.explain import CONF, explain
from minigpt.errors import ConfigError


def parse(arguments: list[str]) -> Any:
    from hydra._internal.utils import get_args_parser

    return get_args_parser().parse_args(arguments)


def compose(
    config_name: str, overrides: list[str], config_dir: str | None, check: Callable[[DictConfig], object]
) -> DictConfig:
    """The configuration with its `hydra` node. Raises ConfigError with every bad override found."""
    try:
        return _compose(config_name, overrides, config_dir)
    except Exception as error:
        if not _is_composition_error(error):
            raise
        problems, rest = explain(lambda tried: _compose(config_name, tried, config_dir), overrides)
        problems = problems or [one_line(error)]
        try:
            check(rest)
        except ConfigError as more:
            problems += more.problems
        raise ConfigError(*dict.fromkeys(problems)) from None


def _compose(config_name: str, overrides: list[str], config_dir: str | None) -> DictConfig:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.hydra_config import HydraConfig

    extra = [f"hydra.searchpath=[file://{Path(config_dir).absolute()}]"] if config_dir else []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra_compose(config_name, overrides=[*overrides, *extra], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)  # so that ${hydra:...} resolves, as inside hydra.main
    return cfg


def _is_composition_error(error: Exception) -> bool:
    from hydra.errors import HydraException

    return isinstance(error, HydraException | OmegaConfBaseException)


def one_line(error: Exception) -> str:
    """Hydra's message without its line breaks, as a problem."""
    return f"configuration: {' '.join(str(error).split())} (see --help)"
