"""What is wrong with a declaration: every problem in a line that names its key."""

import math
from typing import Any

from minigpt.config.budget import BUDGET_KEYS
from minigpt.config.identity import flatten
from minigpt.config.ranges import value_problems
from minigpt.files.records import METRICS
from minigpt.study.checkouts import fault_of_arms
from minigpt.study.values import is_number, is_positive, typed

BUDGETS = tuple(f"train.{name}" for name in BUDGET_KEYS)
PAIRING = ("seed", "attempt", "name", "study", *BUDGETS)  # no arm, cell or setting has these
MOST_RUNS = 100_000  # all of a phase are planned before the first is trained


def problems_of(study: str | None, verdict: dict[str, Any]) -> list[str]:
    problems = []
    if study is None:
        problems.append("no name: a declared study needs one (study=..., or an experiment file)")
    elif study.strip(".") == "" or "/" in study or "\\" in study:
        problems.append(f"bad name: study={study!r} (it names a folder)")
    problems += value_problems(flatten({"verdict": verdict}))
    problems += _arm_problems(verdict)
    if (metric := verdict["metric"]) not in METRICS and not metric.startswith("val_"):
        problems.append(
            f"unknown value: verdict.metric={metric} (one of {', '.join(METRICS)}, or val_<name> "
            "of your own: conf/model/_base.yaml)"
        )
    if verdict["margin"] is None:
        problems.append(
            "missing value: verdict.margin (the smallest difference of losses that matters)"
        )
    problems += _budget_problems(verdict)
    problems += _tune_problems(verdict)
    looks = verdict["confirm"]["looks"]
    if not looks or looks != sorted(set(looks)):
        problems.append(
            f"out of range: verdict.confirm.looks={looks} (rising numbers of pairs, from 2 on)"
        )
    problems += _confirm_problems(verdict)
    problems += _grid_problems("verdict.cells", verdict["cells"], least=1)
    return problems or _too_many_runs(verdict)


def _arm_problems(verdict: dict[str, Any]) -> list[str]:
    by, node = verdict["by"], verdict["arms"] or []
    if wrong := fault_of_arms(by, node):
        return [wrong]
    problems, arms = [], [typed(arm) for arm in node]
    if by in PAIRING or by == "verdict":
        problems.append(f"not an arm: verdict.by={by} (runs are paired by seed and budget)")
    if len(arms) < 2:
        problems.append(f"too few: verdict.arms={arms} (a comparison has two arms or more)")
    if twice := sorted({arm for arm in arms if arms.count(arm) > 1}):
        problems.append(f"named twice: verdict.arms has {', '.join(twice)}")
    if (baseline := typed(verdict["baseline"])) not in arms:
        shown = f"one of {', '.join(arms) or 'no arms'}"
        missing = verdict["baseline"] is None
        problems.append(
            f"missing value: verdict.baseline ({shown})"
            if missing
            else f"unknown arm: verdict.baseline={baseline} ({shown})"
        )
    for arm in verdict["tune"]["per_arm"]:
        if typed(arm) not in arms:
            problems.append(f"unknown arm: verdict.tune.per_arm.{arm} (one of {', '.join(arms)})")
    return problems


def _budget_problems(verdict: dict[str, Any]) -> list[str]:
    node = verdict["budgets"]
    if len(node) != 1 or next(iter(node)) not in BUDGETS:
        shown = ", ".join(map(str, node)) or "nothing"
        return [f"budgets: verdict.budgets has {shown} (give one of {', '.join(BUDGETS)})"]
    ((key, values),) = node.items()
    if not isinstance(values, list) or not values or not all(map(is_positive, values)):
        return [f"out of range: verdict.budgets.{key}={values} (a list of numbers above 0)"]
    problems = []
    if len(set(values)) < len(values):
        problems.append(f"named twice: verdict.budgets.{key}={values}")
    elif values != sorted(values) and verdict["primary"] is None:
        problems.append(
            f"not rising: verdict.budgets.{key}={values} (write {sorted(values)}, whose last is "
            f"judged, or say which one is: verdict.primary={values[-1]})"
        )
    for name, value in (
        ("verdict.primary", verdict["primary"]),
        ("verdict.tune.budget", verdict["tune"]["budget"]),
    ):
        if value is not None and value not in values:
            problems.append(f"unknown budget: {name}={value} (one of {values} {key})")
    return problems


