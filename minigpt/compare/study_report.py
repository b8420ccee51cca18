"""The report of a declared study: on the terminal, and as files that others can go on with."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from minigpt.compare.report_html import html
from minigpt.compare.report_text import markdown, terminal_text
from minigpt.compare.study_document import document
from minigpt.compare.study_figures import study_figures
from minigpt.compare.study_findings import CellFindings, Findings
from minigpt.compare.study_notes import notes
from minigpt.compare.write_files import write_files
from minigpt.study.run import Run, differing
from minigpt.study.values import csv_bytes

RESULTS = ("status", "step", "tokens", "val_loss", "val_bits_per_byte", "train_time_s")
COSTS = ("parameters", "flops_per_token", "optimizer_flops_share")


def write_report(found: Findings, out: Path | None, kind: str = "png") -> str:
    """Write the report into a folder, if one is given; returns what a terminal shows.

    kind: of the figures: png, or svg or pdf beside it.
    """
    if out is None:
        return terminal_text(document(found, {}))
    figures = study_figures(found, kind)
    whole = document(found, figures)
    files = {
        "report.html": html(whole, out).encode(),
        "report.md": markdown(whole, out).encode(),
        "results.csv": csv_bytes([row for cell in found.cells for row in _rows(cell)]),
    }
    for figure in (figure for drawn in figures.values() for figure in drawn):
        files |= figure.files
    write_files(out, files, facts(found))
    return terminal_text(whole)


def facts(found: Findings) -> dict[str, Any]:
    """Every figure that the report shows, with the runs behind it."""
    declaration = found.declaration
    content: dict[str, Any] = {
        "study": declaration.study,
        "declaration": found.sha256,
        "declared": found.declared.isoformat(),
        "verdict": declaration.node | {"amend": None},
        "primary": declaration.primary,
        "confidence": 1 - found.cells[0].alpha,
        "amendments": list(found.amendments),
        "not_judged": list(found.stopped),
        "error_rate": found.error_rate,
        "cells": [_cell(cell) for cell in found.cells],
    }
    if len(found.cells) > 1:
        trends = {arm: found.trend(arm) for arm in found.cells[0].ruling.findings}
        content["trends"] = {
            arm: dataclasses.asdict(trend) for arm, trend in trends.items() if trend is not None
        }
    plain: dict[str, Any] = _plain(content)
    return plain


def _cell(cell: CellFindings) -> dict[str, Any]:
    look = cell.ruling.look
    return {
        "cell": dict(look.cell),
        "pairs": look.pairs,
        "findings": {
            arm: dataclasses.asdict(finding)
            | {"equal_cost": [dataclasses.asdict(cost) for cost in cell.equal_costs(arm)]}
            for arm, finding in cell.ruling.findings.items()
        },
        "ranking": [dataclasses.asdict(ranked) for ranked in cell.ranking],
        "chosen": {arm: dict(setting) for arm, setting in look.chosen.items()},
        "losses": {
            arm: {f"{budget:g}": by_seed for budget, by_seed in by_budget.items()}
            for arm, by_budget in cell.losses.items()
        },
        "tuning": {
            arm: {
                "trials": [
                    {"setting": dict(setting), "loss": loss}
                    for setting, loss in search.scores.items()
                ],
                "extensions": search.extensions,
                "expected_best": cell.tuning_curve(arm),
                "good_ranges": cell.good_ranges(arm),
            }
            for arm, search in cell.searches.items()
        },
        "runs": {
            arm: [run.name for by_seed in by_budget.values() for run in by_seed.values()]
            for arm, by_budget in cell.judged.items()
        },
        "notes": notes(cell),
    }


def _plain(value: Any) -> Any:
    """JSON has no infinity: null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _rows(cell: CellFindings) -> list[dict[str, Any]]:
    """One row a run; every key that differs between the runs is a column."""
    declaration = cell.declaration
    rows: list[tuple[dict[str, Any], Run]] = []
    for arm, settings in cell.tuned.items():
        for setting, by_seed in settings.items():
            about = {"phase": "tune", declaration.by: arm, **dict(setting)}
            budget = {declaration.budget_key: declaration.tune.budget}
            rows += [(_row(cell, about | budget, seed, r), r) for seed, r in by_seed.items()]
    for arm, by_budget in cell.judged.items():
        about = {"phase": "confirm", declaration.by: arm, **dict(cell.ruling.look.chosen[arm])}
        for budget_value, by_seed in by_budget.items():
            budget = {declaration.budget_key: budget_value}
            rows += [(_row(cell, about | budget, seed, r), r) for seed, r in by_seed.items()]
    own = differing([run for _, run in rows])
    return [row | own[run] | row for row, run in rows]


def _row(cell: CellFindings, about: dict[str, Any], seed: int, run: Run) -> dict[str, Any]:
    summary = run.summary or {}
    return {
        "study": cell.declaration.study,
        **dict(cell.ruling.look.cell),
        **about,
        "seed": seed,
        **{name: summary.get(name) for name in (*RESULTS, *COSTS)},
        "run": run.name,
    }
