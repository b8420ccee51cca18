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
from minigpt.terminal import count, duration, table

MOST_WAVES = 1000  # of a search: as far as the runs that have ended tell


def describe(runs: LaunchedRuns, output: Path, side_by_side: int) -> str:
    """The plan of a study as lines. Runs nothing.

    side_by_side: how many jobs run at once.
    """
    declaration = runs.declaration
    phases, cost = _phases(runs), _Cost(runs, output)
    rows: list[tuple[str, ...]] = [
        ("phase", "runs", "ended", "tokens left", "FLOPs left", "time left here")
    ]
    rows += [(name, *cost.columns(planned, side_by_side)) for name, planned in phases]
    lines = [*_declared(declaration, output), "", *table(rows), "", *_power(declaration, output)]
    if declaration.looks[-1] < MIN_PAIRS:
        lines.append(
            f"No look can claim anything: a claim needs {MIN_PAIRS} pairs (verdict.confirm.looks)."
        )
    if declaration.tune.extend and phases[0][1]:
        lines.append(
            f"A best value on an edge of its grid gets up to {declaration.tune.extend} more "
            "beyond it; their runs are not counted here."
        )
    return "\n".join(lines)


def _phases(runs: LaunchedRuns) -> list[tuple[str, list[PlannedRun]]]:
    """Each phase and its runs, the tuning first, with the settings that are chosen or may be."""
    declaration, tune = runs.declaration, runs.declaration.tune
    tuned: list[PlannedRun] = []
    likely: dict[Setting, dict[str, Setting]] = {cell: {} for cell in declaration.cells}
    for cell in declaration.cells:
        for arm in declaration.arms:
            found = known_search(declaration, runs, cell, arm, MOST_WAVES)
            tried = list(dict.fromkeys((*found.scores, *found.wanted)))
            tuned += tuning_runs(declaration, cell, arm, tried)
            if not found.stopped:
                likely[cell][arm] = tried[0] if found.chosen is None else found.chosen
    how = {"grid": "a grid", "random": f"{tune.trials} random settings", "coordinate": "by keys"}
    phases = [(f"tune, {how[tune.method]}, {count(len(tune.seeds), 'seed')}", tuned)]
    for before, pairs in zip((0, *declaration.looks), declaration.looks):
        seeds = declaration.seeds(pairs)[before:]
        name = f"until {pairs} pairs, if undecided" if before else f"confirm, {pairs} pairs"
        new = [judging_runs(declaration, cell, likely[cell], seeds) for cell in declaration.cells]
        phases.append((name, [run for runs_of_cell in new for run in runs_of_cell]))
    return phases


def _declared(declaration: Declaration, output: Path) -> list[str]:
    """The question, what answers it, and how far it is."""
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
        lines.append(f"so far      {phase(declaration, list(read_decisions(folder).values()))}")
    return lines


class _Cost:
    """Tokens, FLOPs and time of planned runs. Time is known where such a run has ended here."""

    def __init__(self, runs: LaunchedRuns, output: Path) -> None:
        self.runs = runs
        self._flops: dict[str, float] = {}  # per token, by model
        self._rates = _measured_rates(output)

    def columns(self, planned: Sequence[PlannedRun], side_by_side: int) -> tuple[str, ...]:
        left = [run for run in planned if self.runs.loss(run) is None]
        plans = self.runs.plan_all(left)
        # a budget in epochs is not known before the corpus
        known = [(p, p.budget().tokens) for p in plans if p.config["train"]["steps"] is not None]
        flops = sum(tokens * self._flops_per_token(plan) for plan, tokens in known)
        rates = [(tokens, self._rates.get(_of_model(plan.identity))) for plan, tokens in known]
        seconds = [tokens / rate for tokens, rate in rates if rate]
        time = "unknown until a run of it has ended here"
        if len(seconds) == len(plans):
            time = duration(sum(seconds) / side_by_side) if plans else "none"
        work = f"{sum(tokens for _, tokens in known):,}", f"{flops:.3g}"
        if len(known) < len(plans):
            work = "as the corpus says", "likewise"
        return f"{len(planned):,}", f"{len(planned) - len(left):,}", *work, time

    def _flops_per_token(self, plan: Plan) -> float:
        name = _of_model(plan.identity)
        if name not in self._flops:
            self._flops[name] = self.runs.planner.flops_per_token(plan)
        return self._flops[name]


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
