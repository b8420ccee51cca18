"""The name of a run, which reads like the command that began it."""

import re

from minigpt.config.schema import key_of

SHORT = {"seed": "s", "attempt": "a"}
ALWAYS = ("debug", "experiment", "model", "optim", "data")  # choices that begin every name


def run_name(choices: dict[str, str], overrides: list[str], explicit: str | None) -> str:
    """The choices, those of parts too, then other overrides, shortened; at most 80 characters."""
    if explicit is not None:
        return explicit
    chosen = choices | {"data": choices.get("data@stand_in", choices["data"])}
    parts = [chosen.get(group) for group in ALWAYS]
    for override in sorted(overrides, key=lambda typed: "/" not in typed.partition("=")[0]):
        key, _, value = override.lstrip("+~").partition("=")
        if key in ALWAYS or not _stands_in_name(key):
            continue
        last = key.rpartition(".")[2].rpartition("/")[2]
        parts.append(value if key in choices else f"{SHORT.get(last, last)}{value}")
    text = "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", part).strip("_") for part in parts if part)
    return text[:80].rstrip("-._")


def _stands_in_name(key: str) -> bool:
    known = key_of(key)
    return known.named and known.effect == "result"
