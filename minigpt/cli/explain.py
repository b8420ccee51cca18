"""Why a command line does not compose: each override tried alone, its nearest valid name, what was expected."""

import difflib
import importlib.util
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

CONF = Path(__file__).parent.parent.parent / "conf"

LAUNCHERS = {  # launcher -> the plugin it comes with
    "joblib": "hydra_joblib_launcher",
    "slurm": "hydra_submitit_launcher",
    "submitit_local": "hydra_submitit_launcher",
}
_EXPECTED = {
    "Integer": "an integer, written without exponent",
    "Float": "a number",
    "bool": "true or false",
    "not None": "a value; null is none here",
}


def explain(compose: Callable[[list[str]], DictConfig], overrides: list[str]) -> tuple[list[str], DictConfig]:
    """What is wrong with each override, tried alone on top of the choices that work; and what is left, composed."""
    groups = {path.relative_to(CONF).as_posix() for path in CONF.rglob("*") if path.is_dir()}
    choices: list[str] = []
    values: list[str] = []
    problems: list[str] = []
    for override in overrides:
        (choices if override.lstrip("+~").partition("=")[0] in groups else values).append(override)
    for choice in list(choices):
        try:
            compose([choice])
        except Exception as error:
            choices.remove(choice)
            group, _, option = choice.partition("=")
            if group == "hydra/launcher":
                problems.append(_explain_launcher(option))
                values = [value for value in values if not value.startswith("hydra.launcher.")]
                continue
            options = [path.stem for path in (CONF / group).glob("*.yaml") if not path.stem.startswith("_")]
            if option in options:
                problems.append(f"configuration: {choice}: {' '.join(str(error).split())} (mend the file)")
            else:
                problems.append(f"unknown choice: {choice} {nearest(option, options)}")
    base = compose(choices)
    good = []
    for value in values:
        try:
            compose([*choices, value])
            good.append(value)
        except Exception as error:
            problems.append(_explain_value(base, value, groups, error))
    return problems, compose([*choices, *good])


def _explain_launcher(option: str) -> str:
    if option in LAUNCHERS and not _is_installed(f"hydra_plugins.{LAUNCHERS[option]}"):
        package = LAUNCHERS[option].replace("_", "-")
        return f"missing package: hydra/launcher={option} needs {package} (pip install 'minigpt[launchers]')"
    return f"unknown choice: hydra/launcher={option} {nearest(option, ['basic', *LAUNCHERS])}"


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it would be in
        return False


def _explain_value(base: DictConfig, override: str, groups: set[str], error: Exception) -> str:
    key, _, value = override.lstrip("+~").partition("=")
    text = " ".join(str(error.__cause__ or error).split())
    if (
        "no viable alternative" in text
        or "mismatched input" in text
        or "token recognition" in text
        or "=" not in override
    ):
        return (
            f"unreadable argument: {override} (write key=value; quote a value with special characters: 'key=\"a,b\"')"
        )
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(base, parent) if parent else base
    while parent and not isinstance(node, DictConfig):
        parent, _, last = parent.rpartition(".")
        node = OmegaConf.select(base, parent) if parent else base
    if isinstance(node, DictConfig) and last not in node:
        known = [str(k) for k in node if k != "hydra"] + ([] if parent else sorted(groups))
        shown = nearest(last, known)
        if parent and shown.startswith("(did you mean "):
            shown = shown.replace("(did you mean ", f"(did you mean {parent}.")
        return f"unknown key: {key} {shown}"
    expected = next((words for name, words in _EXPECTED.items() if name in text), None)
    if expected:
        return f"wrong type: {key}={value} (expects {expected})"
    return f"configuration: {override}: {text} (see --help)"


def nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"(did you mean {near[0]}?)" if near else f"(known: {', '.join(sorted(known))})"
