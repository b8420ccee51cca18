"""results.csv: one row for each run that was looked at, for other tools to check or go on with."""

from collections.abc import Iterable, Sequence
from typing import Any

from minigpt.compare.cost import ran_alone
from minigpt.compare.groups import Group
from minigpt.compare.judge import Result
from minigpt.roles import ROLES
from minigpt.study.run import Run, differing

RESULTS = ("step", "tokens", "val_loss", "val_bits_per_byte", "train_time_s", "tokens_per_s")
COSTS = ("parameters", "flops_per_token", "optimizer_flops_share", "optimizer_state_bytes")
PATH = ("device", "precision", "compile", "threads")


def csv_rows(
    judged: Iterable[Result], rest: Iterable[Group], everything: Sequence[Run]
) -> list[dict[str, Any]]:
    """One row for each run that was looked at.

    rest: groups without a verdict. everything: all runs that were found.
    """
    alone = ran_alone(everything)
    rows = []
    for number, result in enumerate(judged, 1):
        for name, arm in result.group.arms.items():
            place: dict[str, Any] = {"group": str(number), "arm": name}
            choice = result.choices.get(name)
            for setting in arm.settings.values():
                place |= {"setting": arm.describe(setting)}
                place |= {"chosen": choice is not None and setting is choice.setting}
                for run in setting.all_runs:
                    role = "tuning" if result.rules.tunes(run.seed) else "unused"
                    role = "confirmation" if result.rules.confirms(run.seed) else role
                    rows.append(_row(run, place, role, run in alone))
            place |= {"setting": "", "chosen": False}
            rows += [_row(run, place, "not ended", False) for run in arm.unended]
    for group in rest:
        for name, arm in group.arms.items():
            place = {"group": "", "arm": name, "setting": "", "chosen": False}
            runs = (*arm.runs, *arm.unended)
            rows += [_row(run, place, "not compared", run in alone) for run in runs]
    listed = {row["folder"] for row in rows}
    own = differing([run for run in everything if str(run.folder) in listed])
    more = {str(run.folder): keys for run, keys in own.items()}
    return [row | more.get(row["folder"], {}) | row for row in rows]


def _row(run: Run, place: dict[str, Any], role: str, alone: bool) -> dict[str, Any]:
    summary, record = run.summary or {}, run.record
    return {
        "run": run.name,
        **place,
        "role": role,
        "seed": run.seed,
        "status": run.status,
        "budget_tokens": run.budget_tokens,
        **{key: summary.get(key) for key in RESULTS},
        "step_time_s": run.step_time_s,
        "ran_alone": alone,
        **{key: summary.get(key) for key in COSTS},
        **{key: record["chosen"].get(key) for key in PATH},
        "host": record["hardware"].get("host"),
        "commit": (record.get("git") or {}).get("commit"),
        "mixed": "; ".join(record.get("mixed", [])),
        "study": "; ".join(run.studies),
        "started": record.get("started"),
        **{f"optim.{role}.lr": run.decided(f"optim.{role}.lr") for role in ROLES},
        "folder": str(run.folder),
    }
