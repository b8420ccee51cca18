"""A saved Weights & Biases workspace for a study: curves by arm, sensitivity to the lr, and more.

python -m minigpt.dashboard --study lr-sweep
python -m minigpt.dashboard --study lr-sweep --project my-project --entity my-team
python -m minigpt.dashboard --study lr-sweep --print      the specification as JSON, no network

Needs `pip install wandb-workspaces`, a key in WANDB_API_KEY and runs that are uploaded: online
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
SETTINGS = ("schedule.warmup", "train.batch_size", "train.steps", "seed")
COORDINATES = ("choices.optim", "optim.lr", "optim.lr_scale", *SETTINGS)
HEALTH = ("grad_norm", "lr/hidden", "perf/tokens_per_s", "skipped")
CHOICES = ("choices.model", "choices.optim", "choices.data")
COLUMNS = (*CHOICES, "optim.lr", "optim.hidden.lr", "train.steps", "seed")
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
            "missing package: wandb-workspaces (pip install wandb-workspaces)"
        ) from None

    def curve(name: str) -> Any:
        return wr.LinePlot(
            title=f"{name}, mean and range by arm",
            x="tokens",
            y=[name],
            groupby=wr.Metric("JobType"),
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
        )

    def scatter(lr: str) -> Any:
        loss = wr.SummaryMetric("val_loss")
        return wr.ScatterPlot(title=f"final loss by {lr}", x=wr.Config(lr), y=loss, log_x=True)

    def column(key: str) -> str:
        first, *below = key.split(".")
        return ".".join((f"config:{first}.value", *below))

    axes = [wr.ParallelCoordinatesPlotColumn(wr.Config(key), log=key in LRS) for key in COORDINATES]
    axes.append(wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric("val_loss")))
    panels = {
        "Curves": list(map(curve, CURVES)),
        "Learning rate": list(map(scatter, LRS)),
        "All settings": [wr.ParallelCoordinatesPlot(axes)],
        "Health": [wr.LinePlot(x="tokens", y=[name]) for name in HEALTH],
    }
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"minigpt: {study}",
        sections=[
            ws.Section(name=name, panels=shown, is_open=name != "Health", pinned=name == "Curves")
            for name, shown in panels.items()
        ],
        settings=ws.WorkspaceSettings(x_axis="tokens", max_runs=100),
        runset_settings=ws.RunsetSettings(
            filters=[ws.Metric("Group") == study],
            groupby=[ws.Metric("JobType")],
            order=[ws.Ordering(ws.Summary("val_loss"), ascending=True)],
            pinned_columns=[*map(column, COLUMNS), *(f"summary:{name}" for name in RESULTS)],
        ),
    )


def specification(view: Any) -> dict[str, Any]:
    """What `save` would send: the name of the view and its panels, as plain values."""
    model = view._to_model()
    spec = json.loads(model.spec.model_dump_json(by_alias=True))
    return {"display_name": model.display_name, "spec": spec}


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = Parser("python -m minigpt.dashboard", (__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--study", required=True, help="the study= of the runs, their group in wandb")
    add("--project", default="minigpt", help="logger.project of the runs (default: minigpt)")
    add("--entity", help="user or team (default: yours)")
    add("--print", action="store_true", help="print the specification and save nothing")
    return exit_code_of(lambda: dashboard(parser.parse_args(arguments)))


def dashboard(asked: argparse.Namespace) -> None:
    """Save the workspace and print its address, or print its specification.

    Raises ConfigError without a key.
    """
    entity = asked.entity or ("you" if asked.print else default_entity())
    view = workspace(asked.study, asked.project, entity)
    if asked.print:
        print(json.dumps(specification(view), indent=2))
        return
    view.save()
    print(view.url)


def default_entity() -> str:
    """The user that the key belongs to. Raises ConfigError without a key; never asks for one."""
    from minigpt.logger.wandb import has_key

    if not has_key():
        raise ConfigError("no key: WANDB_API_KEY (set it, or see the specification with --print)")
    import wandb

    return str(wandb.Api().default_entity)


if __name__ == "__main__":
    sys.exit(main())
