"""results.csv: one row for each run that was looked at, for other tools to check or go on with."""

from collections.abc import Iterable
from typing import Any

from minigpt.compare.study_findings import Findings
from minigpt.study.run import Run, differing

RESULTS = ("step", "tokens", "val_loss", "val_bits_per_byte", "train_time_s", "tokens_per_s")
COSTS = ("parameters", "flops_per_token", "optimizer_flops_share", "optimizer_state_bytes")
PATH = ("device", "precision", "compile", "threads")


def csv_rows(found: Findings) -> list[dict[str, Any]]:
    """Every key that differs between the runs is a column."""
    rows = [(about | _row(run, found.declaration.metric), run) for about, run in _looked_at(found)]
    own = differing([run for _, run in rows])
    return [row | own[run] | row for row, run in rows]


def _looked_at(found: Findings) -> Iterable[tuple[dict[str, Any], Run]]:
    """Each run, and what for: it tuned, it confirmed, or neither."""
    by, study = found.declaration.by, {"study": found.declaration.study}
    for cell in found.cells:
        about, key = study | dict(cell.ruling.look.cell), cell.declaration.budget_key
        for arm, settings in cell.tuned.items():
            for setting, by_seed in settings.items():
                tune = about | {"phase": "tune", by: arm, **dict(setting)}
                yield from ((tune, run) for run in by_seed.values())
        for arm, by_budget in cell.judged.items():
            confirm = about | {"phase": "confirm", by: arm, **dict(cell.ruling.look.chosen[arm])}
            for budget, by_seed in by_budget.items():
                yield from ((confirm | {key: budget}, run) for run in by_seed.values())
    yield from ((study | {"phase": "none"}, run) for run in found.others)


def _row(run: Run, metric: str) -> dict[str, Any]:
    summary, record = run.summary or {}, run.record
    return {
        "seed": run.seed,
        "status": run.status,
        "budget_tokens": run.budget_tokens,
        **{key: summary.get(key) for key in dict.fromkeys((*RESULTS, metric, *COSTS))},
        **{key: record["chosen"].get(key) for key in PATH},
        "host": record["hardware"].get("host"),
        "commit": (record.get("git") or {}).get("commit"),
        "mixed": "; ".join(record.get("mixed") or ()),
        "studies": "; ".join(run.studies),
        "started": record.get("started"),
        "run": run.name,
    }
