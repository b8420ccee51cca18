"""From overrides to a composed configuration; a ConfigError names all overrides at fault."""

import importlib.util
import os
import re
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from minigpt.cli.boundary import is_composition_error, words
from minigpt.cli.constructor_keys import accept_constructor_keys
from minigpt.cli.overrides import is_searchpath, options_of, quote, searchpath, unknown_choice
from minigpt.config.places import CONF
from minigpt.errors import ConfigError


def compose(
    config_name: str,
    overrides: list[str],
    config_dir: str | None,
    check: Callable[[DictConfig], object],
) -> DictConfig:
    """The configuration with its `hydra` node. Raises ConfigError with every bad override found.

    check: raises ConfigError for what is wrong with the overrides that do compose.
    """

    @cache
    def attempt(*tried: str) -> DictConfig | Exception:
        try:
            return _compose(config_name, list(tried), config_dir)
        except Exception as error:
            if not is_composition_error(error):
                raise
            return error

    cfg = attempt(*overrides)
    if isinstance(cfg, DictConfig):
        return cfg
    from minigpt.cli.explain import broken_files, explain

    folders = groups_in(config_dir, overrides)
    # without it no choice of the user's own can be tried
    places = [typed for typed in overrides if is_searchpath(typed)]
    others = [typed for typed in overrides if typed not in places]
    problems, rest = explain(lambda tried: attempt(*places, *tried), others, folders)
    problems = problems or broken_files(folders) or [f"configuration: {words(cfg)} (see --help)"]
    if rest is not None:
        try:
            check(rest)
        except ConfigError as more:
            problems += more.problems
    raise ConfigError(*dict.fromkeys(problems))


def each_logger(overrides: list[str], config_dir: str | None) -> list[str]:
    """`logger=[a,b]` as Hydra takes it: each logger below `logger`, by the name of its option.

    Raises ConfigError for an option that is not there.
    """
    found: list[str] = []
    for typed in overrides:
        if not (several := re.fullmatch(r"logger=\[(.*)\]", typed)):
            found.append(typed)
            continue
        options = options_of("logger", groups_in(config_dir, overrides))
        found.append("logger=_several")
        for option in dict.fromkeys(map(str.strip, several[1].split(","))):
            if option not in options:
                raise ConfigError(unknown_choice(typed, option, options))
            found.append(f"+logger@logger.{option}={option}")
    return found


def groups_in(config_dir: str | None, overrides: list[str]) -> list[Path]:
    """The folders that groups of options are in, in the order in which Hydra looks."""
    places = [config_dir] if config_dir else []
    folders = [CONF]
    for place in places + searchpath(overrides):
        package = place.removeprefix("pkg://")
        if package == place:
            folders.append(Path(place.removeprefix("file://")))
            continue
        with suppress(ImportError, ValueError):  # composing tells
            spec = importlib.util.find_spec(package.replace("/", "."))
            folders += map(Path, (spec and spec.submodule_search_locations) or [])
    return [folder for folder in folders if os.path.isdir(folder)]


def _compose(config_name: str, overrides: list[str], config_dir: str | None) -> DictConfig:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    accept_constructor_keys()
    if config_dir:
        places = [f"file://{Path(config_dir).absolute()}", *searchpath(overrides)]
        overrides = [typed for typed in overrides if not is_searchpath(typed)]
        overrides += [f"hydra.searchpath=[{','.join(map(quote, places))}]"]
    running = GlobalHydra.instance().hydra  # it waits while a study composes its next jobs
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = hydra_compose(config_name, overrides, return_hydra_config=True)
    finally:
        GlobalHydra.instance().hydra = running
    for part in ("launcher", "sweeper"):
        if not isinstance(OmegaConf.select(cfg, f"hydra.{part}._target_"), str):
            raise ConfigError(
                f"no choice: hydra/{part} (leave hydra.{part} as it is, or choose hydra/{part}=...)"
            )
    HydraConfig.instance().set_config(cfg)  # so that ${hydra:...} resolves, as inside hydra.main
    return cfg
