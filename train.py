"""Train one GPT, or with -m many: compose, check, build, fit.

python train.py                                     tiny GPT, Muon, Shakespeare
python train.py model=small optim=adamw seed=1      another run, in its own folder
python train.py -m optim=muon,adamw seed=0,1,2      a sweep
python train.py -m experiment=muon_vs_adamw         a declared study, from tuning to its verdict
"""

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from minigpt.cli import entry

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from minigpt.cli.command import Inside
    from minigpt.cli.study import Ends
    from minigpt.config.plan import Plan


def planned(cfg: "DictConfig") -> "Plan":
    """The checked run of a configuration. Raises ConfigError with every problem found."""
    from minigpt.config.plan import plan_of

    return plan_of(cfg)


def train(plan: "Plan", inside: "Inside") -> float | None:
    """One run, to its final validation loss (None: stopped early or only described)."""
    from minigpt import ranks
    from minigpt.cli.slurm import take_from_slurm
    from minigpt.config.build import check_built
    from minigpt.errors import CheckpointError, NumericsError
    from minigpt.files.durable import ensure_writable
    from minigpt.run.answer import answer, print_outcome

    if plan.config["code"] is not None:
        from minigpt.study.elsewhere import go_where_it_is

        go_where_it_is(plan)
    take_from_slurm(plan.devices)
    summary, refused = None, None
    try:
        summary = answer(plan)  # of a finished run, without loading torch
    except (CheckpointError, NumericsError) as error:
        if not plan.config["dry_run"]:
            raise
        refused = error
    if summary is None:
        built = check_built(plan)
        if plan.config["dry_run"]:
            print_description(plan, *built)
            for problem in refused.problems if refused else ():
                print(f"note: without dry_run=true: {problem}", file=sys.stderr)
            return None
    if ranks.rank() == 0:
        join_study(plan)
    if summary is None:
        ensure_writable(plan.folder.parent)
        from minigpt.train import training

        summary = inside(partial(training.run, plan))
    if summary is None or ranks.rank() > 0:
        return None
    print_outcome(plan.folder, summary)
    return float(summary["val_loss"])


def join_study(plan: "Plan") -> None:
    """Let a run that has begun under another study belong to the one that it is asked for now."""
    if plan.study is None:
        return
    from minigpt.study import record

    try:
        record.join(plan.folder, plan.study, plan.overrides)
    except OSError as error:
        print(f"warning: not noted in study={plan.study}: {error}", file=sys.stderr)


def print_description(plan: "Plan", model: Any, optimizer: Any) -> None:
    """The parameter table and what the run would cost, on stdout."""
    from minigpt import streams
    from minigpt.train.dry_run import describe

    streams.stdout_must_arrive()
    print(describe(plan, model, optimizer))


def study_ends() -> "Ends":
    """How a declared study is judged and told; imported when one is asked for."""
    from minigpt.compare import study_ends

    return study_ends


def main() -> int:
    """The command; returns its exit code."""
    return entry.main(train, "train", planned, study_ends)


if __name__ == "__main__":
    sys.exit(main())
