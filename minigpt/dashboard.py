"""A saved Weights & Biases workspace for a study: curves by arm, sensitivity to the lr, parallel
coordinates.

python -m minigpt.dashboard --study lr-sweep
python -m minigpt.dashboard --study lr-sweep --project my-project --entity my-team
python -m minigpt.dashboard --study lr-sweep --print        the specification as JSON, without a
    network

Needs `pip install 'minigpt[dashboard]'`, a key in WANDB_API_KEY and runs that are uploaded: online
ones, or offline ones after `cd outputs && wandb sync --yes`. The arm of a run is its choice of
`optim`, its job type in wandb.
"""

import argparse
import json
import sys
from typing import Any

from minigpt.cli.arguments import Parser, exit_code_of
from minigpt.errors import ConfigError

CURVES = ("val/loss", "val/bits_per_byte", "train/loss")
LRS = ("optim.lr", "optim.lr_scale", "optim.adamw_lr")
COORDINATES = (
    "choices.optim",
    "optim.lr",
    "optim.lr_scale",
    "schedule.warmup",
    "train.batch_size",
    "train.steps",
    "seed",
)
HEALTH = ("grad_norm", "lr/hidden", "perf/tokens_per_s", "skipped")
COLUMNS = (
    "choices.model",
    "choices.optim",
    "choices.data",
    "optim.lr",
    "optim.hidden.lr",
    "train.steps",
    "seed",
)
RESULTS = ("val_loss", "val_bits_per_byte", "train_time_s", "status")


def workspace(study: str, project: str, entity: str) -> Any:
    """The workspace of a study, not saved yet. Raises ConfigError without wandb-workspaces."""
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "wandb_workspaces":
            raise
        raise ConfigError(
            "missing package: wandb-workspaces (pip install 'minigpt[dashboard]')"
        ) from None

    arm = wr.Metric("JobType")
    by_arm = {"groupby": arm, "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
    curves = [
        wr.LinePlot(title=f"{name}, mean and range by arm", x="tokens", y=[name], **by_arm)
        for name in CURVES
    ]
    scatters = [
        wr.ScatterPlot(
            title=f"final loss by {lr}", x=wr.Config(lr), y=wr.SummaryMetric("val_loss"), log_x=True
        )
        for lr in LRS
    ]
    axes = [wr.ParallelCoordinatesPlotColumn(wr.Config(key), log=key in LRS) for key in COORDINATES]
    axes.append(wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric("val_loss")))
    columns = [
        f"config:{key.replace('.', '.value.', 1) if '.' in key else f'{key}.value'}"
        for key in COLUMNS
    ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"minigpt: {study}",
        sections=[
            ws.Section(name="Curves", panels=curves, is_open=True, pinned=True),
            ws.Section(name="Learning rate", panels=scatters, is_open=True),
            ws.Section(
                name="All settings", panels=[wr.ParallelCoordinatesPlot(axes)], is_open=True
            ),
            ws.Section(
                name="Health", panels=[wr.LinePlot(x="tokens", y=[name]) for name in HEALTH]
            ),
        ],
        settings=ws.WorkspaceSettings(x_axis="tokens", max_runs=100),
        runset_settings=ws.RunsetSettings(
            filters=[ws.Metric("Group") == study],
            groupby=[ws.Metric("JobType")],
            order=[ws.Ordering(ws.Summary("val_loss"), ascending=True)],
            pinned_columns=[*columns, *(f"summary:{name}" for name in RESULTS)],
        ),
    )


def specification(view: Any) -> dict[str, Any]:
    """What `save` would send: the name of the view and its panels, as plain values."""
    model = view._to_model()
    return {
        "display_name": model.display_name,
        "spec": json.loads(model.spec.model_dump_json(by_alias=True)),
    }


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = Parser("python -m minigpt.dashboard", (__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--study", required=True, help="the study= of the runs, their group in wandb"
    )
    parser.add_argument(
        "--project", default="minigpt", help="logger.project of the runs (default: minigpt)"
    )
    parser.add_argument("--entity", help="user or team (default: yours)")
    parser.add_argument(
        "--print", action="store_true", help="print the specification and save nothing"
    )
    return exit_code_of(lambda: dashboard(parser.parse_args(arguments)))


def dashboard(asked: argparse.Namespace) -> None:
    """Save the workspace and print its address, or print its specification. Raises ConfigError
    without a key.
    """
    if asked.print:
        view = workspace(asked.study, asked.project, asked.entity or "you")
        print(json.dumps(specification(view), indent=2))
        return
    view = workspace(asked.study, asked.project, asked.entity or default_entity())
    view.save()
    print(view.url)


def default_entity() -> str:
    """The user that the key belongs to. Raises ConfigError without a key, and never asks for
    one.
    """
    from minigpt.logger.wandb import has_key

    if not has_key():
        raise ConfigError("no key: WANDB_API_KEY (set it, or see the specification with --print)")
    import wandb

    return str(wandb.Api().default_entity)


if __name__ == "__main__":
    sys.exit(main())
