"""The composed root as plain values: references followed, typed nodes whole, paths given. Says
every problem at once.

Hydra checks types where a value is typed in. What it lets through is caught here: deleted keys,
keys that nothing reads, cycles of references, empty paths, and secrets that a reference would write
to disk.
"""

import dataclasses
import re
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from minigpt.config.schema import PATH_KEYS
from minigpt.errors import ConfigError
from minigpt.terminal import did_you_mean
from minigpt.text import without_surrogates

SECRET_WORDS = {
    "key", "keys", "apikey", "token", "secret", "secrets", "password", "passwd", "passphrase", "credential",
    "credentials", "auth", "pat",
}  # fmt: skip
_OWN_WORDS = re.compile(r"^ConfigError raised while resolving interpolation: (.*)", re.DOTALL)


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """Plain values, references followed. Raises ConfigError that names every missing or
    unresolvable key.
    """
    try:
        if missing := sorted(OmegaConf.missing_keys(cfg)):
            raise ConfigError(*(f"missing value: {key} (give it: {key}=...)" for key in missing))
        return cast(
            dict[str, Any], OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        )
    except RecursionError:
        raise ConfigError(
            "unresolvable value: nested too deeply, or a cycle of ${...} (mend the reference)"
        ) from None
    except OmegaConfBaseException as error:
        text = str(error).partition("\n    full_key:")[0]
        if own := _OWN_WORDS.match(text):
            raise ConfigError(own[1].partition("\n")[0]) from None
        raise ConfigError(
            f"unresolvable value: {error.full_key}: {' '.join(text.split())} (mend the reference)"
        ) from None


def root_problems(config: dict[str, Any], root: type) -> list[str]:
    """Keys of a resolved root that nothing reads, and empty paths.

    Raises ConfigError where keys are deleted or no mapping stands where one belongs, since nobody
    can read on then.
    """
    unknown, broken = _node_problems(config, root, "")
    problems = [*unknown, *_bad_texts(config), *_bad_paths(config)]
    if broken:
        raise ConfigError(*broken, *problems)
    return problems


def _node_problems(node: dict[str, Any], kind: type, prefix: str) -> tuple[list[str], list[str]]:
    """What nothing reads, and what is not there to be read."""
    known = {field.name: field for field in dataclasses.fields(kind)}
    unknown = [
        f"unknown key: {prefix}{key} {did_you_mean(str(key), known)}"
        for key in node
        if key not in known
    ]
    broken = []
    for name, field in known.items():
        if name not in node:
            broken.append(f"missing key: {prefix}{name} (leave out ~{prefix}{name})")
        elif dataclasses.is_dataclass(field.type):
            value = node[name]
            if isinstance(value, dict):
                below = _node_problems(value, cast(type, field.type), f"{prefix}{name}.")
                unknown += below[0]
                broken += below[1]
            else:
                broken.append(
                    f"wrong type: {prefix}{name}={value!r} (expects a mapping: {prefix}{name}.<key>=...)"
                )
        elif field.type is not Any and isinstance(
            node[name], dict if "list" in str(field.type) else dict | list
        ):
            broken.append(f"wrong type: {prefix}{name} refers to a whole node (expects a value)")
    return unknown, broken


def _bad_paths(config: dict[str, Any]) -> list[str]:
    """A path without a name would mean the current folder; it is mostly an unset variable of the
    shell.
    """
    problems = []
    for key in PATH_KEYS:
        node: Any = config
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, str) and not node.strip():
            problems.append(
                f"empty path: {key}= (an unset variable? name a folder or file, or leave it out)"
            )
        elif isinstance(node, str) and "\0" in node:
            problems.append(f"bad path: {key}={node!r} (a path holds no NUL)")
    return problems


def _bad_texts(node: Any, key: str = "") -> list[str]:
    """Texts that no record could hold: lone surrogates, from bytes that were no UTF-8."""
    if isinstance(node, dict):
        return [
            problem
            for k, value in node.items()
            for problem in _bad_texts(value, f"{key}.{k}" if key else str(k))
        ]
    if isinstance(node, list):
        return [problem for value in node for problem in _bad_texts(value, key)]
    if isinstance(node, str) and without_surrogates(node) != node:
        return [f"not UTF-8: {key}={node!a} (records hold text)"]
    return []


def environment_value(name: str, *default: Any) -> Any:
    """${oc.env:NAME} as OmegaConf has it, for values that may be written to disk.

    Raises ConfigError for a name that looks like a secret's, set or not, and for a value that is no
    text.
    """
    if SECRET_WORDS & set(re.split(r"[^a-z]+", str(name).lower())):
        raise ConfigError(
            f"secret in the configuration: ${{oc.env:{name}}} (it would be written to disk; "
            "what needs it reads the environment itself)"
        )
    return oc.env(name, *default)
