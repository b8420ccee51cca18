"""The settings of an arm that nobody declared: what its runs differ in, named as one types it."""

import json
import re
from typing import Any

from minigpt.compare.question import Question
from minigpt.study.declaration import Setting, Value
from minigpt.study.run import LEARNING_RATE, Run

# A learning rate that roles share, as people type it: keys that move as it does get its name.
SHARED_LR = re.compile(r"optim\.(\w+_)?lr|optim\.lr_scale")
Column = list[Any]  # the values of a key, run by run


def settings(question: Question, runs: list[Run]) -> dict[Run, Setting]:
    """The setting of each run of an arm; empty where all are alike. Keys that move together are
    one.
    """
    keys = sorted({key for run in runs for key, _ in question.setting(run)})
    columns = {key: [run.decided(key) for run in runs] for key in keys}
    moving: dict[tuple[int, ...], list[str]] = {}
    for key, column in columns.items():
        if any(pattern := _pattern(column)):
            moving.setdefault(pattern, []).append(key)
    named: dict[str, Column] = {}
    for pattern, together in moving.items():
        name = next((key for key in together if ".hidden." in key), together[0])
        shared = _shared_lrs(runs) if any(map(LEARNING_RATE.fullmatch, together)) else {}
        as_typed = (key for key, column in shared.items() if _pattern(column) == pattern)
        name = next(as_typed, name)
        named[name] = shared[name] if name in shared else columns[name]
    return {
        run: tuple((name, _plain(column[at])) for name, column in named.items())
        for at, run in enumerate(runs)
    }


def _shared_lrs(runs: list[Run]) -> dict[str, Column]:
    """The widest first: lr_scale moves all roles, `lr` some, others fewer."""
    found = {key for run in runs for key in run.flat_config if SHARED_LR.fullmatch(key)}
    order = sorted(found, key=lambda key: (key != "optim.lr_scale", key != "optim.lr", key))
    return {key: [run.flat_config.get(key) for run in runs] for key in order}


def _pattern(column: Column) -> tuple[int, ...]:
    """Which entries are equal, whatever they are: (a, b, a) and (1, 2, 1) are both (0, 1, 0)."""
    first: dict[str, int] = {}
    return tuple(first.setdefault(json.dumps(value), len(first)) for value in column)


def _plain(value: Any) -> Value:
    return json.dumps(value) if isinstance(value, list | dict) else value
