"""The composed root as plain values: references followed, typed nodes whole, paths given.

Hydra checks types where a value is typed in. What it lets through is caught here: deleted keys,
keys that nothing reads, cycles of references, empty paths, and secrets that a reference would write
to disk.
"""

import dataclasses
import json
import re
from contextlib import suppress
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from minigpt.config.identity import flatten
from minigpt.config.schema import PATH_KEYS
from minigpt.errors import ConfigError
from minigpt.terminal import did_you_mean
from minigpt.text import without_surrogates

SECRET_WORDS = {
    "key", "keys", "apikey", "token", "secret", "secrets", "password", "passwd", "passphrase",
    "credential", "credentials", "auth", "pat",
}  # fmt: skip
_OWN_WORDS = re.compile(r"^ConfigError raised while resolving interpolation: (.*)")


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """Plain values, references followed. Raises ConfigError for keys that lack a value or whose
    references lead nowhere.
    """
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        return cast(dict[str, Any], plain)
    except RecursionError:
        raise ConfigError(
            "unresolvable value: nested too deeply, or a cycle of ${...} (mend the reference)"
        ) from None
    except OmegaConfBaseException as error:
        if missing := _missing(cfg):
            lines = (f"missing value: {key} (give it: {key}=...)" for key in missing)
            raise ConfigError(*lines) from None
        text = str(error).partition("\n    full_key:")[0]
        if own := _OWN_WORDS.match(text):
            raise ConfigError(own[1]) from None
        raise ConfigError(
            f"unresolvable value: {error.full_key}: {' '.join(text.split())} (mend the reference)"
        ) from None


def _missing(cfg: DictConfig) -> list[str]:
    """The keys that lack a value, as far as references can be followed."""
    with suppress(OmegaConfBaseException):
        return sorted(OmegaConf.missing_keys(cfg))
    return []


def root_problems(config: dict[str, Any], root: type) -> list[str]:
    """Keys of a resolved root that nothing reads, empty paths, and what is no text.

    Raises ConfigError where keys are deleted or no mapping stands where one belongs, since nobody
    can read on then.
    """
    unknown, broken = _node_problems(config, root, "")
    problems = [*unknown, *_bad_values(flatten(config))]
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
        key, value = f"{prefix}{name}", node.get(name)
        if name not in node:
            broken.append(f"missing key: {key} (leave out ~{key})")
        elif dataclasses.is_dataclass(field.type):
            if isinstance(value, dict):
                below = _node_problems(value, cast(type, field.type), f"{key}.")
                unknown += below[0]
                broken += below[1]
            else:
                broken.append(f"wrong type: {key}={value!r} (expects a mapping: {key}.<key>=...)")
        elif field.type is not Any and isinstance(value, _no_value_of(field.type)):
            broken.append(f"wrong type: {key} refers to a whole node (expects a value)")
    return unknown, broken


def _no_value_of(kind: Any) -> Any:
    """The containers that a field of this type cannot hold."""
    if "dict" in str(kind):
        return list
    return dict if "list" in str(kind) else dict | list


def _bad_values(flat: dict[str, Any]) -> list[str]:
    problems = []
    for key, value in flat.items():
        text = json.dumps(value, ensure_ascii=False, default=str)
        if without_surrogates(text) != text:  # from bytes that were no UTF-8
            problems.append(f"not UTF-8: {key}={value!a} (records hold text)")
        if key not in PATH_KEYS or not isinstance(value, str):
            continue
        if not value.strip():  # it would mean the current folder
            problems.append(
                f"empty path: {key}= (an unset variable? name a folder or file, or leave it out)"
            )
        elif "\0" in value:
            problems.append(f"bad path: {key}={value!r} (a path holds no NUL)")
    return problems


def environment_value(name: str, *default: Any) -> Any:
    """${oc.env:NAME} as OmegaConf has it, for values that may be written to disk.

    Raises ConfigError for a name that looks like a secret's, set or not.
    """
    if SECRET_WORDS & set(re.split(r"[^a-z]+", str(name).lower())):
        raise ConfigError(
            f"secret in the configuration: ${{oc.env:{name}}} (it would be written to disk; "
            "what needs it reads the environment itself)"
        )
    return oc.env(name, *default)
