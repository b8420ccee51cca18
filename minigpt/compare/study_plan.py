"""`dry_run=true` of a declared study: its phases, what they cost, what they would detect."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

from minigpt.compare.declared import ALPHA, MIN_PAIRS
from minigpt.compare.statistics import detectable_difference
from minigpt.config.plan import Plan
from minigpt.errors import CheckpointError, ConfigError, StorageError
from minigpt.study.conduct import known_search
from minigpt.study.decisions import phase
from minigpt.study.declaration import Declaration, Setting, typed
from minigpt.study.declaration_file import read_declaration, study_folder
from minigpt.study.find import find
from minigpt.study.journal import JOURNAL, read_decisions
from minigpt.study.launched import LaunchedRuns
from minigpt.study.planned import PlannedRun, judging_runs, tuning_runs
from minigpt.study.run import Run
from minigpt.study.search import Search
from minigpt.terminal import count, duration, table

MOST_WAVES = 1000  # of a search: as far as the runs that have ended tell


def describe(runs: LaunchedRuns, output: Path, side_by_side: int) -> str:
    """The plan of a study as lines. Runs nothing.

    side_by_side: how many jobs run at once.
    """
    declaration = runs.declaration
    cost = _Cost(runs, output)
    rows: list[tuple[str, ...]] = [
        ("phase", "runs", "ended", "tokens left", "FLOPs left", "time left here")
    ]
    searches = {
        (cell, arm): known_search(declaration, runs, cell, arm, MOST_WAVES)
        for cell in declaration.cells
        for arm in declaration.arms
    }
    tuned = [
        run
        for (cell, arm), found in searches.items()
        for run in tuning_runs(
            declaration, cell, arm, dict.fromkeys((*found.scores, *found.wanted))
        )
    ]
    phases: list[tuple[str, Sequence[PlannedRun]]] = [(_tuning_name(declaration), tuned)]
    before = 0
    for pairs in declaration.looks:
        seeds = declaration.seeds(pairs)[before:]
        new = [
            run
            for cell in declaration.cells
            for run in judging_runs(
                declaration,
                cell,
                {
                    arm: _likely(searches[cell, arm])
                    for arm in declaration.arms
                    if not searches[cell, arm].stopped
                },
                seeds,
            )
        ]
        name = f"confirm, {pairs} pairs" if not before else f"until {pairs} pairs, if undecided"
        phases.append((name, new))
        before = pairs
    for name, planned in phases:
        rows.append((name, *cost.columns(planned, side_by_side)))
    lines = [
        f"{declaration.study}: {declaration.question}",
        f"arms        {', '.join(declaration.arms)} ({declaration.by}); baseline "
        f"{declaration.baseline}",
        *(f"            {line}" for line in declaration.code_lines),
        f"budgets     {declaration.budget_key} = {', '.join(map(typed, declaration.budgets))}; "
        f"judged at {typed(declaration.primary)}",
        f"claims      beyond {declaration.margin:g} {declaration.unit}, 5 % over "
        f"{count(len(declaration.looks), 'look')}",
    ]
    if declaration.cells != ((),):
        grid = declaration.node["cells"].items()
        shown = "; ".join(f"{key} = {', '.join(map(typed, values))}" for key, values in grid)
        lines.append(f"cells       {len(declaration.cells)}: {shown}")
    folder = study_folder(output, declaration.study)
    known = read_declaration(folder)
    if known is not None and known[0].sha256 == declaration.sha256:  # else it is to be amended
        decided = list(read_decisions(folder).values())
        lines.append(f"so far      {phase(declaration, decided)}")
    lines += ["", *table(rows), "", *_power(declaration, output)]
    if declaration.looks[-1] < MIN_PAIRS:
        lines.append(
            f"No look can claim anything: a claim needs {MIN_PAIRS} pairs (verdict.confirm.looks)."
        )
    if declaration.tune.extend and tuned:
        lines.append(
            f"A best value on an edge of its grid gets up to {declaration.tune.extend} more "
            "beyond it; their runs are not counted here."
        )
    return "\n".join(lines)


def _likely(found: Search) -> Setting:
    """The chosen setting; until it is known, one of those that may be."""
    return found.chosen if found.chosen is not None else (*found.scores, *found.wanted)[0]


def _tuning_name(declaration: Declaration) -> str:
    tune = declaration.tune
    how = {"grid": "a grid", "random": f"{tune.trials} random settings", "coordinate": "by keys"}
    return f"tune, {how[tune.method]}, {count(len(tune.seeds), 'seed')}"


class _Cost:
    """Tokens, FLOPs and time of planned runs. Time is known where such a run has ended here."""

    def __init__(self, runs: LaunchedRuns, output: Path) -> None:
        self.runs = runs
        self._flops: dict[str, float] = {}  # per token, by model
        self._rates = _measured_rates(output)

    def columns(self, planned: Sequence[PlannedRun], side_by_side: int) -> tuple[str, ...]:
        left = [run for run in planned if self.runs.loss(run) is None]
        plans = self.runs.plan_all(left)
        tokens = [_tokens(plan) for plan in plans]
        known = [number for number in tokens if number is not None]
        flops = sum(
            number * self._flops_per_token(plan)
            for number, plan in zip(tokens, plans)
            if number is not None
        )
        seconds = [
            number / rate
            for number, plan in zip(tokens, plans)
            if number is not None and (rate := self._rates.get(_of_model(plan.identity)))
        ]
        time = "unknown until a run of it has ended here"
        if not plans:
            time = "none"
        elif len(seconds) == len(plans):
            time = duration(sum(seconds) / side_by_side)
        shown = f"{sum(known):,}" if len(known) == len(plans) else "as the corpus says"
        ended = f"{len(planned) - len(left):,}"
        return f"{len(planned):,}", ended, shown, f"{flops:.3g}", time

    def _flops_per_token(self, plan: Plan) -> float:
        name = _of_model(plan.identity)
        if name not in self._flops:
            self._flops[name] = self.runs.planner.flops_per_token(plan)
        return self._flops[name]


def _tokens(plan: Plan) -> int | None:
    """None for a budget in epochs."""
    if plan.config["train"]["steps"] is None:
        return None
    return plan.budget().tokens


def _of_model(identity: dict[str, Any]) -> str:
    return json.dumps([identity["model"], identity.get("code")], sort_keys=True)


def _measured_rates(output: Path) -> dict[str, float]:
    """Tokens a second of whole runs that ended in this folder, by model: the median."""
    try:
        found: list[Run] = find([output]).runs
    except ConfigError:
        return {}
    rates: dict[str, list[float]] = {}
    for run in found:
        summary = run.summary
        if summary is not None and summary["status"] == "finished":
            seconds = sum(summary["seconds"].values())
            if seconds > 0 and run.own_share == 1:
                name = _of_model(run.record["identity"])
                rates.setdefault(name, []).append(summary["tokens"] / seconds)
    return {name: median(values) for name, values in rates.items()}


def _power(declaration: Declaration, output: Path) -> list[str]:
    """What each look would detect in 8 of 10 studies."""
    spread, source = declaration.node["spread"], "verdict.spread"
    if spread is None:
        spread, source = measured_spread(output), "of earlier studies in this folder"
    if spread is None:
        return [
            "power       unknown: no study has paired runs here yet "
            "(give verdict.spread, the standard deviation of paired differences)"
        ]
    confidence = 1 - ALPHA / len(declaration.looks)
    shown = []
    for pairs in declaration.looks:
        beyond = detectable_difference(spread, pairs, confidence)
        if beyond is not None:
            shown.append(f"{declaration.margin + beyond:.4f} with {pairs} pairs")
    return [
        f"power       spread of pairs {spread:.4f} ({source}): 8 of 10 studies would find a "
        f"difference of {', '.join(shown)}"
    ]


def measured_spread(output: Path) -> float | None:
    """The median spread of pairs that the studies of this folder have noted at their looks."""
    spreads = []
    for path in sorted(output.glob(f"studies/*/{JOURNAL}")):
        with suppress(CheckpointError, StorageError):  # who goes on with it is told
            for entry in read_decisions(path.parent).values():
                found = entry.get("verdicts", {}).values()
                spreads += [verdict["spread"] for verdict in found if "spread" in verdict]
    return median(spreads) if spreads else None
