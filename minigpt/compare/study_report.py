"""The report of a study: on the terminal, and as files that others can go on with."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from minigpt.compare.report_html import html
from minigpt.compare.report_text import markdown, terminal_text
from minigpt.compare.results import csv_rows
from minigpt.compare.study_document import document
from minigpt.compare.study_figures import study_figures
from minigpt.compare.study_findings import CellFindings, Findings
from minigpt.compare.study_notes import notes
from minigpt.compare.write_files import write_files
from minigpt.study.values import csv_bytes


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
        "results.csv": csv_bytes(csv_rows(found)),
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
        "exploratory": found.declared is None,
        "declared": found.declared.isoformat() if found.declared else None,
        "verdict": declaration.node | {"amend": None},
        "primary": declaration.primary,
        "confidence": 1 - found.cells[0].alpha,
        "amendments": list(found.amendments),
        "not_judged": list(found.stopped),
        "error_rate": found.error_rate,
        "cells": [_cell(cell) for cell in found.cells],
    }
    if len(found.cells) > 1 and found.declared:
        content["trends"] = {arm: dataclasses.asdict(one) for arm, one in found.trends.items()}
    plain: dict[str, Any] = _plain(content)
    return plain


def _cell(cell: CellFindings) -> dict[str, Any]:
    look = cell.ruling.look
    # groups that nobody declared differ in what was found of them
    own = {"verdict": cell.declaration.node, "primary": cell.declaration.primary}
    return (own if cell.exploratory else {}) | {
        "cell": dict(look.cell),
        "pairs": look.pairs,
        "findings": {
            arm: dataclasses.asdict(finding)
            | {"equal_cost": [dataclasses.asdict(cost) for cost in cell.equal_costs[arm]]}
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
        "runs": {arm: [run.name for run in cell.judged_runs(arm)] for arm in cell.judged},
        "notes": notes(cell),
    }


def _plain(value: Any) -> Any:
    """JSON has no infinity: null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
