"""Why a command line does not compose: which override, and what was expected."""

import dataclasses
import importlib.util
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from minigpt.cli.boundary import is_composition_error, words
from minigpt.cli.constructor_keys import deeper_keys, names_in
from minigpt.cli.overrides import groups_for, options_of, unknown_choice
from minigpt.config import schema
from minigpt.terminal import did_you_mean

LAUNCHERS = {  # launcher -> the plugin it comes with
    "joblib": "hydra_joblib_launcher",
    "ray": "hydra_ray_launcher",
    "slurm": "hydra_submitit_launcher",
    "submitit_local": "hydra_submitit_launcher",
}
_EXPECTED = {
    "Integer": "an integer, written without exponent",
    "Float": "a number",
    "bool": "true or false",
    "not None": "a value; null is none here",
    "not Optional": "a value; null is none here",
}
_UNREADABLE = (
    "no viable alternative",
    "mismatched input",
    "token recognition",
    "extraneous input",
    "Error parsing",
)
_ONLY_SWEEPS = "requires --multirun"
Attempt = Callable[[list[str]], DictConfig | Exception]


def explain(
    attempt: Attempt, overrides: list[str], folders: list[Path]
) -> tuple[list[str], DictConfig | None]:
    """What is wrong with each override, and the configuration that the others compose to.

    Each value is tried alone, on top of the choices that work.
    attempt: the configuration that overrides compose to, or why they do not.
    folders: where groups are.
    """
    if isinstance(bare := attempt([]), Exception):
        return [], None  # no override is to blame
    groups = groups_for(bare, folders)
    choices = [typed for typed in overrides if re.split("[@=]", typed.lstrip("+~"))[0] in groups]
    values = [override for override in overrides if override not in choices]
    problems: list[str] = []
    for choice in list(choices):
        found = attempt([choice])
        if isinstance(found, Exception):
            choices.remove(choice)
            problems.append(_explain_choice(choice, found, folders))
            if choice.startswith("hydra/launcher="):
                values = [value for value in values if not value.startswith("hydra.launcher.")]
    base = attempt(choices)
    if isinstance(base, Exception):
        return problems or [f"configuration: {' '.join(choices)}: {words(base)} (see --help)"], None
    good = []
    for value in values:
        found = attempt([*choices, value])
        if isinstance(found, Exception):
            problems.append(_explain_value(base, value, groups, found))
        else:
            good.append(value)
    rest = attempt([*choices, *good])
    return problems, None if isinstance(rest, Exception) else rest


def broken_files(folders: list[Path]) -> list[str]:
    """A line for each YAML file that cannot be read at all."""
    files = (path for folder in folders for path in sorted(folder.rglob("*.yaml")))
    return [problem for path in files if (problem := broken(path))]


def broken(path: Path) -> str | None:
    """Why a YAML file cannot be read at all."""
    try:
        content = OmegaConf.load(path)
        why = None if isinstance(content, DictConfig) else "no mapping"
    except Exception as error:
        if not is_composition_error(error) and not isinstance(error, OSError):
            raise
        why = words(error)
    return why and f"configuration: {path}: {why} (mend the file)"


def _explain_choice(choice: str, error: Exception, folders: list[Path]) -> str:
    group, equals, option = choice.lstrip("+~").partition("=")
    if not equals and not choice.startswith("~"):
        return f"unreadable argument: {choice} (write {group}=..., see --help {group})"
    if group == "hydra/launcher":
        return _explain_launcher(option)
    options = options_of(group, folders)
    if option in options:
        return _explain_file(choice, options[option], words(error))
    if option.startswith(("[", "{")):
        return f"one choice: {choice} (choose one of {', '.join(sorted(options))})"
    if options.keys() >= {*option.split(",")} or _ONLY_SWEEPS in words(error):
        return f"a sweep without -m: {choice} (add -m)"
    return unknown_choice(choice, option, options)


def _explain_file(choice: str, path: Path, why: str) -> str:
    found = re.search(r"Key '(.+)' not in '(\w+)'$", why)
    node = getattr(schema, found[2], None) if found else None
    if found is None or node is None:
        return f"configuration: {choice}: {why} (mend {path})"
    known = [field.name for field in dataclasses.fields(node)]
    name = found[2].lower()  # of the key whose values this class holds
    where = next((f"{key}." for key in schema.KEYS if key.rpartition(".")[2] == name), "")
    return f"unknown key: {where}{found[1]} in {path} {did_you_mean(found[1], known, where)}"


def _explain_launcher(option: str) -> str:
    installed = None
    with suppress(ModuleNotFoundError):  # not even the package that plugins are in
        installed = importlib.util.find_spec(f"hydra_plugins.{LAUNCHERS.get(option)}")
    if option in LAUNCHERS and installed is None:
        package = LAUNCHERS[option].replace("_", "-")
        return f"missing package: hydra/launcher={option} needs {package} (pip install {package})"
    return f"unknown choice: hydra/launcher={option} {did_you_mean(option, ['basic', *LAUNCHERS])}"


def _explain_value(base: DictConfig, override: str, groups: set[str], error: Exception) -> str:
    key, equals, value = override.lstrip("+~").partition("=")
    text = words(error)
    deleting = override.startswith("~")
    if any(sign in text for sign in _UNREADABLE) or not (equals or deleting):
        return (
            f"unreadable argument: {override} "
            "(write key=value, see --help; quote a value with special characters: 'key=\"a,b\"')"
        )
    parent, node = key, None
    while not isinstance(node, DictConfig):  # the nearest mapping that there is
        parent, _, last = parent.rpartition(".")
        node = OmegaConf.select(base, parent) if parent else base
    if last not in node:
        known = {*names_in(node)} - {"hydra"} | (set() if parent else groups)
        prefix = f"{parent}." if parent else ""
        if (
            last == key.rpartition(".")[2]
            and last not in known
            and (deeper := deeper_keys(node, last))
        ):
            places = " or ".join(prefix + path for path in deeper[:4])
            return f"unknown key: {key} (did you mean {places}?)"
        return f"unknown key: {key} {did_you_mean(last, known, prefix)}"
    if deleting:
        return f"not to be deleted: {override} (give it a value: {key}=...)"
    if "Ambiguous value" in text:
        return f"a sweep without -m: {override} (add -m, or write a list: {key}=[{value}])"
    if _ONLY_SWEEPS in text:
        return f"a sweep without -m: {override} (add -m)"
    expected = next((expected for name, expected in _EXPECTED.items() if name in text), None)
    if expected:
        return f"wrong type: {key}={value} (expects {expected})"
    if "is not in struct" in text and value.startswith("{") and not override.startswith("+"):
        return f"new entry: {override} (to add it write +{override})"
    return f"configuration: {override}: {text} (see --help)"