def _tune_problems(verdict: dict[str, Any]) -> list[str]:
    tune = verdict["tune"]
    problems = _grid_problems("verdict.tune.over", tune["over"], least=2)
    for arm, grid in tune["per_arm"].items():
        if not isinstance(grid, dict):
            problems.append(f"no grid: verdict.tune.per_arm.{arm}={grid} (give key: [values])")
            continue
        problems += _grid_problems(f"verdict.tune.per_arm.{arm}", grid, least=2)
        if both := sorted(set(grid) & set(tune["over"])):
            problems.append(f"declared twice: {both[0]} in verdict.tune.over and per_arm.{arm}")
    if len(set(tune["seeds"])) < len(tune["seeds"]) or not tune["seeds"]:
        problems.append(f"out of range: verdict.tune.seeds={tune['seeds']} (distinct seeds)")
    if tune["method"] == "random":
        problems += [
            f"no ends: verdict.tune: {key}={values} (random draws between positive numbers)"
            for grid in (tune["over"], *tune["per_arm"].values())
            for key, values in grid.items()
            if isinstance(values, list) and any(map(is_number, values))
            if not all(map(is_positive, values))
        ]
    return list(dict.fromkeys(problems))


def _confirm_problems(verdict: dict[str, Any]) -> list[str]:
    confirm, tuning = verdict["confirm"], verdict["tune"]["seeds"]
    last = confirm["looks"][-1] if confirm["looks"] else 0
    judging = range(confirm["first_seed"], confirm["first_seed"] + last)
    both = sorted(seed for seed in set(tuning) if seed in judging)
    if both and (verdict["tune"]["over"] or verdict["tune"]["per_arm"]):
        return [
            f"seeds that tune must not confirm: {both} in verdict.tune.seeds are among "
            f"{judging.start} to {judging.stop - 1} (move verdict.confirm.first_seed)"
        ]
    return []


def _grid_problems(name: str, grid: dict[str, Any], least: int) -> list[str]:
    problems = []
    for key, values in grid.items():
        if key in PAIRING:
            problems.append(f"not to be varied: {name}.{key} (it pairs runs)")
        elif not isinstance(values, list) or any(isinstance(v, list | dict) for v in values):
            problems.append(f"no list: {name}.{key}={values} (give [value, value, ...])")
        elif len(values) < least:
            problems.append(f"a grid of {len(values)}: {name}.{key}={values} (at least {least})")
        elif min(len(set(map(typed, values))), len(set(values))) < len(values):
            problems.append(f"named twice: {name}.{key}={values}")
        elif any(isinstance(value, float) and not math.isfinite(value) for value in values):
            problems.append(f"not finite: {name}.{key}={values}")
    return problems


def _too_many_runs(verdict: dict[str, Any]) -> list[str]:
    """Of a declaration that is right otherwise: the search, without extensions, and the last look
    take more runs than can be planned.
    """
    tune, settings = verdict["tune"], []
    for arm in verdict["arms"]:
        sizes = [*map(len, (tune["over"] | tune["per_arm"].get(arm, {})).values())]
        of_method = {"random": tune["trials"], "coordinate": tune["rounds"] * sum(sizes)}
        settings.append(of_method.get(tune["method"], math.prod(sizes)))
    (budgets,) = verdict["budgets"].values()
    pairs = verdict["confirm"]["looks"][-1] * len(budgets) * len(settings)
    cells = math.prod(map(len, verdict["cells"].values()))
    asked = cells * (sum(settings) * len(tune["seeds"]) + pairs)
    if asked <= MOST_RUNS:
        return []
    return [f"too many runs: verdict asks for {asked:,} (at most {MOST_RUNS:,})"]
