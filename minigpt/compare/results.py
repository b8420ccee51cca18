"""results.csv: one row for each run that was looked at, so that anybody can check or go on with
other tools.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from minigpt.compare import cost
from minigpt.compare.groups import Group
from minigpt.compare.verdict import Result
from minigpt.roles import ROLES
from minigpt.study.run import Run


def csv_rows(
    judged: Iterable[Result], rest: Iterable[Group], everything: Sequence[Run]
) -> list[dict[str, Any]]:
    """One row for each run that was looked at."""
    alone = cost.ran_alone(everything)
    rows = []
    for number, result in enumerate(judged, 1):
        for name, arm in result.group.arms.items():
            choice = result.choices.get(name)
            for setting in arm.settings.values():
                chosen = choice is not None and setting is choice.setting
                for run in setting.all_runs:
                    role = "tuning" if result.rules.tunes(run.seed) else "unused"
                    role = "confirmation" if result.rules.confirms(run.seed) else role
                    rows.append(
                        _csv_row(
                            run,
                            str(number),
                            name,
                            arm.describe(setting),
                            role,
                            chosen,
                            run in alone,
                        )
                    )
            rows += [
                _csv_row(run, str(number), name, "", "not ended", False, False)
                for run in arm.unended
            ]
    for group in rest:
        for name, arm in group.arms.items():
            rows += [
                _csv_row(run, "", name, "", "not compared", False, run in alone)
                for run in (*arm.runs, *arm.unended)
            ]
    return rows


def _csv_row(
    run: Run, group: str, arm: str, setting: str, role: str, chosen: bool, alone: bool
) -> dict[str, Any]:
    summary, record = run.summary or {}, run.record
    learning_rates = {f"optim.{role}.lr": run.decided(f"optim.{role}.lr") for role in ROLES}
    return {
        "run": run.name,
        "group": group,
        "arm": arm,
        "setting": setting,
        "chosen": chosen,
        "role": role,
        "seed": run.seed,
        "status": run.status,
        "budget_tokens": run.budget_tokens,
        **{
            key: summary.get(key)
            for key in (
                "step",
                "tokens",
                "val_loss",
                "val_bits_per_byte",
                "train_time_s",
                "tokens_per_s",
            )
        },
        "step_time_s": run.step_time_s,
        "ran_alone": alone,
        **{
            key: summary.get(key)
            for key in (
                "parameters",
                "flops_per_token",
                "optimizer_flops_share",
                "optimizer_state_bytes",
            )
        },
        **{key: record["chosen"].get(key) for key in ("device", "precision", "compile", "threads")},
        "host": record["hardware"].get("host"),
        "commit": (record.get("git") or {}).get("commit"),
        "mixed": "; ".join(record.get("mixed", [])),
        "study": "; ".join(run.studies),
        "started": record.get("started"),
        **learning_rates,
        "folder": str(run.folder),
    }
