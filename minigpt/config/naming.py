"""The name of a run, which reads like the command that began it."""

import re

from minigpt.config.schema import key_of

SHORT = {"seed": "s", "attempt": "a"}
MOST, LEAST = 80, 16  # characters of a name, of a part that was shortened
ALWAYS = ("debug", "experiment", "model", "optim", "data")  # choices that begin every name


def run_name(choices: dict[str, str], overrides: list[str], explicit: str | None) -> str:
    """The choices, those of parts too, then other overrides, shortened; at most 80 characters."""
    if explicit is not None:
        return explicit
    chosen = choices | {"data": choices.get("data@stand_in", choices["data"])}
    parts = [chosen.get(group) for group in ALWAYS]
    values = dict(typed.lstrip("+~").partition("=")[::2] for typed in overrides)  # the last counts
    for key, value in sorted(values.items(), key=lambda item: "/" not in item[0]):
        if key in ALWAYS or not _stands_in_name(key):
            continue
        last = key.rpartition(".")[2].rpartition("/")[2]
        parts.append(value if key in choices else f"{SHORT.get(last, last)}{value}")
    return _fitted([re.sub(r"[^A-Za-z0-9._]+", "_", part).strip("_") for part in parts if part])


def _fitted(parts: list[str]) -> str:
    """The longest parts give way, in their middle: what tells runs apart is at the ends."""
    width = max(map(len, parts))
    while len(text := "-".join(_shortened(part, width) for part in parts)) > MOST and width > LEAST:
        width -= 1
    return _shortened(text, MOST).rstrip("-._")


def _shortened(text: str, width: int) -> str:
    half = (width - 2) // 2
    return text if len(text) <= width else f"{text[: width - 2 - half]}..{text[-half:]}"


def _stands_in_name(key: str) -> bool:
    known = key_of(key)
    return known.named and known.effect == "result"
