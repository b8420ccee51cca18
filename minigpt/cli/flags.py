"""The command line as Hydra's parser reads it: flags and overrides in any order, in one form."""

import argparse
import os
import sys
from typing import Any, NoReturn

from minigpt.errors import ConfigError

REFUSED = {  # these lead past conf/, and what they lead to is neither checked nor trusted
    "config_name": "write conf/experiment/<name>.yaml and type experiment=<name>",
    "config_path": "--config-dir adds a folder of YAML files",
    "experimental_rerun": "it loads a pickle, which can run code; type the run's command again",
}
SHOWS = ("run", "multirun", "cfg", "info", "shell_completion")


def parse(typed: list[str]) -> argparse.Namespace:
    """Flags and `overrides`. Exits like argparse after --version.

    Raises ConfigError for what cannot be read, and for flags that are not for these scripts.
    """
    from hydra._internal.utils import get_args_parser

    _start_anew_in_utf8(typed)
    for argument in typed:
        if any("\ud800" <= character <= "\udfff" for character in argument):
            shown = argument.encode("utf-8", "backslashreplace").decode()
            raise ConfigError(f"not UTF-8: {shown} (records hold text; rename the file or folder)")
    parser: Any = get_args_parser()
    parser.error = _refuse
    parsed: argparse.Namespace = parser.parse_intermixed_args(typed)
    for name, advice in REFUSED.items():
        if getattr(parsed, name) is not None:
            raise ConfigError(f"not for these scripts: --{name.replace('_', '-')} ({advice})")
    given = [f"--{name.replace('_', '-')}" for name in SHOWS if getattr(parsed, name)]
    if len(given) > 1:
        raise ConfigError(f"arguments: {' and '.join(given)} (give one of them)")
    if parsed.hydra_help and parsed.overrides:
        raise ConfigError("arguments: --hydra-help with overrides (give it alone)")
    example = "python train.py --cfg job"
    if parsed.resolve and not parsed.cfg:
        raise ConfigError(f"arguments: --resolve without --cfg ({example} --resolve)")
    if parsed.package is not None and not parsed.cfg:
        raise ConfigError(f"arguments: --package without --cfg ({example} --package=train)")
    folder = parsed.config_dir
    if folder is not None and not os.path.isdir(folder):
        raise ConfigError(
            f"no folder: --config-dir={folder} (a folder of YAML files, in groups as in conf/)"
        )
    for override in parsed.overrides:
        if override.startswith("-"):
            raise ConfigError(f"unreadable argument: {override} (write key=value)")
    return parsed


def _start_anew_in_utf8(typed: list[str]) -> None:
    """Where Python takes the system for ASCII: UTF-8 in arguments would be no text, nor a path."""
    given = [os.fsencode(argument) for argument in typed]
    if sys.getfilesystemencoding() == "utf-8" or all(map(bytes.isascii, given)):
        return
    try:
        b" ".join(given).decode()
    except UnicodeDecodeError:
        return
    os.execve(sys.executable, sys.orig_argv, {**os.environ, "PYTHONUTF8": "1"})


def _refuse(message: str) -> NoReturn:
    raise ConfigError(f"arguments: {message} (see --help)")


def canonical(parsed: argparse.Namespace) -> list[str]:
    """The same command line with its flags first: Hydra wants the overrides in one stretch."""
    flags = ["-m"] if parsed.multirun else []
    for name, value in vars(parsed).items():
        if name in ("overrides", "multirun") or value in (None, False):
            continue
        flag = f"--{name.replace('_', '-')}"
        flags.append(flag if value is True else f"{flag}={value}")
    return [*flags, *parsed.overrides]
