"""Overrides as typed: paths and prompts are kept out of Hydra's grammar, secrets are refused."""

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from minigpt import ranks
from minigpt.config.places import CONF
from minigpt.config.schema import PATH_KEYS
from minigpt.errors import ConfigError
from minigpt.terminal import did_you_mean

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

TEXT_KEYS = ("prompt", "sample.prompt", "stop")
NAME_KEYS = ("study", "name")
_SECRETS = "(key|token|secret|password|passwd|credentials?)"
SECRET = re.compile(f"{_SECRETS}$", re.IGNORECASE)
# inside a value: {api_key: ...}, ${oc.env:WANDB_API_KEY}
SECRET_INSIDE = re.compile(rf"{_SECRETS}['\"]?\s*[:}}]", re.IGNORECASE)


def protect(override: str, sweeping: bool) -> str:
    """The override with prompts, paths and odd names quoted, and with null as an option of optional
    groups.

    `prompt=To be, or not: that's it!` just works. A value that is quoted already, or null, keeps
    Hydra's meaning, and so does a list of stop strings. In a sweep the commas of a path still
    separate. Raises ConfigError for an empty path.
    """
    key, equals, value = override.partition("=")
    if os.path.isfile(CONF / key.lstrip("+") / "none.yaml"):  # a key of any length
        options = ("none" if option == "null" else option for option in value.split(","))
        return f"{key}{equals}{','.join(options)}"
    if key in NAME_KEYS and _read_otherwise(value):
        return f"{key}={quote(value)}"
    is_path = key in PATH_KEYS
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if not equals or quoted or not (is_path or key in TEXT_KEYS) or (is_path and value == "null"):
        return override
    if key == "stop" and (value == "null" or value.startswith("[")):
        return override
    if not is_path:
        return f"{key}={quote(value)}"
    pieces = value.split(",") if sweeping else [value]
    if not all(piece.strip() for piece in pieces):
        raise ConfigError(
            f"empty path: {override} (an unset variable? name a folder or file, or leave it out)"
        )
    return f"{key}=" + ",".join(quote(os.path.expanduser(piece)) for piece in pieces)


def _read_otherwise(name: str) -> bool:
    """Whether Hydra takes a name for a number or a truth value, or cannot read its letters."""
    if not re.fullmatch(r"[\w.+ -]+", name):
        return False
    try:
        float(name)
    except ValueError:
        return not name.isascii() or name.lower() in ("true", "false")
    return True


def quote(value: str) -> str:
    """A Hydra single-quoted string that means exactly `value`, interpolations included."""
    value = value.replace("${", "\\${")
    value = re.sub(r"(\\*)'", lambda match: match[1] * 2 + "\\'", value)
    trailing = len(value) - len(value.rstrip("\\"))
    return f"'{value}{chr(92) * trailing}'"


def without_glob(override: str, folders: list[Path]) -> str:
    """`optim=glob(a*)` with the options that it names. `_*.yaml` are none.

    folders: where groups are. Raises ConfigError if no option matches.
    """
    from hydra.core.override_parser.types import Glob

    parsed = _parsed(override)
    glob: Any = parsed and parsed.value()
    if parsed is None or not isinstance(glob, Glob):
        return override
    options = options_of(parsed.key_or_group, folders)
    found = glob.filter(sorted(options))
    if not found:
        known = f"one of {', '.join(sorted(options))}" if options else "no such group of options"
        raise ConfigError(f"an empty sweep: {override} ({known})")
    return f"{parsed.get_key_element()}={','.join(found)}"


def groups_of(folders: list[Path]) -> set[str]:
    """The names of all groups that folders hold."""
    return {
        path.parent.relative_to(folder).as_posix()
        for folder in folders
        for path in folder.rglob("*/*.yaml")
    }


def groups_for(cfg: DictConfig, folders: list[Path]) -> set[str]:
    """Those that a script chooses from, by what it composes to, and groups of the user's own."""
    chosen = {str(group).partition("/")[0] for group in cfg.hydra.runtime.choices}
    return {
        group
        for group in groups_of(folders)
        if group.partition("/")[0] in chosen or not (CONF / group).is_dir()
    }


def options_of(group: str, folders: list[Path]) -> dict[str, Path]:
    """Option -> its file, which is that of the first folder. `_*.yaml` are no options."""
    places = [folder / group for folder in reversed(folders) if os.path.isdir(folder / group)]
    files = [path for place in places for path in place.glob("*.yaml")]
    return {path.stem: path for path in files if not path.name.startswith("_")}


def unknown_choice(typed: str, option: str, options: Collection[str]) -> str:
    """What is said of an option that is not there."""
    group = typed.lstrip("+~").partition("=")[0]
    known = f"(known: {', '.join(sorted(options))}; see --help {group})"
    return f"unknown choice: {typed} {did_you_mean(option, options, otherwise=known)}"


def searchpath(overrides: list[str]) -> list[str]:
    """What the first `hydra.searchpath=[...]` lists, which is the one that Hydra takes."""
    for typed in overrides:
        if is_searchpath(typed) and (parsed := _parsed(typed)):
            value: Any = parsed.value()
            return [str(place) for place in value] if isinstance(value, list) else []
    return []


def is_searchpath(override: str) -> bool:
    return override.lstrip("+").startswith("hydra.searchpath=")


def first_value(override: str) -> str:
    """A sweep override with its first value, to check a sweep's keys before its first job."""
    from hydra.core.override_parser.types import IntervalSweep
    from hydra.errors import HydraException

    parsed = _parsed(override)
    if parsed is None or not parsed.is_sweep_override():
        return override
    try:
        value: Any = parsed.value()
        if not isinstance(value, IntervalSweep):
            value = next(iter(parsed.sweep_string_iterator()), None)
        else:
            value = value.start
    except HydraException:
        return override
    if value is None:
        raise ConfigError(f"an empty sweep: {override} (give at least one value)")
    return f"{parsed.get_key_element()}={value}"


def _parsed(override: str) -> "Override | None":
    """As Hydra reads it; None if it cannot, which composing will tell."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None


def refuse_torchrun(multirun: bool, script: str) -> None:
    """Each rank would start a whole sweep; and one run alone is more than one process's work."""
    if ranks.launched() > 1 and script != "train":
        raise ConfigError(
            f"several processes: torchrun, WORLD_SIZE={ranks.launched()} (start {script}.py "
            "without torchrun)"
        )
    if multirun and ("TORCHELASTIC_RUN_ID" in os.environ or "LOCAL_RANK" in os.environ):
        raise ConfigError(
            "sweep under torchrun: -m (start the sweep without torchrun; "
            "train.devices=2 gives each job two processes)"
        )


def refuse_secrets(overrides: list[str]) -> None:
    """Overrides are written to disk, so keys must come from the environment."""
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        last = key.rpartition(".")[2]
        if SECRET.search(last) or (key not in TEXT_KEYS and SECRET_INSIDE.search(value)):
            raise ConfigError(
                f"secret on the command line: {key} "
                "(it would be written to disk; use the environment, e.g. WANDB_API_KEY)"
            )
